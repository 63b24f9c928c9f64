"""The environments for rsl_rl 5 (nothing else needs this module): examples/with_rsl_rl.py is a complete example."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

from gymnasium.vector import VectorEnv
from rsl_rl.env import VecEnv
from tensordict import TensorDict
from torch import Tensor


class RslRlVecEnv(VecEnv):
    """A vector environment of this package as rsl_rl wants it. Observations are a TensorDict [N]: "policy" [N, O] and, if
    the critic sees more, "critic" [N, S], which has the policy's in it."""

    def __init__(self, env: VectorEnv, seed: Optional[int] = None):
        """seed: the seed of the reset that this does."""
        self.env: Any = env
        inner: Any = env.unwrapped
        self.num_envs, self.num_actions = env.num_envs, inner.single_action_space.shape[0]
        self.max_episode_length, self.device, self.cfg = inner.task.episode_length, inner.device, inner.cfg
        self._newest = self._groups(*self.env.reset(seed=seed))

    @property
    def episode_length_buf(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Steps of the running episodes [N]. The runner's init_at_random_ep_len assigns others."""
        return self.env.unwrapped.memory()["episode_step"]

    @episode_length_buf.setter
    def episode_length_buf(self, lengths: Tensor) -> None:
        self.episode_length_buf.copy_(lengths)

    def get_observations(self) -> TensorDict:
        return self._newest

    def step(self, actions: Tensor) -> Tuple[TensorDict, Tensor, Tensor, Dict[str, Any]]:
        """Observations, rewards [N], dones [N] and extras. Where extras["time_outs"] [N] is set rsl_rl bootstraps, with
        the value before the step."""
        obs, reward, terminated, truncated, info = self.env.step(actions)
        self._newest = self._groups(obs, info)
        return self._newest, reward, terminated | truncated, {"time_outs": truncated}

    def _groups(self, obs: Tensor, info: Dict[str, Any]) -> TensorDict:
        groups = {"policy": obs, **({"critic": info["critic_obs"]} if "critic_obs" in info else {})}
        return TensorDict(groups, batch_size=[self.num_envs], device=self.device)
