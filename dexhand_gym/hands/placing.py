"""Targets of a hand's base that bring its palm to a given pose, and poses of objects that lie on a surface."""

from __future__ import annotations

import math
from typing import Any, Dict, Tuple

import torch
from torch import Tensor

from dexhand_gym import rotations
from dexhand_gym.hands.hand import Hand
from dexhand_gym.objects import Object
from dexhand_gym.sim.base import Scene
from dexhand_gym.sim.kinematics import Kinematics

AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
_KEPT: Dict[Any, Tensor] = {}


def base_targets(scene: Scene, palm: Tensor) -> Tensor:
    """Targets of the base [N, 6], m and rad, at which the palm has the world poses `palm` [N, 7]. They may exceed the
    dofs' limits.

    For a base that slides along x, y and z and then turns about x, y and z: the turns are the Cardan angles of R = Rx
    Ry Rz (any handbook). Raises ValueError, one line, for another base.
    """
    hand = scene.hand
    axes = [hand.joints[name].get("axis", "0 0 1") for name in hand.base]
    if hand.num_slides != 3 or axes != ["1 0 0", "0 1 0", "0 0 1"] * 2:
        raise ValueError(f"base = {hand.base}: allowed is one of three slides and three hinges along and about x, y, z")
    home, root = poses_at_zero(scene, palm.device)
    # Position and orientation of the palm in the root's frame while all dofs are zero.
    offset = rotations.rotate_inverse(root[:, 3:7], home[:, :3] - root[:, :3])
    fixed = rotations.multiply(rotations.conjugate(root[:, 3:7]), home[:, 3:7])
    wanted = rotations.multiply(rotations.conjugate(root[:, 3:7]).expand(len(palm), 4), palm[:, 3:])
    turn = rotations.multiply(wanted, rotations.conjugate(fixed).expand(len(palm), 4))
    x, y, z = (rotations.rotate(turn, constant(axis, palm).expand(len(palm), 3)) for axis in AXES)
    angles = torch.stack(
        (torch.atan2(-z[:, 1], z[:, 2]), torch.asin(z[:, 0].clamp(-1.0, 1.0)), torch.atan2(-y[:, 0], x[:, 0])), 1
    )
    place = rotations.rotate_inverse(root[:, 3:7].expand(len(palm), 4), palm[:, :3] - root[:, :3])
    return torch.cat((place - rotations.rotate(turn, offset.expand(len(palm), 3)), angles), 1)


def poses_at_zero(scene: Scene, device: torch.device) -> Tuple[Tensor, Tensor]:
    """States [1, 13] of the palm and of the root while all dofs are zero."""
    key = scene.hand, scene.hand_height, scene.hand_quat, device
    if key not in _KEPT:
        still = torch.zeros(1, len(scene.hand.dof_names), 2, dtype=torch.float32, device=device)
        bodies = Kinematics(scene.hand_links, device)(still)
        _KEPT[key] = torch.stack((bodies[:, scene.hand.palm_index], bodies[:, 0]))
    home, root = _KEPT[key]
    return home, root


def constant(values: Tuple[float, ...], like: Tensor) -> Tensor:
    """As a tensor, copied to a device once: a copy at every start of an episode could not be captured as a CUDA graph."""
    key = values, like.dtype, like.device
    if key not in _KEPT:
        _KEPT[key] = like.new_tensor(values)
    return _KEPT[key]


def palm_surface(hand: Hand, palm: Tensor) -> Tensor:
    """World poses [N, 7] of the middle of the palm's skin, where the palm has the world poses `palm` [N, 7]: the surface on
    which something lies in a hand that is open. Its x points out of the palm: resting_on(..., away=(1, 0, 0))."""
    point = constant(hand.palm_point, palm).expand(len(palm), 3)
    return torch.cat((palm[:, :3] + rotations.rotate(palm[:, 3:], point), palm[:, 3:]), 1)


def resting_on(surface: Tensor, thing: Object, away: Tuple[float, float, float] = (0.0, 0.0, 1.0)) -> Tensor:
    """Poses [N, 7] at which an object lies on surfaces with the world poses `surface` [N, 7]. `away` is the axis of
    their frames that points away from the surface: (1, 0, 0) for a palm_surface()."""
    height, quat = thing.rest()
    x, y, z = (value / math.hypot(*away) for value in away)
    up = (-y, x, 0.0, 1.0 + z) if z > -0.9999 else (1.0, 0.0, 0.0, 0.0)  # the turn from z to `away`
    up = tuple(value / math.hypot(*up) for value in up)
    frame = rotations.multiply(surface[:, 3:], constant(up, surface).expand(len(surface), 4))
    lifted = constant((0.0, 0.0, height), surface).expand(len(surface), 3)
    turn = rotations.multiply(frame, constant(quat, surface).expand(len(surface), 4))
    return torch.cat((surface[:, :3] + rotations.rotate(frame, lifted), turn), 1)
