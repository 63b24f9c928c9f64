"""skrl's PPO trains a DexHand task (pip install 'dexhand-gym[works-with]').

python examples/with_skrl.py --task BoxGrasping --num-envs 256 --iterations 100
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
import argparse
from collections import deque
from typing import Any

from skrl.agents.torch.ppo import PPO
from skrl.memories.torch import RandomMemory
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from skrl.utils.model_instantiators.torch import deterministic_model, gaussian_model

from dexhand_gym import find_task
from dexhand_gym.envs import make_vec_env
from dexhand_gym.skrl import FinalObservations, SkrlVecEnv

STEPS = 32  # per environment and iteration


class FinalPPO(FinalObservations, PPO):
    """PPO that bootstraps time-outs with the value of the episode's last observation."""


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
    set_seed(0)
    wrapped = SkrlVecEnv(env)
    spaces = {name: getattr(wrapped, name) for name in ("observation_space", "state_space", "action_space", "device")}
    layers = {"layers": [256, 128, 64], "activations": "elu"}
    sees = "STATES" if wrapped.state_space else "OBSERVATIONS"
    policy = gaussian_model(**spaces, network=[{"name": "net", "input": "OBSERVATIONS", **layers}], output="ACTIONS")
    value = deterministic_model(**spaces, network=[{"name": "net", "input": sees, **layers}], output="ONE")
    no_files = {"write_interval": 0, "checkpoint_interval": 0}
    models: Any = {"policy": policy, "value": value}
    agent = FinalPPO(
        models=models,
        memory=RandomMemory(memory_size=STEPS, num_envs=args.num_envs, device=wrapped.device),
        cfg={"rollouts": STEPS, "time_limit_bootstrap": True, "experiment": no_files},
        **spaces,
    )
    SequentialTrainer(env=wrapped, agents=agent, cfg={"timesteps": args.iterations * STEPS, "headless": True}).train()
    env.close()
    mean = sum(returns) / len(returns) if returns else float("nan")
    print(f"mean return of {len(returns)} episodes: {mean:.3f}")


if __name__ == "__main__":
    main()
