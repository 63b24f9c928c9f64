"""Poses and velocities of the hand's bodies, computed from its joints."""

from __future__ import annotations

from typing import List, Tuple

import torch
from torch import Tensor

from dexhand_gym import rotations
from dexhand_gym.hands.mjcf import Link, numbers


class Kinematics:
    """Batched forward kinematics of a tree whose links have one joint at most, at their origin.

    Not link by link or level by level, but by doubling: every link is composed with its parent, then with its
    grandparent, then with the one four above, and so on: four rounds for a hand.
    """

    def __init__(self, links: List[Link], device: torch.device):
        # Row 0 is the world, its own parent; the bodies follow.
        joints = [{}, *(link.joint for link in links)]
        ancestor = torch.tensor([0, *(link.parent + 1 for link in links)], device=device)
        self._ancestors: List[Tensor] = []  # 1, 2, 4, ... above
        while ancestor.any():
            self._ancestors.append(ancestor)
            ancestor = ancestor[ancestor]
        self._pos = torch.tensor([(0.0, 0.0, 0.0), *(link.pos for link in links)], dtype=torch.float32, device=device)
        quats = torch.tensor([(1.0, 0.0, 0.0, 0.0), *(link.quat for link in links)], dtype=torch.float32, device=device)
        self._quat = quats.roll(-1, -1)  # MJCF's are w x y z
        axes = torch.tensor(
            [numbers(joint.get("axis", "0 0 1")) for joint in joints], dtype=torch.float32, device=device
        )
        slides, hinges = (
            torch.tensor([bool(joint) and joint.get("type", "hinge") == kind for joint in joints], device=device)
            for kind in ("slide", "hinge")
        )
        self._slide, self._hinge = axes * slides.unsqueeze(1), axes * hinges.unsqueeze(1)
        dofs = [joint["name"] for joint in joints if joint]
        self._dof = torch.tensor([dofs.index(joint["name"]) if joint else 0 for joint in joints], device=device)

    def __call__(self, dof_state: Tensor) -> Tensor:
        """dof_state [N, dofs, 2] -> states of the bodies [N, bodies, 13], as Simulator.rigid_body_state."""
        position, velocity = dof_state.index_select(1, self._dof).split(1, -1)
        angle = position / 2
        turn = torch.cat((self._hinge * angle.sin(), self._cosine(angle)), -1)
        place = self._pos + rotations.rotate(self._quat.expand_as(turn), self._slide * position)
        quat = rotations.multiply(self._quat.expand_as(turn), turn)
        for ancestor in self._ancestors:
            above = quat.index_select(1, ancestor)
            place = place.index_select(1, ancestor) + rotations.rotate(above, place)
            quat = rotations.multiply(above, quat)
        linear, angular = self._velocities(place, quat, velocity)
        return torch.cat((place, quat, linear, angular), -1)[:, 1:]

    def _cosine(self, angle: Tensor) -> Tensor:
        """The cosine of `angle`, or 1 where there is no hinge."""
        turns = self._hinge.abs().sum(-1, keepdim=True) > 0
        return torch.where(turns, angle.cos(), torch.ones_like(angle))

    def _velocities(self, place: Tensor, quat: Tensor, velocity: Tensor) -> Tuple[Tensor, Tensor]:
        """Linear and angular velocities. Referred to the world's origin, they add up along the tree."""
        angular = rotations.rotate(quat, self._hinge * velocity)
        linear = rotations.rotate(quat, self._slide * velocity) - torch.linalg.cross(angular, place)
        for ancestor in self._ancestors:
            angular = angular + angular.index_select(1, ancestor)
            linear = linear + linear.index_select(1, ancestor)
        return linear + torch.linalg.cross(angular, place), angular
