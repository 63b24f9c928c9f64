"""The environments for TorchRL 0.14 (nothing else needs this module): examples/with_torchrl.py is a complete example."""

from __future__ import annotations

from typing import Any, Dict, Optional

import torch
from gymnasium.vector import VectorEnv
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import EnvBase


class TorchRLEnv(EnvBase):
    """A vector environment of this package as TorchRL wants it: one environment of batch size [N]. `observation` [N, O]
    and, if the critic sees more, `critic_obs` [N, S], which has the observation in it. What follows an episode's last
    step, ("next", "observation"), is its last observation."""

    def __init__(self, env: VectorEnv):
        inner: Any = env.unwrapped
        super().__init__(device=inner.device, batch_size=(env.num_envs,))
        self.env: Any = env
        self.seed_once: Optional[int] = None
        spaces = {"observation": inner.single_observation_space, "critic_obs": inner.single_critic_space}
        specs = {name: Unbounded(self.batch_size + space.shape) for name, space in spaces.items() if space}
        column = self.batch_size + (1,)
        flags = {name: Binary(shape=column, dtype=torch.bool) for name in ("done", "terminated", "truncated")}
        self.observation_spec = Composite(specs, shape=self.batch_size, device=self.device)
        self.action_spec = Bounded(-1.0, 1.0, self.batch_size + inner.single_action_space.shape, device=self.device)
        self.reward_spec = Unbounded(column, device=self.device)
        self.full_done_spec = Composite(flags, shape=self.batch_size, device=self.device)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        obs, reward, terminated, truncated, info = self.env.step(tensordict["action"])
        self._newest, self._restarted = self._rows(obs, info), terminated | truncated
        flags = {"terminated": terminated, "truncated": truncated, "done": self._restarted, "reward": reward}
        last = self._rows(info["final_obs"], info, "final_critic_obs")
        return self._batch({**last, **{name: value.unsqueeze(1) for name, value in flags.items()}})

    def _reset(self, tensordict: Optional[TensorDictBase] = None, **kwargs: Any) -> TensorDict:
        """Where an episode has ended in the newest step another one has begun; the other rows that tensordict["_reset"]
        [N, 1] asks for end here."""
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if mask is None:
            self._newest = self._rows(*self.env.reset(seed=self.seed_once))
            self.seed_once = None
        elif (early := mask.squeeze(1) & ~self._restarted).any():
            begun = self._rows(*self.env.reset(options={"reset_mask": early}))
            self._newest = {
                name: torch.where(early.unsqueeze(1), begun[name], old) for name, old in self._newest.items()
            }
        return self._batch(self._newest)

    def _set_seed(self, seed: Optional[int]) -> None:
        self.seed_once = seed

    def _batch(self, rows: Dict[str, Tensor]) -> TensorDict:
        return TensorDict(rows, batch_size=self.batch_size, device=self.device)

    @staticmethod
    def _rows(obs: Tensor, info: Dict[str, Any], critic: str = "critic_obs") -> Dict[str, Tensor]:
        return {"observation": obs, **({"critic_obs": info[critic]} if critic in info else {})}
