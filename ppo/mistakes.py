"""Errors in one line, for the users of a program."""

from __future__ import annotations

import logging
import sysconfig
import traceback
from pathlib import Path
from typing import Collection

import dexhand_gym
from dexhand_gym import tasks

from . import checkpoint, distributed, logs, signals, workspace
from .text import printable

log = logging.getLogger("train_ppo")


def exit_status(error: BaseException, folder: Path, saved: bool, more: str) -> int:
    """Logs what ended the run in `folder`, and its newest checkpoint if it has `saved` one, with the other flags, `more`, that
    going on takes. The exit status is 1 if it crashed, 2 for a mistake of the user's, 129 to 143 for a signal."""
    if isinstance(error, KeyboardInterrupt):
        files = sorted(folder.glob("nn/last_*.pth"), key=workspace.newness) if saved else []
        hint = (
            f", checkpoint saved; to go on:{more} --checkpoint runs/{folder.name}/nn/{files[-1].name}" if files else ""
        )
        status = signals.exit_status(error)
        log.warning("%s%s", {129: "terminal closed", 143: "terminated"}.get(status, "interrupted"), hint)
        return status
    if isinstance(error, (checkpoint.CheckpointError, checkpoint.SaveError, workspace.WriteError)):
        log.error("%s%s", distributed.label(), error)
        return 2 if isinstance(error, checkpoint.CheckpointError) else 1
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if "/torch/distributed/" in frame.filename:
        log.error("%sanother rank is gone; its own message says why", distributed.label())
    log.error("%scrashed in %s:%d, %s", distributed.label(), frame.filename, frame.lineno, in_words(error))
    if distributed.is_main():
        log.error("the traceback is in runs/%s/train.log", folder.name)
    logs.traceback_log.error("", exc_info=error)
    return 1


HERE = Path(__file__).resolve().parent
OURS = [HERE, Path(dexhand_gym.__file__).resolve().parent, HERE.parent / "train_ppo.py", HERE.parent / "configs.py"]


def explain(error: BaseException) -> str:
    """One line: what is wrong, and where, if the error is in code that is not ours."""
    packages = {entry.partition(":")[0].partition(".")[0] for entry in tasks().values()}  # users' may be installed
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [
        frame for frame in frames if not is_in(frame.filename, OURS) and not is_library(frame.filename, packages)
    ]
    told = isinstance(error, (ValueError, RuntimeError, OSError)) and is_in(frames[-1].filename, OURS)
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
    """Whether a file is Python's own or belongs to an installed package other than these."""
    parts = Path(file).with_suffix("").parts
    installed = bool({"site-packages", "dist-packages"} & set(parts)) and set(packages).isdisjoint(parts)
    return installed or file.startswith("<") or file.startswith(sysconfig.get_paths()["stdlib"])
