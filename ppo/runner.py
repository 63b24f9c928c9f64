"""rl_games' Runner for this PPO: the same YAML, the same calls, the same folders.

    runner = Runner()
    runner.load(yaml.safe_load(open("examples/rl_games.yaml")))
    runner.run({"train": True, "play": False, "checkpoint": None, "sigma": None})

It understands the `params` of rl_games 1.6.5 for a2c_continuous, continuous_a2c_logstd and actor_critic, with the defaults
of rl_games, and then computes what rl_games would have computed. Keys that it cannot honour are an error that lists them
all, never ignored. docs/rl_games.md tells the differences.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import math
import random
import re
import sys
import time
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List, NoReturn, Optional, Tuple, get_args, get_origin, get_type_hints

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from . import checkpoint as checkpoints
from . import distributed, strict_yaml
from .ppo import GAMES_TO_TRACK, Agent, PPOConfig, begin, learn

log = logging.getLogger(__name__)

# --- The params of rl_games ------------------------------------------------------------------------------------------

NEEDED, OURS = object(), object()  # in the place of a default: rl_games has none; PPOConfig's own, numbers being equal

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
"""Key that sets the field of PPOConfig with its last part's name -> rl_games' default."""

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
    "config.schedule_entropy": (False,),
    "config.freeze_critic": (False,),
    "config.epochs_between_resets": (0,),
    "config.max_steps": (-1,),
    "config.player.n_game_life": (1,),
    "config.player.evaluation": (False,),
    "config.player.balance_env_rewards": (False,),
}
"""Key -> the values that it may have: this PPO can do nothing else."""


SCHEDULES = ("adaptive", "linear", "fixed", "constant", "identity", "none", "None", None)
"""What config.lr_schedule may be; rl_games takes any other word, a misspelt one too, for a rate that stays."""

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
"""What a key that begins so asks for, where this PPO does not have it."""


def keys(section: str, names: str) -> List[str]:
    return [section + name for name in names.split()]


USED = [
    *keys("config.", "lr_schedule value_bootstrap max_epochs max_frames minibatch_size minibatch_size_per_env"),
    *keys("config.", "num_actors env_name env_config env_info vec_env device train_dir full_experiment_name"),
    *keys("config.", "print_stats"),
    *keys("config.player.", "games_num deterministic print_stats env_config render"),
]
"""Keys that ppo_fields() or Runner read themselves."""

IGNORED = [
    *keys("", "load_checkpoint load_path torch_threads network.normalization"),
    *keys("network.mlp.", "regularizer.name norm_only_first_layer"),
    *keys("network.mlp.initializer.", "scale gain std"),  # those of others than default
    *keys("network.space.continuous.mu_init.", "scale gain std"),
    *keys("config.", "seq_length seq_len bptt_length zero_rnn_on_done adv_rms_momentum use_experimental_cv is_train"),
    *keys("config.", "device_name network_path log_path use_diagnostics reward_shaper.is_torch"),
    *keys("config.", "torch_compile use_tensorboard tensorboard_logdir save_interval pbt_idx"),
    *keys("config.", "defer_summaries_sec summaries_interval_sec_min summaries_interval_sec_max force_interval_writer"),
    *keys("config.player.", "use_vecenv render_sleep update_checkpoint_freq dir_to_monitor"),
    *keys("env.", "clip_observations clip_actions obs_groups concate_obs_groups"),
]
"""Keys without an effect on the numbers, or without any in rl_games itself (load_checkpoint, normalization, log_path, and
env, which is for Isaac Lab's wrapper of environments)."""

WHOLE = ("env_config", "env_info", "vec_env", "torch_compile", "obs_groups")
"""Keys of mappings that are one value each."""


def read_params(path: Path) -> Dict[str, Any]:
    """The `params` of a file, for our environments: what it leaves to its own command line is left to ours. References for
    Hydra, as in Isaac Gym's files, are resolved to their default or left out. Raises ValueError, one line, for a file that
    is none of rl_games, or with all that this PPO does not have."""
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
    limit = flatten(params).get("env.clip_observations")
    if isinstance(limit, (int, float)) and limit < math.inf:
        log.warning("params.env.clip_observations = %s is left aside: observations are clipped once normalised", limit)
    return params


def with_defaults(path: Path, seen: Tuple[Path, ...] = ()) -> Dict[str, Any]:
    """A file and, below it, those that its list `defaults` names, as Hydra does with files of one folder."""
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
    """{"a": "${resolve_default:5,${...x}}", "b": "${...seed}"} -> {"a": 5}. A reference stays where rl_games needs a value
    that no command line gives."""
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
    """The fields of PPOConfig that `params` means, but for those of batch_fields(). Raises ValueError, one line that names
    the keys."""
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
    fields["value_bootstrap"] = "rl_games" if given.get("config.value_bootstrap", True) else "none"
    return fields


def batch_fields(params: Dict[str, Any], num_envs: int, horizon: int) -> Dict[str, Any]:
    """The fields of PPOConfig that depend on the size of a batch: rl_games counts the rows of a minibatch and the steps of
    a training, PPOConfig minibatches and iterations. Raises ValueError, one line that names the key."""
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
    """{"config": {"gamma": 0.99}} -> {"config.gamma": 0.99}. What is no setting of ours stays whole."""
    flat: Dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and key not in WHOLE:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def refuse_unsupported(given: Dict[str, Any]) -> None:
    """Raises ValueError, one line with every key by which a file asks for what this PPO does not have. Of another
    algorithm only that is said."""
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
WORDS = {bool: "True or False", int: "a whole number", float: "a number", Tuple[int, ...]: "a list of whole numbers"}


def convert(key: str, value: Any, hint: Any) -> Any:
    """YAML's value as a field's type; YAML reads 3e-4 as a text."""
    try:
        if hint is bool and isinstance(value, bool):
            return value
        if hint is int and float(value) == int(float(value)):
            return int(float(value))
        if hint is float:
            return float(value)
        if get_origin(hint) is tuple:
            return tuple(convert(key, x, get_args(hint)[0]) for x in value)
        if hint not in (bool, int, float) and isinstance(value, str):
            return value
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"params.{key} = {value!r}: allowed is {WORDS.get(hint, 'a word')}")


