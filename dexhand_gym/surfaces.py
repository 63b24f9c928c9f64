"""Points on the surface of an object, evenly spread: a description of its shape of a fixed size. Loads neither torch nor
an engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from dexhand_gym.convex import directions
from dexhand_gym.objects import Object

DENSE = 4096
"""Points to choose from, of each convex part."""


def surface_points(thing: Object, count: int = 32) -> np.ndarray:
    """Points [count, 3] on the surface in the object's frame, m, the same at every call: each is the farthest from those
    before it. A mesh's surface is that of what collides: its hull, or its convex parts."""
    return farthest(dense_points(thing, max(DENSE, 16 * count)), count)


def dense_points(thing: Object, count: int) -> np.ndarray:
    """Points on the surface [P, 3], about `count` for each convex part, as rays from the middle meet it."""
    half = np.array(thing.extents) / 2
    rays = directions(count)  # in a frame where all extents are 2
    x, y, z = np.abs(rays).T
    if thing.shape == "mesh":
        return _of_mesh(thing, rays)
    if thing.shape == "box":
        rays = rays / np.abs(rays).max(1, keepdims=True)
    elif thing.shape == "cylinder":
        rays = rays / np.maximum(np.hypot(x, y), z)[:, None]
    elif thing.shape == "capsule":
        rays = rays * _to_capsule(rays * half, half[0], half[2] - half[0])[:, None]
    return rays * half


def _to_capsule(rays: np.ndarray, radius: float, straight: float) -> np.ndarray:
    """How often each ray [R, 3] reaches from the middle of a capsule to its surface [R]; straight: half the length of
    its cylinder."""
    around, z, square = np.hypot(rays[:, 0], rays[:, 1]), np.abs(rays[:, 2]), (rays**2).sum(1)
    side = radius / np.maximum(around, 1e-30)
    along = z * straight
    cap = (along + np.sqrt(np.maximum(along**2 - square * (straight**2 - radius**2), 0.0))) / square
    return np.where(side * z <= straight, side, cap)


def _of_mesh(thing: Object, rays: np.ndarray) -> np.ndarray:
    from dexhand_gym.meshes import distance_to_hull, load_mesh

    hulls = load_mesh(thing.file, thing.first_size, thing.parts).hulls
    found = []
    for hull in hulls:
        points = _on_hull(hull, rays)
        for other in hulls:
            if other is not hull:
                points = points[distance_to_hull(points, other) > 0]
        found.append(points)
    return np.concatenate(found)


def _on_hull(hull: Any, rays: np.ndarray) -> np.ndarray:
    """Where rays [R, 3], stretched as the hull is, leave it: the first of the planes ahead [R, 3]."""
    middle = hull.vertices.mean(0)
    rays = rays * np.ptp(hull.vertices, axis=0)
    a, b, c = (hull.vertices[hull.faces[:, i]] - middle for i in range(3))
    normals = np.cross(b - a, c - a)
    ahead = rays @ normals.T
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.where(ahead > 0, (a * normals).sum(1) / ahead, np.inf)
    return middle + rays * reach.min(1)[:, None]


def farthest(points: np.ndarray, count: int) -> np.ndarray:
    """Of the points [P, 3] the one farthest from the origin, and then always the one farthest from those chosen
    (Eldar and others, The Farthest Point Strategy for Progressive Image Sampling, 1997) [count, 3]."""
    chosen = [int((points**2).sum(1).argmax())]
    distance = np.full(len(points), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(distance.argmax()))
    return points[chosen]
