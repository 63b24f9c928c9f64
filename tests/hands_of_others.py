"""Hands as users bring them: a gripper that moves along x and z, and three fingers fixed in the world."""

from pathlib import Path

from dexhand_gym.hands import Finger, Hand

DATA = Path(__file__).parent / "data"

GRIPPER = Hand(
    file=DATA / "gripper.xml",
    root="root",
    palm="palm",
    fingers=tuple(
        Finger(side, f"{side}_tip", f"{side}_tip", side, (0.0, inwards, 0.0), (0.0, 0.0, 1.0))
        for side, inwards in (("left", -1.0), ("right", 1.0))
    ),
    actions={"close": {"close_left": 1.0, "close_right": 1.0}},
    base=("move_x", "move_z"),
    pre_grasp=(0.0, -0.18, 0.0),
)
CLAW = Hand(
    file=DATA / "claw.xml",
    root="palm",
    palm="palm",
    fingers=tuple(
        Finger(f"finger{i}", f"tip{i}", f"pad{i}", f"end{i}", (-1.0, 0.0, 0.0), (0.0, 0.0, 1.0)) for i in range(3)
    ),
    actions={f"finger{i}": {f"bend{i}": 1.0, f"curl{i}": 0.5} for i in range(3)},
)
