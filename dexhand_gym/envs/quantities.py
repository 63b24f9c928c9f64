"""Named quantities of one instant. A task's observations, rewards and endings only ever read these, by name, so each of
them is a small pure function that can be tried on hand-made numbers without a simulator.

The environment puts in the raw ones:

| name                          | shape        | content (world frame, SI, xyzw)                                      |
|-------------------------------|--------------|----------------------------------------------------------------------|
| dof_pos, dof_vel              | [N, D]       | positions and velocities in the order of hand.dof_names              |
| dof_lower, dof_upper          | [D]          | limits                                                               |
| palm_mount                    | [4]          | the palm's orientation at zero base rotation                         |
| dof_targets                   | [N, D]       | where the drives pull                                                |
| targets, rule_targets         | [N, T]       | action targets in force, and what the pre-action rule proposed       |
| last_actions, prev_actions    | [N, A]       | the newest action, and its older name                                |
| bodies, body_forces           | [N, B, 13/3] | rigid body states and net contact forces                             |
| <actor>, start_<actor>        | [N, 13 / 7]  | root state now; pose at the start of the episode                     |
| <object>_size                 | [N, 1]       | its largest extent, m                                                |
| start_hand                    | [N, T]       | action targets at the start of the episode                           |
| prev_<name>                   | as <name>    | a quantity in the task's `remembered`, one control step ago          |
| <timer>                       | as its source| seconds that a boolean quantity in the task's `timers` has held      |
| episode_step                  | [N]          | control steps since the episode began                                |
| curriculum_width              | []           | with a curriculum: how far it has widened, 0 to 1                    |

and everything else is a function of others, in a table name -> function(measured, config), in which `config.hand` is
the hand. An episode in which one of them is not finite ends as `nonfinite`.

Sizes: D dofs, T action targets (26 and 18 of the DexHand021), A actions of the policy, F fingers, B bodies.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Dict, Set, Tuple

import numpy as np
import torch
from torch import Tensor

from dexhand_gym import rotations
from dexhand_gym.fields import unknown_name
from dexhand_gym.hands.hand import Rows
from dexhand_gym.objects import Object

RAW = ("dof_pos", "dof_vel", "dof_lower", "dof_upper", "palm_mount", "dof_targets", "targets", "rule_targets")
RAW += ("last_actions", "prev_actions", "bodies", "body_forces", "episode_step", "start_hand", "curriculum_width")
"""Names of the raw quantities that need no object and no table of a task."""

Quantity = Callable[[Dict[str, Tensor], Any], Tensor]


class Measured(Dict[str, Tensor]):
    """The quantities of one instant: raw ones given, the others computed when first asked for, once."""

    def __init__(self, raw: Dict[str, Tensor], quantities: Dict[str, Quantity], cfg: Any):
        super().__init__(raw)
        self._quantities, self._cfg = quantities, cfg
        self._begun: Set[str] = set()

    def __missing__(self, name: str) -> Tensor:
        if name not in self._quantities:
            raise KeyError(str(unknown_name("quantity", name, sorted({*self, *self._quantities}))))
        if name in self._begun:
            raise ValueError(f"quantity {name!r} needs itself: {' -> '.join((*sorted(self._begun), name))}")
        self._begun.add(name)
        value = self[name] = self._quantities[name](self, self._cfg)
        self._begun.discard(name)
        return value


def finite(*values: Tensor) -> Tensor:
    """[N] bool: the rows that hold neither NaN nor infinity in any of these [N, ...]. Tests sums, at a fifth of the
    cost of testing every number; a sum that overflows counts as infinite."""
    rows = [(x if x.dim() > 1 else x.unsqueeze(1)).detach().float().flatten(1) for x in values]
    if rows[0].is_cuda:
        return torch.isfinite(functools.reduce(torch.add, (x.sum(1) for x in rows)))
    with np.errstate(all="ignore"):  # NumPy: a large sum in torch takes threads from the physics
        return torch.from_numpy(np.isfinite(sum(x.numpy().sum(1) for x in rows)))


_INDICES: Dict[Tuple[Rows, torch.device], Tensor] = {}


def pick(x: Tensor, rows: Rows) -> Tensor:
    """The entries `rows` of x [N, B, ...] along B, as a view if they are evenly spaced."""
    if isinstance(rows, slice):
        return x[:, rows]
    if (rows, x.device) not in _INDICES:  # it cannot be created in a CUDA graph
        _INDICES[rows, x.device] = torch.tensor(rows, device=x.device)
    return x.index_select(1, _INDICES[rows, x.device])


def half_extents(size: Tensor, thing: Object) -> Tensor:
    """Half extents of an object [N, 3], m, in environments where its largest extent is `size` [N, 1]."""
    largest = max(thing.extents)
    return torch.cat([size * (x / largest) / 2 for x in thing.extents], 1)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance over the last axis."""
    return torch.linalg.vector_norm(a - b, dim=-1)


