"""The `params` of rl_games' YAML files, as fields of PPOConfig.

Supports those of rl_games 1.6.5 for a2c_continuous, continuous_a2c_logstd and actor_critic, with the defaults of
rl_games. The tables say how each key is used; unsupported keys are never ignored, but lead to one error that lists them
all.
"""

from __future__ import annotations

import difflib
import logging
import math
import re
from pathlib import Path
from typing import Any, Dict, List, NoReturn, Tuple, get_args, get_origin, get_type_hints

from . import strict_yaml
from .ppo import PPOConfig

log = logging.getLogger(__name__)

NEEDED, OURS = object(), object()  # instead of a default: rl_games has none; PPOConfig's, which changes no numbers

DEFAULTS: Dict[str, Any] = {
    "seed": OURS,
    "network.separate": False,
    "network.mlp.units": NEEDED,
    "network.mlp.activation": NEEDED,
    "network.space.continuous.sigma_init.val": 0.0,
    "config.name": NEEDED,
    "config.reward_shaper.scale_value": 1.0,
    "config.normalize_input": NEEDED,
    "config.normalize_value": False,
    "config.normalize_advantage": NEEDED,
    "config.horizon_length": NEEDED,
    "config.mini_epochs": NEEDED,
    "config.learning_rate": NEEDED,
    "config.schedule_type": "legacy",
    "config.kl_threshold": OURS,  # needed by the adaptive schedule, see ppo_fields()
    "config.gamma": NEEDED,
    "config.tau": NEEDED,
    "config.e_clip": NEEDED,
    "config.clip_value": NEEDED,
    "config.critic_coef": NEEDED,
    "config.entropy_coef": NEEDED,
    "config.schedule_entropy": False,
    "config.bounds_loss_coef": NEEDED,
    "config.bound_loss_type": "bound",
    "config.truncate_grads": False,
    "config.grad_norm": NEEDED,
    "config.weight_decay": 0.0,
    "config.clip_actions": True,
    "config.save_frequency": 0,
    "config.save_best_after": 100,
    "config.score_to_win": math.inf,
    "config.log_interval": OURS,
    "config.mixed_precision": False,
}
"""Key -> rl_games' default. A key sets the field of PPOConfig that is named as its last part."""

NOT_LEFT_OUT = [*(key for key, default in DEFAULTS.items() if default is NEEDED), "config.minibatch_size"]

RENAMED = {"val": "sigma_init", "scale_value": "reward_scale"}

FIXED: Dict[str, Tuple[Any, ...]] = {
    "algo.name": ("a2c_continuous",),
    "model.name": ("continuous_a2c_logstd",),
    "network.name": ("actor_critic",),
    "network.value_activation": ("None", None),
    "network.mlp.d2rl": (False,),
    "network.mlp.initializer.name": ("default",),
    "network.space.continuous.mu_activation": ("None", None),
    "network.space.continuous.sigma_activation": ("None", None),
    "network.space.continuous.mu_init.name": ("default",),
    "network.space.continuous.sigma_init.name": ("const_initializer", "default"),
    "network.space.continuous.fixed_sigma": (True,),
    "config.reward_shaper.shift_value": (0,),
    "config.reward_shaper.min_val": (-math.inf,),
    "config.reward_shaper.max_val": (math.inf,),
    "config.reward_shaper.log_val": (False,),
    "config.ppo": (True,),
    "config.use_smooth_clamp": (False,),
    "config.normalize_rms_advantage": (False,),
    "config.multi_gpu": (False,),
    "config.games_to_track": (100,),
    "config.central_value_config": (None,),
    "config.self_play": (False,),
    "config.self_play_config": (None,),
    "config.population_based_training": (False,),
    "config.use_action_masks": (False,),
    "config.freeze_critic": (False,),
    "config.epochs_between_resets": (0,),
    "config.max_steps": (-1,),
    "config.player.n_game_life": (1,),
    "config.player.evaluation": (False,),
    "config.player.balance_env_rewards": (False,),
}
"""Key -> the values that it may have: this PPO supports no others."""


SCHEDULES = ("adaptive", "linear", "fixed", "constant", "identity", "none", "None", None)
"""Allowed values of config.lr_schedule; to rl_games any other word, even a misspelt one, means a constant rate."""

