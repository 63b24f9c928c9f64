"""Programs that tests start, and what they need. What a test leaves behind is ended after it (conftest.py)."""

import os
import shutil
import subprocess
from ctypes.util import find_library
from functools import lru_cache
from pathlib import Path

import pytest

STARTED = []


def start(command: list, folder: Path, env: dict, **pipes) -> subprocess.Popen:
    """Its output and its errors come in one stream of text."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **pipes}
    STARTED.append(subprocess.Popen(command, cwd=folder, env=env, **pipes))
    return STARTED[-1]


@lru_cache(maxsize=None)
def need(*names: str) -> str:
    """Where the first of these programs and libraries is. Without one CI fails; elsewhere the report names what was
    not tried."""
    found = {name: shutil.which(name) or find_library(name) for name in names}
    if None in found.values():
        missing = ", ".join(name for name in names if found[name] is None)
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"without {missing}, which `make debian` installs")
    return str(found[names[0]])
