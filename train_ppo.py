"""Trains or tests a policy: python train_ppo.py --task BoxGrasping (see --help)."""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while there is nothing to save, Ctrl-C just ends the program
import contextlib
import dataclasses
import os

# Torch's idle threads would spin for milliseconds on the cores that physics needs; not spinning at all halves the
# speed of the update. 10 000 turns are some 20 microseconds: measured to cost neither.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
with contextlib.suppress(ImportError, RuntimeError, OSError):  # on another Python than its own: RuntimeError
    import isaacgym  # type: ignore  # noqa: F401  must come before torch
import logging
import secrets
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Sequence, Tuple

import torch
from rich.console import Console

import dexhand_gym
from dexhand_gym import find_task, tasks
from dexhand_gym.envs import make_vec_env
from dexhand_gym.envs.mirror import images
from dexhand_gym.envs.vec_env import DexHandVecEnv
from dexhand_gym.sim import choose_engine
from dexhand_gym.watch import check_watching, watched

if TYPE_CHECKING or not __package__:
    import configs
    from configs import RunConfig
    from ppo import checkpoint as checkpoints
    from ppo import distributed, logs, mistakes, ppo, visitors, wandb_logger, workspace
    from ppo.evaluation import evaluate, result_table
    from ppo.mirror import Image, mirror
    from ppo.progress import ProgressDisplay, as_text, progress_of
    from ppo.signals import exit_status, stopping_signals
    from ppo.text import printable, write_anything
else:  # installed, this file is dexhand_gym.command.train_ppo
    from dexhand_gym.command import configs
    from dexhand_gym.command.configs import RunConfig
    from dexhand_gym.ppo import checkpoint as checkpoints
    from dexhand_gym.ppo import distributed, logs, mistakes, ppo, visitors, wandb_logger, workspace
    from dexhand_gym.ppo.evaluation import evaluate, result_table
    from dexhand_gym.ppo.mirror import Image, mirror
    from dexhand_gym.ppo.progress import ProgressDisplay, as_text, progress_of
    from dexhand_gym.ppo.signals import exit_status, stopping_signals
    from dexhand_gym.ppo.text import printable, write_anything

REHEARSED = 7  # environments of a rehearsal; a number that no width is by chance
REHEARSAL: Dict[str, Any] = {"env.backend": "none", "env.device": "cpu"}

Begun = Tuple[ppo.Learner, ppo.Progress]

