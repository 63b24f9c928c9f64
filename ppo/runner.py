"""rl_games' Runner for this PPO: the same YAML, the same calls, the same folders.

    runner = Runner()
    runner.load(yaml.safe_load(open("examples/rl_games.yaml")))
    runner.run({"train": True, "play": False, "checkpoint": None, "sigma": None})

It understands the `params` of rl_games 1.6.5 for a2c_continuous, continuous_a2c_logstd and actor_critic, with the defaults
of rl_games, and then computes what rl_games would have computed. A key that it cannot honour is an error, never ignored.
docs/rl_games.md tells the differences.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import re
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NoReturn, Optional, Tuple, get_args, get_origin, get_type_hints

import gymnasium
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from . import checkpoint as checkpoints
from . import strict_yaml
from .ppo import Agent, PPOConfig, train

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
}
"""Key that sets the field of PPOConfig with its last part's name -> rl_games' default."""

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
    "config.mixed_precision": (False,),
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


SCHEDULES = ("adaptive", "linear", "fixed", "constant", "identity", "None", None)
"""What config.lr_schedule may be; rl_games takes any other word, a misspelt one too, for a rate that stays."""


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
    *keys("config.", "seq_length seq_len bptt_length zero_rnn_on_done adv_rms_momentum use_experimental_cv is_train"),
    *keys("config.", "device_name network_path log_path use_diagnostics reward_shaper.is_torch"),
    *keys("config.", "torch_compile use_tensorboard tensorboard_logdir save_interval"),
    *keys("config.player.", "use_vecenv render_sleep update_checkpoint_freq dir_to_monitor"),
]
"""Keys without an effect on the numbers, or without any in rl_games itself (load_checkpoint, normalization, log_path)."""


def read_params(path: Path) -> Dict[str, Any]:
    """The `params` of a file. References for Hydra, as in Isaac Gym's files, are resolved to their default or left out.
    Raises ValueError, one line, for a file that is none of rl_games."""
    params = strict_yaml.read(path, "train_config").get("params")
    if not isinstance(params, dict) or not isinstance(params.get("config"), dict):
        raise ValueError(f"train_config = '{path}': allowed is a file of rl_games, with params.config in it")
    return without_references(params)


def without_references(tree: Dict[str, Any]) -> Dict[str, Any]:
    """{"a": "${resolve_default:5,${...x}}", "b": "${...seed}"} -> {"a": 5}"""
    result = {}
    for key, value in tree.items():
        default = re.fullmatch(r"\$\{resolve_default:([^,{}]*),.*\}", value) if isinstance(value, str) else None
        if isinstance(value, dict):
            result[key] = without_references(value)
        elif default:
            result[key] = strict_yaml.scalar(default[1].strip())
        elif not isinstance(value, str) or "${" not in value:
            result[key] = value
    return result


def ppo_fields(params: Dict[str, Any]) -> Dict[str, Any]:
    """The fields of PPOConfig that `params` means, but for those of batch_fields(). Raises ValueError, one line that names
    the key."""
    given = flatten(params)
    for key in ("algo.name", "model.name", "network.name", "config.lr_schedule"):
        if key not in given:
            missing(key)
    schedule = given["config.lr_schedule"]
    if schedule not in SCHEDULES:
        names = ", ".join(str(name) for name in SCHEDULES)
        raise ValueError(f"params.config.lr_schedule = {schedule!r}: supported are {names}")
    for key, value in given.items():
        check(key, value)
    fields: Dict[str, Any] = {}
    for key, default in DEFAULTS.items():
        name = key.rpartition(".")[2]
        name = RENAMED.get(name, name)
        if key in given and not (key == "seed" and given[key] is None):
            fields[name] = convert(key, given[key], FIELD_TYPES[name])
        elif default is not OURS:
            fields[name] = missing(key) if default is NEEDED else default

    if schedule == "adaptive" and "config.kl_threshold" not in given:
        missing("config.kl_threshold")
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
        if isinstance(value, dict) and key not in ("env_config", "env_info", "vec_env", "torch_compile"):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def check(key: str, value: Any) -> None:
    """Raises ValueError unless this PPO does what rl_games does with `key`."""
    known = [*DEFAULTS, *FIXED, *IGNORED, *USED]
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
        raise ValueError(f"params.{key} is not supported; the nearest supported key is params.{near}")
    if isinstance(value, str) and "${" in value:
        raise ValueError(f"params.{key} = {value!r}: allowed is a value, not a reference for Hydra to resolve")
    if key in FIXED and value not in FIXED[key]:
        raise ValueError(f"params.{key} = {value!r}: supported is only {FIXED[key][0]!r}")


def missing(key: str) -> NoReturn:
    raise ValueError(f"params.{key} is missing; rl_games has no default for it")


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
    `config.env_name` is its id, or the part of it between slash and version, with the arguments `config.env_config`; or
    `config.vec_env` is one, or an environment of rl_games' own kind (IVecEnv) with its `config.env_info`."""

    def __init__(self, algo_observer: Optional[Callable[[Dict[str, float]], None]] = None):
        """algo_observer: called with the metrics of every iteration (rl_games' observers hook into its own loop)."""
        if algo_observer is not None and not callable(algo_observer):
            raise ValueError(f"algo_observer = {algo_observer!r}: allowed is a function of the metrics, or None")
        self.algo_observer = algo_observer

    def load(self, yaml_config: Dict[str, Any]) -> None:
        """`yaml_config` is the whole file, {"params": ...}. Raises ValueError, one line that names the key."""
        if not isinstance(yaml_config.get("params"), dict):
            raise ValueError("params is missing: allowed is the tree of an rl_games YAML file, {'params': ...}")
        self.load_config(yaml_config["params"])

    def load_config(self, params: Dict[str, Any]) -> None:
        fields = {"seed": -1, **ppo_fields(params)}
        self.config = params["config"]
        if "num_actors" not in self.config:
            missing("config.num_actors")
        self.num_envs = convert("config.num_actors", self.config["num_actors"], int)
        self.cfg = PPOConfig(**fields, **batch_fields(params, self.num_envs, fields["horizon_length"]))
        self.cfg.validate(self.num_envs)

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
        env = self.make_env(config.get("env_config"))
        with self.closing(env):
            train(env, self.cfg, folder, self.observe, checkpoint or None)

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
        arguments = {name: config[name] for name in ("device",) if name in config}
        arguments.update(env_config or {})
        return gymnasium.make_vec(env_id(config["env_name"]), num_envs=self.num_envs, **arguments)

    def observe(self, metrics: Dict[str, float]) -> None:
        """rl_games' line on the console, as far as we know its numbers."""
        if self.algo_observer is not None:
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


def env_id(name: str) -> str:
    """BaseTask -> DexHand/BaseTask-v0, once the package that registers it has been imported."""
    specs = {id: spec for id, spec in gymnasium.registry.items() if spec.vector_entry_point}
    if name in specs or ":" in name:
        return name
    versions = [(spec.version or 0, id) for id, spec in specs.items() if spec.name == name]
    if versions:
        return max(versions)[1]
    near = difflib.get_close_matches(name, [*specs, *(spec.name for spec in specs.values())], n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else "import the package that registers it, or write package:id"
    raise ValueError(f"params.config.env_name = {name!r}: there is no such vector environment; {hint}")


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
        self.single_observation_space, self.single_action_space = (
            env_info["observation_space"],
            env_info["action_space"],
        )

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
            raise ValueError(f"params.config.vec_env gives {type(obs).__name__}: supported are torch tensors")
        return obs