# --- Runner ----------------------------------------------------------------------------------------------------------


class Runner:
    """Trains or plays as an rl_games config says. The environment is a Gymnasium vector environment with torch tensors:
    `config.env_name` is its id, or the part of it between slash and version, with the arguments `config.env_config`. Or it
    is one of rl_games' own kind (IVecEnv): `config.env_name` is registered with rl_games, or `config.vec_env` is one, with
    its `config.env_info`."""

    def __init__(self, algo_observer: Any = None):
        """algo_observer: of rl_games' kind, or a function that is called with the metrics of every iteration."""
        self.observed = any(hasattr(algo_observer, name) for name in OBSERVER_METHODS)
        if algo_observer is not None and not self.observed and not callable(algo_observer):
            allowed = "an observer as rl_games has them, a function of the metrics, or None"
            raise ValueError(f"algo_observer = {algo_observer!r}: allowed is {allowed}")
        self.algo_observer = algo_observer
        self.algo_factory = self.player_factory = NoFactory()
        self.model_builder = SimpleNamespace(model_factory=self.algo_factory, network_factory=self.algo_factory)

    def load(self, yaml_config: Dict[str, Any]) -> None:
        """`yaml_config` is the whole file, {"params": ...}. Raises ValueError, one line that names the key."""
        if not isinstance(yaml_config.get("params"), dict):
            raise ValueError("params is missing: allowed is the tree of an rl_games YAML file, {'params': ...}")
        self.load_config(yaml_config["params"])

    def load_config(self, params: Dict[str, Any]) -> None:
        """Seeds the random numbers too, as environments of rl_games' kind expect it."""
        fields = {"seed": int(time.time()), **ppo_fields(params)}
        self.params, self.config, self.algo_name = params, params["config"], params["algo"]["name"]
        if "num_actors" not in self.config:
            missing("config.num_actors")
        self.num_envs = convert("config.num_actors", self.config["num_actors"], int)
        self.cfg = PPOConfig(**fields, **batch_fields(params, self.num_envs, fields["horizon_length"]))
        self.cfg.validate(self.num_envs)
        self.seed = self.cfg.seed
        if self.seed >= 0:
            for seed in (random.seed, np.random.seed, torch.manual_seed):
                seed(self.seed)

    def reset(self) -> None:
        """Nothing, as in rl_games."""

    def run(self, args: Dict[str, Any]) -> None:
        """args: train, play (without either it trains); checkpoint, a .pth file to go on with or to play; sigma, a new
        logarithm of the actions' standard deviation."""
        for name in ("load_critic_only", "profile"):
            if args.get(name):
                raise ValueError(f"{name} = {args[name]!r}: not supported")
        if args.get("play") and not args.get("train"):
            self.run_play(args)
        else:
            self.run_train(args)

    def run_train(self, args: Dict[str, Any]) -> None:
        config, checkpoint, sigma = self.config, args.get("checkpoint"), args.get("sigma")
        name = config.get("full_experiment_name") or self.cfg.name + time.strftime("_%d-%H-%M-%S")
        folder = Path(config.get("train_dir", "runs")) / name
        if sigma is not None and not checkpoint:
            self.cfg.sigma_init = float(sigma)
        elif sigma is not None and checkpoint:
            content = checkpoints.load(checkpoint)
            content["model"]["a2c_network.sigma"].fill_(float(sigma))
            checkpoint = folder / "nn" / f"sigma_{sigma}_{Path(checkpoint).name}"
            checkpoints.make_folder(folder / "nn")
            checkpoints.write_atomically(checkpoint, content)
        observed = self.observed and distributed.is_main()
        if observed:
            tell(self.algo_observer, "before_init", "run", config, name)
        env = self.make_env(config.get("env_config"))
        seen: Any = Observed(env, self.algo_observer, self.cfg.horizon_length) if observed else env
        with self.closing(env):
            learner, progress = begin(seen, self.cfg, checkpoint or None)
            self.algo = Algorithm(self, env, folder, learner.agent, learner.optimizer)
            if observed:
                tell(self.algo_observer, "after_init", self.algo)
            tell(self.algo.vec_env, "set_train_info", progress.frame, self.algo)
            with contextlib.closing(self.algo):
                learn(seen, learner, progress, folder, self.observe, checkpoint or None)

    def run_play(self, args: Dict[str, Any]) -> None:
        player = self.create_player()
        with self.closing(player.env):
            if args.get("checkpoint"):
                player.restore(args["checkpoint"])
            if args.get("sigma") is not None:
                player.agent.a2c_network.sigma.data.fill_(float(args["sigma"]))
            player.run()

    def create_player(self) -> Player:
        config = self.config.get("player", {})
        if config.get("render"):
            raise ValueError("params.config.player.render = True: supported is only False; see train_ppo.py --test")
        env = self.make_env(config.get("env_config", self.config.get("env_config")))
        return Player(env, self.cfg, config)

    @contextlib.contextmanager
    def closing(self, env: Any) -> Iterator[None]:
        try:
            yield
        finally:
            if self.config.get("vec_env") is None:  # else it is the caller's
                env.close()

    def make_env(self, env_config: Optional[Dict[str, Any]]) -> Any:
        config = self.config
        if config.get("vec_env") is not None:
            given = config["vec_env"]
            return given if isinstance(given, VectorEnv) else IVecEnvAdapter(given, config["env_info"], self.num_envs)
        if "env_name" not in config:
            missing("config.env_name")
        theirs = registered_with_rl_games(config["env_name"], self.num_envs, self.seed, env_config)
        if theirs is not None:
            return IVecEnvAdapter(theirs, theirs.get_env_info(), self.num_envs)
        arguments = {name: config[name] for name in ("device",) if name in config}
        arguments.update(env_config or {})
        return gymnasium.make_vec(env_id(config["env_name"]), num_envs=self.num_envs, **arguments)

    def observe(self, metrics: Dict[str, float]) -> None:
        """rl_games' line on the console, as far as we know its numbers."""
        algo = self.algo
        algo.count(metrics)
        tell(algo.vec_env, "set_train_info", algo.frame, algo)
        if self.observed:
            batch = self.num_envs * self.cfg.horizon_length * distributed.world_size()
            tell(self.algo_observer, "after_print_stats", algo.frame - batch, algo.epoch_num, algo.total_time)
        elif self.algo_observer is not None:
            self.algo_observer(metrics)
        if self.config.get("print_stats", True):
            steps = metrics["steps_per_second"] * (metrics["rollout_seconds"] + metrics["update_seconds"])
            print(
                f"fps step and policy inference: {steps / metrics['rollout_seconds']:.0f}",
                f"fps total: {metrics['steps_per_second']:.0f}",
                f"epoch: {metrics['iteration']}/{self.cfg.max_iterations}",
                f"frames: {metrics['frames']}",
                f"reward: {metrics['reward']:.2f}",
            )


