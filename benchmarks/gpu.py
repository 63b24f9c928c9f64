"""Raw physics, env.step and PPO on one GPU, in one run, of what a task really trains.

    python benchmarks/gpu.py [--task BoxGrasping] [--num-envs 4096 8192 16384 32768] [--minibatches 8 16]
                             [--checkpoint pretrained:v0] [--json benchmarks/gpu.json] [anything that train_ppo.py takes]
    python benchmarks/gpu.py --plot FILE.png --json benchmarks/gpu.json

Environment and agent are those of `train_ppo.py --config train_headless`. The policy of --checkpoint should hold the
object: physics costs most then. Per number of environments:

* engine: a CUDA graph of as many `mujoco_warp.step` as a control step has;
* raw: the same with the engine's parts in this package's order (sim/warp_step.py), each run from the state that the
  env.step beside it starts from. Ratios are to this one, the faster;
* step: env.step (actions, physics, observations, rewards, endings, restarts), and its parts each alone;
* PPO: rollout and update of an iteration, per environment step.

With --json, results go there by device, and each row is compared with the one that was there before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import mujoco_warp as mjw
import torch
import warp as wp

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # configs.py and ppo/ are not installed under these names

import configs
from benchmarks.output import check_file, read_json
from dexhand_gym import find_task
from dexhand_gym.envs import make_vec_env
from ppo import ppo

STATE = ("qpos", "qvel", "qacc_warmstart", "ctrl", "time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="BoxGrasping")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[4096, 8192, 16384, 32768])
    parser.add_argument("--minibatches", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--checkpoint", default="pretrained:v0", help="a .pth file, or pretrained")
    parser.add_argument("--json", type=Path, help="results go there (with --plot: come from there)")
    parser.add_argument("--plot", type=Path, help="draw results instead of measuring")
    args, more = parser.parse_known_args()
    try:
        written = "plot" if args.plot else "json"
        if getattr(args, written):
            check_file(getattr(args, written), f"--{written}")
        stored = read_json(args.json) if args.plot or (args.json and args.json.exists()) else {}
    except ValueError as error:
        sys.exit(f"error: {error}")
    if args.plot:
        plot(stored, args.plot)
        return
    if not torch.cuda.is_available():
        sys.exit("error: PyTorch finds no CUDA device, on which this measures")
    device = torch.cuda.get_device_name()
    before = {row["num_envs"]: row for row in stored.get(device, {}).get("results", [])}
    versions = f"torch {torch.__version__}, warp {wp.__version__}, mujoco_warp {mjw.__version__}"
    print(f"{device} ({power_state()}), {versions}, {args.task}, {' '.join(more)}\n")
    columns = ["envs", "engine", "raw", "step", "of raw"]
    columns += [x for n in args.minibatches for x in (f"PPO, {n} minibatches", "of raw", "of before")]
    print("| " + " | ".join([*columns, "memory GB", "start s"]) + " |\n|" + "---|" * (len(columns) + 2))
    results = []
    for num_envs in args.num_envs:
        results.append(measure(num_envs, args, more))
        print(as_row(results[-1], before.get(num_envs, {})), flush=True)
    for row in results:
        print(f"\n{row['num_envs']}, ms: " + ", ".join(f"{name} {ms:.2f}" for name, ms in row["parts"].items()))
    print(f"\n{power_state()}")
    if args.json:
        stored[device] = {"versions": versions, "results": results}
        args.json.write_text(json.dumps(stored, indent=1) + "\n")


def power_state() -> str:
    """What the driver says of the first GPU: a chip that throttles measures something else."""
    fields = "pstate,clocks.sm,power.draw,power.limit,temperature.gpu"
    try:
        asked = subprocess.run(
            ["nvidia-smi", "-i", "0", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True
        )
    except OSError:
        return "power state unknown"
    return asked.stdout.strip() or "power state unknown"


def measure(num_envs: int, args: argparse.Namespace, more: List[str]) -> Dict[str, Any]:
    """Milliseconds per environment step of all environments, by name."""
    torch.manual_seed(0)
    torch._dynamo.reset()  # every size is compiled for itself
    began = time.perf_counter()
    fixed = ["--config", "train_headless", "--device", "cuda"]
    fixed += ["--train.learning-rate", "1e-6", "--train.lr-schedule", "fixed"]  # the policy is to stay as it is
    given = configs.parse(["--task", args.task, "--test", "--checkpoint", args.checkpoint])
    cfg = configs.parse(["--task", args.task, *fixed, "--num-envs", str(num_envs), *agent_flags(given), *more])
    env: Any = make_vec_env(find_task(cfg.task_name), num_envs, cfg, 0)
    learner, _ = ppo.begin(env, cfg.train)
    ppo.load_agent(Path(str(given.train.checkpoint)), learner.agent, cfg.train)
    play(env, learner.agent, 200)  # into the middle of the grasps, each environment at a time of its own
    torch.cuda.synchronize()
    result: Dict[str, Any] = {"num_envs": num_envs, "start": time.perf_counter() - began}
    result.update(step_milliseconds(env, learner.agent))
    for minibatches in args.minibatches:
        cfg.train.num_minibatches = minibatches
        result[f"ppo_{minibatches}"] = ppo_milliseconds(env, learner.agent, cfg.train)
    result["parts"] = part_milliseconds(env, learner.agent)
    free, total = torch.cuda.mem_get_info()
    result["memory"] = (total - free) / 1e9
    env.close()
    return result


def agent_flags(cfg: configs.RunConfig) -> List[str]:
    """The flags for an agent as that of `cfg`: its network and observations, not what its training varied."""
    flags = [
        "--train.units",
        *map(str, cfg.train.units),
        "--task.observation-history",
        *map(str, cfg.task.observation_history),
    ]
    return [*flags, "--task.observe", cfg.task.observe] if hasattr(cfg.task, "observe") else flags


def as_row(result: Dict[str, Any], before: Dict[str, Any]) -> str:
    """Thousands of environment steps per second, and ratios."""
    n = result["num_envs"]
    cells = [str(n), *(f"{n / result[name]:.0f}" for name in ("engine", "raw", "step"))]
    cells.append(f"{result['raw'] / result['step']:.3f}")
    for name in (name for name in result if name.startswith("ppo_")):
        total = result[name]["total"]
        cells += [f"{n / total:.0f}", f"{result['raw'] / total:.3f}"]
        cells.append(f"{before[name]['total'] / total:.3f}" if name in before else "-")
    return "| " + " | ".join([*cells, f"{result['memory']:.1f}", f"{result['start']:.0f}"]) + " |"


@torch.no_grad()
def play(env: Any, agent: ppo.Agent, steps: int) -> None:
    obs = env.reset()[1]["critic_obs"]
    env._episode_step.copy_(torch.randint(0, 100, (env.num_envs,), device="cuda"))
    for _ in range(steps):
        obs = env.step(agent.to_env(agent.act(obs)[0]))[-1]["critic_obs"]


@torch.no_grad()
def step_milliseconds(env: Any, agent: ppo.Agent, steps: int = 60) -> Dict[str, float]:
    """The engine's physics, ours and env.step, from the same states under the same targets."""
    sim = env.sim
    alone = {
        "engine": physics_alone(sim, lambda: mjw.step(sim._m, sim._d)),
        "raw": physics_alone(sim, lambda: sim._physics_step(sim._d)),
    }
    state = {name: wp.to_torch(getattr(sim._d, name)) for name in STATE}
    obs = env.step(torch.zeros(env.num_envs, env.single_action_space.shape[0], device="cuda"))[-1]["critic_obs"]
    totals = dict.fromkeys((*alone, "step"), 0.0)
    for _ in range(steps):
        action = agent.to_env(agent.act(obs)[0])
        saved = {name: x.clone() for name, x in state.items()}
        milliseconds, (*_, info) = timed(env.step, action)
        obs = info["critic_obs"]
        totals["step"] += milliseconds / steps
        after = {name: x.clone() for name, x in state.items()}
        saved["ctrl"] = env.stages.dof_targets.clone()
        for name, physics in alone.items():
            for field, x in state.items():
                x.copy_(saved[field])
            totals[name] += timed(physics)[0] / steps
        for field, x in state.items():
            x.copy_(after[field])
    return totals


