"""How a policy of ObjectGrasping does with each family and size of objects, those that it never trained with included.

    python benchmarks/objects.py --checkpoint latest [--objects train held_out] [--episodes 1024] [--out objects]

Prints two Markdown tables for every set: success per family, and per friction to spare (that of the object less what two
fingers need to hold it as it lies in the beginning: dexhand_gym/antipodal.py), with Wilson's 95 % interval, and what
ended the episodes that failed. Writes the tables to OUT.md, a heat map of success over families and sizes to OUT.png,
and what became of every episode to OUT.json. Every environment plays one episode without exploration. What is added to
the command is read as train_ppo.py reads it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # train_ppo.py may not be installed
import train_ppo  # noqa: F401, I001  sets variables that torch reads when it is loaded
import configs
import torch
from benchmarks.output import check_out
from dexhand_gym import tasks
from dexhand_gym.antipodal import friction_needed
from dexhand_gym.envs import make_vec_env
from dexhand_gym.object_sets import family, load_set
from dexhand_gym.objects import Object
from dexhand_gym.resting import stable_sides
from dexhand_gym.rotations import rotate_inverse
from ppo.evaluation import wilson
from ppo.policy import Policy
from ppo.ppo import Agent

SIZES = [0.0, *(round(0.03 + 0.01 * i, 2) for i in range(6)), 0.09 + 1e-6, math.inf]
"""Edges of the heat map's columns: largest extents, m. What a folder's meshes add to the sets' 3 to 9 cm comes first and
last."""
SPARE = (0.15, 0.3, 0.5, 0.7, 0.9, 1.1)
"""Where rows of the table of friction to spare begin."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="pretrained, latest, a run or a .pth file")
    parser.add_argument("--objects", nargs="+", default=["train", "held_out"], help="sets, or folders of meshes")
    parser.add_argument("--episodes", type=int, default=1024, help="of every set")
    parser.add_argument("--out", default="objects")
    args, others = parser.parse_known_args()
    lines: List[str] = []
    played: Dict[str, List[Dict[str, Any]]] = {}
    try:
        check_flags(args, others)
        flags = ["--test", "--task", "ObjectGrasping", "--checkpoint", args.checkpoint, *others]
        flags += ["--num-envs", str(args.episodes)]
        runs = {objects: configs.parse([*flags, "--task.objects", objects]) for objects in args.objects}
        for cfg in runs.values():
            load_set(cfg.task.objects, cfg.task.mesh_unit)  # a mistake in the last is told before the first is played
        for objects, cfg in runs.items():
            played[objects] = play(cfg, args.episodes)
            told = [f"**{objects}**", "", *tables(played[objects])]
            print("\n".join(told), flush=True)
            lines += told
            Path(f"{args.out}.md").write_text("\n".join(lines), encoding="utf-8")
            Path(f"{args.out}.json").write_text(json.dumps(played) + "\n", encoding="utf-8")
        draw(played, Path(f"{args.out}.png"))
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")


def check_flags(args: argparse.Namespace, others: List[str]) -> None:
    """Raises ValueError, one line, for what would be told after the last episode, or passed over."""
    if args.episodes < 1:
        raise ValueError(f"--episodes {args.episodes}: allowed is 1 or more")
    check_out(args.out)
    said = configs.read_command_line(others, configs.default_config("ObjectGrasping"))
    for name, flag in {"env.num_envs": "--episodes", "task.objects": "--objects", "task_name": None}.items():
        if name in said:
            instead = f"{flag} says that here" if flag else "it is always ObjectGrasping here"
            raise ValueError(f"{name} = {' '.join(said[name])}: {instead}, leave it out")


def play(cfg: configs.RunConfig, episodes: int) -> List[Dict[str, Any]]:
    """What became of the first episode of every environment."""
    things = load_set(cfg.task.objects, cfg.task.mesh_unit)
    env: Any = make_vec_env(tasks()[cfg.task_name], episodes, cfg, seed=max(cfg.train.seed, 0))
    with contextlib.closing(env), torch.no_grad():
        agent = Policy(env, cfg.train, Path(str(cfg.train.checkpoint))).agent
        obs, _ = env.reset()
        here = [things[i] for i in env.measured["box_which"].tolist()]
        spare: Sequence[Optional[float]] = [None] * episodes
        if cfg.task.randomize.box_friction is None:
            spare = friction_to_spare(here, env.measured["object_quat"])
        ends = first_ends(env, agent, obs)
    return [
        {
            "object": thing.name,
            "family": family(thing),
            "size": max(thing.extents),
            "friction_to_spare": more,
            "end": end,
        }
        for thing, more, end in zip(here, spare, ends)
    ]


