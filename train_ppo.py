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
import logging.handlers
import math
import secrets
import select
import sys
import sysconfig
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, NoReturn, Optional, Sequence, Tuple

import torch
from rich import box
from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table

import dexhand_gym
from dexhand_gym import find_task, tasks
from dexhand_gym.envs import make_vec_env
from dexhand_gym.envs.vec_env import DexHandVecEnv
from dexhand_gym.sim import choose_engine

if TYPE_CHECKING or not __package__:
    import configs
    from configs import RunConfig
    from ppo import checkpoint as checkpoints
    from ppo import distributed, ppo, wandb_logger, workspace
    from ppo.text import PrintableFormatter, SurvivingFile, SurvivingStream, printable, write_anything
else:  # installed, this file is dexhand_gym.command.train_ppo
    from dexhand_gym.command import configs
    from dexhand_gym.command.configs import RunConfig
    from dexhand_gym.ppo import checkpoint as checkpoints
    from dexhand_gym.ppo import distributed, ppo, wandb_logger, workspace
    from dexhand_gym.ppo.text import PrintableFormatter, SurvivingFile, SurvivingStream, printable, write_anything

TELL_AFTER = 20.0  # s without a word in a test
REHEARSED = 7  # environments of a rehearsal; a number that no width is by chance
OURS = {Path(__file__).resolve(), *(Path(str(module.__file__)).resolve().parent for module in (dexhand_gym, ppo))}
OURS.add(Path(configs.__file__).resolve())

Begun = Tuple[ppo.Learner, ppo.Progress]

