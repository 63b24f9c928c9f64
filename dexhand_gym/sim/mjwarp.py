"""MuJoCo Warp: every environment on one GPU (or, for tests, Warp's CPU device), zero-copy into torch.

As in mujoco.py, the reported state is the one before the last integration. A control step is one CUDA graph, and so is
a write: its kernels run over all environments and skip those that are not written, so the CPU does not wait to learn
which.
"""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any, Callable, Dict, List

import mujoco
import mujoco_warp as mjw
import numpy as np
import torch
import warp as wp
from torch import Tensor

import dexhand_gym.sim.warp_kernels as kernels
from dexhand_gym.sim.base import REPORTED, Scene, SimConfig, Variation
from dexhand_gym.sim.mjcf import STATE, build_model, weights
from dexhand_gym.sim.varied import Varied
from dexhand_gym.sim.warp_modules import Compilation
from dexhand_gym.sim.warp_step import make_step

_DROPPED = (
    mjw.OverflowType.NEFC
    | mjw.OverflowType.NJMAX_NNZ
    | mjw.OverflowType.BROADPHASE
    | mjw.OverflowType.NARROWPHASE
    | mjw.OverflowType.CCD
)

MOST_ITERATIONS = 6
"""Of Warp's solver, where sim.solver.iterations says none."""
FEW_ITERATIONS = 8
"""With so many, of many environments one always needs nearly all: to look whether any does costs more."""

wp.config.log_level = max(wp.config.log_level, wp.LOG_WARNING)
wp.init()


