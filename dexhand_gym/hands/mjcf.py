"""Reads a hand's MJCF without MuJoCo: as a list of its links, and as a file that is plain enough for other
importers."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

Attributes = Dict[str, str]
_INERTIAL = {"mass": "0.0001", "pos": "0 0 0", "diaginertia": "1e-07 1e-07 1e-07"}
"""Given to bodies without mass, which MuJoCo allows and PhysX does not."""
_KEPT = {
    "inertial": ("mass", "pos", "quat", "diaginertia"),
    "joint": ("name", "type", "axis", "range", "armature"),
    "geom": ("type", "size", "fromto", "pos", "quat", "contype", "conaffinity", "friction", "mass"),
}


class Link(NamedTuple):
    """A body and how it is attached to its parent. Attributes are MJCF's, with defaults filled in."""

    name: str
    parent: int
    """Index of its parent in the list, -1: the world."""
    pos: Tuple[float, ...]
    quat: Tuple[float, ...]
    """w x y z, unit length."""
    joint: Attributes
    """Empty: fixed to its parent."""
    inertial: Attributes
    """Empty: without mass."""
    geoms: List[Attributes]
    """Its colliding geoms."""


def read_links(file: Path) -> List[Link]:
    """The links in file order, depth first. Raises ValueError or OSError, one line, if the file cannot be used."""
    root = read_tree(file)
    compiler = root.find("compiler")
    if compiler is None or compiler.get("angle") != "radian":
        raise ValueError(f'{file.name}: allowed is <compiler angle="radian"/>')
    classes = _read_classes(root)
    links: List[Link] = []

    def walk(element: ElementTree.Element, parent: int, childclass: str) -> None:
        for body in element.findall("body"):
            inherited = body.get("childclass", childclass)

            def find(tag: str, body: ElementTree.Element = body, inherited: str = inherited) -> List[Attributes]:
                found = body.findall(tag)
                return [{**classes[item.get("class", inherited)].get(tag, {}), **item.attrib} for item in found]

            joint, inertial = (find(tag) + [{}] for tag in ("joint", "inertial"))
            refuse(
                file, body, len(joint) > 2 or body.find("freejoint") is not None, "one joint that is a slide or a hinge"
            )
            refuse(file, body, joint[0].get("type", "hinge") not in ("slide", "hinge"), "a slide or a hinge")
            refuse(file, body, any(numbers(joint[0].get("pos", "0"))), "a joint at its origin")
            refuse(file, body, {"euler", "axisangle", "xyaxes", "zaxis"} & {*body.keys()}, "its orientation as quat")
            refuse(
                file, body, not body.get("name") or (joint[0] and "name" not in joint[0]), "names for body and joint"
            )
            geoms = [geom for geom in find("geom") if geom.get("contype") != "0" or geom.get("conaffinity") != "0"]
            pos, quat = numbers(body.get("pos", "0 0 0")), numbers(body.get("quat", "1 0 0 0"))
            whole = (len(pos), len(quat)) == (3, 4) and any(quat) and all(map(math.isfinite, (*pos, *quat)))
            refuse(file, body, not whole, "pos of three numbers and quat of four that are not all zero")
            length = sum(x * x for x in quat) ** 0.5
            quat = tuple(x / length for x in quat)
            links.append(Link(body.get("name", ""), parent, pos, quat, joint[0], inertial[0], geoms))
            walk(body, len(links) - 1, inherited)

    for worldbody in root.findall("worldbody"):
        walk(worldbody, -1, "")
    return links


def refuse(file: Path, body: ElementTree.Element, wrong: object, allowed: str) -> None:
    """Raises ValueError, one line, if something is `wrong`."""
    if wrong:
        raise ValueError(f"{file.name}: body {body.get('name', '')!r}: allowed is {allowed}")


def read_drives(file: Path) -> Dict[str, Dict[str, float]]:
    """Joint -> stiffness, damping and effort of the `position` actuator that drives it."""
    root = read_tree(file)
    classes, drives = _read_classes(root), {}
    for item in root.findall("actuator/position"):
        drive = {**classes[item.get("class", "")].get("position", {}), **item.attrib}
        effort = numbers(drive.get("forcerange", "0 inf"))[1]
        stiffness, damping = float(drive.get("kp", 1)), float(drive.get("kv", 0))
        drives[drive.get("joint", "")] = {"stiffness": stiffness, "damping": damping, "effort": effort}
    return drives


def read_tree(file: Path) -> ElementTree.Element:
    """The root element. Raises ValueError or OSError, one line, unless the file is an MJCF without includes."""
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{file.name}: not XML, {error}") from None
    if root.tag != "mujoco" or root.find(".//include") is not None:
        raise ValueError(f"{file.name}: allowed is an MJCF, whole in one file")
    return root


def _read_classes(root: ElementTree.Element) -> Dict[str, Dict[str, Attributes]]:
    """Class -> tag -> defaults; "" is no class."""
    classes: Dict[str, Dict[str, Attributes]] = {"": {}}
    for default in root.findall("default"):
        _read_default(default, "", classes)
    return classes


def _read_default(element: ElementTree.Element, parent: str, classes: Dict[str, Dict[str, Attributes]]) -> None:
    name = element.get("class", "")
    mine = classes[name] = {tag: dict(attributes) for tag, attributes in classes[parent].items()}
    for item in element:
        if item.tag != "default":
            mine[item.tag] = {**mine.get(item.tag, {}), **item.attrib}
    for item in element.findall("default"):
        _read_default(item, name, classes)


def multiply(a: Tuple[float, ...], b: Tuple[float, ...]) -> Tuple[float, ...]:
    """Product of quaternions w x y z: first the rotation b, then a."""
    (aw, ax, ay, az), (bw, bx, by, bz) = a, b
    return (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )


def numbers(text: str) -> Tuple[float, ...]:
    """ "1 0.5" -> (1.0, 0.5)"""
    return tuple(float(word) for word in text.split())


def write_plain_mjcf(links: List[Link], file: Path) -> None:
    """Writes the hand's bodies, masses, joints and colliding shapes, with every attribute where it is used. Leaves out
    what Isaac Gym's importer drops or misreads: classes, drives, sites, cameras, implicit limits."""
    root = ElementTree.Element("mujoco", model="hand")
    ElementTree.SubElement(root, "compiler", angle="radian", coordinate="local")
    elements = [ElementTree.SubElement(root, "worldbody")]  # by index + 1
    for link in links:
        pos, quat = (" ".join(f"{x:.9g}" for x in values) for values in (link.pos, link.quat))
        body = ElementTree.SubElement(elements[link.parent + 1], "body", name=link.name, pos=pos, quat=quat)
        elements.append(body)
        _add(body, "inertial", link.inertial or _INERTIAL)
        if link.joint:
            _add(body, "joint", {"type": "hinge", **link.joint}).set("limited", "true")
        for geom in link.geoms:
            if geom.get("type") == "mesh":
                raise ValueError(f"body {link.name!r} collides as a mesh: with Isaac Gym allowed are primitives")
            _add(body, "geom", geom)
    file.write_bytes(ElementTree.tostring(root))


def _add(body: ElementTree.Element, tag: str, attributes: Attributes) -> ElementTree.Element:
    kept = {name: attributes[name] for name in _KEPT[tag] if name in attributes}
    return ElementTree.SubElement(body, tag, kept)
