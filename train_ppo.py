"""Trains or tests a policy: python train_ppo.py --task BoxGrasping (see --help)."""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while there is nothing to save, Ctrl-C just ends the program
import contextlib
import dataclasses
import os

# By default torch's idle threads spin for milliseconds on cores that the physics needs; without any spinning the update
# runs at half speed. 10 000 turns, some 20 microseconds, were measured to slow down neither.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
with contextlib.suppress(ImportError, RuntimeError, OSError):  # RuntimeError: a Python that it does not support
    import isaacgym  # type: ignore  # noqa: F401  must come before torch
import logging
import secrets
import shlex
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Sequence, Tuple

import torch
from rich.console import Console

from dexhand_gym import find_task
from dexhand_gym.envs import make_vec_env
from dexhand_gym.envs.config import override
from dexhand_gym.envs.randomize_config import OF_TRAINING
from dexhand_gym.envs.vec_env import DexHandVecEnv
from dexhand_gym.sim import choose_engine
from dexhand_gym.watch import check_watching, watched

if TYPE_CHECKING or not __package__:
    import configs
    from configs import RunConfig
    from ppo import distributed, logs, mistakes, policy, ppo, signals, text, visitors, wandb_logger, workspace
    from ppo.policy import Policy
    from ppo.progress import ProgressDisplay
    from ppo.trials import ATTEMPTS, Trials
else:  # installed, this file is dexhand_gym.command.train_ppo
    from dexhand_gym.command import configs
    from dexhand_gym.command.configs import RunConfig
    from dexhand_gym.ppo import (
        distributed,
        logs,
        mistakes,
        policy,
        ppo,
        signals,
        text,
        visitors,
        wandb_logger,
        workspace,
    )
    from dexhand_gym.ppo.policy import Policy
    from dexhand_gym.ppo.progress import ProgressDisplay
    from dexhand_gym.ppo.trials import ATTEMPTS, Trials

REHEARSED = 7  # environments of a rehearsal; unlikely to be the width of any tensor
REHEARSAL: Dict[str, Any] = {"env.backend": "none", "env.device": "cpu"}

Begun = Tuple[ppo.Learner, ppo.Progress]

