"""Pictures of an environment, drawn by MuJoCo off screen from whatever engine's tensors.

Without a display set MUJOCO_GL=egl (or osmesa) before Python starts.
"""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import mujoco
import numpy as np
import torch

from dexhand_gym.envs.vec_env import DexHandVecEnv
from dexhand_gym.sim.mjcf import build_model


class Renderer:
    """Draws one row of `env` at a time as a uint8 image [height, width, 3]."""

    def __init__(self, env: DexHandVecEnv, width: int = 640, height: int = 480, camera: str = "watch"):
        self._sim, self._camera = env.sim, camera
        self._model = build_model(env.scene(), env.cfg.sim, visuals=True)
        self._data = mujoco.MjData(self._model)
        self._renderer = mujoco.Renderer(self._model, height, width)

    def image(self, row: int = 0) -> np.ndarray:
        """The newest state of environment `row`."""
        dofs = self._sim.dof_state[row, :, 0]
        roots = self._sim.root_state[row, 1:]
        poses = torch.cat((roots[:, :3], roots[:, 6:7], roots[:, 3:6]), 1)  # MuJoCo's quaternions are w x y z
        self._data.qpos[:] = torch.cat((dofs, poses.flatten())).cpu().numpy()
        mujoco.mj_forward(self._model, self._data)
        self._renderer.update_scene(self._data, camera=self._camera)
        return self._renderer.render()

    def close(self) -> None:
        """Frees the drawing context."""
        self._renderer.close()