IN_WORDS = {
    "network.cnn": "convolutional networks",
    "network.input_preprocessors": "observations of several parts",
    "network.inputs": "observations of several parts",
    "network.lstm": "recurrent networks",
    "network.rnn": "recurrent networks",
    "network.space.discrete": "discrete actions",
    "network.space.multi_discrete": "discrete actions",
    "network.space.continuous.fixed_sigma": "a standard deviation that depends on the observation",
    "network.space.continuous.mu_init": "initialisers other than default",
    "network.mlp.initializer": "initialisers other than default",
    "network.mlp.d2rl": "observations fed to every layer",
    "config.central_value_config": "a central value network of its own",
    "config.multi_gpu": "several GPUs without torchrun",
    "config.population_based_training": "population-based training",
    "config.reward_shaper": "reward shaping other than by scale_value",
    "config.rnd_config": "random network distillation",
    "config.self_play": "self-play",
    "config.use_action_masks": "action masks",
}
"""Beginning of a key -> the unsupported feature that it asks for."""


def keys(section: str, names: str) -> List[str]:
    return [section + name for name in names.split()]


USED = {
    "config.lr_schedule": object,
    "config.value_bootstrap": bool,
    **dict.fromkeys(keys("config.", "max_epochs max_frames minibatch_size minibatch_size_per_env num_actors"), int),
    **dict.fromkeys(keys("config.", "env_name device train_dir full_experiment_name"), str),
    **dict.fromkeys(keys("config.", "env_config player.env_config"), dict),
    **dict.fromkeys(keys("config.", "env_info vec_env"), object),
    **dict.fromkeys(keys("config.", "print_stats player.print_stats player.deterministic player.render"), bool),
    "config.player.games_num": int,
}
"""Keys that ppo_fields() or Runner read themselves, with their types; None is the same as leaving one out."""

IGNORED = [
    *keys("", "load_checkpoint load_path torch_threads network.normalization"),
    *keys("network.mlp.", "regularizer.name norm_only_first_layer"),
    *keys("network.mlp.initializer.", "scale gain std"),  # those of initialisers other than default
    *keys("network.space.continuous.mu_init.", "scale gain std"),
    *keys("config.", "seq_length seq_len bptt_length zero_rnn_on_done adv_rms_momentum use_experimental_cv is_train"),
    *keys("config.", "device_name network_path log_path use_diagnostics reward_shaper.is_torch"),
    *keys("config.", "torch_compile use_tensorboard tensorboard_logdir save_interval pbt_idx"),
    *keys("config.", "defer_summaries_sec summaries_interval_sec_min summaries_interval_sec_max force_interval_writer"),
    *keys("config.player.", "use_vecenv render_sleep update_checkpoint_freq dir_to_monitor"),
    *keys("env.", "clip_observations clip_actions obs_groups concate_obs_groups"),
]
"""Keys without an effect on the numbers, or without any in rl_games itself (load_checkpoint, normalization, log_path,
and env, which is for Isaac Lab's wrapper of environments)."""

WHOLE = ("env_config", "env_info", "vec_env", "torch_compile", "obs_groups")
"""Keys whose mapping counts as one value."""


def read_params(path: Path) -> Dict[str, Any]:
    """The `params` of a file, for our environments: what the file leaves to its own command line is left to ours.
    References for Hydra, as in Isaac Gym's files, are resolved to their default or left out. Raises ValueError, one
    line, for a file that is not rl_games', or that lists everything this PPO does not support."""
    tree = with_defaults(path)
    params = tree.get("params")
    if not isinstance(params, dict) or not isinstance(params.get("config"), dict):
        raise ValueError(f"train_config = '{path}': allowed is a file of rl_games, with params.config in it")
    params = without_references(params)
    config = params["config"]
    if config.get("num_actors") == -1:  # Isaac Lab's
        del config["num_actors"]
    if config.get("env_name") == "rlgpu_dexhand":  # the original's word for any task
        del config["env_name"]
    config.setdefault("name", PPOConfig.name)
    refuse_unsupported(flatten(params))
    limit = convert("env.clip_observations", flatten(params).get("env.clip_observations", math.inf), float)
    if limit < math.inf:
        log.warning("params.env.clip_observations = %s is left aside: observations are clipped once normalised", limit)
    return params


