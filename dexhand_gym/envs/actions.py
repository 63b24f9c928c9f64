"""From a policy's action to dof targets, in four stages. Each is a pure function, and an attribute of the environment
that a user may replace:

| stage               | signature                                              | default                            |
|---------------------|--------------------------------------------------------|------------------------------------|
| pre_action_rule     | (measured) -> baseline [N, T]                          | the start pose of the episode      |
| action_rule         | (actions, previous, baseline, limits) -> targets [N, A]| position or position_delta         |
| post_action_filters | each (targets, previous, limits) -> targets [N, T]     | clamp_velocity, clamp_position     |
| coupling            | (targets [N, T]) -> dof targets [N, D]                 | the hand's coupling matrix         |

The T targets are hand.action_names: base displacements (m, rad), then finger angles (rad). The action rule sees the
columns that the policy controls (A of T); the other columns are the baseline. `measured` holds the quantities of the
newest observation. Where an action or the output of a stage is not finite, the drives keep their targets and the
episode ends as `nonfinite`.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from dexhand_gym.envs.checks import check_shape
from dexhand_gym.envs.commands import Commands
from dexhand_gym.envs.config import TaskConfig
from dexhand_gym.envs.quantities import finite
from dexhand_gym.fields import shortened
from dexhand_gym.hands.hand import Hand, evenly


class Limits(NamedTuple):
    """Limits of the action targets; each field is a tensor with one entry per column."""

    lower: Tensor
    upper: Tensor
    max_change: Tensor
    """Largest change of a target in one control step."""


def as_tensor(actions: Any, shape: Tuple[int, ...]) -> Tensor:
    """Converts an array-like of any numeric type to a tensor. Raises TypeError or ValueError, one line, if it is not an
    array of real numbers or has another shape."""
    allowed = f"allowed are numbers of shape {tuple(shape)}"
    try:
        if isinstance(actions, (list, tuple)) and actions and all(isinstance(row, Tensor) for row in actions):
            actions = torch.stack(tuple(actions))
        if not isinstance(actions, Tensor):
            array = np.asarray(actions)
            if array.dtype.kind in "OUSMmc":
                raise TypeError(f"of dtype {array.dtype}")
            with np.errstate(over="ignore"):  # becomes infinite, which ends the episode
                actions = torch.from_numpy(array.astype(np.float32))
        if actions.is_complex() or actions.is_meta or actions.layout != torch.strided:
            raise TypeError(f"of dtype {actions.dtype}, {actions.layout}, on {actions.device}")
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()[:20])
        raise TypeError(f"actions: {type(actions).__name__} ({reason}), {allowed}") from error
    if actions.shape != tuple(shape):
        raise ValueError(f"actions: shape {tuple(actions.shape)}, {allowed}")
    return actions.detach()


def position(actions: Tensor, previous: Tensor, baseline: Tensor, limits: Limits) -> Tensor:
    """[-1, 1] spans the target's range; the velocity limit bounds the change in one step."""
    targets = limits.lower + (actions + 1.0) * 0.5 * (limits.upper - limits.lower)
    return clamp_velocity(targets, previous, limits)


def position_delta(actions: Tensor, previous: Tensor, baseline: Tensor, limits: Limits) -> Tensor:
    """An action is the target's speed as a share of the velocity limit."""
    return torch.addcmul(previous, actions, limits.max_change)


def clamp_velocity(targets: Tensor, previous: Tensor, limits: Limits) -> Tensor:
    """No target moves faster than its limit."""
    return torch.clamp(targets, previous - limits.max_change, previous + limits.max_change)


def clamp_position(targets: Tensor, previous: Tensor, limits: Limits) -> Tensor:
    """No target leaves its range."""
    return torch.clamp(targets, limits.lower, limits.upper)


def columns_of(task: TaskConfig, hand: Hand, device: torch.device) -> Union[slice, Tensor]:
    """The columns of action targets that the policy moves."""
    controls = {True: task.policy_controls_fingers, False: task.policy_controls_base}
    moved = [i for i, kind in enumerate(hand.action_kinds) if controls[kind == "finger"]]
    rows = evenly(moved) if moved else slice(0, 0)
    return rows if isinstance(rows, slice) else torch.tensor(rows, device=device)


