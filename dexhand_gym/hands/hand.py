"""A hand as a value: an MJCF and a small table. Everything else is derived from the two, without a simulator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Dict, Iterable, List, Mapping, NamedTuple, Tuple, Union

from dexhand_gym.fields import check_name, shortened
from dexhand_gym.hands.mjcf import Link, multiply, numbers, read_drives, read_links

Rows = Union[slice, Tuple[int, ...]]
"""Indices of a tensor's rows; a slice if they are evenly spaced."""


class Finger(NamedTuple):
    """A finger: its name and the names of its bodies."""

    name: str
    tip: str
    """The body at the fingertip."""
    pad: str
    """The body where the finger touches."""
    contact: str
    """The body whose contact forces count as the finger's."""
    normal: Tuple[float, float, float] = (0.0, 1.0, 0.0)
    """Direction out of the skin, in the pad's frame."""
    forward: Tuple[float, float, float] = (1.0, 0.0, 0.0)
    """Direction along the skin towards the tip, in the pad's frame."""

    def check(self) -> None:
        """Raises ValueError, one line, unless `normal` and `forward` are directions at a right angle."""
        for name in ("normal", "forward"):
            axis = getattr(self, name)
            fits = isinstance(axis, tuple) and len(axis) == 3 and all(map(is_number, axis))
            if not fits or abs(math.hypot(*axis) - 1) > 1e-3:
                raise ValueError(
                    f"finger {self.name!r}: {name} = {axis!r}: allowed are three numbers, a vector of length 1"
                )
        if abs(sum(a * b for a, b in zip(self.normal, self.forward))) > 1e-3:
            raise ValueError(
                f"finger {self.name!r}: forward = {self.forward}: allowed is one at a right angle to normal = {self.normal}"
            )


