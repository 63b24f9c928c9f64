"""The environments for rl_games 1.6 (nothing else needs this module): examples/train_with_rl_games.py is a complete
example.

To rl_games an environment is an IVecEnv that it makes by name: after register(), `config.env_name: BaseTask` in its
YAML makes one, with the arguments in `config.env_config`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Dict, Optional, Tuple

from gymnasium.vector import VectorEnv
from rl_games.common import env_configurations, vecenv
from rl_games.common.algo_observer import AlgoObserver
from rl_games.common.ivecenv import IVecEnv
from torch import Tensor

from dexhand_gym import tasks
from dexhand_gym.envs import make_vec_env


class RlGamesVecEnv(IVecEnv):
    """A Gymnasium vector environment on torch tensors (SAME_STEP) as rl_games wants it. If its critic sees more than
    the policy, the critic's observation comes as `states`, for a `central_value_config`."""

    def __init__(self, env: VectorEnv, seed: Optional[int] = None):
        """seed: the seed of the first reset, as Gymnasium's learners do it."""
        self.env: Any = env
        self.seed_once = seed
        self.observation_space, self.action_space = env.single_observation_space, env.single_action_space

    def reset(self) -> Any:
        obs, info = self.env.reset(seed=self.seed_once)
        self.seed_once = None
        return self.observation(obs, info)

    @staticmethod
    def observation(obs: Tensor, info: Dict[str, Any]) -> Any:
        """obs [N, O], or {"obs": [N, O], "states": [N, S]}"""
        return {"obs": obs, "states": info["critic_obs"]} if "critic_obs" in info else obs

    def step(self, actions: Tensor) -> Tuple[Any, Tensor, Tensor, Dict[str, Any]]:
        """observation(), rewards [N], dones [N] and infos. rl_games bootstraps where infos["time_outs"] [N] is set,
        with the value before the step; infos["final_obs"] [N, O], which would be correct, is there for other users."""
        obs, reward, terminated, truncated, info = self.env.step(actions)
        # IsaacAlgoObserver would take an entry `episode` for scalars to log.
        infos = {name: value for name, value in info.items() if name not in ("episode", "_episode")}
        return self.observation(obs, info), reward, terminated | truncated, {**infos, "time_outs": truncated}

    def get_env_info(self) -> Dict[str, Any]:
        spaces = {"observation_space": self.observation_space, "action_space": self.action_space}
        states = getattr(self.env.unwrapped, "single_critic_space", None)
        return {**spaces, "state_space": states} if states is not None else spaces


class StatisticsObserver(AlgoObserver):
    """Writes the environments' statistics (reward terms, endings, success rate) to rl_games' TensorBoard, every epoch.
    The Runner of dexhand_gym.ppo writes those of its environments itself."""

    def after_init(self, algo: Any) -> None:
        self.algo = algo

    def after_print_stats(self, frame: int, epoch_num: int, total_time: float) -> None:
        env = self.algo.vec_env
        if isinstance(env, RlGamesVecEnv):
            for name, value in env.env.statistics().items():
                self.algo.writer.add_scalar(name, value, frame)


def make(task: str, num_envs: int, seed: Optional[int] = None, **fields: Any) -> RlGamesVecEnv:
    """Makes a task by its short name; `fields` as for gymnasium.make_vec."""
    return RlGamesVecEnv(make_vec_env(tasks()[task], num_envs, seed=seed, **fields), seed)


def register() -> None:
    """Registers every task with rl_games under its short name."""
    vecenv.register("DEXHAND", make)
    for task in tasks():
        creator = partial(make, task, 1)  # what a player without use_vecenv calls
        env_configurations.register(task, {"vecenv_type": "DEXHAND", "env_creator": creator})
