"""What several ranks and Weights & Biases cost in an iteration of training, on the CPU.

    python benchmarks/costs.py                                                          # W&B, offline
    torchrun --standalone --nproc-per-node=2 benchmarks/costs.py [--no-sync-statistics]    # Gloo's all-reduces, and W&B

BoxGrasping, `--num-envs` environments per rank. Times are those that the first rank spends in each, waiting for others
included; the first five iterations do not count. On GPUs all-reduces are part of a CUDA graph: there compare steps/s.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Callable, Dict

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dexhand_gym import tasks
from dexhand_gym.envs import make_vec_env
from ppo import distributed, ppo
from ppo.wandb_logger import WandbConfig, logging_to

WARM_UP = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--sync-statistics", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    if distributed.launched():
        distributed.start("cpu")
    spent: Dict[str, float] = defaultdict(float)
    for name in ("average", "moments", "gather"):
        setattr(distributed, name, timed(getattr(distributed, name), f"distributed.{name}", spent))
    cfg = ppo.PPOConfig(
        max_iterations=WARM_UP + args.iterations,
        sync_statistics=args.sync_statistics,
        save_frequency=0,
        save_best_after=10**9,
    )
    env = make_vec_env(tasks()["BoxGrasping"], args.num_envs, seed=distributed.rank(), device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        wandb = WandbConfig(enabled=distributed.is_main(), mode="offline")
        with logging_to(wandb, {}, Path(folder), None) as tell:
            log = timed(tell, "W&B, offline", spent)

            def after_iteration(metrics: Dict[str, float]) -> None:
                log(metrics)
                spent["all of it"] += metrics["rollout_seconds"] + metrics["update_seconds"]
                if metrics["iteration"] == WARM_UP:
                    spent.clear()

            ppo.train(env, cfg, folder, after_iteration)
    if distributed.is_main():
        for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
            milliseconds, share = 1000 * seconds / args.iterations, seconds / spent["all of it"]
            print(f"{name:<22}{milliseconds:9.2f} ms per iteration {share:8.2%}")
    distributed.stop()


def timed(function: Callable, name: str, spent: Dict[str, float]) -> Callable:
    """`function`, whose seconds are added to spent[name]."""

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - start

    return call


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    main()
