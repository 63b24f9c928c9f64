"""From what a body reports to what the policy sees.

A body reports a dict of arrays, of which each observation takes some:

| reading            | shape  | content                                                                           |
|--------------------|--------|-----------------------------------------------------------------------------------|
| `base`             | [B]    | displacement of the base, m and rad                                               |
| `base_velocity`    | [B]    |                                                                                   |
| `angles`           | [A]    | one joint per finger action, rad: contract.said["hand"]["active_joints"]          |
| `angle_velocities` | [A]    |                                                                                   |
| `forces_pad`       | [F, 3] | on each fingertip in its pad's frame, N: into the skin, to the tip, to the right  |
| `forces_world`     | [F, 3] | on each fingertip in world axes, N                                                |
| `pads_world`       | [F, 3] | positions of the pads in the world, m                                             |

A reading of the same name as an observation is taken as it is. What a real hand reports is `angles` and `forces_pad`;
`base` is its arm's.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional

import numpy as np

from .contract import Contract
from .kinematics import Kinematics

Array = Any
Readings = Dict[str, Any]


class Observer:
    """Builds observations, and remembers what that takes: targets, the last action, how long each finger has touched."""

    def __init__(self, contract: Contract):
        """Raises ValueError, one line, for an observation that neither this package nor a reading knows."""
        self.contract = contract
        self.kinematics = Kinematics(contract)
        self.reset()

    def reset(self) -> None:
        """An episode begins."""
        fingers = len(self.contract.said["hand"]["fingers"])
        self.last_action = np.zeros(int(self.contract.controlled.sum()), np.float32)
        self.touched = np.zeros(fingers, np.float32)
        self.rows: List[Array] = []
        self._pads: Optional[Array] = None

    def __call__(self, readings: Readings, targets: Array, elapsed: float) -> Array:
        """The observation [O], `elapsed` seconds after the last one (0 where an episode begins). `targets` are the action
        targets in force [T]. Raises ValueError, one line, for a reading that is missing or of another size."""
        c = self.contract
        self.readings, self.targets, self._pads = readings, np.asarray(targets, np.float32), None
        if "contact_duration" in c.observations and "contact_duration" not in readings:
            self.touched = np.where(self._of("contact_binary") > 0, self.touched + np.float32(elapsed), 0.0)
        parts = []
        for name, width in zip(c.observations, c.widths):
            part = np.asarray(self._of(name), np.float32).reshape(-1)
            if part.shape != (width,):
                raise ValueError(f"observation {name!r}: {part.size} numbers, allowed are {width}")
            parts.append(part)
        newest = np.concatenate(parts)
        most = max(c.history, default=0) + 1
        self.rows = ([newest] * most if not self.rows else [newest, *self.rows])[:most]
        return np.concatenate([newest, *(self.rows[steps] for steps in c.history)])

    def acted(self, action: Array) -> None:
        """Remembers the action [A] that was taken."""
        self.last_action = np.clip(np.asarray(action, np.float32), -1.0, 1.0)

    def _of(self, name: str) -> Array:
        if name in self.readings:
            return self.readings[name]
        if name not in OBSERVED:
            raise ValueError(f"observation {name!r}: allowed is a reading of this name, for it cannot be computed")
        return OBSERVED[name](self)

    @property
    def pads(self) -> Array:
        """Positions of the pads in the palm's frame [F, 3], m, computed once for an observation."""
        if self._pads is None:
            self._pads = self.kinematics.pads(self.reading("angles"))
        return self._pads

    def reading(self, name: str) -> Array:
        """A reading by its name. Raises ValueError, one line, if the body has not reported it."""
        if name not in self.readings:
            raise ValueError(
                f"reading {name!r} is missing: the body reports {', '.join(self.readings)}. A policy for a real hand learns "
                "with --task.observe hardware (in the hand: touch)"
            )
        values = np.asarray(self.readings[name], np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"reading {name!r} is not finite")
        return values


def pair_distances(points: Array) -> Array:
    """Between points [F, 3]: 1-2, 1-3, 1-4, 1-5, 2-3, ... 4-5."""
    first, second = np.triu_indices(len(points), 1)
    return np.linalg.norm(points[first] - points[second], axis=1)


def direction(o: Observer) -> Array:
    """Cosine and sine of the tangential force's direction [F, 2]; 0 where it is less than the touch threshold."""
    along = o.reading("forces_pad")[:, 1:]
    size = np.linalg.norm(along, axis=1, keepdims=True)
    felt = size > max(o.contract.touch, 1e-6)
    return np.where(felt, along / np.maximum(size, 1e-6), 0.0)


OBSERVED: Dict[str, Callable[[Observer], Array]] = {
    "base_dof_pos": lambda o: o.reading("base"),
    "base_dof_vel": lambda o: o.reading("base_velocity"),
    "base_dof_target": lambda o: o.targets[: o.contract.base],
    "active_finger_dof_pos": lambda o: o.reading("angles"),
    "active_finger_dof_vel": lambda o: o.reading("angle_velocities"),
    "active_finger_dof_target": lambda o: o.targets[o.contract.base :],
    "last_actions": lambda o: o.last_action,
    "prev_actions": lambda o: o.last_action,  # its older name
    "contact_forces": lambda o: o.reading("forces_world"),
    "contact_force_magnitude": lambda o: np.linalg.norm(o.reading("forces_world"), axis=1),
    "contact_binary": lambda o: (o._of("contact_force_magnitude") > o.contract.touch).astype(np.float32),
    "contact_duration": lambda o: o.touched,
    "first_three_fingerpad_centroid": lambda o: o.reading("pads_world")[:3].mean(0),
    "fingerpad_distances": lambda o: pair_distances(o.reading("pads_world")),
    "fingertip_normal_force": lambda o: np.maximum(o.reading("forces_pad")[:, 0], 0.0),
    "fingertip_tangential_force": lambda o: np.linalg.norm(o.reading("forces_pad")[:, 1:], axis=1),
    "fingertip_tangential_direction": direction,
    "fingertip_contact": lambda o: (o.reading("forces_pad")[:, 0] > o.contract.touch).astype(np.float32),
    "reported_pads": lambda o: o.pads,
    "reported_pad_distances": lambda o: pair_distances(o.pads),
}
"""Observation -> what it is computed from."""
