"""The configuration of a run, from flags, key=value, presets and YAML files.

All of these are first read as settings (dexhand_gym/settings.py), where later ones override earlier ones, and then
applied to a RunConfig.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import logging
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Literal, Optional, Sequence, Tuple

import tyro
import yaml
from torch import Tensor

from dexhand_gym import find_task, tasks
from dexhand_gym.envs import task_class
from dexhand_gym.envs.config import Config, EnvConfig
from dexhand_gym.envs.randomize_config import OF_TRAINING
from dexhand_gym.fields import Annotated, Matching, Range, check, check_name
from dexhand_gym.help_text import help_text
from dexhand_gym.settings import (
    NONE,
    SHORT_NAMES,
    STARTING_POINTS,
    Settings,
    all_types,
    apply,
    elements,
    flatten,
    full_name,
    leaves,
    only_word,
    read_command_line,
)
from dexhand_gym.sim import PHYSICS

if TYPE_CHECKING or not __package__:
    from ppo import checkpoint as checkpoints
    from ppo import distill, pretrained, rl_games_params, strict_yaml, workspace
    from ppo.ppo import ACTIVATIONS, PPOConfig
    from ppo.text import printable
    from ppo.wandb_logger import WandbConfig
else:  # installed, this file is dexhand_gym.command.configs
    from dexhand_gym.ppo import checkpoint as checkpoints
    from dexhand_gym.ppo import distill, pretrained, rl_games_params, strict_yaml, workspace
    from dexhand_gym.ppo.ppo import ACTIVATIONS, PPOConfig
    from dexhand_gym.ppo.text import printable
    from dexhand_gym.ppo.wandb_logger import WandbConfig

log = logging.getLogger(__name__)

_program = sys.argv[0] if Path(sys.argv[0]).name == "train_ppo.py" else "train_ppo.py"
COMMAND = "dexhand-train" if __package__ else f"python {_program}"


@dataclass
class ExperimentConfig:
    """The run's folder."""

    name: Optional[str] = None
    """Beginning of the folder's name; by default the task."""
    use_clean_workspace: bool = True
    """Keep run folders in runs_all/ and links to the newest of them in runs/. False: keep run folders in runs/."""
    max_train_runs: Annotated[int, Range(1, 10**6)] = 10
    """Training runs that keep a link in runs/."""
    max_test_runs: Annotated[int, Range(1, 10**6)] = 10
    """Test runs that keep a link in runs/. (max_recent_runs sets both.)"""


@dataclass
class TrainConfig(PPOConfig):
    """PPO, testing, logging."""

    test: bool = False
    """Test the policy of `checkpoint` instead of training."""
    test_episodes: Optional[Annotated[int, Range(0, 10**9)]] = None
    """Episodes of a test, and of the test at the end of a training. None: 256 in a test, one per environment after a
    training. 0: none after a training; a test runs round after round, forever."""
    stop_at_success: Optional[Annotated[float, Range(0, 1)]] = None
    """Ends the training when this share of 256 attempts without exploration succeeds; every minute 64 of them, in
    environments of their own, tell how far it is."""
    reload_interval: Annotated[float, Range(0, 1e9)] = 0.0
    """Above 0: the test runs round after round, forever, and reloads the run's best or newest policy whenever this many
    seconds have passed."""
    checkpoint: Optional[Annotated[str, Matching(r"(?s)[^\0]+", "a file or a run")]] = None
    """Policy to test, or training to resume: latest, latest_train, latest_test, a run, a .pth file, or pretrained, the
    policy that comes with the package (pretrained:v0: an older one). Given a run, a test uses its best checkpoint, a
    training its newest."""
    teacher: Optional[Annotated[str, Matching(r"(?s)[^\0]+", "a file or a run")]] = None
    """Policy to imitate, in the place of learning from rewards: as `checkpoint`. The new one sees what this command says,
    its teacher what its run says (ppo/distill.py)."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Level of detail on the console and in train.log; debug adds a table of the reward terms."""
    torch_deterministic: bool = False
    """Use only PyTorch's deterministic algorithms, some of which are slower. Physics on the CPU is bit-reproducible
    anyway; MuJoCo Warp's is not."""
    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def validate(self, num_envs: int) -> None:
        """Raises ValueError, one line with the field's full name."""
        try:
            # A test has no minibatches, so any batch size that they divide will do.
            super().validate(self.num_minibatches if self.test else num_envs)
            if self.experiment.name is not None:
                workspace.check_run_name(self.experiment.name)
        except ValueError as error:
            raise ValueError(f"train.{error}") from None
        if self.test and not self.checkpoint:
            raise ValueError("train.checkpoint is missing: a test needs one, for example --checkpoint latest")


