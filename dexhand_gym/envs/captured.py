"""Functions as CUDA graphs: on a GPU, launching a hundred small kernels one by one costs more than running them."""

from __future__ import annotations

import ast
import contextlib
import logging
import warnings
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Tuple

import torch
from torch import Tensor

from dexhand_gym.caches import keep_compiled

log = logging.getLogger(__name__)


class Fused:
    """A function that its first call compiles, so that it takes few kernels; where that fails, it stays as it is."""

    def __init__(self, function: Callable[..., Any]):
        keep_compiled()
        self._plain = function
        self._function = torch.compile(function, dynamic=False)
        self._told = False

    def __call__(self, *arguments: Any) -> Any:
        if self._plain is self._function:
            return self._function(*arguments)
        if not self._told:
            log.info("torch.compile fuses %s(), which takes longest when it is new", self._plain.__name__.strip("_"))
            self._told = True
        try:
            return self._function(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:  # pyright: ignore  # no compiler on this machine, perhaps
            log.warning("not compiled, which costs a few per cent of speed: %s", str(error).strip().splitlines()[0])
            self._function = self._plain
            return self._function(*arguments)


class Captured:
    """Calls `function()`, which reads and writes tensors of fixed memory. With `on_gpu` the first two calls run it
    (kernels load and compile), the third captures it, and every later one replays the capture; otherwise it is run.
    Both use inference mode, which saves a tenth of the cost of small operations; the returned tensors are copies made
    outside of it. `compiles` says that the function, or a part of it, is Fused.

    Code that waits for the GPU (`.item()`, `torch.tensor(...)`, shapes that depend on data) cannot be captured. The
    second call detects that; then the function is run at every call, and a warning names function and line.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        on_gpu: bool,
        generator: Optional[torch.Generator] = None,
        compiles: bool = False,
    ):
        self.on_gpu, self._function, self._compiles = on_gpu, function, compiles
        self._waits = False
        self._generator = generator
        self._functions: Tuple[Callable, ...] = ()
        self._runs = 0
        self._graph: Optional[torch.cuda.CUDAGraph] = None
        self._result: Any = None

    def discard_if_replaced(self, *functions: Callable) -> None:
        """Discards the graph if one of the functions that it calls was replaced."""
        if functions != self._functions:
            self._functions, self._runs, self._graph, self._waits = functions, 0, None, False

    def __call__(self) -> Any:
        if not self.on_gpu or self._runs < 2 or self._waits:
            self._runs += 1
            watching = synchronisations() if self.on_gpu and self._runs == 2 else contextlib.nullcontext([])
            with torch.inference_mode(), watching as found:
                result = self._function()
            places = [place for place in found if not (self._compiles and "/torch/" in place)]  # the compiler may wait
            if places:
                self._waits = True
                log.warning(
                    "not a CUDA graph, which costs speed: %s waits for the GPU, as .item(), torch.tensor() and shapes that "
                    "depend on data do",
                    places[0],
                )
            return copies(result)
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            if self._generator is not None:
                self._graph.register_generator_state(self._generator)
            # thread_local: NCCL has threads of its own, which may call the driver at any time
            with torch.inference_mode(), torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._result = self._function()
        self._graph.replay()
        return copies(self._result)


@contextlib.contextmanager
def synchronisations() -> Iterator[List[str]]:
    """Yields a list that is filled at the end of the block with the places that wait for the GPU: "rewards() in
    my_task.py:12"."""
    places: List[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in told:
        if "debug mode is a prototype" in str(warning.message):
            continue
        if "called a synchronizing" in str(warning.message):
            places.append(f"{function_at(warning.filename, warning.lineno)} in {warning.filename}:{warning.lineno}")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def function_at(file: str, line: int) -> str:
    """The innermost function that a line of a file belongs to."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return "code"
    defined = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    around = [node for node in defined if node.lineno <= line <= (node.end_lineno or node.lineno)]
    return f"{max(around, key=lambda node: node.lineno).name}()" if around else "code"


def copies(result: Any) -> Any:
    """Clones a tensor, or a tuple of tensors; passes anything else through. On a CPU it copies with NumPy: a large
    clone() takes threads from the physics."""
    if isinstance(result, Tensor):
        return result.clone() if result.is_cuda else torch.from_numpy(result.numpy().copy())
    return tuple(copies(item) for item in result) if isinstance(result, tuple) else result