def physics_alone(sim: Any, step: Callable[[], None]) -> Callable[[], None]:
    with wp.ScopedDevice(str(sim.device)):
        step()  # loads its kernels
        with wp.ScopedCapture(str(sim.device)) as capture:
            for _ in range(sim.num_substeps):
                step()
    graph: Any = capture.graph
    return lambda: wp.capture_launch(graph, stream=sim._stream())


def part_milliseconds(env: Any, agent: ppo.Agent) -> Dict[str, float]:
    """Every part of a step, each alone, waited for before and after."""
    obs = env.step(torch.zeros(env.num_envs, env.single_action_space.shape[0], device="cuda"))[-1]["critic_obs"]
    few = torch.zeros(env.num_envs, dtype=torch.bool, device="cuda")
    few[::200] = True  # about as many as end in a step
    parts: Dict[str, Callable[[], Any]] = {
        "policy": lambda: agent.act(obs),
        "actions": env._drive,
        "physics": lambda: env.sim.step(env.stages.dof_targets),
        "rewards and endings": env._finish,
        "random starts": env._place,
        "restarts": lambda: env.sim.write_state(few),
        "observations": env._observe,
    }
    return {name: sorted(timed(part)[0] for _ in range(20))[10] for name, part in parts.items()}


def timed(function: Callable, *args: Any) -> Tuple[float, Any]:
    torch.cuda.synchronize()
    began = time.perf_counter()
    result = function(*args)
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began), result