@dataclass
class RunConfig(Config):
    """Complete configuration of a run."""

    task_name: str = "BaseTask"
    """One of dexhand_gym.tasks(), or module:Class."""
    imports: Tuple[str, ...] = ()
    """Modules to import first. Accepted on the command line only: reading a file never runs code."""
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def shown(self) -> bool:
        """Whether to show the environments."""
        return self.env.render or (self.env.render is None and self.train.test)

    def validate(self) -> None:
        super().validate()
        self.train.validate(self.env.num_envs)
        if not (self.task.policy_controls_base or self.task.policy_controls_fingers):
            names = "task.policy_controls_base, task.policy_controls_fingers"
            raise ValueError(f"{names} = False, False: allowed is one True at least, else there is nothing to learn")


_TEST = {"test": True, "checkpoint": "latest", "num_envs": 16}
_WATCH = {**_TEST, "render": True, "train.test_episodes": 0, "train.reload_interval": 30}
NETWORK = tuple(
    f"train.{name}"
    for name in ("units", "activation", "separate", "normalize_input", "normalize_value", "clip_actions")
)
"""Settings that a policy's network depends on."""
LEARNING = tuple(
    f"train.{item.name}"
    for item in dataclasses.fields(PPOConfig)
    if item.name not in ("name", "save_frequency", "keep_checkpoints", "log_interval", "compile", "cuda_graphs")
)
"""Settings that the results of a training depend on."""

PRESETS: Dict[str, Dict[str, Any]] = {
    "train_headless": {"num_envs": 8192, "render": False, "env.compile": True, "train.compile": True},
    "test_render": _WATCH,
    "test_stream": _WATCH,
    "test_record": {**_TEST, "render": False, "env.record_video": True, "train.test_episodes": 16},
    "train_cpu": {
        "device": "cpu",
        "num_envs": 512,
        "render": False,
        "max_iterations": 800,
        "train.num_minibatches": 8,
        "train.entropy_coef": -0.0015,  # else the mean action, without noise, stands still where there is no contact
    },
    "debug": {"num_envs": 4, "log_level": "debug", "max_iterations": 20, "train.log_interval": 1},
}
"""Presets for --config (which also takes a file): fields by short or full name."""


def default_config(task_name: str = RunConfig.task_name) -> RunConfig:
    """A task's default configuration."""
    cls = task_class(find_task(task_name))
    for name in cls.train_defaults:
        check_name(f"task '{task_name}': train_defaults", name, [item.name for item in dataclasses.fields(PPOConfig)])
    sim, train = copy.deepcopy(PHYSICS[cls.physics]), TrainConfig(**cls.train_defaults)
    return RunConfig(sim=sim, task=cls.config(), task_name=task_name, train=train)


def parse(argv: Sequence[str]) -> RunConfig:
    """The configuration that a command line asks for. Raises ValueError, one line, at the first mistake."""
    command_line = read_command_line(argv, default_config())
    given = expand(command_line)
    modules = elements(command_line.get("imports", []))
    if "imports" in command_line and not modules:
        raise ValueError("import is empty: allowed is the name of a module, such as my_package.spin")
    refuse_code(command_line, given, modules)
    if modules or ":" in "".join((*given.get("task_name", []), *given.get("env.hand", []))):
        import_modules(modules)
        given["imports"] = modules
    if "train.checkpoint" in given:
        given["train.checkpoint"] = pretrained.resolve(given, "train.checkpoint")
    file, run = settings_of_run(given)
    teacher = " ".join(given.get("train.teacher", []))
    if "train.teacher" in given:
        if "task_name" in run:
            given.setdefault("task_name", run["task_name"])
        given["train.teacher"] = pretrained.resolve(given, "train.teacher")
    ours = {**train_config(given, run), **given}
    task = ours.pop("task_name", run.pop("task_name", [RunConfig.task_name]))
    cfg = default_config(only_word("task", task))
    with naming(file or task[0]):
        check(cfg := apply(cfg, run))
    if command_line.get("config", [""])[0].endswith((".yaml", ".yml")):
        in_file = read_config(command_line["config"][0])
        with naming(f"config = '{command_line['config'][0]}'"):
            check(apply(cfg, {name: words for name, words in in_file.items() if name not in STARTING_POINTS}))
    refuse_options_of_others(cfg, ours)
    ours.update(own_object(cfg, ours, command_line))
    theirs, cfg = cfg, apply(cfg, ours)
    if file:
        warn_of_other_task(file, theirs, cfg)
    for name in OF_TRAINING if cfg.train.test else ():
        setattr(cfg.task.randomize, name, 0.0)  # a test is as wide as its ranges, and draws evenly
    cfg.validate()
    if cfg.train.checkpoint:
        cfg.train.checkpoint = str(workspace.resolve_checkpoint(cfg.train.checkpoint, newest=not cfg.train.test))
    if cfg.train.teacher:
        find_teacher(cfg, teacher or cfg.train.teacher, ours)
        for name in distill.NOT_LEARNED_BY:
            if (value := command_line.get(f"train.{name}")) is not None:
                raise ValueError(
                    f"train.{name} = {' '.join(value)} does nothing next to train.teacher: allowed is one of them"
                )
    return cfg


