"""The configuration of an environment, as dataclasses. Loads neither torch nor an engine."""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Dict, Literal, Optional, Tuple

from dexhand_gym.envs.randomize_config import RandomizeConfig
from dexhand_gym.fields import Annotated, Length, Range, check, check_name
from dexhand_gym.hands import Hand, find_hand
from dexhand_gym.hands.pair import parts_of
from dexhand_gym.objects import Object
from dexhand_gym.sim.base import SimConfig

Side = Annotated[int, Range(2, 8192, even=True)]
Speed = Annotated[float, Range(0, 1000, above=True)]


OLDER_NAMES = {
    "box_position_noise": "init_box_position_range",
    "hand_position_noise": "init_hand_position_range",
    "hand_rotation_noise": "init_hand_rotation_range",
    "finger_noise": "init_finger_range",
}
"""Older names of fields of a task's config -> today's; files and command lines may still use the older ones."""

ENDINGS = ("termination_success", "termination_failure_penalty", "termination_timeout_penalty")
"""Entries of reward_weights that belong to endings, not to reward terms."""


@dataclass
class CameraConfig:
    """The camera of pictures, videos and windows."""

    follow: bool = True
    """Look at the middle of the hand and follow it. Off: look at the point 12 cm above the middle of the ground."""
    distance: Annotated[float, Range(0.05, 100)] = 0.5
    """Distance of the camera from the point that it looks at, m; of two hands twice as far."""
    azimuth: Annotated[float, Range(-360, 360)] = 290.0
    """Direction in which the camera looks, degrees: 0 along +x, 90 along +y."""
    elevation: Annotated[float, Range(-90, 90)] = -20.0
    """Elevation of that direction, degrees; below 0 the camera looks down."""


@dataclass
class EnvConfig:
    """How many environments, where they run and how they are shown."""

    num_envs: Annotated[int, Range(1, 2**20)] = 1024
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
    """train_ppo.py: show the environments, in a window or, without a display, on a page for the browser; None: in tests
    only. (In code, say render_mode="human".)"""
    render_host: str = "127.0.0.1"
    """Where the page is served; any other address than this lets other machines watch."""
    render_port: Annotated[int, Range(0, 65535, note="0: any")] = 8080
    """Port at which the page is served, or the next free one."""
    record_video: bool = False
    """train_ppo.py: film environment 0 into the run's videos/: the beginning of a test, or clips at intervals while
    training."""
    video_interval: Annotated[int, Range(1, 10**9)] = 100
    """Iterations of training between two clips."""
    video_length: Annotated[int, Range(1, 10**6)] = 500
    """Control steps of a clip."""
    video_size: Tuple[Side, Side] = (640, 480)
    """Width and height of pictures, pixels, both even."""
    camera: CameraConfig = field(default_factory=CameraConfig)
    """Where pictures, videos and windows look from."""
    spacing: Annotated[float, Range(0, 100)] = 0.6
    """Distance between environments where they are shown side by side, m."""
    hand: str = "auto"
    """auto (the right one, or the one that the task is for), right, left, both (two that face each other), or your own hand,
    by the name under which it is registered or as package.module:HAND."""
    hand_height: Annotated[float, Range(-10, 10)] = 0.25
    """Height of the hand's anchor, m: where it is when all base dofs are zero, palm down, fingers along +x."""
    self_collision: bool = False
    """Fingers and palm collide with each other, neighbouring links excepted (MuJoCo's engines; 2 to 3 % of the physics
    on a CPU). Off: they pass through each other. Shipped policies succeed as often either way."""
    object: Object = field(default_factory=Object)
    """The object to grasp (tasks that have one); env.box is its older name."""

    @property
    def box(self) -> Object:
        """Older name of `object`."""
        return self.object


