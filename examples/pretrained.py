"""The policies that come with the package, from Python: play them, and make pictures of them.

python examples/pretrained.py [--task BlindGrasping]              # the results of 256 episodes
python examples/pretrained.py --strip grasp.png --seed 3
python examples/pretrained.py --gif grasp.gif --seed 4
python examples/pretrained.py --task CubeRotation --checkpoint pretrained:v0_touch --gif turn.gif
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback, also while it imports
import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import configs
from dexhand_gym import tasks
from dexhand_gym.caches import replacing
from dexhand_gym.envs import make_vec_env
from dexhand_gym.envs.randomize_config import RandomizeConfig
from ppo.evaluation import evaluate
from ppo.policy import Policy
from ppo.ppo import Agent
from ppo.pretrained import PRETRAINED

MOMENTS = {
    "BoxGrasping": (0.0, 0.8, 1.2, 1.7, 2.4),
    "BlindGrasping": (0.0, 1.2, 2.4, 3.2, 4.4),
    "ObjectGrasping": (0.0, 0.8, 1.2, 2.0, 3.2),
    "CubeRotation": (0.0, 0.8, 1.6, 2.4, 3.2),
    "CubeReorientation": (0.0, 0.9, 1.8, 2.7, 3.6),
}
"""Of a strip, s."""
STRIDE = 3  # control steps between two pictures
LONGEST = {"CubeRotation": 3.5, "CubeReorientation": 4.2}  # of a film, s; others end with their episodes
CAMERA = {
    "CubeRotation": {"env.camera.distance": 0.36, "env.camera.elevation": -50.0},
    "CubeReorientation": {"env.camera.distance": 0.45, "env.camera.elevation": -40.0},
}
"""Of a film of a hand that stays where it is. For others the camera stays: a background that moves takes megabytes."""
STILL = {"env.camera.follow": False, "env.camera.distance": 1.3, "env.camera.elevation": -5.0}


def load(task: str, num_envs: int, seed: int, checkpoint: str = "pretrained", **fields: Any) -> Tuple[Any, Agent]:
    """The environment that the policy was trained in, with nothing randomised, and the policy."""
    cfg = configs.parse(["--task", task, "--test", "--checkpoint", checkpoint, "--device", "cpu"])
    cfg.task.randomize = RandomizeConfig()
    env = make_vec_env(tasks()[task], num_envs, cfg, seed, **fields)
    agent = Policy(env, cfg.train, Path(str(cfg.train.checkpoint))).agent
    return env, agent


def film(task: str, seed: int, num_envs: int, checkpoint: str, **camera: Any) -> Tuple[np.ndarray, float]:
    """Pictures [frames, environments, height, width, 3], of each environment until its episode ends, LONGEST at most; and
    the time between two, s."""
    env, agent = load(task, num_envs, seed, checkpoint, render_mode="rgb_array", video_size=(400, 440), **camera)
    obs, _ = env.reset(seed=seed)
    frames: List[List[np.ndarray]] = []
    step, over = 0, torch.zeros(num_envs, dtype=torch.bool)
    while not over.all() and step * env.control_dt < LONGEST.get(task, math.inf):
        if step % STRIDE == 0:
            pictures = [frames[-1][i] if over[i] else picture for i, picture in enumerate(env.render())]
            frames.append(pictures)
        obs, _, terminated, truncated, _ = env.step(agent.to_env(agent.act_deterministic(obs)))
        over |= terminated | truncated
        step += 1
    env.close()
    return np.array(frames), STRIDE * env.control_dt


def check(args: argparse.Namespace) -> None:
    """Raises ValueError, one line, for what would fail after the work only."""
    if args.num_envs is not None and args.num_envs < 1:
        raise ValueError(f"--num-envs {args.num_envs}: allowed is 1 or more")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: allowed is 0 or more")
    if args.strip is not None and args.gif is None and args.num_envs not in (None, 1):
        raise ValueError(f"--num-envs {args.num_envs}: allowed is 1 with --strip, which shows one environment")
    for option, file, suffix in (("--gif", args.gif, ".gif"), ("--strip", args.strip, ".png")):
        if file is None:
            continue
        path = Path(file).absolute()
        if path.suffix != suffix or path.is_dir() or not os.access(path.parent, os.W_OK):
            raise ValueError(f"{option} {file!r}: allowed is a {suffix} file in a folder that can be written")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="BoxGrasping", choices=sorted(path.name for path in PRETRAINED.iterdir()))
    parser.add_argument("--checkpoint", default="pretrained", help="pretrained:v0, a run or a .pth file")
    parser.add_argument("--num-envs", type=int, help="[256, of a GIF 4]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--gif",
        metavar="FILE.gif",
        help="all environments side by side, one episode each; in the hand, its first seconds",
    )
    parser.add_argument("--strip", metavar="FILE.png", help="one environment, some moments side by side")
    args = parser.parse_args()
    check(args)
    if not args.gif and not args.strip:
        episodes = args.num_envs or 256
        env, agent = load(args.task, episodes, args.seed, args.checkpoint)
        found = evaluate(env, agent, episodes)
        if "success_rate" in found:
            print(f"{found['success_rate']:.1%} of {episodes} episodes succeed")
        for name in found["figures"]:
            print(f"{name}: {found[f'{name}_mean']:.2f} on average")
        env.close()
        return
    from PIL import Image

    if args.strip:
        frames, period = film(args.task, args.seed, 1, args.checkpoint)
        moments = [
            frames[min(round(t / period), len(frames) - 1), 0] for t in MOMENTS.get(args.task, MOMENTS["BoxGrasping"])
        ]
        with replacing(Path(args.strip)) as unfinished:
            Image.fromarray(np.concatenate(moments, 1)).quantize(256).save(unfinished, "PNG")
    if args.gif:
        camera: Dict[str, Any] = CAMERA.get(args.task, STILL)
        frames, period = film(args.task, args.seed, args.num_envs or 4, args.checkpoint, **camera)
        left = 70 if args.task in CAMERA else 50
        narrow = frames[:, :, 20:420, left : left + 260]
        side_by_side = [Image.fromarray(np.concatenate(pictures, 1)) for pictures in narrow]
        small = [image.resize((round(image.width * 0.655), 262)) for image in side_by_side]
        sample = Image.fromarray(np.concatenate([np.asarray(image) for image in small[:: max(1, len(small) // 6)]]))
        palette = sample.quantize(64, Image.Quantize.FASTOCTREE)
        images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in small]
        with replacing(Path(args.gif)) as unfinished:
            images[0].save(
                unfinished, "GIF", save_all=True, append_images=images[1:], duration=round(1000 * period), loop=0
            )


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on a picture must not be left half-written
    try:
        with torch.inference_mode():
            main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
