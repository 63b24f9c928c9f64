"""Functions as CUDA graphs: on a GPU, launching a hundred small kernels one by one costs more than running them."""

from __future__ import annotations

import logging
from typing import Any, Callable, Optional

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class Captured:
    """Calls `function()`, which reads and writes tensors of fixed memory. With `on_gpu` the first two calls run it (kernels
    load and compile), the third captures it, and every later one replays the capture; otherwise it is run. Either way in
    inference mode, which saves a tenth of the cost of small operations; the tensors returned are copies free of that mode.
    `fuse` compiles the function first.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        on_gpu: bool,
        generator: Optional[torch.Generator] = None,
        fuse: bool = False,
    ):
        self.on_gpu = on_gpu
        self._plain = function
        self._function = torch.compile(function, dynamic=False) if on_gpu and fuse else function
        self._generator = generator
        self._of: tuple = ()
        self._runs = 0
        self._graph: Optional[torch.cuda.CUDAGraph] = None
        self._result: Any = None

    def again_if_changed(self, *functions: Callable) -> None:
        """Forgets the capture if these, which `function` calls, are not those of the last time."""
        if functions != self._of:
            self._of, self._runs, self._graph = functions, 0, None

    def __call__(self) -> Any:
        if not self.on_gpu or self._runs < 2:
            self._runs += 1
            with torch.inference_mode():
                result = self._run()
            return copies(result)
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            if self._generator is not None:
                self._graph.register_generator_state(self._generator)
            # thread_local: NCCL has threads of its own, which ask the driver at any time
            with torch.inference_mode(), torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._result = self._function()
        self._graph.replay()
        return copies(self._result)

    def _run(self) -> Any:
        if self._plain is self._function:
            return self._function()
        try:
            return self._function()
        except torch._dynamo.exc.TorchDynamoException as error:  # pyright: ignore  # no compiler on this machine, perhaps
            log.warning("not compiled, which costs a few per cent of speed: %s", str(error).strip().splitlines()[0])
            self._function = self._plain
            return self._function()


def copies(result: Any) -> Any:
    """Of a tensor, of every tensor in a tuple, of nothing. On a CPU by NumPy: a large clone() takes threads from the
    physics."""
    if isinstance(result, Tensor):
        return result.clone() if result.is_cuda else torch.from_numpy(result.numpy().copy())
    return tuple(copies(item) for item in result) if isinstance(result, tuple) else result
