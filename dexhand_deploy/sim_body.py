"""A hand in plain MuJoCo: the exported model.xml, and nothing of the environments."""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any, Dict, Optional

import numpy as np

from .contract import Contract

Array = Any


class SimBody:
    """Simulates `control_dt` seconds whenever targets are sent; reports what Observer knows, and the pose of every object
    under its name [7], m and x y z w."""

    def __init__(self, contract: Contract):
        """Raises ValueError, one line, without MuJoCo or a model that fits."""
        try:
            import mujoco
        except ImportError:
            raise ValueError("a simulation needs MuJoCo: pip install mujoco") from None
        self.mujoco, self.contract, hand = mujoco, contract, contract.said["hand"]
        file = contract.folder / "model.xml"
        try:
            self.model = mujoco.MjModel.from_xml_path(str(file))
            self.data = mujoco.MjData(self.model)
            joints = [self.model.joint(name) for name in contract.joints]
            self.positions = np.array([joint.qposadr[0] for joint in joints])
            self.velocities = np.array([joint.dofadr[0] for joint in joints])
            driven = {self.model.actuator(i).trnid[0]: i for i in range(self.model.nu)}
            self.drives = np.array([driven[joint.id] for joint in joints])
            self.pads = [self.model.body(finger["pad"]).id for finger in hand["fingers"]]
            self.touching = [self.model.body(finger["contact"]).id for finger in hand["fingers"]]
            objects = [thing for thing in contract.said["physics"]["objects"] if not thing.get("fixed")]
            self.objects = {thing["name"]: self.model.body(thing["name"]) for thing in objects}
        except (ValueError, KeyError) as error:
            raise ValueError(f"{file}: {' '.join(str(error).split())[:200]}") from None
        self.active = np.array([contract.joints.index(name) for name in hand["active_joints"]])
        self.axes = np.array([pad_axes(finger) for finger in hand["fingers"]])
        self.steps = round(contract.control_dt / self.model.opt.timestep)
        if abs(self.steps * self.model.opt.timestep - contract.control_dt) > 1e-6 or self.steps < 1:
            raise ValueError(f"control_dt = {contract.control_dt}: allowed are steps of {self.model.opt.timestep:g}")
        self.reset()

    def reset(self, start: Optional[Dict[str, Any]] = None) -> Array:
        """Begins at `start`: action targets under "hand" [T] and poses of objects [7], by default the contract's first.
        Returns the targets."""
        start = {name: rows[0] for name, rows in self.contract.said["starts"].items()} if start is None else start
        targets = self._checked("hand", start.get("hand", ()), len(self.contract.targets)).astype(np.float32)
        self.mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[self.positions] = self.contract.coupling @ targets
        for name, body in self.objects.items():
            pose = self._checked(name, start.get(name, ()), 7)
            first = self.model.jnt_qposadr[body.jntadr[0]]
            self.data.qpos[first : first + 7] = [*pose[:3], pose[6], *pose[3:6]]
        self.mujoco.mj_forward(self.model, self.data)
        self.state = self.data.qpos.copy(), self.data.qvel.copy()
        self.forces = np.zeros((len(self.touching), 3))
        return targets

    def send(self, targets: Array) -> None:
        """Drives the hand to these action targets [T] for a control step."""
        targets = self._checked("targets", targets, len(self.contract.targets))
        self.advance(self.contract.coupling @ targets, self.steps)

    def _checked(self, name: str, values: Any, count: int) -> Array:
        found = np.asarray(values, float)
        if found.shape != (count,) or not np.isfinite(found).all():
            raise ValueError(f"{name} = {values}: allowed are {count} finite numbers")
        return found

    def advance(self, joints: Array, steps: int) -> None:
        """Drives the joints to these targets [D] for so many physics steps."""
        self.data.ctrl[self.drives] = joints
        for _ in range(steps - 1):
            self.mujoco.mj_step(self.model, self.data)
        # What a step leaves in poses and contacts is of the state that it began with.
        self.state = self.data.qpos.copy(), self.data.qvel.copy()
        self.mujoco.mj_step(self.model, self.data)
        self.forces = self._contact_forces()

    def _contact_forces(self) -> Array:
        """Sum of the forces that act on each finger's last link [F, 3], N."""
        found, wrench = np.zeros((self.model.nbody, 3)), np.zeros(6)
        for i in range(self.data.ncon):
            contact = self.data.contact[i]
            self.mujoco.mj_contactForce(self.model, self.data, i, wrench)
            force = contact.frame.reshape(3, 3).T @ wrench[:3]
            found[self.model.geom_bodyid[contact.geom2]] += force
            found[self.model.geom_bodyid[contact.geom1]] -= force
        return found[self.touching]

    def read(self) -> Dict[str, Any]:
        """What the hand reports of one instant."""
        positions, velocities = (x[i] for x, i in zip(self.state, (self.positions, self.velocities)))
        base, frames = self.contract.base, self.data.xmat[self.pads].reshape(-1, 3, 3)
        local = np.einsum("fji,fj->fi", frames, self.forces)
        readings = {
            "base": positions[:base],
            "base_velocity": velocities[:base],
            "angles": positions[self.active],
            "angle_velocities": velocities[self.active],
            "forces_world": self.forces,
            "forces_pad": np.einsum("fij,fj->fi", self.axes, local),
            "pads_world": self.data.xpos[self.pads].copy(),
        }
        for name, body in self.objects.items():
            first = self.model.jnt_qposadr[body.jntadr[0]]
            pose = self.state[0][first : first + 7]
            readings[name] = np.array([*pose[:3], *pose[4:], pose[3]])
        return readings

    def highest(self) -> float:
        """Height of the highest object's middle, m; -inf where there is none."""
        readings = self.read()
        return max((float(readings[name][2]) for name in self.objects), default=-np.inf)

    def health(self) -> Dict[str, Any]:
        """See loop.Body: a simulation is always well."""
        return {}


def pad_axes(finger: Dict[str, Any]) -> Array:
    """Rows [3, 3] in the pad's frame: into the skin, to the tip, to the right."""
    normal, forward = np.array(finger["normal"], float), np.array(finger["forward"], float)
    return np.stack((-normal, forward, np.cross(forward, normal)))
