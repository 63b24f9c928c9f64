"""Where a benchmark writes what it has measured, and reads it again."""

import json
import os
from pathlib import Path
from typing import Any, Union


def check_out(out: Union[str, Path], option: str = "--out") -> None:
    """Raises ValueError, one line, where no files OUT.* can be written: told before the first episode, not after the last."""
    folder = Path(out).resolve().parent
    if Path(out).is_dir():
        raise ValueError(f"{option} {out}: it is a folder, allowed is a file")
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(f"{option} {out}: {folder} is no folder that can be written to")


def read_json(file: Union[str, Path], option: str = "--json") -> Any:
    """What a benchmark has written there. Raises ValueError, one line, for a file that is none of it."""
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise ValueError(f"{option} {file}: allowed is a file that this benchmark has written; {reason}") from None
