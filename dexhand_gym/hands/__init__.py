"""Hands as values, and the names under which `env.hand` finds them. Loads neither torch nor an engine."""

from __future__ import annotations

import importlib
import re
from typing import Dict

from dexhand_gym.fields import shortened, unknown_name
from dexhand_gym.hands.hand import Finger, Hand

__all__ = ["Finger", "Hand", "find_hand", "hands", "register_hand"]

_ENTRIES: Dict[str, str] = {
    "right": "dexhand_gym.hands.dexhand021:DEXHAND021_RIGHT",
    "left": "dexhand_gym.hands.dexhand021:DEXHAND021_LEFT",
    "both": "dexhand_gym.hands.both:BOTH",
}
_FOUND: Dict[str, Hand] = {}


def register_hand(name: str, hand: str) -> None:
    """Registers your hand: register_hand("gripper", "my_package.gripper:GRIPPER").

    Then gymnasium.make_vec(id, hand="gripper") and `--env.hand gripper` accept it. An installed package can register it
    by an entry point in the group "dexhand_gym.hands" that has this name. `hand` names a Hand; it is imported when
    first used. Raises ValueError, one line, if `hand` is not of this form or `name` is that of another hand.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
        raise ValueError(f"hand {shortened(repr(name))}: allowed is a name of letters, digits and _")
    if not isinstance(hand, str) or not re.fullmatch(r"[\w.]+:\w+", hand):
        raise ValueError(f"hand '{name}': {shortened(repr(hand))}, allowed is the text package.module:HAND")
    if _ENTRIES.setdefault(name, hand) != hand:
        raise ValueError(f"hand '{name}' is there already, {_ENTRIES[name]}: allowed is another name")


def hands() -> Dict[str, str]:
    """Name -> "module:HAND" of every registered hand."""
    return dict(_ENTRIES)


def find_hand(name: str) -> Hand:
    """A hand by its name, or by "module:HAND". Raises ValueError, one line, with the nearest name if it is unknown, or
    with what is wrong with the hand."""
    if name not in _FOUND:
        _FOUND[name] = _load(name)
    return _FOUND[name]


def _load(name: str) -> Hand:
    if ":" not in name and name not in _ENTRIES:
        hint = "one of your own is found by --import of the module that registers it, or as module:HAND"
        raise ValueError(f"{unknown_name('env.hand', name, _ENTRIES)} ({hint})")
    module, _, attribute = _ENTRIES.get(name, name).partition(":")
    try:
        hand = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"env.hand = '{name}': {error}") from None
    if not isinstance(hand, Hand):
        raise ValueError(f"env.hand = '{name}' is {shortened(repr(hand))}: allowed is a dexhand_gym.hands.Hand")
    try:
        hand.check()
    except (ValueError, OSError) as error:
        raise ValueError(f"env.hand = '{name}': {error}") from None
    return hand
