"""Training by several processes ("ranks"), as torchrun starts them; a single process is rank 0 of 1, at no cost.

Every rank has environments of its own and the same weights. Averages computed here are the same on every rank, bit for
bit.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Iterable, Iterator, List, Tuple

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(seconds=60)  # a rank that others wait for longer than this is dead
LEAVING = timedelta(seconds=20)  # the longest that a finished rank takes to end
PATIENCE = timedelta(minutes=30)  # except while kernels compile, before training begins


def launched() -> bool:
    """Whether torchrun, or `python -m torch.distributed.launch`, has started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def check_environment() -> None:
    """Raises ValueError, one line, unless the launcher's variables are numbers."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        text = os.environ.get(name, "0")
        if not text.isascii() or not text.isdigit():
            raise ValueError(f"the variable {name} = {text!r}: allowed is a whole number, as torchrun sets it, or none")


def start(device: str, patience: timedelta = TIMEOUT) -> None:
    """Joins the other ranks; one that they wait for longer than `patience` is dead. Tensors on a GPU are averaged by
    NCCL, those on the CPU by Gloo."""
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo", timeout=patience)


def stop(status: int = 0) -> None:
    """Leaves the other ranks, when all have finished. SIGTERM, which the launcher sends to the remaining ranks as soon
    as one fails, is ignored from here on, so that each rank keeps its exit status. NCCL waits until no CUDA graph with
    its kernels is left; if somebody keeps one, the process ends with `status` anyway."""
    if not dist.is_initialized():
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait()
    gc.collect()
    sys.stdout.flush()
    clock = threading.Timer(LEAVING.seconds, os._exit, (status,))
    clock.daemon = True
    clock.start()
    dist.destroy_process_group()
    clock.cancel()


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", 0)) if launched() else 0


def label() -> str:
    """The prefix of messages that several ranks may write."""
    return f"rank {os.environ.get('RANK', 0)}: " if launched() else ""


def is_main() -> bool:
    """Whether this rank writes the files and talks to the user."""
    return rank() == 0


def device_of_rank(device: str) -> str:
    """Each rank gets a GPU of its own; without GPUs all share the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if launched() and device.startswith("cuda") else device


def wait() -> None:
    """Waits until all ranks are here."""
    if world_size() > 1:
        dist.new_group(timeout=PATIENCE, backend="gloo")  # making a group, here for nothing else, makes them meet


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Replaces every tensor by that of rank 0, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)


def average(tensors: List[Tensor]) -> None:
    """Replaces every tensor by its mean over all ranks, in place, in one all-reduce."""
    if world_size() > 1:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= world_size()
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(mean.view_as(tensor))


def gather(value: Any) -> List[Any]:
    """The values of all ranks, in their order. Any value that can be pickled; never within a CUDA graph."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def moments(x: Tensor, together: bool = True) -> Tuple[int, Tensor, Tensor]:
    """Number, mean and (biased) variance of the rows of `x`; with `together`, pooled over ranks, which have equal
    numbers of rows."""
    mean, var = x.mean(0), x.var(0, unbiased=False)
    if not together or world_size() == 1:
        return len(x), mean, var
    every = mean.new_zeros(world_size(), 2, *mean.shape)
    every[rank(), 0], every[rank(), 1] = mean, var
    dist.all_reduce(every)
    means, variances = every.unbind(1)
    return len(x) * world_size(), means.mean(0), variances.mean(0) + means.var(0, unbiased=False)


@contextmanager
def deadline(device: torch.device) -> Iterator[None]:
    """Ends this process if the work that it gives `device` within the block takes longer than TIMEOUT: NCCL's own
    time-out does not cover what a CUDA graph replays, and would wait for a dead rank forever."""
    if world_size() == 1:
        yield
        return

    def give_up() -> None:
        print(f"{label()}another rank has not answered for {TIMEOUT.seconds} s", file=sys.stderr, flush=True)
        os._exit(1)

    clock = threading.Timer(TIMEOUT.seconds, give_up)
    clock.daemon = True
    clock.start()
    try:
        yield
        torch.cuda.synchronize(device)
    finally:
        clock.cancel()
