"""Grasp: what Reach does, but with the cube itself as the point, then close the fingers and lift. The second task of
docs/tutorial.md.

python train_ppo.py --task examples.tutorial_grasp:Grasp --num-envs 256 --max-iterations 300
"""

from dataclasses import dataclass, field
from typing import Dict, Tuple

import torch

from dexhand_gym.envs.quantities import distance
from examples.tutorial_reach import Reach, ReachConfig


@dataclass
class GraspConfig(ReachConfig):
    episode_length: int = 300
    """Control steps until time-out (6 s)."""
    max_linear_velocity: float = 0.1
    """Speed limit of the hand, m/s."""
    height: float = 0.0
    """The point is the cube's centre."""
    lift: float = 0.1
    """The cube has to rise by this, m."""
    hardest: float = 40.0
    """An episode ends where a finger presses harder than this, N."""
    policy_observation_keys: Tuple[str, ...] = (*ReachConfig.policy_observation_keys, "contact_force_magnitude")
    reward_weights: Dict[str, float] = field(
        default_factory=lambda: {
            "near": 0.3,
            "touch": 0.0,  # the first attempt
            "close": 1.0,
            "grasp": 2.0,
            "lift": 10.0,
            "action": -0.01,
            "termination_success": 3000.0,
        }
    )


class Grasp(Reach):
    """Thumb and another finger take the cube, raise it by 10 cm and hold it there for half a second."""

    config = GraspConfig
    quantities = {
        **Reach.quantities,
        "rise": lambda m, cfg: m["box"][:, 2] - m["start_box"][:, 2],
        "from_box": lambda m, cfg: (distance(m["pads"][..., :3], m["box"][:, None, :3]) - 0.025).clamp(min=0.0),
        "on_box": lambda m, cfg: m["contact_binary"] * (m["from_box"] < 0.025),
        "grasped": lambda m, cfg: m["on_box"][:, 0] * m["on_box"][:, 1:].amax(1),
        "at_point": lambda m, cfg: (m["rise"] > cfg.task.lift) & (m["grasped"] > 0),
    }
    figures = ("gap", "rise")
    train_defaults = {
        "max_iterations": 300,
        "learning_rate": 1e-3,
        "lr_schedule": "linear",
        "gamma": 0.995,
        "reward_scale": 0.02,
    }

    def sample_start(self):
        start = super().sample_start()
        start["hand"][:, 2] -= 0.05
        return start

    @staticmethod
    def rewards(m, cfg):
        rise = (m["rise"] / cfg.task.lift).clamp(0.0, 1.0)
        return {
            **Reach.rewards(m, cfg),
            "touch": m["on_box"][:, :3].mean(1),
            "close": torch.exp(-20.0 * m["from_box"][:, :3]).mean(1),
            "grasp": m["grasped"],
            "lift": rise * m["grasped"],
        }

    @staticmethod
    def failures(m, cfg):
        return {"too_hard": m["contact_force_magnitude"].amax(1) > cfg.task.hardest}
