"""The original learner instead of ours: rl_games (pip install rl-games==1.6.5) trains a DexHand task.

    python examples/train_with_rl_games.py --task BaseTask --num-envs 64 --max-epochs 5
    python examples/train_with_rl_games.py --task BaseTask --play --checkpoint runs/.../nn/policy.pth

Checkpoints go both ways: `train_ppo.py --test --checkpoint` plays one written here, `--checkpoint` here takes one of ours.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
import argparse
import sys
from pathlib import Path

import torch
from rl_games.torch_runner import Runner

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # configs.py and ppo/ are not installed under these names

from dexhand_gym import rl_games
from ppo import strict_yaml
from ppo.rl_games_params import without_references

CONFIG = Path(__file__).with_name("rl_games.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="BaseTask")
    parser.add_argument("--train-config", type=Path, default=CONFIG, help="rl_games' YAML")
    parser.add_argument("--num-envs", type=int, help="instead of the YAML's num_actors")
    parser.add_argument("--max-epochs", type=int, help="instead of the YAML's")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="rl_games' torch_compile (needs a C++ compiler)")
    parser.add_argument("--checkpoint", help="to go on with, or to play")
    parser.add_argument("--play", action="store_true")
    args = parser.parse_args()

    params = without_references(strict_yaml.read(args.train_config, "train_config")["params"])
    config = params["config"]
    params["seed"] = args.seed
    config.update(env_name=args.task, device=args.device, device_name=args.device, torch_compile=args.compile)
    config["env_config"] = {**config.get("env_config", {}), "device": args.device, "seed": args.seed}
    config["player"] = {**config.get("player", {}), "use_vecenv": True}
    config["num_actors"] = args.num_envs or config.get("num_actors", -1)
    config["max_epochs"] = args.max_epochs or config.get("max_epochs", -1)
    if config["num_actors"] < 1:
        parser.error("--num-envs is missing: the file leaves it to the command line")
    if "minibatch_size" in config and "horizon_length" in config:  # few environments make one minibatch
        config["minibatch_size"] = min(config["minibatch_size"], config["num_actors"] * config["horizon_length"])

    rl_games.register()
    runner = Runner(rl_games.StatisticsObserver())
    runner.load({"params": params})
    runner.run({"train": not args.play, "play": args.play, "checkpoint": args.checkpoint})


if __name__ == "__main__":
    main()
