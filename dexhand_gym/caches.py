"""Where what was computed once is kept: in $XDG_CACHE_HOME, else in ~/.cache."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Iterator


def cache_folder(name: str) -> Path:
    """The folder of this name; nobody has made it yet, perhaps. RuntimeError where a user has no home."""
    said = Path(os.environ.get("XDG_CACHE_HOME") or ".")
    return (said if said.is_absolute() else Path.home() / ".cache") / name  # as the XDG specification has it


def keep_compiled() -> None:
    """Makes torch.compile keep its results there too. Its own default is a folder in /tmp, which a reboot empties."""
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):  # then /tmp it is
        folder = cache_folder("torchinductor")
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to write to, which becomes `file` when it is whole and is gone if it is not."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        yield unfinished
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
