"""Where what was computed once is kept: in $XDG_CACHE_HOME, else in ~/.cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Iterator

ELSEWHERE = "XDG_CACHE_HOME may name another folder"


def cache_folder(name: str) -> Path:
    """The folder of this name; nobody has made it yet, perhaps. Raises ValueError, one line, where a user has no
    home."""
    said = Path(os.environ.get("XDG_CACHE_HOME") or ".")
    try:
        return (said if said.is_absolute() else Path.home() / ".cache") / name  # as the XDG specification has it
    except RuntimeError:
        raise ValueError(f"there is no home folder to keep files in: {ELSEWHERE}") from None


def in_cache(folder: str, content: bytes, suffix: str) -> Path:
    """A file with this content in a cache folder, named after it. Raises ValueError, one line, where it is not
    written."""
    file = cache_folder(folder) / f"{hashlib.sha256(content).hexdigest()[:32]}.{suffix}"
    try:
        if not file.is_file() or file.read_bytes() != content:
            with replacing(file) as unfinished:
                unfinished.write_bytes(content)
    except OSError as error:
        raise ValueError(f"{file} is not written, {error.strerror or error}: {ELSEWHERE}") from None
    return file


def keep_compiled() -> None:
    """Makes torch.compile keep its results there too. Its own default is a folder in /tmp, which a reboot empties."""
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    with contextlib.suppress(OSError, ValueError):  # then /tmp it is
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
