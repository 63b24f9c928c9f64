"""MuJoCo Warp: every environment on one GPU (or, for tests, Warp's CPU device), zero-copy into torch.

As in mujoco.py, what is reported is the state before its last integration, and the stored rows run one physics step
ahead of it. A control step is one CUDA graph. So is a write: the rows to write are gathered, 128 at a time, into a
small second batch that takes the one step for them: about a millisecond, however many environments there are, and
nothing that the CPU would have to wait for.
"""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Tuple

import mujoco
import mujoco_warp as mjw
import torch
import warp as wp
from torch import Tensor

from dexhand_gym.hand import DOF_NAMES
from dexhand_gym.sim import warp_kernels as kernels
from dexhand_gym.sim.base import Scene, SimConfig
from dexhand_gym.sim.mjcf import build_model

_WRITE_ROWS = 128
_DROPPED = (
    mjw.OverflowType.NEFC
    | mjw.OverflowType.NJMAX_NNZ
    | mjw.OverflowType.BROADPHASE
    | mjw.OverflowType.NARROWPHASE
    | mjw.OverflowType.CCD
)

wp.config.quiet = True
wp.init()


def _contact_buffers(d: mjw.Data) -> Tuple[Any, Any]:
    return wp.array(list(range(d.naconmax)), dtype=int), wp.zeros(d.naconmax, dtype=wp.spatial_vector)


class _Blocks:
    """Warp's memory while a loop inside a graph is captured, which may not allocate: every pass gets the blocks that the
    first, uncaptured one got, in the same order."""

    def __init__(self, device: torch.device):
        self._device = device
        self._blocks: List[Tensor] = []
        self._next = 0

    def rewind(self) -> None:
        self._next = 0

    def allocate(self, size_in_bytes: int) -> int:
        if self._next == len(self._blocks):
            self._blocks.append(torch.empty(size_in_bytes, dtype=torch.uint8, device=self._device))
        block = self._blocks[self._next]
        assert block.numel() >= size_in_bytes
        self._next += 1
        return block.data_ptr()

    def deallocate(self, ptr: int, size_in_bytes: int) -> None:
        pass


