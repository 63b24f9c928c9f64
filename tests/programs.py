"""Programs that tests start. What a test leaves behind is ended after it (conftest.py)."""

import subprocess
from pathlib import Path

STARTED = []


def start(command: list, folder: Path, env: dict, **pipes) -> subprocess.Popen:
    """Its output and its errors come in one stream of text."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **pipes}
    STARTED.append(subprocess.Popen(command, cwd=folder, env=env, **pipes))
    return STARTED[-1]