def registered_with_rl_games(name: str, num_envs: int, seed: int, env_config: Optional[Dict[str, Any]]) -> Any:
    """The environment that a program has told rl_games of by this name, None if there is none or Gymnasium knows it too."""
    vecenv = sys.modules.get("rl_games.common.vecenv")
    known = sys.modules.get("rl_games.common.env_configurations")
    if vecenv is None or known is None or name not in known.configurations or name in vector_ids():
        return None
    if env_config is not None and seed > 0:
        env_config = {"seed": seed, **env_config}
    return vecenv.create_vec_env(name, num_envs, **(env_config or {}))


def vector_ids() -> Dict[str, str]:
    """{"DexHand/BaseTask-v0": itself, "BaseTask": "DexHand/BaseTask-v0"}, once the package that registers them is imported."""
    specs = sorted((s for s in gymnasium.registry.values() if s.vector_entry_point), key=lambda s: s.version or 0)
    return {**{spec.name: spec.id for spec in specs}, **{spec.id: spec.id for spec in specs}}


def env_id(name: str) -> str:
    """BaseTask -> DexHand/BaseTask-v0"""
    known = vector_ids()
    if name in known or ":" in name:
        return known.get(name, name)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else "import the package that registers it, or write package:id"
    raise ValueError(f"params.config.env_name = {name!r}: there is no such vector environment; {hint}")


