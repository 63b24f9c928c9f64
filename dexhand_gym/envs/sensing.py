"""What sensors make of measurements (RandomizeConfig)."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

import torch
from torch import Tensor

from dexhand_gym.envs.quantities import Measured
from dexhand_gym.envs.randomize import Uniform, narrowed, steps_between
from dexhand_gym.envs.randomize_config import RandomizeConfig
from dexhand_gym.hands.hand import Hand
from dexhand_gym.sim.base import overwrite

TOUCH = ("contact_force_gain", "contact_force_bias", "dead_fingertip")
"""What differs between fingertips."""
OF_SENSORS = (*TOUCH, "joint_offset", "joint_position_noise", "joint_position_step", "joint_velocity_noise")
OF_SENSORS += ("body_position_noise", "contact_force_noise", "contact_force_step", "contact_force_limit")
OWN = ("base_dof_target", "active_finger_dof_target", "all_finger_dof_target", "dof_targets", "targets", "rule_targets")
OWN += ("last_actions", "prev_actions", "episode_step", "episode_time")
"""Quantities that the policy knows without a sensor."""


class Sensors:
    """The raw quantities of the environment as the policy sees them: white noise, and in each environment wrong zeros of
    joints (`offset` [N, D], drawn elsewhere) and fingertips of its own."""

    def __init__(
        self,
        cfg: RandomizeConfig,
        hand: Hand,
        raw: Dict[str, Tensor],
        actors: Sequence[str],
        offset: Optional[Tensor],
        width: Optional[Tensor],
    ):
        self.cfg, self.offset, self.width = cfg, offset, width
        position = (torch.arange(13) < 3).float()  # the position's columns among the 13 of a body's state
        scales = {
            "dof_pos": torch.tensor(cfg.joint_position_noise, dtype=torch.float32),
            "dof_vel": torch.tensor(cfg.joint_velocity_noise, dtype=torch.float32),
            "body_forces": torch.tensor(cfg.contact_force_noise, dtype=torch.float32),
            **dict.fromkeys(("bodies", *actors), cfg.body_position_noise * position),
        }
        self.scales = {name: scale.to(raw[name].device) for name, scale in scales.items() if scale.any()}
        forces = raw["body_forces"]
        shapes = [raw[name].shape for name in self.scales]
        widths = [shape[1:].numel() for shape in shapes]
        self.noise = forces.new_zeros(len(forces), sum(widths))
        parts = self.noise.split(widths, 1)
        self.unit = {name: part.view(shape) for name, part, shape in zip(self.scales, parts, shapes)}
        """The noise of the newest instant, with standard deviation 1: parts of `noise`, which is drawn in one go."""
        n, fingers = len(forces), len(hand.fingers)
        contacts = hand.contacts
        rows = range(forces.shape[1])[contacts] if isinstance(contacts, slice) else contacts
        self.contacts = torch.tensor(list(rows), device=forces.device)
        self.gain = forces.new_ones(n, fingers, 1)
        self.bias = forces.new_zeros(n, fingers, 3)
        self.touches = any(cfg.is_on(name) for name in (*TOUCH, "contact_force_step", "contact_force_limit"))
        self.fingers = torch.tensor(hand.finger_dofs, device=forces.device)

    def draw_noise(self, generator: torch.Generator, mask: Optional[Tensor] = None) -> None:
        """Samples the noise of another instant, in the environments of `mask` [N] or in all."""
        if not self.unit:
            return
        if mask is None:
            self.noise.normal_(generator=generator)
        else:
            kind = {"dtype": self.noise.dtype, "device": self.noise.device}
            fresh = torch.randn(self.noise.shape, generator=generator, **kind)
            overwrite(self.noise, fresh, mask)

    def draw(self, uniform: Uniform, mask: Optional[Tensor] = None) -> None:
        """Draws the fingertips of the environments in `mask` [N], or of all."""
        cfg, fingers = self.cfg, self.gain.shape[1]
        gain = torch.ones_like(self.gain)
        if cfg.contact_force_gain:
            gain = narrowed(uniform(*cfg.contact_force_gain, fingers), 1.0, self.width).to(gain).unsqueeze(-1)
        if cfg.dead_fingertip:
            dead = cfg.dead_fingertip if self.width is None else cfg.dead_fingertip * self.width
            alive = (uniform(0.0, 1.0, fingers).to(gain) >= dead).to(gain).unsqueeze(-1)
            gain = gain * alive
        overwrite(self.gain, gain, mask)
        if cfg.contact_force_bias:
            most = cfg.contact_force_bias
            bias = narrowed(uniform(-most, most, 3 * fingers), 0.0, self.width).to(gain).unflatten(1, (-1, 3))
            overwrite(self.bias, torch.where(gain > 0, bias, 0.0), mask)

    def memory(self) -> Dict[str, Tensor]:
        """The state that persists between steps, by name."""
        touch = {"touch_gain": self.gain, "touch_bias": self.bias}
        noise = {f"noise_{name}": unit for name, unit in self.unit.items()}
        return {**noise, **(touch if any(self.cfg.is_on(name) for name in TOUCH) else {})}

    def sense(self, m: Measured, raw: Dict[str, Tensor], task: Any) -> Measured:
        """The same instant as the sensors report it; `task` is the environment."""
        sensed = Measured(self.report(raw), task.quantities, task.cfg)
        for name, condition in task.timers.items():
            # a timer reads 0 while its noisy condition is false
            sensed[name] = torch.where(sensed[condition] > 0, m[name], 0.0)
        return sensed

    def report(self, raw: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """A copy of `raw` in which some quantities are as they are reported."""
        told = {**raw, **{name: raw[name] + scale * self.unit[name] for name, scale in self.scales.items()}}
        if self.offset is not None:
            told["dof_pos"] = told["dof_pos"] + self.offset
        if self.cfg.joint_position_step:
            position = told["dof_pos"]
            told["dof_pos"] = torch.where(self.fingers, whole(position, self.cfg.joint_position_step), position)
        if self.touches:
            force = told["body_forces"]
            told["body_forces"] = force.index_copy(1, self.contacts, self.touch(force.index_select(1, self.contacts)))
        return told

    def touch(self, force: Tensor) -> Tensor:
        """What fingertips report of `force` [N, F, 3]."""
        force = force * self.gain + self.bias
        if self.cfg.contact_force_limit:
            size = torch.linalg.vector_norm(force, dim=-1, keepdim=True)
            force = force * (self.cfg.contact_force_limit / size.clamp(min=self.cfg.contact_force_limit))
        return whole(force, self.cfg.contact_force_step) if self.cfg.contact_force_step else force


def whole(x: Tensor, step: float) -> Tensor:
    """The nearest multiple of `step`."""
    return (x / step).round() * step


class Late:
    """Delays what the policy sees by some control steps, a number of its own in each environment."""

    def __init__(self, cfg: RandomizeConfig, num_envs: int, device: torch.device, width: Optional[Tensor]):
        self.cfg, self.width = cfg, width
        self.steps = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self.history: Optional[Tensor] = None
        """Observations [N, most + 1, W], newest first."""
        self.own: Optional[Tensor] = None
        """Columns [W] that need no sensor."""

    def draw(self, uniform: Uniform, mask: Optional[Tensor] = None) -> None:
        """Draws the delays of the environments in `mask` [N], or of all."""
        overwrite(self.steps, steps_between(*self.cfg.observation_delay, uniform, self.steps, self.width), mask)

    def __call__(self, columns: List[Tensor], keys: Sequence[str], begun: Optional[Tensor]) -> Tensor:
        """The observation [N, W] of the columns by these names, of which those that need a sensor are late. `begun` [N]:
        nothing has happened but that these episodes have begun; None: another step."""
        rows = torch.cat(columns, 1)
        if self.history is None or self.own is None:
            self.history = rows.unsqueeze(1).repeat(1, self.cfg.observation_delay[1] + 1, 1)
            own = [torch.full((x.shape[1],), key in OWN, device=rows.device) for key, x in zip(keys, columns)]
            self.own = torch.cat(own)
        if begun is None:
            self.history.copy_(torch.cat((rows.unsqueeze(1), self.history[:, :-1]), 1))
        else:
            overwrite(self.history, rows.unsqueeze(1).expand_as(self.history), begun)
        seen = self.history.gather(1, self.steps.view(-1, 1, 1).expand(-1, 1, rows.shape[1])).squeeze(1)
        return torch.where(self.own, rows, seen)

    def memory(self) -> Dict[str, Tensor]:
        """The state that persists between steps, by name."""
        history = {} if self.history is None else {"observation_history": self.history}
        return {"observation_steps": self.steps, **history}
