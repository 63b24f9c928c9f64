"""Meshes of objects: read, scaled, as their convex hulls, with distances to them from a table.

Needs trimesh and MuJoCo, which computes the hull.
"""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor

CELLS = 32
"""Of the table of distances, along each axis."""
MARGIN = 0.05
"""The table reaches this far beyond the mesh, m."""


class Hull(NamedTuple):
    """Of a mesh, its middle at the origin. Arrays are shared: not to be changed."""

    vertices: np.ndarray  # [V, 3] m
    faces: np.ndarray  # [F, 3] of vertices, outward
    extents: Tuple[float, float, float]  # m


@lru_cache(maxsize=64)
def load_mesh(file: str, size: float) -> Hull:
    """The convex hull of a file, scaled so that its largest extent is `size`, m. Raises ValueError, one line."""
    try:
        import trimesh
    except ImportError:
        raise ValueError("meshes need trimesh: pip install 'dexhand-gym[view]'") from None
    path = Path(file)
    if path.suffix.lower() not in (".obj", ".stl", ".ply") or not path.is_file():
        raise ValueError(f"mesh {file!r}: allowed is a file that exists, .obj, .stl or .ply")
    try:
        loaded: Any = trimesh.load(path, force="mesh", process=False, skip_materials=True)
        vertices = np.asarray(loaded.vertices, dtype=np.float64).reshape(-1, 3)
    except Exception as error:  # what a damaged file raises depends on its kind
        raise ValueError(f"mesh {file!r}: not read, {' '.join(str(error).split())[:200]}") from None
    if len(vertices) < 4 or not np.isfinite(vertices).all():
        raise ValueError(f"mesh {file!r}: it has {len(vertices)} vertices, allowed are 4 or more finite ones")
    low, high = vertices.min(0), vertices.max(0)
    if (high - low).min() < 1e-3 * (high - low).max():
        raise ValueError(f"mesh {file!r}: it is flat, allowed is a solid")
    return hull_of((vertices - (low + high) / 2) * (size / (high - low).max()))


def hull_of(vertices: np.ndarray) -> Hull:
    """The convex hull of points [V, 3], as MuJoCo has it."""
    import mujoco

    spec, fills = mujoco.MjSpec(), mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX
    spec.add_mesh(name="hull", uservert=np.asarray(vertices, np.float32).flatten(), inertia=fills)
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="hull")
    model = spec.compile()
    back = np.zeros(9)
    mujoco.mju_quat2Mat(back, model.mesh_quat[0])
    points = model.mesh_vert.astype(np.float64) @ back.reshape(3, 3).T + model.mesh_pos[0]
    graph = model.mesh_graph
    corners, triangles = graph[0], graph[1]
    used = graph[2 + corners : 2 + 2 * corners]
    faces = graph[len(graph) - 3 * triangles :].reshape(-1, 3)  # of the mesh's vertices
    place = {vertex: i for i, vertex in enumerate(used.tolist())}
    faces = np.array([[place[vertex] for vertex in face] for face in faces.tolist()])
    hull = points[used]
    normal = np.cross(hull[faces[:, 1]] - hull[faces[:, 0]], hull[faces[:, 2]] - hull[faces[:, 0]])
    inward = (normal * (hull[faces[:, 0]] - hull.mean(0))).sum(1) < 0
    faces[inward] = faces[inward][:, ::-1]
    extents = hull.max(0) - hull.min(0)
    return Hull(hull, faces, (float(extents[0]), float(extents[1]), float(extents[2])))


_TABLES: Dict[Tuple[str, float, torch.device], Tuple[Tensor, Tensor]] = {}


def distance_table(file: str, size: float, device: torch.device) -> Tuple[Tensor, Tensor]:
    """How far the table goes along x, y and z [3], m, and distances to the hull's surface, 0 inside [1, 1, CELLS, CELLS,
    CELLS] along z, y, x, m. Made once; a dict, for torch.compile looks through lru_cache."""
    if (file, size, device) not in _TABLES:
        hull = load_mesh(file, size)
        reach = np.array(hull.extents) / 2 + MARGIN
        x, y, z = (np.linspace(-r, r, CELLS) for r in reach)
        grid = np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], -1).reshape(-1, 3)
        table = distance_to_hull(grid, hull).reshape(1, 1, CELLS, CELLS, CELLS)
        reach_there, table_there = (torch.tensor(a, dtype=torch.float32, device=device) for a in (reach, table))
        _TABLES[file, size, device] = reach_there, table_there
    return _TABLES[file, size, device]


def distance_to_hull(points: np.ndarray, hull: Hull) -> np.ndarray:
    """Of points [P, 3] to the surface [P], 0 inside."""
    a, b, c = (hull.vertices[hull.faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    height = points @ normal.T - (a * normal).sum(1)  # [P, F]
    nearest = np.full(len(points), np.inf)
    for i in range(len(a)):  # nearest point of each triangle: of its plane if the foot is within, else of its edges
        foot = points - height[:, i : i + 1] * normal[i]
        within = np.ones(len(points), bool)
        for p, q in ((a[i], b[i]), (b[i], c[i]), (c[i], a[i])):
            within &= (np.cross(q - p, foot - p) * normal[i]).sum(1) >= 0
            share = np.clip((points - p) @ (q - p) / ((q - p) @ (q - p)), 0, 1)
            nearest = np.minimum(nearest, np.linalg.norm(points - p - share[:, None] * (q - p), axis=1))
        nearest = np.where(within, np.minimum(nearest, np.abs(height[:, i])), nearest)
    return np.where((height <= 0).all(1), 0.0, nearest)


def mesh_distance(points: Tensor, file: str, size: float) -> Tensor:
    """From points [N, P, 3] in the mesh's frame to its surface, 0 inside [N, P], from the table; beyond it, plus the way
    there, which is up to 15 % too far."""
    reach, table = distance_table(file, size, points.device)
    inside = torch.minimum(torch.maximum(points, -reach), reach)
    at = (inside / reach).view(1, 1, *points.shape[:2], 3)
    near = torch.nn.functional.grid_sample(table, at, mode="bilinear", align_corners=True).view(points.shape[:2])
    return near + torch.linalg.vector_norm(points - inside, dim=-1)
