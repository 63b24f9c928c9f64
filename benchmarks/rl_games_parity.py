"""Does this PPO learn as rl_games does? Both on the same task, from one YAML file, over several seeds.

    pip install -e .[parity,plot]
    python benchmarks/rl_games_parity.py --num-envs 256 --epochs 100 --seeds 5 --picture docs/rl_games_parity.png

The task is BaseTask with the hand 12 cm over the ground, from where it has to rise, in episodes of 48 steps. The runs take
turns in one process, with the same seeds: the same first weights and random actions. Prints a table; draws the reward per
step, averaged over an episode's length, every run as a thin line, the mean of the seeds as a thick one.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List

import matplotlib
import numpy as np
import torch
import yaml
from rl_games.torch_runner import Runner as StockRunner

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # configs.py and ppo/ are not installed under these names

from benchmarks.output import check_file, read_json
from dexhand_gym import rl_games
from ppo.runner import Runner

CONFIG = Path(__file__).resolve().parent.parent / "examples" / "rl_games.yaml"
FIELDS = {"hand_height": 0.12, "episode_length": 48}
EPISODE = 3  # epochs of 16 steps
LAST = 4 * EPISODE  # epochs that a run's final reward is the mean of


def reward_per_step(statistics: Dict[str, float]) -> float:
    return sum(value for name, value in statistics.items() if name.startswith("reward/"))


def train_ours(params: Dict[str, Any]) -> Dict[str, Any]:
    metrics: List[Dict[str, float]] = []
    runner = Runner(metrics.append)
    runner.load({"params": params})
    runner.run({"train": True})
    seconds = sum(m["rollout_seconds"] + m["update_seconds"] for m in metrics)
    return {"rewards": [reward_per_step(m) for m in metrics], "steps_per_second": metrics[-1]["frames"] / seconds}


def train_theirs(params: Dict[str, Any]) -> Dict[str, Any]:
    class Observer(rl_games.StatisticsObserver):
        rewards: List[float] = []
        seconds = 0.0

        def after_print_stats(self, frame: int, epoch_num: int, total_time: float) -> None:
            self.rewards.append(reward_per_step(self.algo.vec_env.env.statistics()))
            self.seconds = total_time

    rl_games.register()
    observer = Observer()
    runner = StockRunner(observer)
    runner.load({"params": params})
    runner.run({"train": True})
    config = params["config"]
    frames = len(observer.rewards) * config["num_actors"] * config["horizon_length"]
    return {"rewards": list(observer.rewards), "steps_per_second": frames / observer.seconds}


LEARNERS: Dict[str, Callable[[Dict[str, Any]], Dict[str, Any]]] = {
    "dexhand_gym's PPO": train_ours,
    "rl_games 1.6.5": train_theirs,
}


def compare(args: argparse.Namespace) -> Dict[str, List[Dict[str, Any]]]:
    """Learner -> its runs, one per seed."""
    params = yaml.safe_load(CONFIG.read_text())["params"]
    params["torch_threads"] = 0  # as many as torch has: the same for both
    config = params["config"]
    config.update(env_name="BaseTask", num_actors=args.num_envs, max_epochs=args.epochs, device=args.device)
    config.update(minibatch_size=args.num_envs * config["horizon_length"] // 4, torch_compile=False)
    # With 0.99 both find the height and then, in some seeds, unlearn it, which leaves no final reward to compare.
    config["gamma"] = 0.95
    results: Dict[str, List[Dict[str, Any]]] = {name: [] for name in LEARNERS}
    for seed in range(1, args.seeds + 1):
        for name, train in LEARNERS.items():
            run = copy.deepcopy({**params, "seed": seed})
            run["config"]["env_config"] = {**FIELDS, "seed": seed, "device": args.device}
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                run["config"]["train_dir"] = folder
                results[name].append(train(run))
            last = results[name][-1]
            print(
                f"{name}, seed {seed}: {last['rewards'][-1]:.4f}, {last['steps_per_second']:.0f} steps/s",
                file=sys.stderr,
            )
    return results


def table(results: Dict[str, List[Dict[str, Any]]]) -> str:
    lines = ["| learner | reward per step at the end, each seed | mean +- std | env-steps/s |", "|---|---|---|---|"]
    for name, runs in results.items():
        final = np.array([np.mean(run["rewards"][-LAST:]) for run in runs])
        speed = np.median([run["steps_per_second"] for run in runs])
        each = ", ".join(f"{x:.4f}" for x in final)
        lines.append(f"| {name} | {each} | {final.mean():.4f} +- {final.std(ddof=1):.4f} | {speed:.0f} |")
    ours, theirs = (np.array([run["rewards"] for run in runs]) for runs in results.values())
    apart, spread = np.abs(ours - theirs), np.stack((ours, theirs)).std(1, ddof=1).mean()
    lines.append(
        f"\nDifference of the two from the same seed, largest: {apart[:, :10].max():.1e} in the first ten epochs, "
        f"{apart.max():.3f} in all; of the means over seeds: {np.abs((ours - theirs).mean(0)).max():.3f}. "
        f"Std between seeds, on average over epochs: {spread:.3f}."
    )
    return "\n".join(lines)


def draw(results: Dict[str, List[Dict[str, Any]]], steps_per_epoch: int, path: str) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for (name, runs), color, style in zip(results.items(), ("tab:blue", "tab:orange"), ("-", "--")):
        window = np.full(EPISODE, 1 / EPISODE)
        rewards = np.array([np.convolve(run["rewards"], window, "valid") for run in runs])
        steps = steps_per_epoch * np.arange(EPISODE, EPISODE + rewards.shape[1])
        axes.plot(steps, rewards.T, color=color, linestyle=style, linewidth=0.6, alpha=0.6)
        axes.plot(steps, rewards.mean(0), color=color, linestyle=style, linewidth=2.2, label=name)
    axes.set(xlabel="environment steps", ylabel="reward per step", title=f"BaseTask from 12 cm: {len(runs)} seeds each")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--picture", metavar="FILE.png", help="draw the curves")
    parser.add_argument("--json", metavar="FILE", help="write the curves here, or draw those that are there already")
    args = parser.parse_args()
    known = args.json and Path(args.json).exists()
    try:
        if args.picture:
            check_file(args.picture, "--picture")
        if args.json and not known:
            check_file(args.json, "--json")
        results = read_json(args.json) if known else {}
    except ValueError as error:
        sys.exit(f"error: {error}")
    results = results or compare(args)
    if args.json and not known:
        Path(args.json).write_text(json.dumps(results))
    print(table(results))
    if args.picture:
        draw(results, args.num_envs * 16, args.picture)


if __name__ == "__main__":
    main()
