"""What a task's functions return, held against what the environment needs: names, types, shapes, before the first step."""

from __future__ import annotations

from typing import Any, Dict, Iterable, Tuple

import torch
from torch import Tensor

from dexhand_gym.fields import check
from dexhand_gym.sim import Scene

NUMBERS = (torch.float32, torch.bool, torch.int32, torch.int64, torch.uint8)


def check_named(what: str, values: Any, num_envs: int, dtypes: Tuple[torch.dtype, ...], device: torch.device) -> None:
    """`values` is a dict of tensors [num_envs]; `what` is what to call one of them. Raises ValueError, one line."""
    if not isinstance(values, dict):
        raise ValueError(
            f"the task's {what}s are a {type(values).__name__}: allowed is a dict, name -> tensor [{num_envs}]"
        )
    for name, value in values.items():
        check_tensor(f"{what} {name!r}", value, (num_envs,), dtypes, device)


def check_tensor(
    what: str, value: Any, shape: Tuple[int, ...], dtypes: Tuple[torch.dtype, ...], device: torch.device
) -> None:
    """Raises ValueError, one line, unless `value` is a tensor of this shape (-1: any number), a dtype of these, there."""
    allowed = f"allowed is a tensor {numbers(shape)} of {' or '.join(str(d)[6:] for d in dtypes)} on {device}"
    if not isinstance(value, Tensor):
        raise ValueError(f"{what} is a {type(value).__name__}: {allowed}")
    fits = len(value.shape) == len(shape) and all(want in (-1, found) for want, found in zip(shape, value.shape))
    if not fits or value.dtype not in dtypes or value.device.type != device.type:
        raise ValueError(
            f"{what} is a tensor {numbers(value.shape)} of {str(value.dtype)[6:]} on {value.device}: {allowed}"
        )


def check_quantities(measured: Dict[str, Tensor], names: Iterable[str], num_envs: int, device: torch.device) -> None:
    """Every quantity is a tensor with a row per environment."""
    for name in names:
        value: Any = measured[name]
        rows = tuple(value.shape[1:]) if isinstance(value, Tensor) else ()
        check_tensor(f"quantity {name!r}", value, (num_envs, *rows), NUMBERS, device)


def check_scene(scene: Any) -> Scene:
    """What scene() returned."""
    if not isinstance(scene, Scene):
        raise ValueError(f"scene() returns a {type(scene).__name__}: allowed is a Scene")
    for i, box in enumerate(scene.boxes):
        check(box, f"scene().boxes[{i}].")
    return scene


def check_start(start: Any, known: Dict[str, Tensor]) -> None:
    """What sample_start() returned: a pose for each actor it names, action targets for the hand."""
    if not isinstance(start, dict):
        raise ValueError(f"sample_start() returns a {type(start).__name__}: allowed is a dict, name -> tensor")
    for name, value in start.items():
        if name not in known:
            raise ValueError(f"sample_start() names {name!r}: allowed are {', '.join(known)}")
        check_tensor(f"sample_start()'s {name!r}", value, tuple(known[name].shape), (torch.float32,), value.device)


def numbers(shape: Iterable[int]) -> str:
    return f"[{', '.join('any' if n < 0 else str(n) for n in shape)}]"
