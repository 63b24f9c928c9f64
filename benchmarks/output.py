"""Where a benchmark writes what it has measured."""

import os
from pathlib import Path


def check_out(out: str) -> None:
    """Raises ValueError, one line, where no files OUT.* can be written: told before the first episode, not after the last."""
    folder = Path(out).resolve().parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(f"--out {out}: {folder} is no folder that can be written to")
