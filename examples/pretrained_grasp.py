"""The policy that comes with the package, from Python: play it, and make pictures of it.

python examples/pretrained_grasp.py                              # success rate of 256 episodes
python examples/pretrained_grasp.py --gif grasp.gif --strip grasp.png --seed 3
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Tuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import configs
import train_ppo
from dexhand_gym import tasks
from dexhand_gym.envs import make_vec_env
from ppo.ppo import Agent

MOMENTS = (0.0, 0.8, 1.2, 1.7, 2.4)  # of a strip, s


def load(num_envs: int, seed: int, **fields: Any) -> Tuple[Any, Agent]:
    """The environment that the policy was trained in, and the policy."""
    cfg = configs.parse(["--task", "BoxGrasping", "--test", "--checkpoint", "pretrained", "--device", "cpu"])
    env = make_vec_env(tasks()["BoxGrasping"], num_envs, cfg, seed, **fields)
    agent, _ = train_ppo.load_agent(env, cfg, Path(str(cfg.train.checkpoint)))
    return env, agent


def film(seed: int) -> Tuple[np.ndarray, float]:
    """Pictures of one episode [frames, height, width, 3], at 25 per second; and the time between two, s."""
    env, agent = load(1, seed, render_mode="rgb_array", video_size=(400, 440))
    obs, _ = env.reset(seed=seed)
    frames, done = [env.render()[0]], False
    while not done:
        obs, _, terminated, truncated, _ = env.step(agent.to_env(agent.act_deterministic(obs)))
        done = bool(terminated | truncated)
        if not done:  # else the picture would be of the next episode
            frames.append(env.render()[0])
    env.close()
    return np.stack(frames[::2]), 2 * env.control_dt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gif", metavar="FILE.gif")
    parser.add_argument("--strip", metavar="FILE.png", help=f"the moments {MOMENTS} side by side")
    args = parser.parse_args()
    if not args.gif and not args.strip:
        env, agent = load(args.num_envs, args.seed)
        print(
            f"{train_ppo.evaluate(env, agent, args.num_envs)['success_rate']:.1%} of {args.num_envs} episodes succeed"
        )
        env.close()
        return
    from PIL import Image

    frames, period = film(args.seed)
    if args.strip:
        moments = [frames[min(round(t / period), len(frames) - 1)] for t in MOMENTS]
        Image.fromarray(np.concatenate(moments, 1)).save(args.strip)
    if args.gif:
        images = [Image.fromarray(frame).resize((240, 264)).quantize(48) for frame in frames]
        images[0].save(args.gif, save_all=True, append_images=images[1:], duration=round(1000 * period), loop=0)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