def refuse_options_of_others(cfg: RunConfig, ours: Settings) -> None:
    """Raises ValueError, one line, for a setting that this task does not have, but one that comes with the package."""
    known = {full_name(name) for name in all_types(cfg)}
    for name in ours:
        if name.startswith("task.") and full_name(name) not in known:
            own = [task for task, where in tasks().items() if where.startswith("dexhand_gym.")]
            having = ", ".join(task for task in own if name in all_types(default_config(task)))
            if having:
                raise ValueError(f"{name} is an option of {having} (--task), not of {cfg.task_name}")


def own_object(cfg: RunConfig, ours: Settings, command_line: Settings) -> Settings:
    """The settings by which an object that the command line names is the one that is there: what it says is not drawn, as
    it is in `cfg` or a file. Raises ValueError, one line, if the command line says both."""
    fixed: Settings = {}
    for name in ("size", "mass", "friction"):
        value, drawn = f"env.object.{name}", f"task.randomize.box_{name}"
        usual = getattr(cfg.task.randomize, f"box_{name}")
        is_drawn = ours[drawn] not in NONE if drawn in ours else usual is not None
        both, edges = drawn in command_line, len(command_line.get(value, [])) > 1
        if value not in command_line or not is_drawn or (both and edges):  # a range scales edges
            continue
        said = " ".join(command_line[value])
        if both:
            raise ValueError(f"{value} = {said} does nothing next to {drawn}, which draws it: allowed is one of them")
        fixed[drawn] = ["None"]
        log.info("%s %s, which is not drawn (%s None)", value, printable(said), drawn)
    return fixed


def warn_of_other_task(file: Path, theirs: RunConfig, ours: RunConfig) -> None:
    """Warns of settings that make of a run's task, whose config.yaml is `file`, another one than it has learned."""
    before, now = (flatten({"task": dataclasses.asdict(cfg.task)}) for cfg in (theirs, ours))
    for name in (*distill.SAME, "task.policy_observation_keys", "task.observation_history"):
        learned, here = (printable(" ".join(settings.get(name, []))) for settings in (before, now))
        if learned != here:
            log.warning("%s: its policy has learned %s %s, not %s", printable(file), name, learned, here)


def find_teacher(cfg: RunConfig, said: str, given: Settings) -> None:
    """Resolves train.teacher, of which a user `said` this, and lets the critic see what it sees. Raises ValueError, one
    line, for one that cannot teach this task."""
    try:
        cfg.train.teacher = str(workspace.resolve_checkpoint(str(cfg.train.teacher)))
    except ValueError as error:
        raise ValueError(str(error).replace("checkpoint", "train.teacher", 1)) from None
    file = workspace.run_of(Path(cfg.train.teacher)) / "config.yaml"
    with naming(f"train.teacher = {said!r}"):
        if cfg.train.test:
            raise ValueError("a test has no teacher, allowed is None")
        theirs = read_yaml(file) if file.is_file() else {}
        default = default_config(cfg.task_name)
        default.validate()
        ours, usual = (flatten(dataclasses.asdict(x)) for x in (cfg, default))
        seen = elements(distill.what_it_sees(theirs, ours, usual))
    rest = [name for name in cfg.task.critic_observation_keys if name not in seen]
    cfg.task.critic_observation_keys = (*seen, *rest)
    if "train.sigma_init" not in given:
        cfg.train.sigma_init = distill.SIGMA


