"""The mirror image of a hand, in the x-z plane of its palm.

A mirrored frame is left-handed, so one of its axes is flipped: y for the base and the palm, z (the hinge axis) for the
fingers' links. Then the fingers' joints keep their signs and ranges, and the base's dofs along y and about x and z
change sign.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Dict, Tuple

from dexhand_gym.hands.hand import Hand
from dexhand_gym.hands.mjcf import multiply, numbers

Y, Z = 1, 2  # the axis that is flipped
VECTORS = ("pos", "axis", "fromto")


def mirrored_mjcf(hand: Hand, names: Dict[str, str]) -> bytes:
    """The hand's file, mirrored; `names`: beginnings of names, or words in comments -> their replacements. Raises
    ValueError for meshes."""
    tree = ElementTree.parse(hand.file, ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True)))
    root = tree.getroot()
    if root.find("asset/mesh") is not None:
        raise ValueError(f"{hand.file.name}: it has meshes, of which there is no mirror image: allowed are primitives")
    for top in root.findall("worldbody"):
        _mirror_bodies(top, Y, hand)
    for element in root.iter():
        for old, new in names.items() if element.tag is ElementTree.Comment else ():
            element.text = (element.text or "").replace(old, new)
        for key, value in element.items():
            for old, new in names.items():
                if value.startswith(old):
                    element.set(key, new + value[len(old) :])
    return ElementTree.tostring(root, encoding="utf-8") + b"\n"


def dof_signs(hand: Hand) -> Tuple[int, ...]:
    """-1 for each dof that changes sign in the mirror image, else 1. Raises ValueError for a joint of the base whose
    axis is neither in the palm's mirror plane nor perpendicular to it."""
    signs = []
    for name in hand.base:
        joint = hand.joints[name]
        axis = numbers(joint.get("axis", "0 0 1"))
        image = turned(axis, Y) if joint.get("type") == "slide" else tuple(-x for x in turned(axis, Y))
        if image not in (axis, tuple(-x for x in axis)):
            raise ValueError(f"joint {name}: axis = {axis}: allowed is one along x, y or z")
        signs.append(1 if image == axis else -1)
    return (*signs, *[1] * (len(hand.dof_names) - len(signs)))


def _mirror_bodies(parent: ElementTree.Element, outer: int, hand: Hand) -> None:
    """Mirrors the bodies below `parent`; `outer` is the axis that is flipped in the parent's frame."""
    for body in parent.findall("body"):
        finger = body.find(f".//body[@name='{hand.palm}']") is None and body.get("name") != hand.palm
        inner = Z if finger else Y
        _set(body, "pos", turned(numbers(body.get("pos", "0 0 0")), outer))
        quat = image_of_turn(numbers(body.get("quat", "1 0 0 0")), inner)
        _set(body, "quat", quat if inner == outer else multiply((0.0, 1.0, 0.0, 0.0), quat))
        for item in body:
            if item.tag in ("geom", "site", "inertial", "camera"):
                for key in VECTORS:
                    if key in item.keys():  # noqa: SIM118  (an element)
                        vectors = numbers(item.get(key, ""))
                        _set(item, key, (*turned(vectors[:3], inner), *turned(vectors[3:], inner)))
                if "quat" in item.keys():  # noqa: SIM118
                    _set(item, "quat", image_of_turn(numbers(item.get("quat", "")), inner))
            elif item.tag == "joint" and finger:
                joint = hand.joints[item.get("name", "")]
                axis = turned(numbers(joint.get("axis", "0 0 1")), Z)
                _set(item, "axis", axis if joint.get("type") == "slide" else tuple(-x for x in axis), "0 0 1")
        _mirror_bodies(body, inner, hand)


def _set(element: ElementTree.Element, key: str, values: Tuple[float, ...], default: str = "") -> None:
    """Sets an attribute, unless it has these values anyway."""
    if values != numbers(element.get(key, default or {"pos": "0 0 0", "quat": "1 0 0 0"}.get(key, ""))):
        element.set(key, " ".join(f"{x + 0.0:.10g}" for x in values))


def turned(vector: Tuple[float, ...], axis: int) -> Tuple[float, ...]:
    """The vector with the sign of one component changed."""
    return tuple(-x if i == axis else x for i, x in enumerate(vector))


def image_of_turn(quat: Tuple[float, ...], axis: int) -> Tuple[float, ...]:
    """A rotation w x y z, seen in a mirror across `axis`: about that axis it stays, about the others it is reversed."""
    return (quat[0], *(x if i == axis else -x for i, x in enumerate(quat[1:])))


LEFT_NAMES = {
    "r_f_": "l_f_",
    "right_hand": "left_hand",
    "dexhand021_right": "dexhand021_left",
    "DexHand021, right hand,": "DexHand021, left hand, made by `python -m dexhand_gym.hands.mirror`,",
}
"""Names of the right DexHand021 -> those of the left one."""

if __name__ == "__main__":
    from dexhand_gym.hands.dexhand021 import DEXHAND021_LEFT, DEXHAND021_RIGHT

    DEXHAND021_LEFT.file.write_bytes(mirrored_mjcf(DEXHAND021_RIGHT, LEFT_NAMES))
