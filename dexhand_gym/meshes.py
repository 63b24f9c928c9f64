"""Meshes of objects: reads and scales them, makes their convex hulls, and looks up distances to them in a table.

Needs trimesh, MuJoCo (which computes the hulls) and, for objects of several parts, coacd.
"""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

CELLS = 32
"""Points of the table of distances along each axis."""
MARGIN = 0.05
"""The table reaches this far beyond the mesh, m."""
INSTALL = "pip install 'dexhand-gym[mesh]'"


class Hull(NamedTuple):
    """A convex solid. Its arrays are shared: do not change them."""

    vertices: np.ndarray  # [V, 3] m
    faces: np.ndarray  # [F, 3] indices of vertices, facing outward

    @property
    def volume(self) -> float:
        """m3."""
        a, b, c = (self.vertices[self.faces[:, i]] for i in range(3))
        return float((a * np.cross(b, c)).sum() / 6)


class Solid(NamedTuple):
    """A mesh as convex hulls, with the middle of its extents at the origin."""

    hulls: Tuple[Hull, ...]
    extents: Tuple[float, float, float]  # m


@lru_cache(maxsize=64)
def load_mesh(file: str, size: float, parts: int = 1) -> Solid:
    """The convex hull of a mesh file, or at most `parts` convex parts of it, scaled so that the largest extent is
    `size`, m. Raises ValueError, one line."""
    path = Path(file)
    vertices, faces = read(path)
    if len(vertices) < 4 or not np.isfinite(vertices).all():
        raise ValueError(f"mesh {file!r}: it has {len(vertices)} vertices, allowed are 4 or more finite ones")
    low, high = vertices.min(0), vertices.max(0)
    if (high - low).min() < 1e-3 * (high - low).max():
        raise ValueError(f"mesh {file!r}: it is flat, allowed is a solid")
    vertices = (vertices - (low + high) / 2) / (high - low).max()
    pieces = [vertices] if parts == 1 else decomposed(vertices, faces, parts)
    hulls = tuple(hull_of(piece * size) for piece in pieces)
    points = np.concatenate([hull.vertices for hull in hulls])
    middle = (points.max(0) + points.min(0)) / 2  # a decomposition is not quite as large as the mesh
    hulls = tuple(Hull(hull.vertices - middle, hull.faces) for hull in hulls)
    x, y, z = (points.max(0) - points.min(0)).tolist()
    return Solid(hulls, (x, y, z))


def read(path: Path) -> Tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] and faces [F, 3] of a file. Raises ValueError, one line."""
    try:
        import trimesh
    except ImportError:
        raise ValueError(f"meshes need trimesh: {INSTALL}") from None
    if path.suffix.lower() not in (".obj", ".stl", ".ply") or not path.is_file():
        raise ValueError(f"mesh {str(path)!r}: allowed is a file that exists, .obj, .stl or .ply")
    try:
        loaded: Any = trimesh.load(path, force="mesh", process=False, skip_materials=True)
        vertices = np.asarray(loaded.vertices, dtype=np.float64).reshape(-1, 3)
        return vertices, np.asarray(loaded.faces, dtype=np.int64).reshape(-1, 3)
    except Exception as error:  # what a damaged file raises depends on its kind
        raise ValueError(f"mesh {str(path)!r}: not read, {' '.join(str(error).split())[:200]}") from None


def decomposed(vertices: np.ndarray, faces: np.ndarray, parts: int) -> List[np.ndarray]:
    """The vertices [V, 3] of at most `parts` convex parts. This takes seconds, so a file in the cache folder keeps
    them."""
    try:
        import coacd
    except ImportError:
        raise ValueError(f"meshes of several parts need coacd: {INSTALL}") from None
    if not len(faces):
        raise ValueError("a mesh without faces: allowed is parts = 1, its convex hull")
    content = np.ascontiguousarray(vertices).tobytes() + np.ascontiguousarray(faces).tobytes()
    name = hashlib.sha256(content + str(parts).encode()).hexdigest()[:32]
    file = cache() / f"{name}.npz"
    try:
        with np.load(file) as kept:
            return [kept[key] for key in sorted(kept.files)]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # no such file, or a broken one
        pass
    coacd.set_log_level("error")
    found = coacd.run_coacd(coacd.Mesh(vertices, faces), max_convex_hull=parts, seed=0)
    pieces = [np.asarray(piece[0], dtype=np.float64) for piece in found]
    with contextlib.suppress(OSError):  # nowhere to keep it
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{name}.{os.getpid()}.npz")
        arrays: Any = {f"{i:04d}": piece for i, piece in enumerate(pieces)}
        np.savez(unfinished, **arrays)
        os.replace(unfinished, file)
    return pieces


def cache() -> Path:
    """The folder of generated meshes and of decompositions."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dexhand_gym" / "meshes"


