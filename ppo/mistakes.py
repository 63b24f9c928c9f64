"""Errors in the words of one line, for the users of a program."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from typing import Collection

from .text import printable


def explain(error: BaseException, ours: Collection[Path], packages: Collection[str]) -> str:
    """One line: what is wrong, and for an error in code that is not ours, where in it. ours: files and folders. packages:
    those of users, which may be installed."""
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [
        frame for frame in frames if not is_in(frame.filename, ours) and not is_library(frame.filename, packages)
    ]
    told = isinstance(error, (ValueError, RuntimeError, OSError)) and is_in(frames[-1].filename, ours)
    if told and (message := printable(error)):
        return message
    if foreign:
        return f"{in_words(error)} (in {foreign[-1].filename}:{foreign[-1].lineno}, {foreign[-1].name})"
    return f"{in_words(error)} (--log-level debug shows where)"


def in_words(error: BaseException) -> str:
    """KeyError: 'speed', in one line."""
    try:
        return printable("".join(traceback.format_exception_only(type(error), error)))
    except Exception:  # of its __str__
        return type(error).__name__


def is_in(file: str, places: Collection[Path]) -> bool:
    path = Path(file).resolve()
    return not {path, *path.parents}.isdisjoint(places)


def is_library(file: str, packages: Collection[str]) -> bool:
    """Python's own or an installed package's, other than these."""
    parts = Path(file).with_suffix("").parts
    installed = bool({"site-packages", "dist-packages"} & set(parts)) and set(packages).isdisjoint(parts)
    return installed or file.startswith("<") or file.startswith(sysconfig.get_paths()["stdlib"])