@dataclass
class TaskConfig:
    """Settings that every task has. A task subclasses this and names its reward terms: each has one weight."""

    needs_hand: ClassVar[str] = ""
    """The hand that the task is for, by its name; empty: whichever env.hand names."""
    one_hand: ClassVar[bool] = False
    """Whether the task is for one hand, whichever, and not for several."""

    episode_length: Annotated[int, Range(1, 10**6)] = 300
    """Control steps until time-out."""
    decimation: Annotated[int, Range(1, 100)] = 1
    """Simulator steps per control step: control_dt = sim.dt * decimation."""
    control_mode: Literal["position", "position_delta"] = "position_delta"
    """position: an action is a target in the dof's range; position_delta: it is a speed of the target."""
    policy_controls_base: bool = True
    """Off: the base's dofs follow the pre-action rule (by default they hold their start pose)."""
    policy_controls_fingers: bool = True
    """Off: the fingers' targets follow the pre-action rule."""
    max_linear_velocity: Speed = 0.5
    """Speed limit of the base's targets, m/s."""
    max_angular_velocity: Speed = 1.5
    """Speed limit of the base's targets, rad/s."""
    max_finger_velocity: Speed = 1.0
    """Speed limit of the fingers' targets, rad/s."""
    contact_binary_threshold: Annotated[float, Range(0, 1000)] = 0.1
    """A finger touches when the force on its contact body exceeds this, N."""
    policy_observation_keys: Annotated[Tuple[str, ...], Length(1, 1000)] = (
        "base_dof_pos",
        "base_dof_vel",
        "base_dof_target",
        "active_finger_dof_pos",
        "active_finger_dof_vel",
        "active_finger_dof_target",
        "hand_pose",
        "contact_force_magnitude",
        "contact_binary",
        "last_actions",
    )
    """What the policy sees, in this order: names of quantities; everything else is privileged."""
    observation_history: Annotated[Tuple[Annotated[int, Range(1, 500)], ...], Length(0, 50)] = ()
    """The policy also sees what it saw these numbers of control steps ago: 5 15 45 is 0.1, 0.3 and 0.9 s at 50 Hz."""
    critic_observation_keys: Tuple[str, ...] = ()
    """What the critic sees in addition (only training needs it); privileged observations are allowed here."""
    active_success_criteria: Tuple[str, ...] = ()
    """Success criteria that end an episode; empty: all that the task has."""
    active_failure_criteria: Tuple[str, ...] = ()
    """Failure criteria that end an episode; empty: all that the task has."""
    randomize: RandomizeConfig = field(default_factory=RandomizeConfig)
    reward_weights: Dict[str, float] = field(default_factory=dict)
    """Weight of each reward term, and of the endings, 0 by default: termination_success, termination_failure_penalty,
    termination_timeout_penalty (penalties are positive and subtracted)."""

    def __post_init__(self) -> None:
        if isinstance(self.reward_weights, dict):  # else check() reports it
            self.reward_weights = {**self.reward_weights, **{k: self.reward_weights.get(k, 0.0) for k in ENDINGS}}

    def __getattr__(self, name: str) -> Any:
        """Fields by their older names."""
        if name in OLDER_NAMES and OLDER_NAMES[name] in {item.name for item in dataclasses.fields(self)}:
            return getattr(self, OLDER_NAMES[name])
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def widens(self) -> bool:
        """Whether something of the task's own widens with randomize.curriculum."""
        return False

    def validate(self) -> None:
        """Raises ValueError, one line, for names and values that contradict each other; check() has checked each on its
        own."""
        self.randomize.validate(self.widens)
        names = {item.name for item in dataclasses.fields(self)}
        for old, new in OLDER_NAMES.items():
            if {old, new} <= names:
                raise ValueError(f"task.{old} is an older name: allowed is {new}")
        ago = self.observation_history
        if list(ago) != sorted({*ago}):
            raise ValueError(f"task.observation_history = {ago}: allowed are numbers that rise")
        for name in ("policy_observation_keys", "critic_observation_keys"):
            keys = getattr(self, name)
            for key in keys:
                if keys.count(key) > 1:
                    raise ValueError(f"task.{name} = {keys}: {key!r} is there twice, allowed is once")
        defaults = type(self)().reward_weights
        for key in self.reward_weights:
            check_name("task.reward_weights", key, defaults)
        for key in defaults:
            if key not in self.reward_weights:
                raise ValueError(f"task.reward_weights.{key} is missing: every term needs a weight (0 is allowed)")


@dataclass
class Config:
    """Complete configuration of an environment."""

    sim: SimConfig = field(default_factory=SimConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    task: Any = field(default_factory=TaskConfig)
    """An instance of the task's own subclass of TaskConfig."""

    @property
    def hand(self) -> Hand:
        """The hand that env.hand names."""
        return find_hand(self.hand_name)

    @property
    def hand_name(self) -> str:
        """What env.hand names, or stands for."""
        return (self.task.needs_hand or "right") if self.env.hand == "auto" else self.env.hand

    @property
    def control_dt(self) -> float:
        """Seconds per environment step."""
        return self.sim.dt * self.task.decimation

    def validate(self) -> None:
        """Raises ValueError, one line, at the first mistake; converts equivalents to the declared type (a list to a
        tuple)."""
        check(self)
        self.sim.validate()
        self.task.validate()
        self.env.object.validate("env.object.")
        self.env.hand = self.hand_name  # so that a run's config.yaml has it
        if self.env.hand != (self.task.needs_hand or self.env.hand):
            raise ValueError(f"env.hand = {self.env.hand!r}: this task is for {self.task.needs_hand!r}")
        if self.task.one_hand and parts_of(self.hand):
            raise ValueError(f"env.hand = {self.env.hand!r}: this task is for one hand")
        if self.control_dt > 1:
            raise ValueError(
                f"sim.dt * task.decimation = {self.control_dt:g} s: allowed is at most 1 s for a control step"
            )
        steps = self.sim.substeps * self.task.decimation
        if steps > 1000:
            raise ValueError(f"sim.substeps * task.decimation = {steps}: allowed are at most 1000 physics steps")


def override(cfg: Config, fields: Dict[str, Any]) -> Config:
    """A copy of `cfg` with `fields` replaced, each by its full name ("task.episode_length") or its last part. A dict
    for a group of fields ("randomize") replaces some of them.

    Raises TypeError, one line with the nearest name, for a field that does not exist or is not unique.
    """
    cfg = dataclasses.replace(cfg)
    known, said = _fields(cfg), {}
    for name, value in fields.items():
        given = name
        name = re.sub(r"^(env\.)?box(?=\.|$)", "env.object", name)  # its older name
        group, _, last = name.rpartition(".")
        if group in ("", "task") and f"task.{last}" not in known:
            name = OLDER_NAMES.get(last, name)
        matches = [path for path in known if path == name or path.split(".")[-1] == name]
        if len(matches) != 1:
            names = matches or difflib.get_close_matches(name, [*(p.split(".")[-1] for p in known), *known], 1, 0.6)
            hint = f"; did you mean {' or '.join(names)}?" if names else ""
            # Python's own wording, by which libraries recognise that an environment does not know an option
            unknown = f"unexpected keyword argument '{given}': no such environment option"
            raise TypeError(f"ambiguous environment option '{given}'{hint}" if matches else unknown + hint)
        if matches[0] in said:
            raise TypeError(
                f"{given!r} and {said[matches[0]]!r} are the same environment option: allowed is one of them"
            )
        said[matches[0]] = given
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
