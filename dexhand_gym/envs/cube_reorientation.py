"""CubeReorientation: turn a cube in the hand to one given orientation after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Dict, Literal, Tuple

import torch
from torch import Tensor

from dexhand_gym import rotations
from dexhand_gym.envs.in_hand import InHand, InHandConfig
from dexhand_gym.envs.mirror import QUATERNION, SAME
from dexhand_gym.fields import Annotated, Range
from dexhand_gym.hands.placing import constant
from dexhand_gym.sim import Scene

GHOST_HEIGHT = 0.12
"""The goal is shown this far above where the object lay, m."""


@dataclass
class CubeReorientationConfig(InHandConfig):
    """A cube that is turned to goals."""

    of_goal: ClassVar[Dict[str, Tuple[str, ...]]] = {"sight": ("goal_difference",), "touch": ("goal",)}

    episode_length: int = 3000
    """Control steps until time-out (60 s)."""
    goals: Literal["any", "yaw", "quarter"] = "any"
    """any: uniform over all orientations; yaw: turns of the start about the axis out of the palm; quarter: 90 degrees from
    the last goal about one of the object's axes."""
    success_tolerance: Annotated[float, Range(0, math.pi, above=True)] = 0.4
    """A goal is reached where what is left to turn is less than this, rad."""
    goal_time: Annotated[float, Range(0.1, 1e6)] = 8.0
    """too_slow: a goal is not reached within this, s."""
    max_goals: Annotated[int, Range(1, 10**6)] = 50
    """all_reached: so many goals in an episode."""
    critic_observation_keys: Tuple[str, ...] = (
        "object_in_palm",
        "active_finger_dof_vel",
        "goal_difference",
        "goal_age",
        "episode_time",
    )
    """What the critic sees in addition, in training."""
    reward_weights: Dict[str, float] = field(
        default_factory=lambda: {
            "rotation": 0.0,  # where being near is paid, a policy stays near the goal and does not reach it
            "progress": 2.0,
            "reached": 250.0,
            "drift": -0.5,
            "action": -0.002,
            "termination_failure_penalty": 100.0,
        }
    )
    """Weight of each reward term and ending."""

    @property
    def widens(self) -> bool:
        """The turns between goals do, unless they are all of 90 degrees."""
        return self.goals != "quarter"

    def validate(self) -> None:
        """Raises ValueError, one line, for values that contradict each other."""
        for name, of, active in (
            ("goal_time", "too_slow", self.active_failure_criteria),
            ("max_goals", "all_reached", self.active_success_criteria),
        ):
            value = getattr(self, name)
            if active and of not in active and value != getattr(CubeReorientationConfig, name):
                raise ValueError(f"task.{name} = {value}: allowed where {of} ends an episode, else it does nothing")
        super().validate()


def uniform(m: Dict[str, Tensor], count: Tensor) -> Tensor:
    """Three numbers [N, 3] in [0, 1) that follow from where the episode began, and from `count` [N]: as good as random, and
    the same whenever they are asked for. A multiplicative hash of the bits (Knuth, The Art of Computer Programming, volume
    3, 6.4); of few joints, and one for all three numbers, since a GPU waits longer for many small steps than for this."""
    bits = m["start_hand"][:, -6:].contiguous().view(torch.int32).long().sum(1)
    state = bits + (count.long() + 1) * 0x9E3779B97F4A7C1
    for _ in range(3):
        state = (state ^ (state >> 29)) * 0x9E3779B97F4A7C1  # wraps around
    return torch.stack([((state >> shift) & 0xFFFFF).float() / 0x100000 for shift in (4, 24, 44)], 1)


def any_orientation(numbers: Tensor) -> Tensor:
    """Uniform orientations [N, 4] from uniform numbers [N, 3] (Shoemake, Uniform Random Rotations, 1992)."""
    share, *angles = numbers.unbind(1)
    one, two = (2 * math.pi * angle for angle in angles)
    low, high = (1 - share).sqrt(), share.sqrt()
    return torch.stack((low * one.sin(), low * one.cos(), high * two.sin(), high * two.cos()), 1)


