"""Meshes of objects: reads and scales them, makes their convex hulls, and looks up distances to them in a table.

Needs MuJoCo (which computes the hulls) and, for objects of several parts, coacd.
"""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import hashlib
import sys
import time
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from dexhand_gym.caches import ELSEWHERE, cache_folder, in_cache, replacing

CELLS = 32
"""Points of the table of distances along each axis."""
MARGIN = 0.05
"""The table reaches this far beyond the mesh, m."""
CORNERS = 64
"""Of a convex hull at most, as PhysX has them; contacts of finer ones take longer."""
PATIENCE = 1.0
"""How long a user waits without a word, s."""
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


_STAMPS: Dict[str, Tuple[int, int]] = {}  # size and time of change of the files read


def load_mesh(file: str, size: float, parts: int = 1) -> Solid:
    """A file, scaled so that its largest extent is `size`, m, as its convex hull, or as `parts` convex parts at most. Raises
    ValueError, one line."""
    try:
        found = Path(file).stat()
        _STAMPS[file] = found.st_size, found.st_mtime_ns
    except (OSError, ValueError):
        raise ValueError(f"mesh {file!r}: allowed is a file that exists, .obj, .stl or .ply") from None
    return _load_mesh(file, size, parts, _STAMPS[file])


@lru_cache(maxsize=256)  # more than a set of objects has
def _load_mesh(file: str, size: float, parts: int, stamp: Tuple[int, int]) -> Solid:
    vertices, faces = read(Path(file))
    check_solid(f"mesh {file!r}", vertices, faces)
    low, high = vertices.min(0), vertices.max(0)
    vertices = (vertices - (low + high) / 2) / (high - low).max()
    pieces = [vertices] if parts == 1 else decomposed(file, vertices, faces, parts)
    hulls = [hull_of(piece) for piece in pieces]
    points = np.concatenate([hull.vertices for hull in hulls])
    low, high = points.min(0), points.max(0)  # not quite those of the mesh
    scale = size / (high - low).max()
    x, y, z = ((high - low) * scale).tolist()
    return Solid(tuple(Hull((hull.vertices - (low + high) / 2) * scale, hull.faces) for hull in hulls), (x, y, z))


