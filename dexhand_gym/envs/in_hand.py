"""What tasks share in which an object lies in a hand whose palm looks up, and is moved there by the fingers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Dict, List, Literal, Tuple

import torch
from torch import Tensor

from dexhand_gym import rotations
from dexhand_gym.envs.config import TaskConfig
from dexhand_gym.envs.in_hand_starts import lying_in_hand
from dexhand_gym.envs.mirror import HAND_MIRRORS, POSE, VELOCITY
from dexhand_gym.envs.quantities import distance
from dexhand_gym.envs.vec_env import DexHandVecEnv
from dexhand_gym.fields import Annotated, Range
from dexhand_gym.hands.mjcf import multiply
from dexhand_gym.sim import Scene

SIGHT = (
    "active_finger_dof_pos",
    "active_finger_dof_vel",
    "active_finger_dof_target",
    "contact_force_magnitude",
    "object_in_palm",
    "last_actions",
)
"""What a policy sees that sees the object."""
TOUCH = (
    "active_finger_dof_pos",
    "active_finger_dof_target",
    "fingertip_normal_force",
    "fingertip_tangential_force",
    "fingertip_tangential_direction",
    "last_actions",
)
"""What a blind policy sees: all of it is reported by the real hand."""
WRIST = ("base_dof_pos", "base_dof_target")
"""What it sees besides where it moves the wrist."""
SIZES = 5
"""Sizes for which starts are made where they are random."""


@dataclass
class InHandConfig(TaskConfig):
    """An object in an open hand."""

    one_hand: ClassVar[bool] = True
    of_goal: ClassVar[Dict[str, Tuple[str, ...]]] = {"sight": (), "touch": ()}
    """What the policy sees of a goal, if there is one."""

    episode_length: int = 1000
    """Control steps until time-out (20 s)."""
    policy_controls_base: bool = False
    """The policy turns the wrist, too, within wrist_range."""
    max_linear_velocity: float = 0.1
    """Speed limit of the base's targets, m/s; in_hand tasks let the base turn, not slide."""
    max_angular_velocity: float = 1.0
    """Speed limit of the base's targets, rad/s."""
    max_finger_velocity: float = 5.0
    """Speed limit of the fingers' targets, rad/s."""
    tilt: Annotated[float, Range(-0.6, 0.6)] = 0.2
    """The palm looks up, and the fingers point up by this, rad."""
    wrist_range: Annotated[float, Range(0, 0.6)] = 0.35
    """The wrist turns by at most this about each axis, rad (20 degrees), with policy_controls_base."""
    max_away: Annotated[float, Range(0, 1, above=True)] = 0.08
    """dropped: distance of the object's middle from where it lay at the start, seen from the palm, m."""
    observe: Literal["sight", "touch"] = "sight"
    """What the policy sees: the object too, or only what the hand reports (in_hand.SIGHT, TOUCH), which then take the
    place of policy_observation_keys."""
    policy_observation_keys: Tuple[str, ...] = SIGHT
    """What the policy sees, in this order."""
    critic_observation_keys: Tuple[str, ...] = ("object_in_palm", "active_finger_dof_vel", "episode_time")
    """What the critic sees in addition, in training."""

    def validate(self) -> None:
        """Raises ValueError, one line, for values that contradict each other. Puts the policy's keys in place that
        `observe` stands for, so that a run's config.yaml has both."""
        sees = {"sight": SIGHT + self.of_goal["sight"], "touch": TOUCH + self.of_goal["touch"]}
        own = self.policy_observation_keys not in (SIGHT, *sees.values(), *(keys + WRIST for keys in sees.values()))
        if own and self.observe != "sight":
            raise ValueError(
                f"task.policy_observation_keys: allowed are none of your own next to task.observe = {self.observe!r}"
            )
        if not own:
            self.policy_observation_keys = sees[self.observe] + (WRIST if self.policy_controls_base else ())
        if self.wrist_range != InHandConfig.wrist_range and not self.policy_controls_base:
            raise ValueError(
                f"task.wrist_range = {self.wrist_range}: allowed with task.policy_controls_base True, else it does nothing"
            )
        super().validate()


