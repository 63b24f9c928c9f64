"""Shapes of many objects as tensors, for environments that each hold another one of them."""

from __future__ import annotations

from typing import Dict, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor

from dexhand_gym.meshes import CELLS, MARGIN, computed_table
from dexhand_gym.object_sets import load_set
from dexhand_gym.objects import Object
from dexhand_gym.resting import resting_poses
from dexhand_gym.shapes import distance
from dexhand_gym.surfaces import surface_points

POINTS = 32
"""Of a surface."""


class ShapeTables(NamedTuple):
    """Of C objects, each in its own frame; m."""

    halves: Tensor  # [C, 3] half extents
    points: Tensor  # [C, POINTS, 3] on the surface, evenly spread
    poses: Tensor  # [C, most, 5] stable on flat ground: height of the middle, orientation x y z w; repeated where fewer
    counts: Tensor  # [C] how many poses differ
    reach: Tensor  # [C, 3] half extents of the table of distances
    distances: Tensor  # [C * CELLS^3] to the surface, 0 inside, along z, y, x


_TABLES: Dict[Tuple[str, float, torch.device], ShapeTables] = {}


def shape_tables(name: str, scale: float, device: torch.device) -> ShapeTables:
    """The tables of load_set(name, scale). Made once; kept in a dict, because torch.compile sees through lru_cache."""
    key = name, scale, device
    if key not in _TABLES:
        things = load_set(name, scale)
        poses = [resting_poses(thing) for thing in things]
        most = max(map(len, poses))
        found = [table_of(thing) for thing in things]
        arrays = (
            np.array([thing.extents for thing in things]) / 2,
            np.array([surface_points(thing, POINTS) for thing in things]),
            np.array([np.resize(mine, (most, 5)) for mine in poses]),
            np.array([len(mine) for mine in poses]),
            np.array([reach for reach, _ in found]),
            np.concatenate([table.reshape(-1) for _, table in found]),
        )
        _TABLES[key] = ShapeTables(*(torch.tensor(x, dtype=torch.float32, device=device) for x in arrays))
    return _TABLES[key]


def table_of(thing: Object) -> Tuple[np.ndarray, np.ndarray]:
    """Half extents of an object's table of distances [3], and distances [CELLS, CELLS, CELLS] along z, y, x."""
    if thing.shape == "mesh":
        reach, table = computed_table(thing.file, thing.first_size, thing.parts)
        return reach, table
    half = torch.tensor(thing.extents) / 2
    reach = half + MARGIN
    z, y, x = torch.meshgrid(*(torch.linspace(-r, r, CELLS) for r in reach.tolist()[::-1]), indexing="ij")
    points = torch.stack((x, y, z), -1).view(1, -1, 3)
    return reach.numpy(), distance(thing.shape, points, half.view(1, 1, 3)).numpy()


def distances(tables: ShapeTables, which: Tensor, points: Tensor) -> Tensor:
    """Distances from points [N, P, 3] in the frames of the objects `which` [N] to their surfaces, 0 inside [N, P]: between
    the eight points of the table around each, weighted. Beyond the table the distance to it is added, and the sum is
    up to 15 % too large."""
    reach = tables.reach[which].unsqueeze(1)
    inside = torch.minimum(torch.maximum(points, -reach), reach)
    at = (inside / reach + 1.0) * ((CELLS - 1) / 2)
    low = at.floor().clamp(0, CELLS - 2)
    share = at - low
    x, y, z = low.long().unbind(-1)
    first = ((which.unsqueeze(1) * CELLS + z) * CELLS + y) * CELLS + x
    along = [(1.0 - share, 0), (share, 1)]
    near = torch.zeros_like(points[..., 0])
    for wz, dz in along:
        for wy, dy in along:
            for wx, dx in along:
                corner = tables.distances[first + ((dz * CELLS + dy) * CELLS + dx)]
                near = near + wx[..., 0] * wy[..., 1] * wz[..., 2] * corner
    return near + torch.linalg.vector_norm(points - inside, dim=-1)
