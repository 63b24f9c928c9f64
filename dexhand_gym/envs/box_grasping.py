"""BoxGrasping: grasp a 5 cm cube blind, lift it over 20 cm and hold it for two seconds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Dict, Literal, Tuple

import torch
from torch import Tensor

from dexhand_gym import rotations
from dexhand_gym.envs.config import Config, TaskConfig
from dexhand_gym.envs.hardware import HARDWARE
from dexhand_gym.envs.mirror import HAND_MIRRORS, QUATERNION, SAME, VECTOR, VELOCITY
from dexhand_gym.envs.quantities import distance, half_extents, pair_distances
from dexhand_gym.envs.vec_env import DexHandVecEnv
from dexhand_gym.fields import Annotated, Range, shortened
from dexhand_gym.meshes import mesh_distance
from dexhand_gym.shapes import distance as surface_distance
from dexhand_gym.sim import Scene

Way = Annotated[float, Range(0, 10)]
Height = Annotated[float, Range(-10, 10)]


@dataclass
class BoxGraspingConfig(TaskConfig):
    """Blind grasp and lift of a cube."""

    one_hand: ClassVar[bool] = True

    episode_length: int = 500
    """Control steps until time-out (10 s)."""
    max_linear_velocity: float = 0.1
    """Speed limit of the base's targets, m/s."""
    max_angular_velocity: float = 0.5
    """Speed limit of the base's targets, rad/s."""
    observe: Literal["simulation", "hardware"] = "simulation"
    """What the policy sees: policy_observation_keys as they stand, or what the real hand and its arm report
    (hardware.HARDWARE), which then take the place of these keys."""
    policy_observation_keys: Tuple[str, ...] = (
        "base_dof_pos",
        "base_dof_vel",
        "base_dof_target",
        "active_finger_dof_pos",
        "active_finger_dof_vel",
        "active_finger_dof_target",
        "contact_forces",
        "contact_force_magnitude",
        "contact_binary",
        "contact_duration",
        "last_actions",
        "first_three_fingerpad_centroid",
        "fingerpad_distances",
    )
    """What the policy sees, in this order: proprioception and touch, nothing of the object."""
    critic_observation_keys: Tuple[str, ...] = (
        "object_pos",
        "object_quat",
        "object_vel",
        "finger_to_object_distances",
        "finger_box_contact",
        "grasp_duration",
        "episode_time",
    )
    """What the critic sees in addition, in training: where the object is and how long it has been held."""
    init_box_position_range: Way = 0.02
    """The box starts within +- this of the origin in x and y, at any yaw, m."""
    start_height: Way = 0.1
    """The hand starts this far above the pre-grasp pose, m: clear of the box anywhere in the ranges below."""
    init_hand_position_range: Way = 0.03
    """The hand starts within +- this of that position in x, y and z, m."""
    init_hand_rotation_range: Annotated[float, Range(0, torch.pi)] = 0.2
    """The hand starts within +- this of the pre-grasp pose about x, y and z, rad."""
    success_height: Annotated[float, Range(0, 10, above=True)] = 0.2
    """The box's centre must rise above this, m."""
    success_duration: Annotated[float, Range(0, 1e6, above=True)] = 2.0
    """The box must stay above success_height, in the hand, for this long, s."""
    min_fingers_for_grasp: Annotated[int, Range(1, 5)] = 2
    """The box is in the hand while at least this many fingers are on it."""
    min_palm_height: Height = 0.03
    """hitting_ground: the palm's frame below this, m."""
    min_finger_height: Height = -0.002
    """hitting_ground: a fingertip's or pad's frame below this, m. These frames are on the skin, and the ground yields
    by about 2 mm under 10 N: touching it is allowed, pushing is not."""
    max_box_distance: Annotated[float, Range(0, 100, above=True)] = 0.6
    """box_too_far: palm to box, m."""
    max_box_push: Annotated[float, Range(0, 100, above=True)] = 0.12
    """box_pushed_away: horizontal distance of the box from where it started, m."""
    reward_weights: Dict[str, float] = field(
        default_factory=lambda: {
            "reach": 0.3,
            "thumb_contact": 0.5,
            "finger_contact": 0.5,
            "grasp": 2.0,
            "lift": 10.0,
            "hold": 5.0,
            "action": -0.03,
            "object_height": 0.0,
            "single_finger_contact": 0.0,
            "multi_finger_contact": 0.0,
            "finger_to_object": 0.0,
            "fingerpad_to_box_centroid": 0.0,
            "hand_to_object": 0.0,
            "grasp_duration": 0.0,
            "termination_success": 10000.0,  # more than holding on to the cube could earn
        }
    )
    """Weight of each reward term and ending."""

    def validate(self) -> None:
        """Raises ValueError, one line, for values that contradict each other. Puts in place the policy's keys that
        `observe` stands for, so that a run's config.yaml has both."""
        keys, ours = self.policy_observation_keys, type(self)().policy_observation_keys
        if self.observe == "hardware" and keys not in (ours, HARDWARE):
            allowed = "none next to task.observe = 'hardware'"
            raise ValueError(f"task.policy_observation_keys = {shortened(repr(keys))}: allowed are {allowed}")
        if self.observe == "simulation" and keys == HARDWARE != ours:
            raise ValueError(
                "task.observe = 'simulation': allowed with policy_observation_keys of hardware is 'hardware'"
            )
        if self.observe == "hardware":
            self.policy_observation_keys = HARDWARE
        super().validate()