def friction_to_spare(here: Sequence[Object], quats: torch.Tensor) -> List[float]:
    """How much more friction each object has than two fingers need to hold it as it lies with these orientations [N, 4]."""
    needs = {thing.name: (stable_sides(thing), friction_needed(thing)) for thing in {x.name: x for x in here}.values()}
    down = rotate_inverse(quats, torch.tensor([0.0, 0.0, -1.0], device=quats.device).expand(len(here), 3)).tolist()
    found = []
    for thing, direction in zip(here, down):
        sides, needed = needs[thing.name]
        spare = float(thing.friction - needed[(sides @ direction).argmax()])
        found.append(round(max(spare, -9.0), 3))  # JSON has no infinity
    return found


def first_ends(env: Any, agent: Agent, obs: torch.Tensor) -> List[str]:
    """What ends the first episode of each environment."""
    end = torch.full((env.num_envs,), -1, device=obs.device)
    names: List[str] = []
    while (end < 0).any():
        obs, *_, info = env.step(agent.to_env(agent.act_deterministic(obs)))
        names = list(info["endings"])
        now = torch.stack(list(info["endings"].values()), 1).int().argmax(1)
        end = torch.where((end < 0) & info["_episode"], now, end)
    return [names[i] for i in end.tolist()]


def tables(played: List[Dict[str, Any]]) -> List[str]:
    """Lines of two Markdown tables: per family, and per friction to spare."""
    families = {
        name: [x["end"] for x in played if x["family"] == name] for name in sorted({x["family"] for x in played})
    }
    told = table("family", {**families, "all": [x["end"] for x in played]})
    known = [x for x in played if x["friction_to_spare"] is not None]  # unless friction is drawn at random
    edges = (-math.inf, *SPARE, math.inf)
    bands = {
        f"{low:g} to {high:g}": [x["end"] for x in known if low <= x["friction_to_spare"] < high]
        for low, high in zip(edges, edges[1:])
    }
    return [*told, "", *table("friction to spare", bands), ""] if known else [*told, ""]


def table(what: str, ends_of: Dict[str, List[str]]) -> List[str]:
    """Lines of a Markdown table."""
    success = "grasp_lift_success"
    lines = [f"| {what} | episodes | success, % | failures |", "|---|---|---|---|"]
    for name, ends in ends_of.items():
        if not ends:
            continue
        share = ends.count(success) / len(ends)
        low, high = wilson(share, len(ends))
        failures = {end: ends.count(end) / len(ends) for end in sorted(set(ends)) if end != success}
        told = ", ".join(f"{end} {part:.1%}" for end, part in failures.items())
        lines.append(f"| {name} | {len(ends)} | {100 * share:.1f} ({100 * low:.1f} to {100 * high:.1f}) | {told} |")
    return lines


def columns_of(sizes: List[float]) -> List[Tuple[float, float]]:
    """The columns that are not empty."""
    return [(low, high) for low, high in zip(SIZES, SIZES[1:]) if any(low <= size < high for size in sizes)]


def draw(played: Dict[str, List[Dict[str, Any]]], file: Path) -> None:
    """Success over families and sizes, a panel for each set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    figure, panels = plt.subplots(1, len(played), figsize=(1 + 5.5 * len(played), 4.2), squeeze=False, layout="tight")
    columns = columns_of([x["size"] for episodes in played.values() for x in episodes])
    for axes, (objects, episodes) in zip(panels[0], played.items()):
        families = sorted({x["family"] for x in episodes})
        for row, name in enumerate(families):
            for column, (low, high) in enumerate(columns):
                ends = [x["end"] for x in episodes if x["family"] == name and low <= x["size"] < high]
                if ends:
                    share = 100 * ends.count("grasp_lift_success") / len(ends)
                    color = plt.get_cmap("RdYlGn")((share - 50) / 50)
                    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=color))
                    axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=9)
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(families) - 0.5, -0.5), title=objects)
        axes.set_xticks(
            range(len(columns)), [f"{100 * low:.0f}-{100 * high:.0f}".replace("-inf", "+") for low, high in columns]
        )
        axes.set_yticks(range(len(families)), families)
        axes.set_xlabel("largest extent, cm; numbers: success, %")
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
