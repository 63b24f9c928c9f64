"""Domain randomisation (RandomizeConfig): objects that differ between environments. (sensing.py has noise and
delay.)"""

from __future__ import annotations

from typing import Dict, Sequence

import numpy as np
import torch
from torch import Tensor

from dexhand_gym.envs.config import RandomizeConfig
from dexhand_gym.objects import Object


def draw_objects(
    cfg: RandomizeConfig, things: Sequence[Object], num_envs: int, random: np.random.Generator
) -> Dict[str, Tensor]:
    """Samples the objects' properties in each environment, as a Variation; empty if none is randomised.

    Raises ValueError, one line, if there is no object to randomise."""
    ranges = {name: getattr(cfg, f"box_{name}") for name in ("size", "mass", "friction")}
    ranges = {name: bounds for name, bounds in ranges.items() if bounds}
    for name, bounds in ranges.items():
        if not things:
            raise ValueError(f"task.randomize.box_{name} = {bounds}: this task has no object, allowed is None")
    for thing in things:
        if thing.shape == "mesh" and "size" in ranges:
            raise ValueError(f"task.randomize.box_size = {ranges['size']}: allowed for a mesh is None, it has one size")
    shape = (num_envs, len(things))
    drawn = {name: torch.from_numpy(random.uniform(bounds[0], bounds[1], shape)) for name, bounds in ranges.items()}
    return {f"{thing.name}.{name}": rows[:, i] for name, rows in drawn.items() for i, thing in enumerate(things)}
