"""Domain randomisation (RandomizeConfig): what differs between environments, and what reaches drives and policy otherwise
than it was."""

from __future__ import annotations

from typing import Dict, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from dexhand_gym.envs.config import RandomizeConfig
from dexhand_gym.objects import Object


def draw_objects(
    cfg: RandomizeConfig, things: Sequence[Object], num_envs: int, random: np.random.Generator
) -> Dict[str, Tensor]:
    """Every environment's own objects, a Variation; empty if all have the scene's.

    Raises ValueError, one line, if there is no object to randomise."""
    ranges = {name: getattr(cfg, f"box_{name}") for name in ("size", "mass", "friction")}
    ranges = {name: bounds for name, bounds in ranges.items() if bounds}
    for name, bounds in ranges.items():
        if not things:
            raise ValueError(f"task.randomize.box_{name} = {bounds}: this task has no object, allowed is None")
    shape = (num_envs, len(things))
    drawn = {name: torch.from_numpy(random.uniform(bounds[0], bounds[1], shape)) for name, bounds in ranges.items()}
    return {f"{thing.name}.{name}": rows[:, i] for name, rows in drawn.items() for i, thing in enumerate(things)}


class Delay:
    """Hands on dof targets [N, D] some control steps late, in each environment by a number of its own."""

    def __init__(self, steps: np.ndarray, targets: Tensor):
        num_envs, dofs = targets.shape
        self.steps = torch.as_tensor(steps, device=targets.device)
        self.waiting = targets.new_zeros(num_envs, int(steps.max()), dofs)
        """Newest first."""

    def __call__(self, targets: Tensor) -> Tensor:
        """Takes the newest targets and gives those that are due."""
        known = torch.cat((targets.unsqueeze(1), self.waiting), 1)
        self.waiting.copy_(known[:, :-1])
        return known.gather(1, self.steps.view(-1, 1, 1).expand(-1, 1, targets.shape[1])).squeeze(1)

    def restart(self, mask: Tensor, targets: Tensor) -> None:
        """Where `mask` [N] says so, these targets have been in force for long."""
        self.waiting.copy_(torch.where(mask.view(-1, 1, 1), targets.unsqueeze(1), self.waiting))


class SensorNoise:
    """White noise on raw quantities of the environment, as the policy sees them."""

    def __init__(self, cfg: RandomizeConfig, raw: Dict[str, Tensor], actors: Sequence[str]):
        position = (torch.arange(13) < 3).float()  # of the 13 numbers of a body's state those that are its position
        scales = {
            "dof_pos": torch.tensor(cfg.joint_position_noise, dtype=torch.float32),
            "dof_vel": torch.tensor(cfg.joint_velocity_noise, dtype=torch.float32),
            "body_forces": torch.tensor(cfg.contact_force_noise, dtype=torch.float32),
            **dict.fromkeys(("bodies", *actors), cfg.body_position_noise * position),
        }
        self.scales = {name: scale.to(raw[name].device) for name, scale in scales.items() if scale.any()}
        self.unit = {name: torch.zeros_like(raw[name]) for name in self.scales}
        """Of the newest instant, standard deviation 1."""

    def draw(self, generator: torch.Generator, mask: Optional[Tensor] = None) -> None:
        """Another instant, in the environments of `mask` [N] or in all."""
        for unit in self.unit.values():
            fresh = torch.randn(unit.shape, generator=generator, dtype=unit.dtype, device=unit.device)
            unit.copy_(fresh if mask is None else torch.where(mask.view(-1, *[1] * (unit.dim() - 1)), fresh, unit))

    def add(self, raw: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """A copy of `raw`, of which some are noisy."""
        return {**raw, **{name: raw[name] + scale * self.unit[name] for name, scale in self.scales.items()}}
