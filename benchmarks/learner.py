"""The PPO learner alone, ours beside other libraries, on the same random data, network and settings.

    pip install rl-games==1.6.5 rsl-rl-lib==5.5.1 skrl==2.1.1  # each optional; what is missing says so in its row
    python benchmarks/learner.py [--num-envs 4096 8192 16384] [--minibatches 4 16] [--compile] [--device cpu]

One update is what follows a rollout of 16 steps: the value of the last observation, advantages, and 4 mini-epochs of Adam
steps. All start from the same weights (actor and critic 256, 128, 64, ELU) and rollout, which is written back, untimed,
before every update. TF32 for all; the adaptive learning rate where there is one (CleanRL has none), and normalised
observations and values (rsl-rl: observations; CleanRL: none on the GPU). What is timed is the libraries' own code:

* rl-games: A2CAgent.train_epoch, with the last lines of play_steps (advantages, flattening) in the place of all of it;
* rsl-rl: PPO.compute_returns and PPO.update on a RolloutStorage filled by add_transition;
* skrl: PPO.update on a RandomMemory filled by add_samples;
* CleanRL style: the update of ppo_continuous_action written anew, its minibatches shuffled on the device.

Compiled means what each library's own setting does: our `compile`, torch_compile of rl-games (there the default),
torch_compile_mode "default" of rsl-rl; skrl has none. Steps and first loss of the policy, which all define alike, say
whether the same was done: they differ by the minibatches' order, by what is normalised, and in rsl-rl by a learning rate
that moves after every minibatch. Tables to stdout, progress to stderr.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import math
import statistics
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Tuple

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # configs.py and ppo/ are not installed under these names

from ppo import ppo

OBS, ACTIONS = 115, 18  # of BoxGrasping
WARM_UP = 4  # ours is captured in the second update


class Data(NamedTuple):
    """What a rollout leaves behind, and the agent that acted."""

    agent: ppo.Agent
    rollout: ppo.Rollout
    last_obs: Tensor  # [N, OBS]


@dataclass
class Learner:
    refill: Callable[[], Any]  # writes the rollout into the library's storage
    update: Callable[[], Any]  # one PPO update; returns the mean loss of the policy
    optimizer: Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--minibatches", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--updates", type=int, default=10, help="the median of so many is printed")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true", help="also the compiled form of those that have one")
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    for minibatches in args.minibatches:
        rows: Dict[str, List[str]] = {}
        for num_envs in args.num_envs:
            for name, cell in compare(num_envs, minibatches, args).items():
                rows.setdefault(name, []).append(cell)
        device = torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device
        print(f"\n{device}, torch {torch.__version__}: ms per update of {minibatches} minibatches x 4 mini-epochs")
        print("(times as long as ours, as ours compiled; optimizer steps per update, first loss of the policy)\n")
        print("| learner | " + " | ".join(f"{n} envs" for n in args.num_envs) + " |")
        print("|---" * (1 + len(args.num_envs)) + "|")
        for name, cells in rows.items():
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def compare(num_envs: int, minibatches: int, args: argparse.Namespace) -> Dict[str, str]:
    """Name of a learner -> its cell of the table."""
    cfg = ppo.PPOConfig(horizon_length=16, mini_epochs=4, num_minibatches=minibatches)
    results: Dict[str, Any] = {}
    for name, make, compiled in learners(args.compile):
        data = random_data(num_envs, cfg, args.device)
        try:
            with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
                results[name] = measure(make(data, cfg, compiled, folder), cfg, args)
        except ImportError as error:
            results[name] = f"not installed: {error}"
        except Exception as error:  # of a library: the others are still worth their time
            results[name] = f"failed: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        print(f"{num_envs} envs, {minibatches} minibatches, {name}: {results[name]}", file=sys.stderr, flush=True)
        torch._dynamo.reset()
        gc.collect()
        if args.device.startswith("cuda"):
            torch.cuda.empty_cache()
    ours = [results[name][0] for name in ("ours", "ours, compiled") if isinstance(results.get(name), tuple)]
    return {name: x if isinstance(x, str) else format_cell(x, ours) for name, x in results.items()}


def learners(compile: bool) -> Iterable[Tuple[str, Callable[..., Learner], bool]]:
    yield "ours", our_learner, False
    if compile:
        yield "ours, compiled", our_learner, True
    yield "ours, eager", partial(our_learner, cuda_graphs=False), False
    for package, make in (("rl-games", rl_games_learner), ("rsl-rl-lib", rsl_rl_learner), ("skrl", skrl_learner)):
        try:
            name = f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            name = package
        yield name, make, False
        if compile and make is not skrl_learner:
            yield f"{name}, compiled", make, True
    yield "CleanRL style, eager", cleanrl_learner, False


def format_cell(result: Tuple[float, float, float], ours: List[float]) -> str:
    ms, steps, loss = result
    return f"{ms:.2f} ({', '.join(f'{ms / x:.2f}' for x in ours)}; {steps:g}, {loss:.4f})"


def random_data(num_envs: int, cfg: ppo.PPOConfig, device: str) -> Data:
    """The same for every learner: a rollout of the starting weights on random observations and rewards."""
    torch.manual_seed(0)
    agent = ppo.Agent(Box(-math.inf, math.inf, (OBS,)), Box(-1.0, 1.0, (ACTIONS,)), cfg).to(device)
    rollout = ppo.allocate_rollout(num_envs, OBS, ACTIONS, cfg, torch.device(device))
    rollout.obs.normal_()
    rollout.rewards.normal_().mul_(0.1)
    rollout.dones.bernoulli_(0.01)
    for t, obs in enumerate(rollout.obs):
        rollout.actions[t], rollout.neglogp[t], rollout.values[t], rollout.mu[t], rollout.sigma[t] = agent.act(obs)
    return Data(agent, rollout, torch.randn(num_envs, OBS, device=device))


def measure(learner: Learner, cfg: ppo.PPOConfig, args: argparse.Namespace) -> Tuple[float, float, float]:
    """Median ms of an update, optimizer steps per update, loss of the policy in the first update."""
    device = torch.device(args.device)
    seconds, losses = [], []
    for _ in range(WARM_UP + args.updates):
        learner.refill()
        began = ppo.clock(device)
        loss = learner.update()
        seconds.append(ppo.clock(device) - began)
        losses.append(float(loss))
    steps = max(float(state["step"]) for state in learner.optimizer.state.values()) / len(losses)
    if steps != cfg.mini_epochs * cfg.num_minibatches or not all(map(math.isfinite, losses)):
        raise RuntimeError(f"{steps:g} steps per update, losses {losses}")
    return statistics.median(seconds[WARM_UP:]) * 1e3, steps, losses[0]


# --- Ours ------------------------------------------------------------------------------------------------------------


def our_learner(data: Data, cfg: ppo.PPOConfig, compiled: bool, folder: str, cuda_graphs: bool = True) -> Learner:
    cfg = ppo.PPOConfig(**{**vars(cfg), "compile": compiled, "cuda_graphs": cuda_graphs})
    store = ppo.allocate_rollout(len(data.last_obs), OBS, ACTIONS, cfg, data.last_obs.device)
    learner = ppo.Learner(data.agent, ppo.make_optimizer(data.agent, cfg), store, cfg)

    def refill() -> None:
        for mine, x in zip(store, data.rollout):
            mine.copy_(x)

    def update() -> float:
        return learner.learn(data.agent.value(data.last_obs), 1).tolist()[0]

    return Learner(refill, update, learner.optimizer)


# --- Libraries -------------------------------------------------------------------------------------------------------


def settings(cfg: ppo.PPOConfig, names: str) -> Dict[str, Any]:
    """Ours in the words of a library: names is "theirs=ours ...", or one word where both say the same."""
    pairs = [name.partition("=") for name in names.split()]
    return {theirs: getattr(cfg, ours or theirs) for theirs, _, ours in pairs}


def actor_and_critic(agent: ppo.Agent) -> Tuple[nn.Sequential, nn.Sequential]:
    network: Any = agent.a2c_network
    return nn.Sequential(*network.actor_mlp, network.mu), nn.Sequential(*network.critic_mlp, network.value)


def rl_games_learner(data: Data, cfg: ppo.PPOConfig, compiled: bool, folder: str) -> Learner:
    from rl_games.algos_torch.a2c_continuous import A2CAgent
    from rl_games.common.a2c_common import swap_and_flatten01
    from rl_games.common.algo_observer import AlgoObserver

    num_envs, device = data.last_obs.shape[0], str(data.last_obs.device)
    same = "horizon_length mini_epochs learning_rate lr_schedule schedule_type kl_threshold gamma tau e_clip clip_value"
    same += " critic_coef entropy_coef bounds_loss_coef truncate_grads grad_norm normalize_input normalize_value"
    config = settings(cfg, f"{same} normalize_advantage")
    config.update(name="learner", env_name="none", num_actors=num_envs, device=device, train_dir=folder)
    config.update(minibatch_size=num_envs * cfg.horizon_length // cfg.num_minibatches, mixed_precision=False)
    config.update(features={"observer": AlgoObserver()}, reward_shaper=None, ppo=True)
    config["vec_env"] = SimpleNamespace(set_train_info=lambda *_: None)
    config["env_info"] = {
        "observation_space": Box(-np.inf, np.inf, (OBS,), np.float32),
        "action_space": Box(-1.0, 1.0, (ACTIONS,), np.float32),
    }
    init = {"name": "default"}
    space = {"mu_activation": "None", "sigma_activation": "None", "mu_init": init, "fixed_sigma": True}
    space["sigma_init"] = {"name": "const_initializer", "val": cfg.sigma_init}
    network: Dict[str, Any] = {"name": "actor_critic", "separate": cfg.separate, "space": {"continuous": space}}
    network["mlp"] = {"units": list(cfg.units), "activation": cfg.activation, "initializer": init}
    params = {"config": config, "model": {"name": "continuous_a2c_logstd"}, "network": network}

    class LearnerOnly(A2CAgent):
        def play_steps(self) -> Dict[str, Any]:  # what play_steps does after its last step
            stored = self.experience_buffer.tensor_dict
            dones, last_value = self.dones.float(), self.get_values(self.obs)
            arguments = (dones, last_value, stored["dones"].float(), stored["values"], stored["rewards"])
            returns = self.discount_values(*arguments) + stored["values"]
            batch = self.experience_buffer.get_transformed_list(swap_and_flatten01, self.tensor_list)
            return {**batch, "returns": swap_and_flatten01(returns), "played_frames": self.batch_size, "step_time": 0.0}

    agent = LearnerOnly("learner", params)
    assert agent.writer is not None
    agent.writer.close()  # nothing is logged
    agent.init_tensors()
    agent.model.load_state_dict(data.agent.state_dict())
    if compiled:
        agent.model = torch.compile(agent.model, mode="default")  # as Runner does for torch_compile: True

    def refill() -> None:
        stored, rollout = agent.experience_buffer.tensor_dict, data.rollout
        names = {"obses": "obs", "actions": "actions", "neglogpacs": "neglogp", "mus": "mu", "sigmas": "sigma"}
        for theirs, ours in {**names, "values": "values", "rewards": "rewards"}.items():
            stored[theirs].copy_(getattr(rollout, ours).view_as(stored[theirs]))
        stored["dones"][1:].copy_(rollout.dones[:-1])  # there: whether the step before ended the episode
        agent.dones, agent.obs = rollout.dones[-1].to(torch.uint8), {"obs": data.last_obs}

    def update() -> Tensor:
        a_losses = agent.train_epoch()[4]
        return torch.stack(a_losses).detach().mean()

    return Learner(refill, update, agent.optimizer)


def rsl_rl_learner(data: Data, cfg: ppo.PPOConfig, compiled: bool, folder: str) -> Learner:
    from rsl_rl.algorithms import PPO
    from rsl_rl.models import MLPModel
    from rsl_rl.storage import RolloutStorage
    from tensordict import TensorDict

    rollout, num_envs, device = data.rollout, data.last_obs.shape[0], str(data.last_obs.device)
    rows = [TensorDict({"policy": x}, batch_size=[num_envs]) for x in (*rollout.obs, data.last_obs)]
    groups = {"actor": ["policy"], "critic": ["policy"]}
    gaussian = {"class_name": "rsl_rl.modules.GaussianDistribution", "init_std": math.exp(cfg.sigma_init)}
    shape = {"hidden_dims": list(cfg.units), "activation": cfg.activation, "obs_normalization": cfg.normalize_input}
    actor = MLPModel(rows[0], groups, "actor", ACTIONS, **shape, distribution_cfg={**gaussian, "std_type": "log"})
    critic = MLPModel(rows[0], groups, "critic", 1, **shape)
    for mine, model in zip(actor_and_critic(data.agent), (actor, critic)):
        model.mlp.load_state_dict(dict(zip(model.mlp.state_dict(), mine.state_dict().values())))
    same = "gamma entropy_coef learning_rate clip_param=e_clip lam=tau max_grad_norm=grad_norm desired_kl=kl_threshold"
    same += " num_learning_epochs=mini_epochs num_mini_batches=num_minibatches use_clipped_value_loss=clip_value"
    kwargs = {**settings(cfg, same), "value_loss_coef": 0.5 * cfg.critic_coef, "device": device}
    storage = RolloutStorage("rl", num_envs, cfg.horizon_length, rows[0], [ACTIONS], device)
    algorithm = PPO(actor, critic, storage, **kwargs)
    algorithm.compile("default" if compiled else None)
    algorithm.train_mode()

    def refill() -> None:
        for t in range(cfg.horizon_length):
            step = RolloutStorage.Transition()
            step.hidden_states = (None, None)
            step.observations, step.actions, step.rewards = rows[t], rollout.actions[t], rollout.rewards[t]
            step.dones, step.values = rollout.dones[t], rollout.values[t].unsqueeze(-1)
            step.actions_log_prob, step.distribution_params = -rollout.neglogp[t], (rollout.mu[t], rollout.sigma[t])
            algorithm.storage.add_transition(step)

    def update() -> float:
        with torch.inference_mode():  # as its runner does
            algorithm.compute_returns(rows[-1])
        return algorithm.update()["surrogate"]

    return Learner(refill, update, algorithm.optimizer)


def skrl_learner(data: Data, cfg: ppo.PPOConfig, compiled: bool, folder: str) -> Learner:
    from skrl.agents.torch.ppo import PPO
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
    from skrl.resources.preprocessors.torch import RunningStandardScaler
    from skrl.resources.schedulers.torch import KLAdaptiveLR

    rollout, num_envs, device = data.rollout, data.last_obs.shape[0], data.last_obs.device
    spaces = {"observation_space": Box(-np.inf, np.inf, (OBS,)), "action_space": Box(-1.0, 1.0, (ACTIONS,))}

    def model(mixin: Any, network: nn.Module, log_std: Any = None) -> Any:
        class Network(mixin, Model):
            def __init__(self) -> None:
                Model.__init__(self, **spaces, device=device)
                mixin.__init__(self)
                self.network, self.log_std = network, log_std

            def compute(self, inputs: Dict[str, Any], role: str) -> Tuple[Tensor, Dict[str, Any]]:
                return self.network(inputs["observations"]), {"log_std": self.log_std}

        return Network()  # pyright: ignore[reportAbstractUsage]  (its mixin has what Model lacks)

    actor, critic = actor_and_critic(data.agent)
    models = {"policy": model(GaussianMixin, actor, data.agent.a2c_network.sigma)}
    models["value"] = model(DeterministicMixin, critic)
    same = "rollouts=horizon_length learning_epochs=mini_epochs mini_batches=num_minibatches discount_factor=gamma"
    same += " gae_lambda=tau learning_rate ratio_clip=e_clip value_clip=e_clip grad_norm_clip=grad_norm"
    kwargs = {**settings(cfg, same), "value_loss_scale": 0.5 * cfg.critic_coef}
    kwargs.update(learning_rate_scheduler=KLAdaptiveLR, learning_rate_scheduler_kwargs=settings(cfg, "kl_threshold"))
    for name, size in (("observation", OBS), ("value", 1)):
        kwargs[f"{name}_preprocessor"] = RunningStandardScaler
        kwargs[f"{name}_preprocessor_kwargs"] = {"size": size, "device": device}
    kwargs["experiment"] = {"directory": folder, "write_interval": 0, "checkpoint_interval": 0}
    memory = RandomMemory(memory_size=cfg.horizon_length, num_envs=num_envs, device=device)
    agent = PPO(models=models, memory=memory, **spaces, device=device, cfg=kwargs)
    agent.init()
    agent.enable_models_training_mode(True)

    def refill() -> None:
        for t in range(cfg.horizon_length):
            names = {"observations": "obs", "actions": "actions", "rewards": "rewards", "values": "values"}
            samples = {theirs: getattr(rollout, ours)[t].view(num_envs, -1) for theirs, ours in names.items()}
            ended = rollout.dones[t].bool().view(num_envs, 1)
            samples.update(log_prob=-rollout.neglogp[t].view(num_envs, 1), terminated=ended)
            samples.update(truncated=torch.zeros_like(ended))
            memory.add_samples(**samples)
        agent._current_next_observations = data.last_obs

    def update() -> float:
        agent.update(timestep=0, timesteps=1)
        return agent.tracking_data["Loss / Policy loss"][-1]

    return Learner(refill, update, agent.optimizer)


# --- CleanRL style ---------------------------------------------------------------------------------------------------


def cleanrl_learner(data: Data, cfg: ppo.PPOConfig, compiled: bool, folder: str) -> Learner:
    store = ppo.Rollout(*(x.contiguous() for x in data.rollout))  # as it stores them: step before environment
    log_prob, device = -store.neglogp, data.last_obs.device
    (actor, critic), logstd = actor_and_critic(data.agent), data.agent.a2c_network.sigma
    parameters = list(data.agent.parameters())
    optimizer = torch.optim.Adam(parameters, lr=cfg.learning_rate, eps=1e-5)

    def update() -> float:
        with torch.no_grad():
            last_value = critic(data.last_obs).flatten()
            advantages = ppo.gae(store.rewards, store.values, store.dones, last_value, cfg.gamma, cfg.tau)
        columns = (store.obs, store.actions, log_prob, store.values, advantages, advantages + store.values)
        batch = [x.flatten(0, 1) for x in columns]
        size = len(batch[0]) // cfg.num_minibatches
        losses, clipped_shares = [], []
        for _ in range(cfg.mini_epochs):
            for chosen in torch.randperm(len(batch[0]), device=device).split(size):
                obs, actions, old_logp, old_value, advantage, returns = (x[chosen] for x in batch)
                mu = actor(obs)
                policy = torch.distributions.Normal(mu, logstd.expand_as(mu).exp())
                log_ratio = policy.log_prob(actions).sum(1) - old_logp
                ratio = log_ratio.exp()
                with torch.no_grad():  # what it logs
                    _ = (-log_ratio).mean(), ((ratio - 1) - log_ratio).mean()
                    clipped_shares.append(((ratio - 1.0).abs() > cfg.e_clip).float().mean().item())
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                clipped = ratio.clamp(1 - cfg.e_clip, 1 + cfg.e_clip)
                policy_loss = torch.max(-advantage * ratio, -advantage * clipped).mean()
                value = critic(obs).flatten()
                near = old_value + (value - old_value).clamp(-cfg.e_clip, cfg.e_clip)
                value_loss = 0.5 * torch.max((value - returns) ** 2, (near - returns) ** 2).mean()
                entropy = policy.entropy().sum(1).mean()
                optimizer.zero_grad()
                (policy_loss - cfg.entropy_coef * entropy + cfg.critic_coef * value_loss).backward()
                nn.utils.clip_grad_norm_(parameters, cfg.grad_norm)
                optimizer.step()
                losses.append(policy_loss.detach())
        return torch.stack(losses).mean().item()

    return Learner(lambda: None, update, optimizer)


if __name__ == "__main__":
    main()
