"""BaseTask: the hand alone, kept high, calm and inside its joint limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict

import torch
from torch import Tensor

from dexhand_gym.envs.config import Config, TaskConfig
from dexhand_gym.envs.vec_env import DexHandVecEnv


@dataclass
class BaseTaskConfig(TaskConfig):
    """The hand alone."""

    reward_weights: Dict[str, float] = field(
        default_factory=lambda: {
            "alive": 0.1,
            "height_safety": 1.0,
            "finger_velocity": 0.1,
            "hand_velocity": 0.1,
            "hand_angular_velocity": 0.1,
            "joint_limit": 0.5,
            "finger_acceleration": 0.05,
            "hand_acceleration": 0.05,
            "hand_angular_acceleration": 0.05,
            "contact_stability": 0.2,
        }
    )
    """Weight of each reward term and ending."""


class BaseTask(DexHandVecEnv):
    """The hand alone over the ground, for testing and as a starting point. Sizes are those of the DexHand021.

    **Actions** Box(-1, 1, (18,)): speed of the targets as a share of the limits (`control_mode="position_delta"`).

    | columns | drives                                                                                     | limit     |
    |---------|--------------------------------------------------------------------------------------------|-----------|
    | 0-2     | base x y z                                                                                 | 0.5 m/s   |
    | 3-5     | base rotation about x y z                                                                  | 1.5 rad/s |
    | 6-17    | th_rot th_mcp th_dip ff_spr ff_mcp ff_dip mf_mcp mf_dip rf_mcp rf_dip lf_mcp lf_dip        | 1.0 rad/s |

    **Observations** `policy_observation_keys` picks and orders any of quantities.HAND_QUANTITIES and
    hardware.HARDWARE_QUANTITIES.

    **Rewards** (|.| is the Euclidean norm; dv the change over one control step)

    | term                                            | value                                                          | weight  |
    |-------------------------------------------------|----------------------------------------------------------------|---------|
    | alive                                           | 1                                                              | 0.1     |
    | height_safety                                   | clip(1 - exp(-20 (lowest tip height - 0.02 m)), 0, 1)          | 1.0     |
    | finger_velocity                                 | exp(-0.1 finger joint speed)                                   | 0.1     |
    | hand_velocity, hand_angular_velocity            | exp(-0.2 palm speed)                                           | 0.1 each|
    | joint_limit                                     | 1 - mean of clip(abs(q scaled to +-1) - 0.8, 0, 1), fingers    | 0.5     |
    | finger_acceleration                             | exp(-2 dv)                                                     | 0.05    |
    | hand_acceleration, hand_angular_acceleration    | exp(-0.5 dv)                                                   | 0.05 each|
    | contact_stability                               | exp(-number of fingers whose contact began or ended)           | 0.2     |

    **Start** all dofs at zero, open hand 0.25 m above the ground. **Ends** by time-out after 300 steps (6 s).
    """

    config = BaseTaskConfig
    remembered = ("all_finger_dof_vel", "hand_vel", "contact_binary")

    @staticmethod
    def rewards(m: Dict[str, Tensor], cfg: Config) -> Dict[str, Tensor]:
        """Unweighted terms, see the class's table."""
        norm = torch.linalg.vector_norm
        finger_pos, finger_vel, hand_vel = m["all_finger_dof_pos"], m["all_finger_dof_vel"], m["hand_vel"]
        lower, upper = m["dof_lower"][cfg.hand.num_base :], m["dof_upper"][cfg.hand.num_base :]
        normalised = (2.0 * finger_pos - lower - upper) / (upper - lower)
        hand_change = hand_vel - m["prev_hand_vel"]
        return {
            "alive": torch.ones_like(finger_pos[:, 0]),
            "height_safety": (1.0 - torch.exp(-20.0 * (m["tips"][..., 2].amin(1) - 0.02))).clamp(0.0, 1.0),
            "finger_velocity": torch.exp(-0.1 * norm(finger_vel, dim=1)),
            "hand_velocity": torch.exp(-0.2 * norm(hand_vel[:, :3], dim=1)),
            "hand_angular_velocity": torch.exp(-0.2 * norm(hand_vel[:, 3:], dim=1)),
            "joint_limit": 1.0 - (normalised.abs() - 0.8).clamp(0.0, 1.0).mean(1),
            "finger_acceleration": torch.exp(-2.0 * norm(finger_vel - m["prev_all_finger_dof_vel"], dim=1)),
            "hand_acceleration": torch.exp(-0.5 * norm(hand_change[:, :3], dim=1)),
            "hand_angular_acceleration": torch.exp(-0.5 * norm(hand_change[:, 3:], dim=1)),
            "contact_stability": torch.exp(-(m["contact_binary"] - m["prev_contact_binary"]).abs().sum(1)),
        }
