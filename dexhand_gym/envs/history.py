"""What the policy saw a while ago (TaskConfig.observation_history)."""

from __future__ import annotations

from typing import Dict, Optional, Tuple

import torch
from torch import Tensor

from dexhand_gym.sim.base import overwrite


class History:
    """Puts observations of `ago` control steps ago behind the newest one. Before an episode was that old, it is its
    first one."""

    def __init__(self, ago: Tuple[int, ...]):
        self.ago = ago
        self.rows: Optional[Tensor] = None
        """Observations [N, most + 1, W], newest first."""

    def __call__(self, newest: Tensor, begun: Optional[Tensor]) -> Tensor:
        """The observation [N, W] with its history [N, W * (1 + len(ago))]. `begun` [N]: nothing has happened but that
        these episodes have begun; None: another step."""
        if self.rows is None:
            self.rows = newest.unsqueeze(1).repeat(1, max(self.ago) + 1, 1)
        if begun is None:
            self.rows.copy_(torch.cat((newest.unsqueeze(1), self.rows[:, :-1]), 1))
        else:
            overwrite(self.rows, newest.unsqueeze(1).expand_as(self.rows), begun)
        return torch.cat((newest, *(self.rows[:, steps] for steps in self.ago)), 1)

    def memory(self) -> Dict[str, Tensor]:
        """The state that persists between steps, by name."""
        return {} if self.rows is None else {"policy_history": self.rows}