def read(path: Path) -> Tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] and faces [F, 3] of a file. Raises ValueError, one line."""
    import trimesh

    if path.suffix.lower() not in (".obj", ".stl", ".ply") or not path.is_file():
        raise ValueError(f"mesh {str(path)!r}: allowed is a file that exists, .obj, .stl or .ply")
    try:
        loaded: Any = trimesh.load(path, force="mesh", process=False, skip_materials=True)
        vertices = np.asarray(loaded.vertices, dtype=np.float64).reshape(-1, 3)
        if not len(vertices):
            raise ValueError("it has no faces, or is damaged")
        return vertices, np.asarray(loaded.faces, dtype=np.int64).reshape(-1, 3)
    except Exception as error:  # what a damaged file raises depends on its kind
        raise ValueError(f"mesh {str(path)!r}: not read, {' '.join(str(error).split())[:200]}") from None


def check_solid(what: str, vertices: np.ndarray, faces: np.ndarray) -> None:
    """Raises ValueError, one line that begins with `what`, unless vertices [V, 3] and faces [F, 3] can be a solid."""
    if len(vertices) < 4:
        raise ValueError(f"{what}: it has {len(vertices)} vertices, allowed are 4 or more")
    if not np.isfinite(vertices).all():
        raise ValueError(f"{what}: a vertex is not finite")
    if len(faces) and not (faces.min() >= 0 and faces.max() < len(vertices)):
        raise ValueError(
            f"{what}: a face names vertex {faces.min() if faces.min() < 0 else faces.max()} of {len(vertices)}"
        )
    spread = np.linalg.svd(vertices - vertices.mean(0), compute_uv=False)
    if spread[2] < 1e-3 * spread[0]:
        raise ValueError(f"{what}: it is flat, allowed is a solid")


def decomposed(file: str, vertices: np.ndarray, faces: np.ndarray, parts: int) -> List[np.ndarray]:
    """The corners [V, 3] of `parts` convex parts at most, from the cache folder if they were computed before."""
    try:
        import coacd
    except ImportError:
        raise ValueError(f"meshes of several parts need coacd: {INSTALL}") from None
    if not len(faces):
        raise ValueError(f"mesh {file!r}: it has no faces, allowed is parts = 1, its convex hull")

    def compute() -> List[np.ndarray]:
        print(f"decomposing {file} into {parts} convex parts, once; this can take minutes", file=sys.stderr, flush=True)
        coacd.set_log_level("error")
        # Less deep a search than coacd's default, which takes 2.6 times as long for a mug of 16 parts.
        settings: Any = {"mcts_iterations": 60, "mcts_max_depth": 2, "resolution": 1000, "preprocess_resolution": 40}
        found = coacd.run_coacd(coacd.Mesh(vertices, faces), max_convex_hull=parts, seed=0, **settings)
        return [np.asarray(piece[0], dtype=np.float64) for piece in found]

    def fits(pieces: List[np.ndarray]) -> bool:
        whole = all(piece.ndim == 2 and piece.shape[1] == 3 and np.isfinite(piece).all() for piece in pieces)
        return whole and 0 < len(pieces) <= parts and min(map(len, pieces)) >= 4

    return kept([vertices, faces, np.array(parts)], compute, fits)


BROKEN = (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile)
"""What np.load and its arrays raise for a file that is not there or not whole."""


def kept(inputs: List[np.ndarray], compute: Callable, fits: Callable[[List[np.ndarray]], bool]) -> List[np.ndarray]:
    """What compute() returns, from the cache folder if it is there for the same inputs and fits."""
    rounded = (np.round(array, 9) + 0.0 if array.dtype.kind == "f" else array for array in inputs)  # NumPys differ
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in rounded)
    file = cache() / f"{hashlib.sha256(content).hexdigest()[:32]}.npz"
    try:
        with np.load(file) as stored:
            arrays = [np.asarray(stored[key], dtype=np.float64) for key in sorted(stored.files)]
        if fits(arrays):
            return arrays
    except BROKEN:
        pass
    begun = time.monotonic()
    arrays = compute()
    seconds = time.monotonic() - begun
    named: Any = {f"{i:04d}": array for i, array in enumerate(arrays)}
    try:
        with replacing(file) as unfinished, open(unfinished, "wb") as stream:
            np.savez(stream, **named)
    except OSError as error:
        tell_if_slow(seconds, f"at every start, for {cache()} is not written, {error.strerror or error}: {ELSEWHERE}")
    else:
        tell_if_slow(seconds, f"once; they are kept in {cache()}")
    return arrays


def tell_if_slow(seconds: float, when: str) -> None:
    """Says once that shapes are being computed, where that has taken PATIENCE in this process."""
    global _computed
    before, _computed = _computed, _computed + seconds
    if before < PATIENCE <= _computed:
        print(f"shapes are being computed, {when}", file=sys.stderr, flush=True)


_computed = 0.0
"""For so long shapes have been computed, s."""


def cache() -> Path:
    """Where what was computed from meshes is kept."""
    return cache_folder("dexhand_gym") / "meshes"


def write_mesh(vertices: Any, faces: Optional[Any], sizes: Tuple[float, float]) -> Tuple[str, float]:
    """A file in the cache folder with these vertices [V, 3], m, and triangles [F, 3] of them, by default those of their
    hull; and its largest extent, m, which is to be within `sizes`. Raises ValueError, one line."""
    try:
        points = np.asarray(vertices, dtype=np.float64)
        triangles = np.zeros((0, 3), np.int64) if faces is None else np.asarray(faces)
    except (TypeError, ValueError) as error:
        raise ValueError(f"vertices: {' '.join(str(error).split())[:200]}") from None
    for name, array in (("vertices", points), ("faces", triangles)):
        if array.ndim != 2 or array.shape[1] != 3 or (name == "faces" and array.dtype.kind not in "iu"):
            raise ValueError(f"{name}: shape {array.shape} {array.dtype}, allowed are rows of three numbers")
    check_solid("vertices", points, triangles)
    size = float((points.max(0) - points.min(0)).max())
    if not sizes[0] <= size <= sizes[1]:
        raise ValueError(
            f"vertices: they span {size:g} m, allowed is {sizes[0]:g} to {sizes[1]:g} m; or say their size"
        )
    import trimesh

    if faces is None:
        points, triangles = hull_of(points)
    content: Any = trimesh.Trimesh(points, triangles, process=False).export(file_type="ply")
    return str(in_cache("dexhand_gym/meshes", content, "ply")), size


def hull_of(vertices: np.ndarray) -> Hull:
    """The convex hull of points [V, 3], as MuJoCo computes it, of CORNERS corners at most; from the cache folder if it was
    computed before, which serves Pythons too old for this MuJoCo. Raises ValueError, one line."""
    purpose = np.frombuffer(b"hull of 64 corners, 1", np.uint8)

    def fits(arrays: List[np.ndarray]) -> bool:
        shaped = len(arrays) == 2 and all(array.ndim == 2 and array.shape[1] == 3 for array in arrays)
        return (
            shaped and bool(np.isfinite(arrays[0]).all()) and 0 <= arrays[1].min() <= arrays[1].max() < len(arrays[0])
        )

    points, faces = kept([purpose, np.asarray(vertices, np.float64)], lambda: list(computed_hull(vertices)), fits)
    return Hull(points, faces.astype(np.int64))


def computed_hull(vertices: np.ndarray) -> Hull:
    """What hull_of() returns."""
    try:
        import mujoco

        mujoco.mjtMeshInertia  # noqa: B018
    except (ImportError, AttributeError):
        raise ValueError("meshes need MuJoCo 4, which needs Python 3.11: allowed are other shapes") from None
    spec, fills = mujoco.MjSpec(), mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX
    corners = np.asarray(vertices, np.float32).flatten()
    spec.add_mesh(name="hull", uservert=corners, inertia=fills, maxhullvert=CORNERS)
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


_TABLES: Dict[Tuple[Any, ...], Tuple[Tensor, Tensor]] = {}


def distance_table(file: str, size: float, parts: int, device: torch.device) -> Tuple[Tensor, Tensor]:
    """Half extents of the table along x, y and z [3], m, and distances to the surface, 0 inside [1, 1, CELLS, CELLS,
    CELLS] along z, y, x, m. Computed once; kept in a dict, because torch.compile sees through lru_cache."""
    key = file, _STAMPS.get(file), size, parts, device
    if key not in _TABLES:
        reach, table = (torch.tensor(a, dtype=torch.float32, device=device) for a in computed_table(file, size, parts))
        _TABLES[file, _STAMPS[file], size, parts, device] = reach, table
        return reach, table
    return _TABLES[key]


def computed_table(file: str, size: float, parts: int) -> List[np.ndarray]:
    """What distance_table() returns, from the cache folder if it is there."""
    solid = load_mesh(file, size, parts)
    reach = np.array(solid.extents) / 2 + MARGIN
    shape = (1, 1, CELLS, CELLS, CELLS)

    def compute() -> List[np.ndarray]:
        x, y, z = (np.linspace(-r, r, CELLS) for r in reach)
        grid = np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], -1).reshape(-1, 3)
        return [reach, np.min([distance_to_hull(grid, hull) for hull in solid.hulls], 0).reshape(shape)]

    def fits(arrays: List[np.ndarray]) -> bool:
        return [array.shape for array in arrays] == [(3,), shape] and bool(np.isfinite(arrays[1]).all())

    return kept([reach, np.array(shape), *(array for hull in solid.hulls for array in hull)], compute, fits)


def distance_to_hull(points: np.ndarray, hull: Hull) -> np.ndarray:
    """Distances of points [P, 3] to the surface [P], 0 inside."""
    a, b, c = (hull.vertices[hull.faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    height = points @ normal.T - (a * normal).sum(1)  # [P, F]
    nearest = np.where((height <= 0).all(1), 0.0, np.inf)
    for i in range(len(a)):  # nearest point of each triangle: on its plane if the foot is within, else on its edges
        ahead = np.flatnonzero(height[:, i] > 0)  # the nearest point is on a triangle that faces the point
        at, up = points[ahead], height[ahead, i]
        foot = at - up[:, None] * normal[i]
        within, near = np.ones(len(ahead), bool), nearest[ahead]
        for p, q in ((a[i], b[i]), (b[i], c[i]), (c[i], a[i])):
            within &= (np.cross(q - p, foot - p) * normal[i]).sum(1) >= 0
            share = np.clip((at - p) @ (q - p) / ((q - p) @ (q - p)), 0, 1)
            near = np.minimum(near, np.linalg.norm(at - p - share[:, None] * (q - p), axis=1))
        nearest[ahead] = np.where(within, np.minimum(near, up), near)
    return nearest


def mesh_distance(points: Tensor, file: str, size: float, parts: int = 1) -> Tensor:
    """Distances from points [N, P, 3] in the mesh's frame to its surface, 0 inside [N, P], from the table. Beyond the
    table the distance to it is added, and the sum is up to 15 % too large."""
    reach, table = distance_table(file, size, parts, points.device)
    inside = torch.minimum(torch.maximum(points, -reach), reach)
    at = (inside / reach).view(1, 1, *points.shape[:2], 3)
    near = torch.nn.functional.grid_sample(table, at, mode="bilinear", align_corners=True).view(points.shape[:2])
    return near + torch.linalg.vector_norm(points - inside, dim=-1)
