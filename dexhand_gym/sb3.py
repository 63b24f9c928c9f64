"""The environments for Stable-Baselines3 2.9 (nothing else needs this module): examples/with_sb3.py is a complete
example."""

from __future__ import annotations

from typing import Any, List

import numpy as np
from gymnasium.vector import VectorEnv
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn


class SB3VecEnv(VecEnv):
    """A vector environment of this package as Stable-Baselines3 wants it, in NumPy. An episode's last info holds
    `terminal_observation` [O], `TimeLimit.truncated`, `episode` (return and length, as a Monitor has them) and
    `is_success`."""

    def __init__(self, env: VectorEnv):
        self.env: Any = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> np.ndarray:
        """First observations [N, O] float32. The seed is that of seed(), once."""
        obs, _ = self.env.reset(seed=self._seeds[0])
        self._reset_seeds()
        return obs.numpy(force=True)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Observations [N, O], rewards [N], dones [N] and N infos."""
        obs, reward, terminated, truncated, info = self.env.step(self._actions)
        done = (terminated | truncated).numpy(force=True)
        infos: List[dict] = [{} for _ in done]
        if done.any():
            final, returns, lengths, timed_out, success = (
                x.numpy(force=True)
                for x in (info["final_obs"], info["episode"]["r"], info["episode"]["l"], truncated, info["success"])
            )
            for i in done.nonzero()[0]:
                infos[i] = {
                    "terminal_observation": final[i],
                    "TimeLimit.truncated": bool(timed_out[i]),
                    "episode": {"r": float(returns[i]), "l": int(lengths[i])},
                    "is_success": bool(success[i]),
                }
        return obs.numpy(force=True), reward.numpy(force=True), done, infos

    def close(self) -> None:
        self.env.close()

    def get_images(self) -> Any:
        return self.env.render()

    def get_attr(self, attr_name: str, indices: Any = None) -> List[Any]:
        return [getattr(self.env.unwrapped, attr_name)] * len(list(self._get_indices(indices)))

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> List[bool]:
        return [False] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError(f"{attr_name}: the environments are one object, .env.unwrapped")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> List[Any]:
        raise NotImplementedError(f"{method_name}: the environments are one object, .env.unwrapped")