# --- Observers of rl_games' kind -------------------------------------------------------------------------------------

OBSERVER_METHODS = ("before_init", "after_init", "process_infos", "after_steps", "after_print_stats")


def tell(observer: Any, method: str, *args: Any) -> None:
    getattr(observer, method, lambda *_: None)(*args)


class NoFactory:
    """In the place of those in which rl_games looks for algorithms, players, models and networks: here there is one each."""

    def register_builder(self, name: str, builder: Any) -> None:
        if name in ("a2c_continuous", "continuous_a2c_logstd", "actor_critic"):
            raise ValueError(
                f"register_builder({name!r}): allowed is another name, here that is always dexhand_gym's own"
            )
        log.warning("register_builder(%r): it will not be used, here there is only a2c_continuous", name)


class Observed:
    """An environment whose steps an observer sees."""

    def __init__(self, env: Any, observer: Any, horizon: int):
        self.env, self.observer, self.horizon, self.steps = env, observer, horizon, 0
        # In Gymnasium's infos an episode is one number per environment; rl_games' observers take it for scalars to log.
        self.hidden = () if isinstance(env, IVecEnvAdapter) else ("episode", "_episode")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def step(self, actions: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor, Dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(actions)
        infos = {name: value for name, value in info.items() if name not in self.hidden}
        tell(self.observer, "process_infos", infos, (terminated | truncated).nonzero())
        self.steps += 1
        if self.steps % self.horizon == 0:
            tell(self.observer, "after_steps")
        return obs, reward, terminated, truncated, info


class Algorithm:
    """What an observer may ask of rl_games' algorithm."""

    is_rnn, num_agents, value_size, games_to_track, global_rank = False, 1, 1, GAMES_TO_TRACK, 0
    epoch_num, frame, total_time, last_lr = 0, 0, 0.0, math.nan
    mean_rewards = -1e9  # until an episode has ended

    def __init__(self, runner: Runner, env: Any, folder: Path, model: Agent, optimizer: torch.optim.Adam):
        self.name, self.config, self.model, self.optimizer = "run", runner.config, model, optimizer
        self.num_actors, self.horizon_length = runner.num_envs, runner.cfg.horizon_length
        self.experiment_name, self.experiment_dir, self.train_dir = folder.name, str(folder), str(folder.parent)
        self.nn_dir, self.summaries_dir = str(folder / "nn"), str(folder / "summaries")
        self.vec_env = getattr(env, "vec_env", env)
        self.observation_space, self.action_space = env.single_observation_space, env.single_action_space
        self.device = self.ppo_device = model.action_low.device

    @cached_property
    def writer(self) -> SummaryWriter:
        """In a folder of its own, for of two files in one folder TensorBoard follows only the newer."""
        return SummaryWriter(str(Path(self.summaries_dir) / "observer"))

    def close(self) -> None:
        if "writer" in vars(self):
            self.writer.close()

    def __getattr__(self, name: str) -> Any:
        known = ", ".join(sorted(name for name in (*vars(self), *vars(Algorithm)) if not name.startswith("_")))
        raise AttributeError(f"algo.{name}: dexhand_gym's Runner does not have that for an observer; there are {known}")

    def count(self, metrics: Dict[str, float]) -> None:
        self.epoch_num, self.frame = int(metrics["iteration"]), int(metrics["frames"])
        self.total_time += metrics["rollout_seconds"] + metrics["update_seconds"]
        self.last_lr = metrics["lr"]
        if not math.isnan(metrics["reward"]):
            self.mean_rewards = metrics["reward"]


# --- Playing, and environments of rl_games' kind ---------------------------------------------------------------------


class Player:
    """rl_games' player: plays `games_num` episodes with the policy of a checkpoint. Observations and actions [N, ...]."""

    is_rnn, states, has_batch_dimension = False, None, True

    def __init__(self, env: Any, cfg: PPOConfig, config: Dict[str, Any]):
        self.env = env
        self.agent = Agent(env.single_observation_space, env.single_action_space, cfg)
        self.games_num = config.get("games_num", 10**9)
        self.is_deterministic = config.get("deterministic", True)
        self.print_stats = config.get("print_stats", True)

    def restore(self, checkpoint: Any) -> None:
        """Raises CheckpointError, one line, if it does not fit."""
        checkpoints.load_weights(self.agent, checkpoints.load(checkpoint))

    def reset(self) -> None:
        """Nothing: no policy here has a memory."""

    def get_batch_size(self, obs: Tensor, batch_size: int) -> int:
        return len(obs)

    def obs_to_torch(self, obs: Any) -> Tensor:
        return obs["obs"] if isinstance(obs, dict) else obs

    def get_action(self, obs: Tensor, is_deterministic: bool = False) -> Tensor:
        """What the environment gets [N, A] for the observations [N, O]."""
        agent = self.agent.to(obs.device)
        return agent.to_env(agent.act_deterministic(obs) if is_deterministic else agent.act(obs)[0])

    def run(self) -> None:
        """Prints mean reward and length whenever episodes end, and in the end over all. As in rl_games the first games_num
        count, which prefers short ones; train_ppo.py --test does not."""
        obs, _ = self.env.reset()
        running = torch.zeros(2, len(obs), dtype=torch.float32, device=obs.device)
        total, games = torch.zeros(2, dtype=torch.float32), 0
        while games < self.games_num:
            obs, reward, terminated, truncated, _ = self.env.step(self.get_action(obs, self.is_deterministic))
            done = terminated | truncated
            running += torch.stack((reward, torch.ones_like(reward)))
            count = int(done.sum())
            if count:
                ended = torch.where(done, running, 0.0).sum(1).cpu()
                running.masked_fill_(done, 0.0)
                total, games = total + ended, games + count
                if self.print_stats:
                    print("reward: {:.2f} steps: {:.1f}".format(*(ended / count).tolist()))
        print("av reward: {} av steps: {}".format(*(total / games).tolist()))


class IVecEnvAdapter(VectorEnv):
    """An environment of rl_games' kind, on torch tensors, as a Gymnasium vector environment (without final_obs, which
    only value_bootstrap "final_obs" would need)."""

    metadata: Dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, vec_env: Any, env_info: Dict[str, Any], num_envs: int):
        if env_info.get("agents", 1) != 1 or env_info.get("value_size", 1) != 1:
            raise ValueError(f"params.config.env_info = {env_info}: supported is one agent and value_size 1")
        self.vec_env, self.num_envs = vec_env, num_envs
        self.single_observation_space = gymnasium_space(env_info["observation_space"])
        self.single_action_space = gymnasium_space(env_info["action_space"])

    def reset(self, *, seed: Optional[int] = None, options: Optional[Dict[str, Any]] = None) -> Tuple[Tensor, Dict]:
        return self.tensor(self.vec_env.reset()), {}

    def step(self, actions: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor, Dict[str, Any]]:
        obs, reward, done, info = self.vec_env.step(actions)
        done = done.bool()
        truncated = info["time_outs"].bool() & done if "time_outs" in info else torch.zeros_like(done)
        return self.tensor(obs), reward, done & ~truncated, truncated, info

    @staticmethod
    def tensor(obs: Any) -> Tensor:
        obs = obs["obs"] if isinstance(obs, dict) else obs
        if not isinstance(obs, Tensor):
            raise ValueError(f"the environment gives {type(obs).__name__} as observations: supported are torch tensors")
        return obs


def gymnasium_space(space: Any) -> Any:
    """A box of the old Gym's, as Isaac Gym's environments have it, as one of Gymnasium's."""
    if isinstance(space, gymnasium.Space) or not hasattr(space, "low"):
        return space
    return Box(space.low, space.high, space.shape, space.dtype)
