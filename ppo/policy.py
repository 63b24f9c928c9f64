"""A policy from a checkpoint: loaded for an environment and its hand, reloaded, measured."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, Optional, Tuple

from rich.console import Console

from dexhand_gym.envs.mirror import images

from . import checkpoint, ppo, strict_yaml, workspace
from .distill import imitation
from .evaluation import evaluate, result_table
from .mirror import Image, mirror
from .progress import as_text, progress_of
from .text import printable

log = logging.getLogger("train_ppo")


class Policy:
    """An agent, the checkpoint `path` that its weights come from, their `iteration`, and when they were `loaded`."""

    def __init__(self, env: Any, cfg: ppo.PPOConfig, path: Path):
        """Raises CheckpointError, one line, if the checkpoint does not fit."""
        self.env, self.cfg = env, cfg
        self.agent = ppo.Agent(env.single_observation_space, env.single_action_space, cfg).to(env.device)
        self.load(path)

    def load(self, path: Path) -> None:
        """The weights of a checkpoint, mirrored if they are of the other hand."""
        self.loaded = time.monotonic()
        self.iteration = ppo.load_agent(path, self.agent, self.cfg)["epoch"]
        if needs_mirror(self.env, path):
            mirror(self.agent, None, *(Image(*image) for image in images(self.env)))
        self.path = path

    def reload(self) -> None:
        """Loads the best (or else newest) checkpoint that its run has by now; if that fails, warns and keeps the
        policy."""
        try:
            self.load(workspace.best_checkpoint(self.path.parent))
        except (ValueError, OSError) as error:  # deleted, or not yet whole: its writer may be another program
            log.warning("goes on with the policy it has: %s", error)

    def measure(self, episodes: int, folder: Path, console: Console) -> None:
        """Plays `episodes` episodes, and writes the result to the log and to `folder`/result.json."""
        with progress_of(episodes, console) as tell:
            found = evaluate(self.env, self.agent, episodes, tell)
        result = {"checkpoint": str(self.path), "iteration": self.iteration, **found}
        workspace.write(folder / "result.json", workspace.to_json(result))
        what = "tested: %s after %d iterations, %d episodes without exploration%s\n%s"
        few = f" in {result['independent']} environments" if result["independent"] < result["episodes"] else ""
        table = as_text(result_table(result))
        log.info(what, printable(self.path.name), self.iteration, result["episodes"], few, table)


def begin(env: Any, cfg: ppo.PPOConfig, path: Optional[str]) -> Tuple[ppo.Learner, ppo.Progress]:
    """All that a training has before its first iteration, resumed from a checkpoint if one is given. A checkpoint of
    the other hand is mirrored, and the best reward and success so far do not count."""
    learner, progress = ppo.begin(env, cfg, path)
    if teacher := getattr(cfg, "teacher", None):
        learner.reduce(imitation(teacher, env))
    if path and needs_mirror(env, Path(path)):
        mirror(learner.agent, learner.optimizer, *(Image(*image) for image in images(env)))
        progress.best_reward, progress.best_success = -1e9, 0.0
    return learner, progress


def check_unfinished(path: str, max_iterations: int) -> None:
    """Raises ValueError, one line, if the training that a checkpoint belongs to has no iterations left."""
    saved = checkpoint.load(path)
    done = saved["epoch"] if saved["optimizer"] else 0  # from a policy alone a new training begins
    if done >= max_iterations:
        raise ValueError(f"train.max_iterations = {max_iterations}: allowed is more than the {done} that it has done")


def warn_of_hand(env: Any, path: Path) -> None:
    """Warns if a policy was trained with a hand that is neither the environment's nor its mirror image."""
    hand, ours = hand_of(path), env.cfg.env.hand
    if needs_mirror(env, path):
        log.info("%s has learned with the hand %s; the hand %s plays it in the mirror", printable(path), hand, ours)
    if hand not in (ours, env.hand.mirror_image):
        log.warning("%s is a policy of the hand %s, not of %s", printable(path), printable(hand), ours)


def needs_mirror(env: Any, path: Path) -> bool:
    """Whether a policy was trained with the hand that is the mirror image of the environment's."""
    return hand_of(path) == env.hand.mirror_image != ""


def hand_of(path: Path) -> str:
    """Name of the hand with which a policy was trained; right if its run does not say."""
    file = workspace.run_of(path) / "config.yaml"
    try:
        env = strict_yaml.read(file, "config", words=True).get("env") if file.is_file() else None
    except ValueError:  # that has been reported
        env = None
    return str(env.get("hand", "right")) if isinstance(env, dict) else "right"
