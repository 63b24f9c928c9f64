"""One environment as a plain NumPy gymnasium.Env, so that SB3, wrappers and check_env work."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

import gymnasium as gym
import numpy as np

from dexhand_gym.envs.actions import as_tensor
from dexhand_gym.envs.vec_env import DexHandVecEnv


class SingleEnv(gym.Env):
    """Row 0 of a vector environment with one row. Spaces, reward and endings are the task's."""

    def __init__(self, vec_env: DexHandVecEnv):
        self.vec_env = vec_env
        self.metadata = {name: vec_env.metadata[name] for name in ("render_modes", "render_fps")}
        self.render_mode = vec_env.render_mode
        self.observation_space = vec_env.single_observation_space
        self.action_space = vec_env.single_action_space

    def reset(self, *, seed: Optional[int] = None, options: Optional[Dict[str, Any]] = None) -> Tuple[np.ndarray, Dict]:
        """First observation [O] float32."""
        super().reset(seed=seed)
        obs, _ = self.vec_env.reset(seed=seed, options=options)
        return obs[0].numpy(force=True), {}

    def step(self, action: Any) -> Tuple[np.ndarray, float, bool, bool, Dict[str, Any]]:
        """action [A] in [-1, 1] -> observation [O], reward, terminated, truncated, info (is_success at an ending)."""
        _, reward, terminated, truncated, info = self.vec_env.step(
            as_tensor(action, self.action_space.shape or ()).unsqueeze(0)
        )
        done = bool(terminated[0] | truncated[0])
        result = {"is_success": bool(info["success"][0])} if done else {}
        return info["final_obs"][0].numpy(force=True), float(reward[0]), bool(terminated[0]), bool(truncated[0]), result

    def render(self) -> Optional[np.ndarray]:
        """With render_mode "rgb_array" a picture [height, width, 3] uint8, else None."""
        pictures = self.vec_env.render()
        return pictures[0] if pictures else None

    def close(self) -> None:
        self.vec_env.close()
