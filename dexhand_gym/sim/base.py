"""What every physics engine provides: a Scene goes in, Isaac Gym's tensors come out.

This module loads neither torch nor an engine, so that configs can be read and checked before either.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Dict, List, Protocol, Tuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass
class SolverConfig:
    """MuJoCo's constraint solver (both its engines)."""

    iterations: int = 6
    """Newton iterations at most; the solver stops earlier when it has converged. Grasps come out the same to the digit
    with 10; with 3 they blow up."""
    ls_iterations: int = 20
    """Line search iterations at most, per Newton iteration."""
    cone: str = "pyramidal"
    """Friction cone: 'pyramidal' (fast) or 'elliptic' (exact)."""
    impratio: float = 10.0
    """Frictional over normal constraint impedance. At 1 a held cube creeps out of the fingers within two seconds."""


@dataclass
class WarpConfig:
    """Buffers of MuJoCo Warp. What does not fit is dropped, counted and reported (statistics: overflow)."""

    nconmax: int = 0
    """Contacts per environment, on average over all; 0: from the model."""
    njmax: int = 0
    """Constraints per environment, at most; 0: from the model."""


@dataclass
class SimConfig:
    """Physics. `--physics` picks one of PHYSICS as the starting point; single fields override it."""

    dt: float = 0.01
    """Simulated seconds per simulator step; an action lasts `task.decimation` of them."""
    substeps: int = 2
    """Physics steps per dt: the physics time step is dt / substeps."""
    gravity: Tuple[float, float, float] = (0.0, 0.0, -9.81)
    """m/s^2, world frame."""
    threads: int = 0
    """CPU threads for MuJoCo; 0 takes every core."""
    solver: SolverConfig = field(default_factory=SolverConfig)
    warp: WarpConfig = field(default_factory=WarpConfig)

    def validate(self) -> None:
        """Raises ValueError, one line that names the field, its value and what is allowed."""
        for name, value, good, allowed in (
            ("sim.dt", self.dt, self.dt > 0, "more than 0"),
            ("sim.substeps", self.substeps, self.substeps >= 1, "1 or more"),
            ("sim.threads", self.threads, self.threads >= 0, "0 (every core) or more"),
            ("sim.warp.nconmax", self.warp.nconmax, self.warp.nconmax >= 0, "0 (from the model) or more"),
            ("sim.warp.njmax", self.warp.njmax, self.warp.njmax >= 0, "0 (from the model) or more"),
            ("sim.solver.iterations", self.solver.iterations, self.solver.iterations >= 1, "1 or more"),
            ("sim.solver.ls_iterations", self.solver.ls_iterations, self.solver.ls_iterations >= 1, "1 or more"),
            ("sim.solver.cone", self.solver.cone, self.solver.cone in ("pyramidal", "elliptic"), "pyramidal, elliptic"),
            ("sim.solver.impratio", self.solver.impratio, self.solver.impratio > 0, "more than 0"),
        ):
            if not good:
                raise ValueError(f"{name} = {value}: allowed is {allowed}")


PHYSICS: Dict[str, SimConfig] = {
    "default": SimConfig(),
    "fast": SimConfig(substeps=1, solver=SolverConfig(ls_iterations=10)),
    "accurate": SimConfig(substeps=4, solver=SolverConfig(iterations=20, ls_iterations=50, cone="elliptic")),
}


@dataclass
class Box:
    """A free cube. Its actor, body and joint bear `name`."""

    name: str = "box"
    size: float = 0.05
    """Edge length, m."""
    mass: float = 0.1
    """kg."""
    friction: float = 1.0
    """Sliding friction coefficient of its contacts with hand and ground; two boxes that touch take the larger."""
    color: Tuple[float, float, float] = (0.15, 0.55, 0.78)


@dataclass
class Scene:
    """One environment: the hand, anchored to the world at `hand_height`, a ground plane at z = 0, and boxes."""

    hand_height: float = 0.25
    boxes: Tuple[Box, ...] = ()
    spacing: float = 0.6
    """Distance between neighbouring environments where an engine or a viewer shows them side by side, m."""


REPORTED = ("root_state", "dof_state", "rigid_body_state", "net_contact_force", "nonfinite")
"""A simulator's tensors, see there."""


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

        Every trace of their past is cleared. Their poses and velocities are fresh afterwards, their contact forces zero
        until the next step, which is reported one physics step (dt / substeps) early. Other environments stay as they
        are.
        """
        ...

    def memory(self) -> Dict[str, Tensor]:
        """All that the future depends on, as views [N, ...] by name: clone them to keep a state, copy into them to go back.

        The names are the same for both MuJoCo engines, so that one goes on where the other stopped.
        """
        ...

    def take_overflow(self) -> Tensor:
        """How many environments had contacts or constraints dropped for lack of room since the last call, [] int."""
        ...

    def close(self) -> None:
        """Frees the engine's memory and threads."""
        ...
