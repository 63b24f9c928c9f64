"""How objects lie on flat ground: their stable poses, and how high and how wide they are in them.

A side is a unit vector in the object's frame that points down while it lies. Loads neither torch nor an engine.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, List, Tuple

import numpy as np

from dexhand_gym.objects import Object

if TYPE_CHECKING:
    from dexhand_gym.meshes import Hull

LEAST_TILT = math.radians(2)
"""A pose counts as stable if it takes this much to topple it."""
SAME = math.radians(1)
"""Faces of a mesh that differ less are in one plane."""
ROUND = math.radians(5)
"""Planes that differ less are one rounded side: tipping from one to the next is no toppling."""
DOWN = np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])
"""The sides of boxes, cylinders and so on along x, y and z; their opposites look the same."""
MOST_MOVED, MOST_TURNED = 0.002, math.radians(3)
"""A mesh that moves (m) or turns more within a second of simulation does not lie stably."""


def resting_poses(thing: Object) -> np.ndarray:
    """Every stable pose on flat ground [P, 5], the lowest centre of mass first: height of its middle, m, and
    orientation x y z w, whose turn about the vertical is arbitrary. What looks the same (a box on opposite faces, a
    cylinder however it has rolled) counts once. A mesh has been simulated for a second in each, once: the result is in
    the cache folder. Raises ValueError, one line, where it lies still in none."""
    sides = stable_sides(thing)
    if thing.shape != "mesh":
        heights = np.abs(sides) @ thing.extents / 2
    else:
        heights = (collision_hull(thing)[0].vertices @ sides.T).max(0)
    poses = np.array([(height, *turned_down(side)) for height, side in zip(heights, sides)])
    return poses if thing.shape != "mesh" else _those_that_stay(thing, poses)


def grasp_width(thing: Object) -> float:
    """What a hand that comes from above must span, m: the smallest horizontal width, in the stable pose where that is
    largest."""
    return float(profiles(thing)[:, 1].max())


def profiles(thing: Object) -> np.ndarray:
    """Height and smallest horizontal width in every stable pose [P, 2], m."""
    sides = stable_sides(thing)
    if thing.shape != "mesh":
        return np.array([_profile(thing, int(np.abs(side).argmax())) for side in sides])
    hull, _ = collision_hull(thing)
    return np.array([(np.ptp(hull.vertices @ side), smallest_width(hull, side)) for side in sides])


def stable_sides(thing: Object) -> np.ndarray:
    """The sides on which it can lie [P, 3], the lowest centre of mass first; of a mesh by geometry alone."""
    if thing.shape == "mesh":
        return stable_faces(*collision_hull(thing))
    if any(thing.center):
        raise ValueError(
            f"{thing.name}.center = {thing.center}: allowed is 0 0 0 for the resting poses of a {thing.shape}"
        )
    lowest = int(np.argmin(thing.extents))
    axes = {"box": (0, 1, 2), "cylinder": (0, 2), "capsule": (0,), "ellipsoid": (lowest,), "sphere": (2,)}[thing.shape]
    profile = {axis: _profile(thing, axis) for axis in axes}
    if thing.shape in ("box", "cylinder"):  # they topple about an edge half a width from the middle
        axes = [axis for axis in axes if profile[axis][1] >= profile[axis][0] * math.tan(LEAST_TILT)]
    return DOWN[sorted(axes, key=lambda axis: profile[axis][0])]


def _profile(thing: Object, axis: int) -> Tuple[float, float]:
    """Height and smallest horizontal width with this axis upright; of any shape but a mesh."""
    across = [length for i, length in enumerate(thing.extents) if i != axis]
    return thing.extents[axis], min(across)


def stable_faces(hull: Hull, center: np.ndarray) -> np.ndarray:
    """The sides [P, 3] on which a convex solid with this centre of mass can lie, the lowest first.

    It topples over the edge between two faces f and g. Their planes have unit normals at an angle a, and distances
    d_f and d_g from the centre of mass, so the foot of its perpendicular on f is (d_g - d_f cos a) / sin a from that
    edge; seen from the centre of mass, that is the angle it must tilt. Planes that are no neighbours of f meet its
    plane outside f and change no minimum. Of a rounded side the face nearest to the centre of mass counts, and the
    planes beyond that side decide what it takes to topple.
    """
    normals = distinct_normals(hull)
    reach = ((hull.vertices - center) @ normals.T).max(0)
    cosine = normals @ normals.T
    sine = np.sqrt(np.maximum(1 - cosine**2, 1e-12))
    from_edge = (reach[None, :] - cosine * reach[:, None]) / sine
    np.fill_diagonal(from_edge, np.inf)
    near = cosine > math.cos(ROUND)
    firmness = np.arctan2(np.where(near, np.inf, from_edge).min(1), reach)
    lowest_around = (from_edge.min(1) > 0) & (reach <= np.where(near, reach, np.inf).min(1))
    firmness[~lowest_around] = 0.0
    stable = np.flatnonzero(firmness >= min(LEAST_TILT, firmness.max()))
    return normals[stable[np.argsort(reach[stable], kind="stable")]]


def distinct_normals(hull: Hull) -> np.ndarray:
    """Outward unit normals [P, 3] of a solid's faces, once each; of triangles in a plane that of the largest."""
    a, b, c = (hull.vertices[hull.faces[:, i]] for i in range(3))
    normals = np.cross(b - a, c - a)
    areas = np.linalg.norm(normals, axis=1)
    found: List[np.ndarray] = []
    for i in np.argsort(-areas, kind="stable"):
        if areas[i] > 1e-12 and all(normals[i] / areas[i] @ other < math.cos(SAME) for other in found):
            found.append(normals[i] / areas[i])
    return np.array(found)