def write_mesh(vertices: Any, faces: Optional[Any] = None) -> str:
    """Writes vertices [V, 3], m, and triangles [F, 3] (by default those of the hull) to a file in the cache folder;
    returns its path."""
    import trimesh

    vertices = np.asarray(vertices, dtype=np.float64).reshape(-1, 3)
    if faces is None:
        vertices, faces = hull_of(vertices)
    mesh = trimesh.Trimesh(vertices, np.asarray(faces).reshape(-1, 3), process=False)
    content: Any = mesh.export(file_type="ply")
    file = cache() / f"{hashlib.sha256(content).hexdigest()[:32]}.ply"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(content)
        os.replace(unfinished, file)
    return str(file)


def hull_of(vertices: np.ndarray) -> Hull:
    """The convex hull of points [V, 3], as MuJoCo computes it."""
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
    faces = graph[len(graph) - 3 * triangles :].reshape(-1, 3)  # indices of mesh_vert
    place = {vertex: i for i, vertex in enumerate(used.tolist())}
    faces = np.array([[place[vertex] for vertex in face] for face in faces.tolist()])
    hull = points[used]
    normal = np.cross(hull[faces[:, 1]] - hull[faces[:, 0]], hull[faces[:, 2]] - hull[faces[:, 0]])
    inward = (normal * (hull[faces[:, 0]] - hull.mean(0))).sum(1) < 0
    faces[inward] = faces[inward][:, ::-1]
    return Hull(hull, faces)


_TABLES: Dict[Tuple[str, float, int, torch.device], Tuple[Tensor, Tensor]] = {}


def distance_table(file: str, size: float, parts: int, device: torch.device) -> Tuple[Tensor, Tensor]:
    """Half extents of the table along x, y and z [3], m, and distances to the surface, 0 inside [1, 1, CELLS, CELLS,
    CELLS] along z, y, x, m. Computed once; kept in a dict, because torch.compile sees through lru_cache."""
    key = file, size, parts, device
    if key not in _TABLES:
        solid = load_mesh(file, size, parts)
        reach = np.array(solid.extents) / 2 + MARGIN
        x, y, z = (np.linspace(-r, r, CELLS) for r in reach)
        grid = np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], -1).reshape(-1, 3)
        nearest = np.min([distance_to_hull(grid, hull) for hull in solid.hulls], 0)
        table = nearest.reshape(1, 1, CELLS, CELLS, CELLS)
        reach_there, table_there = (torch.tensor(a, dtype=torch.float32, device=device) for a in (reach, table))
        _TABLES[key] = reach_there, table_there
    return _TABLES[key]


def distance_to_hull(points: np.ndarray, hull: Hull) -> np.ndarray:
    """Distances of points [P, 3] to the surface [P], 0 inside."""
    a, b, c = (hull.vertices[hull.faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    height = points @ normal.T - (a * normal).sum(1)  # [P, F]
    nearest = np.full(len(points), np.inf)
    for i in range(len(a)):  # nearest point of each triangle: on its plane if the foot is within, else on its edges
        foot = points - height[:, i : i + 1] * normal[i]
        within = np.ones(len(points), bool)
        for p, q in ((a[i], b[i]), (b[i], c[i]), (c[i], a[i])):
            within &= (np.cross(q - p, foot - p) * normal[i]).sum(1) >= 0
            share = np.clip((points - p) @ (q - p) / ((q - p) @ (q - p)), 0, 1)
            nearest = np.minimum(nearest, np.linalg.norm(points - p - share[:, None] * (q - p), axis=1))
        nearest = np.where(within, np.minimum(nearest, np.abs(height[:, i])), nearest)
    return np.where((height <= 0).all(1), 0.0, nearest)


def mesh_distance(points: Tensor, file: str, size: float, parts: int = 1) -> Tensor:
    """Distances from points [N, P, 3] in the mesh's frame to its surface, 0 inside [N, P], from the table. Beyond the
    table the distance to it is added, and the sum is up to 15 % too large."""
    reach, table = distance_table(file, size, parts, points.device)
    inside = torch.minimum(torch.maximum(points, -reach), reach)
    at = (inside / reach).view(1, 1, *points.shape[:2], 3)
    near = torch.nn.functional.grid_sample(table, at, mode="bilinear", align_corners=True).view(points.shape[:2])
    return near + torch.linalg.vector_norm(points - inside, dim=-1)