def pair_distances(points: Tensor) -> Tensor:
    """Distances between points [N, F, 3]: 1-2, 1-3, 1-4, 1-5, 2-3, ... 4-5 [N, F (F - 1) / 2]."""
    table = distance(points.unsqueeze(2), points.unsqueeze(1))
    return torch.cat([table[:, i, i + 1 :] for i in range(points.shape[1] - 1)], 1)


def in_hand_frame(m: Dict[str, Tensor], poses: Tensor) -> Tensor:
    """World poses [N, F, 7] as seen from the palm [N, F, 7]."""
    palm = m["hand_pose"].unsqueeze(1)
    position = rotations.rotate_inverse(palm[..., 3:], poses[..., :3] - palm[..., :3])
    quat = rotations.multiply(rotations.conjugate(palm[..., 3:]), poses[..., 3:])
    return torch.cat((position, quat), -1)


def remove_mount(m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """hand_pose with the palm's mount taken out: identity at zero base rotation."""
    position, quat = m["hand_pose"][:, :3], m["hand_pose"][:, 3:]
    unmount = rotations.conjugate(m["palm_mount"]).expand_as(quat)
    return torch.cat((position, rotations.multiply(quat, unmount)), -1)


HAND_QUANTITIES: Dict[str, Quantity] = {
    "base_dof_pos": lambda m, cfg: m["dof_pos"][:, : cfg.hand.num_base],
    "base_dof_vel": lambda m, cfg: m["dof_vel"][:, : cfg.hand.num_base],
    "base_dof_target": lambda m, cfg: m["targets"][:, : cfg.hand.num_base],
    "all_finger_dof_pos": lambda m, cfg: m["dof_pos"][:, cfg.hand.num_base :],
    "all_finger_dof_vel": lambda m, cfg: m["dof_vel"][:, cfg.hand.num_base :],
    "all_finger_dof_target": lambda m, cfg: m["dof_targets"][:, cfg.hand.num_base :],
    "active_finger_dof_pos": lambda m, cfg: pick(m["all_finger_dof_pos"], cfg.hand.active_dofs),
    "active_finger_dof_vel": lambda m, cfg: pick(m["all_finger_dof_vel"], cfg.hand.active_dofs),
    "active_finger_dof_target": lambda m, cfg: m["targets"][:, cfg.hand.num_base :],
    "hand_pose": lambda m, cfg: m["bodies"][:, cfg.hand.palm_index, :7],
    "hand_pose_arr_aligned": remove_mount,
    "hand_vel": lambda m, cfg: m["bodies"][:, cfg.hand.palm_index, 7:],
    "tips": lambda m, cfg: pick(m["bodies"], cfg.hand.tips)[..., :7],
    "pads": lambda m, cfg: pick(m["bodies"], cfg.hand.pads)[..., :7],
    "finger_forces": lambda m, cfg: pick(m["body_forces"], cfg.hand.contacts),
    "contact_forces": lambda m, cfg: m["finger_forces"].flatten(1),
    "contact_force_magnitude": lambda m, cfg: torch.linalg.vector_norm(m["finger_forces"], dim=-1),
    "contact_binary": lambda m, cfg: (m["contact_force_magnitude"] > cfg.task.contact_binary_threshold).float(),
    "fingertip_poses_world": lambda m, cfg: m["tips"].flatten(1),
    "fingertip_poses_hand": lambda m, cfg: in_hand_frame(m, m["tips"]).flatten(1),
    "fingerpad_poses_world": lambda m, cfg: m["pads"].flatten(1),
    "fingerpad_poses_hand": lambda m, cfg: in_hand_frame(m, m["pads"]).flatten(1),
    "episode_time": lambda m, cfg: (m["episode_step"].float() * cfg.control_dt).unsqueeze(1),
}