def smallest_width(hull: Hull, side: np.ndarray) -> float:
    """The smallest horizontal width of a solid that lies on this side, m: of a polygon, here its shadow, it is across
    one of the edges."""
    edges = (hull.vertices[hull.faces] - hull.vertices[np.roll(hull.faces, 1, axis=1)]).reshape(-1, 3)
    across = np.cross(edges, side)
    lengths = np.linalg.norm(across, axis=1)
    across = across[lengths > 1e-6] / lengths[lengths > 1e-6, None]
    return float(np.ptp(hull.vertices @ across.T, axis=0).min())


def turned_down(side: np.ndarray) -> Tuple[float, float, float, float]:
    """The orientation x y z w that turns this side down by the shortest way."""
    x, y, z = side.tolist()
    if z > 1 - 1e-9:
        return 1.0, 0.0, 0.0, 0.0
    length = math.hypot(x, y, 1 - z)
    return -y / length, x / length, 0.0, (1 - z) / length


def collision_hull(thing: Object) -> Tuple[Hull, np.ndarray]:
    """The convex hull of a mesh, and its centre of mass in the object's frame [3], which is not the middle."""
    from dexhand_gym.meshes import hull_of, load_mesh

    hulls = load_mesh(thing.file, thing.first_size, thing.parts).hulls
    volumes = np.array([hull.volume for hull in hulls])
    center = volumes @ np.array([centroid(hull) for hull in hulls]) / volumes.sum() + thing.center
    whole = hulls[0] if len(hulls) == 1 else hull_of(np.concatenate([hull.vertices for hull in hulls]))
    return whole, center


def centroid(hull: Hull) -> np.ndarray:
    """The centre of mass of a homogeneous solid [3]: the mean of the tetrahedra between its triangles and the origin."""
    a, b, c = (hull.vertices[hull.faces[:, i]] for i in range(3))
    volumes = (a * np.cross(b, c)).sum(1)
    return volumes @ (a + b + c) / 4 / volumes.sum()


def _those_that_stay(thing: Object, poses: np.ndarray) -> np.ndarray:
    """Of the poses [P, 5] of a mesh those that it keeps, as they are after a second of the default physics."""
    from dexhand_gym.meshes import kept, load_mesh

    solid = load_mesh(thing.file, thing.first_size, thing.parts)
    corners = [hull.vertices for hull in solid.hulls]
    purpose = np.frombuffer(b"resting poses, 1", np.uint8)

    def fits(arrays: List[np.ndarray]) -> bool:
        return len(arrays) == 1 and arrays[0].shape[1:] == (5,) and bool(np.isfinite(arrays[0]).all())

    (stay,) = kept([purpose, poses, np.array(thing.center), *corners], lambda: [settled(thing, poses)], fits)
    if not len(stay):
        raise ValueError(f"mesh {thing.file!r}: allowed is one that lies still in some pose on flat ground")
    return stay


def settled(thing: Object, poses: np.ndarray) -> np.ndarray:
    """Of the poses [P, 5] those that the object keeps, as they are after a second of the default physics in MuJoCo."""
    import torch

    from dexhand_gym.sim import Scene, SimConfig, make_sim

    cfg = SimConfig()
    scene = Scene(objects=(replace(thing, name="thing", fixed=False),))
    sim = make_sim(scene, len(poses), cfg, 1, "mujoco", "cpu")
    start = torch.zeros(len(poses), 7)
    start[:, 0] = 1.0  # beside the hand
    start[:, 2:] = torch.from_numpy(poses)
    sim.root_state[:, 1] = 0.0
    sim.root_state[:, 1, :7] = start
    sim.write_state(torch.ones(len(poses), dtype=torch.bool))
    hold = sim.dof_state[..., 0].clone()
    for _ in range(round(1 / cfg.dt)):
        sim.step(hold)
    end = sim.root_state[:, 1, :7].clone()
    sim.close()
    moved = torch.linalg.vector_norm(end[:, :3] - start[:, :3], dim=-1)
    turned = 2 * torch.acos((end[:, 3:] * start[:, 3:]).sum(-1).abs().clamp(max=1.0))
    return end[(moved <= MOST_MOVED) & (turned <= MOST_TURNED), 2:].double().numpy()
