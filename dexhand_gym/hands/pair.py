"""Several hands as one: a Hand whose file holds them side by side, and whose parts keep their names.

    BOTH = side_by_side(left=Placed(DEXHAND021_LEFT, (0.0, 0.2, 0.0)), right=Placed(DEXHAND021_RIGHT, (0.0, -0.2, 0.0)))

Names of bodies, joints, fingers and actions begin with the part's: `left.ARTx`. It has no base of its own: the bases of
its parts are actions like others, and keep the speeds of bases. Quantities of a part are `left.tips`, `right.hand_pose`
and so on: all that quantities.py and hardware.py have of a hand.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

from dexhand_gym.caches import in_cache
from dexhand_gym.fields import shortened
from dexhand_gym.hands.hand import Finger, Hand
from dexhand_gym.hands.mjcf import multiply, read_tree

ROOT = "hands"
"""The body that carries all."""
NAMES = [
    "name",
    "class",
    "childclass",
    "material",
    "mesh",
    "texture",
    "hfield",
    "joint",
    "site",
    "body",
    "body1",
    "body2",
    "geom1",
    "geom2",
    "target",
    "tendon",
]
"""Attributes that hold names."""


class Placed(NamedTuple):
    """A hand and where its root stands in the frame of all."""

    hand: Hand
    position: Tuple[float, float, float] = (0.0, 0.0, 0.0)
    """m."""
    quat: Tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)
    """x y z w, of any length but 0."""

    def checked(self, name: str) -> Placed:
        """The same in plain numbers, `quat` of length 1. Raises ValueError or OSError, one line, for what does not
        fit."""
        if not isinstance(self.hand, Hand) or isinstance(self.hand, Hands):
            raise ValueError(
                f"{name}: hand = {shortened(repr(self.hand))}: allowed is one hand, a dexhand_gym.hands.Hand"
            )
        self.hand.check()
        found = {}
        for field, count in (("position", 3), ("quat", 4)):
            value = getattr(self, field)
            try:
                found[field] = tuple(float(x) for x in value)
            except (TypeError, ValueError):
                found[field] = ()
            if len(found[field]) != count or not all(map(math.isfinite, found[field])):
                raise ValueError(f"{name}: {field} = {shortened(repr(value))}: allowed are {count} numbers")
        length = math.hypot(*found["quat"])
        if not length:
            raise ValueError(f"{name}: quat = {self.quat}: allowed is one that is not zero")
        return Placed(self.hand, found["position"], tuple(x / length for x in found["quat"]))


class Part(NamedTuple):
    """A hand among several, and which rows of theirs are its own."""

    name: str
    placed: Placed
    bodies: slice
    dofs: slice
    actions: slice
    fingers: slice

    @property
    def hand(self) -> Hand:
        """As it is alone."""
        return self.placed.hand

    @property
    def palm_mount(self) -> Tuple[float, ...]:
        """The palm's orientation in the frame of all where its dofs are zero, x y z w."""
        (x, y, z, w), (a, b, c, d) = self.placed.quat, self.hand.palm_mount
        turned = multiply((w, x, y, z), (d, a, b, c))
        return (*turned[1:], turned[0])


@dataclass(frozen=True, eq=False)
class Hands(Hand):
    """Several hands, made by side_by_side()."""

    placed: Tuple[Tuple[str, Placed], ...] = ()

    @cached_property
    def parts(self) -> Tuple[Part, ...]:
        """The hands in it."""
        parts: List[Part] = []
        bodies, dofs, actions, fingers = 1, 0, 0, 0  # the first body is the root
        for name, placed in self.placed:
            hand = placed.hand
            ends = bodies + len(hand.body_names), dofs + len(hand.dof_names), actions + hand.num_actions
            last = fingers + len(hand.fingers)
            rows = slice(bodies, ends[0]), slice(dofs, ends[1]), slice(actions, ends[2]), slice(fingers, last)
            parts.append(Part(name, placed, *rows))
            (bodies, dofs, actions), fingers = ends, last
        return tuple(parts)

    @cached_property
    def action_kinds(self) -> Tuple[str, ...]:
        """See Hand."""
        return tuple(kind for part in self.parts for kind in part.hand.action_kinds)

    @cached_property
    def finger_dofs(self) -> Tuple[bool, ...]:
        """See Hand."""
        return tuple(dof for part in self.parts for dof in part.hand.finger_dofs)