def about(axis: Tensor, angle: Tensor) -> Tensor:
    """Turns [N, 4] about axes of length 1 [N, 3] by angles [N]."""
    half = angle.unsqueeze(1) / 2
    return torch.cat((axis * half.sin(), half.cos()), 1)


def part_of(turn: Tensor, share: Tensor) -> Tensor:
    """The turn [N, 4] about the same axis by this share of its angle, which is pi at most."""
    w = turn[:, 3:].abs().clamp(max=1.0)
    half = torch.acos(w)
    vector = torch.where(turn[:, 3:] < 0, -turn[:, :3], turn[:, :3]) / (1 - w * w).clamp(min=1e-12).sqrt()
    return torch.cat((vector * torch.sin(share * half), torch.cos(share * half)), 1)


NEAREST = 0.25
"""Share of a turn with which a curriculum begins."""


def next_goal(m: Dict[str, Tensor], cfg: Any, last: Tensor) -> Tensor:
    """The goal [N, 4] after `goals_reached`, in the palm's frame; `last` is the one before, or the start. A uniform turn of
    any orientation is a uniform orientation, so that a curriculum can begin with shorter turns."""
    numbers = uniform(m, m["last_count"])
    if cfg.task.goals == "any":
        turn = any_orientation(numbers)
    elif cfg.task.goals == "yaw":
        turn = about(constant((1.0, 0.0, 0.0), numbers).expand(len(numbers), 3), (2 * numbers[:, 0] - 1) * math.pi)
    else:
        axis = torch.nn.functional.one_hot((numbers[:, 0] * 3).long().clamp(max=2), 3).to(numbers)
        return rotations.multiply(last, about(axis, (numbers[:, 1] < 0.5) * math.pi - math.pi / 2))
    if "curriculum_width" in m:
        turn = part_of(turn, NEAREST + (1 - NEAREST) * m["curriculum_width"].float())
    return rotations.multiply(turn, last)


