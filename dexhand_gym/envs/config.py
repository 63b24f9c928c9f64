"""What an environment is made of, as dataclasses. Loads neither torch nor an engine."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Dict, Iterable, Optional, Tuple

from dexhand_gym.sim.base import Box, SimConfig


@dataclass
class EnvConfig:
    """Where and how many."""

    num_envs: int = 1024
    """Parallel environments."""
    device: str = "auto"
    """Where physics, tensors and learner live: auto (a GPU if there is one), cpu, cuda, cuda:1 ..."""
    backend: str = "auto"
    """Physics engine: auto, mujoco (CPU threads), mjwarp (MuJoCo Warp, GPU), isaacgym (GPU or CPU threads, Python 3.8),
    none (the hand stands still: to try a task without an engine)."""
    cuda_graphs: bool = True
    """On a GPU: replay the environment's logic as CUDA graphs. Off: run it eagerly, for debugging."""
    compile: bool = False
    """On a GPU: fuse the kernels of rewards, endings and observations with torch.compile. Some 2 % faster, starts some
    10 s later."""
    render: Optional[bool] = None
    """train_ppo.py: show what goes on, in a window or, without a display, on a page for the browser; None: in tests only.
    (In code, say render_mode="human".)"""
    render_host: str = "127.0.0.1"
    """Where the page is served; any other address than this lets other machines watch."""
    render_port: int = 8080
    """... or at the next free port."""
    record_video: bool = False
    """train_ppo.py: film environment 0 for the run's videos/, the beginning of a test, or now and then while training."""
    video_interval: int = 100
    """Iterations of training between two clips."""
    video_length: int = 500
    """Control steps of a clip."""
    video_size: Tuple[int, int] = (640, 480)
    """Width and height of pictures, pixels, both even."""
    spacing: float = 0.6
    """Distance between environments where they are shown side by side, m."""
    hand_height: float = 0.25
    """Height of the hand's anchor, m: where it is when all base dofs are zero, palm down, fingers along +x."""
    box: Box = field(default_factory=Box)
    """The object to grasp (tasks that have one)."""