def parts_of(hand: Hand) -> Tuple[Part, ...]:
    """The hands that a hand consists of; none where it is one."""
    return hand.parts if isinstance(hand, Hands) else ()


def side_by_side(**placed: Placed) -> Hands:
    """Hands by their names, as one. Writes their common file into the cache folder. Raises ValueError or OSError, one
    line, for hands that do not fit."""
    for name, one in placed.items():
        if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name in ("hand", "world", ROOT):
            raise ValueError(
                f"hand {shortened(repr(name))}: allowed is a name of letters, digits and _ that is not taken"
            )
        if not isinstance(one, Placed):
            raise ValueError(f"{name} = {shortened(repr(one))}: allowed is Placed(hand, position, quat)")
    if len(placed) < 2:
        raise ValueError(f"hands = {list(placed)}: allowed are two or more")
    placed = {name: one.checked(name) for name, one in placed.items()}
    first = next(iter(placed))
    start = [x for one in placed.values() for x in one.hand.pre_grasp or (0.0,) * one.hand.num_actions]
    return Hands(
        file=written(placed),
        root=ROOT,
        palm=f"{first}.{placed[first].hand.palm}",
        fingers=tuple(renamed(name, finger) for name, one in placed.items() for finger in one.hand.fingers),
        actions={
            f"{name}.{action}": {f"{name}.{dof}": scale for dof, scale in dofs.items()}
            for name, one in placed.items()
            for action, dofs in one.hand.all_actions.items()
        },
        pre_grasp=tuple(start),
        placed=tuple(placed.items()),
    )


def renamed(part: str, finger: Finger) -> Finger:
    """A finger with the names of a part's."""
    names = {key: f"{part}.{getattr(finger, key)}" for key in ("name", "tip", "pad", "contact")}
    return finger._replace(**names)


def written(placed: Dict[str, Placed]) -> Path:
    """The file of all hands, in the cache folder."""
    root = ElementTree.Element("mujoco", model=ROOT)
    ElementTree.SubElement(root, "compiler", angle="radian", autolimits="true")
    defaults = ElementTree.SubElement(root, "default")
    carrier = ElementTree.Element("body", name=ROOT)
    ElementTree.SubElement(root, "worldbody").append(carrier)
    for name, one in placed.items():
        add(root, defaults, carrier, name, one)
    return in_cache("dexhand_gym/hands", ElementTree.tostring(root), "xml")


def add(
    root: ElementTree.Element, defaults: ElementTree.Element, carrier: ElementTree.Element, part: str, one: Placed
) -> None:
    """Adds a hand's file to that of all."""
    tree, folder = read_tree(one.hand.file), one.hand.file.parent.resolve()
    compiler = tree.find("compiler")
    folders = {} if compiler is None else {tag: compiler.get(f"{tag}dir", "") for tag in ("mesh", "texture")}
    for element in tree.iter():
        for key in set(NAMES) & set(element.keys()):
            element.set(key, f"{part}.{element.get(key)}")
        if element.get("file"):
            element.set("file", str(folder / folders.get(element.tag, "") / element.get("file", "")))
    mine = ElementTree.SubElement(defaults, "default", {"class": part})
    for default in tree.findall("default"):
        mine.extend(list(default))
    for body in [body for world in tree.findall("worldbody") for body in world.findall("body")]:
        x, y, z, w = one.quat
        body.set("pos", " ".join(map(repr, one.position)))
        body.set("quat", " ".join(map(repr, (w, x, y, z))))
        body.set("childclass", body.get("childclass", part))
        carrier.append(body)
    for section in tree:
        if section.tag in ("asset", "contact", "actuator"):
            for item in section if section.tag == "actuator" else ():
                item.set("class", item.get("class", part))
            root.append(section)
