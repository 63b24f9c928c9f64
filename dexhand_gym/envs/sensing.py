"""Delayed commands and noisy observations (RandomizeConfig)."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from dexhand_gym.envs.config import RandomizeConfig
from dexhand_gym.envs.quantities import Measured


class Delay:
    """Delays dof targets [N, D] by some control steps, a number of its own in each environment."""

    def __init__(self, steps: np.ndarray, most: int, targets: Tensor):
        num_envs, dofs = targets.shape
        self.steps = torch.as_tensor(steps, device=targets.device)
        self.waiting = targets.new_zeros(num_envs, most, dofs)
        """Newest first."""

    def __call__(self, targets: Tensor) -> Tensor:
        """Stores the newest targets and returns those that are due."""
        known = torch.cat((targets.unsqueeze(1), self.waiting), 1)
        self.waiting.copy_(known[:, :-1])
        return known.gather(1, self.steps.view(-1, 1, 1).expand(-1, 1, targets.shape[1])).squeeze(1)

    def restart(self, mask: Tensor, targets: Tensor) -> None:
        """Resets the environments in `mask` [N], as if these targets had been in force for long."""
        self.waiting.copy_(torch.where(mask.view(-1, 1, 1), targets.unsqueeze(1), self.waiting))


class SensorNoise:
    """White noise on raw quantities of the environment, as the policy sees them."""

    def __init__(self, cfg: RandomizeConfig, raw: Dict[str, Tensor], actors: Sequence[str]):
        position = (torch.arange(13) < 3).float()  # the position's columns among the 13 of a body's state
        scales = {
            "dof_pos": torch.tensor(cfg.joint_position_noise, dtype=torch.float32),
            "dof_vel": torch.tensor(cfg.joint_velocity_noise, dtype=torch.float32),
            "body_forces": torch.tensor(cfg.contact_force_noise, dtype=torch.float32),
            **dict.fromkeys(("bodies", *actors), cfg.body_position_noise * position),
        }
        self.scales = {name: scale.to(raw[name].device) for name, scale in scales.items() if scale.any()}
        self.unit = {name: torch.zeros_like(raw[name]) for name in self.scales}
        """The noise of the newest instant, with standard deviation 1."""

    def draw(self, generator: torch.Generator, mask: Optional[Tensor] = None) -> None:
        """Samples the noise of another instant, in the environments of `mask` [N] or in all."""
        for unit in self.unit.values():
            fresh = torch.randn(unit.shape, generator=generator, dtype=unit.dtype, device=unit.device)
            unit.copy_(fresh if mask is None else torch.where(mask.view(-1, *[1] * (unit.dim() - 1)), fresh, unit))

    def memory(self) -> Dict[str, Tensor]:
        """The state that persists between steps, by name."""
        return {f"noise_{name}": unit for name, unit in self.unit.items()}

    def sense(self, m: Measured, raw: Dict[str, Tensor], task: Any) -> Measured:
        """The same instant as noisy sensors report it; `task` is the environment."""
        sensed = Measured(self.add(raw), task.quantities, task.cfg)
        for name, condition in task.timers.items():
            # a timer reads 0 while its noisy condition is false
            sensed[name] = torch.where(sensed[condition] > 0, m[name], 0.0)
        return sensed

    def add(self, raw: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """A copy of `raw` with noise added to some quantities."""
        return {**raw, **{name: raw[name] + scale * self.unit[name] for name, scale in self.scales.items()}}
