"""The progress of a training and of a test, for people: bars and tables on a terminal, else lines."""

from __future__ import annotations

import logging
import math
import sys
import time
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Callable, Dict, Iterator, List

from rich import box
from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table

from .logs import progress_log
from .ppo import PPOConfig, average

log = logging.getLogger("train_ppo")
TELL_AFTER = 20.0  # s without a word in a test
FAR = 1.0  # a KL divergence that a policy does not survive; healthy is 0.003 to 0.02 (docs/ppo.md)


class ProgressDisplay:
    """To be called at every iteration: every `log_interval` iterations it logs a line or (on a terminal) shows a
    table."""

    def __init__(self, cfg: PPOConfig, console: Console):
        self.cfg = cfg
        self.bar = Progress(TextColumn("iteration"), MofNCompleteColumn(), BarColumn(None), expand=True)
        self.task = self.bar.add_task("", total=cfg.max_iterations)
        self.live = Live(self.bar, console=console) if console.is_terminal else nullcontext()
        self.window: List[Dict[str, float]] = []
        self.start, self.iterations, self.told = time.monotonic(), 0, False

    def __call__(self, metrics: Dict[str, float], last: bool = False) -> None:
        self.iterations += 1
        if self.iterations == 2 < self.cfg.max_iterations:  # the first one was slow: kernels, caches
            self.say_what_to_expect(metrics)
        self.window.append(metrics)
        iteration = int(metrics["iteration"])
        self.bar.update(self.task, completed=iteration)
        if iteration % self.cfg.log_interval and iteration != self.cfg.max_iterations and not last:
            return
        left = (self.cfg.max_iterations - iteration) * (time.monotonic() - self.start) / self.iterations
        means = average(self.window)
        if means.get("kl", 0.0) > FAR and not self.told and not getattr(self.cfg, "teacher", None):
            self.told = True
            log.warning(
                "the policy moves by a KL divergence of %.2g in an iteration: the step is far too long, a lower "
                "--train.learning-rate helps, or more rows (--num-envs)",
                means["kl"],
            )
        texts = {**describe(means), "time left": str(timedelta(seconds=round(left)))}
        self.window.clear()
        line = " | ".join(f"{name} {text}" for name, text in texts.items() if not name.startswith("ended by"))
        progress_log.info("iteration %d/%d | %s", iteration, self.cfg.max_iterations, line)
        terms = [reward_table(means)] if progress_log.isEnabledFor(logging.DEBUG) else []
        for table in terms:
            progress_log.debug("reward per step\n%s", as_text(table))
        if isinstance(self.live, Live):
            table = Columns([f"{name} [bold]{text}" for name, text in texts.items()], padding=(0, 3), equal=True)
            self.live.update(Group(table, *terms, self.bar))

    def say_what_to_expect(self, metrics: Dict[str, float]) -> None:
        """Logs once how many environment steps are left, and how long they take at this machine's rate."""
        seconds = metrics["rollout_seconds"] + metrics["update_seconds"]
        left = self.cfg.max_iterations - metrics["iteration"]
        steps = left * seconds * metrics["steps_per_second"]
        if left * seconds > 60:
            log.info(
                "%.2f million environment steps to go, some %.0f min at this rate", steps / 1e6, left * seconds / 60
            )


def describe(metrics: Dict[str, float]) -> Dict[str, str]:
    """Label -> text, for people."""
    texts = {}
    figures = [name for name in metrics if name.startswith("figure/")]
    for label, name, form in (
        ("reward", "reward", "{:.2f}"),
        ("episode length", "episode_length", "{:.0f}"),
        ("success rate", "success_rate", "{:.1%}"),
        *((name[7:], name, "{:.2f}") for name in figures),
        ("learning rate", "lr", "{:.1e}"),
        ("policy loss", "a_loss", "{:.4f}"),
        ("value loss", "c_loss", "{:.4f}"),
        ("entropy", "entropy", "{:.2f}"),
        ("kl", "kl", "{:.4f}"),
        ("steps/s", "steps_per_second", "{:.0f}"),
    ):
        known = math.isfinite(metrics.get(name, math.nan))  # before the first episode has ended, some are not
        texts[label] = form.format(metrics[name]) if known else "-"
    endings = {name: value for name, value in metrics.items() if name.startswith("ending/")}
    return {**texts, **{f"ended by {name[7:]}": f"{value:.1%}" for name, value in endings.items()}}


@contextmanager
def progress_of(episodes: int, console: Console) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of episodes done; it shows a bar on a terminal, else a line now and
    then."""
    if console.is_terminal:
        columns = TextColumn("episodes"), MofNCompleteColumn(), BarColumn(None)
        with Progress(*columns, console=console, expand=True, transient=True) as bar:
            task = bar.add_task("", total=episodes)
            yield lambda done: bar.update(task, completed=done)
        return
    told = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_AFTER and done < episodes:
            told = time.monotonic()
            progress_log.info("%d of %d episodes", done, episodes)

    yield tell


def reward_table(metrics: Dict[str, float]) -> Table:
    """Each term of the reward, as it is and times its weight."""
    table = Table("term", Column("raw", justify="right"), Column("weighted", justify="right"))
    table.box, table.show_edge = box.SIMPLE_HEAD, False
    for name in (name[11:] for name in metrics if name.startswith("reward_raw/")):
        table.add_row(name, f"{metrics[f'reward_raw/{name}']:.4f}", f"{metrics[f'reward/{name}']:.4f}")
    return table


def as_text(table: Table) -> str:
    console = Console(width=80, color_system=None, file=sys.stdout)  # its encoding may lack box-drawing characters
    with console.capture() as text:
        console.print(table)
    return text.get().rstrip()