log = logging.getLogger("train_ppo")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Exit status: 0 done, 1 crashed, 2 a mistake in the command, 129 the terminal was closed, 130 interrupted, 143
    terminated."""
    argv, cfg = (sys.argv[1:] if argv is None else argv), None
    logs.collect_log()
    try:
        distributed.check_environment()
        if {"-h", "--help", "--help-all"} & set(argv):
            with text.ending_with_the_reader():
                configs.show_help(argv)
            return 0
        cfg = configs.parse(argv)
        rehearse(cfg)
        check(cfg)
        console = logs.start_console(cfg.train.log_level)
        env = make_env(cfg)
        begun = None if cfg.train.test else policy.begin(env, cfg.train, cfg.train.checkpoint)
        folder = open_run(cfg) if distributed.is_main() else Path(os.devnull)
    except KeyboardInterrupt as stop:
        print("interrupted", file=sys.stderr)
        return signals.exit_status(stop)
    except BaseException as error:  # a user's value, file or task can raise anything
        if cfg is not None and cfg.train.log_level == "debug":
            traceback.print_exc()
        logs.warn()
        print(f"{distributed.label()}error: {mistakes.explain(error)}", file=sys.stderr)
        return 2
    with contextlib.closing(env), signals.stopping_signals():
        status = run(cfg, env, begun, folder, console)
    if status not in (1, 2):
        begun = None  # the captured update holds on to the other ranks
        distributed.stop(status)
    return status


def rehearse(cfg: RunConfig) -> None:
    """Checks, without an engine, that task, config and checkpoint fit together. Raises ValueError or
    CheckpointError."""
    with contextlib.closing(make_vec_env(find_task(cfg.task_name), REHEARSED, cfg, **REHEARSAL)) as env:
        if cfg.train.stop_at_success is not None and not env.success_criteria:
            raise ValueError(
                f"train.stop_at_success = {cfg.train.stop_at_success}: allowed is None, for no success is defined"
            )
        env.step(torch.zeros(env.action_space.shape))  # pyright: ignore[reportArgumentType]  (a Box has one)
        if cfg.train.checkpoint:
            policy.warn_of_hand(env, Path(cfg.train.checkpoint))
            Policy(env, cfg.train, Path(cfg.train.checkpoint))


def check(cfg: RunConfig) -> None:
    """Raises ValueError, RuntimeError or OSError if this machine, its folders or the checkpoint do not allow a run with
    `cfg`."""
    device = distributed.device_of_rank(choose_engine(cfg.env.backend, cfg.env.device)[1])
    if distributed.launched():
        if cfg.train.test:
            raise ValueError("train.test = True: allowed is one process, without torchrun")
        choose_engine(cfg.env.backend, device)
        trials = cfg.train.stop_at_success is not None  # for which the other ranks wait
        distributed.start(device, distributed.PATIENCE if trials else distributed.TIMEOUT)
    if not distributed.is_main():
        cfg.env.render = cfg.env.record_video = cfg.train.wandb.enabled = False
    cfg.train.wandb.enabled &= not cfg.train.test
    wandb_logger.check(cfg.train.wandb)
    workspace.check_writable()
    if cfg.train.checkpoint and not cfg.train.test:
        policy.check_unfinished(cfg.train.checkpoint, cfg.train.max_iterations)


def make_env(cfg: RunConfig) -> DexHandVecEnv:
    """Makes the environment of a run, and fills in `cfg` what it leaves open."""
    train, task = cfg.train, find_task(cfg.task_name)
    if train.seed < 0:
        train.seed = distributed.gather(secrets.randbelow(2**31))[0]  # so that config.yaml records it
    if train.test:
        train.test_episodes = 256 if train.test_episodes is None else train.test_episodes
        cfg.env.num_envs = min(cfg.env.num_envs, train.test_episodes or cfg.env.num_envs)
    ppo.be_deterministic(train.torch_deterministic)
    check_watching(cfg.env, cfg.shown)
    device = distributed.device_of_rank(choose_engine(cfg.env.backend, cfg.env.device)[1])
    env = make_vec_env(
        task, cfg.env.num_envs, cfg, train.seed + distributed.rank() * cfg.env.num_envs, **{"env.device": device}
    )
    sizes = env.single_observation_space.shape[0], env.single_action_space.shape[0]
    log.info("%s: %d environments on %s, %d observations, %d actions", cfg.task_name, env.num_envs, env.device, *sizes)
    if distributed.launched():
        log.info("%d ranks, each with as many environments", distributed.world_size())
    return env


def open_run(cfg: RunConfig) -> Path:
    kind, experiment = ("test" if cfg.train.test else "train"), cfg.train.experiment
    keep = experiment.max_test_runs if cfg.train.test else experiment.max_train_runs
    name, clean = experiment.name or cfg.task_name.rpartition(":")[2], experiment.use_clean_workspace
    return workspace.create_run(name, kind, keep, clean, config=configs.to_yaml(cfg))


def run(cfg: RunConfig, env: DexHandVecEnv, begun: Optional[Begun], folder: Path, console: Console) -> int:
    try:
        logs.start_file(folder / "train.log")
        log.info("run: runs/%s", folder.name)
        wandb = wandb_logger.logging_to(cfg.train.wandb, dataclasses.asdict(cfg), folder, cfg.train.checkpoint)
        speed = "1x" if cfg.train.test else "max"
        with wandb as tell_wandb, watched(env, cfg.shown, speed, folder / "videos") as film:
            if begun:
                train(cfg, env, begun, folder, console, film, tell_wandb)
            else:
                test(cfg, env, folder, console, film)
        return 0
    except BaseException as error:  # a task may raise anything
        again = code_of(cfg) + (f" --train.teacher {shlex.quote(cfg.train.teacher)}" if cfg.train.teacher else "")
        return mistakes.exit_status(error, folder, not cfg.train.test, again)


# --- Training --------------------------------------------------------------------------------------------------------


def train(
    cfg: RunConfig,
    env: DexHandVecEnv,
    begun: Begun,
    folder: Path,
    console: Console,
    film: Callable[[str], None],
    tell_wandb: Callable[[Dict[str, float]], None],
) -> None:
    """Trains, tests the result and says what to do next."""
    display = ProgressDisplay(cfg.train, console)
    trials = trials_of(cfg, begun[0].agent) if cfg.train.stop_at_success is not None and distributed.is_main() else None

    def after_iteration(metrics: Dict[str, float]) -> bool:
        enough = trials is not None and trials(metrics)
        display(metrics, last=enough)
        tell_wandb(metrics)
        if metrics["iteration"] % cfg.env.video_interval == 0:
            film(f"iteration_{metrics['iteration']:06.0f}")
        return enough

    with display.live, contextlib.closing(trials.env) if trials else contextlib.nullcontext():
        ppo.learn(env, *begun, folder, after_iteration, cfg.train.checkpoint, trials.hurry if trials else lambda: None)
    if not distributed.is_main():
        return
    best = workspace.best_checkpoint(folder)
    env.widen()
    film("best")
    if cfg.train.test_episodes != 0:
        Policy(env, cfg.train, best).measure(cfg.train.test_episodes or env.num_envs, folder, console)
    kind = "newest" if best.name.startswith("last_") else "best"
    log.info("%s checkpoint: runs/%s/nn/%s", kind, folder.name, best.name)
    log.info("test it: %s --test%s --checkpoint runs/%s", configs.COMMAND, code_of(cfg), folder.name)
    log.info("see its curves: tensorboard --logdir runs/%s", folder.name)


def code_of(cfg: RunConfig) -> str:
    """The flags that name a run's code, which --checkpoint does not import by itself."""
    code = f" --task {cfg.task_name}" if ":" in cfg.task_name else ""
    code += f" --env.hand {cfg.env.hand}" if ":" in cfg.env.hand else ""
    return code + (f" --import {' '.join(cfg.imports)}" if cfg.imports else "")


