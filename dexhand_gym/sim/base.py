"""What every physics engine provides: a Scene goes in, Isaac Gym's tensors come out.

This module loads neither torch nor an engine, so that configs can be read and checked before either.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Literal, Optional, Protocol, Tuple

from dexhand_gym.fields import Annotated, Range, check_name, shortened
from dexhand_gym.hands.dexhand021 import DEXHAND021_RIGHT
from dexhand_gym.hands.hand import Hand
from dexhand_gym.hands.mjcf import Link, multiply
from dexhand_gym.objects import AnyOf, Object

if TYPE_CHECKING:
    import torch
    from torch import Tensor


Pull = Annotated[float, Range(-1000, 1000)]


@dataclass
class SolverConfig:
    """MuJoCo's constraint solver (both its engines)."""

    iterations: Annotated[int, Range(0, 1000, note="0: 20 with MuJoCo, 6 with MuJoCo Warp")] = 0
    """Newton iterations at most; 0: 20 with MuJoCo, 6 with MuJoCo Warp. Three are enough for most steps, and MuJoCo
    stops when it has converged; it loses a grasp that is about to slip (box friction 0.6) with 6 and holds it with 20.
    Warp holds it with 6, and there all environments wait for the slowest: each iteration costs 3 %."""
    ls_iterations: Annotated[int, Range(1, 1000)] = 20
    """Line search iterations at most, per Newton iteration."""
    cone: Literal["pyramidal", "elliptic"] = "pyramidal"
    """Friction cone: 'pyramidal' (fast) or 'elliptic' (exact)."""
    impratio: Annotated[float, Range(0, 1e6, above=True)] = 10.0
    """Frictional over normal constraint impedance. At 1 a held cube creeps out of the fingers within two seconds."""


@dataclass
class WarpConfig:
    """Buffers of MuJoCo Warp. What does not fit is dropped, counted and reported (statistics: overflow)."""

    nconmax: Annotated[int, Range(0, 10**5, note="0: from the model")] = 0
    """Contacts per environment, on average over all; 0: from the model."""
    njmax: Annotated[int, Range(0, 10**5, note="0: from the model")] = 0
    """Constraints per environment, at most; 0: from the model."""


@dataclass
class PhysxConfig:
    """PhysX, the physics of Isaac Gym."""

    substeps: Annotated[int, Range(1, 1000)] = 8
    """Physics steps per dt (of Isaac Gym; those of MuJoCo are sim.substeps)."""
    solver_type: Annotated[int, Range(0, 1, note="0: PGS, 1: TGS")] = 1
    """0: PGS, 1: TGS."""
    num_position_iterations: Annotated[int, Range(1, 255)] = 16
    """Position iterations of the solver per physics step."""
    num_velocity_iterations: Annotated[int, Range(0, 255)] = 0
    """Velocity iterations of the solver per physics step, after the position iterations."""
    contact_offset: Annotated[float, Range(0, 1, above=True)] = 0.001
    """Shapes nearer than the sum of their offsets are in contact, m; more than rest_offset."""
    rest_offset: Annotated[float, Range(0, 1)] = 0.0005
    """Shapes come to rest at the sum of their rest offsets from each other, m."""
    bounce_threshold_velocity: Annotated[float, Range(0, 1000)] = 0.15
    """Slower impacts do not bounce, m/s."""
    max_depenetration_velocity: Annotated[float, Range(0, 1000)] = 0.2
    """How fast shapes that overlap are pushed apart, m/s."""
    friction_offset_threshold: Annotated[float, Range(0, 1)] = 0.04
    """Contact points where the shapes are farther apart than this have no friction, m. For small parts: 0.01."""
    friction_correlation_distance: Annotated[float, Range(0, 1)] = 0.025
    """Contact points nearer to each other than this share one friction anchor, m. For small parts: 0.00625."""
    always_use_articulations: bool = False
    """Treats single bodies, here the boxes, as articulations too."""
    contact_pairs: Annotated[int, Range(1, 10**6)] = 512
    """Pairs of shapes in contact per environment that the GPU has room for."""
    graphics_device: Annotated[int, Range(-1, 63, note="-1: the GPU of the physics")] = -1
    """Number of the GPU that draws Isaac Gym's window and the pictures of its cameras; -1: the GPU of the physics."""


