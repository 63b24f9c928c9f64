"""rsl_rl's PPO trains a DexHand task (pip install 'dexhand-gym[works-with]').

python examples/with_rsl_rl.py --task BoxGrasping --num-envs 256 --iterations 100
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
import argparse
from collections import deque

import torch
from rsl_rl.runners import OnPolicyRunner

from dexhand_gym import find_task
from dexhand_gym.envs import make_vec_env
from dexhand_gym.rsl_rl import RslRlVecEnv

NETWORK = {"class_name": "MLPModel", "hidden_dims": [256, 128, 64], "obs_normalization": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="BoxGrasping")
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=100)
    args = parser.parse_args()
    if args.iterations < 1:
        parser.error(f"--iterations {args.iterations}: allowed is 1 or more")
    try:
        env = make_vec_env(find_task(args.task), args.num_envs, seed=0)
    except ValueError as error:
        parser.error(str(error))

    returns: deque = deque(maxlen=100)
    env.watchers.append(lambda info: returns.extend(info["episode"]["r"][info["_episode"]].tolist()))
    torch.manual_seed(0)
    wrapped = RslRlVecEnv(env)
    config = {
        "num_steps_per_env": 32,
        "save_interval": 50,
        "obs_groups": {"actor": ["policy"], "critic": ["critic" if env.single_critic_space else "policy"]},
        "algorithm": {"class_name": "PPO", "learning_rate": 1e-3, "entropy_coef": 0.0},
        "actor": {**NETWORK, "distribution_cfg": {"class_name": "GaussianDistribution"}},
        "critic": {**NETWORK},
    }
    OnPolicyRunner(wrapped, config, log_dir="runs/rsl_rl", device=str(env.device)).learn(args.iterations)
    env.close()
    mean = sum(returns) / len(returns) if returns else float("nan")
    print(f"mean return of {len(returns)} episodes: {mean:.3f}")


if __name__ == "__main__":
    main()