@dataclass
class RandomizeConfig:
    """Domain randomisation, off by default. What is a range is drawn uniformly for each environment, once, when the
    environments are made (from their seed); noise is drawn anew at every control step. It reaches the policy's observation
    only: rewards, endings and privileged observations are those of the true state."""

    box_size: Optional[Tuple[float, float]] = None
    """Range of the boxes' edge length, m; None: env.box.size."""
    box_mass: Optional[Tuple[float, float]] = None
    """Range of their mass, kg; None: env.box.mass."""
    box_friction: Optional[Tuple[float, float]] = None
    """Range of their friction coefficient; None: env.box.friction."""
    action_delay: Tuple[int, int] = (0, 0)
    """Range of the control steps by which dof targets reach the drives late."""
    joint_position_noise: float = 0.0
    """Standard deviation on every dof's position, rad (m for the base's first three)."""
    joint_velocity_noise: float = 0.0
    """... on every dof's velocity, rad/s (m/s)."""
    body_position_noise: float = 0.0
    """... on the positions of the hand's bodies, such as the finger pads, and of the boxes, along x, y and z, m."""
    contact_force_noise: float = 0.0
    """... on the contact force of every body, along x, y and z, N."""

    def validate(self) -> None:
        """Raises ValueError, one line that names the field, its value and what is allowed."""
        for name in ("box_size", "box_mass", "box_friction"):
            bounds = getattr(self, name)
            if bounds is not None and not (is_range(bounds) and bounds[0] > 0):
                wanted = "two numbers of more than 0, the lower one first, or None"
                raise ValueError(f"task.randomize.{name} = {bounds}: allowed are {wanted}")
        bounds = self.action_delay
        if not (is_range(bounds) and bounds[0] >= 0 and all(isinstance(bound, int) for bound in bounds)):
            wanted = "two whole numbers of 0 or more, the lower one first"
            raise ValueError(f"task.randomize.action_delay = {bounds}: allowed are {wanted}")
        for name in ("joint_position_noise", "joint_velocity_noise", "body_position_noise", "contact_force_noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"task.randomize.{name} = {getattr(self, name)}: allowed is 0 or more")


def is_range(bounds: Any) -> bool:
    """Two finite numbers, the lower one first."""
    return isinstance(bounds, (tuple, list)) and len(bounds) == 2 and bounds[0] <= bounds[1] < math.inf


@dataclass
class TaskConfig:
    """What every task has. A task subclasses this and names its terms: each weight belongs to one reward term."""

    OBSERVATIONS: ClassVar[Dict[str, int]] = {
        "base_dof_pos": 6,
        "base_dof_vel": 6,
        "base_dof_target": 6,
        "active_finger_dof_pos": 12,
        "active_finger_dof_vel": 12,
        "active_finger_dof_target": 12,
        "all_finger_dof_pos": 20,
        "all_finger_dof_vel": 20,
        "all_finger_dof_target": 20,
        "hand_pose": 7,
        "hand_pose_arr_aligned": 7,
        "hand_vel": 6,
        "contact_forces": 15,
        "contact_force_magnitude": 5,
        "contact_binary": 5,
        "contact_duration": 5,
        "prev_actions": -1,
        "rule_targets": 18,
        "fingertip_poses_world": 35,
        "fingertip_poses_hand": 35,
        "fingerpad_poses_world": 35,
        "fingerpad_poses_hand": 35,
        "episode_time": 1,
    }
    """Name and width of every observation; -1: one per action."""
    SUCCESSES: ClassVar[Tuple[str, ...]] = ()
    FAILURES: ClassVar[Tuple[str, ...]] = ()

    episode_length: int = 300
    """Control steps until time-out."""
    decimation: int = 2
    """Simulator steps per control step: control_dt = sim.dt * decimation."""
    control_mode: str = "position_delta"
    """position: an action is a target in the dof's range; position_delta: it is a speed of the target."""
    policy_controls_base: bool = True
    """Off: the six base dofs follow the pre-action rule (by default they hold their start pose)."""
    policy_controls_fingers: bool = True
    """Off: the twelve finger controls follow the pre-action rule."""
    max_linear_velocity: float = 0.5
    """Of the base's targets, m/s."""
    max_angular_velocity: float = 1.5
    """Of the base's targets, rad/s."""
    max_finger_velocity: float = 1.0
    """Of the fingers' targets, rad/s."""
    contact_binary_threshold: float = 0.1
    """A finger touches when the force on its distal link exceeds this, N."""
    policy_observation_keys: Tuple[str, ...] = (
        "base_dof_pos",
        "base_dof_vel",
        "base_dof_target",
        "active_finger_dof_pos",
        "active_finger_dof_vel",
        "active_finger_dof_target",
        "hand_pose",
        "contact_force_magnitude",
        "contact_binary",
        "prev_actions",
    )
    """What the policy sees, in this order; everything else is privileged."""
    critic_observation_keys: Tuple[str, ...] = ()
    """What the critic sees besides, which only training needs; privileged observations are allowed here."""
    active_success_criteria: Tuple[str, ...] = ()
    """Successes that end an episode; empty: all the task has."""
    active_failure_criteria: Tuple[str, ...] = ()
    """Failures that end an episode; empty: all the task has."""
    randomize: RandomizeConfig = field(default_factory=RandomizeConfig)
    reward_weights: Dict[str, float] = field(default_factory=dict)
    """Weight of each reward term, and of the endings: termination_success, termination_failure_penalty,
    termination_timeout_penalty (penalties are positive and subtracted)."""

    @property
    def num_actions(self) -> int:
        return 6 * self.policy_controls_base + 12 * self.policy_controls_fingers

    def validate(self) -> None:
        """Raises ValueError, one line that names the field, its value, what is allowed and the nearest valid name."""
        speeds = ("max_linear_velocity", "max_angular_velocity", "max_finger_velocity")
        for name in ("episode_length", "decimation", *speeds):
            if not getattr(self, name) > 0:
                raise ValueError(f"task.{name} = {getattr(self, name)}: allowed is more than 0")
        if self.contact_binary_threshold < 0:
            raise ValueError(f"task.contact_binary_threshold = {self.contact_binary_threshold}: allowed is 0 or more")
        self.randomize.validate()
        check_name("task.control_mode", self.control_mode, ("position", "position_delta"))
        if not self.policy_observation_keys:
            raise ValueError(f"task.policy_observation_keys is empty: allowed are {', '.join(self.OBSERVATIONS)}")
        for name in ("policy_observation_keys", "critic_observation_keys"):
            for key in getattr(self, name):
                check_name(f"task.{name}", key, self.OBSERVATIONS)
        for key in self.active_success_criteria:
            check_name("task.active_success_criteria", key, self.SUCCESSES)
        for key in self.active_failure_criteria:
            check_name("task.active_failure_criteria", key, self.FAILURES)
        defaults = type(self)().reward_weights
        for key in self.reward_weights:
            check_name("task.reward_weights", key, defaults)
        for key in defaults:
            if key not in self.reward_weights:
                raise ValueError(f"task.reward_weights.{key} is missing: every term needs a weight (0 is allowed)")


@dataclass
class Config:
    """Everything that makes an environment."""

    sim: SimConfig = field(default_factory=SimConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    task: Any = field(default_factory=TaskConfig)
    """The TaskConfig of the task's own class."""

    @property
    def control_dt(self) -> float:
        """Seconds per environment step."""
        return self.sim.dt * self.task.decimation

    def validate(self) -> None:
        """Raises ValueError, one line, at the first mistake."""
        if self.env.num_envs < 1:
            raise ValueError(f"env.num_envs = {self.env.num_envs}: allowed is 1 or more")
        for name in ("video_interval", "video_length"):
            if getattr(self.env, name) < 1:
                raise ValueError(f"env.{name} = {getattr(self.env, name)}: allowed is 1 or more")
        if not all(side > 0 and side % 2 == 0 for side in self.env.video_size):
            raise ValueError(f"env.video_size = {self.env.video_size}: allowed are two even numbers of 2 or more")
        if not 0 <= self.env.render_port <= 65535:
            raise ValueError(f"env.render_port = {self.env.render_port}: allowed is 0 (any) to 65535")
        for name in ("size", "mass", "friction"):
            if not getattr(self.env.box, name) > 0:
                raise ValueError(f"env.box.{name} = {getattr(self.env.box, name)}: allowed is more than 0")
        self.sim.validate()
        self.task.validate()


def check_name(field_name: str, value: str, allowed: Iterable[str]) -> None:
    """Raises ValueError, one line with the nearest valid name, unless `value` is in `allowed`."""
    allowed = list(allowed)
    if value in allowed:
        return
    near = difflib.get_close_matches(value, allowed, n=1, cutoff=0.4)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    raise ValueError(f"{field_name}: unknown name '{value}'{hint} Allowed: {', '.join(allowed) or 'none'}")


def override(cfg: Config, fields: Dict[str, Any]) -> Config:
    """A copy of `cfg` with `fields` replaced, each by its full name ("task.episode_length") or its last part. A dict in the
    place of a group of fields ("randomize") gives some of them.

    Raises TypeError, one line with the nearest name, for a field that does not exist or is not unique.
    """
    cfg = dataclasses.replace(cfg)
    known = _fields(cfg)
    for name, value in fields.items():
        matches = [path for path in known if path == name or path.split(".")[-1] == name]
        if len(matches) != 1:
            names = matches or difflib.get_close_matches(name, [*(p.split(".")[-1] for p in known), *known], 1, 0.5)
            hint = f"; did you mean {' or '.join(names)}?" if names else ""
            # Python's own words, by which libraries find out that an environment does not know an option
            unknown = f"unexpected keyword argument '{name}': no such environment option"
            raise TypeError(f"ambiguous environment option '{name}'{hint}" if matches else unknown + hint)
        if isinstance(value, dict) and dataclasses.is_dataclass(known[matches[0]]):
            cfg = override(cfg, {f"{matches[0]}.{part}": of_part for part, of_part in value.items()})
        else:
            _assign(cfg, matches[0].split("."), value)
    return cfg


def _fields(node: Any, prefix: str = "") -> Dict[str, Any]:
    """Full name -> value, groups included."""
    fields: Dict[str, Any] = {}
    for item in dataclasses.fields(node):
        path, value = f"{prefix}{item.name}", getattr(node, item.name)
        if prefix:
            fields[path] = value
        if dataclasses.is_dataclass(value):
            fields.update(_fields(value, f"{path}."))
        elif isinstance(value, dict):
            fields.update({f"{path}.{key}": of_key for key, of_key in value.items()})
    return fields


def _assign(node: Any, path: list, value: Any) -> None:
    """Sets node.a.b.c = value, copying a and b first so that the original keeps its own."""
    for name in path[:-1]:
        child = getattr(node, name)
        child = dict(child) if isinstance(child, dict) else dataclasses.replace(child)
        setattr(node, name, child)
        node = child
    if isinstance(node, dict):
        node[path[-1]] = value
    else:
        setattr(node, path[-1], value)
