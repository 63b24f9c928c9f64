"""rl_games' Runner for this PPO: the same YAML, the same calls, the same folders.

    runner = Runner()
    runner.load(yaml.safe_load(open("examples/rl_games.yaml")))
    runner.run({"train": True, "play": False, "checkpoint": None, "sigma": None})

It computes what rl_games 1.6.5 would have computed from the same `params` (rl_games_params.py). docs/rl_games.md lists
the differences.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import math
import os
import random
import sys
import time
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, Optional, Tuple

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from . import checkpoint as checkpoints
from . import distributed
from .adam import Adam
from .ppo import GAMES_TO_TRACK, Agent, PPOConfig, begin, learn
from .rl_games_params import batch_fields, convert, missing, ppo_fields

log = logging.getLogger(__name__)


class Runner:
    """Trains or plays as an rl_games config says. The environment is a Gymnasium vector environment with torch tensors:
    `config.env_name` is its id, or the part of it between slash and version, with the arguments `config.env_config`. Or
    it is one of rl_games' own kind (IVecEnv): `config.env_name` is registered with rl_games, or `config.vec_env` is
    one, with its `config.env_info`."""

    def __init__(self, algo_observer: Any = None):
        """algo_observer: an observer of rl_games' kind, or a function that is called with the metrics of every
        iteration."""
        self.observed = any(hasattr(algo_observer, name) for name in OBSERVER_METHODS)
        if algo_observer is not None and not self.observed and not callable(algo_observer):
            allowed = "an observer as rl_games has them, a function of the metrics, or None"
            raise ValueError(f"algo_observer = {algo_observer!r}: allowed is {allowed}")
        self.algo_observer = algo_observer
        self.algo_factory = self.player_factory = NoFactory()
        self.model_builder = SimpleNamespace(model_factory=self.algo_factory, network_factory=self.algo_factory)

    def load(self, yaml_config: Dict[str, Any]) -> None:
        """`yaml_config` is the whole file, {"params": ...}. Raises ValueError, one line that names the key."""
        if not (isinstance(yaml_config, dict) and isinstance(yaml_config.get("params"), dict)):
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
        """args: train, play (without either it trains); checkpoint, a .pth file to resume or to play; sigma, a new
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
        runs = Path(config.get("train_dir", "runs"))
        folder = runs / name
        if Path(os.path.abspath(runs)) not in Path(os.path.abspath(folder)).parents:
            raise ValueError(f"params.config.full_experiment_name = {name!r}: allowed is a folder in train_dir")
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
        """Calls the observer, and prints rl_games' line on the console, as far as we know its numbers."""
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
                "reward: none yet" if math.isnan(metrics["reward"]) else f"reward: {metrics['reward']:.2f}",
            )


def registered_with_rl_games(name: str, num_envs: int, seed: int, env_config: Optional[Dict[str, Any]]) -> Any:
    """The environment that a program has registered with rl_games under this name; None if there is none or Gymnasium
    has that name too."""
    vecenv = sys.modules.get("rl_games.common.vecenv")
    known = sys.modules.get("rl_games.common.env_configurations")
    if vecenv is None or known is None or name not in known.configurations or name in vector_ids():
        return None
    if env_config is not None and seed > 0:
        env_config = {"seed": seed, **env_config}
    return vecenv.create_vec_env(name, num_envs, **(env_config or {}))


def vector_ids() -> Dict[str, str]:
    """{"DexHand/BaseTask-v0": itself, "BaseTask": "DexHand/BaseTask-v0"}, once the package that registers them is
    imported."""
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
    hook = getattr(observer, method, None)
    if hook is not None:
        hook(*args)


class NoFactory:
    """Stands in for rl_games' factories of algorithms, players, models and networks: here there is one of each."""

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
    """What an observer may read of rl_games' algorithm."""

    is_rnn, num_agents, value_size, games_to_track, global_rank = False, 1, 1, GAMES_TO_TRACK, 0
    epoch_num, frame, total_time, last_lr = 0, 0, 0.0, math.nan
    mean_rewards = -1e9  # until an episode has ended

    def __init__(self, runner: Runner, env: Any, folder: Path, model: Agent, optimizer: Adam):
        self.name, self.config, self.model, self.optimizer = "run", runner.config, model, optimizer
        self.num_actors, self.horizon_length = runner.num_envs, runner.cfg.horizon_length
        self.experiment_name, self.experiment_dir, self.train_dir = folder.name, str(folder), str(folder.parent)
        self.nn_dir, self.summaries_dir = str(folder / "nn"), str(folder / "summaries")
        self.vec_env = getattr(env, "vec_env", env)
        self.observation_space, self.action_space = env.single_observation_space, env.single_action_space
        self.device = self.ppo_device = model.action_low.device

    @cached_property
    def writer(self) -> SummaryWriter:
        """Writes to a folder of its own, because TensorBoard follows only the newer of two files in one folder."""
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
    """rl_games' player: plays `games_num` episodes with the policy of a checkpoint. Observations and actions [N,
    ...]."""

    is_rnn, states, has_batch_dimension = False, None, True

    def __init__(self, env: Any, cfg: PPOConfig, config: Dict[str, Any]):
        self.env = env
        self.agent = Agent(env.single_observation_space, env.single_action_space, cfg)
        games = config.get("games_num")
        self.games_num = 10**9 if games is None else convert("config.player.games_num", games, int)
        if self.games_num < 1:
            raise ValueError(f"params.config.player.games_num = {games!r}: allowed is 1 or more")
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
        """Prints mean reward and length whenever episodes end, and in the end over all. As in rl_games the first
        games_num episodes count, which favours short ones; train_ppo.py --test does not."""
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
    """Converts a Box of the old Gym, as Isaac Gym's environments have it, to one of Gymnasium."""
    if isinstance(space, gymnasium.Space) or not hasattr(space, "low"):
        return space
    return Box(space.low, space.high, space.shape, space.dtype)
