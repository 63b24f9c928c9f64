"""BimanualLift: two hands lift a box that one cannot hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Dict, Tuple

import torch
from torch import Tensor

from dexhand_gym import rotations
from dexhand_gym.envs.config import Config, TaskConfig
from dexhand_gym.envs.quantities import distance, half_extents
from dexhand_gym.envs.vec_env import DexHandVecEnv
from dexhand_gym.fields import Annotated, Range, shortened
from dexhand_gym.hands.pair import parts_of
from dexhand_gym.hands.placing import constant, palm_surface
from dexhand_gym.objects import Box, Object
from dexhand_gym.shapes import distance as surface_distance
from dexhand_gym.sim import Scene

Way = Annotated[float, Range(0, 10)]
WIDEST = 0.5
"""Edge of the largest box, m."""
ASIDE = 0.075
"""From a hand's middle to the box where an episode begins, m: 5 cm from the palm's skin."""
OF_A_HAND = (
    "base_dof_pos",
    "base_dof_target",
    "active_finger_dof_pos",
    "active_finger_dof_target",
    "contact_force_magnitude",
)
"""What the policy sees of each hand."""


@dataclass
class BimanualLiftConfig(TaskConfig):
    """Two hands lift a large box."""

    needs_hand: ClassVar[str] = "both"
    episode_length: int = 400
    """Control steps until time-out (8 s)."""
    max_linear_velocity: float = 0.15
    """Speed limit of the bases' targets, m/s."""
    max_angular_velocity: float = 0.5
    """Speed limit of the bases' targets, rad/s."""
    box_size: Annotated[float, Range(0.05, WIDEST)] = 0.25
    """Edge of the box, m."""
    box_mass: Annotated[float, Range(0, 100, above=True)] = 0.8
    """kg."""
    policy_observation_keys: Tuple[str, ...] = (
        *(f"{side}.{name}" for side in ("left", "right") for name in OF_A_HAND),
        "press",
        "palms_to_box",
        "object_pos",
        "object_quat",
        "object_vel",
        "last_actions",
    )
    """What the policy sees, in this order: both hands, and where the box is."""
    critic_observation_keys: Tuple[str, ...] = ("hold_duration", "episode_time")
    """What the critic sees in addition, in training."""
    init_box_position_range: Way = 0.02
    """The box starts within +- this of the origin in x and y, m."""
    init_box_rotation_range: Annotated[float, Range(0, torch.pi)] = 0.1
    """The box starts within +- this yaw, rad."""
    init_hand_position_range: Way = 0.02
    """Each hand starts within +- this of its place beside the box, in x, y and z, m."""
    init_hand_rotation_range: Annotated[float, Range(0, torch.pi)] = 0.1
    """Each hand starts within +- this of it about x, y and z, rad."""
    success_height: Annotated[float, Range(0, 10, above=True)] = 0.2
    """The box must rise by this, m."""
    success_duration: Annotated[float, Range(0, 1e6, above=True)] = 1.0
    """The box must stay that high, upright and between both hands, for this long, s."""
    least_press: Annotated[float, Range(0, 1000)] = 1.0
    """A hand is on the box while something presses on it with more than this, N, and its palm is within 5 cm."""
    max_tilt: Annotated[float, Range(0, torch.pi)] = 0.5
    """box_tilted: angle between the box's axis and the vertical, rad."""
    max_box_push: Annotated[float, Range(0, 100, above=True)] = 0.2
    """box_pushed_away: horizontal distance of the box from where it started, m."""
    min_palm_height: Annotated[float, Range(-10, 10)] = 0.03
    """hitting_ground: a palm's frame below this, m."""
    reward_weights: Dict[str, float] = field(
        default_factory=lambda: {
            "reach": 0.5,
            "both": 1.0,
            "lift": 10.0,
            "hold": 5.0,
            "action": -0.01,
            "termination_success": 2000.0,
        }
    )
    """Weight of each reward term and ending."""