class Stages:
    """The four stages for N environments, and their state: one row per environment, written in place."""

    def __init__(self, task: TaskConfig, hand: Hand, control_dt: float, num_envs: int, device: torch.device):
        speeds = {"slide": task.max_linear_velocity, "turn": task.max_angular_velocity}
        most = [speeds.get(kind, task.max_finger_velocity) * control_dt for kind in hand.action_kinds]
        table = torch.tensor([hand.action_lower, hand.action_upper, most], dtype=torch.float32, device=device)
        self.limits = Limits(*table)
        self._columns = columns_of(task, hand, device)
        self._policy_limits = Limits(*table[:, self._columns])
        self.pre_action_rule: Callable[[Dict[str, Tensor]], Tensor] = lambda m: m["start_hand"]
        self.action_rule: Callable[..., Tensor] = globals()[task.control_mode]
        self.post_action_filters: List[Callable[..., Tensor]] = [clamp_velocity, clamp_position]
        self.coupling = coupling_of(hand, device)
        self.commands: Optional[Commands] = None
        kind = {"dtype": torch.float32, "device": device}
        self.newest = torch.zeros(num_envs, len(self._policy_limits.lower), **kind)
        """The newest action [N, A]."""
        self.targets = torch.zeros(num_envs, hand.num_actions, **kind)
        self.baseline = torch.zeros_like(self.targets)
        """The newest output of the pre-action rule [N, T]."""
        self.dof_targets = torch.zeros(num_envs, len(hand.dof_names), **kind)
        """The targets sent to the drives [N, D]."""
        self.refused = torch.zeros(num_envs, dtype=torch.bool, device=device)
        """[N] True where the newest action or the output of a stage is not finite."""

    @property
    def functions(self) -> Tuple[Callable[..., Tensor], ...]:
        """The functions that a user may replace."""
        return (self.pre_action_rule, self.action_rule, *self.post_action_filters, self.coupling)

    def memory(self) -> Dict[str, Tensor]:
        """The state that persists between steps, by name."""
        commands = self.commands.memory() if self.commands else {}
        targets = {"targets": self.targets, "rule_targets": self.baseline, "dof_targets": self.dof_targets}
        return {**targets, "last_actions": self.newest, **commands}

    def run(self, measured: Dict[str, Tensor]) -> None:
        """Turns the newest action into dof targets. Where one is not finite, the drives keep their targets: an engine
        may silently treat such a target as zero."""
        given = self.newest.sum(1)
        self.newest.nan_to_num_(0.0).clamp_(-1.0, 1.0)
        baseline = check_shape("pre_action_rule", self.pre_action_rule(measured), self.targets.shape)
        dof_targets = self.follow(given, baseline)
        self.dof_targets.copy_(self.commands(dof_targets) if self.commands else dof_targets)

    def follow(self, given: Tensor, baseline: Tensor) -> Tensor:
        """The dof targets [N, D] that follow from the newest action, of which `given` [N] is the sum as it was given, and
        from the pre-action rule's output [N, T]. It can be Fused."""
        shape, columns = self.targets.shape, self._columns
        previous = self.targets[:, columns], baseline[:, columns]
        targets = check_shape(
            "action_rule", self.action_rule(self.newest, *previous, self._policy_limits), self.newest.shape
        )
        if targets.shape != shape:
            controlled, targets = targets, baseline.clone()
            targets[:, columns] = controlled
        for post_filter in self.post_action_filters:
            targets = check_shape(post_filter, post_filter(targets, self.targets, self.limits), shape)
        dof_targets = check_shape("coupling", self.coupling(targets), self.dof_targets.shape)
        drivable = finite(given, baseline, targets, dof_targets)
        self.refused.copy_(~drivable)
        self.baseline.copy_(baseline)
        self.targets.copy_(targets)
        return torch.where(drivable.unsqueeze(1), dof_targets, self.dof_targets)

    def restart(self, mask: Tensor, targets: Tensor) -> None:
        """Resets the environments in `mask` [N]: no action yet, and `targets` [N, T] as if they had been in force for
        long."""
        column = mask.unsqueeze(1)
        self.newest.masked_fill_(column, 0.0)
        for buffer in (self.targets, self.baseline):
            buffer.copy_(torch.where(column, targets, buffer))
        dof_targets = check_shape("coupling", self.coupling(self.targets), self.dof_targets.shape)
        dof_targets = torch.nan_to_num(dof_targets, 0.0, 0.0, 0.0)
        if self.commands:
            dof_targets = self.commands.restart(mask, dof_targets)
        self.dof_targets.copy_(torch.where(column, dof_targets, self.dof_targets))


class Stage:
    """Descriptor that makes a function of `env.stages` an attribute of the environment."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, env: Any, owner: Any = None) -> Any:
        return self if env is None else getattr(env.stages, self.name)

    def __set__(self, env: Any, function: Any) -> None:
        several = self.name == "post_action_filters"
        functions = function if several and isinstance(function, (list, tuple)) else [function]
        if not all(map(callable, functions)) or (several and functions is not function):
            what = "a list of functions" if several else "a function"
            raise TypeError(f"env.{self.name} = {shortened(repr(function))}: allowed is {what}")
        setattr(env.stages, self.name, function)


def coupling_of(hand: Hand, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Targets [N, T] -> dof targets [N, D]."""
    # Every dof has one action or none (scale 0), so a gather is enough. A matrix product would wake BLAS threads, which
    # take cores from the physics while they wait. NumPy, because a maximum in torch starts threads, after which the
    # process cannot be forked.
    coupling = np.array(hand.coupling)
    scale = torch.tensor(coupling.max(1), dtype=torch.float32, device=device)
    action = torch.from_numpy(coupling.argmax(1)).to(device)
    return lambda targets: targets.index_select(1, action) * scale
