"""Reads settings: --num-envs 64, task.episodeLength=400 or a tree of YAML -> {full name: its words} -> values.

It knows the names that users write for the fields of a run, but no task.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import io
import re
from typing import Any, Dict, List, Optional, Sequence, Tuple, TypeVar

import tyro
from typing_extensions import get_args, get_origin

from dexhand_gym.envs.config import OLDER_NAMES
from dexhand_gym.fields import field_types, refusal, shortened
from dexhand_gym.sim import PHYSICS

Settings = Dict[str, List[str]]
T = TypeVar("T")
NONE = (["None"], ["none"], ["null"])  # ways to write that there is no value

SHORT_NAMES: Dict[str, Tuple[str, str]] = {
    "task": ("task_name", "what to learn: {tasks}, or package.module:Class of your own"),
    "num_envs": ("env.num_envs", "parallel environments"),
    "max_iterations": (
        "train.max_iterations",
        "length of the training; a task may have a default of its own, as grasping has",
    ),
    "seed": ("train.seed", "-1 draws one"),
    "test": ("train.test", "test a policy instead of training one"),
    "checkpoint": (
        "train.checkpoint",
        "policy to test or training to go on with: latest, a run, a .pth file, pretrained; its task, physics and network come along",
    ),
    "render": ("env.render", "show it; by default a test does, a training does not"),
    "device": ("env.device", "where physics and learner live: auto, cpu, cuda, cuda:1 ..."),
    "wandb": ("train.wandb.enabled", "log to Weights & Biases; more in train.wandb.*"),
    "log_level": ("train.log_level", "debug, info, warning, error"),
    "import": ("imports", "modules to import first, such as the one that registers a task of yours"),
}
"""Short name -> full name and a line of help."""

STARTING_POINTS = {
    "config": "a YAML file, such as a run's config.yaml, or a preset (below)",
    "physics": f"speed against precision: {', '.join(PHYSICS)}",
    "train_config": "train settings from an rl_games YAML file",
}
"""Names that stand for many settings (single settings override them), with a line of help."""

# The original's names, in snake_case.
GROUPS = {
    "training.": "train.",
    "testing.": "train.",
    "logging.": "train.",
    "experiment.": "train.experiment.",
    "reward.": "task.reward_weights.",
    "env.box.": "env.object.",
}
ALIASES = {
    "max_iter": "train.max_iterations",
    "train.experiment_name": "train.experiment.name",
    "train.experiment.max_recent_runs": "max_recent_runs",
    "config_name": "config",
    "cn": "config",
    "train.test_games_num": "train.test_episodes",
    "test_games_num": "train.test_episodes",
    "train": "train_config",
    "sim.physx.num_threads": "sim.threads",
    **{f"task.{old}": f"task.{new}" for old, new in OLDER_NAMES.items()},
}
INSTEAD = {
    "env.graphics_device_id": (
        "pictures are drawn on the GPU that the variable MUJOCO_EGL_DEVICE_ID names, with Isaac Gym on that of "
        "sim.physx.graphics_device"
    ),
}
"""Options of the original that do not exist here, and what to use instead."""


def read_command_line(argv: Sequence[str], default: Any) -> Settings:
    """["--num-envs", "64", "task.episodeLength=400"] -> {"env.num_envs": ["64"], "task.episode_length": ["400"]}"""
    settings: Settings = {}
    words: Optional[List[str]] = None
    others = dict.fromkeys([*STARTING_POINTS, "max_recent_runs", "defaults", "local_rank"], str)
    types: Dict[str, Any] = {**others, **all_types(default)}
    hint: Any = None
    for token in argv:
        match = re.fullmatch(r"(-{0,2}|\+{0,2})([A-Za-z][\w.-]*)(=.*)?", token, re.DOTALL)
        dashes, name, value = (match[1], full_name(match[2]), match[3]) if match else ("", "", None)
        several = Ellipsis in get_args(hint)
        full = bool in (hint, *get_args(hint)) or (words != [] and not several)  # the previous option takes no more
        exists = name in types or name.startswith("task.")
        if dashes:
            is_option = full or exists  # else it is a value, such as -inf
        else:
            is_option = bool(value) and (full or (exists and (several or hint is None)))  # else a value: epoch=12.pth
        if is_option:
            words, hint = ([value[1:]] if value else []), types.get(name)
            settings[name] = words
        elif words is None:
            raise ValueError(
                f"{shortened(repr(token))} is not an option: allowed are --name value and name=value (see --help)"
            )
        else:
            words.append(token)
    for name, words in settings.items():
        if words == [""] and str in (types.get(name), *get_args(types.get(name))):
            raise refusal(name, "", types[name])
    settings.pop("local_rank", None)  # from torch.distributed.launch, which also sets LOCAL_RANK
    for entry in elements(settings.pop("defaults", [])):  # Hydra's list: +defaults=[config,/physics/fast]
        group, _, name = entry.strip("/").rpartition("/")
        if entry != "config":
            settings[full_name(group or "config")] = [name]
    return settings


def full_name(name: str) -> str:
    """num-envs, numEnvs, env.numEnvs -> env.num_envs"""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.replace("-", "_")).lower()
    for group, section in GROUPS.items():
        if name.startswith(group):
            name = section + name[len(group) :]
    return SHORT_NAMES[name][0] if name in SHORT_NAMES else ALIASES.get(name, name)


def flatten(tree: Dict[str, Any], prefix: str = "") -> Settings:
    """{"sim": {"dt": 0.01}} -> {"sim.dt": ["0.01"]}"""
    settings: Settings = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            settings.update(flatten(value, f"{name}."))
        else:
            settings[full_name(name)] = [str(x) for x in (value if isinstance(value, (list, tuple)) else [value])]
    return settings


def leaves(tree: Dict[str, Any], prefix: str = "") -> List[str]:
    """The names in a tree, as they are spelled there."""
    names = []
    for key, value in tree.items():
        names += leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return names


def apply(cfg: T, settings: Settings) -> T:
    """A copy of `cfg` with the settings in place. Raises ValueError, one line that names the first that is wrong."""
    if not settings:
        return copy.deepcopy(cfg)
    types = all_types(cfg)
    spelled = {full_name(name): name for name in types}  # a task may spell its names differently
    for name in settings:
        if full_name(name) not in spelled:
            raise ValueError(unknown_option(name, list(types)))
    settings = {spelled[full_name(name)]: words for name, words in settings.items()}
    names = list(settings)
    flags = [flag for name in names for flag in to_flag(name, settings[name], types[name])]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(type(cfg), default=cfg, args=flags, config=(tyro.conf.FlagConversionOff,))
    except SystemExit:
        pass
    if len(names) == 1 and types[names[0]] is str and len(settings[names[0]]) > 1:
        value = shortened(repr(" ".join(settings[names[0]])))
        raise ValueError(f"{names[0]} = {value}: allowed is one value, in quotes where it has a space in it")
    if len(names) == 1:
        raise refusal(names[0], " ".join(settings[names[0]]), types[names[0]])
    for half in (names[: len(names) // 2], names[len(names) // 2 :]):
        apply(cfg, {name: settings[name] for name in half})  # one half raises: tyro does not say which option
    raise ValueError(f"these options do not go together: {', '.join(names)}")


def all_types(node: Any, prefix: str = "") -> Dict[str, Any]:
    """Full name -> type, of every field and of every entry of a dict."""
    types: Dict[str, Any] = {}
    hints = field_types(type(node))
    for item in dataclasses.fields(node):
        name, value = f"{prefix}{item.name}", getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            types.update(all_types(value, f"{name}."))
        elif isinstance(value, dict):
            if len(get_args(hints[item.name])) != 2:
                raise ValueError(f"{name}: its type is {hints[item.name]}, allowed is one such as Dict[str, float]")
            types.update({f"{name}.{key}": get_args(hints[item.name])[1] for key in value})
        else:
            types[name] = hints[item.name]
    return types


def unknown_option(name: str, known: List[str]) -> str:
    if name in INSTEAD:
        return f"{name} is not an option here: {INSTEAD[name]}"
    older = {f"task.{new}": f" (older name: task.{old})" for old, new in OLDER_NAMES.items()}
    section, siblings = name, []
    while section and not siblings:  # those of the nearest section that exists
        section = section.rpartition(".")[0]
        siblings = [other for other in known if section and other.rpartition(".")[0] == section]
    near = difflib.get_close_matches(name, [*SHORT_NAMES, *STARTING_POINTS, *known], n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    allowed = ", ".join([other.split(".")[-1] for other in siblings] or [*SHORT_NAMES, *STARTING_POINTS])
    return f"unknown option {name}{older.get(name, '')}{hint} Allowed: {allowed} (--help-all lists every one)"


def to_flag(name: str, words: List[str], hint: Any) -> List[str]:
    """The flag for tyro. Accepts `--test`, `render=true`, `checkpoint=null`, `train.units=[64,64]`."""
    if type(None) in get_args(hint) and words in NONE:
        words = ["None"]
    elif bool in (hint, *get_args(hint)):
        words = [word.capitalize() for word in words or ["true"]]
    elif tuple in (get_origin(hint), *map(get_origin, get_args(hint))) and len(words) == 1:
        words = elements(words)
    return [f"--{name}={words[0]}"] if len(words) == 1 else [f"--{name}", *words]


def elements(words: List[str]) -> List[str]:
    """["[64, 32]"] -> ["64", "32"]"""
    return [element for element in re.split(r"[,\s]+", " ".join(words).strip("[]()")) if element]


def only_word(name: str, words: List[str]) -> str:
    if len(words) != 1:
        raise ValueError(f"{name} = {shortened(repr(' '.join(words)))}: allowed is one value")
    return words[0]
