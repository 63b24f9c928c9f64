"""Stable-Baselines3's PPO trains a DexHand task (pip install 'dexhand-gym[works-with]').

python examples/with_sb3.py --task BoxGrasping --num-envs 256 --iterations 100
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
import argparse
from collections import deque

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from dexhand_gym import find_task
from dexhand_gym.envs import make_vec_env
from dexhand_gym.sb3 import SB3VecEnv

STEPS = 32  # per environment and iteration


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
    rows = STEPS * args.num_envs
    normalized = VecNormalize(SB3VecEnv(env), norm_reward=False)
    # The physics may run on a GPU; networks of this size are faster on the CPU, where SB3's arrays are.
    model = PPO("MlpPolicy", normalized, n_steps=STEPS, batch_size=rows // 4, seed=0, verbose=1, device="cpu")
    model.learn(args.iterations * rows)
    env.close()
    mean = sum(returns) / len(returns) if returns else float("nan")
    print(f"mean return of {len(returns)} episodes: {mean:.3f}")


if __name__ == "__main__":
    main()