@dataclass(frozen=True, eq=False)
class Hand:
    """| given          | what it is                                                                                     |
    |----------------|------------------------------------------------------------------------------------------------|
    | `file`         | MJCF in radians (`<compiler angle="radian"/>`): bodies, joints with their limits, a `position` |
    |                | drive for each joint                                                                           |
    | `root`         | body that stands in the world; the scene says how high                                         |
    | `palm`         | body: x out of the palm, y towards the index finger of a right hand, z along the fingers       |
    | `fingers`      | two at least, the thumb first                                                                  |
    | `actions`      | finger action -> {joint: scale > 0}: joint target = scale * action target                      |
    | `base`         | joints that move the whole hand, slides before hinges; a target is a displacement, m or rad    |
    | `pre_grasp`    | action targets of the open hand around a 5 cm cube at the world's origin; else it starts with  |
    |                | its base at zero and its fingers straight                                                      |
    | `palm_point`   | where something can lie on the palm: a point of its skin, in the palm's frame, m               |
    | `mirror_image` | name of the hand that is this one's mirror image in the palm's x-z plane, if there is one      |

    The base's joints come first in the file. Dofs and bodies stand in the file's order, depth first; action targets in
    the order of `base` and then `actions`. Quaternions are x y z w.
    """

    file: Path
    root: str
    palm: str
    fingers: Tuple[Finger, ...]
    actions: Mapping[str, Mapping[str, float]]
    base: Tuple[str, ...] = ()
    pre_grasp: Tuple[float, ...] = ()
    palm_point: Tuple[float, float, float] = (0.0, 0.0, 0.0)
    mirror_image: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.file, str):
            object.__setattr__(self, "file", Path(self.file))

    def check(self) -> None:
        """Raises ValueError or OSError, one line, if file and table do not fit each other."""
        self.check_types()
        for name in (self.root, self.palm, *(body for finger in self.fingers for body in finger[1:4])):
            check_name("body", name, self.body_names)
        for finger in self.fingers:
            finger.check()
        if self.root != self.body_names[0]:
            raise ValueError(f"root = {self.root!r}: allowed is the first body of the file, {self.body_names[0]!r}")
        if len(self.fingers) < 2:
            raise ValueError(f"it has {len(self.fingers)} fingers: allowed are a thumb and one more at least")
        if self.dof_names[: len(self.base)] != tuple(self.base):
            raise ValueError(f"base = {self.base}: allowed are the first joints of the file, {self.dof_names[:6]}")
        kinds = [self.joints[name].get("type", "hinge") for name in self.base]
        if kinds != sorted(kinds, reverse=True):
            raise ValueError(f"base = {self.base}: allowed are slides first, then hinges")
        driven = [dof for dofs in self.all_actions.values() for dof in dofs]
        for dof in driven:
            check_name("joint of an action", dof, self.dof_names)
            if driven.count(dof) > 1:
                raise ValueError(f"joint {dof} has two actions: allowed is one")
        for action, dofs in self.actions.items():
            if not dofs or min(dofs.values()) <= 0:
                raise ValueError(f"action {action} = {dict(dofs)}: allowed are joints with scales above 0")
        if tuple(self.drives) != self.dof_names:
            raise ValueError(
                f"position drives of {', '.join(self.drives)}: allowed is one for each joint, in their order"
            )
        for dof in self.dof_names:
            self.check_range(dof)
        names = [finger.name for finger in self.fingers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"finger {name!r} is there twice: allowed is a name of its own for each")
        if self.pre_grasp and len(self.pre_grasp) != self.num_actions:
            raise ValueError(f"pre_grasp has {len(self.pre_grasp)} numbers: allowed are {self.num_actions}")
        for name, target, low, high in zip(self.action_names, self.pre_grasp, self.action_lower, self.action_upper):
            if not low - 1e-6 <= target <= high + 1e-6:
                raise ValueError(f"pre_grasp has {target} for {name}: allowed is {low:g} to {high:g}")

    def check_range(self, dof: str) -> None:
        """Raises ValueError, one line, unless a joint has limits, the lower one first."""
        text = self.joints[dof].get("range")
        if text is None:
            raise ValueError(f"joint {dof} has no range")
        try:
            low, high = numbers(text)
        except ValueError:
            low = high = math.nan
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"joint {dof}: range = {text!r}, allowed are two numbers, the lower one first")

    def check_types(self) -> None:
        """Raises ValueError, one line, if the table holds values of wrong types."""
        if not isinstance(self.file, Path):
            raise ValueError(f"file = {self.file!r}: allowed is a path")
        if not isinstance(self.fingers, tuple) or not all(isinstance(finger, Finger) for finger in self.fingers):
            raise ValueError(f"fingers = {shortened(repr(self.fingers))}: allowed is a tuple of Finger")
        tables = [self.actions, *(self.actions.values() if isinstance(self.actions, dict) else ())]
        scales = [scale for table in tables[1:] if isinstance(table, dict) for scale in table.values()]
        if not all(isinstance(table, dict) for table in tables) or not all(map(is_number, scales)) or not scales:
            raise ValueError(
                f"actions = {shortened(repr(self.actions))}: allowed is action -> {{joint: scale}}, a dict of them"
            )
        if not isinstance(self.mirror_image, str):
            raise ValueError(f"mirror_image = {self.mirror_image!r}: allowed is the name of a hand")
        for name in ("base", "pre_grasp", "palm_point"):
            if not isinstance(getattr(self, name), tuple):
                raise ValueError(f"{name} = {getattr(self, name)!r}: allowed is a tuple")
        for name in ("pre_grasp", "palm_point"):
            if not all(map(is_number, getattr(self, name))):
                raise ValueError(f"{name} = {getattr(self, name)}: allowed are numbers")
        if len(self.palm_point) != 3:
            raise ValueError(f"palm_point = {self.palm_point}: allowed are three numbers, m")

    # From the file ----------------------------------------------------------------------------------------------------

    @cached_property
    def links(self) -> List[Link]:
        """Its bodies."""
        return read_links(self.file)

    @cached_property
    def body_names(self) -> Tuple[str, ...]:
        """The bodies' names."""
        return tuple(link.name for link in self.links)

    @cached_property
    def joints(self) -> Dict[str, Dict[str, str]]:
        """Name -> attributes, in the order of the dofs."""
        return {link.joint["name"]: link.joint for link in self.links if link.joint}

    @cached_property
    def dof_names(self) -> Tuple[str, ...]:
        """The joints' names."""
        return tuple(self.joints)

    @cached_property
    def dof_lower(self) -> Tuple[float, ...]:
        """Lower limit of each dof, m or rad."""
        return tuple(numbers(joint["range"])[0] for joint in self.joints.values())

    @cached_property
    def dof_upper(self) -> Tuple[float, ...]:
        """Upper limit of each dof."""
        return tuple(numbers(joint["range"])[1] for joint in self.joints.values())

    @cached_property
    def drives(self) -> Dict[str, Dict[str, float]]:
        """Dof -> stiffness (N/m, Nm/rad), damping (N s/m, Nm s/rad) and effort (N, Nm)."""
        return read_drives(self.file)

    @cached_property
    def palm_mount(self) -> Tuple[float, ...]:
        """The palm's orientation in the world where all dofs are zero."""
        quat, i = (1.0, 0.0, 0.0, 0.0), self.body_names.index(self.palm)
        while i >= 0:
            quat, i = multiply(self.links[i].quat, quat), self.links[i].parent
        return (*quat[1:], quat[0])

    # Sizes and indices ------------------------------------------------------------------------------------------------

    @cached_property
    def num_base(self) -> int:
        """Number of actions of the base, and of its dofs."""
        return len(self.base)

    @cached_property
    def num_slides(self) -> int:
        """Number of the base's dofs that translate; they come first."""
        return sum(self.joints[name].get("type") == "slide" for name in self.base)

    @cached_property
    def num_actions(self) -> int:
        """Number of actions of base and fingers."""
        return len(self.all_actions)

    @cached_property
    def action_kinds(self) -> Tuple[str, ...]:
        """What each action moves: "slide" or "turn" of the base, or "finger"."""
        turns = self.num_base - self.num_slides
        return ("slide",) * self.num_slides + ("turn",) * turns + ("finger",) * len(self.actions)

    @cached_property
    def finger_dofs(self) -> Tuple[bool, ...]:
        """Whether each dof is a finger's."""
        return tuple(i >= self.num_base for i in range(len(self.dof_names)))

    @cached_property
    def lift(self) -> int:
        """The base's action that raises the hand, -1 if there is none."""
        vertical = [i for i, name in enumerate(self.base) if self.slides_along(name, (0.0, 0.0, 1.0))]
        return vertical[0] if vertical else -1

    def slides_along(self, dof: str, axis: Tuple[float, ...]) -> bool:
        """Whether a joint is a slide along this axis of its body."""
        joint = self.joints[dof]
        return joint.get("type") == "slide" and numbers(joint.get("axis", "0 0 1")) == axis

    @cached_property
    def palm_index(self) -> int:
        """Index of the palm among the bodies."""
        return self.body_names.index(self.palm)

    @cached_property
    def tips(self) -> Rows:
        """Indices of the bodies at the fingers' ends."""
        return self.rows(finger.tip for finger in self.fingers)

    @cached_property
    def pads(self) -> Rows:
        """Indices of the bodies where the fingers touch."""
        return self.rows(finger.pad for finger in self.fingers)

    @cached_property
    def contacts(self) -> Rows:
        """Indices of the bodies whose contact forces count as the fingers'."""
        return self.rows(finger.contact for finger in self.fingers)

    def rows(self, bodies: Iterable[str]) -> Rows:
        """Indices of these bodies."""
        return evenly([self.body_names.index(name) for name in bodies])

    @cached_property
    def active_dofs(self) -> Rows:
        """Indices of one finger dof per finger action: the first that it drives with scale 1, else the first that it
        drives."""
        chosen = [  # the least by sorting: torch.compile, which may come here, warns of min(key=...)
            sorted(dofs, key=lambda dof: (dofs[dof] != 1.0, self.dof_names.index(dof)))[0]
            for dofs in self.actions.values()
        ]
        return evenly([self.dof_names.index(dof) - self.num_base for dof in chosen])

    # Actions ----------------------------------------------------------------------------------------------------------

    @cached_property
    def all_actions(self) -> Dict[str, Mapping[str, float]]:
        """The actions of base and fingers: name -> {joint: scale}."""
        return {**{name: {name: 1.0} for name in self.base}, **self.actions}

    @cached_property
    def action_names(self) -> Tuple[str, ...]:
        """The columns of action targets."""
        return tuple(self.all_actions)

    @cached_property
    def coupling(self) -> Tuple[Tuple[float, ...], ...]:
        """[dofs, actions]: dof targets = coupling @ action targets."""
        return tuple(tuple(dofs.get(dof, 0.0) for dofs in self.all_actions.values()) for dof in self.dof_names)

    @cached_property
    def action_lower(self) -> Tuple[float, ...]:
        """The lowest action targets that keep every coupled dof inside its limits."""
        lower = dict(zip(self.dof_names, self.dof_lower))
        return tuple(max(lower[dof] / scale for dof, scale in dofs.items()) for dofs in self.all_actions.values())

    @cached_property
    def action_upper(self) -> Tuple[float, ...]:
        """The highest action targets that keep every coupled dof inside its limits."""
        upper = dict(zip(self.dof_names, self.dof_upper))
        return tuple(min(upper[dof] / scale for dof, scale in dofs.items()) for dofs in self.all_actions.values())


def is_number(x: object) -> bool:
    """Whether `x` is a finite number."""
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)


def evenly(indices: List[int]) -> Rows:
    """[2, 4, 6] -> slice(2, 7, 2)"""
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    if step > 0 and indices == list(range(indices[0], indices[-1] + 1, step)):
        return slice(indices[0], indices[-1] + 1, step)
    return tuple(indices)
