"""Foreign text - names of files, what is in them, what libraries say - made fit for a terminal, a log and one line."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, Iterator


def printable(text: Any, limit: int = 2000) -> str:
    """`text` as one line without control characters: runs of white space become a space, unprintable characters are
    escaped as in Python (\\x1b), and the middle of a text longer than `limit` is left out."""
    text = " ".join(str(text).split())
    if len(text) > limit:
        text = f"{text[: limit // 2 - 5]} [...] {text[-limit // 2 + 5 :]}"
    return escape(text)


def escape(text: str) -> str:
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text)


def write_anything() -> None:
    """Lets print() write what the terminal's encoding lacks, such as half of Unicode, as \\u2502."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # of a stream that is not a file
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


@contextlib.contextmanager
def ending_with_the_reader() -> Iterator[None]:
    """Where nobody reads on what is printed within, as in `... | head -1`, the program ends without a word."""
    if not hasattr(signal, "SIGPIPE"):
        yield
        return
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        yield
        sys.stdout.flush()
    finally:
        signal.signal(signal.SIGPIPE, before)


class PrintableFormatter(logging.Formatter):
    """Foreign text enters a message as a path or an error, each of which becomes one line. Our own text may have
    several."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            foreign = (Path, BaseException)
            record.args = tuple(printable(x) if isinstance(x, foreign) else x for x in record.args)
        return "\n".join(map(escape, super().format(record).split("\n")))


class SurvivingHandler:
    """A handler that cannot write, to a full disk or a closed pipe, says so once instead of with every record."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            return super().handleError(record)  # type: ignore[misc]
        if not self.failed:
            self.failed = True
            self.give_up(error)  # type: ignore[attr-defined]


class SurvivingFile(SurvivingHandler, logging.FileHandler):
    """Goes on writing when there is room again."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # of opening the file
            self.handleError(record)

    def give_up(self, error: OSError) -> None:
        with contextlib.suppress(OSError):
            print(f"{printable(self.baseFilename)}: not written, {error.strerror}", file=sys.stderr)


class SurvivingStream(SurvivingHandler, logging.StreamHandler):
    """Standard output that is not a terminal."""

    def give_up(self, error: OSError) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(f"standard output: not written, {error.strerror}", file=sys.stderr)
            nowhere = os.open(
                os.devnull, os.O_WRONLY
            )  # or the interpreter would fail once more when it flushes at exit
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)
