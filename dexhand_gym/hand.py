"""The DexHand021 right hand as data.

Nothing here needs a simulator: tasks, engines and action code read the same tuples. The figures repeat those of
`assets/dexhand021_right.xml`; `tests/test_hand.py` holds the two together.

| what | unit or frame |
|---|---|
| `DOF_LOWER`, `DOF_UPPER`, `ACTION_LOWER`, `ACTION_UPPER` | m for ARTx ARTy ARTz, rad for all others |
| `STIFFNESS` | N/m for ARTx ARTy ARTz, Nm/rad for all others |
| `DAMPING` (of the drive) | N s/m, Nm s/rad |
| `EFFORT` (largest drive force) | N, Nm |
| base dofs | displacement from the spawn pose: translations along the world's axes, then x-y-z rotations |
| finger dofs | 0 = straight; positive flexes towards the palm (`*_1` of the fingers spreads; of the thumb, opposes) |
| palm frame | x out of the palm, y towards the index finger, z along the fingers, origin at the wrist |
| finger link frames | x along the link, z the hinge axis |
| fingers 1 to 5 | thumb, index (`ff`), middle (`mf`), ring (`rf`), little (`lf`) |
| quaternions | x y z w |
"""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).resolve().parent / "assets"
HAND_XML = ASSETS / "dexhand021_right.xml"
SCENE_XML = ASSETS / "scene.xml"

# Degrees of freedom, in file order.
BASE_DOFS = ("ARTx", "ARTy", "ARTz", "ARRx", "ARRy", "ARRz")
FINGER_DOFS = tuple(f"r_f_joint{finger}_{joint}" for finger in range(1, 6) for joint in range(1, 5))
DOF_NAMES = BASE_DOFS + FINGER_DOFS

_SPREAD_LIMITS = {
    "r_f_joint1_1": (0.0, 2.2),
    "r_f_joint2_1": (0.0, 0.3),
    "r_f_joint3_1": (-0.001, 0.001),  # fixed
    "r_f_joint4_1": (0.0, 0.3),
    "r_f_joint5_1": (0.0, 0.6),
}
_LIMITS = (
    ((-1.0, 1.0),) * 3 + ((-3.14, 3.14),) * 3 + tuple(_SPREAD_LIMITS.get(name, (0.0, 1.3)) for name in FINGER_DOFS)
)
DOF_LOWER = tuple(lower for lower, _ in _LIMITS)
DOF_UPPER = tuple(upper for _, upper in _LIMITS)

# Gentle on purpose: a stiff base shakes the object out of the fingers, stiff fingers shoot it away.
STIFFNESS = (1000.0,) * 3 + (20.0,) * 3 + (3.0,) * 20
DAMPING = (80.0,) * 3 + (1.6,) * 3 + (0.1,) * 20
EFFORT = (500.0,) * 3 + (100.0,) * 3 + (0.5,) * 20

# Bodies, in file order (depth first). Each tip and pad is a massless body fixed to its distal link.
_LINKS = ("1", "2", "3", "4", "tip", "pad")
PALM = "right_hand_base"
TIP_BODIES = tuple(f"r_f_link{finger}_tip" for finger in range(1, 6))
PAD_BODIES = tuple(f"r_f_link{finger}_pad" for finger in range(1, 6))
CONTACT_BODIES = tuple(f"r_f_link{finger}_4" for finger in range(1, 6))
BODY_NAMES = (
    ("floating_base_root", "floating_base")
    + tuple(f"{dof}_child" for dof in BASE_DOFS[:5])
    + ("hand_base", PALM)
    + tuple(f"r_f_link{finger}_{link}" for finger in range(1, 6) for link in _LINKS)
)

# The palm's orientation at zero base rotation: fingers along world +X, palm down.
PALM_MOUNT_QUAT = (0.0, 0.5**0.5, 0.0, 0.5**0.5)

# Finger action -> joints it drives: joint target = scale * action target.
_FINGER_ACTIONS = {
    "th_rot": {"r_f_joint1_1": 1.0},
    "th_mcp": {"r_f_joint1_2": 1.0},
    "th_dip": {"r_f_joint1_3": 1.0, "r_f_joint1_4": 1.0},
    "ff_spr": {"r_f_joint2_1": 1.0, "r_f_joint4_1": 1.0, "r_f_joint5_1": 2.0},
    "ff_mcp": {"r_f_joint2_2": 1.0},
    "ff_dip": {"r_f_joint2_3": 1.0, "r_f_joint2_4": 1.0},
    "mf_mcp": {"r_f_joint3_2": 1.0},
    "mf_dip": {"r_f_joint3_3": 1.0, "r_f_joint3_4": 1.0},
    "rf_mcp": {"r_f_joint4_2": 1.0},
    "rf_dip": {"r_f_joint4_3": 1.0, "r_f_joint4_4": 1.0},
    "lf_mcp": {"r_f_joint5_2": 1.0},
    "lf_dip": {"r_f_joint5_3": 1.0, "r_f_joint5_4": 1.0},
}
_ACTIONS = {**{name: {name: 1.0} for name in BASE_DOFS}, **_FINGER_ACTIONS}
ACTION_NAMES = tuple(_ACTIONS)

# 26 rows x 18 columns: dof targets = COUPLING @ action targets.
COUPLING = tuple(tuple(_ACTIONS[action].get(dof, 0.0) for action in ACTION_NAMES) for dof in DOF_NAMES)

# The action targets that keep every coupled dof inside its limits (all scales are positive).
ACTION_LOWER = tuple(
    max(DOF_LOWER[DOF_NAMES.index(dof)] / scale for dof, scale in dofs.items()) for dofs in _ACTIONS.values()
)
ACTION_UPPER = tuple(
    min(DOF_UPPER[DOF_NAMES.index(dof)] / scale for dof, scale in dofs.items()) for dofs in _ACTIONS.values()
)