def ppo_milliseconds(env: Any, agent: ppo.Agent, cfg: ppo.PPOConfig, iterations: int = 5) -> Dict[str, float]:
    """Rollout, update and both, per environment step of all environments."""
    optimizer = ppo.make_optimizer(agent, cfg)
    obs = env.step(torch.zeros(env.num_envs, len(agent.action_low), device="cuda"))[-1]["critic_obs"]
    store = ppo.allocate_rollout(env.num_envs, obs.shape[1], len(agent.action_low), cfg, obs.device)
    progress = ppo.Progress(obs, episode=torch.zeros(2, env.num_envs, device="cuda"))
    learner = ppo.Learner(agent, optimizer, store, cfg)
    for _ in range(3):  # run, captured, replayed
        ppo.iterate(env, learner, progress)
    metrics = [ppo.iterate(env, learner, progress) for _ in range(iterations)]
    steps = iterations * cfg.horizon_length / 1e3
    parts = {name: sum(m[f"{name}_seconds"] for m in metrics) / steps for name in ("rollout", "update")}
    return {**parts, "total": sum(parts.values())}


def plot(stored: Dict[str, Any], path: Path) -> None:
    """Environment steps per second over the number of environments, of every device."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullLocator

    figure, panels = plt.subplots(
        1, len(stored), figsize=(1 + 5.5 * len(stored), 4), sharey=True, squeeze=False, constrained_layout=True
    )
    for axes, (device, rows) in zip(panels[0], stored.items()):
        results = sorted(rows["results"], key=lambda r: r["num_envs"])
        envs = [r["num_envs"] for r in results]
        for label, times in (
            ("raw physics", [r["raw"] for r in results]),
            ("env.step", [r["step"] for r in results]),
            *(
                (f"PPO, {name[4:]} minibatches", [r[name]["total"] for r in results])
                for name in results[0]
                if name.startswith("ppo_")
            ),
        ):
            axes.plot(envs, [n / t for n, t in zip(envs, times)], marker="o", label=label)
        axes.set_xscale("log", base=2)
        axes.set_xticks(envs, [f"{n:,}".replace(",", " ") for n in envs])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(title=device, xlabel="environments on one GPU", ylim=(0, None))
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("1000 environment steps per second")
    panels[0][0].legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    try:
        main()
    except ValueError as mistake:
        sys.exit(f"error: {mistake}")