@dataclass
class SimConfig:
    """Physics. `--physics` picks one of PHYSICS as the starting point; single fields override it."""

    dt: Annotated[float, Range(1e-5, 1)] = 0.02
    """Simulated seconds per simulator step; an action lasts `task.decimation` of them."""
    substeps: Annotated[int, Range(1, 100)] = 3
    """Physics steps per dt: the physics time step is dt / substeps. (Isaac Gym's are sim.physx.substeps.)"""
    gravity: Tuple[Pull, Pull, Pull] = (0.0, 0.0, -9.81)
    """m/s^2, world frame."""
    threads: Annotated[int, Range(0, 1024, note="0: every core")] = 0
    """CPU threads for MuJoCo or PhysX; 0 takes every core."""
    solver: SolverConfig = field(default_factory=SolverConfig)
    warp: WarpConfig = field(default_factory=WarpConfig)
    physx: PhysxConfig = field(default_factory=PhysxConfig)

    def validate(self) -> None:
        """Raises ValueError, one line, for values that do not go together."""
        physx = self.physx
        if not physx.contact_offset > physx.rest_offset:
            allowed = f"more than sim.physx.rest_offset = {physx.rest_offset}"
            raise ValueError(f"sim.physx.contact_offset = {physx.contact_offset}: allowed is {allowed}")


PHYSICS: Dict[str, SimConfig] = {
    "default": SimConfig(),
    "fast": SimConfig(
        substeps=2,
        solver=SolverConfig(ls_iterations=10),
        physx=PhysxConfig(
            substeps=4,
            num_position_iterations=8,
            contact_offset=0.002,
            rest_offset=0.001,
            max_depenetration_velocity=0.5,
            contact_pairs=256,
        ),
    ),
    "cones": SimConfig(substeps=2, solver=SolverConfig(cone="elliptic")),
    "accurate": SimConfig(
        substeps=8,
        solver=SolverConfig(iterations=20, ls_iterations=50, cone="elliptic"),
        physx=PhysxConfig(substeps=64, num_position_iterations=32),
    ),
}


class _Read(Tuple[Object, ...]):
    """The objects of a scene, read by their older name."""


@dataclass
class Scene:
    """One environment: the hand, anchored to the world at `hand_height`, a ground plane at z = 0, and objects."""

    hand_height: float = 0.25
    objects: Tuple[Object, ...] = ()
    spacing: float = 0.6
    """Distance between neighbouring environments where an engine or a viewer shows them side by side, m."""
    hand: Hand = DEXHAND021_RIGHT
    """Set by the environment, from env.hand."""
    edit_spec: Optional[Callable[[Any], None]] = None
    """Called with MuJoCo's MjSpec of the scene before it is compiled, for changes that no value covers; other engines
    do not support it. Set by the environment."""
    hand_quat: Tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)
    """Orientation of the hand's root in the world, x y z w, at zero base dofs, so that a palm that looks up, say, is
    far from their limits. The base moves along and turns about these rotated axes."""
    grip: Tuple[str, ...] = ()
    """What of "hand" (its fingertips) and "world" (the ground) decides the friction of its contacts, in the place of the
    object, so that it can vary; until it does, it is the same: that of the objects, which must agree."""
    ghosts: Tuple[Object, ...] = ()
    """Objects that are only shown (MuJoCo's pictures, window and page), half transparent, where the quantity of their name
    says: world poses [N, 7]."""
    self_collision: bool = False
    """Whether fingers and palm collide with each other. Set by the environment, from env.self_collision."""
    boxes: InitVar[Tuple[Object, ...]] = ()
    """Older name of `objects`."""

    def __post_init__(self, boxes: Tuple[Object, ...]) -> None:
        given = () if isinstance(boxes, _Read) else boxes  # dataclasses.replace() passes on what it has read
        self.objects = self.objects or given
        for name in ("objects", "ghosts"):
            if not isinstance(things := getattr(self, name), (tuple, list)):
                raise ValueError(f"Scene.{name} is a {type(things).__name__}: allowed is a tuple, such as (Box(),)")
            setattr(self, name, tuple(things))
        vars(self)["boxes"] = _Read(self.objects)

    @property
    def hand_links(self) -> List[Link]:
        """The hand's bodies, with the root's pose in the world."""
        root, (x, y, z, w) = self.hand.links[0], self.hand_quat
        quat = multiply((w, x, y, z), root.quat) if (x, y, z, w) != (0.0, 0.0, 0.0, 1.0) else root.quat
        return [root._replace(pos=(0.0, 0.0, self.hand_height), quat=quat), *self.hand.links[1:]]

    @property
    def free(self) -> Tuple[Object, ...]:
        """The objects that move: actors 1, 2, ... and the last bodies."""
        return tuple(thing for thing in self.objects if not thing.fixed)

    @property
    def bodies(self) -> Tuple[Object, ...]:
        """The objects in the order of their bodies, which follow the hand's: fixed ones, then free ones."""
        return (*(thing for thing in self.objects if thing.fixed), *self.free)

    @property
    def actor_names(self) -> List[str]:
        """The hand and the free objects."""
        return ["hand", *(thing.name for thing in self.free)]


