"""Objects of a scene as Isaac Gym's assets: boxes by its own call, other shapes by a URDF, all but spheres as hulls.

PhysX knows neither cylinders nor ellipsoids, and on a GPU no hull of more than 64 corners.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Tuple
from xml.etree import ElementTree

import numpy as np
import torch
import trimesh

from dexhand_gym.meshes import load_mesh
from dexhand_gym.objects import AnyOf, Object
from dexhand_gym.shapes import inertia
from dexhand_gym.sim.base import Scene, Variation

MATERIALS = 60_000
"""Limit on different friction values: PhysX supports some 64 000 materials."""


def in_each(scene: Scene, num_envs: int, variation: Variation) -> Dict[str, np.ndarray]:
    """Largest extent, mass and friction of the free objects in each environment [N, objects], and which choice those are
    that differ. Raises ValueError, one line, for what is not supported with Isaac Gym."""
    for thing in scene.objects:
        if thing.fixed:
            raise ValueError(f"object {thing.name!r} is a fixed object: with Isaac Gym allowed is one that moves")
        if any(thing.center):
            raise ValueError(f"object {thing.name!r} has center = {thing.center}: with Isaac Gym allowed is 0 0 0")
    names = ("size", "mass", "friction", "which")
    found = {name: np.zeros((num_envs, len(scene.free))) for name in names}
    for column, thing in enumerate(scene.free):
        of = choices(thing)
        which = np.zeros(num_envs, int)
        which[:] = np.asarray(variation.get(f"{thing.name}.which", 0))
        usual = np.array([(max(choice.extents), choice.mass, choice.friction) for choice in of])[which]
        for name, values in zip(names, (*usual.T, which)):
            found[name][:, column] = np.asarray(variation.get(f"{thing.name}.{name}", values))
    if (found["friction"] < 0.5).any():
        raise ValueError(
            f"friction of an object = {found['friction'].min():.3g}: with Isaac Gym allowed is 0.5 or more"
        )
    if not any(isinstance(thing, AnyOf) for thing in scene.free):
        del found["which"]
    return {**found, "friction": in_steps(found["friction"])}


def choices(thing: Object) -> Tuple[Object, ...]:
    """What an object may be."""
    return thing.of if isinstance(thing, AnyOf) else (thing,)


def in_steps(friction: np.ndarray, most: int = MATERIALS) -> np.ndarray:
    """The same values; if more than `most` of them differ, rounded to `most` evenly spaced ones."""
    if len(np.unique(friction)) <= most:
        return friction
    low, step = friction.min(), np.ptp(friction) / (most - 1)
    return low + step * np.round((friction - low) / step)


def things_of(scene: Scene, own: Dict[str, np.ndarray], i: int) -> List[Object]:
    """The free objects as they are in environment `i`; `own` is what in_each() returns."""
    things = []
    for column, thing in enumerate(scene.free):
        row = {name: float(rows[i, column]) for name, rows in own.items()}
        choice = choices(thing)[int(row.get("which", 0))]
        factor = row["size"] / max(choice.extents)
        scaled = tuple(factor * x for x in choice.size) if isinstance(choice.size, tuple) else factor * choice.size
        things.append(replace(choice, name=thing.name, size=scaled, mass=row["mass"], friction=row["friction"]))
    return things


def make_asset(gym: Any, sim: Any, thing: Object, options: Any) -> Any:
    """What Isaac Gym returns for an object of this shape and mass."""
    x, y, z = thing.extents
    if thing.shape == "box":
        options.density = thing.mass / (x * y * z)
        return gym.create_box(sim, x, y, z, options)
    with tempfile.TemporaryDirectory() as folder:
        write_urdf(thing, Path(folder))
        return gym.load_asset(sim, folder, "object.urdf", options)


def write_urdf(thing: Object, folder: Path) -> None:
    """Writes object.urdf, of one link whose frame is the object's, and its meshes beside it."""
    solids = [] if thing.shape == "sphere" else solids_of(thing)
    robot = ElementTree.Element("robot", name=thing.name)
    link = ElementTree.SubElement(robot, "link", name=thing.name)
    center, moments = weighed(thing, solids)
    inertial = ElementTree.SubElement(link, "inertial")
    ElementTree.SubElement(inertial, "origin", xyz=" ".join(f"{x:.9g}" for x in center), rpy="0 0 0")
    ElementTree.SubElement(inertial, "mass", value=f"{thing.mass:.9g}")
    axes = (("xx", 0, 0), ("xy", 0, 1), ("xz", 0, 2), ("yy", 1, 1), ("yz", 1, 2), ("zz", 2, 2))
    ElementTree.SubElement(inertial, "inertia", {f"i{name}": f"{moments[i, j]:.9g}" for name, i, j in axes})
    shapes = [("sphere", {"radius": f"{thing.extents[0] / 2:.9g}"})]
    for part, solid in enumerate(solids):
        (folder / f"{part}.obj").write_text(solid.export(file_type="obj"))
    shapes = [("mesh", {"filename": f"{part}.obj"}) for part in range(len(solids))] or shapes
    for name, attributes in shapes:
        for use in ("visual", "collision"):
            geometry = ElementTree.SubElement(ElementTree.SubElement(link, use), "geometry")
            ElementTree.SubElement(geometry, name, attributes)
    (folder / "object.urdf").write_bytes(ElementTree.tostring(robot))


def solids_of(thing: Object) -> List[Any]:
    """The convex parts that an object collides as, trimesh.Trimesh each, in its frame, m; of 64 corners at most."""
    if thing.shape != "mesh":
        return [turned(thing)]
    hulls = load_mesh(thing.file, thing.first_size, thing.parts).hulls
    return [trimesh.Trimesh(hull.vertices, hull.faces, process=False) for hull in hulls]


def turned(thing: Object) -> Any:
    """A cylinder, a capsule or an ellipsoid, of corners on its surface: an outline turned about z."""
    x, y, z = np.array(thing.extents) / 2
    if thing.shape == "cylinder":
        return trimesh.creation.revolve(np.array([(0, -z), (x, -z), (x, z), (0, z)]), sections=31)
    if thing.shape == "ellipsoid":
        return trimesh.creation.revolve(arc(7), sections=12).apply_scale((x, y, z))
    around = x * arc(5)
    ends = np.concatenate((around[:3] - (0, z - x), around[2:] + (0, z - x)))
    return trimesh.creation.revolve(ends, sections=15)


def arc(count: int) -> np.ndarray:
    """Points [count, 2] of half a circle of radius 1, from the lower pole to the upper: distance from the axis, and
    height."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, count)
    points = np.stack((np.cos(angles), np.sin(angles)), 1)
    points[[0, -1], 0] = 0.0
    return points


def weighed(thing: Object, solids: List[Any]) -> Tuple[np.ndarray, np.ndarray]:
    """Centre of mass [3] and matrix of inertia about it [3, 3], kg m2, of what is the same all through."""
    if thing.shape != "mesh":
        half = torch.tensor(thing.extents, dtype=torch.float64) / 2
        return np.zeros(3), np.diag(inertia(thing.shape, torch.tensor(thing.mass, dtype=torch.float64), half).numpy())
    whole: Any = trimesh.util.concatenate(solids)
    return whole.center_mass, whole.moment_inertia * (thing.mass / whole.volume)
