"""BlindGrasping: BoxGrasping, but with the hand's start position, orientation and fingers drawn from wide ranges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict

import torch
from torch import Tensor

from dexhand_gym.envs.box_grasping import BoxGrasping, BoxGraspingConfig, Way
from dexhand_gym.envs.config import Config
from dexhand_gym.envs.mirror import SAME
from dexhand_gym.envs.quantities import distance
from dexhand_gym.fields import Annotated, Range

STAGES = ("pre_grasp", "grasp", "lift")


@dataclass
class BlindGraspingConfig(BoxGraspingConfig):
    """Blind search, grasp and lift of a cube."""

    episode_length: int = 750
    """Control steps until time-out (15 s)."""
    start_height: Way = 0.15
    """The hand starts this far above the pre-grasp pose and up to init_hand_position_range higher, m: clear of the box
    and the ground whichever way it is turned."""
    max_box_distance: Annotated[float, Range(0, 100, above=True)] = 0.8
    """box_too_far: palm to box, m."""
    init_hand_position_range: Way = 0.2
    """The hand starts within +- this of the pre-grasp pose in x and y, m."""
    init_hand_rotation_range: Annotated[float, Range(0, torch.pi)] = 0.7854
    """The hand starts within +- this of the pre-grasp pose about x, y and z, rad."""
    init_finger_range: Annotated[float, Range(0, 1)] = 0.5
    """Every finger action starts at random within this share of its range, counted from straight."""
    reach_distance: Annotated[float, Range(0, 100, above=True)] = 0.06
    """Stage grasp begins when the first three pads' centroid is this near to the cube's centre, m."""
    reward_weights: Dict[str, float] = field(
        default_factory=lambda: {
            **BoxGraspingConfig().reward_weights,
            "approach": 0.5,
            "stage_pre_grasp": 0.0,
            "stage_grasp": 0.0,
            "stage_lift": 0.0,
        }
    )
    """Weight of each reward term and ending."""


def stage(m: Dict[str, Tensor], cfg: Config) -> Tensor:
    """Which of STAGES an environment is in, [N, 3] with a single 1 per row: lift while thumb and another finger are on
    the cube, else grasp where the pads are around it, else pre_grasp."""
    on_box = m["finger_box_contact"]
    lift = on_box[:, 0] * on_box[:, 1:].amax(1)
    near = (m["pads_to_box"] < cfg.task.reach_distance).float()
    return torch.stack(((1 - lift) * (1 - near), (1 - lift) * near, lift), 1)


class BlindGrasping(BoxGrasping):
    """BoxGrasping from harder starts; success criterion and observations are the same.

    **Start** cube as in BoxGrasping; hand within +-20 cm of the pre-grasp pose in x and y and 15 to 35 cm above it,
    turned by up to 45 degrees about each axis, every finger in the straighter half of its range.

    **Stages** `pre_grasp`: come near; `grasp`: first three pads' centroid within 6 cm of the cube's centre; `lift`:
    thumb and another finger on the cube. A privileged observation, `stage`; the share of time in each is logged.

    **Rewards** BoxGrasping's, and

    | term                                     | value                                                                    |
    |------------------------------------------|--------------------------------------------------------------------------|
    | approach                                 | exp(-8 / m * distance of the pads' centroid to the cube's centre) in     |
    |                                          | pre_grasp, 1 in the later stages                                         |
    | stage_pre_grasp, stage_grasp, stage_lift | 1 in that stage (weight 0)                                               |

    **Ends** as BoxGrasping, but by time-out after 750 steps (15 s).
    """

    config = BlindGraspingConfig
    quantities = {
        **BoxGrasping.quantities,
        "pads_to_box": lambda m, cfg: distance(m["first_three_fingerpad_centroid"], m["object_pos"]),
        "stage": stage,
    }

    mirrors = {**BoxGrasping.mirrors, "stage": SAME}

    def sample_start(self) -> Dict[str, Tensor]:
        """Cube near the origin, hand anywhere above it."""
        start, task = super().sample_start(), self.task
        hand, lift, base = start["hand"], self.hand.lift, self.hand.num_base
        if lift >= 0:
            height = self._pre_grasp[lift] + task.start_height
            hand[:, lift] = height + self.uniform(0.0, task.init_hand_position_range, 1)[:, 0]
        lower, upper = self.limits.lower[base:], self.limits.upper[base:]
        hand[:, base:] = lower + (upper - lower) * self.uniform(0.0, task.init_finger_range, len(lower))
        return start

    @staticmethod
    def rewards(m: Dict[str, Tensor], cfg: Config) -> Dict[str, Tensor]:
        """Unweighted terms, see the class's table."""
        pre_grasp, grasp, lift = m["stage"].unbind(1)
        return {
            **BoxGrasping.rewards(m, cfg),
            "approach": torch.where(pre_grasp > 0, torch.exp(-8.0 * m["pads_to_box"]), 1.0),
            "stage_pre_grasp": pre_grasp,
            "stage_grasp": grasp,
            "stage_lift": lift,
        }
