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
newest observation. Where an action or what a stage returns is not finite, the drives keep their targets and the episode
ends as `nonfinite`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor


class Limits(NamedTuple):
    """Of the action targets; each field is a tensor with one entry per column."""

    lower: Tensor
    upper: Tensor
    max_change: Tensor
    """Largest change of a target in one control step."""


def as_tensor(actions: Any, shape: Tuple[int, ...]) -> Tensor:
    """Numbers of any type, in whatever holds them, as a tensor. Raises TypeError or ValueError, one line, for what is no
    array of numbers or has another shape."""
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
    """[-1, 1] spans the range of the target; the way there is clamped by the velocity limit."""
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