def palms(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """Middles of the palms' skins [N, hands, 3], m."""
    found = [palm_surface(part.hand, m[f"{part.name}.hand_pose"])[:, :3] for part in parts_of(cfg.hand)]
    return torch.stack(found, 1)


def palms_to_box(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """Distance of each palm to the box's surface [N, hands], m; 0 inside."""
    box = m["box"].unsqueeze(1)
    local = rotations.rotate_inverse(box[..., 3:7], m["palms"] - box[..., :3])
    return surface_distance("box", local, half_extents(m["box_size"], Object()).unsqueeze(1))


def press(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """Force on the body of each hand that feels the most [N, hands], N."""
    found = [torch.linalg.vector_norm(m[f"{part.name}.body_forces"], dim=-1).amax(1) for part in parts_of(cfg.hand)]
    return torch.stack(found, 1)


class BimanualLift(DexHandVecEnv):
    """Two hands, 40 cm apart and facing each other, lift a cube of 25 cm and 0.8 kg by 20 cm and hold it for 1 s.

    **Actions** Box(-1, 1, (36,)): base 6 and fingers 12 of the left hand, then of the right one, each as BaseTask's;
    limits 0.15 m/s, 0.5 rad/s (bases), 1.0 rad/s (fingers).

    **Observations** of each hand what `OF_A_HAND` names, as `left.base_dof_pos`; press [N, 2] force on the body of a
    hand that feels the most, N; palms_to_box [N, 2] m; object_pos 3, object_quat 4, object_vel 6. Privileged:
    hold_duration 1, s that the success condition has held.

    **Rewards** (weights in `BimanualLiftConfig.reward_weights`)

    | term   | value                                                          |
    |--------|----------------------------------------------------------------|
    | reach  | mean over the palms of exp(-10 / m * distance to the box)      |
    | both   | both hands on the box                                          |
    | lift   | rise / rise needed, clipped to [0, 1], while both hands are on |
    | hold   | s that the success condition has held / s needed               |
    | action | sum of squared actions                                         |

    **Start** the box on the ground within +-2 cm of the origin and +-0.1 rad of yaw; each palm beside it, at its middle's
    height, 5 cm from it, +-2 cm and +-0.1 rad; fingers straight.

    **Ends** by success `lifted_by_both`, by failure `hitting_ground`, `box_tilted`, `box_pushed_away`, or by time-out.
    """

    config = BimanualLiftConfig
    quantities = {
        **DexHandVecEnv.quantities,
        "object_pos": lambda m, cfg: m["box"][:, :3],
        "object_quat": lambda m, cfg: m["box"][:, 3:7],
        "object_vel": lambda m, cfg: m["box"][:, 7:],
        "palms": palms,
        "palms_to_box": palms_to_box,
        "press": press,
        "on_box": lambda m, cfg: ((m["press"] > cfg.task.least_press) & (m["palms_to_box"] < 0.05)).float(),
        "rise": lambda m, cfg: m["object_pos"][:, 2] - m["start_box"][:, 2],
        "push": lambda m, cfg: distance(m["object_pos"][:, :2], m["start_box"][:, :2]),
        "held_high": lambda m, cfg: (m["rise"] > cfg.task.success_height) & (m["on_box"].amin(1) > 0),
    }
    timers = {**DexHandVecEnv.timers, "hold_duration": "held_high"}
    train_defaults = {
        "max_iterations": 500,
        "learning_rate": 1e-3,
        "lr_schedule": "linear",
        "gamma": 0.99,
        "reward_scale": 0.02,
        "separate": False,
    }

    def scene(self) -> Scene:
        """The box."""
        if self.cfg.env.object != Object():
            said = shortened(repr(self.cfg.env.object))
            raise ValueError(f"env.object = {said}: this task has a box of task.box_size and task.box_mass")
        sizes = self.task.randomize.box_size
        if sizes and sizes[1] > WIDEST:
            raise ValueError(f"task.randomize.box_size = {sizes}: allowed is at most {WIDEST} m")
        box = Box(name="box", size=self.task.box_size, mass=self.task.box_mass, friction=0.8)
        return Scene(self.cfg.env.hand_height, objects=(box,), spacing=1.2)

    def sample_start(self) -> Dict[str, Tensor]:
        """The box near the origin, the hands beside it."""
        task, columns = self.task, []
        half = self.raw["box_size"] / 2  # [N, 1]
        for part in parts_of(self.hand):
            targets = torch.zeros(self.num_envs, part.hand.num_actions, device=self.device)
            side, turn = part.placed.position[1], constant(part.placed.quat, targets).expand(self.num_envs, 4)
            beside = math.copysign(1.0, side) * (half + ASIDE) - side
            place = torch.cat((torch.zeros_like(half), beside, half - self.cfg.env.hand_height), 1)
            targets[:, :3] = rotations.rotate_inverse(turn, place)
            targets[:, :3] += self.uniform(-task.init_hand_position_range, task.init_hand_position_range, 3)
            targets[:, 3:6] += self.uniform(-task.init_hand_rotation_range, task.init_hand_rotation_range, 3)
            columns.append(targets)
        position = self.uniform(-task.init_box_position_range, task.init_box_position_range, 3)
        position[:, 2:] = half
        yaw = self.uniform(-task.init_box_rotation_range, task.init_box_rotation_range, 1)[:, 0]
        hands = torch.cat(columns, 1).clamp(self.limits.lower, self.limits.upper)
        return {"hand": hands, "box": torch.cat((position, rotations.from_z_angle(yaw)), 1)}

    @staticmethod
    def rewards(m: Dict[str, Tensor], cfg: Config) -> Dict[str, Tensor]:
        """Unweighted terms, see the class's table."""
        both = m["on_box"].amin(1)
        return {
            "reach": torch.exp(-10.0 * m["palms_to_box"]).mean(1),
            "both": both,
            "lift": (m["rise"] / cfg.task.success_height).clamp(0.0, 1.0) * both,
            "hold": (m["hold_duration"] / cfg.task.success_duration).clamp(0.0, 1.0),
            "action": m["last_actions"].square().sum(1),
        }

    @staticmethod
    def successes(m: Dict[str, Tensor], cfg: Config) -> Dict[str, Tensor]:
        """Held high for long enough."""
        return {"lifted_by_both": m["hold_duration"] >= cfg.task.success_duration - 1e-4}

    @staticmethod
    def failures(m: Dict[str, Tensor], cfg: Config) -> Dict[str, Tensor]:
        """A hand is in the ground, or the box is lost."""
        x, y = m["object_quat"][:, 0], m["object_quat"][:, 1]
        upright = 1.0 - 2.0 * (x.square() + y.square())  # cosine of the tilt
        lowest = torch.stack([m[f"{part.name}.hand_pose"][:, 2] for part in parts_of(cfg.hand)], 1).amin(1)
        return {
            "hitting_ground": lowest < cfg.task.min_palm_height,
            "box_tilted": upright < torch.cos(torch.full_like(upright, cfg.task.max_tilt)),
            "box_pushed_away": m["push"] > cfg.task.max_box_push,
        }
