"""CubeRotation: keep a cube turning in the hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Dict, Literal, Tuple, Union

import torch
from torch import Tensor

from dexhand_gym import rotations
from dexhand_gym.envs.in_hand import InHand, InHandConfig, rotation_vector
from dexhand_gym.fields import Annotated, Range
from dexhand_gym.hands.placing import constant

Part = Annotated[float, Range(-1000, 1000)]
AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


@dataclass
class CubeRotationConfig(InHandConfig):
    """A cube that turns about an axis."""

    axis: Union[Literal["x", "y", "z"], Tuple[Part, Part, Part]] = "x"
    """The axis in the palm's frame: x out of the palm, y across, z along the fingers, or a vector. The left hand turns as
    the right one does in the mirror: about -x, y, -z."""
    max_speed: Annotated[float, Range(0, 100, above=True)] = 2.0
    """Turning faster than this earns no more, rad/s."""
    reward_weights: Dict[str, float] = field(
        default_factory=lambda: {
            "spin": 2.0,
            "other_spin": -0.1,
            "drift": -0.5,
            "action": -0.005,
            "termination_failure_penalty": 100.0,  # with 10 a policy rolls the cube off the hand, for the turn that is
        }
    )
    """Weight of each reward term and ending."""

    def validate(self) -> None:
        """Raises ValueError, one line, for values that contradict each other."""
        if isinstance(self.axis, tuple) and not any(self.axis):
            raise ValueError(f"task.axis = {self.axis}: allowed is a vector that is not zero")
        for name in ("x", "y", "z"):
            if self.axis == AXES[name]:
                self.axis = name
        super().validate()


def turned(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """By how much the object has turned in the last control step, as seen from the palm: axis times angle over the step's
    length [N, 3], rad/s. Of what really turned, since a velocity can be of something that only shakes."""
    now, before = m["object_quat_in_palm"], m["prev_object_quat_in_palm"]
    return rotation_vector(rotations.multiply(now, rotations.conjugate(before))) / cfg.control_dt


def about_axis(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """Speed of the last control step's turn about the axis [N], rad/s."""
    return (m["turned"] * axis_of(m, cfg)).sum(1)


def axis_of(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """The axis, of length 1, in the palm's frame [3]."""
    axis = AXES[cfg.task.axis] if isinstance(cfg.task.axis, str) else cfg.task.axis
    if cfg.env.hand == "left":
        axis = (-axis[0], axis[1], -axis[2])
    return constant(tuple(x / math.hypot(*axis) for x in axis), m["turned"])


def turns(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """Full turns about the axis since the episode began [N]; those backwards count against it."""
    now = m["speed"] * cfg.control_dt / (2 * math.pi)
    return torch.where(m["episode_step"] == 0, torch.zeros_like(now), m.get("prev_turns", now) + now)


class CubeRotation(InHand):
    """Turn a cube in the hand about an axis of the palm, for as long as possible.

    **Actions** Box(-1, 1, (12,)) speeds of the fingers' targets; limit 5 rad/s. With `policy_controls_base` the base's
    six, too, of which the turns move within +-20 degrees.

    **Observations** in_hand.SIGHT: joints, touch and object_in_palm; with `observe="touch"` in_hand.TOUCH, of which the
    real hand reports all. Privileged: object_in_palm, active_finger_dof_vel.

    **Rewards** (weights in `CubeRotationConfig.reward_weights`)

    | term       | value                                                                                    |
    |------------|------------------------------------------------------------------------------------------|
    | spin       | speed of the turn about the axis, rad/s, of what really turned; max_speed at most        |
    | other_spin | speed of the rest of the turn, rad/s                                                     |
    | drift      | distance from where it lay at the start, seen from the palm, in units of 5 cm            |
    | action     | sum of squared actions                                                                   |

    **Curriculum** with `randomize.curriculum` variations widen while this share is reached of cubes that are kept, times
    that of max_speed.

    **Figures** turns: full turns about the axis; mean_speed: rad/s over the whole episode.

    **Start, ends** as InHand.
    """

    config = CubeRotationConfig
    quantities = {
        **InHand.quantities,
        "turned": turned,
        "speed": about_axis,
        "turns": turns,
        "mean_speed": lambda m, cfg: 2 * math.pi * m["turns"] / m["episode_time"][:, 0].clamp(min=cfg.control_dt),
    }
    remembered = (*InHand.remembered, "object_quat_in_palm", "turns")
    figures = ("turns", "mean_speed")

    def mastered(self, statistics: Dict[str, float]) -> float:
        """Share of cubes that are kept, times that of max_speed with which they turn."""
        kept, speed = (statistics.get(name, 0.0) for name in ("ending/time_out", "figure/mean_speed"))
        return kept * min(max(speed / self.task.max_speed, 0.0), 1.0)

    @staticmethod
    def rewards(m: Dict[str, Tensor], cfg: Any) -> Dict[str, Tensor]:
        """Unweighted terms, see the class's table."""
        speed = m["speed"]
        rest = m["turned"] - speed.unsqueeze(1) * axis_of(m, cfg)
        return {
            "spin": speed.clamp(
                max=cfg.task.max_speed
            ),  # not from below: else turning slowly and jerking back would pay
            "other_spin": torch.linalg.vector_norm(rest, dim=1),
            "drift": m["away"] / 0.05,
            "action": m["last_actions"].square().sum(1),
        }
