"""States in which an object lies in an open hand, for tasks that begin so. Found by simulation, once, and kept in the
cache folder."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import List, Tuple

import numpy as np
import torch
from torch import Tensor

from dexhand_gym import rotations
from dexhand_gym.hands.hand import Hand
from dexhand_gym.hands.placing import palm_surface, poses_at_zero
from dexhand_gym.meshes import kept, load_mesh
from dexhand_gym.sim.base import Scene, SimConfig, Simulator

TRIED = 384
"""Hands that an object is dropped into."""
CURL = (0.1, 0.6)
"""Shares of their ranges that fingers bend by."""
JITTER = 0.15
"""Of each joint beside that."""
ABOVE = 0.002
"""An object is let go this far above the palm, m."""
STEPS = 50
"""One second."""
ASIDE, FORWARD = 0.015, (0.03, 0.07)
"""And so far from the middle of the palm, m: across, and towards the fingers, which reach no nearer."""
MOST_MOVED, MOST_TURNED = 0.002, 0.05
"""What lies still moves (m) and turns (rad) no more within a second."""
MOST_ASIDE, WHERE = 0.04, (0.025, 0.08)
"""Where it lies then, from the middle of the palm: across, and towards the fingers, m."""


def lying_in_hand(scene: Scene) -> Tuple[Tensor, Tensor]:
    """Action targets [K, T] and world poses of the scene's object [K, 7], in which it lies still in the hand while the
    targets stay. The hand's base is at zero. Raises ValueError, one line, where there are none."""
    (thing,) = scene.free
    hand = scene.hand
    purpose = np.frombuffer(b"lying in a hand, 3", np.uint8)
    looks = {"name": "", "color": (0.0, 0.0, 0.0), "marks": False, "file": ""}
    text = repr((hand_text(hand), replace(thing, **looks) if thing.shape != "mesh" else thing))
    text += "fingers collide with each other" * scene.self_collision
    corners = load_mesh(thing.file, thing.first_size, thing.parts).hulls if thing.shape == "mesh" else ()
    inputs = [purpose, np.frombuffer(text.encode(), np.uint8), np.array([scene.hand_height, *scene.hand_quat])]
    inputs += [hull.vertices for hull in corners]

    def fits(arrays: List[np.ndarray]) -> bool:
        whole = len(arrays) == 1 and arrays[0].shape[1:] == (hand.num_actions + 7,) and len(arrays[0]) > 0
        return whole and bool(np.isfinite(arrays[0]).all())

    (found,) = kept(inputs, lambda: [searched(scene)], fits)
    targets, pose = torch.tensor(found, dtype=torch.float32).split((hand.num_actions, 7), 1)
    return targets, pose


def hand_text(hand: Hand) -> str:
    """What makes a hand another one."""
    return repr((hand.links, hand.drives, hand.all_actions, hand.palm, hand.palm_point))


def searched(scene: Scene) -> np.ndarray:
    """Targets and poses [K, T + 7] of those that stay: the object is dropped into hands that are bent at random, and the
    hand is told to stay as it is then."""
    from dexhand_gym.sim import make_sim

    print(f"looking for states in which {scene.free[0].name} lies in the hand, once", file=sys.stderr, flush=True)
    hand, random = scene.hand, torch.Generator().manual_seed(0)
    sim = make_sim(scene, TRIED, SimConfig(), 1, "mujoco", "cpu")
    targets = bent(hand, random)
    start = dropped(scene, random)
    for _ in range(2):  # the second time from where the first has led
        put(sim, targets, start)
        run(sim, targets, STEPS)
        targets, start = as_they_are(sim, hand), sim.root_state[:, 1, :7].clone()
    put(sim, targets, start)
    run(sim, targets, STEPS)
    end = sim.root_state[:, 1, :7]
    moved = torch.linalg.vector_norm(end[:, :3] - start[:, :3], dim=-1)
    turned = 2 * torch.acos((end[:, 3:] * start[:, 3:]).sum(-1).abs().clamp(max=1.0))
    palm = sim.rigid_body_state[:, hand.palm_index, :7]
    middle = palm_surface(hand, palm)
    away = rotations.rotate_inverse(middle[:, 3:], end[:, :3] - middle[:, :3])
    near = (away[:, 1].abs() <= MOST_ASIDE) & (away[:, 2] >= WHERE[0]) & (away[:, 2] <= WHERE[1]) & (away[:, 0] > 0)
    stays = (moved <= MOST_MOVED) & (turned <= MOST_TURNED) & near & ~sim.nonfinite
    sim.close()
    if not stays.any():
        thing = scene.free[0]
        raise ValueError(
            f"env.object ({thing.shape}, {max(thing.extents):g} m, {thing.mass:g} kg): it lies still in the hand in none of "
            f"{TRIED} tries, allowed is one that does, such as a cube of 0.04 to 0.06 m"
        )
    return torch.cat((targets, start), 1)[stays].double().numpy()


