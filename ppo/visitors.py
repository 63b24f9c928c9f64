"""A test that is started at a terminal and watched: it begins with the first visitor and stays visible at its end. A
viewer is any object with `where`, `watched()`, `is_over()` and `draw_still()`."""

from __future__ import annotations

import logging
import os
import select
import signal
from typing import Any

from .signals import exit_status, postponed_signals

log = logging.getLogger("train_ppo")


def wait_for_a_visitor(viewer: Any) -> None:
    """Waits until somebody looks, or presses Enter."""
    if not viewer.watched():
        log.info("waiting until somebody opens %s (Enter goes on without)", viewer.where)
    while not viewer.watched():
        if select.select([0], [], [], 0.1)[0]:
            os.read(0, 4096)
            return


def stay_for_visitors(viewer: Any) -> None:
    """Keeps showing the end until Ctrl-C, or until the window is closed."""
    log.info("still to be seen: %s; Ctrl-C ends it", viewer.where)
    try:
        # An exception might be raised where a library ignores it, and be lost.
        with postponed_signals(lambda: None) as caught:
            while not caught and not viewer.is_over():
                viewer.draw_still()
    except KeyboardInterrupt as stop:
        if exit_status(stop) != 128 + signal.SIGINT:
            raise