class WarpSimulator:
    """The Simulator contract (base.py) on mujoco_warp."""

    def __init__(self, scene: Scene, num_envs: int, cfg: SimConfig, decimation: int, device: str):
        self.device = torch.device(device)
        self.num_envs = num_envs
        self.num_substeps = cfg.substeps * decimation
        self.model = mjm = build_model(scene, cfg)
        mjm.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)  # Warp never does, and knows no such flag
        boxes = [box.name for box in scene.boxes]
        self.actor_names = ["hand", *boxes]
        self.dof_names = list(DOF_NAMES)
        self.body_names = [mjm.body(i).name for i in range(1, mjm.nbody)]

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(num_envs, *shape, dtype=dtype, device=self.device)

        bodies = len(self.body_names)
        self.root_state, self.dof_state = zeros(len(self.actor_names), 13), zeros(len(self.dof_names), 2)
        self.rigid_body_state, self.net_contact_force = zeros(bodies, 13), zeros(bodies, 3)
        self.nonfinite, self._pending = zeros(dtype=torch.bool), zeros(dtype=torch.bool)
        self._graphs: Dict[Callable, Any] = {}
        self._blocks = _Blocks(self.device)
        with self._on_device():
            self._m = mjw.put_model(mjm)
            self._m.opt.warn_overflow = 0  # counted below instead of printed by kernels
            # Contacts share one pool, so an average will do; constraints have a bound of their own in every world.
            nconmax = cfg.warp.nconmax or mjm.ngeom + 8
            njmax = cfg.warp.njmax or mjm.nv + 4 * (nconmax + 8)
            small = min(num_envs, _WRITE_ROWS)
            self._d = mjw.make_data(mjm, nworld=num_envs, nconmax=nconmax, njmax=njmax)
            self._small = mjw.make_data(mjm, nworld=small, nconmax=2 * nconmax, njmax=njmax)
            self._rows, self._small_rows = wp.array(list(range(num_envs)), dtype=int), wp.zeros(small, dtype=int)
            self._count, self._more = wp.zeros(1, dtype=int), wp.zeros(1, dtype=int)
            self._tree_root = wp.array(mjm.body_rootid, dtype=int)
            self._geom_body = wp.array(mjm.geom_bodyid, dtype=int)
            self._contacts = {id(d): _contact_buffers(d) for d in (self._d, self._small)}
            self._root_state, self._dof_state = wp.from_torch(self.root_state), wp.from_torch(self.dof_state)
            self._bodies, self._forces = wp.from_torch(self.rigid_body_state), wp.from_torch(self.net_contact_force)
            self._nonfinite, self._waiting = wp.from_torch(self.nonfinite), wp.from_torch(self._pending)
            self._actors = wp.array([self.body_names.index(n) for n in ("floating_base_root", *boxes)], dtype=int)
        self._overflow, self._ctrl = wp.to_torch(self._d.overflow), wp.to_torch(self._d.ctrl)
        self.root_state[:, 1:, 6] = 1.0
        for i, box in enumerate(scene.boxes, 1):
            self.root_state[:, i, 2] = box.size / 2
        self.write_state(torch.ones_like(self.nonfinite))

    def step(self, dof_targets: Tensor) -> None:
        """See Simulator.step."""
        self._ctrl.copy_(dof_targets)
        self._run(self._step)

    def write_state(self, mask: Tensor) -> None:
        """See Simulator.write_state."""
        self._pending.copy_(mask)
        self._run(self._write)

    def _run(self, work: Callable[[], None]) -> None:
        """On a GPU `work` is run when first asked for, which compiles and loads kernels, then captured as a CUDA graph,
        and replayed from then on."""
        if self.device.type == "cpu" or work not in self._graphs:
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
            mjw.step(self._m, d)
        wp.launch(kernels.read_dofs, self._dof_state.shape[:2], inputs=[d.qpos, d.qvel], outputs=[self._dof_state])
        mjw.step(self._m, d)
        self._read(d, self._rows)

    def _write(self) -> None:
        self._more.zero_()
        wp.launch(kernels.any_waiting, self.num_envs, inputs=[self._waiting], outputs=[self._more])
        wp.capture_while(self._more, self._write_some)

    def _write_some(self) -> None:
        """The next rows that wait: loaded into the small batch, stepped once, stored."""
        d, small, row = self._d, self._small, self._small_rows
        row.fill_(-1)
        self._count.zero_()
        wp.launch(kernels.pick_rows, self.num_envs, inputs=[self._waiting, self._count, row])
        wp.launch(kernels.any_left, 1, inputs=[self._count, row.shape[0]], outputs=[self._more])
        state = [small.qpos, small.qvel, small.ctrl, small.qacc_warmstart]
        wp.launch(kernels.load_rows, row.shape[0], inputs=[row, self._dof_state, self._root_state], outputs=state)
        self._blocks.rewind()
        with self._allocating_from(self._blocks):
            mjw.step(self._m, small)
        self._read(small, row)
        for name in ("qpos", "qvel", "ctrl", "qacc_warmstart"):
            source = getattr(small, name)
            wp.launch(kernels.store_rows, source.shape, inputs=[row, source], outputs=[getattr(d, name)])

    def _read(self, d: mjw.Data, row: wp.array) -> None:
        """Bodies, forces and actors of a batch into the rows of the tensors."""
        bodies = [row, d.xpos, d.xquat, d.cvel, d.subtree_com, self._tree_root]
        wp.launch(kernels.read_bodies, (d.nworld, len(self.body_names)), inputs=bodies, outputs=[self._bodies])
        ids, force = self._contacts[id(d)]
        mjw.contact_force(self._m, d, ids, True, force)
        wp.launch(kernels.zero_forces, (d.nworld, len(self.body_names)), inputs=[row], outputs=[self._forces])
        forces = [row, d.nacon, d.contact.worldid, d.contact.geom, force, self._geom_body]
        wp.launch(kernels.sum_forces, ids.shape[0], inputs=forces, outputs=[self._forces])
        actors = [row, self._bodies, self._actors]
        wp.launch(kernels.read_actors, (d.nworld, len(self.actor_names)), inputs=actors, outputs=[self._root_state])
        wp.launch(kernels.find_nonfinite, d.nworld, inputs=[row, d.qpos, d.qvel], outputs=[self._nonfinite])

    def take_overflow(self) -> Tensor:
        """See Simulator.take_overflow."""
        dropped = (self._overflow & int(_DROPPED)).ne(0).sum()
        self._overflow.zero_()
        return dropped

    def _stream(self) -> wp.Stream:
        return wp.stream_from_torch(torch.cuda.current_stream(self.device))

    def _on_device(self):
        """Warp's work goes to torch's device and stream."""
        return wp.ScopedDevice("cpu") if self.device.type == "cpu" else wp.ScopedStream(self._stream())

    @contextmanager
    def _allocating_from(self, blocks: _Blocks) -> Iterator[None]:
        if self.device.type == "cpu":
            yield
            return
        wp.set_device_allocator(str(self.device), blocks)
        try:
            yield
        finally:
            wp.set_device_allocator(str(self.device), None)

    def close(self) -> None:
        """See Simulator.close."""
        self._graphs.clear()
