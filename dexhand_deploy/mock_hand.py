"""A stand-in for the vendor's SDK on a simulated hand, as wrong as the bus is: coarse, late, lossy and smoothed."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, Dict, List, Optional

import numpy as np

from .contract import Contract
from .dexhand_body import TOUCHING
from .sim_body import SimBody

Array = Any
BOARDS = (("th_dip", "th_mcp"), ("th_rot", "ff_spr"), ("ff_dip", "ff_mcp"))
BOARDS += (("mf_dip", "mf_mcp"), ("rf_dip", "rf_mcp"), ("lf_dip", "lf_mcp"))
"""The motors of each board of a DexHand021."""


class MockHand:
    """`move_joints` sends a frame to each board, and lets a control step pass; `get_feedback` has the newest frame of each.

    | what        | as                                                                                          |
    |-------------|---------------------------------------------------------------------------------------------|
    | commands    | 0.01 degree, cut off as the SDK does; each frame is lost with probability `lost`             |
    | smoothing   | the vendor's node: a new target counts `low_pass`, the old one the rest                     |
    | feedback    | 0.01 degree, whole degrees of direction; a frame is lost likewise, and up to 13 ms old       |
    | errors      | a board that `stall` names latches an error and stands still until it is cleared            |
    """

    def __init__(self, contract: Contract, low_pass: float = 0.3, lost: float = 0.01, seed: int = 0):
        if not (0 < low_pass <= 1 and 0 <= lost <= 1):
            raise ValueError(f"low_pass = {low_pass}, lost = {lost}: allowed are more than 0 to 1, and 0 to 1")
        self.contract, self.low_pass, self.lost = contract, low_pass, lost
        self.body, self.random = SimBody(contract), np.random.default_rng(seed)
        self.names = contract.targets[contract.base :]
        self.fingers = [TOUCHING[finger["name"]] for finger in contract.said["hand"]["fingers"]]
        self.stalled: Dict[int, Any] = {}
        self.reset()

    def reset(self, start: Optional[Dict[str, Any]] = None) -> Array:
        """Begins at `start`, as SimBody.reset(). Returns the targets."""
        self.targets = self.body.reset(start).astype(float)
        self.stalled.clear()
        self.frames = [self._frame(self.body.read())] * len(BOARDS)
        return self.targets.astype(np.float32)

    def highest(self) -> float:
        """See SimBody.highest()."""
        return self.body.highest()

    # What an arm has -------------------------------------------------------------------------------------------------

    def send(self, targets: Array) -> None:
        """Moves the base."""
        self.targets[: self.contract.base] = targets

    def read(self) -> Array:
        """Where the base is."""
        return self.body.read()["base"]

    # What the SDK has ------------------------------------------------------------------------------------------------

    def move_joints(self, **degrees: float) -> None:
        """A control step under these targets."""
        for board, motors in enumerate(BOARDS):
            if board in self.stalled or self.random.random() < self.lost:
                continue
            for name in motors:
                if name in degrees:
                    column = self.contract.base + self.names.index(name)
                    wanted = math.radians(int(degrees[name] * 100) / 100)
                    self.targets[column] += self.low_pass * (wanted - self.targets[column])
        joints = self.contract.coupling @ self.targets
        self.body.advance(joints, self.body.steps - 1)
        older = self._frame(self.body.read())
        self.body.advance(joints, 1)
        newest = self._frame(self.body.read())
        for board in range(len(BOARDS)):
            if self.random.random() >= self.lost:
                self.frames[board] = newest if self.random.random() < 0.5 else older

    def get_feedback(self) -> Any:
        """Joints and fingertips by the SDK's names."""
        joints = {name: self.frames[board].joints[name] for board, motors in enumerate(BOARDS) for name in motors}
        boards: List[int] = [0, 2, 3, 4, 5]  # board 1 has no fingertip
        tactile = {name: self.frames[board].tactile[name] for name, board in zip(self.fingers, boards)}
        return SimpleNamespace(joints=joints, tactile=tactile)

    def get_errors(self) -> Dict[int, Any]:
        """Board -> its latched error, or None."""
        return {board: self.stalled.get(board) for board in range(len(BOARDS))}

    def clear_errors(self, clear_all: bool = False) -> None:
        """Lets all boards go on."""
        self.stalled.clear()

    def stall(self, board: int) -> None:
        """Makes a board's motors stall."""
        self.stalled[board] = "stall"

    def _frame(self, readings: Dict[str, Any]) -> Any:
        angles = {
            name: SimpleNamespace(angle=int(math.degrees(angle) * 100) / 100)
            for name, angle in zip(self.names, readings["angles"])
        }
        return SimpleNamespace(joints=angles, tactile=dict(zip(self.fingers, map(touched, readings["forces_pad"]))))


def touched(force: Array) -> Any:
    """A fingertip's report of a force in its pad's frame."""
    normal, forward, right = (float(x) for x in force)
    return SimpleNamespace(
        normal_force=max(normal, 0.0),
        tangential_force=math.hypot(forward, right),
        direction=int(math.degrees(math.atan2(right, forward))) % 360,
        temperature=25,
    )