log = logging.getLogger("train_ppo")
progress_log = logging.getLogger("train_ppo.progress")
traceback_log = logging.getLogger("train_ppo.traceback")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Exit status: 0 done, 1 crashed, 2 a mistake in the command, 129 the terminal was closed, 130 interrupted, 143
    terminated."""
    argv, cfg = (sys.argv[1:] if argv is None else argv), None
    write_anything()
    collect_log()
    try:
        distributed.check_environment()
        if {"-h", "--help", "--help-all"} & set(argv):
            configs.show_help(argv)
            return 0
        cfg = check(configs.parse(argv))
        env = make_env(cfg)
        begun = None if cfg.train.test else ppo.begin(env, cfg.train, cfg.train.checkpoint)
        folder = open_run(cfg) if distributed.is_main() else Path(os.devnull)
    except KeyboardInterrupt as stop:
        print("interrupted", file=sys.stderr)
        return exit_status(stop)
    except (Exception, SystemExit) as error:  # a user's value, file or task can raise anything
        if cfg is not None and cfg.train.log_level == "debug":
            traceback.print_exc()
        print(f"{distributed.label()}error: {explain(error)}", file=sys.stderr)
        return 2
    with contextlib.closing(env), stopping_signals():
        status = run(cfg, env, begun, folder)
    if status not in (1, 2):
        distributed.stop()
    return status


def check(cfg: RunConfig) -> RunConfig:
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
    return cfg


def make_env(cfg: RunConfig) -> DexHandVecEnv:
    """The environment, once a rehearsal without an engine has shown that task, config and checkpoint fit together."""
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
    with contextlib.closing(make_vec_env(task, REHEARSED, cfg, backend="none", device="cpu")) as env:
        env.step(torch.zeros(env.action_space.shape))  # pyright: ignore[reportArgumentType]  (a Box has one)
        if train.checkpoint:
            load_agent(env, cfg, Path(train.checkpoint))
    check_watching(cfg)
    device = distributed.device_of_rank(choose_engine(cfg.env.backend, cfg.env.device)[1])
    env = make_vec_env(task, cfg.env.num_envs, cfg, train.seed + distributed.rank() * cfg.env.num_envs, device=device)
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


def run(cfg: RunConfig, env: DexHandVecEnv, begun: Optional[Begun], folder: Path) -> int:
    try:
        console = start_logging(folder / "train.log", cfg.train.log_level)
        log.info("run: runs/%s", folder.name)
        wandb = wandb_logger.logging_to(cfg.train.wandb, dataclasses.asdict(cfg), folder, cfg.train.checkpoint)
        with wandb as tell_wandb, watched(cfg, env, folder) as film:
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
    except (Exception, SystemExit, GeneratorExit) as error:  # a task may raise anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if "/torch/distributed/" in frame.filename:
            log.error("%sanother rank is gone; its own message says why", distributed.label())
        log.error("%scrashed in %s:%d, %s", distributed.label(), frame.filename, frame.lineno, in_words(error))
        if distributed.is_main():
            log.error("the traceback is in runs/%s/train.log", folder.name)
        traceback_log.error("", exc_info=error)
        return 1


def explain(error: BaseException) -> str:
    """One line: what is wrong, and for an error in code that is not ours, where in it."""
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [frame for frame in frames if not is_ours(frame.filename) and not is_library(frame.filename)]
    message = printable(error)
    if message and is_ours(frames[-1].filename) and isinstance(error, (ValueError, RuntimeError, OSError)):
        return message
    if foreign:
        return f"{in_words(error)} (in {foreign[-1].filename}:{foreign[-1].lineno}, {foreign[-1].name})"
    return f"{in_words(error)} (--log-level debug shows where)"


def in_words(error: BaseException) -> str:
    """KeyError: 'speed', in one line."""
    return printable("".join(traceback.format_exception_only(type(error), error)))


def is_ours(file: str) -> bool:
    return Path(file).resolve() in OURS or bool(set(Path(file).resolve().parents) & OURS)


def is_library(file: str) -> bool:
    """Python's own or an installed package's, other than those in which tasks are."""
    tops = {entry.partition(":")[0].partition(".")[0] for entry in tasks().values()}
    parts = Path(file).with_suffix("").parts
    installed = bool({"site-packages", "dist-packages"} & set(parts)) and not tops & set(parts)
    return installed or file.startswith("<") or file.startswith(sysconfig.get_paths()["stdlib"])


def collect_log() -> None:
    """Keeps what is logged, warnings too, until start_logging() has a file for it."""
    everything = logging.handlers.MemoryHandler(0, flushLevel=logging.CRITICAL + 1)
    logging.basicConfig(level=logging.INFO, handlers=[everything], force=True)
    logging.captureWarnings(True)


@contextlib.contextmanager
def stopping_signals() -> Iterator[None]:
    """SIGTERM, and the SIGHUP of a terminal that is closed, stop a run as Ctrl-C does."""
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup ignores the last; None is a handler that is not Python's.
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def terminate(number: int, _: Any) -> NoReturn:
    """Raises KeyboardInterrupt(number). What nobody can read any more goes nowhere: writing to it would fail."""
    if number == signal.SIGHUP:
        signal.signal(number, signal.SIG_IGN)  # a shell sends it once more
        outputs = select.poll()
        for output in (1, 2):
            outputs.register(output, 0)
        for output, _ in outputs.poll(0):
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    raise KeyboardInterrupt(number)


def exit_status(stop: KeyboardInterrupt) -> int:
    """128 + the signal's number, as shells have it."""
    return 128 + (stop.args[0] if stop.args else signal.SIGINT)