@dataclass
class View:
    """What Isaac Gym, an engine with cameras of its own, is to render; for other engines MuJoCo draws their tensors."""

    cameras: int = 0
    """Number of environments, from the first, that have a camera."""
    size: Tuple[int, int] = (640, 480)
    """Width and height of a camera's pictures, pixels."""
    window: bool = False


Variation = Dict[str, Any]
"""What differs between environments: name -> tensor [N, ...]. D dofs, F fingers and B bodies of the hand.

| name                              | values                                                                     |
|-----------------------------------|----------------------------------------------------------------------------|
| "<object>.size"                   | [N] largest extent, m; the others go with it (not of a mesh)               |
| "<object>.mass", ".friction"      | [N] kg; coefficient                                                        |
| "<object>.inertia"                | [N] factor of its moments of inertia                                       |
| "<object>.center"                 | [N, 3] centre of mass in its frame, m; its Object's `center` must not be 0 |
| "<object>.which"                  | [N] number of the choice that it is, with its mass and friction (AnyOf)    |
| "gravity"                         | [N, 3] m/s^2, world axes                                                   |
| "hand.stiffness", ".damping"      | [N, D] factors of its drives' gains                                        |
| "hand.effort"                     | [N, D] factors of the largest force or torque of its drives                |
| "hand.joint_damping", ".armature" | [N, D] factors                                                             |
| "hand.joint_friction"             | [N, D] torque or force that friction resists with, N m or N                |
| "hand.mass"                       | [N, B] factors of masses and moments of inertia                            |
| "hand.friction", "world.friction" | [N, F], [N] coefficient of the fingertips, of the ground; see Scene.grip   |
| a field of MuJoCo's MjModel       | [N, ...] all of it, such as dof_damping [N, nv]                            |

Isaac Gym knows size, mass, friction and choice of objects, and of the hand what is a factor of its dofs.
"""

PROPERTIES = ("size", "mass", "friction", "inertia", "center")
"""Of an object, those that may vary."""
DRIVES = ("stiffness", "damping", "effort", "joint_damping", "armature", "joint_friction")
"""Of the hand's dofs."""


def properties(scene: Scene) -> Dict[str, Tuple[int, ...]]:
    """What may vary by a name of its own -> shape of an environment's values."""
    hand = scene.hand
    objects = {f"{thing.name}.{name}": () for thing in scene.free for name in PROPERTIES}
    objects = {name: (3,) if name.endswith(".center") else shape for name, shape in objects.items()}
    fixed = {f"{thing.name}.size" for thing in scene.free if thing.shape == "mesh"}
    fixed |= {f"{thing.name}.center" for thing in scene.free if not any(thing.center)}
    which = {f"{thing.name}.which": () for thing in scene.free if isinstance(thing, AnyOf)}
    surfaces = {"hand.friction": (len(hand.fingers),), "world.friction": ()}
    return {
        **{name: shape for name, shape in objects.items() if name not in fixed},
        **{f"hand.{name}": (len(hand.dof_names),) for name in DRIVES},
        "hand.mass": (len(hand.body_names),),
        "gravity": (3,),
        **{name: shape for name, shape in surfaces.items() if name.partition(".")[0] in scene.grip},
        **which,
    }


