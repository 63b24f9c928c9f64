"""A Scene as one MuJoCo model, for every MuJoCo engine."""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Dict, List

import mujoco
import numpy as np

from dexhand_gym.hands.hand import Hand
from dexhand_gym.hands.mjcf import read_tree
from dexhand_gym.sim.base import Scene, SimConfig

SCENE_XML = Path(__file__).resolve().parent.parent / "assets" / "scene.xml"
STATE = ("time", "qpos", "qvel", "qacc_warmstart", "ctrl")
"""MuJoCo's arrays that the next step of such a model depends on."""
TURNING_FRICTION = (0.005, 0.0001)
"""Torsional and rolling, of no effect in contacts of three dimensions."""

if hasattr(mujoco, "MjLogConfig"):  # since MuJoCo 4; older ones only draw, for Isaac Gym
    _log = mujoco.MjLogConfig.get()
    if _log.logfile == "MUJOCO_LOG.TXT":  # MuJoCo's default: a file in whatever folder the user is in
        _log.logto_file = False
        _log.set()


def build_model(scene: Scene, cfg: SimConfig, visuals: bool = False, sensors: bool = False) -> mujoco.MjModel:
    """Ground, light, hand and boxes. Bodies stand in file order behind the world: the hand's, then the boxes.

    Without `visuals` the shapes that only please the eye are left out: same physics, faster. With `sensors` every body
    that can touch anything gets one for the sum of its contact forces.
    """
    spec = mujoco.MjSpec.from_string(hand_and_ground(scene.hand))
    spec.compiler.discardvisual = not visuals
    spec.body(scene.hand.root).pos = (0.0, 0.0, scene.hand_height)
    for name in scene.hand.body_names:  # meets scene objects (conaffinity 3), never itself
        for geom in spec.body(name).geoms:
            if geom.contype or geom.conaffinity:
                geom.contype, geom.conaffinity = 1, 0
    for box in scene.boxes:
        body = spec.worldbody.add_body(name=box.name, pos=(0.0, 0.0, box.size / 2))
        body.add_freejoint(name=box.name)
        body.add_geom(
            name=box.name,
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[box.size / 2] * 3,
            mass=box.mass,
            friction=(box.friction, *TURNING_FRICTION),
            priority=1,  # else a contact would take the larger friction of the two, never less than the hand's
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
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.solver, option.jacobian = mujoco.mjtSolver.mjSOL_NEWTON, mujoco.mjtJacobian.mjJAC_DENSE
    option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
    option.timestep = cfg.dt / cfg.substeps
    option.gravity = (0.0, 0.0, 0.0)  # see weights()
    option.iterations = cfg.solver.iterations
    option.ls_iterations = cfg.solver.ls_iterations
    option.impratio = cfg.solver.impratio
    option.cone = getattr(mujoco.mjtCone, f"mjCONE_{cfg.solver.cone.upper()}")
    return spec.compile()


def hand_and_ground(hand: Hand) -> str:
    """One MJCF of the hand's file and scene.xml, in which files are found wherever the program runs."""
    root = read_tree(hand.file)
    compiler = root.find("compiler")
    if compiler is None:
        compiler = ElementTree.SubElement(root, "compiler")
    for key in ("meshdir", "texturedir"):
        compiler.set(key, str(hand.file.parent / compiler.get(key, compiler.get("assetdir", ""))))
    for keyframes in root.findall("keyframe"):  # of the hand alone
        root.remove(keyframes)
    root.extend(ElementTree.parse(SCENE_XML).getroot())
    return ElementTree.tostring(root, encoding="unicode")


def weights(model: mujoco.MjModel, scene: Scene, cfg: SimConfig) -> np.ndarray:
    """What gravity does, as xfrc_applied [bodies, 6]: it pulls at the boxes. The hand is gravity-compensated, which to
    compute for each of its bodies only to cancel gravity again takes 12 % of the physics on a GPU and 7 % on a CPU."""
    wrench = np.zeros((model.nbody, 6))
    for box in scene.boxes:
        wrench[model.body(box.name).id, :3] = box.mass * np.array(cfg.gravity)
    return wrench


def box_fields(boxes: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """What models with other boxes have otherwise: MuJoCo's field -> its last rows [N, rows, ...], which are the boxes'.
    `boxes` as make_sim's `own_boxes`. Left out is what no step reads: places at qpos0, averages over the model, and the tree of
    bounding boxes of bodies with several shapes, of which there are none."""
    size, mass, friction = boxes["size"], boxes["mass"], boxes["friction"]
    half = np.repeat(size[..., None] / 2, 3, -1)
    inertia = mass * size**2 / 6
    of_dofs = np.repeat(np.stack((mass, inertia), -1), 3, -1).reshape(len(mass), -1)
    return {
        "geom_size": half,
        "geom_rbound": size * 0.75**0.5,
        "geom_aabb": np.concatenate((np.zeros_like(half), half), -1),
        "geom_friction": np.stack((friction, *(np.full_like(friction, x) for x in TURNING_FRICTION)), -1),
        "body_mass": mass,
        "body_subtreemass": mass,
        "body_inertia": np.repeat(inertia[..., None], 3, -1),
        "body_invweight0": 1 / np.stack((mass, inertia), -1),
        "dof_M0": of_dofs,
        "dof_invweight0": 1 / of_dofs,
    }


def touchable_bodies(spec: mujoco.MjSpec) -> List[str]:
    """Names of the bodies that carry a colliding geom, in body order."""
    return [
        body.name
        for body in spec.bodies
        if body.name != "world" and any(geom.contype or geom.conaffinity for geom in body.geoms)
    ]
