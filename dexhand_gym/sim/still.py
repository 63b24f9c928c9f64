"""No physics: a hand that stands still. A task and its configuration can be tried on it before an engine is loaded."""

from __future__ import annotations

from typing import Dict, Optional

import torch
from torch import Tensor

from dexhand_gym.sim.base import REPORTED, Scene, Variation, check_properties


class StillSimulator:
    """The names and shapes of the Simulator contract (base.py); every pose is the identity, all else is zero."""

    def __init__(self, scene: Scene, num_envs: int):
        self.device = torch.device("cpu")
        self.num_envs, self.scene = num_envs, scene
        self.actor_names, self.dof_names = scene.actor_names, list(scene.hand.dof_names)
        self.body_names = [*scene.hand.body_names, *(thing.name for thing in scene.bodies)]
        self.root_state = torch.zeros(num_envs, len(self.actor_names), 13, dtype=torch.float32)
        self.dof_state = torch.zeros(num_envs, len(self.dof_names), 2, dtype=torch.float32)
        self.rigid_body_state = torch.zeros(num_envs, len(self.body_names), 13, dtype=torch.float32)
        self.net_contact_force = torch.zeros(num_envs, len(self.body_names), 3, dtype=torch.float32)
        self.nonfinite = torch.zeros(num_envs, dtype=torch.bool)
        self.root_state[..., 6] = self.rigid_body_state[..., 6] = 1.0

    def step(self, dof_targets: Tensor) -> None:
        """See Simulator.step."""

    def write_state(self, mask: Tensor) -> None:
        """See Simulator.write_state."""

    def vary(self, variation: Variation, mask: Optional[Tensor] = None) -> None:
        """See Simulator.vary. Only the objects' properties can be checked without an engine."""
        check_properties(variation, self.scene, self.num_envs)

    def push(self, wrench: Tensor) -> None:
        """See Simulator.push."""

    def memory(self) -> Dict[str, Tensor]:
        """See Simulator.memory."""
        return {name: getattr(self, name) for name in REPORTED}

    def take_overflow(self) -> Tensor:
        """See Simulator.take_overflow."""
        return torch.zeros((), dtype=torch.int64)

    def close(self) -> None:
        """See Simulator.close."""
