"""How a policy's success depends on what a real hand may be like: one row per setting, all from the same starts. A
range of task.randomize is tried at both of its edges, as EVERYTHING (envs/randomize_config.py) has them.

    python benchmarks/robustness.py --checkpoint latest [--episodes 1024] [--backend mujoco mjwarp] [--out robustness]

Prints a Markdown table of success rates with Wilson's 95 % intervals, and writes it to OUT.md, a picture of it to
OUT.png and all of what was found to OUT.json. Every environment plays one episode without exploration. The policy's own
run says what else there is to say (task, control, observations); what is added to the command is read as train_ppo.py
reads it (`--physics accurate`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # train_ppo.py may not be installed
import train_ppo  # noqa: F401, I001  sets variables that torch reads when it is loaded
import configs
import torch
from benchmarks.output import check_out
from dexhand_gym import tasks
from dexhand_gym.envs import make_vec_env
from dexhand_gym.envs.box_grasping import BoxGraspingConfig
from dexhand_gym.envs.object_grasping import ObjectGraspingConfig
from dexhand_gym.envs.randomize_config import EVERYTHING, RandomizeConfig
from dexhand_gym.sim.base import PHYSICS
from ppo import workspace
from ppo.evaluation import evaluate
from ppo.policy import Policy

RANDOM = "task.randomize."
_PHYSICS = PHYSICS["accurate"]
ACCURATE = {"sim.substeps": _PHYSICS.substeps, "sim.solver": dataclasses.asdict(_PHYSICS.solver)}
OFF = {"action_lowpass": 1.0}  # where it is not 0
VALUES: Tuple[Tuple[str, str, Tuple[Any, ...]], ...] = (
    ("box size, m", "env.box.size", (0.035, 0.04, 0.045, 0.05, 0.055, 0.06, 0.07)),
    ("box mass, kg", "env.box.mass", (0.02, 0.05, 0.1, 0.2, 0.3, 0.4)),
    ("box friction", "env.box.friction", (0.4, 0.5, 0.75, 1.0, 1.25, 1.5)),
    ("joint position noise, rad", f"{RANDOM}joint_position_noise", (0.01, 0.03)),
    ("joint velocity noise, rad/s", f"{RANDOM}joint_velocity_noise", (0.1, 0.3)),
    ("body position noise, m", f"{RANDOM}body_position_noise", (0.002, 0.01)),
    ("contact force noise, N", f"{RANDOM}contact_force_noise", (0.02, 0.1)),
    ("action delay, steps", f"{RANDOM}action_delay", ((1, 1), (2, 2), (3, 3))),
    ("start of the box within, m", "task.init_box_position_range", (0.05,)),
    ("start of the hand turned by, rad", "task.init_hand_rotation_range", (0.5,)),
)
ALREADY = {name.rpartition(".")[2] for _, name, _ in VALUES} | {"box_size", "box_mass", "box_friction"}
SETTINGS: List[Tuple[str, Dict[str, Any]]] = [
    ("nominal", {}),
    *(
        (f"{what} {value[0] if isinstance(value, tuple) else value}", {name: value})
        for what, name, values in VALUES
        for value in values
    ),
    *(
        (f"{name.replace('_', ' ')} {edge}", {f"{RANDOM}{name}": (edge, edge)})
        for name, value in EVERYTHING.items()
        if isinstance(value, tuple) and name not in ALREADY
        for edge in value
        if edge != OFF.get(name, 0)
    ),
    *(
        (f"{name.replace('_', ' ')} {value}", {f"{RANDOM}{name}": value})
        for name, value in EVERYTHING.items()
        if not isinstance(value, tuple) and name not in ALREADY
    ),
    ("delay of 3 steps, low-pass 0.3", {f"{RANDOM}action_delay": (3, 3), f"{RANDOM}action_lowpass": (0.3, 0.3)}),
    ("hand collides with itself", {"env.self_collision": True}),
    ("accurate physics, friction 0.5", {**ACCURATE, "env.box.friction": 0.5}),
    ("everything randomised", {f"{RANDOM}{name}": value for name, value in EVERYTHING.items()}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="latest, a run, a .pth file, pretrained, or pretrained:v0")
    parser.add_argument("--episodes", type=int, default=1024)
    parser.add_argument("--backend", nargs="+", choices=("mujoco", "mjwarp"), help="default: what runs fast here")
    parser.add_argument("--out", default="robustness")
    args, others = parser.parse_known_args()
    engines = list(dict.fromkeys(args.backend or ["mujoco", *(["mjwarp"] if torch.cuda.is_available() else [])]))
    try:
        if args.episodes < 1:
            raise ValueError(f"--episodes {args.episodes}: allowed is 1 or more")
        cfg = read_config(args.checkpoint, others)
        check_out(args.out)
        lines = [f"| setting | {' | '.join(engines)} |", "|---|" + "---|" * len(engines)]
        print("\n".join(lines), flush=True)
        found: Dict[str, Dict[str, Any]] = {}
        for setting, changes in fitting(cfg):
            found[setting] = {engine: measure(cfg, engine, args.episodes, changes) for engine in engines}
            lines.append(f"| {setting} | {' | '.join(describe(found[setting][engine]) for engine in engines)} |")
            print(lines[-1], flush=True)
            Path(f"{args.out}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
            Path(f"{args.out}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        draw(found, Path(f"{args.out}.png"))
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")


def read_config(checkpoint: str, others: List[str]) -> configs.RunConfig:
    """That of the checkpoint's run; of a checkpoint without one, BoxGrasping's."""
    flags = ["--test", "--checkpoint", checkpoint, *others]
    if (
        checkpoint.partition(":")[0] != "pretrained"
        and not (workspace.resolve_checkpoint(checkpoint).parent.parent / "config.yaml").is_file()
    ):
        flags += ["--task", "BoxGrasping"]
    cfg = configs.parse(flags)
    for name in others:
        if name.startswith(("--task.randomize.", "--env.backend", "--env.num-envs", "--num-envs")):
            raise ValueError(f"{name}: not allowed, every row says it itself (engines: --backend, --episodes)")
    if not isinstance(cfg.task, BoxGraspingConfig) or isinstance(cfg.task, ObjectGraspingConfig):
        raise ValueError(f"task_name = {cfg.task_name}: allowed is BoxGrasping, or a task like it, with one object")
    cfg.task.randomize = RandomizeConfig()  # whatever the run was trained with
    for name in (name[len("task.") :] for _, name, _ in VALUES if name.startswith("task.init_")):
        setattr(cfg.task, name, getattr(type(cfg.task)(), name))
    return cfg


def fitting(cfg: configs.RunConfig) -> List[Tuple[str, Dict[str, Any]]]:
    """The settings, without the sizes of a cube where the object is no cube."""
    if isinstance(cfg.env.object.size, float) and cfg.env.object.shape == "box":
        return SETTINGS
    sizes = ("env.box.size", f"{RANDOM}box_size")
    kept = [(setting, {k: v for k, v in changes.items() if k not in sizes}) for setting, changes in SETTINGS]
    return [(setting, changes) for setting, changes in kept if changes or setting == "nominal"]


def measure(cfg: configs.RunConfig, engine: str, episodes: int, changes: Dict[str, Any]) -> Dict[str, Any]:
    """What evaluate finds under these changes."""
    fields = {"backend": engine, "device": "cpu" if engine == "mujoco" else "auto", **changes}
    env = make_vec_env(tasks()[cfg.task_name], episodes, cfg, seed=max(cfg.train.seed, 0), **fields)
    with contextlib.closing(env):
        if not env.success_criteria:
            raise ValueError(f"task_name = '{cfg.task_name}': allowed are tasks in which one can succeed")
        agent = Policy(env, cfg.train, Path(str(cfg.train.checkpoint))).agent
        return evaluate(env, agent, episodes)


def describe(result: Dict[str, Any]) -> str:
    low, high = result["success_rate_95"]
    return f"{result['success_rate']:.1%} ({low:.1%} to {high:.1%})"


def draw(found: Dict[str, Dict[str, Any]], file: Path) -> None:
    """One line per setting, with its 95 % interval, a colour for each engine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 1 + 0.2 * len(found)))
    rows = range(len(found))[::-1]
    for i, engine in enumerate(next(iter(found.values()))):
        rates = [100 * result[engine]["success_rate"] for result in found.values()]
        ends = [[100 * x for x in result[engine]["success_rate_95"]] for result in found.values()]
        wide = [
            [max(0.0, rate - low) for rate, (low, _) in zip(rates, ends)],
            [max(0.0, high - rate) for rate, (_, high) in zip(rates, ends)],
        ]
        axes.errorbar(rates, [row - 0.2 * i for row in rows], xerr=wide, fmt="o", markersize=4, label=engine)
    axes.set_yticks(list(rows), list(found), fontsize=7)
    lowest = min(100 * result["success_rate_95"][0] for row in found.values() for result in row.values())
    axes.set_xlim(max(0.0, lowest - 3), 100.5)
    axes.set_ylim(-1, len(found))
    axes.axvline(95, color="0.8", zorder=0)
    axes.set_xlabel("success without exploration, % (lines: 95 % interval)")
    axes.legend(loc="lower left")
    axes.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
