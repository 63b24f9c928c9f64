"""How much friction two fingers need to hold an object between them. Loads neither torch nor an engine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Tuple

import numpy as np

from dexhand_gym.objects import Object
from dexhand_gym.resting import collision_hull, stable_sides

if TYPE_CHECKING:
    from dexhand_gym.meshes import Hull

POINTS = 256
"""Of a mesh's surface, two of which are the fingers."""
SPAN = (0.012, 0.07)
"""From finger to finger at least and at most, m."""
REACH = 0.006
"""How far above the ground a finger touches at least, m: it is thick."""
TILT = math.radians(40)
"""How far the line between the fingers leans from the horizontal at most."""


def friction_needed(thing: Object) -> np.ndarray:
    """The least coefficient of friction with which two points of its surface hold it, in each stable pose [P]
    (resting.stable_sides); infinite where no two are within reach. They hold it if the line between them is within both
    their friction cones (Nguyen, Constructing Force-Closure Grasps, 1988). All shapes but meshes have faces that are
    opposite each other, and need none."""
    sides = stable_sides(thing)
    if thing.shape != "mesh":
        return np.zeros(len(sides))
    hull, _ = collision_hull(thing)
    points, normals = samples(hull)
    between = points[None] - points[:, None]
    lengths = np.linalg.norm(between, axis=-1) + 1e-12
    between /= lengths[..., None]
    cosine = np.minimum(-(normals[:, None] * between).sum(-1), (normals[None] * between).sum(-1))
    cosine[(lengths < SPAN[0]) | (lengths > SPAN[1])] = 0.0
    found = []
    for side in sides:
        down = points @ side
        above = down.max() - down > REACH
        level = np.abs(between @ side) <= math.sin(TILT)
        found.append(np.where(level & above[:, None] & above[None], cosine, 0.0).max())
    cosines = np.array(found)
    return np.where(cosines > 0, np.sqrt(1 - cosines**2) / np.maximum(cosines, 1e-12), np.inf)


def samples(hull: Hull) -> Tuple[np.ndarray, np.ndarray]:
    """Points spread over a solid's surface [POINTS, 3], the same at every call, and its outward unit normals there."""
    a, b, c = (hull.vertices[hull.faces[:, i]] for i in range(3))
    normals = np.cross(b - a, c - a)
    areas = np.linalg.norm(normals, axis=1)
    random = np.random.RandomState(0)
    face = random.choice(len(areas), POINTS, p=areas / areas.sum())
    u, v = np.sort(random.uniform(size=(2, POINTS)), axis=0)  # two cuts of [0, 1]: three shares
    points = u[:, None] * a[face] + (v - u)[:, None] * b[face] + (1 - v)[:, None] * c[face]
    return points, normals[face] / areas[face, None]
