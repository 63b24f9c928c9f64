"""Where a benchmark writes what it has measured, and reads it again."""

import json
import os
from pathlib import Path
from typing import Any, Union


def check_out(out: Union[str, Path], option: str = "--out") -> None:
    """Raises ValueError, one line, where no files OUT.* can be written: told before the first episode, not after the last."""
    folder = Path(out).resolve().parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(f"{option} {out}: {folder} is no folder that can be written to")


def check_file(file: Union[str, Path], option: str) -> None:
    """The same of one file."""
    if Path(file).is_dir():
        raise ValueError(f"{option} {file}: it is a folder, allowed is a file")
    check_out(file, option)


def read_json(file: Union[str, Path, None], option: str = "--json", kind: type = dict) -> Any:
    """What a benchmark has written there, of this kind. Raises ValueError, one line, for anything else."""
    try:
        found = json.loads(Path(str(file)).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not found or not isinstance(found, kind):
        raise ValueError(f"{option} {file}: allowed is a file that this benchmark has written")
    return found
