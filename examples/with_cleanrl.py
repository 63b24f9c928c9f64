"""CleanRL's ppo_continuous_action.py, unchanged, trains a DexHand task.

pip install --no-deps --ignore-requires-python cleanrl==1.2.0      # or --file your/copy/of/ppo_continuous_action.py
python examples/with_cleanrl.py --task BoxGrasping --num-envs 256 --iterations 100
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
import argparse
import runpy
import sys
from collections import deque
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers.vector import ArrayConversion

from dexhand_gym import find_task
from dexhand_gym.envs import make_vec_env

STEPS = 32  # per environment and iteration


def numpy_envs(task: str, num_envs: int) -> Any:
    """CleanRL computes with NumPy between the environments and its tensors."""
    return ArrayConversion(make_vec_env(find_task(task), num_envs, seed=0), env_xp=torch, target_xp=np)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="BoxGrasping")
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--file", type=Path, help="CleanRL's; default: that of the installed package")
    args = parser.parse_args()
    package = find_spec("cleanrl")
    folder = Path(package.submodule_search_locations[0]) if package and package.submodule_search_locations else Path()
    file = args.file or folder / "ppo_continuous_action.py"
    if not file.is_file():
        parser.error(f"--file {file}: no such file; `pip install --no-deps --ignore-requires-python cleanrl==1.2.0`")
    if args.iterations < 1:
        parser.error(f"--iterations {args.iterations}: allowed is 1 or more")
    try:
        envs = numpy_envs(args.task, args.num_envs)
    except ValueError as error:
        parser.error(str(error))

    returns: deque = deque(maxlen=100)
    envs.unwrapped.watchers.append(lambda info: returns.extend(info["episode"]["r"][info["_episode"]].tolist()))
    gymnasium.vector.SyncVectorEnv = lambda *makers, **options: envs
    sys.argv = [str(file), "--env-id", args.task, "--num-envs", str(args.num_envs), "--num-steps", str(STEPS)]
    sys.argv += ["--total-timesteps", str(args.iterations * STEPS * args.num_envs), "--num-minibatches", "4"]
    runpy.run_path(str(file), run_name="__main__")
    mean = sum(returns) / len(returns) if returns else float("nan")
    print(f"mean return of {len(returns)} episodes: {mean:.3f}")


if __name__ == "__main__":
    main()