def with_defaults(path: Path, seen: Tuple[Path, ...] = ()) -> Dict[str, Any]:
    """A file, merged with those that its list `defaults` names, as Hydra does with files of one folder."""
    tree = strict_yaml.read(path, "train_config")
    names = tree.pop("defaults", None) or []
    if not isinstance(names, list) or not all(re.fullmatch(r"\w+", str(name)) for name in names) or len(names) > 9:
        raise ValueError(f"train_config = '{path}': defaults = {names!r}: allowed are names of files beside it")
    merged: Dict[str, Any] = {}
    for name in names if "_self_" in names else [*names, "_self_"]:
        file = path.with_name(f"{name}{path.suffix}")
        if file in (path, *seen) or len(seen) == 3:
            raise ValueError(f"train_config = '{path}': defaults: {name} is there already, or too far down")
        merged = merge(merged, tree if name == "_self_" else with_defaults(file, (path, *seen)))
    return merged


def merge(below: Dict[str, Any], above: Dict[str, Any]) -> Dict[str, Any]:
    """{"a": {"b": 1}}, {"a": {"c": 2}} -> {"a": {"b": 1, "c": 2}}"""
    both = {key for key in above if isinstance(above[key], dict) and isinstance(below.get(key), dict)}
    return {**below, **{key: merge(below[key], value) if key in both else value for key, value in above.items()}}


def without_references(tree: Dict[str, Any], prefix: str = "") -> Dict[str, Any]:
    """{"a": "${resolve_default:5,${...x}}", "b": "${...seed}"} -> {"a": 5}. A reference stays where rl_games needs a
    value that no command line gives."""
    result = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        default = re.fullmatch(r"\$\{resolve_default:([^,{}]*),.*\}", value) if isinstance(value, str) else None
        if isinstance(value, dict):
            result[key] = without_references(value, f"{name}.")
        elif default:
            result[key] = strict_yaml.scalar(default[1].strip())
        elif not is_reference(value) or (name in NOT_LEFT_OUT and name != "config.name"):
            result[key] = value
    return result


