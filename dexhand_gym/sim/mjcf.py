"""A Scene as one MuJoCo model, for every MuJoCo engine."""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import functools
import itertools
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import List, Set, Tuple

import mujoco
import numpy as np

from dexhand_gym.hands.hand import Hand
from dexhand_gym.hands.mjcf import read_tree
from dexhand_gym.objects import AnyOf
from dexhand_gym.sim.base import Scene, SimConfig
from dexhand_gym.sim.bodies import add_ghost, add_object

SCENE_XML = Path(__file__).resolve().parent.parent / "assets" / "scene.xml"
MOST_DENSE = 60  # degrees of freedom; with more, MuJoCo Warp needs sparse matrices
MOST_ITERATIONS = 20
"""Of MuJoCo's solver, where sim.solver.iterations says none."""
STATE = ("time", "qpos", "qvel", "qacc_warmstart", "ctrl")
"""MuJoCo's arrays that the next step of these models depends on."""

if hasattr(mujoco, "MjLogConfig"):  # since MuJoCo 4; older ones only draw, for Isaac Gym
    _log = mujoco.MjLogConfig.get()
    if _log.logfile == "MUJOCO_LOG.TXT":  # MuJoCo's default: a file in whatever folder the user is in
        _log.logto_file = False
        _log.set()


def build_model(scene: Scene, cfg: SimConfig, visuals: bool = False, sensors: bool = False) -> mujoco.MjModel:
    """Ground, light, hand and objects. After the world, the bodies are in this order: the hand's as in its file, fixed
    objects, free objects.

    Without `visuals`, purely visual shapes are left out: same physics, faster. With `sensors`, every body that can
    collide gets a sensor of the sum of its contact forces.
    """
    spec = build_spec(scene, cfg, visuals, sensors)
    try:
        return move_centers(spec, spec.compile(), scene)
    except ValueError as error:  # MuJoCo's own words take several lines
        raise ValueError(f"the scene's model: {' '.join(str(error).split())[:300]}") from None


def build_spec(scene: Scene, cfg: SimConfig, visuals: bool = False, sensors: bool = False) -> mujoco.MjSpec:
    """What build_model() compiles. Centres of mass that are not in the middle are not in it."""
    spec = mujoco.MjSpec.from_string(hand_and_ground(scene.hand))
    spec.compiler.discardvisual = not visuals
    root = scene.hand_links[0]
    spec.body(root.name).pos, spec.body(root.name).quat = root.pos, root.quat
    for geom in colliding_geoms(spec, scene.hand):  # meets scene objects (conaffinity 3), itself only if asked to
        geom.contype, geom.conaffinity = 1, int(scene.self_collision)
    for one, other in never_colliding(scene.hand) if scene.self_collision else ():
        spec.add_exclude(bodyname1=one, bodyname2=other)
    for thing in scene.bodies:
        add_object(spec, thing)
    for ghost in scene.ghosts if visuals else ():
        add_ghost(spec, ghost)
    if scene.grip:
        give_grip(spec, scene)
    for body in touchable_bodies(spec) if sensors else ():
        spec.add_sensor(
            name=f"{body}_contact",
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname=body,
            intprm=[1 << int(mujoco.mjtConDataField.mjCONDATA_FORCE), 3, 1],  # the force; 3: summed, in world axes
        )
    if scene.edit_spec is not None:
        scene.edit_spec(spec)
    if spec.compiler.discardvisual and any(isinstance(thing, AnyOf) for thing in scene.free):
        discard_visuals(spec, scene)
    for body in spec.bodies:
        body.gravcomp = 0.0
    option = spec.option
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    dense = len(scene.hand.dof_names) + 6 * len(scene.free) <= MOST_DENSE
    option.jacobian = mujoco.mjtJacobian.mjJAC_DENSE if dense else mujoco.mjtJacobian.mjJAC_SPARSE
    option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
    option.timestep = cfg.dt / cfg.substeps
    option.gravity = (0.0, 0.0, 0.0)  # see weights()
    option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_GRAVITY)  # else a GPU adds up zeros, 5 % of the physics
    option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_MIDPHASE)  # its boxes are those of the nominal sizes
    option.iterations = cfg.solver.iterations or MOST_ITERATIONS
    option.ls_iterations = cfg.solver.ls_iterations
    option.impratio = cfg.solver.impratio
    option.cone = getattr(mujoco.mjtCone, f"mjCONE_{cfg.solver.cone.upper()}")
    return spec


def hand_and_ground(hand: Hand) -> str:
    """The hand's file and scene.xml as one MJCF, with the paths of meshes and textures resolved from the hand's
    folder."""
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


