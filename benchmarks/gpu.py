"""Raw physics, env.step and full PPO on one GPU, in one run.

    python benchmarks/gpu.py [--num-envs 4096 8192 16384 32768] [--checkpoint FILE.pth] [--compile]

Per number of environments: milliseconds and environment steps per second of

* raw physics: a CUDA graph of mujoco_warp.step alone, as many as a control step has,
* env.step of BoxGrasping: actions, physics, observations, rewards, endings, resets,
* PPO: rollout of 16 steps and 4 mini-epochs of 4 and of 16 minibatches, per environment step,

all under the policy of --checkpoint, which should hold the box (physics costs most then); each raw step is run from the
state that the env.step beside it starts from.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, Callable, Dict, Tuple

import gymnasium
import mujoco_warp as mjw
import torch
import warp as wp

import dexhand_gym  # noqa: F401  (registers the tasks)
from ppo import checkpoint as checkpoints
from ppo import ppo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, nargs="+", default=[4096, 8192, 16384, 32768])
    parser.add_argument("--checkpoint")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, warp {wp.__version__}, mujoco_warp {mjw.__version__}"
    )
    print(
        "envs | start s | raw ms, 1000/s | env.step ms, 1000/s, ratio | PPO 4 minibatches 1000/s, ratio | 16 | memory GB"
    )
    for num_envs in args.num_envs:
        print(measure(num_envs, args.checkpoint, args.compile), flush=True)


def measure(num_envs: int, checkpoint: str, compile: bool) -> str:
    torch.manual_seed(0)
    began = time.perf_counter()
    env: Any = gymnasium.make_vec(
        "DexHand/BoxGrasping-v0", num_envs=num_envs, device="cuda", seed=0, compile=compile
    ).unwrapped
    cfg = ppo.PPOConfig(
        horizon_length=16, num_minibatches=4, reward_scale=0.02, learning_rate=1e-5, lr_schedule="fixed"
    )
    cfg.compile = compile
    torch.set_float32_matmul_precision("high")
    agent = ppo.Agent(env.single_observation_space, env.single_action_space, cfg).cuda()
    if checkpoint:
        checkpoints.load_weights(agent, checkpoints.load(checkpoint))
    play(env, agent, 200)  # into the middle of the grasps, each environment at a time of its own
    torch.cuda.synchronize()
    start = time.perf_counter() - began
    steps = step_seconds(env, agent)
    raw, step = steps["raw"], steps["env"]
    rates = [f"{num_envs / s / 1000:.0f}" for s in (raw, step)]
    text = f"{num_envs} | {start:.0f} | {raw * 1e3:.2f}, {rates[0]} | {step * 1e3:.2f}, {rates[1]}, {raw / step:.3f}"
    for minibatches in (4, 16):
        cfg.num_minibatches = minibatches
        seconds = ppo_seconds(env, agent, cfg)
        total = seconds["rollout"] + seconds["update"]
        raw = step_seconds(env, agent)["raw"]
        text += f" | {num_envs / total / 1000:.0f}, {raw / total:.3f} (rollout {seconds['rollout'] * 1e3:.2f} ms, "
        text += f"update {seconds['update'] * 1e3:.2f} ms, raw {raw * 1e3:.2f} ms)"
    free, total_memory = torch.cuda.mem_get_info()
    env.close()
    return f"{text} | {(total_memory - free) / 1e9:.1f}"


@torch.no_grad()
def play(env: Any, agent: ppo.Agent, steps: int) -> None:
    obs, _ = env.reset()
    env._episode_step.copy_(torch.randint(0, 100, (env.num_envs,), device="cuda"))
    for _ in range(steps):
        obs, *_ = env.step(agent.to_env(agent.act(obs)[0]))


@torch.no_grad()
def step_seconds(env: Any, agent: ppo.Agent, steps: int = 60) -> Dict[str, float]:
    """Seconds per control step of raw physics and of env.step, from the same states under the same targets."""
    sim = env.sim
    raw = raw_physics(sim)
    state = [wp.to_torch(getattr(sim._d, name)) for name in ("qpos", "qvel", "qacc_warmstart", "ctrl", "time")]
    obs, *_ = env.step(torch.zeros(env.num_envs, env.single_action_space.shape[0], device="cuda"))
    totals = {"raw": 0.0, "env": 0.0}
    for _ in range(steps):
        action = agent.to_env(agent.act(obs)[0])
        saved = [x.clone() for x in state]
        seconds, (obs, *_) = timed(env.step, action)
        totals["env"] += seconds
        after = [x.clone() for x in state]
        targets = env._dof_targets.clone()
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


def timed(function: Callable, *args: Any) -> Tuple[float, Any]:
    torch.cuda.synchronize()
    began = time.perf_counter()
    result = function(*args)
    torch.cuda.synchronize()
    return time.perf_counter() - began, result


def ppo_seconds(env: Any, agent: ppo.Agent, cfg: ppo.PPOConfig, iterations: int = 8) -> Dict[str, float]:
    """Seconds per environment step of all environments, in rollout and in update."""
    optimizer = ppo.make_optimizer(agent, cfg)
    obs, *_ = env.step(torch.zeros(env.num_envs, len(agent.action_low), device="cuda"))
    store = ppo.allocate_rollout(env.num_envs, obs.shape[1], len(agent.action_low), cfg, obs.device)
    progress = ppo.Progress(obs, episode=torch.zeros(2, env.num_envs, device="cuda"))
    learner = ppo.Learner(agent, optimizer, store, cfg)
    for _ in range(3):  # run, captured, replayed
        ppo.iterate(env, learner, progress)
    metrics = [ppo.iterate(env, learner, progress) for _ in range(iterations)]
    steps = iterations * cfg.horizon_length
    return {name: sum(m[f"{name}_seconds"] for m in metrics) / steps for name in ("rollout", "update")}


if __name__ == "__main__":
    main()
