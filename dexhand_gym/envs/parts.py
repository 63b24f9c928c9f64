"""Quantities of each hand among several (hands/pair.py), by names such as left.tips."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, Dict

from torch import Tensor

from dexhand_gym import rotations
from dexhand_gym.envs.hardware import HARDWARE_QUANTITIES
from dexhand_gym.envs.quantities import HAND_QUANTITIES, Measured, Quantity
from dexhand_gym.hands.hand import Hand
from dexhand_gym.hands.pair import Part, parts_of
from dexhand_gym.hands.placing import constant

COLUMNS = {
    **dict.fromkeys(("dof_pos", "dof_vel", "dof_targets"), "dofs"),
    **dict.fromkeys(("targets", "rule_targets", "start_hand"), "actions"),
    **dict.fromkeys(("bodies", "body_forces"), "bodies"),
    "contact_duration": "fingers",
}
"""Raw quantity, or timer -> which of a part's columns it has."""
OF_ONE: Dict[str, Quantity] = {**HAND_QUANTITIES, **HARDWARE_QUANTITIES}


def of_parts(hand: Hand, cfg: Any) -> Dict[str, Quantity]:
    """The quantities of every part; none where the hand is one."""
    parts = parts_of(hand)
    found: Dict[str, Quantity] = {}
    for part in parts:
        of_part = SimpleNamespace(
            hand=part.hand,
            task=cfg.task,
            env=cfg.env,
            sim=cfg.sim,
            control_dt=cfg.control_dt,
            part=part,
            first=next(iter(parts)),
        )
        found.update({f"{part.name}.{name}": partial(computed, name, of_part) for name in OF_ONE})
        found.update({f"{part.name}.{name}": partial(sliced, name, part) for name in COLUMNS})
    return found


def sliced(name: str, part: Part, m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """A part's columns of a raw quantity."""
    return m[name][:, getattr(part, COLUMNS[name])]


def computed(name: str, of_part: Any, m: Dict[str, Tensor], cfg: Any) -> Tensor:
    """A quantity as a hand alone has it, of a part's raw quantities."""
    part: Part = of_part.part
    raw = {key: m[key][:, getattr(part, rows)] for key, rows in COLUMNS.items() if key in m}
    raw.update({key: m[key][part.dofs] for key in ("dof_lower", "dof_upper")})
    mount = m["palm_mount"]
    turn = rotations.multiply(mount, rotations.conjugate(constant(of_part.first.palm_mount, mount)))
    raw["palm_mount"] = rotations.multiply(turn, constant(part.palm_mount, mount))
    raw["episode_step"] = m["episode_step"]
    return Measured(raw, OF_ONE, of_part)[name]
