"""Where the fingers' pads are, from the angles that a hand reports."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import numpy as np

from .contract import Contract

Array = Any
Pose = Tuple[Array, Array]
"""Position [3], and rotation as a matrix [3, 3]."""


class Kinematics:
    """Forward kinematics of the contract's hand: `links` are its bodies, each with its parent, its place in that and its
    joint."""

    def __init__(self, contract: Contract):
        hand = contract.said["hand"]
        self.links: List[Dict[str, Any]] = hand["links"]
        self.palm: str = hand["palm"]
        self.tips: List[str] = [finger["pad"] for finger in hand["fingers"]]
        self.scale = np.zeros(len(contract.joints))
        self.source = np.zeros(len(contract.joints), int)
        active = hand["active_joints"]
        reported = [contract.coupling[contract.joints.index(name)] for name in active]
        for dof, row in enumerate(contract.coupling):
            for i, of_active in enumerate(reported):
                column = int(np.abs(of_active).argmax())
                if row[column]:
                    self.source[dof], self.scale[dof] = i, row[column] / of_active[column]
        self.joints = contract.joints

    def pads(self, angles: Array) -> Array:
        """Positions of the pads in the palm's frame [F, 3], m, from the reported angles [A]; joints that one motor moves
        are in their fixed ratio."""
        values = np.asarray(angles, float)[self.source] * self.scale
        poses: Dict[str, Pose] = {}
        for link in self.links:
            place, turn = np.array(link["pos"], float), matrix(link["quat"])
            if link["joint"]:
                value, axis = values[self.joints.index(link["joint"])], np.array(link["axis"], float)
                if link["type"] == "slide":
                    place = place + turn @ axis * value
                else:
                    half = value / 2
                    turn = turn @ matrix([*(axis / np.linalg.norm(axis) * np.sin(half)), np.cos(half)])
            if link["parent"]:
                above, around = poses[link["parent"]]
                place, turn = above + around @ place, around @ turn
            poses[link["name"]] = place, turn
        origin, frame = poses[self.palm]
        return np.array([frame.T @ (poses[name][0] - origin) for name in self.tips], np.float32)


def matrix(quat: Any) -> Array:
    """Of a quaternion x y z w."""
    x, y, z, w = quat
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
