"""How observations and actions change when mirrored in the x-z plane of the palm and of the world.

A kind of quantity is a pattern of signed column numbers, counted from 1, that repeats along a row: (1, -2, 3) keeps x,
changes the sign of y and keeps z. A task gives the kinds of its own quantities in `mirrors`.
"""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

import torch

from dexhand_gym.hands.mirror import dof_signs

Kind = Tuple[int, ...]

SAME: Kind = (1,)
VECTOR: Kind = (1, -2, 3)
VELOCITY: Kind = (1, -2, 3, -4, 5, -6)
"""Linear and angular: a turn about x or z is reversed."""
QUATERNION: Kind = (-1, 2, -3, 4)
POSE: Kind = (1, -2, 3, -4, 5, -6, 7)
LINK_POSE: Kind = (1, -2, 3, 7, -6, -5, 4)
"""Pose of a finger's body: mirroring flips the z axis of its frame, in other frames y."""
PAD_FORCE: Kind = (1, 2, -3)
"""Into the skin, to the tip, to the right."""
DIRECTION: Kind = (1, -2)
"""Cosine and sine of an angle that grows the same way in both hands."""

OF_THE_HAND = ("base", "dofs", "targets", "actions")
"""Kinds that follow from the hand: signs of its base's dofs, of all dofs, of action targets, of the policy's
actions."""

HAND_MIRRORS: Dict[str, Any] = {
    **dict.fromkeys(("base_dof_pos", "base_dof_vel", "base_dof_target"), "base"),
    **dict.fromkeys(("dof_pos", "dof_vel", "dof_targets"), "dofs"),
    **dict.fromkeys(("targets", "rule_targets", "start_hand"), "targets"),
    **dict.fromkeys(("last_actions", "prev_actions"), "actions"),
    **dict.fromkeys(("active_finger_dof_pos", "active_finger_dof_vel", "active_finger_dof_target"), SAME),
    **dict.fromkeys(("all_finger_dof_pos", "all_finger_dof_vel", "all_finger_dof_target"), SAME),
    **dict.fromkeys(("hand_pose", "hand_pose_arr_aligned"), POSE),
    "hand_vel": VELOCITY,
    "contact_forces": VECTOR,
    **dict.fromkeys(("contact_force_magnitude", "contact_binary", "contact_duration", "episode_time"), SAME),
    **dict.fromkeys(("fingertip_normal_force", "fingertip_tangential_force", "fingertip_contact"), SAME),
    "fingertip_forces": PAD_FORCE,
    "fingertip_tangential_direction": DIRECTION,
    "reported_pads": VECTOR,
    "reported_pad_distances": SAME,
    **dict.fromkeys(("fingertip_poses_world", "fingertip_poses_hand"), LINK_POSE),
    **dict.fromkeys(("fingerpad_poses_world", "fingerpad_poses_hand"), LINK_POSE),
}


Image = Tuple[torch.Tensor, torch.Tensor]
"""Source index and sign of each column of the mirror image: image = sign * row[index]."""


def images(env: Any) -> Tuple[Image, Image, Image]:
    """Mirror images of a row of the policy's observation, of the critic's, and of the policy's actions."""
    policy, critic = env.task.policy_observation_keys, env.task.critic_observation_keys
    policy = policy * (1 + len(env.task.observation_history))
    actions = as_image(env, signs_of_hand(env, "actions"))
    return image_of_row(env, policy), image_of_row(env, (*policy, *critic)), actions


def image_of_row(env: Any, keys: Sequence[str]) -> Image:
    """Mirror image of a row of these quantities. Raises ValueError for a quantity without a fitting entry in
    `mirrors`."""
    places: List[int] = []
    for key in keys:
        width = env.measured[key][0].numel()
        kind = env.mirrors.get(key)
        if kind is None or (isinstance(kind, tuple) and width % len(kind)):
            raise ValueError(f"{type(env).__name__}.mirrors: it does not say what {key!r} [{width}] becomes")
        pattern = signs_of_hand(env, kind) if kind in OF_THE_HAND else kind
        offset = len(places)
        for i in range(width):
            place = pattern[i % len(pattern)]
            source = offset + i // len(pattern) * len(pattern) + abs(place) - 1
            places.append((source + 1) * (1 if place > 0 else -1))
    return as_image(env, places)


def signs_of_hand(env: Any, kind: str) -> Kind:
    """A kind that follows from the hand, as a pattern."""
    hand = env.hand
    dofs = dof_signs(hand)
    base, fingers = dofs[: hand.num_base], (1,) * (hand.num_actions - hand.num_base)
    actions = base * env.task.policy_controls_base + fingers * env.task.policy_controls_fingers
    signs = {"base": base, "dofs": dofs, "targets": base + fingers, "actions": actions}[kind]
    return tuple(sign * (i + 1) for i, sign in enumerate(signs))


def as_image(env: Any, places: Sequence[int]) -> Image:
    """(-2, 1) -> indices (1, 0), signs (-1, 1)"""
    index = torch.tensor([abs(place) - 1 for place in places], dtype=torch.int64, device=env.device)
    return index, torch.tensor([1.0 if place > 0 else -1.0 for place in places], device=env.device)
