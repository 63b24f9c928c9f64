"""A grasp from a script, no learning and no feedback: the pre-action rule moves the hand through four poses.

    python examples/scripted_grasp.py --num-envs 256 [--physics default|fast|cones|accurate|all]
    python examples/scripted_grasp.py --picture grasp.png

Shows that BoxGrasping can be solved blind, and how to take control of the hand without a policy: both policy_controls
switches off, and a rule from the measured quantities to the 18 action targets.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
import argparse
import copy
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

import dexhand_gym  # noqa: F401  (registers the tasks)
from dexhand_gym.envs.box_grasping import BoxGraspingConfig
from dexhand_gym.envs.config import Config
from dexhand_gym.hands.dexhand021 import DEXHAND021_RIGHT
from dexhand_gym.sim import PHYSICS

FINGERS_CLOSED = (1.88, 0.81, 0.71, 0.02, 1.07, 1.20, 0.57, 1.25, 0.86, 0.41, 0.88, 0.81)
LIFT = 0.22  # m


def scripted_grasp(device: torch.device) -> Callable[[Dict[str, Tensor]], Tensor]:
    """The rule: targets [N, 18] at each environment's episode time. To the pre-grasp pose, close, hold still, raise."""
    open_hand = DEXHAND021_RIGHT.pre_grasp
    pre_grasp, closed = torch.tensor([open_hand, open_hand[:6] + FINGERS_CLOSED], device=device)
    raised = closed.clone()
    raised[2] += LIFT

    def rule(m: Dict[str, Tensor]) -> Tensor:
        targets = m["start_hand"]
        for pose, begin, end in ((pre_grasp, 0.0, 1.6), (closed, 1.8, 2.4), (raised, 3.2, 5.4)):
            share = ((m["episode_time"] - begin) / (end - begin)).clamp(0.0, 1.0)
            targets = torch.lerp(targets, pose, share)
        return targets

    return rule


def scripted_env(num_envs: int, seed: int, physics: str = "default", **fields: Any) -> Any:
    """BoxGrasping under the script: its actions are empty, [N, 0]."""
    cfg = Config(sim=copy.deepcopy(PHYSICS[physics]), task=BoxGraspingConfig())
    env: Any = gymnasium.make_vec(
        "DexHand/BoxGrasping-v0",
        num_envs=num_envs,
        seed=seed,
        cfg=cfg,
        policy_controls_base=False,
        policy_controls_fingers=False,
        **fields,
    )
    env.unwrapped.pre_action_rule = scripted_grasp(env.unwrapped.device)
    return env


def success_rate(env: Any) -> float:
    """Share of the environments whose first episode succeeds."""
    env.reset()
    actions = torch.zeros(env.num_envs, 0, device=env.unwrapped.device)
    finished = torch.zeros(env.num_envs, dtype=torch.bool, device=actions.device)
    succeeded = finished.clone()
    while not finished.all():
        _, _, terminated, truncated, info = env.step(actions)
        succeeded |= info["success"] & ~finished
        finished |= terminated | truncated
    return succeeded.float().mean().item()


def save_picture(path: str, times: Tuple[float, ...] = (0.4, 1.7, 3.1, 5.4)) -> None:
    """Four moments of one grasp, side by side."""
    from PIL import Image

    env = scripted_env(1, seed=4, render_mode="rgb_array", video_size=(400, 440))
    frames = []
    for step in range(1, round(times[-1] / env.unwrapped.control_dt) + 1):
        env.step(torch.zeros(1, 0))
        if any(abs(step * env.unwrapped.control_dt - time) < 1e-6 for time in times):
            frames.append(env.render()[0])
    Image.fromarray(np.concatenate(frames, 1)).save(path)
    env.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--physics", choices=[*PHYSICS, "all"], default="default")
    parser.add_argument("--picture", metavar="FILE.png", help="draw one grasp instead")
    args = parser.parse_args()
    if args.picture:
        if Path(args.picture).suffix != ".png" or not Path(args.picture).absolute().parent.is_dir():
            raise ValueError(f"--picture {args.picture}: allowed is a .png file in a folder that is there")
        save_picture(args.picture)
        return
    for physics in PHYSICS if args.physics == "all" else [args.physics]:
        env = scripted_env(args.num_envs, args.seed, physics)
        print(f"{physics}: {success_rate(env):.1%} of {args.num_envs} random starts end in success")
        env.close()


if __name__ == "__main__":
    try:
        main()
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
