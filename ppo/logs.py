"""Where a program's log goes: to its file, and to the console."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import sys
from pathlib import Path
from typing import List

from rich.console import Console
from rich.logging import RichHandler

from . import distributed
from .text import PrintableFormatter, SurvivingFile, SurvivingStream, printable, write_anything

progress_log = logging.getLogger("train_ppo.progress")
"""Lines that a terminal shows as a table instead."""
traceback_log = logging.getLogger("train_ppo.traceback")
"""Tracebacks, which only the file and a console at level debug get."""


def collect_log() -> None:
    """Keeps what is logged, warnings too, for the console and the file that are not known yet. Prints whatever the
    terminal can show."""
    write_anything()
    logging.basicConfig(level=logging.INFO, handlers=[_kept()], force=True)
    logging.captureWarnings(True)


def _kept() -> logging.handlers.MemoryHandler:
    return logging.handlers.MemoryHandler(0, flushLevel=logging.CRITICAL + 1)


def start_console(level: str) -> Console:
    """Everything goes to the console from now on, what was kept too, except that a terminal shows the progress as a
    table and that only debugging shows tracebacks. With several ranks only the first does that; the others only report
    their errors."""
    early = _early()
    if not distributed.is_main():
        logging.basicConfig(level=logging.ERROR, format="%(message)s", force=True)
        return Console(quiet=True, force_terminal=False)
    console = Console()
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, show_level=False)
        handler.setFormatter(PrintableFormatter("%(message)s"))
        handler.addFilter(lambda record: record.name != progress_log.name)
    else:
        handler = SurvivingStream(sys.stdout)
        handler.setFormatter(PrintableFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(lambda record: record.name != traceback_log.name or level == "debug")
    logging.basicConfig(level=level.upper(), handlers=[handler, _kept()], force=True)
    for record in early:
        if record.levelno >= logging.root.level:
            logging.root.handle(record)
    return console


def warn() -> None:
    """Prints the warnings that were kept, before an error ends the program: they may say why."""
    for record in _early():
        if record.levelno >= logging.WARNING:
            print(printable(record.getMessage()), file=sys.stderr)


def start_file(file: Path) -> None:
    """Everything goes to this file too from now on, and what was logged before. The first rank's only."""
    if not distributed.is_main():
        return
    to_file = SurvivingFile(file, encoding="utf-8", delay=True)
    to_file.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    with contextlib.suppress(OSError):
        file.touch()  # though nothing may be worth a line at this level
    for record in _early():
        to_file.handle(record)
    logging.root.handlers[-1] = to_file


def _early() -> List[logging.LogRecord]:
    return [record for handler in logging.root.handlers for record in getattr(handler, "buffer", ())]