def in_palm(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """State of the object as seen from the palm [N, 13]: position, m; orientation; linear and angular velocity."""
    palm, thing, motion = m["hand_pose"], m["object"], m["hand_vel"]
    turn, lever = palm[:, 3:], thing[:, :3] - palm[:, :3]
    carried = motion[:, :3] + torch.linalg.cross(motion[:, 3:], lever)
    vectors = (lever, thing[:, 7:10] - carried, thing[:, 10:] - motion[:, 3:])
    position, linear, angular = (rotations.rotate_inverse(turn, x) for x in vectors)
    return torch.cat((position, rotations.multiply(rotations.conjugate(turn), thing[:, 3:7]), linear, angular), 1)


def first(m: Dict[str, Tensor], name: str, value: Tensor) -> Tensor:
    """What `value` [N, ...] was when the episode began, for a quantity `name` that is remembered."""
    begins = (m["episode_step"] == 0).view(-1, *[1] * (value.dim() - 1))
    return torch.where(begins, value, m.get(f"prev_{name}", value))


def rotation_vector(q: Tensor) -> Tensor:
    """Axis times angle [..., 3] of rotations [..., 4] by pi at most, rad."""
    vector, w = torch.where(q[..., 3:] < 0, -q[..., :3], q[..., :3]), q[..., 3:].abs()
    length = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    return vector * (2 * torch.atan2(length, w) / length.clamp(min=1e-9))


class InHand(DexHandVecEnv):
    """The object of `env.object`, a cube of 5 cm and 100 g, in an open hand whose palm looks up.

    **Frame** of the palm: x out of it, y across, z along the fingers.

    **Observations** object_in_palm [N, 13]: its state as seen from the palm.

    **Start** one of the states in which it lies still in the hand (in_hand_starts.py), of its size; the fingers' targets
    within +-0.01 rad of that.

    **Ends** by failure `dropped`, or by time-out after 1000 steps (20 s).
    """

    config = InHandConfig
    quantities = {
        **DexHandVecEnv.quantities,
        "object_in_palm": in_palm,
        "object_quat_in_palm": lambda m, cfg: m["object_in_palm"][:, 3:7],
        "first_place": lambda m, cfg: first(m, "first_place", m["object_in_palm"][:, :3]),
        "away": lambda m, cfg: distance(m["object_in_palm"][:, :3], m["first_place"]),
    }
    remembered = ("first_place",)
    mirrors = {**HAND_MIRRORS, "object_in_palm": (*POSE, *(x + 7 if x > 0 else x - 7 for x in VELOCITY))}
    train_defaults = {
        "max_iterations": 1000,
        "learning_rate": 1e-3,
        "lr_schedule": "linear",
        "gamma": 0.99,
        "reward_scale": 0.1,
        "separate": False,
    }

    fusible = (*DexHandVecEnv.fusible, "_lying")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        most = {"slide": 0.0, "turn": self.task.wrist_range}
        for column, kind in enumerate(self.hand.action_kinds):
            if kind != "finger":
                self.limits.lower[column], self.limits.upper[column] = -most[kind], most[kind]

    @cached_property
    def _fingers(self) -> Tensor:
        """1 for action targets of fingers [T], 0 for the base's."""
        return torch.tensor([float(kind == "finger") for kind in self.hand.action_kinds], device=self.device)

    def scene(self) -> Scene:
        """The object, and the hand turned over."""
        env, half = self.cfg.env, self.task.tilt / 2
        if env.object.fixed:
            raise ValueError("env.object.fixed = True: allowed is False, for this task turns it")
        w, x, y, z = multiply((math.cos(half), 0.0, -math.sin(half), 0.0), (0.0, 1.0, 0.0, 0.0))
        thing = replace(env.object, name="object", marks=env.object.shape == "box")
        return Scene(env.hand_height, objects=(thing,), spacing=env.spacing, hand_quat=(x, y, z, w))

    @cached_property
    def _starts(self) -> List[Tensor]:
        """Sizes [S], number of starts of each [S], and action targets with poses [S, most, T + 7]."""
        thing, sizes = self.sim.scene.free[0], self.task.randomize.box_size
        usual = max(thing.extents)
        steps = [sizes[0] + (sizes[1] - sizes[0]) * i / (SIZES - 1) for i in range(SIZES)] if sizes else [usual]
        found = []
        for size in dict.fromkeys(steps):
            scaled = tuple(x * size / usual for x in thing.size) if isinstance(thing.size, tuple) else size
            scene = replace(self.sim.scene, objects=(replace(thing, size=scaled if sizes else thing.size),))
            try:
                found.append(torch.cat(lying_in_hand(scene), 1))
            except ValueError as error:
                raise ValueError(f"task.randomize.box_size = {sizes}: {error}" if sizes else str(error)) from None
        most = max(map(len, found))
        rows = torch.stack([rows[torch.arange(most) % len(rows)] for rows in found])
        tables = (torch.tensor(list(dict.fromkeys(steps))), torch.tensor([len(rows) for rows in found]), rows)
        return [table.to(self.device) for table in tables]

    def sample_start(self) -> Dict[str, Tensor]:
        """An object that lies in the hand: of the next larger size that there are starts for."""
        return self._lying(self.uniform(0.0, 1.0, 1), self.uniform(-0.01, 0.01, self.hand.num_actions))

    def _lying(self, share: Tensor, jitter: Tensor) -> Dict[str, Tensor]:
        """The start at this share of those that there are [N, 1] in [0, 1), and fingers beside it [N, T]."""
        sizes, counts, rows = self._starts
        size = (self.raw["object_size"] > sizes + 1e-6).sum(1).clamp(max=len(sizes) - 1)
        which = (share[:, 0] * counts[size]).floor().long()
        targets, pose = rows[size, which].split((self.hand.num_actions, 7), 1)
        targets = targets + jitter * self._fingers
        return {"hand": targets.clamp(self.limits.lower, self.limits.upper), "object": pose}

    @staticmethod
    def failures(m: Dict[str, Tensor], cfg: Any) -> Dict[str, Tensor]:
        """It lies in the hand no more."""
        return {"dropped": m["away"] > cfg.task.max_away}
