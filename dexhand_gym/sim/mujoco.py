"""MuJoCo on CPU threads.

MuJoCo's step computes poses, contacts and forces of a state and then integrates it, so afterwards all of those lag the
state by one physics step. Here a control step reports the state *before* its last integration: positions, velocities
and contact forces of one instant, without a second solve. The stored rows therefore run one physics step ahead of what
is reported, and an action takes effect one physics step (dt / substeps) after the observation it answers.
"""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import os
from typing import Dict

import mujoco
import numpy as np
import torch
from mujoco.batch import Batch, SimulationError
from torch import Tensor

from dexhand_gym import rotations
from dexhand_gym.sim.base import MOST, REPORTED, Scene, SimConfig, Variation
from dexhand_gym.sim.mjcf import STATE, build_model, weights
from dexhand_gym.sim.varied import Varied

_NO_SENSORS = int(mujoco.mjtDisableBit.mjDSBL_SENSOR)


class MuJoCoSimulator:
    """The Simulator contract (base.py) on `mujoco.batch`: one thread pool, memory that scales with threads."""

    def __init__(
        self,
        scene: Scene,
        num_envs: int,
        cfg: SimConfig,
        decimation: int,
        variation: Variation | None = None,
    ):
        self.device = torch.device("cpu")
        self.num_envs, self.scene = num_envs, scene
        self.num_substeps = cfg.substeps * decimation
        self.model = model = build_model(scene, cfg, sensors=True)
        threads = min(cfg.threads or len(os.sched_getaffinity(0)), num_envs)
        self._batch = Batch(model, num_envs, threads)

        self.actor_names = scene.actor_names
        self.dof_names = list(scene.hand.dof_names)
        self.body_names = [model.body(i).name for i in range(1, model.nbody)]

        self.root_state = torch.zeros(num_envs, len(self.actor_names), 13, dtype=torch.float32)
        self.dof_state = torch.zeros(num_envs, len(self.dof_names), 2, dtype=torch.float32)
        self.rigid_body_state = torch.zeros(num_envs, len(self.body_names), 13, dtype=torch.float32)
        self.net_contact_force = torch.zeros(num_envs, len(self.body_names), 3, dtype=torch.float32)
        self.nonfinite = torch.zeros(num_envs, dtype=torch.bool)

        self._bind()
        self._actor_bodies = torch.tensor(
            [self.body_names.index(name) for name in (scene.hand.root, *self.actor_names[1:])]
        )
        self._tree_root = torch.tensor(model.body_rootid[1:]).long()
        touchable = [model.body(i).name for i in model.sensor_objid]
        self._touchable = torch.tensor([self.body_names.index(name) for name in touchable])
        self._pull[:] = torch.from_numpy(weights(model, scene, cfg))
        self._varied = Varied(scene, cfg, model, num_envs, self.device, self._expanded)
        if variation:
            self.vary(variation)
            for i, thing in enumerate(scene.free):
                height = thing.rest()[0] / max(thing.extents) * self._varied.values[f"{thing.name}.size"]
                self._qpos[:, len(self.dof_names) + 7 * i + 2] = height
        self._revive(np.arange(num_envs, dtype=np.int32))

    def _bind(self) -> None:
        """Views of the engine's arrays, which it rewrites in place. World is body 0 there, so bodies start at 1."""

        def view(name: str) -> Tensor:
            array = self._batch.bind(name)
            writeable, array.flags.writeable = array.flags.writeable, True  # else torch warns
            tensor = torch.from_numpy(array)
            array.flags.writeable = writeable
            return tensor

        self._qpos, self._qvel, self._ctrl = view("qpos"), view("qvel"), view("ctrl")
        self._pull = view("xfrc_applied")
        self._xpos, self._xquat, self._cvel = view("xpos")[:, 1:], view("xquat")[:, 1:], view("cvel")[:, 1:]
        self._com, self._forces = view("subtree_com"), view("sensordata").view(self.num_envs, -1, 3)
        self._flags = self._batch.expand("opt.disableflags")  # [N]

    def vary(self, variation: Variation, mask: Tensor | None = None) -> None:
        """See Simulator.vary."""
        self._varied.apply(variation, mask)

    @torch.inference_mode()
    def push(self, wrench: Tensor) -> None:
        """See Simulator.push."""
        self._varied.push(self._pull, wrench)

    def _expanded(self, name: str) -> Tensor:
        return self._pull[..., :3] if name == "weights" else torch.from_numpy(self._batch.expand(name))

    @torch.inference_mode()
    def step(self, dof_targets: Tensor) -> None:
        """See Simulator.step."""
        self._ctrl.copy_(dof_targets)
        self._flags |= _NO_SENSORS  # they cost 4 % of the physics, and only the last step's are needed
        self._advance(None, self.num_substeps - 1)
        self._flags &= ~_NO_SENSORS
        self._read_dofs()
        self._advance(None, 1)
        self._read_bodies()
        force = self._forces.float().neg_()  # the sensor reports the force that the body exerts
        self.net_contact_force.index_copy_(1, self._touchable, force)

    @torch.inference_mode()
    def write_state(self, mask: Tensor) -> None:
        """See Simulator.write_state."""
        ids = np.flatnonzero(mask.numpy()).astype(np.int32)
        if len(ids) == 0:
            return
        dofs, root = self.dof_state[ids].double(), self.root_state[ids, 1:].double()
        pull = self._pull[ids]
        self._batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        n = len(self.dof_names)
        self._qpos[ids, :n], self._qvel[ids, :n] = dofs[..., 0], dofs[..., 1]
        self._ctrl[ids], self._pull[ids] = dofs[..., 0], pull
        position, quat, linear, angular = root.split((3, 4, 3, 3), -1)
        self._qpos[ids, n:] = torch.cat((position, quat.roll(1, -1)), -1).flatten(1)
        spin = rotations.rotate(rotations.conjugate(quat), angular)  # a free joint's angular velocity is in body axes
        self._qvel[ids, n:] = torch.cat((linear, spin), -1).flatten(1)
        self._revive(ids)

    def _revive(self, ids: np.ndarray) -> None:
        self._batch.forward(ids, stage=mujoco.mjtStage.mjSTAGE_VEL)
        self._read_bodies(torch.from_numpy(ids).long())
        self.net_contact_force[ids] = 0.0

    def _advance(self, ids: np.ndarray | None, nstep: int) -> None:
        try:
            if nstep:
                self._batch.step(ids, nstep)
        except SimulationError as error:  # the engine gave up on these and ran the others
            self._qpos[torch.from_numpy(error.ids).long()] = float("nan")

    def _read_dofs(self) -> None:
        n = len(self.dof_names)
        self.dof_state[..., 0] = self._qpos[:, :n]
        self.dof_state[..., 1] = self._qvel[:, :n]

    def _read_bodies(self, ids: Tensor | None = None) -> None:
        """Updates the bodies of all rows, or of `ids`. Column by column, which is faster than slices of three, where
        the kernels' inner loops have length three."""
        arrays = (self._xpos, self._xquat, self._cvel, self._com, self.rigid_body_state)
        xpos, xquat, cvel, com, bodies = arrays if ids is None else (x.index_select(0, ids) for x in arrays)
        x, y, z = position = xpos.unbind(-1)
        qw, qx, qy, qz = xquat.unbind(-1)
        wx, wy, wz, vx, vy, vz = cvel.unbind(-1)  # v is that of the point at the centre of mass of the whole tree
        rx, ry, rz = (p - c for p, c in zip(position, com.index_select(1, self._tree_root).unbind(-1)))
        out = bodies.unbind(-1)
        for target, column in zip((*out[:7], *out[10:]), (x, y, z, qx, qy, qz, qw, wx, wy, wz)):
            target.copy_(column)
        out[7].copy_(vx.addcmul(wy, rz).addcmul_(wz, ry, value=-1))
        out[8].copy_(vy.addcmul(wz, rx).addcmul_(wx, rz, value=-1))
        out[9].copy_(vz.addcmul(wx, ry).addcmul_(wy, rx, value=-1))
        if ids is not None:
            self.rigid_body_state.index_copy_(0, ids, bodies)
        torch.index_select(self.rigid_body_state, 1, self._actor_bodies, out=self.root_state)
        self.nonfinite.copy_(~((self._qpos.sum(1) + self._qvel.sum(1)).abs() < MOST))

    def memory(self) -> Dict[str, Tensor]:
        """See Simulator.memory."""
        state = {name: torch.from_numpy(self._batch.bind(name)) for name in STATE}
        return {**state, **{name: getattr(self, name) for name in REPORTED}, **self._varied.memory()}

    def take_overflow(self) -> Tensor:
        """See Simulator.take_overflow; MuJoCo's memory grows as needed."""
        return torch.zeros((), dtype=torch.int64)

    def close(self) -> None:
        """See Simulator.close."""
        del self._batch
