"""Trains or tests a policy: python train_ppo.py --task BoxGrasping (see --help)."""

from __future__ import annotations

import contextlib
import os

# Torch's idle threads would spin for milliseconds on the cores that physics needs; not spinning at all halves the
# speed of the update. 10 000 turns are some 20 microseconds: measured to cost neither.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
with contextlib.suppress(ImportError):
    import isaacgym  # type: ignore  # noqa: F401  must come before torch
import json
import logging
import math
import secrets
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

import configs
from configs import RunConfig
from dexhand_gym import tasks
from dexhand_gym.envs import make_vec_env
from dexhand_gym.envs.vec_env import DexHandVecEnv
from ppo import checkpoint as checkpoints
from ppo import ppo, workspace

log = logging.getLogger("train_ppo")
progress_log = logging.getLogger("train_ppo.progress")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Exit status: 0 done, 1 crashed, 2 a mistake in the command, 130 interrupted."""
    argv, cfg = (sys.argv[1:] if argv is None else argv), None
    try:
        if {"-h", "--help", "--help-all"} & set(argv):
            configs.show_help(argv)
            return 0
        cfg = configs.parse(argv)
        env = make_env(cfg)
        folder = open_run(cfg)
    except (ValueError, RuntimeError, OSError) as error:
        if cfg is not None and cfg.train.log_level == "debug":
            raise  # perhaps it is a task that is wrong, not the command
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    with contextlib.closing(env):
        return run(cfg, env, folder)


def make_env(cfg: RunConfig) -> DexHandVecEnv:
    """The environment, once it is known that the checkpoint can be used."""
    train = cfg.train
    if train.seed < 0:
        train.seed = secrets.randbelow(2**31)  # so that config.yaml has it
    if train.test and train.test_episodes:
        cfg.env.num_envs = min(cfg.env.num_envs, train.test_episodes)
    if train.checkpoint and not train.test:
        done = checkpoints.load(train.checkpoint)["epoch"]
        if done >= train.max_iterations:
            raise ValueError(f"train.max_iterations = {train.max_iterations}: allowed is more than the {done} done")
    check_watching(cfg)
    env = make_vec_env(tasks()[cfg.task_name], cfg.env.num_envs, cfg, train.seed)
    if train.checkpoint:
        load_agent(env, cfg, Path(train.checkpoint))
    return env


def open_run(cfg: RunConfig) -> Path:
    kind, experiment = ("test" if cfg.train.test else "train"), cfg.train.experiment
    keep = experiment.max_test_runs if cfg.train.test else experiment.max_train_runs
    folder = workspace.create_run(experiment.name or cfg.task_name, kind, keep, experiment.use_clean_workspace)
    (folder / "config.yaml").write_text(configs.to_yaml(cfg), encoding="utf-8")
    return folder


def run(cfg: RunConfig, env: DexHandVecEnv, folder: Path) -> int:
    console = start_logging(folder / "train.log", cfg.train.log_level)
    log.info("run: runs/%s", folder.name)
    try:
        with watched(cfg, env, folder) as film:
            test(cfg, env, folder, film) if cfg.train.test else train(cfg, env, folder, console, film)
        return 0
    except KeyboardInterrupt:
        saved = max(folder.glob("nn/last_*.pth"), key=lambda path: path.stat().st_mtime_ns, default=None)
        hint = (
            f", checkpoint saved; to go on: --checkpoint runs/{folder.name}/nn/{saved.name}"
            if saved and not cfg.train.test
            else ""
        )
        log.warning("interrupted%s", hint)
        return 130
    except Exception:
        log.exception("crashed")
        return 1


def start_logging(file: Path, level: str) -> Console:
    """Everything goes to `file` and to the console, except that a terminal shows the progress as a table."""
    console = Console()
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, show_level=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.addFilter(lambda record: record.name != progress_log.name)
    else:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    to_file = logging.FileHandler(file, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler, to_file], force=True)
    logging.captureWarnings(True)
    return console


# --- Watching --------------------------------------------------------------------------------------------------------


def check_watching(cfg: RunConfig) -> None:
    """Raises RuntimeError if what is to be shown or filmed cannot be."""
    try:
        if cfg.env.render:
            from dexhand_gym.viewer import check_viewing

            check_viewing()
        if cfg.env.record_video:
            from dexhand_gym.video import check_recording

            check_recording()
    except ImportError as error:
        raise RuntimeError(f"nothing can be drawn here: {error}") from error


@contextlib.contextmanager
def watched(cfg: RunConfig, env: DexHandVecEnv, folder: Path) -> Iterator[Callable[[str], None]]:
    """Shows the environments and films them, as far as wanted. Gives a function that begins a clip of some name."""
    if cfg.env.render or (cfg.env.render is None and cfg.train.test):
        try:
            env.show("1x" if cfg.train.test else "max")
            log.info("watch: %s", env.viewer.where)
        except (ImportError, RuntimeError) as error:
            log.warning("not shown: %s", error)
    if not cfg.env.record_video:
        yield lambda name: None
        return
    from dexhand_gym.video import Recorder

    with Recorder(env, folder / "videos") as recorder:
        yield recorder.start


# --- Training --------------------------------------------------------------------------------------------------------


def train(cfg: RunConfig, env: DexHandVecEnv, folder: Path, console: Console, film: Callable[[str], None]) -> None:
    """Trains, tests the result (an episode in every environment) and says what to do next."""
    display = ProgressDisplay(cfg.train, console)

    def after_iteration(metrics: Dict[str, float]) -> None:
        display(metrics)
        if metrics["iteration"] % cfg.env.video_interval == 0:
            film(f"iteration_{metrics['iteration']:06.0f}")

    with display.live:
        ppo.train(env, cfg.train, folder, after_iteration, cfg.train.checkpoint)
    best = workspace.best_checkpoint(folder)
    if cfg.task.SUCCESSES:
        film("best")
        measure(env, load_agent(env, cfg, best), env.num_envs, best, folder)
    log.info("best checkpoint: runs/%s/nn/%s", folder.name, best.name)
    log.info("test it: python train_ppo.py --test --checkpoint runs/%s", folder.name)
    log.info("see its curves: tensorboard --logdir runs/%s", folder.name)


class ProgressDisplay:
    """What ppo.train calls at every iteration: every `log_interval` of them, a line or (on a terminal) a table."""

    def __init__(self, cfg: configs.TrainConfig, console: Console):
        self.cfg = cfg
        self.bar = Progress(TextColumn("iteration"), MofNCompleteColumn(), BarColumn(None), expand=True)
        self.task = self.bar.add_task("", total=cfg.max_iterations)
        self.live = Live(self.bar, console=console) if console.is_terminal else contextlib.nullcontext()
        self.window: List[Dict[str, float]] = []
        self.start, self.iterations = time.monotonic(), 0

    def __call__(self, metrics: Dict[str, float]) -> None:
        self.iterations += 1
        self.window.append(metrics)
        iteration = int(metrics["iteration"])
        self.bar.update(self.task, completed=iteration)
        if iteration % self.cfg.log_interval and iteration != self.cfg.max_iterations:
            return
        left = (self.cfg.max_iterations - iteration) * (time.monotonic() - self.start) / self.iterations
        texts = {**describe(average(self.window)), "time left": str(timedelta(seconds=round(left)))}
        self.window.clear()
        line = " | ".join(f"{name} {text}" for name, text in texts.items() if not name.startswith("ended by"))
        progress_log.info("iteration %d/%d | %s", iteration, self.cfg.max_iterations, line)
        if isinstance(self.live, Live):
            table = Columns([f"{name} [bold]{text}" for name, text in texts.items()], padding=(0, 3), equal=True)
            self.live.update(Group(table, self.bar))


def average(window: List[Dict[str, float]]) -> Dict[str, float]:
    """Of several iterations: an ending counts by episodes, speed by time, the rest by iterations. `reward` is a moving
    average already."""

    def weight(name: str, metrics: Dict[str, float]) -> float:
        if name in ("success_rate", "episode_length") or name.startswith("ending/"):
            return metrics.get("episodes", 1)
        if name == "steps_per_second":
            return metrics["rollout_seconds"] + metrics["update_seconds"]
        return 1

    result = dict(window[-1])
    for name in {name for metrics in window for name in metrics} - {"reward"}:
        pairs = [(metrics[name], weight(name, metrics)) for metrics in window if name in metrics]
        total = sum(w for _, w in pairs)
        if total:
            result[name] = sum(value * w for value, w in pairs if w) / total
    return result


def describe(metrics: Dict[str, float]) -> Dict[str, str]:
    """Label -> text, for people."""
    texts = {}
    for label, name, form in (
        ("reward", "reward", "{:.2f}"),
        ("episode length", "episode_length", "{:.0f}"),
        ("success rate", "success_rate", "{:.1%}"),
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


# --- Test ------------------------------------------------------------------------------------------------------------


def test(cfg: RunConfig, env: DexHandVecEnv, folder: Path, film: Callable[[str], None]) -> None:
    """One round of `test_episodes` episodes, or round after round (see TrainConfig.reload_interval)."""
    path, interval = Path(str(cfg.train.checkpoint)), cfg.train.reload_interval
    (folder / "nn").mkdir()
    workspace.link(folder / "nn" / path.name, path)  # what `--checkpoint latest_test` means
    agent, loaded = load_agent(env, cfg, path), time.monotonic()
    if env.viewer is not None:
        env.viewer.on_reload = lambda: checkpoints.load_weights(
            agent, checkpoints.load(workspace.best_checkpoint(path.parent))
        )
    film("test")
    while True:
        measure(env, agent, cfg.train.test_episodes or env.num_envs, path, folder)
        if cfg.train.test_episodes and not interval:
            return
        if interval and time.monotonic() - loaded >= interval:
            path = workspace.best_checkpoint(path.parent)
            agent, loaded = load_agent(env, cfg, path), time.monotonic()


def load_agent(env: DexHandVecEnv, cfg: RunConfig, path: Path) -> ppo.Agent:
    """The policy of a checkpoint. Raises CheckpointError if it does not fit."""
    agent = ppo.Agent(env.single_observation_space, env.single_action_space, cfg.train).to(env.device)
    checkpoints.load_weights(agent, checkpoints.load(path))
    return agent


def measure(env: DexHandVecEnv, agent: ppo.Agent, episodes: int, path: Path, folder: Path) -> None:
    """Plays, and tells the log and `folder`/result.json how it went. `path` is where the agent comes from."""
    result = {"checkpoint": str(path), **evaluate(env, agent, episodes)}
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    log.info("tested: %s, %d episodes without exploration", path.name, result["episodes"])
    if "success_rate" in result:
        rate, low, high = (f"{share:.1%}" for share in (result["success_rate"], *result["success_rate_95"]))
        log.info("success rate: %s (95%% interval: %s to %s)", rate, low, high)
    for name in ("reward", "length"):
        log.info("%s: %.2f +- %.2f", name, result[f"{name}_mean"], result[f"{name}_std"])
    log.info("ended by: %s", ", ".join(f"{name} {share:.1%}" for name, share in result["endings"].items()))


@torch.no_grad()
def evaluate(env: DexHandVecEnv, agent: ppo.Agent, episodes: int) -> Dict[str, Any]:
    """Plays the same number of episodes in every environment, the least that gives `episodes`: to take those that end
    first would prefer short ones."""
    quota = math.ceil(episodes / env.num_envs)
    obs, _ = env.reset()
    played = torch.zeros(env.num_envs, dtype=torch.long, device=obs.device)
    rows, endings = [], {}
    while (played < quota).any():
        obs, *_, info = env.step(agent.to_env(agent.act_deterministic(obs)))
        counted = info["_episode"] & (played < quota)
        played += counted
        endings = info["endings"]
        columns = (info["episode"]["r"], info["episode"]["l"], info["success"], *endings.values())
        rows.append(torch.stack([column.double() for column in columns], 1)[counted])
    reward, length, success, *ended = torch.cat(rows).T
    result: Dict[str, Any] = {"episodes": len(reward)}
    for name, column in (("reward", reward), ("length", length)):
        result[f"{name}_mean"], result[f"{name}_std"] = column.mean().item(), column.std(unbiased=False).item()
    result["endings"] = {name: column.mean().item() for name, column in zip(endings, ended)}
    if env.task.SUCCESSES:
        result["success_rate"] = success.mean().item()
        result["success_rate_95"] = wilson(result["success_rate"], len(reward))
    return result


def wilson(share: float, n: int, z: float = 1.96) -> Tuple[float, float]:
    """Wilson's 95 % interval of a share seen in n episodes."""
    middle, spread = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (middle - spread) / (1 + z**2 / n), (middle + spread) / (1 + z**2 / n)


if __name__ == "__main__":
    sys.exit(main())
