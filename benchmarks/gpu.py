"""Raw physics, env.step and full PPO on one GPU, in one run.

    python benchmarks/gpu.py [--num-envs 4096 8192 16384 32768] [--checkpoint pretrained] [--compile] [--json FILE.json]
    python benchmarks/gpu.py --plot FILE.png --json FILE.json

Per number of environments, under the policy of --checkpoint, which should hold the box (physics costs most then):

* raw: a CUDA graph of mujoco_warp.step alone, as many as a control step has, each run from the state that the
  env.step beside it starts from;
* step: env.step of BoxGrasping (actions, physics, observations, rewards, endings, restarts), and its parts each alone;
* PPO: rollout of 16 steps and 4 mini-epochs of 4 and of 16 minibatches, per environment step.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import gymnasium
import mujoco_warp as mjw
import torch
import warp as wp

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # configs.py and ppo/ are not installed under these names

import configs
from ppo import checkpoint as checkpoints
from ppo import ppo, workspace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, nargs="+", default=[4096, 8192, 16384, 32768])
    parser.add_argument("--checkpoint", help="a .pth file of BoxGrasping, or pretrained")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path, help="results go there (with --plot: come from there)")
    parser.add_argument("--plot", type=Path, help="draw results instead of measuring")
    args = parser.parse_args()
    if args.plot:
        plot(json.loads(args.json.read_text())["results"], args.plot)
        return
    versions = [torch.cuda.get_device_name(), f"torch {torch.__version__}"]
    versions += [f"warp {wp.__version__}", f"mujoco_warp {mjw.__version__}"]
    print(", ".join(versions))
    print("envs | raw 1000/s | step 1000/s, ratio | PPO 4 minibatches, ratio | 16 | memory GB | start s | parts ms")
    results = []
    for num_envs in args.num_envs:
        results.append(measure(num_envs, args.checkpoint, args.compile))
        print(describe(results[-1]), flush=True)
        if args.json:
            args.json.write_text(json.dumps({"versions": versions, "results": results}, indent=1))


def measure(num_envs: int, checkpoint: str, compile: bool) -> Dict[str, Any]:
    """Milliseconds per environment step of all environments, by name; "ratio" is to the raw physics beside it."""
    torch.manual_seed(0)
    torch._dynamo.reset()  # every size is compiled for itself
    began = time.perf_counter()
    env: Any = gymnasium.make_vec(
        "DexHand/BoxGrasping-v0", num_envs=num_envs, device="cuda", seed=0, compile=compile
    ).unwrapped
    cfg = configs.default_config("BoxGrasping").train
    cfg.horizon_length, cfg.num_minibatches, cfg.compile = 16, 4, compile
    cfg.learning_rate, cfg.lr_schedule = 1e-6, "fixed"  # the policy is to stay as it is
    torch.set_float32_matmul_precision("high")
    rows = env.single_critic_space.shape[0]
    agent = ppo.Agent(env.single_observation_space, env.single_action_space, cfg, rows).cuda()
    if checkpoint == "pretrained":
        checkpoint = str(workspace.best_checkpoint(configs.PRETRAINED / "BoxGrasping"))
    if checkpoint:
        checkpoints.load_weights(agent, checkpoints.load(checkpoint))
    play(env, agent, 200)  # into the middle of the grasps, each environment at a time of its own
    torch.cuda.synchronize()
    result: Dict[str, Any] = {"num_envs": num_envs, "start_seconds": time.perf_counter() - began}
    steps = step_seconds(env, agent)
    result.update(raw=1e3 * steps["raw"], step=1e3 * steps["env"], step_ratio=steps["raw"] / steps["env"])
    for minibatches in (4, 16):
        cfg.num_minibatches = minibatches
        seconds = ppo_seconds(env, agent, cfg)
        total = seconds["rollout"] + seconds["update"]
        beside = step_seconds(env, agent)["raw"]
        result[f"ppo_{minibatches}"] = {
            "total": 1e3 * total,
            "ratio": beside / total,
            **{name: 1e3 * part for name, part in seconds.items()},
        }
    result["parts"] = {name: 1e3 * seconds for name, seconds in part_seconds(env, agent).items()}
    free, total_memory = torch.cuda.mem_get_info()
    result["memory_gb"] = (total_memory - free) / 1e9
    env.close()
    return result


def describe(r: Dict[str, Any]) -> str:
    def rate(milliseconds: float) -> str:
        return f"{r['num_envs'] / milliseconds:.0f}"

    columns = [str(r["num_envs"]), rate(r["raw"]), f"{rate(r['step'])}, {r['step_ratio']:.3f}"]
    columns += [f"{rate(r[name]['total'])}, {r[name]['ratio']:.3f}" for name in ("ppo_4", "ppo_16")]
    columns += [f"{r['memory_gb']:.1f}", f"{r['start_seconds']:.0f}"]
    parts = {**r["parts"], "update (4)": r["ppo_4"]["update"], "update (16)": r["ppo_16"]["update"]}
    columns.append(", ".join(f"{name} {milliseconds:.2f}" for name, milliseconds in parts.items()))
    return " | ".join(columns)


@torch.no_grad()
def play(env: Any, agent: ppo.Agent, steps: int) -> None:
    obs = env.reset()[1]["critic_obs"]
    env._episode_step.copy_(torch.randint(0, 100, (env.num_envs,), device="cuda"))
    for _ in range(steps):
        obs = env.step(agent.to_env(agent.act(obs)[0]))[-1]["critic_obs"]


@torch.no_grad()
def step_seconds(env: Any, agent: ppo.Agent, steps: int = 60) -> Dict[str, float]:
    """Seconds per control step of raw physics and of env.step, from the same states under the same targets."""
    sim = env.sim
    raw = raw_physics(sim)
    state = [wp.to_torch(getattr(sim._d, name)) for name in ("qpos", "qvel", "qacc_warmstart", "ctrl", "time")]
    obs = env.step(torch.zeros(env.num_envs, env.single_action_space.shape[0], device="cuda"))[-1]["critic_obs"]
    totals = {"raw": 0.0, "env": 0.0}
    for _ in range(steps):
        action = agent.to_env(agent.act(obs)[0])
        saved = [x.clone() for x in state]
        seconds, (*_, info) = timed(env.step, action)
        obs = info["critic_obs"]
        totals["env"] += seconds
        after = [x.clone() for x in state]
        targets = env.stages.dof_targets.clone()
        for x, old in zip(state, saved):
            x.copy_(old)
        state[3].copy_(targets)
        totals["raw"] += timed(raw)[0]
        for x, new in zip(state, after):
            x.copy_(new)
    return {name: total / steps for name, total in totals.items()}


def raw_physics(sim: Any) -> Callable[[], None]:
    with wp.ScopedDevice(str(sim.device)), wp.ScopedCapture(str(sim.device)) as capture:
        for _ in range(sim.num_substeps):
            mjw.step(sim._m, sim._d)
    graph: Any = capture.graph
    return lambda: wp.capture_launch(graph, stream=sim._stream())


def part_seconds(env: Any, agent: ppo.Agent) -> Dict[str, float]:
    """Seconds of every part of a step, each alone, synchronised before and after."""
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
    return time.perf_counter() - began, result


def ppo_seconds(env: Any, agent: ppo.Agent, cfg: ppo.PPOConfig, iterations: int = 8) -> Dict[str, float]:
    """Seconds per environment step of all environments, in rollout and in update."""
    optimizer = ppo.make_optimizer(agent, cfg)
    obs = env.step(torch.zeros(env.num_envs, len(agent.action_low), device="cuda"))[-1]["critic_obs"]
    store = ppo.allocate_rollout(env.num_envs, obs.shape[1], len(agent.action_low), cfg, obs.device)
    progress = ppo.Progress(obs, episode=torch.zeros(2, env.num_envs, device="cuda"))
    learner = ppo.Learner(agent, optimizer, store, cfg)
    for _ in range(3):  # run, captured, replayed
        ppo.iterate(env, learner, progress)
    metrics = [ppo.iterate(env, learner, progress) for _ in range(iterations)]
    steps = iterations * cfg.horizon_length
    return {name: sum(m[f"{name}_seconds"] for m in metrics) / steps for name in ("rollout", "update")}


def plot(results: List[Dict[str, Any]], path: Path) -> None:
    """Environment steps per second over the number of environments."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullLocator

    results = sorted(results, key=lambda r: r["num_envs"])
    figure, axes = plt.subplots(figsize=(6.5, 4), constrained_layout=True)
    envs = [r["num_envs"] for r in results]
    for label, times in (
        ("raw physics", [r["raw"] for r in results]),
        ("env.step", [r["step"] for r in results]),
        ("PPO, 4 minibatches", [r["ppo_4"]["total"] for r in results]),
        ("PPO, 16 minibatches", [r["ppo_16"]["total"] for r in results]),
    ):
        axes.plot(envs, [n / t for n, t in zip(envs, times)], marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(envs, [f"{n:,}".replace(",", " ") for n in envs])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="environments on one GPU", ylabel="1000 environment steps per second", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
