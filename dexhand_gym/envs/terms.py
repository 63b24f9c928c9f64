"""Reward and endings of a step: evaluates the task's terms and criteria, weights and counts them, and checks them
against the configuration."""

from __future__ import annotations

import logging
from typing import Any, Dict, List, NamedTuple

import torch
from torch import Tensor

from dexhand_gym.envs.checks import NUMBERS, check_named, unchanged
from dexhand_gym.envs.config import ENDINGS
from dexhand_gym.envs.quantities import Measured
from dexhand_gym.fields import check_name

log = logging.getLogger(__name__)


class Verdict(NamedTuple):
    """The outcome of one step in N environments."""

    paid: Tensor  # [terms and endings, N] unweighted
    reward: Tensor  # [N]
    hits: Tensor  # [success criteria, N] bool
    misses: Tensor  # [failure criteria, N] bool
    success: Tensor  # [N] bool
    truncated: Tensor  # [N] bool
    bad: Tensor  # [N] bool, something was not finite
    figures: List[Tensor]  # each [N], of the task

    @property
    def terminated(self) -> Tensor:
        return self.success | self.misses.any(0) | self.bad

    @property
    def endings(self) -> Tensor:
        """[J, N] bool, in the order of Terms.endings."""
        return torch.cat((self.hits, self.misses, torch.stack((self.truncated, self.bad))))

    def where(self, good: Tensor) -> Verdict:
        """This verdict where `good` [N] is True; elsewhere zeros, with `bad` set."""
        hits, misses, success, truncated = (x & good for x in (self.hits, self.misses, self.success, self.truncated))
        return Verdict(
            torch.where(good, self.paid, 0.0),
            torch.where(good, self.reward, 0.0),
            hits,
            misses,
            success,
            truncated,
            ~good,
            [torch.where(good, figure, 0) for figure in self.figures],
        )


class Terms:
    """Names, weights and statistics of a task's reward terms and criteria."""

    def __init__(self, env: Any):
        """Tries the task's functions on the newest instant. Raises ValueError, one line, where they do not fit the
        config."""
        self.task, self.cfg = env, env.cfg
        m, n, device, weights = env.measured, env.num_envs, env.device, env.task.reward_weights
        with unchanged("rewards()", m):
            terms = env.rewards(m, env.cfg)
        check_named("reward term", terms, n, NUMBERS, device)
        self.names = list(terms)
        for name in self.names:
            if name in ENDINGS:
                raise ValueError(f"reward term {name!r}: an ending has that weight, allowed is another name")
            check_name("reward term without a weight in task.reward_weights", name, weights)
        for name in weights:
            check_name("weight in task.reward_weights without a reward term", name, [*self.names, *ENDINGS])
        self.weights = {name: weights[name] for name in self.names}
        self.weights.update({name: sign * weights.get(name, 0.0) for name, sign in zip(ENDINGS, (1, -1, -1))})
        self._weights = torch.tensor([*self.weights.values()], dtype=torch.float32, device=device)
        with unchanged("successes() or failures()", m):
            successes, failures = env.successes(m, env.cfg), env.failures(m, env.cfg)
        for what, criteria, active in (
            ("success", successes, env.task.active_success_criteria),
            ("failure", failures, env.task.active_failure_criteria),
        ):
            check_named(f"{what} criterion", criteria, n, (torch.bool,), device)
            for name in active:
                check_name(f"task.active_{what}_criteria", name, criteria)
        for name in {*successes} & {*failures} or {"time_out", "nonfinite"} & {*successes, *failures}:
            raise ValueError(f"criterion {name!r} is there twice: allowed is a name of its own for each ending")
        self.successes = list(env.task.active_success_criteria or successes)
        self.failures = list(env.task.active_failure_criteria or failures)
        self.endings = [*self.successes, *self.failures, "time_out", "nonfinite"]
        self.figures = list(env.figures)
        for name in self.figures:
            check_name(f"{type(env).__name__}.figures", name, {**env.raw, **env.quantities})
        check_named("figure", {name: m[name] for name in self.figures}, n, NUMBERS, device)
        self.newest = self._weights.new_zeros(len(self._weights), n)
        self.sums = torch.zeros(
            len(self._weights) + len(self.endings) + 3 + len(self.figures), dtype=torch.float64, device=device
        )
        self.steps, self.told = 0, 0.0

    def judge(self, m: Measured, late: Tensor) -> Verdict:
        """The verdict on this instant; `late` [N] bool: the episode has reached its time limit."""
        hits = self._active(self.task.successes(m, self.cfg), self.successes, late)
        misses = self._active(self.task.failures(m, self.cfg), self.failures, late)
        success = hits.any(0)
        failure = misses.any(0) & ~success
        truncated = late & ~(success | failure)
        terms = self.task.rewards(m, self.cfg)
        paid = torch.stack([*(terms[name] for name in self.names), success, failure, truncated]).float()
        reward = (self._weights.unsqueeze(1) * paid).sum(0)
        figures = [m[name] for name in self.figures]
        return Verdict(paid, reward, hits, misses & ~success, success, truncated, torch.zeros_like(late), figures)

    def _active(self, values: Dict[str, Tensor], names: List[str], like: Tensor) -> Tensor:
        """The values of the criteria that end an episode [criteria, N] bool."""
        return torch.stack([values[name] for name in names]) if names else like.new_zeros(0, len(like))

    def count(self, verdict: Verdict, done: Tensor, episode_step: Tensor) -> None:
        """Adds a step to the statistics."""
        self.newest.copy_(verdict.paid)
        ended = [torch.where(done, value, 0) for value in (episode_step, *verdict.figures)]
        counted = torch.stack((verdict.success, done, *ended))
        self.sums += torch.cat((verdict.paid, verdict.endings, counted)).sum(1)

    def statistics(self, overflow: Tensor, num_envs: int) -> Dict[str, float]:
        """Means since the last call, see DexHandVecEnv.statistics; `overflow` is a scalar."""
        *sums, overflowed = torch.cat((self.sums, overflow.double().reshape(1))).tolist()
        self.sums.zero_()
        steps, self.steps = max(self.steps * num_envs, 1), 0
        raw = {name: total / steps for name, total in zip(self.weights, sums)}
        of_endings, rest = len(self.weights), len(self.weights) + len(self.endings)
        endings, (succeeded, episodes, length, *figures) = sums[of_endings:rest], sums[rest:]
        result = {f"reward_raw/{name}": value for name, value in raw.items()}
        result.update({f"reward/{name}": weight * raw[name] for name, weight in self.weights.items()})
        result.update(episodes=episodes, nonfinite=endings[-1], overflow=overflowed)
        if endings[-1]:
            log.warning(
                "in %d environments an action, the physics, an observation or a reward was not finite: their episodes ended, "
                "with zero reward",
                endings[-1],
            )
        if overflowed > 2 * self.told:  # a few in a million would fill the log of a training
            self.told = overflowed
            log.warning("contacts of %d environments did not fit: raise sim.warp.nconmax or sim.warp.njmax", overflowed)
        if episodes:
            result.update({f"ending/{name}": value / episodes for name, value in zip(self.endings, endings)})
            if self.successes:
                result["success_rate"] = succeeded / episodes
            result["episode_length"] = length / episodes
            result.update({f"figure/{name}": value / episodes for name, value in zip(self.figures, figures)})
        return result