def refuse_code(command_line: Settings, given: Settings, modules: List[str]) -> None:
    """Raises ValueError, one line, if only a file names code: reading a file must not run any, so the command line has
    to name it."""
    code = {f"--import {name}": name for name in elements(given.get("imports", [])) if name not in modules}
    task = " ".join(given.get("task_name", []))
    hand = " ".join(given.get("env.hand", []))
    for option, name, value in (("--task", "task_name", task), ("--env.hand", "env.hand", hand)):
        if ":" in value and name not in command_line:
            code[f"{option} {value}"] = value
    for option, name in code.items():
        raise ValueError(f"config = '{command_line['config'][0]}': {name!r} is code; to import it say {option}")


@contextlib.contextmanager
def naming(source: Any) -> Iterator[None]:
    """Prefixes a ValueError with the source of the mistake."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def import_modules(names: Sequence[str]) -> None:
    """Imports what --import names, from the current folder too, as `python -m` does."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"import = {name!r}: allowed is the name of a module, such as my_package.spin")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and f"{name}.".startswith(f"{error.name}."):  # else an import inside the module failed
                raise ValueError(f"import = {name!r}: {error}") from None
            raise


def expand(settings: Settings) -> Settings:
    """Replaces each name that stands for many settings by these settings; settings given individually override them."""
    many: Settings = {}
    meanings = {
        "config": read_config,
        "physics": read_physics,
        "max_recent_runs": lambda n: {f"train.experiment.max_{kind}_runs": [n] for kind in ("train", "test")},
    }
    for name, meaning in meanings.items():
        if name in settings:
            many.update(meaning(only_word(name, settings[name])))
    return {**many, **{name: words for name, words in settings.items() if name not in meanings}}


def read_config(name: str) -> Settings:
    """Settings of a preset or a file."""
    if Path(name).suffix in (".yaml", ".yml"):
        settings = read_yaml(Path(name))
    else:
        check_name("config (a preset or a .yaml file)", name, PRESETS)
        settings = flatten(PRESETS[name])
    if "config" in settings:
        raise ValueError(f"config = {name!r}: it names another config, which is not allowed in a file")
    return expand(settings)


def read_physics(name: str) -> Settings:
    """The settings of sim for one of PHYSICS."""
    check_name("physics", name, PHYSICS)
    return flatten({"sim": dataclasses.asdict(PHYSICS[name])})


def settings_of_run(given: Settings) -> Tuple[Optional[Path], Settings]:
    """The config.yaml of a checkpoint's run, and what is taken over from it: task, physics, network; to resume, also PPO's
    settings and num_envs. All else is the user's, for the run may be a stranger's. Nothing if it was of another task."""
    if given.get("train.checkpoint", ["None"]) in NONE:
        return None, {}
    goes_on = given.get("train.test", ["False"])[-1:] in (["False"], ["false"])
    checkpoint = workspace.resolve_checkpoint(only_word("checkpoint", given["train.checkpoint"]), newest=goes_on)
    file = workspace.run_of(checkpoint) / "config.yaml"
    settings: Settings = {}
    try:
        settings = read_yaml(file) if file.is_file() else {}
    except ValueError as error:
        log.warning("left aside: %s", error)
    if not {"task_name", "sim.dt", "train.units"} <= set(settings):  # missing, or not written by a run of ours
        return None, network_of(checkpoint, given)
    if given.get("task_name", settings["task_name"]) != settings["task_name"]:
        log.warning("%s is a policy of %s, not of %s", checkpoint, settings["task_name"][0], given["task_name"][0])
        return None, {}
    task, modules = settings["task_name"][0], elements(settings.get("imports", []))
    if "task_name" not in given and (":" in task or (modules and task not in tasks())):
        option = f"--task {task}" if ":" in task else f"--import {' '.join(modules)}"
        raise ValueError(f"{file}: its task {task!r} is code; to import it say {option}")
    hand = settings.get("env.hand", ["right"])[0]
    if ":" in hand and "env.hand" not in given:
        raise ValueError(f"{file}: its hand {hand!r} is code; to import it say --env.hand {hand}")
    if goes_on and settings.get("train.teacher", ["None"]) not in NONE and "train.teacher" not in given:
        taught = printable(" ".join(settings["train.teacher"]))
        log.warning("%s: its policy imitated %s (--train.teacher), from here on it learns from rewards", file, taught)
    along = (*NETWORK, *LEARNING) if goes_on else NETWORK
    settings = {name: words for name, words in settings.items() if name.startswith(workspace.TASK) or name in along}
    settings.pop("sim.threads", None)
    if goes_on:
        with contextlib.suppress(checkpoints.CheckpointError):  # reported when it is loaded for use
            rows = checkpoints.load(checkpoint)["ppo_state"].get("obs")
            settings.update({"env.num_envs": [str(len(rows))]} if isinstance(rows, Tensor) else {})
    log.info("settings of %s: task, physics%s", file, ", network and PPO" if goes_on else " and network")
    return file, settings


