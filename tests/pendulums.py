"""An environment whose every number can be worked out."""

from typing import ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv


class Pendulums(VectorEnv):
    """Deterministic: no random numbers, starts that follow from the environment's index and its number of episodes. Ends
    by failure where the point leaves the unit disc, by time-out after 6 to 9 steps."""

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.SAME_STEP}
    single_observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    single_action_space = Box(np.float32([-2, -1]), np.float32([1, 3]), dtype=np.float32)

    def __init__(self, num_envs: int = 8):
        self.num_envs, self.index = num_envs, torch.arange(num_envs)

    def start(self):
        phase = self.index + 0.7 * self.episodes
        return 0.5 * torch.stack((torch.sin(phase), torch.cos(2 * phase)), 1)

    def obs(self):
        return torch.cat((3 * self.x + 1, self.time[:, None] / 5), 1)

    def reset(self, *, seed=None, options=None):
        self.episodes, self.time = torch.zeros(self.num_envs), torch.zeros(self.num_envs)
        self.x = self.start()
        return self.obs(), {}

    def step(self, actions):
        assert actions.shape == (self.num_envs, 2)
        self.x, self.time = 0.9 * self.x + 0.2 * actions, self.time + 1
        reward = 1 - self.x.norm(dim=1)
        terminated = reward < 0
        truncated = (self.time >= 6 + self.index % 4) & ~terminated
        done = terminated | truncated
        final_obs, self.episodes = self.obs(), self.episodes + done
        self.x = torch.where(done[:, None], self.start(), self.x)
        self.time = torch.where(done, 0.0, self.time)
        return self.obs(), reward, terminated, truncated, {"final_obs": final_obs, "_final_obs": done}