def bent(hand: Hand, random: torch.Generator) -> Tensor:
    """Targets [TRIED, T] of hands whose fingers are bent alike, more or less; the base is at zero."""
    low, high = torch.tensor([hand.action_lower, hand.action_upper])
    share = torch.rand(TRIED, 1, generator=random) * (CURL[1] - CURL[0]) + CURL[0]
    share = share + JITTER * (2 * torch.rand(TRIED, hand.num_actions, generator=random) - 1)
    return (low + share.clamp(0, 1) * (high - low)) * torch.tensor([kind == "finger" for kind in hand.action_kinds])


def dropped(scene: Scene, random: torch.Generator) -> Tensor:
    """Poses [TRIED, 7] just above the palm, with any side down and at any turn about the vertical."""
    (thing,) = scene.free
    home, _ = poses_at_zero(scene, torch.device("cpu"))
    middle = palm_surface(scene.hand, home[:, :7]).expand(TRIED, 7)
    out = rotations.rotate(middle[:, 3:], torch.tensor([1.0, 0.0, 0.0]).expand(TRIED, 3))
    turn = torch.nn.functional.normalize(torch.randn(TRIED, 4, generator=random), dim=1)
    local = rotations.rotate_inverse(turn, out)
    nearest = torch.nn.functional.one_hot(local.abs().argmax(1), 3) * local.sign()
    axis = rotations.rotate(turn, nearest)  # of the object, and nearly out of the palm
    level = torch.cat((torch.linalg.cross(axis, out), 1 + (axis * out).sum(1, keepdim=True)), 1)
    turn = rotations.multiply(torch.nn.functional.normalize(level, dim=1), turn)
    aside = ASIDE * (2 * torch.rand(TRIED, 3, generator=random) - 1)
    aside[:, 2] = FORWARD[0] + (FORWARD[1] - FORWARD[0]) * torch.rand(TRIED, generator=random)
    aside[:, 0] = (nearest.abs() * torch.tensor(thing.extents)).sum(1) / 2 + ABOVE
    return torch.cat((middle[:, :3] + rotations.rotate(middle[:, 3:], aside), turn), 1)


def put(sim: Simulator, targets: Tensor, pose: Tensor) -> None:
    """Hands at their targets and objects at these poses, all at rest."""
    sim.dof_state.zero_()
    sim.dof_state[..., 0] = targets @ coupling(sim.scene.hand).T
    sim.root_state[:, 1] = torch.nn.functional.pad(pose, (0, 6))
    sim.write_state(torch.ones(sim.num_envs, dtype=torch.bool))


def run(sim: Simulator, targets: Tensor, steps: int) -> None:
    dof_targets = targets @ coupling(sim.scene.hand).T
    for _ in range(steps):
        sim.step(dof_targets)


def as_they_are(sim: Simulator, hand: Hand) -> Tensor:
    """The targets [N, T] at which the joints already are, as near as their coupling allows."""
    matrix = coupling(hand)
    found = sim.dof_state[..., 0] @ torch.linalg.pinv(matrix).T
    low, high = torch.tensor([hand.action_lower, hand.action_upper])
    return found.clamp(low, high) * torch.tensor([kind == "finger" for kind in hand.action_kinds])


def coupling(hand: Hand) -> Tensor:
    """[D, T]: dofs from action targets."""
    return torch.tensor(hand.coupling, dtype=torch.float32)
