"""What differs between episodes is drawn anew where they begin (RandomizeConfig)."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from dexhand_gym.envs.randomize import Physics
from dexhand_gym.objects import AnyOf
from dexhand_gym.sim.base import overwrite


class Redraw:
    """Draws the physics anew, and what is wrong with `parts`, commands and sensors. A GPU takes as long for a random
    number as for a million, so all come in one block; `apply`, which makes the rest of it, can be Fused.
    """

    def __init__(self, env: Any, own: bool, physics: Optional[Physics], parts: Sequence[Any]):
        """`own`: the task's vary() adds to it. Draws once, in no environment, to learn what numbers it takes."""
        self.sim, self.raw, self.generator, self.physics, self.parts = env.sim, env.raw, env.generator, physics, parts
        self.retries = env.task.randomize.retry > 0
        self.retry = torch.full((), env.task.randomize.retry, device=env.device)
        """With which probability a failed attempt is made again []."""
        self.failed = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)
        """[N] True where an episode has just ended, and not by success."""
        self.largest = {
            thing.name: env.raw[f"{thing.name}_size"].new_tensor([[max(choice.extents)] for choice in thing.of])
            for thing in env.sim.scene.free
            if isinstance(thing, AnyOf)
        }
        self.kind = {"dtype": torch.float64, "device": env.device}  # as models and once() have it
        nobody = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)
        ranges: List[Tuple[float, float, int]] = []

        def noted(low: float, high: float, columns: int) -> Tensor:
            ranges.append((low, high, columns))
            return torch.zeros(env.num_envs, columns, **self.kind)

        self.varies = bool(physics and physics.draw(noted)) or own
        """Whether the engine is told anything."""
        for part in parts:
            part.draw(noted, nobody)
        if self.retries and not (self.varies or parts):
            raise ValueError(f"task.randomize.retry = {env.task.randomize.retry}: allowed is 0, for nothing is drawn")
        self.columns = [columns for _, _, columns in ranges]
        rows = [(low, high - low) for low, high, columns in ranges for _ in range(columns)]
        self.low, self.span = torch.tensor(rows, **self.kind).view(-1, 2).unbind(1)
        self.shape = env.num_envs, len(rows)

    def __call__(self, own: Dict[str, Tensor], mask: Tensor) -> None:
        """Draws for the environments in `mask` [N]; `own` is the task's variation. What has failed may stay (`retry`)."""
        if self.retries:
            chance = torch.rand(len(mask), generator=self.generator, device=mask.device)
            mask = mask & ~(self.failed & (chance < self.retry))
        if self.varies or self.parts:
            self.apply(torch.rand(self.shape, generator=self.generator, **self.kind), own, mask)

    def apply(self, numbers: Tensor, own: Dict[str, Tensor], mask: Tensor) -> None:
        """What a call makes of uniform random numbers [N, K]."""
        drawn = iter(torch.addcmul(self.low, self.span, numbers).split(self.columns, 1))

        def uniform(low: float, high: float, columns: int) -> Tensor:
            return next(drawn)  # these are their ranges, and this is their order

        values = self.physics.draw(uniform) if self.physics else {}
        if self.varies:
            self.vary({**values, **own} if values else own, mask)
        for part in self.parts:
            part.draw(uniform, mask)

    def vary(self, variation: Dict[str, Tensor], mask: Tensor) -> None:
        """Tells the engine, and those who measure."""
        self.sim.vary(variation, mask)
        for name, values in variation.items():
            thing, _, what = name.partition(".")
            if what == "size":
                overwrite(self.raw[f"{thing}_size"], values.view(-1, 1), mask)
            if what == "which":
                overwrite(self.raw[f"{thing}_which"], values, mask)
                overwrite(self.raw[f"{thing}_size"], self.largest[thing][values.long()], mask)
