"""Corners of convex solids of many forms, for sets of objects. NumPy only.

Each takes random numbers and gives points [V, 3] whose hull is the solid, of any size; stretched() gives them theirs.
"""

from __future__ import annotations

import math
from typing import Callable, Dict, Sequence

import numpy as np

Random = np.random.RandomState
"""NumPy promises that its numbers never change; those of its newer generators may."""


def directions(count: int) -> np.ndarray:
    """Unit vectors [count, 3], spread evenly (the Fibonacci lattice: each a golden angle on, in layers of equal
    area)."""
    turn = np.arange(count) * math.pi * (3 - 5**0.5)
    z = 1 - (2 * np.arange(count) + 1) / count
    around = np.sqrt(1 - z * z)
    return np.stack((around * np.cos(turn), around * np.sin(turn), z), -1)


def stretched(points: np.ndarray, extents: Sequence[float]) -> np.ndarray:
    """The points [V, 3] with these extents along x, y and z, the middle at the origin."""
    low, high = points.min(0), points.max(0)
    return (points - (low + high) / 2) * (np.asarray(extents) / (high - low))


def superquadric(random: Random) -> np.ndarray:
    """Between box, ellipsoid and octahedron: (|x|^(2/q) + |y|^(2/q))^(q/p) + |z|^(2/p) = 1 (Barr, Superquadrics and
    Angle-Preserving Transformations, 1981), convex for exponents p, q of 0 to 2."""
    p, q = random.uniform(0.2, 1.8, 2)
    rays = np.concatenate((directions(2000), np.eye(3), -np.eye(3)))
    x, y, z = np.abs(rays).T
    level = (x ** (2 / q) + y ** (2 / q)) ** (q / p) + z ** (2 / p)
    return rays * level[:, None] ** (-p / 2)  # the level grows with the distance to the power 2 / p


def hull(random: Random) -> np.ndarray:
    """8 to 20 random points in a thick shell."""
    return _hull_of(random.randint(8, 21), random)


def wedge(random: Random) -> np.ndarray:
    """As hull, of 5 to 7 points: few flat faces, most of which taper."""
    return _hull_of(random.randint(5, 8), random)


def _hull_of(count: int, random: Random) -> np.ndarray:
    points = random.normal(size=(count, 3))
    return points * (random.uniform(0.7, 1.0, len(points)) / np.linalg.norm(points, axis=1))[:, None]


def prism(random: Random) -> np.ndarray:
    """A polygon of 3, 5, 6 or 8 corners, raised."""
    return _raised(random.choice((3, 5, 6, 8)), 1.0)


def frustum(random: Random) -> np.ndarray:
    """A pyramid of 3, 4 or 6 sides, or a cone (20), cut off where it is 0.3 to 0.7 as wide as at its foot."""
    return _raised(random.choice((3, 4, 6, 20)), random.uniform(0.3, 0.7))


def _raised(sides: int, top: float) -> np.ndarray:
    angle = (np.arange(sides) + 0.5) * 2 * math.pi / sides
    ring = np.stack((np.cos(angle), np.sin(angle)), -1)
    return np.concatenate([np.insert(ring * wide, 2, z, 1) for wide, z in ((1.0, 0.0), (top, 1.0))])


SOLIDS: Dict[str, Callable[[Random], np.ndarray]] = {
    "superquadric": superquadric,
    "hull": hull,
    "wedge": wedge,
    "prism": prism,
    "frustum": frustum,
}
