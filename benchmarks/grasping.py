"""How long a task with successes takes to learn, from the start of the program.

    python benchmarks/grasping.py train --seeds 1 2 3 [--task BoxGrasping] [--json FILE] [-- FLAGS OF train_ppo.py]
    python benchmarks/grasping.py plot FILE.json ... --out FILE.png

Per seed, one after the other: train_ppo.py as a process of its own; then every checkpoint that it has left plays episodes
without exploration from starts of another seed, the last one 4096 of them, the others `--episodes`. A checkpoint counts from the
moment when its file was whole. What success under exploration noise was on the way is read from the events.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # configs.py and benchmarks/ may not be installed
from benchmarks.output import check_file, read_json

ROOT = Path(__file__).resolve().parent.parent
LEVELS = (0.5, 0.9, 0.95, 0.97)
FINAL_EPISODES = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    trains = commands.add_parser("train")
    trains.add_argument("--seeds", type=int, nargs="+", default=[1])
    trains.add_argument("--task", default="BoxGrasping")
    trains.add_argument("--episodes", type=int, default=1024)
    trains.add_argument("--json", type=Path, default=Path("grasping.json"))
    trains.add_argument("flags", nargs="*", help="of train_ppo.py, behind --")
    plots = commands.add_parser("plot")
    plots.add_argument("files", type=Path, nargs="+")
    plots.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        if args.command == "plot":
            check_file(args.out, "--out")
            plot({file.stem: read_json(file, "FILE", list) for file in args.files}, args.out)
            return
        check_file(args.json, "--json")
        if args.episodes < 1:
            raise ValueError(f"--episodes {args.episodes}: allowed is 1 or more")
        check_task(["--task", args.task, *args.flags])
    except ValueError as error:
        sys.exit(f"error: {error}")
    runs = []
    for seed in args.seeds:  # all trained before anything is evaluated, so that each has the machine for itself
        runs.append(train(args.task, seed, args.flags))
    envs: Dict[int, Any] = {}
    for run in runs:
        evaluate(run, args.episodes, envs)
        args.json.write_text(json.dumps(runs, indent=1) + "\n")
        print(describe(run), flush=True)


def check_task(flags: List[str]) -> None:
    """Raises ValueError, one line, for flags of train_ppo.py that are mistaken or of a task in which nobody succeeds."""
    import configs
    from dexhand_gym import tasks
    from dexhand_gym.envs import make_vec_env

    cfg = configs.parse(flags)
    with contextlib.closing(make_vec_env(tasks()[cfg.task_name], 1, cfg, backend="none", device="cpu")) as env:
        if not env.success_criteria:
            raise ValueError(f"task_name = {cfg.task_name}: allowed are tasks in which one can succeed")


def train(task: str, seed: int, flags: List[str]) -> Dict[str, Any]:
    """Trains; returns what the events say: {"noisy": [[seconds, steps, success rate], ...], ...}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    name = f"grasping_seed{seed}_{time.time_ns()}"
    command = [sys.executable, str(ROOT / "train_ppo.py"), "--task", task, "--seed", str(seed)]
    start = time.time()
    failed = subprocess.run([*command, "--train.experiment.name", name, *flags]).returncode
    if failed:  # it has said why
        sys.exit(failed)
    seconds = time.time() - start
    folder = next(Path("runs_all").glob(f"{name}_train_*"))
    events = EventAccumulator(str(folder / "summaries"), size_guidance={"scalars": 0})
    events.Reload()
    noisy = [[event.wall_time - start, event.step, event.value] for event in events.Scalars("success_rate")]
    return {"seed": seed, "start": start, "seconds": seconds, "folder": str(folder), "noisy": noisy}


def evaluate(run: Dict[str, Any], episodes: int, envs: Dict[int, Any]) -> None:
    """Adds "tests": [[seconds, steps, success rate, episodes], ...], oldest checkpoint first. `envs` are kept for the next
    run."""
    import configs
    from dexhand_gym import tasks
    from dexhand_gym.envs import make_vec_env
    from ppo import checkpoint as checkpoints
    from ppo import evaluation
    from ppo.policy import Policy

    files = sorted(Path(run["folder"]).glob("nn/last_*.pth"), key=lambda file: file.stat().st_mtime_ns)
    run["tests"] = []
    for file, count in zip(files, [episodes] * (len(files) - 1) + [FINAL_EPISODES]):
        cfg = configs.parse(["--test", "--checkpoint", str(file), "--num-envs", str(count)])
        if count not in envs:
            cfg.env.compile = False
            envs[count] = make_vec_env(tasks()[cfg.task_name], count, cfg)
        envs[count].reset(seed=10_000 + run["seed"])
        agent = Policy(envs[count], cfg.train, file).agent
        result = evaluation.evaluate(envs[count], agent, count)
        run["tests"].append(
            [file.stat().st_mtime - run["start"], checkpoints.load(file)["frame"], result["success_rate"], count]
        )
        run["endings"] = result["endings"]


def first(points: List[List[float]], level: float) -> str:
    """When success first reached a level: minutes and millions of steps."""
    return next((f"{t / 60:.1f} min, {steps / 1e6:.1f} M" for t, steps, rate, *_ in points if rate >= level), "-")


def describe(run: Dict[str, Any]) -> str:
    *_, (seconds, steps, rate, episodes) = run["tests"]
    levels = "; ".join(f"{level:.0%}: {first(run['noisy'], level)}" for level in LEVELS)
    return (
        f"seed {run['seed']}: {rate:.1%} of {episodes} after {seconds / 60:.1f} min, {steps / 1e6:.1f} M steps; "
        f"under noise {levels}; tests {[(round(t), round(rate, 3)) for t, _, rate, _ in run['tests']]}"
    )


def plot(files: Dict[str, List[Dict[str, Any]]], out: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(files), figsize=(6 * len(files), 4), squeeze=False)
    for (title, runs), axis in zip(files.items(), axes[0]):
        for run in runs:
            t, _, rate = zip(*run["noisy"])
            (line,) = axis.plot([x / 60 for x in t], [100 * x for x in rate], lw=1, alpha=0.6)
            t, _, rate, _ = zip(*run["tests"])
            axis.plot(
                [x / 60 for x in t], [100 * x for x in rate], "o-", color=line.get_color(), label=f"seed {run['seed']}"
            )
        axis.set(title=title, xlabel="minutes since the start of the program", ylabel="success, %", ylim=(0, 100))
        axis.grid(alpha=0.3)
        axis.legend(loc="lower right", title="dots: without exploration noise")
    figure.tight_layout()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    main()