def network_of(checkpoint: Path, given: Settings) -> Settings:
    """The network settings that a checkpoint itself holds."""
    try:
        network = checkpoints.network(checkpoints.load(checkpoint))
    except checkpoints.CheckpointError:  # reported when it is loaded for use
        return {}
    if network.get("activation") not in ACTIVATIONS:
        network.pop("activation", None)  # a damaged one is reported when it is loaded for use
        if not {"train_config", "train.activation"} & set(given):
            taken = PPOConfig.activation
            log.warning("%s does not say its activation: taken is %s (--train.activation)", checkpoint, taken)
    return flatten({"train": network})


def train_config(given: Settings, start: Settings) -> Settings:
    """The settings of --train-config (taken out of `given`), a YAML file of rl_games."""
    if "train_config" not in given:
        return {}
    path = Path(only_word("train_config", given.pop("train_config")))
    params = rl_games_params.read_params(path if path.suffix else path.with_suffix(".yaml"))
    config = params["config"]
    fields = rl_games_params.ppo_fields(params)
    for key in ("env_config", "env_info", "vec_env", "train_dir"):
        if config.get(key):
            raise ValueError(f"params.config.{key} = {config[key]!r}: here the command line says that, leave it out")
    names = {"env.num_envs": "num_actors", "env.device": "device", "train.experiment.name": "full_experiment_name"}
    settings = flatten({name: config[key] for name, key in names.items() if config.get(key) is not None})
    name = config.get("env_name") or ""
    if "task_name" not in given and name in tasks():
        settings["task_name"] = [name]
        if (of_run := start.get("task_name", [name])[0]) != name:
            policy = f"the checkpoint is a policy of {of_run}, allowed is that, or say --task"
            raise ValueError(f"params.config.env_name = {name!r}: {policy}")
    elif name and not {"task_name"} & {*start, *given}:
        check_name("params.config.env_name (or say --task)", name, tasks())
    settings.update(flatten({"train": fields}))

    def word(name: str, default: Any) -> str:
        return " ".join({**start, **settings, **given}.get(name, [str(default)])).lower()

    num_envs, horizon = word("env.num_envs", EnvConfig.num_envs), word("train.horizon_length", "")
    known = num_envs.isdigit() and horizon.isdigit()  # else apply() will refuse them
    if known and word("train.test", False) == "false":
        if "train.num_minibatches" in given:
            config["minibatch_size"] = int(num_envs) * int(horizon)  # the file's value does not matter
        settings.update(flatten({"train": rl_games_params.batch_fields(params, int(num_envs), int(horizon))}))
    return settings


def read_yaml(path: Path) -> Settings:
    """Settings in a file: a whole RunConfig, as to_yaml() writes it, or a part of one; short names are allowed."""
    tree, seen = strict_yaml.read(path, "config", words=True), {}
    for name in leaves(tree):
        if full_name(name) in seen:
            raise ValueError(f"config = '{path}': {seen[full_name(name)]} and {name} are the same setting")
        seen[full_name(name)] = name
    return flatten(tree)


def to_yaml(cfg: RunConfig) -> str:
    """The configuration as YAML, for --config to read."""
    return yaml.safe_dump(dataclasses.asdict(cfg), sort_keys=False)


# --- Help ------------------------------------------------------------------------------------------------------------


def show_help(argv: Sequence[str]) -> None:
    """Prints help on the short names, or with --help-all in `argv` on every field."""
    if "--help-all" not in argv:
        defaults = flatten(dataclasses.asdict(default_config()))
        return print(help_text(COMMAND, defaults, PRESETS), end="")
    cfg = parse([word for word in argv if word not in ("--help-all", "--help", "-h")])
    short = [f"--{name.replace('_', '-')}" for name in SHORT_NAMES]
    print(
        f"All settings by their full names. Those with a short name too ({', '.join(short)}) are told of by --help.\n"
    )
    with contextlib.suppress(SystemExit):
        tyro.cli(RunConfig, default=cfg, args=["--help"], prog=COMMAND, config=(tyro.conf.FlagConversionOff,))
