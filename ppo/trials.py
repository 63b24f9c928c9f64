"""Trials of a policy in training: without exploration, in environments of their own."""

from __future__ import annotations

import logging
import time
from typing import Any, Dict

from .evaluation import evaluate
from .ppo import Agent

log = logging.getLogger("train_ppo")
INTERVAL = 60.0  # s between two trials, more if they would take
SHARE = 0.1  # more than this of the time
ATTEMPTS, CONFIRMED = 64, 256  # episodes of a trial, and of the test that ends a training


class Abandoned(Exception):
    """Somebody is in a hurry."""


class Trials:
    """To be called after every iteration. `target` is the share of successes that ends a training."""

    def __init__(self, env: Any, agent: Agent, target: float):
        self.env, self.agent, self.target = env, agent, target
        self.ended, self.took = time.monotonic(), 0.0
        self.hurried = False

    def __call__(self, metrics: Dict[str, float]) -> bool:
        """Every minute says what share of attempts succeeds, in `metrics` too; returns whether the policy has reached
        the target."""
        if time.monotonic() - self.ended < max(INTERVAL, self.took / SHARE):
            return False
        start = time.monotonic()
        try:
            share = self.play(ATTEMPTS)
            if share >= self.target:
                share = self.play(CONFIRMED)
        except Abandoned:
            return False
        metrics["trial_success_rate"] = share
        self.ended = time.monotonic()
        self.took = self.ended - start
        if share >= self.target:
            log.info("the training ends: %.1f %% were wanted (train.stop_at_success)", 100 * self.target)
        return share >= self.target

    def hurry(self) -> None:
        """Abandons a trial under way, and all later ones."""
        self.hurried = True

    def play(self, episodes: int) -> float:
        """The share of so many attempts that succeeds."""

        def tell(done: int) -> None:
            if self.hurried:
                raise Abandoned

        share = evaluate(self.env, self.agent, episodes, tell)["success_rate"]
        log.info("without exploration %.1f %% of %d attempts succeed", 100 * share, episodes)
        return share
