"""The real hand, by the vendor's SDK or whatever has the same methods."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Optional

import numpy as np

from .contract import Contract

Array = Any
TOUCHING = {"thumb": "th", "index": "ff", "middle": "mf", "ring": "rf", "little": "lf"}
"""Name of a finger in the contract -> in the SDK."""


class Arm:
    """What carries the hand. This one only remembers where it was told to go, and believes to be there; one of your own has
    the same two methods. Targets are the contract's base actions: m along and rad about x, y and z, from the pose that
    the contract's hand_height and hand_quat name."""

    def __init__(self, contract: Contract):
        self.targets = contract.start[: contract.base].copy()

    def send(self, targets: Array) -> None:
        """Moves to these targets [B] until the next come."""
        self.targets = np.array(targets)

    def read(self) -> Array:
        """Where the base is [B]."""
        return self.targets


class DexHandBody:
    """A DexHand021 that has `move_joints(th_rot=degrees, ...)`, `get_feedback()`, `get_errors()` and `clear_errors()`, as
    pyzlg_dexhand's RightDexHand and LeftDexHand have them.

    Angles go in degrees. A fingertip's force comes as normal force, tangential force and its direction in degrees, 0
    towards the tip; whether that grows to the right of who looks at the pad, as in the simulation, is not documented:
    press the fingertip sideways once, and say `direction=-1` if it does not.
    """

    def __init__(self, contract: Contract, sdk: Any, arm: Optional[Any] = None, direction: int = 1):
        self.contract, self.sdk, self.direction = contract, sdk, direction
        self.arm = Arm(contract) if arm is None else arm
        self.names = contract.targets[contract.base :]
        self.fingers: List[str] = [TOUCHING[finger["name"]] for finger in contract.said["hand"]["fingers"]]
        self.stalls = 0
        self.temperatures: Dict[str, float] = {}

    def send(self, targets: Array) -> None:
        """Sends these action targets [T]; an error that has latched, as of a finger that is blocked, is cleared."""
        self.arm.send(targets[: self.contract.base])
        degrees = np.degrees(np.asarray(targets[self.contract.base :], float))
        self.sdk.move_joints(**dict(zip(self.names, degrees.tolist())))
        if any(error is not None for error in self.sdk.get_errors().values()):
            self.stalls += 1
            self.sdk.clear_errors()

    def read(self) -> Dict[str, Any]:
        """Angles and touch. A joint that has not reported yet is not a number, as the SDK has it."""
        feedback = self.sdk.get_feedback()
        angles = np.radians([feedback.joints[name].angle for name in self.names])
        forces = np.zeros((len(self.fingers), 3))
        for row, name in zip(forces, self.fingers):
            touch = feedback.tactile.get(name)
            if touch is not None:
                turn = self.direction * math.radians(touch.direction)
                row[:] = touch.normal_force, *(touch.tangential_force * x for x in (math.cos(turn), math.sin(turn)))
                self.temperatures[name] = float(touch.temperature)
        return {"base": np.asarray(self.arm.read()), "angles": angles, "forces_pad": forces}

    def health(self) -> Dict[str, Any]:
        """Stalls that were cleared so far, and the temperatures of fingertips, degrees C."""
        return {"stalls": self.stalls, "temperatures": self.temperatures}
