"""A Scene as one MuJoCo model, for every MuJoCo engine."""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from typing import List

import mujoco
import numpy as np

from dexhand_gym import hand
from dexhand_gym.sim.base import Scene, SimConfig

STATE = ("time", "qpos", "qvel", "qacc_warmstart", "ctrl")
"""MuJoCo's arrays that the next step of such a model depends on."""


def build_model(scene: Scene, cfg: SimConfig, visuals: bool = False, sensors: bool = False) -> mujoco.MjModel:
    """Ground, light, hand and boxes. Bodies stand in file order behind the world: the hand's, then the boxes.

    Without `visuals` the shapes that only please the eye are left out: same physics, faster. With `sensors` every body
    that can touch anything gets one for the sum of its contact forces.
    """
    spec = mujoco.MjSpec.from_file(str(hand.SCENE_XML))
    spec.compiler.discardvisual = not visuals
    spec.body("floating_base_root").pos = (0.0, 0.0, scene.hand_height)
    for box in scene.boxes:
        body = spec.worldbody.add_body(name=box.name, pos=(0.0, 0.0, box.size / 2))
        body.add_freejoint(name=box.name)
        body.add_geom(
            name=box.name,
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[box.size / 2] * 3,
            mass=box.mass,
            friction=(box.friction, 0.005, 0.0001),
            rgba=(*box.color, 1.0),
            contype=2,
            conaffinity=3,
            condim=3,
        )
    for body in touchable_bodies(spec) if sensors else ():
        spec.add_sensor(
            name=f"{body}_contact",
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname=body,
            intprm=[1 << int(mujoco.mjtConDataField.mjCONDATA_FORCE), 3, 1],  # the force; 3: summed, in world axes
        )
    for body in spec.bodies:
        body.gravcomp = 0.0
    option = spec.option
    option.timestep = cfg.dt / cfg.substeps
    option.gravity = (0.0, 0.0, 0.0)  # see weights()
    option.iterations = cfg.solver.iterations
    option.ls_iterations = cfg.solver.ls_iterations
    option.impratio = cfg.solver.impratio
    option.cone = getattr(mujoco.mjtCone, f"mjCONE_{cfg.solver.cone.upper()}")
    return spec.compile()


def weights(model: mujoco.MjModel, scene: Scene, cfg: SimConfig) -> np.ndarray:
    """What gravity does, as xfrc_applied [bodies, 6]: it pulls at the boxes. The hand is gravity-compensated, which to
    compute for each of its bodies only to cancel gravity again takes 12 % of the physics on a GPU and 7 % on a CPU."""
    wrench = np.zeros((model.nbody, 6))
    for box in scene.boxes:
        wrench[model.body(box.name).id, :3] = box.mass * np.array(cfg.gravity)
    return wrench


def touchable_bodies(spec: mujoco.MjSpec) -> List[str]:
    """Names of the bodies that carry a colliding geom, in body order."""
    return [
        body.name
        for body in spec.bodies
        if body.name != "world" and any(geom.contype or geom.conaffinity for geom in body.geoms)
    ]