class WarpSimulator:
    """The Simulator contract (base.py) on mujoco_warp."""

    def __init__(
        self,
        scene: Scene,
        num_envs: int,
        cfg: SimConfig,
        decimation: int,
        device: str,
        variation: Variation | None = None,
    ):
        self.device = torch.device(device)
        self.num_envs, self.scene = num_envs, scene
        self.num_substeps = cfg.substeps * decimation
        self.model = mjm = build_model(scene, cfg)
        unknown = mujoco.mjtDisableBit.mjDSBL_AUTORESET | mujoco.mjtDisableBit.mjDSBL_MIDPHASE  # Warp has neither
        mjm.opt.disableflags &= ~int(unknown)
        self.actor_names = scene.actor_names
        self.dof_names = list(scene.hand.dof_names)
        self.body_names = [mjm.body(i).name for i in range(1, mjm.nbody)]

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(num_envs, *shape, dtype=dtype, device=self.device)

        bodies = len(self.body_names)
        self.root_state, self.dof_state = zeros(len(self.actor_names), 13), zeros(len(self.dof_names), 2)
        self.rigid_body_state, self.net_contact_force = zeros(bodies, 13), zeros(bodies, 3)
        self.nonfinite, self._pending = zeros(dtype=torch.bool), zeros(dtype=torch.bool)
        self._graphs: Dict[Callable, Any] = {}
        with self._on_device():
            self._m = mjw.put_model(mjm)
            self._m.opt.iterations = cfg.solver.iterations or MOST_ITERATIONS
            self._m.opt.warn_overflow = 0  # counted below instead of printed by kernels
            self._m.opt.run_qacc_smooth = False  # the solver starts from the last acceleration, which saves 3 %
            self._physics_step = make_step(self._m, device)
            # Contacts share one pool, so an average will do; constraints have a bound of their own in every world.
            own = scene.self_collision * int((mjm.geom_contype == 1).sum())  # the hand's shapes
            nconmax = cfg.warp.nconmax or 16 + own + 8 * sum(thing.parts for thing in scene.objects)
            njmax = cfg.warp.njmax or mjm.nv + 4 * nconmax
            self._d = d = mjw.make_data(mjm, nworld=num_envs, nconmax=nconmax, njmax=njmax)
            self._contacts = wp.array(list(range(d.naconmax)), dtype=int)
            self._contact_force: Any = wp.zeros(d.naconmax, dtype=wp.spatial_vector)
            self._tree_root = wp.array(mjm.body_rootid, dtype=int)
            self._tree = body_tree(mjm)
            self._geom_body = wp.array(mjm.geom_bodyid, dtype=int)
            self._root_state, self._dof_state = wp.from_torch(self.root_state), wp.from_torch(self.dof_state)
            self._bodies, self._forces = wp.from_torch(self.rigid_body_state), wp.from_torch(self.net_contact_force)
            self._nonfinite, self._waiting = wp.from_torch(self.nonfinite), wp.from_torch(self._pending)
            self._everywhere = wp.from_torch(torch.ones_like(self.nonfinite))
            self._actors = wp.array(
                [self.body_names.index(n) for n in (scene.hand.root, *self.actor_names[1:])], dtype=int
            )
            self._m.block_dim.update_gradient_cholesky = 32  # one warp per matrix of 32 x 32: 2 % of a step
            self._m.opt.graph_conditional = False
            self._compilations = {work: Compilation(work, device) for work in (self._write, self._step)}
            self._m.opt.graph_conditional = self._m.opt.iterations > FEW_ITERATIONS
        self._overflow, self._ctrl = wp.to_torch(self._d.overflow), wp.to_torch(self._d.ctrl)
        self._pull = wp.to_torch(self._d.xfrc_applied)
        self._pull.copy_(torch.from_numpy(weights(mjm, scene, cfg)))
        self.root_state[:, 1:, 6] = 1.0
        self._varied = Varied(scene, cfg, mjm, num_envs, self.device, self._expanded)
        if variation:
            self.vary(variation)
        for i, thing in enumerate(scene.free, 1):
            height, quat = thing.rest()
            self.root_state[:, i, 3:7] = torch.tensor(quat)
            self.root_state[:, i, 2] = height / max(thing.extents) * self._varied.values[f"{thing.name}.size"]
        self.write_state(torch.ones_like(self.nonfinite))

    def vary(self, variation: Variation, mask: Tensor | None = None) -> None:
        """See Simulator.vary."""
        self._varied.apply(variation, mask)

    def push(self, wrench: Tensor) -> None:
        """See Simulator.push."""
        self._varied.push(self._pull, wrench)

    def _expanded(self, name: str) -> Tensor:
        """Memory of a field [N, ...], which the engine reads from now on."""
        if name == "weights":
            return self._pull[..., :3]
        shared = getattr(self._m, name, None)  # [1, ...], and world i reads row i % length
        if shared is None:  # MuJoCo's alone, kept for it
            nominal = torch.from_numpy(np.asarray(getattr(self.model, name), dtype=np.float32)).to(self.device)
            return nominal.repeat(self.num_envs, *[1] * nominal.dim())
        nominal = wp.to_torch(shared)
        field = nominal[:1].repeat(self.num_envs, *[1] * (nominal.dim() - 1))
        setattr(self._m, name, wp.from_torch(field, dtype=shared.dtype))
        return field.view(self.num_envs, *np.shape(getattr(self.model, name)))

    def step(self, dof_targets: Tensor) -> None:
        """See Simulator.step."""
        self._ctrl.copy_(dof_targets)
        self._run(self._step)

    def write_state(self, mask: Tensor) -> None:
        """See Simulator.write_state."""
        self._pending.copy_(mask)
        self._run(self._write)

    def _run(self, work: Callable[[], None]) -> None:
        """On a GPU the first call runs `work`, which compiles and loads kernels; the second captures it as a CUDA
        graph, which is replayed from then on."""
        if self.device.type == "cpu" or work not in self._graphs:
            if work not in self._graphs:
                self._compilations[work].wait()
            with self._on_device():
                work()
            self._graphs[work] = None
            return
        graph: Any = self._graphs[work]
        if graph is None:
            device = str(self.device)
            with wp.ScopedDevice(device), wp.ScopedCapture(device) as capture:  # torch's own stream cannot be captured
                work()
            self._graphs[work] = graph = capture.graph
        wp.capture_launch(graph, stream=self._stream())

    def _step(self) -> None:
        d = self._d
        for _ in range(self.num_substeps - 1):
            self._physics_step(d)
        wp.launch(kernels.read_dofs, self._dof_state.shape[:2], inputs=[d.qpos, d.qvel], outputs=[self._dof_state])
        self._physics_step(d)
        inputs = [d.xpos, d.xquat, d.cvel, d.subtree_com, self._tree_root]
        wp.launch(kernels.read_bodies, self._bodies.shape[:2], inputs=inputs, outputs=[self._bodies, self._forces])
        self._read(self._everywhere)
        mjw.contact_force(self._m, d, self._contacts, True, self._contact_force)
        forces = [d.nacon, d.contact.worldid, d.contact.geom, self._contact_force, self._geom_body]
        wp.launch(kernels.sum_forces, d.naconmax, inputs=forces, outputs=[self._forces])

    def _write(self) -> None:
        d = self._d
        inputs = [self._waiting, self._dof_state, self._root_state]
        state = [d.qpos, d.qvel, d.ctrl, d.qacc_warmstart]
        wp.launch(kernels.load_rows, self.num_envs, inputs=inputs, outputs=state)
        # Kinematics of the rows to write, one thread each body: the engine's own takes forty launches over all rows.
        inputs = [self._waiting, d.qpos, d.qvel, *self._tree]
        bodies = self._bodies.shape[:2]
        wp.launch(kernels.place_bodies, bodies, inputs=inputs, outputs=[self._bodies, self._forces])
        self._read(self._waiting)

    def _read(self, wanted: wp.array) -> None:
        """Updates what follows from the bodies, in the `wanted` rows, [N] bool."""
        d = self._d
        inputs = [wanted, self._bodies, self._actors]
        wp.launch(kernels.read_actors, self._root_state.shape[:2], inputs=inputs, outputs=[self._root_state])
        wp.launch(kernels.find_nonfinite, self.num_envs, inputs=[wanted, d.qpos, d.qvel], outputs=[self._nonfinite])

    def memory(self) -> Dict[str, Tensor]:
        """See Simulator.memory."""
        state = {name: wp.to_torch(getattr(self._d, name)) for name in STATE}
        return {**state, **{name: getattr(self, name) for name in REPORTED}, **self._varied.memory()}

    def take_overflow(self) -> Tensor:
        """See Simulator.take_overflow."""
        dropped = (self._overflow & int(_DROPPED)).ne(0).sum()
        self._overflow.zero_()
        return dropped

    def _stream(self) -> wp.Stream:
        return wp.stream_from_torch(torch.cuda.current_stream(self.device))

    def _on_device(self):
        """A context in which Warp works on torch's device and stream."""
        return wp.ScopedDevice("cpu") if self.device.type == "cpu" else wp.ScopedStream(self._stream())

    def close(self) -> None:
        """See Simulator.close."""
        self._graphs.clear()
        for compilation in self._compilations.values():
            compilation.cancel()


def body_tree(model: mujoco.MjModel) -> List[wp.array]:
    """What the kernel place_bodies needs of a model whose bodies have one joint at most, zero at its origin: parents,
    poses in them, joints (type, address of its position, of its velocity; type -1: none) and their axes. World is left
    out."""
    joints = [[-1, 0, 0]] * model.nbody
    axes = np.zeros((model.nbody, 3))
    for j, body in enumerate(model.jnt_bodyid):
        joints[body] = [int(model.jnt_type[j]), int(model.jnt_qposadr[j]), int(model.jnt_dofadr[j])]
        axes[body] = model.jnt_axis[j]
    assert model.body_jntnum.max() <= 1 and not model.jnt_pos.any(), "place_bodies knows no such joints"
    offsets = np.concatenate((model.body_pos, np.roll(model.body_quat, -1, 1)), 1)  # Warp's quaternions are xyzw
    return [
        wp.array(model.body_parentid[1:] - 1, dtype=int),
        wp.array(offsets[1:], dtype=wp.transform),
        wp.array(np.array(joints[1:]), dtype=wp.vec3i),
        wp.array(axes[1:], dtype=wp.vec3),
    ]
