"""What a policy sees and does, as its export says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Union

import numpy as np

FORMAT = "dexhand contract 1"


class Contract:
    """contract.json of an exported policy. `said` is all of it; the rest is what this package works with.

    | attribute        | content                                                                                  |
    |------------------|------------------------------------------------------------------------------------------|
    | `folder`         | where it was read from                                                                   |
    | `name`           | task, hand, checkpoint and iteration, as one text                                        |
    | `control_dt`     | seconds between two actions                                                              |
    | `observations`   | names, in order                                                                          |
    | `widths`         | how many numbers each has                                                                |
    | `history`        | how many control steps ago the observations behind the newest one are                    |
    | `targets`        | names of all action targets, in order: the base's, then the fingers'                     |
    | `lower`, `upper` | their limits [T], m or rad                                                               |
    | `max_change`     | by how much each may move in a control step [T]                                          |
    | `controlled`     | which of them the policy moves [T] bool                                                  |
    | `base`           | how many of them are the base's                                                          |
    | `mode`           | position_delta or position                                                               |
    | `start`          | targets at the start of an episode [T]: the middle of those it was trained from          |
    | `joints`         | names of all joints of the hand, in order                                                |
    | `coupling`       | joints from targets [D, T]                                                               |
    | `touch`          | from this force on a finger touches, N                                                   |
    """

    def __init__(self, folder: Union[str, Path]):
        """Raises ValueError, one line, if there is none or it is not whole."""
        self.folder = Path(folder)
        file = self.folder / "contract.json"
        try:
            self.said: Dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            self._read()
        except OSError as error:
            raise ValueError(f"{file}: {error.strerror or error}; allowed is a folder of dexhand_gym.export") from None
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            raise ValueError(f"{file}: not whole, {type(error).__name__} {error}") from None
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    def _read(self) -> None:
        found = self.said.get("format")
        if found != FORMAT:
            raise ValueError(f"format = {found!r}: allowed is {FORMAT!r}, export the policy again")
        actions: List[Dict[str, Any]] = self.said["actions"]
        self.control_dt = float(self.said["control_dt"])
        self.observations = [str(entry["name"]) for entry in self.said["observations"]]
        self.widths = [int(entry["width"]) for entry in self.said["observations"]]
        self.history = [int(steps) for steps in self.said["history"]]
        self.targets = [str(entry["name"]) for entry in actions]
        self.lower, self.upper, self.max_change, self.start = (
            np.array([float(entry[name]) for entry in actions], np.float32)
            for name in ("lower", "upper", "max_change", "start")
        )
        self.controlled = np.array([bool(entry["controlled"]) for entry in actions])
        self.base = sum(entry["kind"] != "finger" for entry in actions)
        self.mode = str(self.said["control_mode"])
        self.joints = [str(name) for name in self.said["hand"]["joints"]]
        self.coupling = np.zeros((len(self.joints), len(self.targets)), np.float32)
        for column, entry in enumerate(actions):
            for name, scale in entry["joints"].items():
                self.coupling[self.joints.index(name), column] = float(scale)
        self.touch = float(self.said["touch"]["threshold"])
        self.name = " ".join(str(self.said[name]) for name in ("task", "checkpoint", "iteration"))
        self.name += f" {self.said['hand']['name']}"
        self._check()

    def _check(self) -> None:
        """Raises ValueError or KeyError for what cannot be."""
        hand, said = self.said["hand"], self.said
        if self.mode not in ("position_delta", "position"):
            raise ValueError(f"control_mode = {self.mode!r}: allowed is position_delta or position")
        numbers = (self.coupling, self.lower, self.upper, self.max_change, self.start, self.touch, self.control_dt)
        sensible = all(np.isfinite(x).all() for x in numbers) and self.control_dt > 0 and (self.max_change >= 0).all()
        if not (sensible and (self.lower <= self.upper).all() and min(self.history, default=1) > 0):
            raise ValueError("not whole, control_dt, limits or history make no sense")
        if not all(type(entry["controlled"]) is bool for entry in said["actions"]):
            raise ValueError("controlled: allowed is true or false")
        bodies = [link["name"] for link in hand["links"]]
        for name in (hand["palm"], *(finger[what] for finger in hand["fingers"] for what in ("pad", "contact"))):
            if name not in bodies:
                raise ValueError(f"not whole, the hand has no body {name!r}")
        if not hand["fingers"] or len(hand["active_joints"]) != len(self.targets) - self.base:
            raise ValueError("not whole, fingers or their joints are missing")
        rows = said["starts"]["hand"]
        if not rows or any(len(row) != len(self.targets) for row in rows):
            raise ValueError("not whole, the starts are missing")
