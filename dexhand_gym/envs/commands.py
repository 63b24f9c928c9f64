"""What becomes of dof targets on their way to the drives (RandomizeConfig)."""

from __future__ import annotations

from typing import Dict, List, Optional

import torch
from torch import Tensor

from dexhand_gym.envs.randomize import Uniform, narrowed, steps_between
from dexhand_gym.envs.randomize_config import RandomizeConfig
from dexhand_gym.hands.hand import Hand
from dexhand_gym.sim.base import overwrite

OF_COMMANDS = ("action_delay", "action_lowpass", "action_drop", "joint_offset", "coupling")


class Commands:
    """Loses, delays and smooths dof targets [N, D], in this order; then joints that follow others do so by a factor, and
    zeros are wrong by an offset."""

    def __init__(
        self, cfg: RandomizeConfig, hand: Hand, targets: Tensor, generator: torch.Generator, width: Optional[Tensor]
    ):
        self.cfg, self.generator, self.width = cfg, generator, width
        n, dofs = targets.shape
        self.received = torch.zeros_like(targets) if cfg.action_drop else None
        self.steps = torch.zeros(n, dtype=torch.int64, device=targets.device)
        self.waiting = targets.new_zeros(n, cfg.action_delay[1], dofs)
        """Newest first."""
        self.smooth = torch.zeros_like(targets) if cfg.action_lowpass else None
        self.share = targets.new_ones(n, 1)
        self.factor = torch.ones_like(targets) if cfg.coupling else None
        self.offset = torch.zeros_like(targets) if cfg.joint_offset else None
        """What the hand reports of a dof more than there is."""
        followers = torch.tensor(followers_of(hand), dtype=torch.float32)
        fingers = torch.tensor(hand.finger_dofs)
        self.lower, self.upper = (targets.new_tensor(limits) for limits in (hand.dof_lower, hand.dof_upper))
        self.followers, self.fingers = followers.to(targets), fingers.to(targets)

    def draw(self, uniform: Uniform, mask: Optional[Tensor] = None) -> None:
        """Draws delays, shares, factors and offsets of the environments in `mask` [N], or of all."""
        cfg, dofs = self.cfg, self.fingers.numel()
        low, high = cfg.action_delay
        if high:
            overwrite(self.steps, steps_between(low, high, uniform, self.steps, self.width), mask)
        if cfg.action_lowpass:
            overwrite(self.share, narrowed(uniform(*cfg.action_lowpass, 1), 1.0, self.width), mask)
        if self.factor is not None and cfg.coupling:
            factors = narrowed(uniform(*cfg.coupling, dofs), 1.0, self.width)
            overwrite(self.factor, 1.0 + self.followers * (factors.to(self.followers) - 1.0), mask)
        if self.offset is not None:
            most = cfg.joint_offset
            offset = narrowed(uniform(-most, most, dofs), 0.0, self.width).to(self.fingers)
            overwrite(self.offset, offset * self.fingers, mask)

    def __call__(self, targets: Tensor) -> Tensor:
        """Takes the newest targets and returns what the drives pull to."""
        kind = {"generator": self.generator, "device": targets.device}
        numbers = None if self.received is None else torch.rand(len(targets), 1, **kind)
        return self.carry(targets, numbers)

    def carry(self, targets: Tensor, numbers: Optional[Tensor]) -> Tensor:
        """What a call makes of uniform random numbers [N, 1], which decide on what is lost."""
        if self.received is not None and numbers is not None:
            chance = self.cfg.action_drop if self.width is None else self.cfg.action_drop * self.width.float()
            self.received.copy_(torch.where(numbers < chance, self.received, targets))
            targets = self.received
        if self.cfg.action_delay[1]:
            known = torch.cat((targets.unsqueeze(1), self.waiting), 1)
            self.waiting.copy_(known[:, :-1])
            targets = known.gather(1, self.steps.view(-1, 1, 1).expand(-1, 1, targets.shape[1])).squeeze(1)
        if self.smooth is not None:
            self.smooth.copy_(torch.lerp(self.smooth, targets, self.share))
            targets = self.smooth
        return self.reached(targets)

    def reached(self, targets: Tensor) -> Tensor:
        """Where joints are that report `targets` [N, D]."""
        targets = targets if self.factor is None else targets * self.factor
        return targets if self.offset is None else targets - self.offset

    def restart(self, mask: Tensor, targets: Tensor) -> Tensor:
        """Resets the environments in `mask` [N], as if these targets had been in force for long; returns what the
        drives pull to."""
        if self.received is not None:
            overwrite(self.received, targets, mask)
        if self.smooth is not None:
            overwrite(self.smooth, targets, mask)
        overwrite(self.waiting, targets.unsqueeze(1).expand_as(self.waiting), mask)
        return self.reached(targets).clamp(self.lower, self.upper)  # a wrong zero moves no joint beyond its limit

    def memory(self) -> Dict[str, Tensor]:
        """The state that persists between steps, by name."""
        delay = {"delay_steps": self.steps, "delay_waiting": self.waiting} if self.cfg.action_delay[1] else {}
        lowpass = {"lowpass_share": self.share, "lowpass_targets": self.smooth} if self.cfg.action_lowpass else {}
        others = {"received": self.received, "coupling_factor": self.factor, "joint_offset": self.offset}
        found = {**lowpass, **others}
        return {**delay, **{name: value for name, value in found.items() if value is not None}}


def followers_of(hand: Hand) -> List[float]:
    """1 for each dof [D] of a finger that an action moves beside another, which `active_dofs` names; else 0."""
    active = hand.active_dofs
    fingers = range(len(hand.dof_names) - hand.num_base)
    leading = set(fingers[active] if isinstance(active, slice) else active)
    driven = [any(row) for row in hand.coupling]
    return [
        float(driven[dof] and dof >= hand.num_base and dof - hand.num_base not in leading)
        for dof in range(len(hand.dof_names))
    ]
