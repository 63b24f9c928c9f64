"""What MuJoCo Warp's settings cost and what they do to a grasp: one row per variant, in one run.

    python benchmarks/physics.py [--num-envs 16384] [--only NAME ...]

Every variant plays the scripted grasp (examples/scripted_grasp.py) from the same random starts. Milliseconds are those of
a control step of all environments, median over the closed and the lifted part, where every hand is in contact; success
is the share of environments whose cube is held above 20 cm for two seconds. `rows` and `contacts` are the most that one
environment had (constraints) and all had on average (contacts): what sim.warp's buffers must hold.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import mujoco_warp as mjw
import torch
import warp as wp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # examples/ is not a part of what is installed
from examples.scripted_grasp import scripted_env


def option(name: str, value: Any) -> Callable[[Any], None]:
    """Sets an option of the engine that SimConfig does not have."""

    def change(sim: Any) -> None:
        old = getattr(sim._m.opt, name)
        old.fill_(value) if isinstance(old, wp.array) else setattr(sim._m.opt, name, value)

    return change


VARIANTS: Dict[str, Tuple[Dict[str, Any], Callable[[Any], None]]] = {
    name: (fields, change if change else lambda sim: None)
    for name, fields, change in (
        ("as shipped", {}, None),
        ("10 Newton iterations", {"sim.solver.iterations": 10}, None),
        ("5 Newton iterations", {"sim.solver.iterations": 5}, None),
        ("4 Newton iterations", {"sim.solver.iterations": 4}, None),
        ("10 line search iterations", {"sim.solver.ls_iterations": 10}, None),
        ("6 line search iterations", {"sim.solver.ls_iterations": 6}, None),
        ("tolerance 1e-5", {}, option("tolerance", 1e-5)),
        ("tolerance 1e-4", {}, option("tolerance", 1e-4)),
        ("line search tolerance 0.05", {}, option("ls_tolerance", 0.05)),
        ("no unconstrained acceleration", {}, option("run_qacc_smooth", False)),
        ("no early end of the loop", {}, option("graph_conditional", False)),
        ("128 constraints", {"njmax": 128}, None),
        ("24 contacts", {"nconmax": 24, "njmax": 160}, None),
        ("broadphase: spheres only", {}, option("broadphase_filter", mjw.BroadphaseFilter.PLANE | mjw.BroadphaseFilter.SPHERE)),
        ("4 physics steps", {"substeps": 4}, None),
        ("2 physics steps", {"substeps": 2}, None),
        ("elliptic cones", {"cone": "elliptic"}, None),
        ("as shipped, again", {}, None),
    )
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=16384)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    args = parser.parse_args()
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device
    print(f"{device}, torch {torch.__version__}, warp {wp.__version__}, {args.num_envs} envs\n")
    print("| variant | ms | of shipped | success | dropped | rows | contacts |\n|---|---|---|---|---|---|---|")
    shipped = None
    for name in args.only:
        ms, *others = measure(*VARIANTS[name], args)
        shipped = shipped or ms
        print(f"| {name} | {ms:.2f} | {ms / shipped:.3f} | " + " | ".join(others) + " |", flush=True)


@torch.no_grad()
def measure(fields: Dict[str, Any], change: Callable[[Any], None], args: argparse.Namespace) -> Tuple[Any, ...]:
    env = scripted_env(args.num_envs, 0, device=args.device, backend="mjwarp", **fields).unwrapped
    sim = env.sim
    change(sim)
    env.reset(seed=0)
    step, times = sim.step, []
    sim.step = lambda targets: times.append(timed(step, targets))
    actions = torch.zeros(args.num_envs, 0, device=args.device)
    finished = torch.zeros(args.num_envs, dtype=torch.bool, device=args.device)
    succeeded = finished.clone()
    rows = contacts = 0
    while not finished.all():
        _, _, terminated, truncated, info = env.step(actions)
        succeeded |= info["success"] & ~finished
        finished |= terminated | truncated
        if len(times) in range(120, 270, 10):
            rows = max(rows, int(wp.to_torch(sim._d.nefc).max()))
            contacts = max(contacts, int(wp.to_torch(sim._d.nacon)[0]))
    dropped = env.statistics()["overflow"]
    env.close()
    share = succeeded.float().mean().item()
    return (
        1e3 * statistics.median(times[120:270]),
        f"{share:.2%}",
        f"{dropped:g}",
        str(rows),
        f"{contacts / args.num_envs:.1f}",
    )


def timed(function: Callable, *args: Any) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    function(*args)
    torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