def goal(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """The orientation that is wanted now [N, 4], in the palm's frame: another one in the step after one was reached."""
    now, begins = m["object_quat_in_palm"], (m["episode_step"] == 0).unsqueeze(1)
    last = torch.where(begins, now, m.get("prev_goal", now))
    anew = begins | (m.get("prev_reached", torch.zeros_like(now[:, 0])) > 0).unsqueeze(1)
    return torch.where(anew, next_goal(m, cfg, last), last)


def last_count(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """Goals reached before this step [N]."""
    return torch.where(m["episode_step"] == 0, 0.0, m.get("prev_goals_reached", torch.zeros_like(m["away"])))


def goal_age(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """Since when the goal has been wanted [N], s."""
    before = m.get("prev_goal_age", torch.zeros_like(m["away"]))
    anew = (m["episode_step"] == 0) | (m.get("prev_reached", before) > 0)
    return torch.where(anew, 0.0, before + cfg.control_dt)


def reached(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """1 where the object is as it is wanted [N]; not where an episode begins."""
    near = (m["goal_angle"] < cfg.task.success_tolerance) & (m["away"] <= cfg.task.max_away)
    return (near & (m["episode_step"] > 0)).float()


def shown_goal(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """World pose of the goal's ghost [N, 7]: above where the object lay at the start."""
    up = constant((0.0, 0.0, GHOST_HEIGHT), m["goal"])
    return torch.cat((m["start_object"][:, :3] + up, rotations.multiply(m["hand_pose"][:, 3:], m["goal"])), 1)


class CubeReorientation(InHand):
    """Turn a cube in the hand to a goal orientation, and when that is reached to the next, as often as possible in 60 s.

    **Actions, start** as CubeRotation.

    **Goals** `goals`, in the palm's frame; the next one is wanted from the step after the last was reached. Pictures show
    it as a ghost above the hand.

    **Observations** in_hand.SIGHT and goal_difference [N, 4], the turn that is left, in the palm's frame, with w >= 0; with
    `observe="touch"` in_hand.TOUCH and goal [N, 4]. Privileged: object_in_palm, active_finger_dof_vel, goal_difference,
    goal_age [N] s.

    **Rewards** (weights in `CubeReorientationConfig.reward_weights`; the shape is that of Isaac Gym's ShadowHand task)

    | term     | value                                                                     |
    |----------|---------------------------------------------------------------------------|
    | rotation | 1 / (what is left to turn, rad, + 0.1); weight 0                           |
    | progress | speed at which what is left to turn falls, rad/s                         |
    | reached  | 1 in the step in which a goal is reached                                  |
    | drift    | distance from where it lay at the start, seen from the palm, units of 5 cm |
    | action   | sum of squared actions                                                    |

    **Curriculum** with `randomize.curriculum` goals begin a quarter of a turn's length away and move to all of it, while this
    share of the goals is reached.

    **Figures** goals_reached: goals in the episode, one after the other.

    **Ends** by success `all_reached` (50 goals), by failure `dropped` or `too_slow` (a goal not reached in 8 s), or by
    time-out after 3000 steps.
    """

    config = CubeReorientationConfig
    quantities = {
        **InHand.quantities,
        "last_count": last_count,
        "goal": goal,
        "goal_age": goal_age,
        "goal_difference": lambda m, cfg: difference(m["goal"], m["object_quat_in_palm"]),
        "goal_angle": lambda m, cfg: angle_of(m["goal_difference"]),
        "reached": reached,
        "goals_reached": lambda m, cfg: m["last_count"] + m["reached"],
        "shown_goal": shown_goal,
    }
    remembered = (*InHand.remembered, "goal", "goal_age", "goal_angle", "reached", "goals_reached")
    figures = ("goals_reached",)
    mirrors = {**InHand.mirrors, **dict.fromkeys(("goal", "goal_difference"), QUATERNION), "goal_age": SAME}
    train_defaults = {
        **InHand.train_defaults,
        "max_iterations": 1500,
        "learning_rate": 5e-4,
        "num_minibatches": 16,
        "reward_scale": 0.01,
        "units": (1024, 512, 256),
    }

    def scene(self) -> Scene:
        """The object in the hand, and the goal's ghost."""
        scene = super().scene()
        return replace(scene, ghosts=(replace(scene.objects[0], name="shown_goal"),))

    @staticmethod
    def rewards(m: Dict[str, Tensor], cfg: Any) -> Dict[str, Tensor]:
        """Unweighted terms, see the class's table."""
        return {
            "rotation": 1.0 / (m["goal_angle"] + 0.1),
            "progress": torch.where(m["goal_age"] > 0, m["prev_goal_angle"] - m["goal_angle"], 0.0) / cfg.control_dt,
            "reached": m["reached"],
            "drift": m["away"] / 0.05,
            "action": m["last_actions"].square().sum(1),
        }

    def mastered(self, statistics: Dict[str, float]) -> float:
        """Goals that are reached, of those that are wanted: an episode ends at the first that is not, if there is one."""
        reached, all_reached = (statistics.get(name, 0.0) for name in ("figure/goals_reached", "ending/all_reached"))
        return reached / max(reached + 1 - all_reached, 1e-9)

    @staticmethod
    def successes(m: Dict[str, Tensor], cfg: Any) -> Dict[str, Tensor]:
        """All goals."""
        return {"all_reached": m["goals_reached"] >= cfg.task.max_goals}

    @staticmethod
    def failures(m: Dict[str, Tensor], cfg: Any) -> Dict[str, Tensor]:
        """It lies in the hand no more, or the goal takes too long."""
        return {**InHand.failures(m, cfg), "too_slow": (m["goal_age"] > cfg.task.goal_time) & (m["reached"] == 0)}


def difference(wanted: Tensor, now: Tensor) -> Tensor:
    """The turn that brings `now` to `wanted`, both [N, 4]; w >= 0."""
    turn = rotations.multiply(wanted, rotations.conjugate(now))
    return torch.where(turn[:, 3:] < 0, -turn, turn)


def angle_of(turn: Tensor) -> Tensor:
    """The angle [N] of turns [N, 4] with w >= 0, rad."""
    return 2 * torch.atan2(torch.linalg.vector_norm(turn[:, :3], dim=1), turn[:, 3])