MOST = 1e10
"""A state of larger numbers has blown up; MuJoCo's own mjMAXVAL."""
REPORTED = ("root_state", "dof_state", "rigid_body_state", "net_contact_force", "nonfinite")
"""Names of a Simulator's tensors, see there."""


def check_properties(variation: Any, scene: Scene, num_envs: int) -> None:
    """Raises ValueError, one line, for a variation that is none, and for a property that does not exist or whose values
    are not a tensor of its shape."""
    if not isinstance(variation, dict) or not all(isinstance(name, str) for name in variation):
        raise ValueError(f"variation = {shortened(repr(variation))}: allowed is a dict, name -> tensor")
    known = properties(scene)
    for name, values in variation.items():
        if "." in name or name in known:
            check_name("variation", name, known)
            shape, wanted = tuple(getattr(values, "shape", ())), (num_envs, *known[name])
            if shape != wanted:
                raise ValueError(f"variation {name!r}: shape {shape}, allowed is a tensor {wanted}")


def overwrite(rows: Tensor, values: Tensor, mask: Optional[Tensor]) -> None:
    """Writes those of the rows [N, ...] that `mask` [N] names, or all."""
    where = None if mask is None else mask.view(-1, *[1] * (rows.dim() - 1))
    rows.copy_(values if where is None else values.to(rows).where(where, rows))


class Simulator(Protocol):
    """N copies of a Scene in one engine. World frame, SI units, quaternions xyzw, float32.

    | tensor              | shape              | content per row                                             |
    |---------------------|--------------------|-------------------------------------------------------------|
    | `root_state`        | [N, actors, 13]    | position 3, quaternion 4, linear velocity 3, angular 3      |
    | `dof_state`         | [N, dofs, 2]       | position (rad or m), velocity                               |
    | `rigid_body_state`  | [N, bodies, 13]    | as root_state, of the body frame's origin                   |
    | `net_contact_force` | [N, bodies, 3]     | N, sum of the contact forces that act on the body           |
    | `nonfinite`         | [N] bool           | the state blew up in the last step; write_state revives it  |

    All describe one instant, keep their memory for life, and are edited in place by the caller before write_state.
    Actor 0 is the hand, whose root is fixed: its row is written by the engine only.
    """

    device: torch.device
    num_envs: int
    scene: Scene
    actor_names: List[str]
    dof_names: List[str]
    body_names: List[str]
    root_state: Tensor
    dof_state: Tensor
    rigid_body_state: Tensor
    net_contact_force: Tensor
    nonfinite: Tensor

    def step(self, dof_targets: Tensor) -> None:
        """Drives the dofs toward `dof_targets` [N, dofs] for one control step, then refreshes every tensor."""
        ...

    def write_state(self, mask: Tensor) -> None:
        """Takes root_state and dof_state of the environments in `mask` [N] bool as their new state.

        Their history is cleared. Afterwards their poses and velocities are up to date and their contact forces are zero
        until the next step, which both MuJoCo engines report one physics step (dt / substeps) early. Other environments
        are unchanged.
        """
        ...

    def vary(self, variation: Variation, mask: Optional[Tensor] = None) -> None:
        """Gives the environments in `mask` [N] bool, or all, values of their own; takes effect with their next
        write_state. Raises ValueError, one line, for what this engine cannot change."""
        ...

    def push(self, wrench: Tensor) -> None:
        """Adds forces and torques [N, free objects, 6] to the objects' weights from now on: N and N m, world axes, at
        the centre of mass."""
        ...

    def memory(self) -> Dict[str, Tensor]:
        """The complete simulation state, as views [N, ...] by name: clone them to save a state, copy into them to
        restore it.

        The names are the same for both MuJoCo engines, so that one can continue where the other stopped.
        """
        ...

    def take_overflow(self) -> Tensor:
        """How many environments had contacts or constraints dropped for lack of room since the last call, [] int."""
        ...

    def close(self) -> None:
        """Frees the engine's memory and threads."""
        ...


def keeps_objects(sim: Simulator) -> bool:
    """Whether vary() can change nothing, so that an environment has one object for life (Isaac Gym)."""
    return getattr(sim, "keeps_objects", False)


def draws_itself(sim: Simulator) -> bool:
    """Whether the engine has cameras (Isaac Gym); if not, MuJoCo draws its tensors."""
    return hasattr(sim, "pictures")
