"""A right and a left DexHand021 that face each other, thumbs up, 40 cm apart: for what one hand cannot hold."""

from __future__ import annotations

from dexhand_gym.hands.dexhand021 import DEXHAND021_LEFT, DEXHAND021_RIGHT
from dexhand_gym.hands.pair import Placed, side_by_side

S = 0.5**0.5
BOTH = side_by_side(
    left=Placed(DEXHAND021_LEFT, (-0.1, 0.2, 0.0), (-S, 0.0, 0.0, S)),
    right=Placed(DEXHAND021_RIGHT, (-0.1, -0.2, 0.0), (S, 0.0, 0.0, S)),
)
"""Turned by 90 degrees about the fingers: a palm that looks down alone looks to the other hand."""
