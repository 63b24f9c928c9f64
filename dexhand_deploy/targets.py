"""From actions to joint targets."""

from __future__ import annotations

from typing import Any

import numpy as np

from .contract import Contract

Array = Any


class Targets:
    """Integrates actions as the environment does: `current` are the action targets in force [T], `joints` those of all
    joints [D]."""

    def __init__(self, contract: Contract):
        self.contract = contract
        self.reset()

    def reset(self, targets: Any = None) -> None:
        """Begins at these action targets [T], by default at the contract's start."""
        start = self.contract.start if targets is None else np.asarray(targets, np.float32)
        if start.shape != self.contract.start.shape or not np.isfinite(start).all():
            raise ValueError(f"targets: {start}, allowed are {len(self.contract.start)} finite numbers")
        self.start = np.clip(start, self.contract.lower, self.contract.upper)
        self.current = self.start.copy()

    def __call__(self, action: Array) -> Array:
        """The action targets [T] after an action [A]. Actions are clamped to [-1, 1]; one that is not finite raises
        ValueError and changes nothing."""
        c = self.contract
        action = np.asarray(action, np.float32)
        if action.shape != (int(c.controlled.sum()),) or not np.isfinite(action).all():
            raise ValueError(f"action: {action}, allowed are {int(c.controlled.sum())} finite numbers")
        action = np.clip(action, -1.0, 1.0)
        wanted = self.start.copy()  # what the policy does not control stays there
        moved = c.controlled
        if c.mode == "position_delta":
            wanted[moved] = self.current[moved] + action * c.max_change[moved]
        else:
            wanted[moved] = c.lower[moved] + (action + 1.0) * 0.5 * (c.upper - c.lower)[moved]
        wanted = np.clip(wanted, self.current - c.max_change, self.current + c.max_change)
        self.current = np.clip(wanted, c.lower, c.upper).astype(np.float32)
        return self.current

    @property
    def joints(self) -> Array:
        """Targets of all joints [D], in the order of contract.joints."""
        return self.contract.coupling @ self.current
