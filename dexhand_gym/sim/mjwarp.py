"""MuJoCo Warp: every environment on one GPU (or, for tests, Warp's CPU device), zero-copy into torch.

As in mujoco.py, what is reported is the state before its last integration, and the stored rows run one physics step
ahead of it. A control step is one CUDA graph. So is a write: the rows to write are gathered, a few hundred at a time,
into a small second batch that takes the one step for them, so that a reset costs next to nothing and asks the GPU
nothing.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Callable, Dict, Iterator, List, Optional, Tuple

import mujoco
import mujoco_warp as mjw
import torch
import warp as wp
from torch import Tensor

from dexhand_gym.hand import DOF_NAMES
from dexhand_gym.sim.base import Scene, SimConfig
from dexhand_gym.sim.mjcf import build_model

_WRITE_ROWS = 512

wp.config.quiet = True
wp.init()


@wp.kernel
def _read_dofs(qpos: wp.array2d[float], qvel: wp.array2d[float], dof_state: wp.array3d[float]):
    world, dof = wp.tid()
    dof_state[world, dof, 0] = qpos[world, dof]
    dof_state[world, dof, 1] = qvel[world, dof]


@wp.kernel
def _read_bodies(
    row: wp.array[int],  # where world i of this batch goes; negative: nowhere
    xpos: wp.array2d[wp.vec3],
    xquat: wp.array2d[wp.quat],
    cvel: wp.array2d[wp.spatial_vector],
    com: wp.array2d[wp.vec3],
    tree_root: wp.array[int],
    state: wp.array3d[float],
):
    world, i = wp.tid()
    target = row[world]
    if target < 0:
        return
    body = i + 1  # 0 is the world
    x, q, v = (
        xpos[world, body],
        xquat[world, body],
        cvel[world, body],
    )  # q is w x y z here; v of the tree's centre of mass
    angular = wp.spatial_top(v)
    linear = wp.spatial_bottom(v) + wp.cross(angular, x - com[world, tree_root[body]])
    for k in range(3):
        state[target, i, k] = x[k]
        state[target, i, 3 + k] = q[k + 1]
        state[target, i, 7 + k] = linear[k]
        state[target, i, 10 + k] = angular[k]
    state[target, i, 6] = q[0]


@wp.kernel
def _zero_forces(row: wp.array[int], force: wp.array3d[float]):
    world, body = wp.tid()
    if row[world] >= 0:
        for k in range(3):
            force[row[world], body, k] = 0.0


@wp.kernel
def _sum_forces(
    row: wp.array[int],
    contacts: wp.array[int],  # how many there are
    contact_world: wp.array[int],
    contact_geom: wp.array[wp.vec2i],
    contact_force: wp.array[wp.spatial_vector],
    geom_body: wp.array[int],
    force: wp.array3d[float],
):
    contact = wp.tid()
    if contact >= contacts[0]:
        return
    target = row[contact_world[contact]]
    if target < 0:
        return
    pushed, pushing = geom_body[contact_geom[contact][1]] - 1, geom_body[contact_geom[contact][0]] - 1
    f = wp.spatial_top(contact_force[contact])
    for k in range(3):
        if pushed >= 0:
            wp.atomic_add(force, target, pushed, k, f[k])
        if pushing >= 0:
            wp.atomic_add(force, target, pushing, k, -f[k])


@wp.kernel
def _pick_rows(
    pending: wp.array[bool],
    count: wp.array[int],
    row: wp.array[int],
):
    """Gives the next pending worlds a place in the small batch; row[place] is the world, -1 where none is left."""
    world = wp.tid()
    if pending[world]:
        place = wp.atomic_add(count, 0, 1)
        if place < row.shape[0]:
            row[place] = world
            pending[world] = False


@wp.kernel
def _load_rows(
    row: wp.array[int],
    dof_state: wp.array3d[float],
    root_state: wp.array3d[float],
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    ctrl: wp.array2d[float],
    warmstart: wp.array2d[float],
):
    place = wp.tid()
    world = wp.max(row[place], 0)
    dofs = dof_state.shape[1]
    for i in range(dofs):
        qpos[place, i] = dof_state[world, i, 0]
        ctrl[place, i] = dof_state[world, i, 0]
        qvel[place, i] = dof_state[world, i, 1]
    for actor in range(1, root_state.shape[1]):
        p, v = dofs + 7 * (actor - 1), dofs + 6 * (actor - 1)
        quat = wp.quat(
            root_state[world, actor, 3],
            root_state[world, actor, 4],
            root_state[world, actor, 5],
            root_state[world, actor, 6],
        )
        angular = wp.vec3(root_state[world, actor, 10], root_state[world, actor, 11], root_state[world, actor, 12])
        spin = wp.quat_rotate_inv(quat, angular)  # a free joint's angular velocity is in body axes
        for k in range(3):
            qpos[place, p + k] = root_state[world, actor, k]
            qpos[place, p + 4 + k] = quat[k]
            qvel[place, v + k] = root_state[world, actor, 7 + k]
            qvel[place, v + 3 + k] = spin[k]
        qpos[place, p + 3] = quat[3]
    for i in range(qvel.shape[1]):
        warmstart[place, i] = 0.0


@wp.kernel
def _any_waiting(pending: wp.array[bool], more: wp.array[int]):
    if pending[wp.tid()]:
        more[0] = 1


@wp.kernel
def _any_left(count: wp.array[int], places: int, more: wp.array[int]):
    more[0] = 0
    if count[0] > places:
        more[0] = 1


@wp.kernel
def _store_rows(row: wp.array[int], source: wp.array2d[float], target: wp.array2d[float]):
    place, i = wp.tid()
    if row[place] >= 0:
        target[row[place], i] = source[place, i]


@wp.kernel
def _read_actors(row: wp.array[int], bodies: wp.array3d[float], body: wp.array[int], root_state: wp.array3d[float]):
    world, actor = wp.tid()
    if row[world] >= 0:
        for k in range(13):
            root_state[row[world], actor, k] = bodies[row[world], body[actor], k]


@wp.kernel
def _find_nonfinite(row: wp.array[int], qpos: wp.array2d[float], qvel: wp.array2d[float], nonfinite: wp.array[bool]):
    world = wp.tid()
    if row[world] >= 0:
        total = float(0.0)  # noqa: UP018  (a variable to Warp, where 0.0 is a constant)
        for i in range(qpos.shape[1]):
            total += qpos[world, i]
        for i in range(qvel.shape[1]):
            total += qvel[world, i]
        nonfinite[row[world]] = not wp.isfinite(total)


def _contact_buffers(d: mjw.Data) -> Tuple[wp.array, wp.array]:
    return wp.array(range(d.naconmax), dtype=int), wp.zeros(d.naconmax, dtype=wp.spatial_vector)


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
    """The Simulator contract (base.py) on mujoco_warp. `overflow` [N] int32 tells, as bits of mjw.OverflowType, whose
    contacts or constraints did not fit since it was last zeroed."""

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
        self._graphs: Dict[Callable, Optional[wp.Graph]] = {}
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
            self._rows, self._small_rows = wp.array(range(num_envs), dtype=int), wp.zeros(small, dtype=int)
            self._count, self._more = wp.zeros(1, dtype=int), wp.zeros(1, dtype=int)
            self._tree_root = wp.array(mjm.body_rootid, dtype=int)
            self._geom_body = wp.array(mjm.geom_bodyid, dtype=int)
            self._contacts = {id(d): _contact_buffers(d) for d in (self._d, self._small)}
            self._root_state, self._dof_state = wp.from_torch(self.root_state), wp.from_torch(self.dof_state)
            self._bodies, self._forces = wp.from_torch(self.rigid_body_state), wp.from_torch(self.net_contact_force)
            self._nonfinite, self._waiting = wp.from_torch(self.nonfinite), wp.from_torch(self._pending)
            self._actors = wp.array([self.body_names.index(n) for n in ("floating_base_root", *boxes)], dtype=int)
        self.overflow, self._ctrl = wp.to_torch(self._d.overflow), wp.to_torch(self._d.ctrl)
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
        if self._graphs[work] is None:
            device = str(self.device)
            with wp.ScopedDevice(device), wp.ScopedCapture(device) as capture:  # torch's own stream cannot be captured
                work()
            self._graphs[work] = capture.graph
        wp.capture_launch(self._graphs[work], stream=self._stream())

    def _step(self) -> None:
        d = self._d
        for _ in range(self.num_substeps - 1):
            mjw.step(self._m, d)
        wp.launch(_read_dofs, self._dof_state.shape[:2], inputs=[d.qpos, d.qvel], outputs=[self._dof_state])
        mjw.step(self._m, d)
        self._read(d, self._rows)

    def _write(self) -> None:
        self._more.zero_()
        wp.launch(_any_waiting, self.num_envs, inputs=[self._waiting], outputs=[self._more])
        wp.capture_while(self._more, self._write_some)

    def _write_some(self) -> None:
        """The next rows that wait: loaded into the small batch, stepped once, stored."""
        d, small, row = self._d, self._small, self._small_rows
        row.fill_(-1)
        self._count.zero_()
        wp.launch(_pick_rows, self.num_envs, inputs=[self._waiting, self._count, row])
        wp.launch(_any_left, 1, inputs=[self._count, row.shape[0]], outputs=[self._more])
        state = [small.qpos, small.qvel, small.ctrl, small.qacc_warmstart]
        wp.launch(_load_rows, row.shape[0], inputs=[row, self._dof_state, self._root_state], outputs=state)
        self._blocks.rewind()
        with self._allocating_from(self._blocks):
            mjw.step(self._m, small)
        self._read(small, row)
        for name in ("qpos", "qvel", "ctrl", "qacc_warmstart"):
            source = getattr(small, name)
            wp.launch(_store_rows, source.shape, inputs=[row, source], outputs=[getattr(d, name)])

    def _read(self, d: mjw.Data, row: wp.array) -> None:
        """Bodies, forces and actors of a batch into the rows of the tensors."""
        bodies = [row, d.xpos, d.xquat, d.cvel, d.subtree_com, self._tree_root]
        wp.launch(_read_bodies, (d.nworld, len(self.body_names)), inputs=bodies, outputs=[self._bodies])
        ids, force = self._contacts[id(d)]
        mjw.contact_force(self._m, d, ids, True, force)
        wp.launch(_zero_forces, (d.nworld, len(self.body_names)), inputs=[row], outputs=[self._forces])
        forces = [row, d.nacon, d.contact.worldid, d.contact.geom, force, self._geom_body]
        wp.launch(_sum_forces, ids.shape[0], inputs=forces, outputs=[self._forces])
        actors = [row, self._bodies, self._actors]
        wp.launch(_read_actors, (d.nworld, len(self.actor_names)), inputs=actors, outputs=[self._root_state])
        wp.launch(_find_nonfinite, d.nworld, inputs=[row, d.qpos, d.qvel], outputs=[self._nonfinite])

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
