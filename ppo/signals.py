"""How Ctrl-C, SIGTERM and SIGHUP end a program: at once, or when its work can be saved."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from contextlib import contextmanager
from typing import Any, Callable, Iterator, NoReturn

from . import distributed

log = logging.getLogger(__name__)


@contextmanager
def stopping_signals() -> Iterator[None]:
    """SIGTERM, and the SIGHUP of a terminal that is closed, stop a run as Ctrl-C does."""
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup ignores the last; None is a handler that is not Python's.
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def terminate(number: int, _: Any) -> NoReturn:
    """Raises KeyboardInterrupt(number). After a SIGHUP, output that nobody can read any more is discarded: writing it
    would fail."""
    if number == signal.SIGHUP:
        signal.signal(number, signal.SIG_IGN)  # a shell sends it once more
        outputs = select.poll()
        for output in (1, 2):
            outputs.register(output, 0)
        for output, _ in outputs.poll(0):
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    raise KeyboardInterrupt(number)


def exit_status(stop: KeyboardInterrupt) -> int:
    """128 + the signal's number, as shells have it."""
    return 128 + (stop.args[0] if stop.args else signal.SIGINT)


@contextmanager
def postponed_signals(hurry: Callable[[], None], message: str = "") -> Iterator[list[int]]:
    """SIGINT, SIGTERM and SIGHUP wait in the list that this yields, and take effect at the end of the block; `hurry` is
    called to reach that soon. A second signal takes effect at once, but not with several ranks (launchers may send each
    one twice), nor after a SIGHUP (shells send it twice). Logs `message` when one has come."""
    caught: list[int] = []
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def catch(number: int, _: Any) -> None:
        caught.append(number)
        hurry()
        alone = distributed.world_size() == 1 and number != signal.SIGHUP
        if alone:
            restore()
        hint = "; a second time stops at once, without a checkpoint" if alone else ""
        if message:
            log.warning("%s%s", message, hint)

    if threading.current_thread() is threading.main_thread():  # other threads get no signals
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # A shell ignores them for what it runs in the background; None is a handler that is not Python's.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, catch)
    try:
        yield caught
    finally:
        restore()
    if caught:
        signal.raise_signal(caught[0])
