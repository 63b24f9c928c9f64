"""Geometry of objects' shapes, batched over half extents. Frames and half extents are those of Object.

Formulas of inertia: any handbook; a capsule is a cylinder and two half spheres.
"""

from __future__ import annotations

import torch
from torch import Tensor


def geom_size(shape: str, half: Tensor) -> Tensor:
    """Half extents [..., 3] -> MuJoCo's geom size [..., 3]."""
    x, y, z = half.unbind(-1)
    zero = torch.zeros_like(x)
    rows = {"sphere": (x, zero, zero), "cylinder": (x, z, zero), "capsule": (x, z - x, zero)}
    return torch.stack(rows.get(shape, (x, y, z)), -1)


def bounding_radius(shape: str, half: Tensor) -> Tensor:
    """Radius [...] of a sphere around an object with half extents [..., 3]."""
    x, _, z = half.unbind(-1)
    if shape in ("sphere", "ellipsoid", "capsule"):
        return half.amax(-1)
    return torch.hypot(x, z) if shape == "cylinder" else half.square().sum(-1).sqrt()


def inertia(shape: str, mass: Tensor, half: Tensor) -> Tensor:
    """Moments of inertia about the axes through the middle [..., 3] of homogeneous solids of mass [...] and half
    extents [..., 3]."""
    x, y, z = half.unbind(-1)
    if shape in ("box", "sphere", "ellipsoid"):
        of_two = torch.stack((y * y + z * z, x * x + z * z, x * x + y * y), -1)
        return mass.unsqueeze(-1) * of_two / (3 if shape == "box" else 5)
    length = 2 * z if shape == "cylinder" else 2 * (z - x)
    ends = torch.zeros_like(mass) if shape == "cylinder" else mass * 4 * x / (4 * x + 3 * length)
    middle = mass - ends
    across = middle * (3 * x**2 + length**2) / 12 + ends * (0.4 * x**2 + length * (3 * x + 2 * length) / 8)
    along = middle * x**2 / 2 + 0.4 * ends * x**2
    return torch.stack((across, across, along), -1)


def distance(shape: str, points: Tensor, half: Tensor) -> Tensor:
    """Distances from points [N, P, 3] in the object's frame to its surface, 0 inside [N, P]; half extents [N, 1, 3].
    For an ellipsoid to first order: exact on the surface and along its axes, elsewhere within a few per cent of its
    size."""
    norm = torch.linalg.vector_norm
    if shape == "box":
        return norm(points.abs().sub_(half).clamp_(min=0.0), dim=-1)
    if shape == "sphere":
        return (norm(points, dim=-1) - half[..., 0]).clamp(min=0.0)
    if shape == "ellipsoid":
        scaled = norm(points / half, dim=-1)
        slope = norm(points / half.square(), dim=-1)
        return (scaled * (scaled - 1.0) / slope.clamp(min=1e-9)).clamp(min=0.0)
    around, height = norm(points[..., :2], dim=-1), points[..., 2].abs()
    if shape == "cylinder":
        out = torch.stack((around - half[..., 0], height - half[..., 2]), -1)
        return norm(out.clamp(min=0.0), dim=-1)
    above = (height - (half[..., 2] - half[..., 0])).clamp(min=0.0)
    return (torch.hypot(around, above) - half[..., 0]).clamp(min=0.0)