def trials_of(cfg: RunConfig, agent: ppo.Agent) -> Trials:
    """Environments of their own, in which a policy in training is tested."""
    apart = {"env.num_envs": ATTEMPTS, "env.compile": False, "env.render": False, "env.record_video": False}
    apart.update({f"task.randomize.{name}": 0.0 for name in OF_TRAINING})
    env = make_vec_env(find_task(cfg.task_name), ATTEMPTS, override(cfg, apart), cfg.train.seed + 2**20)
    return Trials(env, agent, float(cfg.train.stop_at_success or 0))


# --- Test ------------------------------------------------------------------------------------------------------------


def test(cfg: RunConfig, env: DexHandVecEnv, folder: Path, console: Console, film: Callable[[str], None]) -> None:
    """One round of `test_episodes` episodes, or round after round (see TrainConfig.reload_interval)."""
    path, interval = Path(str(cfg.train.checkpoint)), cfg.train.reload_interval
    (folder / "nn").mkdir()
    workspace.link_or_copy(folder / "nn" / path.name, path)  # so that `--checkpoint latest_test` finds it
    tested = Policy(env, cfg.train, path)
    watched_for = env.viewer if cfg.env.render and sys.stdin is not None and sys.stdin.isatty() else None  # no script
    if env.viewer is not None:
        env.viewer.on_reload = tested.reload
    if watched_for is not None:
        visitors.wait_for_a_visitor(watched_for)
    film("test")
    while True:
        tested.measure(cfg.train.test_episodes or env.num_envs, folder, console)
        if cfg.train.test_episodes and not interval:
            break
        if interval and time.monotonic() - tested.loaded >= interval:
            tested.reload()
    if watched_for is not None and not watched_for.is_over():
        visitors.stay_for_visitors(watched_for)


if __name__ == "__main__":
    sys.exit(main())
