"""Environment steps per second against raw physics on the CPU, in one run.

    python benchmarks/env_step.py [--num-envs 256] [--steps 250] [--rounds 5] [--memory]
                                  [anything that train_ppo.py takes]

Replays the actions of grasps (contact-rich: what physics costs when it matters) and times, in turns, `env.step` of
BoxGrasping (actions, physics, observations, rewards, endings, resets) and `mujoco.rollout` of the same model from the
same states, with the same dof targets, substeps, warm starts and threads (but without what `task.randomize` changes in the
physics, for it has one model for all). --memory then takes 10 000 steps of short episodes and prints the process's
resident memory along the way.
"""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any, List, Tuple

import mujoco
import numpy as np
import torch
from mujoco import rollout

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # examples/ is not a part of what is installed
import configs
from dexhand_gym import find_task
from dexhand_gym.envs import make_vec_env
from examples.scripted_grasp import scripted_env


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    args, more = parser.parse_known_args()
    try:
        cfg = configs.parse(["--task", "BoxGrasping", "--device", "cpu", "--num-envs", str(args.num_envs), *more])
        if cfg.task_name != "BoxGrasping":
            raise ValueError(f"task_name = {cfg.task_name}: allowed is BoxGrasping, whose grasps this replays")
    except ValueError as error:
        sys.exit(f"error: {error}")
    cores = len(os.sched_getaffinity(0))
    print(f"mujoco {mujoco.__version__}, torch {torch.__version__}, {cores} cores, {args.num_envs} envs")
    actions = grasping_actions(args.num_envs, args.steps)
    env: Any = make_vec_env(find_task("BoxGrasping"), args.num_envs, cfg, 0)
    raw = RawPhysics(env.unwrapped.sim, cores)
    play(env, raw, actions[:20])
    ratios = []
    for _ in range(args.rounds):
        env_seconds, raw_seconds = play(env, raw, actions)
        ratios.append(raw_seconds / env_seconds)
        work = args.num_envs * args.steps
        print(f"env.step {work / env_seconds:8,.0f}/s   raw {work / raw_seconds:8,.0f}/s   ratio {ratios[-1]:.3f}")
    print(f"median ratio {np.median(ratios):.3f} (lowest {min(ratios):.3f}, highest {max(ratios):.3f})")
    if args.memory:
        measure_memory(args.num_envs)


class RawPhysics:
    """mujoco.rollout from the states that a simulator is in, on a thread pool of its own."""

    def __init__(self, sim, threads: int):
        self._batch, self._nstep = sim._batch, sim.num_substeps
        self._models = [sim.model] * sim.num_envs
        self._datas = [mujoco.MjData(sim.model) for _ in range(threads)]
        self._rollout = rollout.Rollout(nthread=threads)
        size = mujoco.mj_stateSize(sim.model, mujoco.mjtState.mjSTATE_FULLPHYSICS.value)
        self._out = np.empty((sim.num_envs, self._nstep, size))

    def snapshot(self) -> tuple:
        b = self._batch
        state = np.concatenate((b.bind("time")[:, None], b.bind("qpos"), b.bind("qvel")), 1)
        return np.ascontiguousarray(state), np.ascontiguousarray(b.bind("qacc_warmstart"))

    def seconds(self, start: tuple, targets: torch.Tensor) -> float:
        control = np.repeat(targets.numpy().astype(np.float64)[:, None], self._nstep, 1)
        began = time.perf_counter()
        self._rollout.rollout(
            self._models, self._datas, start[0], control, initial_warmstart=start[1], nstep=self._nstep,
            state=self._out, skip_checks=True,
        )  # fmt: skip
        return time.perf_counter() - began


def grasping_actions(num_envs: int, steps: int) -> List[torch.Tensor]:
    """The actions [N, 18] that move the targets as the scripted grasp does."""
    env = scripted_env(num_envs, seed=0).unwrapped
    env.reset(seed=0)
    actions = []
    for _ in range(steps):
        before = env.measured["targets"].clone()
        env.step(torch.zeros(num_envs, 0))
        actions.append((env.measured["targets"] - before) / env.limits.max_change)
    return actions


def play(env, raw: RawPhysics, actions: List[torch.Tensor]) -> Tuple[float, float]:
    """Seconds in env.step and in the same raw physics, alternating step by step: noise of the machine meets both. The
    pauses let PyTorch's threads fall asleep, which would otherwise wait busily on cores that the physics is timed on."""
    env.reset(seed=0)
    env_seconds = raw_seconds = 0.0
    for action in actions:
        start = raw.snapshot()
        time.sleep(0.02)
        began = time.perf_counter()
        env.step(action)
        env_seconds += time.perf_counter() - began
        time.sleep(0.02)
        raw_seconds += raw.seconds(start, env.unwrapped.stages.dof_targets)
    return env_seconds, raw_seconds


def measure_memory(num_envs: int) -> None:
    env = scripted_env(num_envs, seed=0, episode_length=50)
    actions = torch.zeros(env.action_space.shape)
    page = os.sysconf("SC_PAGE_SIZE") / 2**20
    for step in range(10_001):
        if step % 2000 == 0:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
            print(f"after {step:6d} steps: {resident:.1f} MB")
        env.step(actions)


if __name__ == "__main__":
    main()