def is_reference(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def ppo_fields(params: Dict[str, Any]) -> Dict[str, Any]:
    """The fields of PPOConfig that `params` sets, except those of batch_fields(). Raises ValueError, one line that
    names the keys."""
    given = flatten(params)
    refuse_unsupported(given)
    needed = [*("algo.name", "model.name", "network.name", "config.lr_schedule"), *DEFAULTS]
    schedule = given.get("config.lr_schedule")
    absent = [key for key in needed if key not in given and DEFAULTS.get(key, NEEDED) is NEEDED]
    if schedule == "adaptive" and "config.kl_threshold" not in given:
        absent.append("config.kl_threshold")
    if absent:
        missing(*absent)
    if schedule not in SCHEDULES:
        names = ", ".join(str(name) for name in SCHEDULES[:-2])
        raise ValueError(f"params.config.lr_schedule = {schedule!r}: supported are {names}")
    for key, value in given.items():
        if is_reference(value):
            raise ValueError(f"params.{key} = {value!r}: allowed is a value, not a reference for Hydra to resolve")
    for key in USED.keys() & given.keys():
        if given[key] is not None:
            convert(key, given[key], USED[key])
    fields: Dict[str, Any] = {}
    for key, default in DEFAULTS.items():
        name = key.rpartition(".")[2]
        name = RENAMED.get(name, name)
        if key in given and not (key == "seed" and given[key] is None):
            fields[name] = convert(key, given[key], FIELD_TYPES[name])
        elif default is not OURS:
            fields[name] = default

    known = schedule == "adaptive" or (schedule == "linear" and given.get("config.max_epochs", -1) != -1)
    fields["lr_schedule"] = schedule if known else "fixed"  # without max_epochs rl_games' linear rate never falls
    fields["schedule_entropy"] = fields["schedule_entropy"] and fields["lr_schedule"] == "linear"
    fields["value_bootstrap"] = "rl_games" if given.get("config.value_bootstrap", True) else "none"
    return fields


def batch_fields(params: Dict[str, Any], num_envs: int, horizon: int) -> Dict[str, Any]:
    """The fields of PPOConfig that depend on the size of a batch: rl_games counts the rows of a minibatch and the steps
    of a training, PPOConfig minibatches and iterations. Raises ValueError, one line that names the key."""
    for key, value in (("num_actors", num_envs), ("horizon_length", horizon)):
        if value < 1:
            raise ValueError(f"params.config.{key} = {value}: allowed is 1 or more")
    config, batch = params["config"], num_envs * horizon
    epochs, frames = (convert(f"config.{key}", config.get(key, -1), int) for key in ("max_epochs", "max_frames"))
    limits = [limit for limit in (epochs, math.ceil(frames / batch)) if limit > 0]
    iterations = min(limits, default=10**9)
    if config["lr_schedule"] == "linear" and iterations < epochs:
        raise ValueError(f"params.config.max_frames = {frames}: allowed with lr_schedule linear is only max_epochs")
    for key, scale in (("minibatch_size", 1), ("minibatch_size_per_env", num_envs)):
        if key in config:
            size = scale * convert(f"config.{key}", config[key], int)
            if size <= 0 or batch % size:
                allowed = f"a divisor of num_actors * horizon_length = {batch}"
                raise ValueError(f"params.config.{key} = {config[key]}: {size} rows; allowed is {allowed}")
            return {"max_iterations": iterations, "num_minibatches": batch // size}
    missing("config.minibatch_size")


def flatten(tree: Dict[str, Any], prefix: str = "") -> Dict[str, Any]:
    """{"config": {"gamma": 0.99}} -> {"config.gamma": 0.99}. Mappings in WHOLE stay whole."""
    flat: Dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and key not in WHOLE:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def refuse_unsupported(given: Dict[str, Any]) -> None:
    """Raises ValueError, one line with every key by which a file asks for something that this PPO does not support. For
    another algorithm it says only that."""
    algorithm = given.get("algo.name", "a2c_continuous")
    if algorithm != "a2c_continuous":
        raise ValueError(
            f"params.algo.name = {algorithm!r}: supported is only PPO of continuous actions, 'a2c_continuous'"
        )
    known, found = [*DEFAULTS, *FIXED, *IGNORED, *USED], {}  # what is asked for -> the keys that do it
    for key, value in given.items():
        empty = value == {} and any(name.startswith(f"{key}.") for name in known)
        if empty or (key in known and key not in FIXED) or value in FIXED.get(key, ()):
            continue
        part = next((part for part in IN_WORDS if key.startswith(part)), None)
        said = f"{key} = {value!r}" if key in FIXED else part or key
        if part:
            found.setdefault(IN_WORDS[part], []).append(said)
        else:
            found[said + (f" (supported is {FIXED[key][0]!r})" if key in FIXED else nearest(key, known))] = []
    if found:
        texts = [f"{what} ({', '.join(dict.fromkeys(by))})" if by else what for what, by in found.items()]
        raise ValueError(f"params: not supported are {'; '.join(texts)}")


def nearest(key: str, known: List[str]) -> str:
    """The key of the same section that may have been meant, if one is close."""
    section, _, name = key.rpartition(".")
    siblings = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == section]
    near = difflib.get_close_matches(name, siblings, n=1, cutoff=0.75)
    return f" (did you mean {near[0]}?)" if near else ""


def missing(*keys: str) -> NoReturn:
    names = ", ".join(f"params.{key}" for key in keys)
    raise ValueError(f"{names} {'is' if len(keys) == 1 else 'are'} missing; rl_games has no default for that")


FIELD_TYPES = get_type_hints(PPOConfig)
WORDS: Dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    dict: "names and values",
    Tuple[int, ...]: "a list of whole numbers",
}


def convert(key: str, value: Any, hint: Any) -> Any:
    """Converts YAML's value to a field's type; YAML may read 3e-4 as text."""
    try:
        if hint in (bool, dict, object) and isinstance(value, hint):
            return value
        if hint is int and float(value) == int(float(value)):
            return int(float(value))
        if hint is float:
            return float(value)
        if get_origin(hint) is tuple:
            return tuple(convert(key, x, get_args(hint)[0]) for x in value)
        if hint not in (bool, int, float, dict) and isinstance(value, str):
            return value
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"params.{key} = {value!r}: allowed is {WORDS.get(hint, 'a word')}")
