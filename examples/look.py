"""One episode of a trained policy as one picture: moments side by side, below them named quantities over time.

python examples/look.py --task BoxGrasping --checkpoint pretrained --quantities object_pos contact_binary --out grasp.png
python examples/look.py --task examples.tutorial_reach:Reach --checkpoint latest --quantities gap speed --out reach.png
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import configs
from dexhand_gym import find_task
from dexhand_gym.envs import make_vec_env
from dexhand_gym.fields import check_name
from dexhand_gym.watch.render import Renderer, coordinates
from ppo.policy import Policy

SIZE = 300, 300  # of a picture, pixels


def play(args: argparse.Namespace) -> Tuple[List[np.ndarray], np.ndarray, Tensor, List[Tensor], str]:
    """One episode: some pictures and their steps, the times [T], s, the quantities, each [T, columns], and how it
    ended."""
    words = ["--task", args.task, "--test", "--checkpoint", args.checkpoint, "--device", "cpu", "--num-envs", "1"]
    cfg: Any = configs.parse([*words, *args.settings])
    env: Any = make_vec_env(find_task(args.task), 1, cfg, args.seed, video_size=SIZE)
    agent = Policy(env, cfg.train, Path(str(cfg.train.checkpoint))).agent
    columns = [split(name, env.observations()) for name in args.quantities]
    torch.manual_seed(args.seed % 2**63)
    poses, rows = [], []
    obs, _ = env.reset(seed=args.seed)
    while True:
        seen = env.observations()
        poses.append(coordinates(env, slice(0, 1))[0].numpy())
        rows.append([seen[name].reshape(-1).float()[where].clone() for name, where in columns])
        action = agent.act(obs)[0] if args.explore else agent.act_deterministic(obs)
        obs, _, terminated, truncated, info = env.step(agent.to_env(action))
        if terminated | truncated:
            break
    ending = next(name for name, there in info["endings"].items() if there)
    moments = np.linspace(0, len(rows) - 1, args.moments).round().astype(int)
    with contextlib.closing(
        Renderer(env, SIZE)
    ) as renderer:  # drawn afterwards, since a picture takes longer than a step
        pictures = [renderer.draw(poses[i]) for i in moments]
    env.close()
    times = torch.arange(len(rows)) * env.control_dt
    return pictures, moments, times, [torch.stack(values) for values in zip(*rows)], ending


def split(words: str, known: Dict[str, Tensor]) -> Tuple[str, slice]:
    """Name and columns of "gap" or "last_actions:0". Raises ValueError, one line."""
    name, _, column = words.partition(":")
    check_name("--quantities", name, known)
    width = known[name].numel()
    if not column:
        return name, slice(None)
    if not column.isdecimal() or int(column) >= width:
        raise ValueError(f"--quantities {words}: allowed are columns from 0 to {width - 1}")
    return name, slice(int(column), int(column) + 1)


def draw(args: argparse.Namespace) -> None:
    from matplotlib import pyplot as plt

    pictures, moments, times, quantities, ending = play(args)
    width, height = 9.0, 9.0 / args.moments
    figure, axes = plt.subplots(
        1 + len(quantities),
        1,
        figsize=(width, height + 1.2 * len(quantities) + 0.6),
        height_ratios=[height, *(1.2 for _ in quantities)],
        squeeze=False,
        layout="constrained",
    )
    strip, *lines = axes[:, 0]
    strip.imshow(np.concatenate(pictures, 1), aspect="auto")
    name = args.task.split(":")[-1]
    title = f"{name}, start {args.seed}: ended by {ending} after {len(times)} steps"
    strip.set_title(title, fontsize=9)
    strip.axis("off")
    for axis, name, values in zip(lines, args.quantities, quantities):
        axis.plot(times, values, linewidth=1)
        axis.set_title(name, fontsize=8, loc="left", pad=2)
        axis.grid(alpha=0.25)
        for i in moments:
            axis.axvline(times[i].item(), color="grey", linewidth=0.8, linestyle=":")
    if lines:
        lines[-1].set_xlabel("s")
    figure.savefig(args.out, dpi=90)
    print(f"{args.out}: {title}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, help="BoxGrasping, or a task of your own: package.module:Class")
    parser.add_argument("--checkpoint", required=True, help="latest, a run, a .pth file or pretrained")
    parser.add_argument(
        "--quantities", nargs="*", default=[], help="names (docs/observations.md), or name:0 for one of its columns"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the start")
    parser.add_argument("--explore", action="store_true", help="with the noise of the training")
    parser.add_argument("--moments", type=int, default=5, help="pictures side by side [5]")
    parser.add_argument("--out", default="episode.png")
    args, args.settings = parser.parse_known_args()
    if not 1 <= args.moments <= 20:
        raise ValueError(f"--moments {args.moments}: allowed is 1 to 20")
    if Path(args.out).suffix != ".png" or not Path(args.out).absolute().parent.is_dir():
        raise ValueError(f"--out {args.out}: allowed is a .png file in a folder that is there")
    draw(args)


if __name__ == "__main__":
    try:
        with torch.inference_mode():
            main()
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
