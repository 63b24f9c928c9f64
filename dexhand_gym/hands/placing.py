"""Targets of a hand's base that bring its palm to a given pose, and poses of objects that lie on a surface."""

from __future__ import annotations

from typing import Tuple

import torch
from torch import Tensor

from dexhand_gym import rotations
from dexhand_gym.objects import Object
from dexhand_gym.sim.base import Scene
from dexhand_gym.sim.kinematics import Kinematics


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
    still = palm.new_zeros(1, len(hand.dof_names), 2)
    home = Kinematics(scene.hand_links, palm.device)(still)[:, hand.palm_index]
    root = Kinematics(scene.hand_links, palm.device)(still)[:, 0]
    # Position and orientation of the palm in the root's frame while all dofs are zero.
    offset = rotations.rotate_inverse(root[:, 3:7], home[:, :3] - root[:, :3])
    fixed = rotations.multiply(rotations.conjugate(root[:, 3:7]), home[:, 3:7])
    wanted = rotations.multiply(rotations.conjugate(root[:, 3:7]).expand(len(palm), 4), palm[:, 3:])
    turn = rotations.multiply(wanted, rotations.conjugate(fixed).expand(len(palm), 4))
    x, y, z = (rotations.rotate(turn, axis.expand(len(palm), 3)) for axis in torch.eye(3, device=palm.device))
    angles = torch.stack(
        (torch.atan2(-z[:, 1], z[:, 2]), torch.asin(z[:, 0].clamp(-1.0, 1.0)), torch.atan2(-y[:, 0], x[:, 0])), 1
    )
    place = rotations.rotate_inverse(root[:, 3:7].expand(len(palm), 4), palm[:, :3] - root[:, :3])
    return torch.cat((place - rotations.rotate(turn, offset.expand(len(palm), 3)), angles), 1)


def resting_on(surface: Tensor, thing: Object, away: Tuple[float, float, float] = (0.0, 0.0, 1.0)) -> Tensor:
    """Poses [N, 7] at which an object lies on surfaces with the world poses `surface` [N, 7]. `away` is the axis of
    their frames that points away from the surface: (1, 0, 0) for a palm."""
    height, quat = thing.rest()
    axis = surface.new_tensor(away) / surface.new_tensor(away).norm()
    up = surface.new_tensor((-axis[1], axis[0], 0.0, 1.0 + axis[2]))  # the turn from z to `away`
    if axis[2] < -0.9999:
        up = surface.new_tensor((1.0, 0.0, 0.0, 0.0))
    frame = rotations.multiply(surface[:, 3:], (up / up.norm()).expand(len(surface), 4))
    lifted = surface.new_tensor((0.0, 0.0, height)).expand(len(surface), 3)
    turn = rotations.multiply(frame, surface.new_tensor(quat).expand(len(surface), 4))
    return torch.cat((surface[:, :3] + rotations.rotate(frame, lifted), turn), 1)
