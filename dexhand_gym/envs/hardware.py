"""Quantities in what a real hand and the arm that carries it report, for policies that are to run there.

| name                           | shape      | content                                                                      |
|--------------------------------|------------|------------------------------------------------------------------------------|
| base_dof_pos, base_dof_target  | [N, base]  | displacement of the base and its target, m, rad: an arm's part               |
| active_finger_dof_pos, _target | [N, A]     | angle of one joint per finger action and its target, rad: what a motor       |
|                                |            | drives and its encoder reads                                                 |
| fingertip_normal_force         | [N, F]     | how hard the world presses on a fingertip's pad, N, 0 or more                |
| fingertip_tangential_force     | [N, F]     | how hard it pulls along the pad, N, 0 or more                                |
| fingertip_tangential_direction | [N, F, 2]  | cosine and sine of the direction in which it pulls; 0 degrees: to the tip,   |
|                                |            | 90 degrees: to the right of who looks at the pad with the tip upwards        |
| fingertip_contact              | [N, F]     | 1 where the normal force exceeds task.contact_binary_threshold               |
| reported_pads                  | [N, F, 3]  | positions of the pads in the palm's frame, m, computed from reported angles  |
| reported_pad_distances         | [N, pairs] | distances between pads 1-2, 1-3, ... of these positions, m                   |

The first two rows are of quantities.py. Sizes: F fingers, A finger actions (5 and 12 of the DexHand021).

**The pad's frame** In it, `Finger.normal` points out of the skin and `Finger.forward` along the skin to the tip. For all
fingers of both DexHands these are y and x: the pad is on the surface of the last link's capsule, on the side to which the
finger flexes; its y axis points away from the capsule, inclined by 26 degrees towards the tip, and the tip lies 10
degrees off its x axis (tests/test_hardware.py computes both from the model). A fingertip feels the net force on its
contact body, wherever that touches. What pulls it off the pad is not felt: normal forces below 0 count as 0.

**Which way the direction grows** is the same for both hands, as for a sensor that is built into either. Of the real
sensor only the zero is documented: press it sideways once, and compare.

**Pads** A reported angle stands for all joints that its action drives, in their fixed ratio, as in the hand, whose motor
moves them by one linkage. In the simulation each has a drive of its own: in the scripted grasp its first three pads
are up to 2 mm from these positions while the cube is held, and those of ring and little finger up to 6 mm while they
close. This is why `fingerpad_distances`, of simulated bodies, is not among HARDWARE.
"""

from __future__ import annotations

from typing import Any, Dict, Tuple

import torch
from torch import Tensor

from dexhand_gym import rotations
from dexhand_gym.envs.quantities import Quantity, in_hand_frame, pair_distances, pick
from dexhand_gym.hands.hand import Hand
from dexhand_gym.sim.kinematics import Kinematics

HARDWARE = (
    "base_dof_pos",
    "base_dof_target",
    "active_finger_dof_pos",
    "active_finger_dof_target",
    "fingertip_normal_force",
    "fingertip_tangential_force",
    "fingertip_tangential_direction",
    "fingertip_contact",
    "last_actions",
    "reported_pads",
    "reported_pad_distances",
)
"""What a policy sees with `task.observe = "hardware"`: no velocities, no forces in world axes, no simulated bodies."""

_AXES: Dict[Tuple[Hand, torch.device], Tensor] = {}
_REPORTED: Dict[Tuple[Hand, torch.device], Tuple[Kinematics, Tensor, Tensor]] = {}


def fingertip_forces(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """Force on each fingertip in its pad's frame [N, F, 3], N: into the skin, towards the tip, to the right."""
    key = cfg.hand, m["pads"].device
    if key not in _AXES:  # kept, since a copy to a GPU at every step could not be captured
        _AXES[key] = torch.tensor(
            [[[-x for x in f.normal], f.forward, cross(f.forward, f.normal)] for f in cfg.hand.fingers],
            dtype=torch.float32,
            device=m["pads"].device,
        )
    force = rotations.rotate_inverse(m["pads"][..., 3:], m["finger_forces"])
    return (_AXES[key] * force.unsqueeze(-2)).sum(-1)


def cross(a: Tuple[float, ...], b: Tuple[float, ...]) -> Tuple[float, ...]:
    """a x b"""
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def tangential_direction(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """Cosine and sine of the tangential force's direction [N, F, 2]; (0, 0) where that is less than
    task.contact_binary_threshold, since the direction of next to nothing is noise."""
    force = m["fingertip_tangential_force"].unsqueeze(-1)
    felt = force > max(cfg.task.contact_binary_threshold, 1e-6)
    return torch.where(felt, m["fingertip_forces"][..., 1:] / force.clamp(min=1e-6), torch.zeros_like(force))


def reported_pads(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """Positions of the pads in the palm's frame [N, F, 3], m, by forward kinematics of the reported angles."""
    hand, angles = cfg.hand, m["active_finger_dof_pos"]
    if (hand, angles.device) not in _REPORTED:
        _REPORTED[hand, angles.device] = (Kinematics(hand.links, angles.device), *dofs_of_angles(hand, angles.device))
    kinematics, source, scale = _REPORTED[hand, angles.device]
    dofs = angles.index_select(1, source) * scale
    bodies = kinematics(torch.stack((dofs, torch.zeros_like(dofs)), -1))[..., :7]
    return in_hand_frame({"hand_pose": bodies[:, hand.palm_index]}, pick(bodies, hand.pads))[..., :3]


def dofs_of_angles(hand: Hand, device: torch.device) -> Tuple[Tensor, Tensor]:
    """Each dof follows one reported angle: which [D], and by what factor [D], 0 where none (the base's)."""
    coupling = torch.tensor(hand.coupling, dtype=torch.float32, device=device)[:, hand.num_base :]
    reported = pick(coupling[hand.num_base :].unsqueeze(0), hand.active_dofs)[0].diagonal()
    scale, source = (coupling / reported).max(1)
    return source, scale


HARDWARE_QUANTITIES: Dict[str, Quantity] = {
    "fingertip_forces": fingertip_forces,
    "fingertip_normal_force": lambda m, cfg: m["fingertip_forces"][..., 0].clamp(min=0.0),
    "fingertip_tangential_force": lambda m, cfg: torch.linalg.vector_norm(m["fingertip_forces"][..., 1:], dim=-1),
    "fingertip_tangential_direction": tangential_direction,
    "fingertip_contact": lambda m, cfg: (m["fingertip_normal_force"] > cfg.task.contact_binary_threshold).float(),
    "reported_pads": reported_pads,
    "reported_pad_distances": lambda m, cfg: pair_distances(m["reported_pads"]),
}