log = logging.getLogger("train_ppo")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Exit status: 0 done, 1 crashed, 2 a mistake in the command, 129 the terminal was closed, 130 interrupted, 143
    terminated."""
    argv, cfg = (sys.argv[1:] if argv is None else argv), None
    write_anything()
    logs.collect_log()
    try:
        distributed.check_environment()
        if {"-h", "--help", "--help-all"} & set(argv):
            configs.show_help(argv)
            return 0
        cfg = configs.parse(argv)
        rehearse(cfg)
        check(cfg)
        env = make_env(cfg)
        begun = None if cfg.train.test else begin(cfg, env)
        folder = open_run(cfg) if distributed.is_main() else Path(os.devnull)
    except KeyboardInterrupt as stop:
        print("interrupted", file=sys.stderr)
        return exit_status(stop)
    except BaseException as error:  # a user's value, file or task can raise anything
        if cfg is not None and cfg.train.log_level == "debug":
            traceback.print_exc()
        print(f"{distributed.label()}error: {explain(error)}", file=sys.stderr)
        return 2
    with contextlib.closing(env), stopping_signals():
        status = run(cfg, env, begun, folder)
    if status not in (1, 2):
        distributed.stop()
    return status


def rehearse(cfg: RunConfig) -> None:
    """Shows without an engine that task, config and checkpoint fit together. Raises ValueError or CheckpointError."""
    with contextlib.closing(make_vec_env(find_task(cfg.task_name), REHEARSED, cfg, **REHEARSAL)) as env:
        env.step(torch.zeros(env.action_space.shape))  # pyright: ignore[reportArgumentType]  (a Box has one)
        if cfg.train.checkpoint:
            load_agent(env, cfg, Path(cfg.train.checkpoint))


def check(cfg: RunConfig) -> None:
    """Raises ValueError, RuntimeError or OSError if this machine, its folders or the checkpoint are not up to `cfg`."""
    device = distributed.device_of_rank(choose_engine(cfg.env.backend, cfg.env.device)[1])
    if distributed.launched():
        if cfg.train.test:
            raise ValueError("train.test = True: allowed is one process, without torchrun")
        choose_engine(cfg.env.backend, device)
        distributed.start(device)
    if not distributed.is_main():
        cfg.env.render = cfg.env.record_video = cfg.train.wandb.enabled = False
    cfg.train.wandb.enabled &= not cfg.train.test
    wandb_logger.check(cfg.train.wandb)
    workspace.check_writable()
    if cfg.train.checkpoint and not cfg.train.test:
        saved = checkpoints.load(cfg.train.checkpoint)
        done = saved["epoch"] if saved["optimizer"] else 0  # a policy alone is where a new training begins
        if done >= cfg.train.max_iterations:
            raise ValueError(f"train.max_iterations = {cfg.train.max_iterations}: allowed is more than the {done} done")


def make_env(cfg: RunConfig) -> DexHandVecEnv:
    """The environment of a run, with what the config leaves open decided."""
    train, task = cfg.train, find_task(cfg.task_name)
    if train.seed < 0:
        train.seed = distributed.gather(secrets.randbelow(2**31))[0]  # so that config.yaml has it
    if train.test and train.test_episodes is None:
        train.test_episodes = 256
    if train.test and train.test_episodes:
        cfg.env.num_envs = min(cfg.env.num_envs, train.test_episodes)
    if train.torch_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else CUDA's matrix products refuse
    if train.torch_deterministic != torch.are_deterministic_algorithms_enabled():  # to ask costs a second of imports
        torch.use_deterministic_algorithms(train.torch_deterministic)
    check_watching(cfg.env, is_shown(cfg))
    device = distributed.device_of_rank(choose_engine(cfg.env.backend, cfg.env.device)[1])
    env = make_vec_env(
        task, cfg.env.num_envs, cfg, train.seed + distributed.rank() * cfg.env.num_envs, **{"env.device": device}
    )
    sizes = env.single_observation_space.shape[0], env.single_action_space.shape[0]
    log.info("%s: %d environments on %s, %d observations, %d actions", cfg.task_name, env.num_envs, env.device, *sizes)
    if distributed.launched():
        log.info("%d ranks, each with as many environments", distributed.world_size())
    return env


def begin(cfg: RunConfig, env: DexHandVecEnv) -> Begun:
    """All that a training has before its first iteration. A policy of the other hand is mirrored: a training begins."""
    checkpoint = cfg.train.checkpoint
    learner, progress = ppo.begin(env, cfg.train, checkpoint)
    if checkpoint and needs_mirror(cfg, Path(checkpoint)):
        mirror(learner.agent, learner.optimizer, *(Image(*image) for image in images(env)))
        progress.best_reward, progress.best_success = -1e9, 0.0
    return learner, progress


def needs_mirror(cfg: RunConfig, checkpoint: Path) -> bool:
    """Whether a policy has learned with the hand that is the mirror image of ours. Of another it is told."""
    hand = configs.hand_of(checkpoint)
    if hand not in (cfg.env.hand, cfg.hand.mirror_image):
        log.warning("%s is a policy of the hand %s, not of %s", printable(checkpoint), printable(hand), cfg.env.hand)
    return hand == cfg.hand.mirror_image != ""


def open_run(cfg: RunConfig) -> Path:
    kind, experiment = ("test" if cfg.train.test else "train"), cfg.train.experiment
    keep = experiment.max_test_runs if cfg.train.test else experiment.max_train_runs
    name, clean = experiment.name or cfg.task_name.rpartition(":")[2], experiment.use_clean_workspace
    return workspace.create_run(name, kind, keep, clean, config=configs.to_yaml(cfg))


def run(cfg: RunConfig, env: DexHandVecEnv, begun: Optional[Begun], folder: Path) -> int:
    try:
        console = logs.start_logging(folder / "train.log", cfg.train.log_level)
        log.info("run: runs/%s", folder.name)
        wandb = wandb_logger.logging_to(cfg.train.wandb, dataclasses.asdict(cfg), folder, cfg.train.checkpoint)
        with wandb as tell_wandb, watched(
            env, is_shown(cfg), "1x" if cfg.train.test else "max", folder / "videos"
        ) as film:
            if begun:
                train(cfg, env, begun, folder, console, film, tell_wandb)
            else:
                test(cfg, env, folder, console, film)
        return 0
    except KeyboardInterrupt as stop:
        saved = max(folder.glob("nn/last_*.pth"), key=workspace.newness, default=None)
        hint = (
            f", checkpoint saved; to go on: --checkpoint runs/{folder.name}/nn/{saved.name}"
            if saved and not cfg.train.test
            else ""
        )
        word = {129: "terminal closed", 143: "terminated"}.get(exit_status(stop), "interrupted")
        log.warning("%s%s", word, hint)
        return exit_status(stop)
    except checkpoints.CheckpointError as error:
        log.error("%s%s", distributed.label(), error)
        return 2
    except (checkpoints.SaveError, workspace.WriteError) as error:
        log.error("%s%s", distributed.label(), error)
        return 1
    except BaseException as error:  # a task may raise anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if "/torch/distributed/" in frame.filename:
            log.error("%sanother rank is gone; its own message says why", distributed.label())
        log.error("%scrashed in %s:%d, %s", distributed.label(), frame.filename, frame.lineno, mistakes.in_words(error))
        if distributed.is_main():
            log.error("the traceback is in runs/%s/train.log", folder.name)
        logs.traceback_log.error("", exc_info=error)
        return 1


def explain(error: BaseException) -> str:
    """One line."""
    ours = {Path(__file__).resolve(), Path(configs.__file__).resolve()}
    ours |= {Path(str(module.__file__)).resolve().parent for module in (dexhand_gym, ppo)}
    return mistakes.explain(error, ours, {entry.partition(":")[0].partition(".")[0] for entry in tasks().values()})


def is_shown(cfg: RunConfig) -> bool:
    return cfg.env.render or (cfg.env.render is None and cfg.train.test)


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

    def after_iteration(metrics: Dict[str, float]) -> None:
        display(metrics)
        tell_wandb(metrics)
        if metrics["iteration"] % cfg.env.video_interval == 0:
            film(f"iteration_{metrics['iteration']:06.0f}")

    with display.live:
        ppo.learn(env, *begun, folder, after_iteration, cfg.train.checkpoint)
    if not distributed.is_main():
        return
    best = workspace.best_checkpoint(folder)
    film("best")
    measure(env, *load_agent(env, cfg, best), cfg.train.test_episodes or env.num_envs, best, folder, console)
    log.info(
        "%s checkpoint: runs/%s/nn/%s", "newest" if best.name.startswith("last_") else "best", folder.name, best.name
    )
    code = f" --task {cfg.task_name}" if ":" in cfg.task_name else ""  # which no run brings along by itself
    code += f" --env.hand {cfg.env.hand}" if ":" in cfg.env.hand else ""
    code += f" --import {' '.join(cfg.imports)}" if cfg.imports else ""
    log.info("test it: %s --test%s --checkpoint runs/%s", configs.COMMAND, code, folder.name)
    log.info("see its curves: tensorboard --logdir runs/%s", folder.name)


# --- Test ------------------------------------------------------------------------------------------------------------


def test(cfg: RunConfig, env: DexHandVecEnv, folder: Path, console: Console, film: Callable[[str], None]) -> None:
    """One round of `test_episodes` episodes, or round after round (see TrainConfig.reload_interval)."""
    path, interval = Path(str(cfg.train.checkpoint)), cfg.train.reload_interval
    (folder / "nn").mkdir()
    workspace.link_or_copy(folder / "nn" / path.name, path)  # what `--checkpoint latest_test` means
    (agent, iteration), loaded = load_agent(env, cfg, path), time.monotonic()

    def reload() -> None:
        nonlocal path, iteration, loaded
        loaded = time.monotonic()
        try:
            newer = workspace.best_checkpoint(path.parent)
            iteration = load_weights(env, agent, cfg, newer)
            path = newer
        except (ValueError, OSError) as error:  # deleted, or not yet whole: its writer may be another program
            log.warning("goes on with the policy it has: %s", error)

    if env.viewer is not None:
        env.viewer.on_reload = reload
        if asked_to_show(cfg):
            visitors.wait_for_a_visitor(env.viewer)
    film("test")
    while True:
        measure(env, agent, iteration, cfg.train.test_episodes or env.num_envs, path, folder, console)
        if cfg.train.test_episodes and not interval:
            break
        if interval and time.monotonic() - loaded >= interval:
            reload()
    if asked_to_show(cfg) and env.viewer is not None and not env.viewer.is_over():
        visitors.stay_for_visitors(env.viewer)


def asked_to_show(cfg: RunConfig) -> bool:
    """Whether somebody at a terminal has said --render: a script is not kept waiting."""
    return bool(cfg.env.render) and sys.stdin is not None and sys.stdin.isatty()


def load_agent(env: DexHandVecEnv, cfg: RunConfig, path: Path) -> Tuple[ppo.Agent, int]:
    """The policy of a checkpoint and its iteration. Raises CheckpointError if it does not fit."""
    agent = ppo.Agent(env.single_observation_space, env.single_action_space, cfg.train).to(env.device)
    return agent, load_weights(env, agent, cfg, path)


def load_weights(env: DexHandVecEnv, agent: ppo.Agent, cfg: RunConfig, path: Path) -> int:
    """Those of a checkpoint, of whose iteration it tells; mirrored if they are of the other hand."""
    epoch = ppo.load_agent(path, agent, cfg.train)["epoch"]
    if needs_mirror(cfg, path):
        mirror(agent, None, *(Image(*image) for image in images(env)))
    return epoch


def measure(
    env: DexHandVecEnv, agent: ppo.Agent, iteration: int, episodes: int, path: Path, folder: Path, console: Console
) -> None:
    """Plays, and tells the log and `folder`/result.json how it went. `path` is where the agent comes from."""
    with progress_of(episodes, console) as tell:
        result = {"checkpoint": str(path), "iteration": iteration, **evaluate(env, agent, episodes, tell)}
    workspace.write(folder / "result.json", workspace.to_json(result))
    what = "tested: %s after %d iterations, %d episodes without exploration%s\n%s"
    few = f" in {result['independent']} environments" if result["independent"] < result["episodes"] else ""
    log.info(what, printable(path.name), iteration, result["episodes"], few, as_text(result_table(result)))


if __name__ == "__main__":
    sys.exit(main())
