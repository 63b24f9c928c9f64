"""Quaternions as [..., 4] tensors, xyzw, unit length."""

from __future__ import annotations

import torch
from torch import Tensor


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product: the rotation b, then a. [..., 4] x [..., 4] -> [..., 4]."""
    av, aw, bv, bw = a[..., :3], a[..., 3:], b[..., :3], b[..., 3:]
    vector = aw * bv + bw * av + torch.linalg.cross(av, bv)
    return torch.cat((vector, aw * bw - (av * bv).sum(-1, keepdim=True)), -1)


def conjugate(q: Tensor) -> Tensor:
    """The inverse rotation. [..., 4] -> [..., 4]."""
    return torch.cat((-q[..., :3], q[..., 3:]), -1)


def rotate(q: Tensor, v: Tensor) -> Tensor:
    """v [..., 3] turned by q [..., 4]: v + 2 w (u x v) + 2 u x (u x v), u and w being q's vector and scalar part."""
    return _rotate(q[..., :3], q[..., 3:], v)


def rotate_inverse(q: Tensor, v: Tensor) -> Tensor:
    """v [..., 3] turned back by q [..., 4]: seen from a frame with orientation q."""
    return _rotate(-q[..., :3], q[..., 3:], v)


def _rotate(u: Tensor, w: Tensor, v: Tensor) -> Tensor:
    twice = torch.linalg.cross(u, v).mul_(2.0)
    return torch.addcmul(v, w, twice).add_(torch.linalg.cross(u, twice))


def from_z_angle(angle: Tensor) -> Tensor:
    """Turn about the world's z axis. [...] rad -> [..., 4]."""
    zero = torch.zeros_like(angle)
    return torch.stack((zero, zero, torch.sin(angle / 2), torch.cos(angle / 2)), -1)