def discard_visuals(spec: mujoco.MjSpec, scene: Scene) -> None:
    """As the compiler does by `discardvisual`, which would discard the meshes of all choices of an AnyOf, too."""
    spec.compiler.discardvisual = False
    for geom in [geom for geom in spec.geoms if not (geom.contype or geom.conaffinity)]:
        spec.delete(geom)
    used = {geom.meshname for geom in spec.geoms}
    of_objects = tuple(f"{thing.name}." for thing in scene.free)
    for mesh in [mesh for mesh in spec.meshes if mesh.name not in used and not mesh.name.startswith(of_objects)]:
        spec.delete(mesh)


def colliding_geoms(spec: mujoco.MjSpec, hand: Hand) -> List[mujoco.MjsGeom]:
    """The hand's shapes that can touch anything."""
    geoms = [geom for name in hand.body_names for geom in spec.body(name).geoms]
    return [geom for geom in geoms if geom.contype or geom.conaffinity]


@functools.lru_cache(maxsize=None)
def never_colliding(hand: Hand) -> Tuple[Tuple[str, str], ...]:
    """Pairs of the hand's bodies that do not collide even where fingers and palm do: a body and the one that carries its
    joint, and two whose shapes overlap in the open hand (action targets at zero, or the limit next to it) or in more
    than half of 1000 random postures within the limits of the actions. Such an overlap is not a touch but the
    roughness of the shapes, and contacts there would push against the joints all the time."""
    spec = mujoco.MjSpec.from_string(hand_and_ground(hand))
    for geom in colliding_geoms(spec, hand):
        geom.contype = geom.conaffinity = 4  # the ground has no such bit
    model = spec.compile()
    data = mujoco.MjData(model)

    def overlapping(targets: np.ndarray) -> Set[Tuple[int, ...]]:
        data.qpos[:] = np.array(hand.coupling) @ targets
        mujoco.mj_fwdPosition(model, data)
        return {tuple(sorted(pair)) for pair in model.geom_bodyid[data.contact.geom[: data.ncon]].tolist()}

    lower, upper = np.array(hand.action_lower), np.array(hand.action_upper)
    in_open_hand = overlapping(np.clip(0.0, lower, upper))
    postures = np.random.default_rng(0).uniform(lower, upper, (1000, len(lower)))
    shared = Counter(itertools.chain.from_iterable(map(overlapping, postures)))
    rigid = model.body_weldid  # a body without a joint is one with its parent
    carrier = rigid[model.body_parentid[rigid]]
    bodies = sorted({int(body) for body in model.geom_bodyid[model.geom_contype == 4]})
    return tuple(
        (model.body(i).name, model.body(j).name)
        for i, j in itertools.combinations(bodies, 2)
        if carrier[j] == rigid[i] or (i, j) in in_open_hand or shared[i, j] > len(postures) / 2
    )


def move_centers(spec: mujoco.MjSpec, model: mujoco.MjModel, scene: Scene) -> mujoco.MjModel:
    """The model with the objects' centres of mass where they say; moments of inertia about them are unchanged."""
    moved = [thing for thing in scene.bodies if any(thing.center)]
    for thing in moved:
        body, found = spec.body(thing.name), model.body(thing.name)
        body.explicitinertial = True
        body.mass, body.inertia, body.iquat = found.mass[0], found.inertia, found.iquat
        body.ipos = found.ipos + thing.center
    return spec.compile() if moved else model


def give_grip(spec: mujoco.MjSpec, scene: Scene) -> None:
    """Lets the surfaces in `scene.grip` decide the friction of their contacts, in the place of the objects', whose values
    they have at first."""
    surfaces = {(x.condim, x.friction, x.spinning_friction, x.rolling_friction) for x in scene.free}
    if len(surfaces) != 1:
        raise ValueError(f"the friction of fingertips and ground: allowed is one for all {len(scene.free)} objects")
    condim, *friction = surfaces.pop()
    bodies = {"hand": [finger.contact for finger in scene.hand.fingers], "world": ["world"]}
    for name in (body for surface in scene.grip for body in bodies[surface]):
        for geom in spec.body(name).geoms:
            if geom.contype or geom.conaffinity:
                geom.priority, geom.condim, geom.friction = 2, condim, friction


def weights(model: mujoco.MjModel, scene: Scene, cfg: SimConfig) -> np.ndarray:
    """The weight of the objects, as xfrc_applied [bodies, 6]. The hand is gravity-compensated: computing gravity and
    its compensation for each body costs 12 % of the physics on a GPU and 7 % on a CPU, so both are off."""
    wrench = np.zeros((model.nbody, 6))
    for thing in scene.free:
        body = model.body(thing.name)
        wrench[body.id, :3] = body.mass[0] * np.array(cfg.gravity)
    return wrench


def touchable_bodies(spec: mujoco.MjSpec) -> List[str]:
    """Names of the bodies that carry a colliding geom, in body order."""
    return [
        body.name
        for body in spec.bodies
        if body.name != "world" and any(geom.contype or geom.conaffinity for geom in body.geoms)
    ]
