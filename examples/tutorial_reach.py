"""Reach: bring thumb and fingers to a point above a cube, and stay there. The first task of docs/tutorial.md.

python train_ppo.py --task examples.tutorial_reach:Reach --num-envs 256 --max-iterations 100
"""

from dataclasses import dataclass, field
from typing import Dict, Tuple

import torch

from dexhand_gym.envs.config import TaskConfig
from dexhand_gym.envs.quantities import distance
from dexhand_gym.envs.vec_env import DexHandVecEnv
from dexhand_gym.objects import Box, Sphere
from dexhand_gym.sim import Scene


@dataclass
class ReachConfig(TaskConfig):
    """What can be said on the command line: --task.tolerance 0.02, --task.reward-weights.near 2, ..."""

    episode_length: int = 200
    """Control steps until time-out (4 s)."""
    max_linear_velocity: float = 0.2
    """Speed limit of the hand, m/s."""
    height: float = 0.1
    """The point is this far above the cube's centre, m."""
    tolerance: float = 0.01
    """The grip is at the point where it is nearer than this, m."""
    stay: float = 0.5
    """It has to stay there for this long, s."""
    policy_observation_keys: Tuple[str, ...] = ("base_dof_pos", "active_finger_dof_pos", "last_actions", "to_point")
    """What the policy sees."""
    reward_weights: Dict[str, float] = field(
        default_factory=lambda: {"near": 1.0, "action": -0.01, "termination_success": 300.0}
    )
    """Weight of each term; a term without a weight is an error."""


class Reach(DexHandVecEnv):
    """The middle of the first three finger pads, the grip, goes to a point above the cube and stays there."""

    config = ReachConfig
    quantities = {
        **DexHandVecEnv.quantities,
        "grip": lambda m, cfg: m["pads"][:, :3, :3].mean(1),
        "point": lambda m, cfg: m["box"][:, :3] + torch.tensor([0.0, 0.0, cfg.task.height], device=m["box"].device),
        "to_point": lambda m, cfg: m["point"] - m["grip"],
        "gap": lambda m, cfg: distance(m["point"], m["grip"]),
        "at_point": lambda m, cfg: m["gap"] < cfg.task.tolerance,
        "speed": lambda m, cfg: torch.linalg.vector_norm(m["hand_vel"][:, :3], dim=1),
        "ghost": lambda m, cfg: torch.cat((m["point"], m["box"][:, 3:7]), 1),
    }
    timers = {**DexHandVecEnv.timers, "stayed": "at_point"}  # seconds that at_point has held
    figures = ("gap", "speed")  # told at the end of an episode: in the test's table and in TensorBoard
    train_defaults = {"max_iterations": 100, "save_best_after": 10}

    def scene(self):
        point = Sphere("ghost", size=0.02, color=(0.9, 0.2, 0.2))  # only to be seen; a quantity says where it is
        return Scene(self.cfg.env.hand_height, objects=(Box("box", size=0.05),), ghosts=(point,))

    def sample_start(self):
        hand = torch.tensor(self.hand.pre_grasp, device=self.device).repeat(self.num_envs, 1)
        hand[:, :3] += self.uniform(-0.05, 0.05, 3) + torch.tensor([0.0, 0.0, 0.15], device=self.device)
        box = self.uniform(-0.05, 0.05, 7)
        box[:, 2:] = torch.tensor([0.025, 0.0, 0.0, 0.0, 1.0], device=self.device)
        return {"hand": hand, "box": box}

    @staticmethod
    def rewards(m, cfg):
        return {"near": torch.exp(-10.0 * m["gap"]), "action": m["last_actions"].square().sum(1)}

    @staticmethod
    def successes(m, cfg):
        return {"stayed": m["stayed"] >= cfg.task.stay}
