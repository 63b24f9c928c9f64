"""A loop around TorchRL's PPO trains a DexHand task (pip install 'dexhand-gym[works-with]').

python examples/with_torchrl.py --task BoxGrasping --num-envs 256 --iterations 100
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
import argparse
from collections import deque

import torch
from tensordict.nn import AddStateIndependentNormalScale, TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.modules import MLP, IndependentNormal, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from dexhand_gym import find_task
from dexhand_gym.envs import make_vec_env
from dexhand_gym.torchrl import TorchRLEnv

STEPS, EPOCHS, MINIBATCHES = 32, 5, 4  # steps: per environment and iteration


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
    wrapped = TorchRLEnv(env)
    size, units = env.single_action_space.shape[0], {"num_cells": [256, 128, 64], "activation_class": nn.ELU}
    net = nn.Sequential(MLP(out_features=size, **units), AddStateIndependentNormalScale(size))
    module = TensorDictModule(net, in_keys=["observation"], out_keys=["loc", "scale"])
    actor = ProbabilisticActor(
        module, in_keys=["loc", "scale"], distribution_class=IndependentNormal, return_log_prob=True
    )
    sees = "critic_obs" if env.single_critic_space else "observation"
    critic = ValueOperator(MLP(out_features=1, **units), in_keys=[sees])
    actor.to(env.device)
    critic.to(env.device)
    critic(actor(wrapped.reset()))  # gives the layers their sizes
    loss = ClipPPOLoss(actor, critic, entropy_bonus=False, normalize_advantage=True)
    gae = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    rows = STEPS * args.num_envs
    frames = {"frames_per_batch": rows, "total_frames": args.iterations * rows}
    for data in Collector(wrapped, actor, **frames, auto_register_policy_transforms=False):
        for _ in range(EPOCHS):
            with torch.no_grad():
                gae(data)
            for part in data.reshape(-1)[torch.randperm(rows, device=data.device)].chunk(MINIBATCHES):
                losses = loss(part)
                (losses["loss_objective"] + losses["loss_critic"]).backward()
                nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        print(f"mean reward of a step: {data['next', 'reward'].mean():.3f}")
    env.close()
    mean = sum(returns) / len(returns) if returns else float("nan")
    print(f"mean return of {len(returns)} episodes: {mean:.3f}")


if __name__ == "__main__":
    main()
