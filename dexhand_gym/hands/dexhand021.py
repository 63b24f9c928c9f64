"""The DexHand021: 12 finger actions drive 20 joints. Fingers 1 to 5 are thumb, index, middle, ring and little finger.

| what               | unit or frame                                                                                      |
|--------------------|----------------------------------------------------------------------------------------------------|
| base dofs          | displacement from the spawn pose, m, rad: along the world's axes, then x-y-z rotations             |
| finger dofs        | rad; 0 = straight; positive flexes towards the palm (`*_1` spreads; of the thumb, opposes)         |
| finger link frames | x along the link, z the hinge axis                                                                 |

The drives are gentle on purpose: a stiff base shakes the object out of the fingers, stiff fingers shoot it away.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Mapping, Tuple

from dexhand_gym.hands.hand import Finger, Hand

ASSETS = Path(__file__).resolve().parent.parent / "assets"

# Open hand around the cube, found by hand: base x y z (m) and rotation (rad), then the twelve finger actions (rad).
PRE_GRASP_BASE = (-0.13, 0, -0.05, -0.02, 0.57, -0.01)
PRE_GRASP_FINGERS = (0.98, 0.33, 0.11, 0.03, 0.30, 0.27, 0.27, 0.17, 0.46, 0.22, 0.17, 0.23)


def dexhand021(side: str, other: str, base: Tuple[float, ...]) -> Hand:
    """The hand of one side; `base` is the base's part of the pre-grasp pose."""
    joint, link = f"{side[0]}_f_joint", f"{side[0]}_f_link"

    def joints(finger: int, scales: Mapping[int, float]) -> Dict[str, float]:
        return {f"{joint}{finger}_{number}": scale for number, scale in scales.items()}

    bend, both = {2: 1.0}, {3: 1.0, 4: 1.0}
    spread = {**joints(2, {1: 1.0}), **joints(4, {1: 1.0}), **joints(5, {1: 2.0})}  # the middle finger's is fixed
    actions = {"th_rot": joints(1, {1: 1.0}), "th_mcp": joints(1, bend), "th_dip": joints(1, both), "ff_spr": spread}
    for number, finger in enumerate(("ff", "mf", "rf", "lf"), 2):
        actions.update({f"{finger}_mcp": joints(number, bend), f"{finger}_dip": joints(number, both)})
    return Hand(
        file=ASSETS / f"dexhand021_{side}.xml",
        root="floating_base_root",
        palm=f"{side}_hand_base",
        fingers=tuple(
            Finger(finger, f"{link}{i}_tip", f"{link}{i}_pad", f"{link}{i}_4")
            for i, finger in enumerate(("thumb", "index", "middle", "ring", "little"), 1)
        ),
        actions=actions,
        base=("ARTx", "ARTy", "ARTz", "ARRx", "ARRy", "ARRz"),
        pre_grasp=(*base, *PRE_GRASP_FINGERS),
        palm_point=(0.0251, -0.015 if side == "right" else 0.015, 0.10),  # beside the thumb
        mirror_image=other,
    )


DEXHAND021_RIGHT = dexhand021("right", "left", PRE_GRASP_BASE)
DEXHAND021_LEFT = dexhand021("left", "right", tuple(sign * x for sign, x in zip((1, -1, 1, -1, 1, -1), PRE_GRASP_BASE)))
