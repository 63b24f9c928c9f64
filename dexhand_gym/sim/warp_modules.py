"""Warp's modules compiled side by side: one after the other, the kernels of a physics step take minutes where no cache
has them yet."""

from __future__ import annotations

import contextlib
import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy as np
import warp as wp

log = logging.getLogger(__name__)
MOST_THREADS = 16
PATIENCE = 2.0  # s between two lines that tell how far it is


class Compilation:
    """Compiles and loads in the background all modules whose kernels `work()` launches; it runs none of them."""

    def __init__(self, work: Callable[[], None], device: str):
        self._threads = ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1), "compile")
        self._loads: List[Future] = [
            self._threads.submit(wp.force_load, device, [module], block_dim) for module, block_dim in launches(work)
        ]

    def wait(self) -> None:
        """Returns when all are loaded. The error of a module that cannot be compiled comes where it is launched."""
        left, total = set(self._loads), len(self._loads)
        while left:
            _, left = wait(left, timeout=PATIENCE)
            if left:
                log.info(
                    "compiling the kernels of the physics, once on this machine: %d of %d", total - len(left), total
                )
        self._threads.shutdown()

    def cancel(self) -> None:
        """Begins with no further module."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def launches(work: Callable[[], None]) -> List[Tuple[Any, Any]]:
    """Modules, with their block sizes, of the kernels that `work()` launches, in that order."""
    found: Dict[Tuple[Any, Any], None] = {}

    def note(kernel: Any, dim: Any, *args: Any, block_dim: Any = None, **others: Any) -> None:
        if not kernel.is_generic and np.prod(dim):  # generic ones are known by their arguments only
            found[kernel.module, block_dim] = None

    with replaced_launches(note):
        work()
    return list(found)


@contextlib.contextmanager
def replaced_launches(function: Callable[..., None]) -> Iterator[None]:
    """Within the block, Warp calls `function` instead of launching a kernel."""
    before = wp.launch, wp.launch_tiled
    wp.launch = wp.launch_tiled = function
    try:
        yield
    finally:
        wp.launch, wp.launch_tiled = before