def pads_to_surface(m: Dict[str, Tensor], cfg: Config) -> Tensor:
    """Distance of each finger pad to the object's surface [N, F], m; 0 inside."""
    box, thing = m["box"].unsqueeze(1), cfg.env.object
    local = rotations.rotate_inverse(box[..., 3:7], m["pads"][..., :3] - box[..., :3])
    if thing.shape == "mesh":
        return mesh_distance(local, thing.file, thing.first_size, thing.parts)
    return surface_distance(thing.shape, local, m["box_half"].unsqueeze(1))


def finger_box_contact(m: Dict[str, Tensor], cfg: Config) -> Tensor:
    """1 where a finger's distal link is pressed and its pad is within 2 cm of the cube (else it is the ground) [N,
    F]."""
    return m["contact_binary"] * (m["pads_to_surface"] < 0.02)


def held_high(m: Dict[str, Tensor], cfg: Config) -> Tensor:
    """The success condition of this instant [N] bool: high enough, with enough fingers on the cube."""
    fingers = m["finger_box_contact"].sum(1)
    return (m["object_pos"][:, 2] > cfg.task.success_height) & (fingers >= cfg.task.min_fingers_for_grasp)


class BoxGrasping(DexHandVecEnv):
    """Grasp a 5 cm, 100 g cube without seeing it, lift it over 20 cm, hold it for 2 s.

    **Actions** Box(-1, 1, (18,)) as BaseTask's; limits 0.1 m/s, 0.5 rad/s (base), 1.0 rad/s (fingers).

    **Observations** proprioception and touch: `BoxGraspingConfig.policy_observation_keys`, or with `observe="hardware"`
    what the real hand reports (hardware.py). The object is in privileged ones only: object_pos 3, object_quat 4,
    object_vel 6, finger_to_object_distances 5 (pad to centre), hand_to_object_distance 1, finger_box_contact 5,
    grasp_duration 1 (s that the success condition has held).

    **Rewards** (weights in `BoxGraspingConfig.reward_weights`)

    | term                      | value                                                                                   |
    |---------------------------|-----------------------------------------------------------------------------------------|
    | reach                     | mean over the first three pads of exp(-25 / m * distance to the cube's surface)         |
    | thumb_contact             | thumb on the cube, faded by exp(-10 / m * way the cube was pushed)                      |
    | finger_contact            | another finger on the cube, faded likewise                                              |
    | grasp                     | thumb and another finger on the cube                                                    |
    | lift                      | rise / rise needed, clipped to [0, 1], while grasped                                    |
    | hold                      | s that the success condition has held / s needed                                        |
    | action                    | sum of squared actions                                                                  |
    | object_height             | rise / rise needed, clipped to [0, 1]                                                   |
    | single_finger_contact     | exactly one finger on the cube                                                          |
    | multi_finger_contact      | thumb and another finger on the cube                                                    |
    | finger_to_object          | exp(-5 / m * mean distance of the pads to the cube's centre)                            |
    | fingerpad_to_box_centroid | exp(-32 / m * distance of the first three pads' centroid to the cube's centre)          |
    | hand_to_object            | exp(-1 / m * distance of the palm to the cube's centre)                                 |
    | grasp_duration            | as hold                                                                                 |

    The first seven are this project's; the others are the original task's, kept with weight 0.

    **Start** cube within +-2 cm of the origin at any yaw; hand 10 cm above the pre-grasp
    pose, +-3 cm and +-0.2 rad.

    **Ends** by success `grasp_lift_success` (held high for 2 s without a break), by failure `hitting_ground`,
    `box_too_far`, `box_pushed_away`, or by time-out after 500 steps (10 s).
    """

    config = BoxGraspingConfig
    quantities = {
        **DexHandVecEnv.quantities,
        "object_pos": lambda m, cfg: m["box"][:, :3],
        "object_quat": lambda m, cfg: m["box"][:, 3:7],
        "object_vel": lambda m, cfg: m["box"][:, 7:],
        "first_three_fingerpad_centroid": lambda m, cfg: m["pads"][:, :3, :3].mean(1),
        "fingerpad_distances": lambda m, cfg: pair_distances(m["pads"][..., :3]),
        "finger_to_object_distances": lambda m, cfg: distance(m["pads"][..., :3], m["object_pos"].unsqueeze(1)),
        "hand_to_object_distance": lambda m, cfg: distance(m["hand_pose"][:, :3], m["object_pos"]).unsqueeze(1),
        "box_half": lambda m, cfg: half_extents(m["box_size"], cfg.env.object),
        "pads_to_surface": pads_to_surface,
        "finger_box_contact": finger_box_contact,
        "held_high": held_high,
        "push": lambda m, cfg: distance(m["object_pos"][:, :2], m["start_box"][:, :2]),
    }
    timers = {**DexHandVecEnv.timers, "grasp_duration": "held_high"}
    mirrors = {
        **HAND_MIRRORS,
        **dict.fromkeys(("object_pos", "first_three_fingerpad_centroid"), VECTOR),
        "object_quat": QUATERNION,
        "object_vel": VELOCITY,
        **dict.fromkeys(("fingerpad_distances", "finger_to_object_distances", "hand_to_object_distance"), SAME),
        **dict.fromkeys(("finger_box_contact", "grasp_duration"), SAME),
    }
    train_defaults = {
        "max_iterations": 500,
        "learning_rate": 1e-3,
        "lr_schedule": "linear",
        "kl_threshold": 0.008,  # used only by the adaptive schedule
        "gamma": 0.995,
        "reward_scale": 0.02,
        "separate": False,  # the critic, which sees more, has a network of its own anyway
    }

    def scene(self) -> Scene:
        """One object, which is "box" to this task."""
        env, task = self.cfg.env, self.task
        thing = env.object
        if thing.fixed:
            raise ValueError("env.object.fixed = True: allowed is False, for this task lifts it")
        largest = max((max(thing.extents), *(task.randomize.box_size or ())))
        start = thing.rest()[0] * largest / max(thing.extents)
        if task.success_height <= start:
            raise ValueError(
                f"task.success_height = {task.success_height}: allowed is more than {start}, where it lies"
            )
        return Scene(env.hand_height, objects=(replace(thing, name="box"),), spacing=env.spacing)

    @cached_property
    def _pre_grasp(self) -> Tensor:
        open_hand = self.hand.pre_grasp or (0.0,) * self.hand.num_actions
        pose = torch.tensor(open_hand, dtype=torch.float32, device=self.device)
        return pose.clamp(self.limits.lower, self.limits.upper)

    @cached_property
    def _rest_turn(self) -> Tensor:
        """The orientation in which the object rests; cached, since copying it to a GPU at every start would
        synchronise."""
        return torch.tensor(self.cfg.env.object.rest()[1], dtype=torch.float32, device=self.device)

    def sample_start(self) -> Dict[str, Tensor]:
        """Cube near the origin, hand near the pre-grasp pose."""
        task = self.task
        slides, turns = self.hand.num_slides, self.hand.num_base - self.hand.num_slides
        hand = self._pre_grasp.repeat(self.num_envs, 1)
        if self.hand.lift >= 0:
            hand[:, self.hand.lift] += task.start_height
        hand[:, :slides] += self.uniform(-task.init_hand_position_range, task.init_hand_position_range, slides)
        hand[:, slides : slides + turns] += self.uniform(
            -task.init_hand_rotation_range, task.init_hand_rotation_range, turns
        )
        position = self.uniform(-task.init_box_position_range, task.init_box_position_range, 3)
        thing = self.cfg.env.object
        height, quat = thing.rest()
        position[:, 2:] = self.raw["box_size"] * (height / max(thing.extents))
        turn = rotations.from_z_angle(self.uniform(-torch.pi, torch.pi, 1)[:, 0])
        if quat != (0.0, 0.0, 0.0, 1.0):
            turn = rotations.multiply(turn, self._rest_turn.expand_as(turn))
        return {"hand": hand, "box": torch.cat((position, turn), 1)}

    @staticmethod
    def rewards(m: Dict[str, Tensor], cfg: Config) -> Dict[str, Tensor]:
        """Unweighted terms, see the class's table."""
        task, on_box = cfg.task, m["finger_box_contact"]
        thumb, others = on_box[:, 0], on_box[:, 1:].amax(1)
        grasp = thumb * others
        start_height = m["start_box"][:, 2]
        rise = ((m["object_pos"][:, 2] - start_height) / (task.success_height - start_height)).clamp(0.0, 1.0)
        held = (m["grasp_duration"] / task.success_duration).clamp(0.0, 1.0)
        unpushed = torch.exp(-10.0 * m["push"])
        centroid_off = distance(m["first_three_fingerpad_centroid"], m["object_pos"])
        return {
            "reach": torch.exp(-25.0 * m["pads_to_surface"][:, :3]).mean(1),
            "thumb_contact": thumb * unpushed,
            "finger_contact": others * unpushed,
            "grasp": grasp,
            "lift": rise * grasp,
            "hold": held,
            "action": m["last_actions"].square().sum(1),
            "object_height": rise,
            "single_finger_contact": (on_box.sum(1) == 1).float(),
            "multi_finger_contact": grasp,
            "finger_to_object": torch.exp(-5.0 * m["finger_to_object_distances"].mean(1)),
            "fingerpad_to_box_centroid": torch.exp(-32.0 * centroid_off),
            "hand_to_object": torch.exp(-m["hand_to_object_distance"][:, 0]),
            "grasp_duration": held,
        }

    @staticmethod
    def successes(m: Dict[str, Tensor], cfg: Config) -> Dict[str, Tensor]:
        """Held high for long enough."""
        return {"grasp_lift_success": m["grasp_duration"] >= cfg.task.success_duration - 1e-4}

    @staticmethod
    def failures(m: Dict[str, Tensor], cfg: Config) -> Dict[str, Tensor]:
        """The hand is in the ground, or the cube is lost."""
        task = cfg.task
        lowest = torch.minimum(m["tips"][..., 2].amin(1), m["pads"][..., 2].amin(1))
        return {
            "hitting_ground": (m["hand_pose"][:, 2] < task.min_palm_height) | (lowest < task.min_finger_height),
            "box_too_far": m["hand_to_object_distance"][:, 0] > task.max_box_distance,
            "box_pushed_away": m["push"] > task.max_box_push,
        }