def start_logging(file: Path, level: str) -> Console:
    """Everything goes to `file` and to the console, except that a terminal shows the progress as a table and that only
    debugging shows tracebacks. Of several ranks the first does that, the others only report their errors."""
    if not distributed.is_main():
        logging.basicConfig(level=logging.ERROR, format="%(message)s", force=True)
        return Console(quiet=True, force_terminal=False)
    console = Console()
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, show_level=False)
        handler.setFormatter(PrintableFormatter("%(message)s"))
        handler.addFilter(lambda record: record.name != progress_log.name)
    else:
        handler = SurvivingStream(sys.stdout)
        handler.setFormatter(PrintableFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(lambda record: record.name != traceback_log.name or level == "debug")
    to_file = SurvivingFile(file, encoding="utf-8", delay=True)
    to_file.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    early = [record for kept in logging.root.handlers for record in getattr(kept, "buffer", ())]
    logging.basicConfig(level=level.upper(), handlers=[handler, to_file], force=True)
    logging.captureWarnings(True)
    for record in early:
        if record.levelno >= logging.root.level:
            logging.root.handle(record)
    return console


# --- Watching --------------------------------------------------------------------------------------------------------


def check_watching(cfg: RunConfig) -> None:
    """Raises RuntimeError if what is to be shown or filmed cannot be, ValueError if not where it is to be."""
    mujoco = choose_engine(cfg.env.backend, cfg.env.device)[0] != "isaacgym"  # which draws itself
    try:
        if is_shown(cfg) and mujoco:
            with contextlib.suppress(*(() if cfg.env.render else (ImportError, RuntimeError))):  # a test goes on unseen
                from dexhand_gym.viewer import check_viewing

                check_viewing(cfg.env)
        if cfg.env.record_video:
            from dexhand_gym.video import check_recording

            check_recording(draw=mujoco)
    except ImportError as error:
        raise RuntimeError(f"nothing can be drawn here: {error}") from error


def is_shown(cfg: RunConfig) -> bool:
    return cfg.env.render or (cfg.env.render is None and cfg.train.test)


@contextlib.contextmanager
def watched(cfg: RunConfig, env: DexHandVecEnv, folder: Path) -> Iterator[Callable[[str], None]]:
    """Shows the environments and films them, as far as wanted. Gives a function that begins a clip of some name."""
    if is_shown(cfg):
        try:
            env.show("1x" if cfg.train.test else "max")
            log.info("watch: %s", env.viewer.where)
        except (ImportError, RuntimeError, ValueError) as error:
            log.warning("not shown: %s", error)
    if not cfg.env.record_video:
        yield lambda name: None
        return
    from dexhand_gym.video import Recorder

    with Recorder(env, folder / "videos") as recorder:
        yield recorder.start


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
    code += f" --import {' '.join(cfg.imports)}" if cfg.imports else ""
    log.info("test it: %s --test%s --checkpoint runs/%s", configs.COMMAND, code, folder.name)
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
        if self.iterations == 2 < self.cfg.max_iterations:  # the first one was slow: kernels, caches
            self.say_what_to_expect(metrics)
        self.window.append(metrics)
        iteration = int(metrics["iteration"])
        self.bar.update(self.task, completed=iteration)
        if iteration % self.cfg.log_interval and iteration != self.cfg.max_iterations:
            return
        left = (self.cfg.max_iterations - iteration) * (time.monotonic() - self.start) / self.iterations
        means = ppo.average(self.window)
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
        """Once, in environment steps and at this machine's rate."""
        seconds = metrics["rollout_seconds"] + metrics["update_seconds"]
        left = self.cfg.max_iterations - metrics["iteration"]
        steps = left * seconds * metrics["steps_per_second"]
        log.info("%.2f million environment steps to go, some %.0f min at this rate", steps / 1e6, left * seconds / 60)


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


def reward_table(metrics: Dict[str, float]) -> Table:
    """Each term of the reward, as it is and times its weight."""
    table = Table("term", Column("raw", justify="right"), Column("weighted", justify="right"))
    table.box, table.show_edge = box.SIMPLE_HEAD, False
    for name in (name[11:] for name in metrics if name.startswith("reward_raw/")):
        table.add_row(name, f"{metrics[f'reward_raw/{name}']:.4f}", f"{metrics[f'reward/{name}']:.4f}")
    return table


def as_text(table: Table) -> str:
    console = Console(width=80, color_system=None, file=sys.stdout)  # whose encoding may lack lines to draw with
    with console.capture() as text:
        console.print(table)
    return text.get().rstrip()


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
            iteration = ppo.load_agent(newer, agent, cfg.train)["epoch"]
            path = newer
        except (ValueError, OSError) as error:  # deleted, or not yet whole: its writer may be another program
            log.warning("goes on with the policy it has: %s", error)

    if env.viewer is not None:
        env.viewer.on_reload = reload
        if asked_to_show(cfg):
            wait_for_a_visitor(env.viewer)
    film("test")
    while True:
        measure(env, agent, iteration, cfg.train.test_episodes or env.num_envs, path, folder, console)
        if cfg.train.test_episodes and not interval:
            break
        if interval and time.monotonic() - loaded >= interval:
            reload()
    if asked_to_show(cfg) and env.viewer is not None and not env.viewer.is_over():
        stay_for_visitors(env.viewer)


def asked_to_show(cfg: RunConfig) -> bool:
    """Whether somebody at a terminal has said --render: a script is not kept waiting."""
    return bool(cfg.env.render) and sys.stdin is not None and sys.stdin.isatty()


def wait_for_a_visitor(viewer: Any) -> None:
    """Until somebody looks, or presses Enter."""
    if not viewer.watched():
        log.info("waiting until somebody opens %s (Enter goes on without)", viewer.where)
    while not viewer.watched():
        if select.select([0], [], [], 0.1)[0]:
            os.read(0, 4096)
            return


def load_agent(env: DexHandVecEnv, cfg: RunConfig, path: Path) -> Tuple[ppo.Agent, int]:
    """The policy of a checkpoint and its iteration. Raises CheckpointError if it does not fit."""
    agent = ppo.Agent(env.single_observation_space, env.single_action_space, cfg.train).to(env.device)
    return agent, ppo.load_agent(path, agent, cfg.train)["epoch"]


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


def stay_for_visitors(viewer: Any) -> None:
    """Until Ctrl-C, or until the window is closed."""
    log.info("still to be seen: %s; Ctrl-C ends it", viewer.where)
    try:
        # An exception might be raised in what a library ignores, and be lost.
        with ppo.postponed_signals(lambda: None) as caught:
            while not caught and not viewer.is_over():
                viewer.draw_still()
    except KeyboardInterrupt as stop:
        if exit_status(stop) != 128 + signal.SIGINT:
            raise


@contextlib.contextmanager
def progress_of(episodes: int, console: Console) -> Iterator[Callable[[int], None]]:
    """A function to tell how many episodes are done: a bar on a terminal, else a line now and then."""
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


def result_table(result: Dict[str, Any]) -> Table:
    """What evaluate() found."""
    table = Table("", "mean", "+- std or 95 % interval", box=box.ROUNDED)
    shares = {f"ended by {name}": share for name, share in result["endings"].items()}
    if "success_rate" in result:
        shares = {"success rate": result["success_rate"], **shares}
    for name, share in shares.items():
        low, high = wilson(share, result["independent"])
        table.add_row(name, f"{share:.1%}", f"{low:.1%} to {high:.1%}")
    for name in ("reward", "length"):
        table.add_row(name, f"{result[f'{name}_mean']:.2f}", f"+- {result[f'{name}_std']:.2f}")
    return table


@torch.no_grad()
def evaluate(
    env: DexHandVecEnv, agent: ppo.Agent, episodes: int, tell: Callable[[int], None] = lambda done: None
) -> Dict[str, Any]:
    """Plays `episodes` episodes and tells how many are done. How many of them each environment plays is settled before: to
    take those that end first would prefer short ones."""
    obs, _ = env.reset()
    left = torch.full((env.num_envs,), episodes // env.num_envs, device=obs.device)
    left[: episodes % env.num_envs] += 1
    rows, endings, done = [], {}, 0
    while (left > 0).any():
        obs, *_, info = env.step(agent.to_env(agent.act_deterministic(obs)))
        counted = info["_episode"] & (left > 0)
        left -= counted.long()
        endings = info["endings"]
        columns = (info["episode"]["r"], info["episode"]["l"], info["success"], *endings.values())
        rows.append(torch.stack([column.double() for column in columns], 1)[counted])
        done += len(rows[-1])
        tell(done)
    reward, length, success, *ended = torch.cat(rows).T
    result: Dict[str, Any] = {"episodes": len(reward), "independent": len(reward)}
    if env.differ:  # a second episode with the same box tells less than one with another
        result["independent"] = min(env.num_envs, len(reward))
    if env.success_criteria:
        result["success_rate"] = success.mean().item()
        result["success_rate_95"] = wilson(result["success_rate"], result["independent"])
    for name, column in (("reward", reward), ("length", length)):
        result[f"{name}_mean"], result[f"{name}_std"] = column.mean().item(), column.std(unbiased=False).item()
    result["endings"] = {name: column.mean().item() for name, column in zip(endings, ended)}
    return result


def wilson(share: float, n: int, z: float = 1.96) -> Tuple[float, float]:
    """Wilson's 95 % interval of a share seen in n episodes."""
    middle, spread = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (middle - spread) / (1 + z**2 / n), (middle + spread) / (1 + z**2 / n)


if __name__ == "__main__":
    sys.exit(main())
