"""The PPO learner alone, ours beside other libraries, on the same random data, networks and settings.

    pip install rl-games==1.6.5 rsl-rl-lib==5.5.1 skrl==2.1.1  # each optional; what is missing says so in its row
    python benchmarks/learner.py [--num-envs 4096 8192 16384] [--minibatches 8 16] [--compile] [--device cpu]

As in BoxGrasping the critic sees more than the policy and has a network of its own. One update is what follows a rollout
of 32 steps: the value of the last state, advantages, and 4 mini-epochs of Adam steps. All start from the same weights
(both networks 256, 128, 64, ELU) and rollout, which is written back, untimed, before every update. TF32 for all; the
adaptive learning rate where there is one (CleanRL has none), and normalised observations and values (rsl-rl:
observations; CleanRL: none on the GPU). What is timed is the libraries' own code:

* rl-games: A2CAgent.train_epoch, with the last lines of play_steps (advantages, flattening) in the place of all of it;
  its critic learns in a loop before the policy's, with Adam, clipping and a fixed rate of its own: so twice the steps;
* rsl-rl: PPO.compute_returns and PPO.update on a RolloutStorage filled by add_transition, the critic on two groups;
* skrl: PPO.update on a RandomMemory filled by add_samples, the policy on observations, the critic on states;
* CleanRL style: the update of ppo_continuous_action written anew, its minibatches shuffled on the device.

Compiled means what each library's own setting does: our `compile`, torch_compile of rl-games (there the default),
torch_compile_mode "default" of rsl-rl; skrl has none. Steps and first losses say whether the same was done. All define
that of the policy alike: it differs by the minibatches' order, by what is normalised and clipped, and in rsl-rl by a
learning rate that moves after every minibatch. That of the critic is a mean square without coefficient: of normalised
returns in ours, rl-games and skrl (of clipped values only), of plain ones in rsl-rl and CleanRL. Tables to stdout,
progress to stderr.
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
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # ppo/ is not installed under this name

from dexhand_gym import find_task
from dexhand_gym.envs import make_vec_env
from ppo import checkpoint, ppo

WARM_UP = 4  # ours is captured in the second update


class Data(NamedTuple):
    """What a rollout leaves behind, and the agent that acted."""

    agent: ppo.Agent
    rollout: ppo.Rollout  # its obs are states: what the policy sees, followed by what only the critic sees
    obs: Tensor  # [T, N, O] the former
    last_state: Tensor  # [N, S]


@dataclass
class Learner:
    refill: Callable[[], Any]  # writes the rollout into the library's storage
    update: Callable[[], Sequence[Any]]  # one PPO update; returns the mean losses of policy and critic
    optimizers: Sequence[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--minibatches", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--updates", type=int, default=10, help="the median of so many is printed")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true", help="also the compiled form of those that have one")
    args = parser.parse_args()
    try:
        torch.zeros((), device=args.device)
    except (RuntimeError, AssertionError) as error:
        sys.exit(f"error: --device {args.device}: {str(error).splitlines()[0]}")
    for name in ("num_envs", "minibatches"):
        if min(getattr(args, name)) < 1:
            sys.exit(f"error: --{name.replace('_', '-')} {min(getattr(args, name))}: allowed is 1 or more")
    torch.set_float32_matmul_precision("high")
    for minibatches in args.minibatches:
        rows: Dict[str, List[str]] = {}
        for num_envs in args.num_envs:
            for name, cell in compare(num_envs, minibatches, args).items():
                rows.setdefault(name, []).append(cell)
        device = torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device
        print(f"\n{device}, torch {torch.__version__}: ms per update of {minibatches} minibatches x 4 mini-epochs")
        print("(times as long as ours, as ours compiled; steps per update, first losses of policy and critic)\n")
        print("| learner | " + " | ".join(f"{n} envs" for n in args.num_envs) + " |")
        print("|---" * (1 + len(args.num_envs)) + "|")
        for name, cells in rows.items():
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


@lru_cache(None)
def task_spaces() -> Dict[str, Box]:
    """Those of BoxGrasping, under the names that rl-games and skrl share; a state is what its critic sees."""
    with contextlib.closing(make_vec_env(find_task("BoxGrasping"), backend="none", device="cpu")) as env:
        state = env.reset()[1]["critic_obs"][0]
        spaces = {"observation_space": env.single_observation_space, "action_space": env.single_action_space}
        return {**spaces, "state_space": Box(-np.inf, np.inf, state.shape)}


def compare(num_envs: int, minibatches: int, args: argparse.Namespace) -> Dict[str, str]:
    """Name of a learner -> its cell of the table."""
    cfg = ppo.PPOConfig(horizon_length=32, mini_epochs=4, num_minibatches=minibatches, separate=False)
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


def format_cell(result: Tuple[float, str, List[float]], ours: List[float]) -> str:
    ms, steps, losses = result
    return f"{ms:.2f} ({', '.join(f'{ms / x:.2f}' for x in ours)}; {steps}, {', '.join(f'{x:.4f}' for x in losses)})"


def random_data(num_envs: int, cfg: ppo.PPOConfig, device: str) -> Data:
    """The same for every learner: a rollout of the starting weights on random states and rewards."""
    seen, states, actions = (task_spaces()[f"{name}_space"] for name in ("observation", "state", "action"))
    size, num_actions = states.shape[0], actions.shape[0]
    torch.manual_seed(0)
    agent = ppo.Agent(seen, actions, cfg, size).to(device)
    rollout = ppo.allocate_rollout(num_envs, size, num_actions, cfg, torch.device(device))
    rollout.obs.normal_()
    rollout.rewards.normal_().mul_(0.1)
    rollout.dones.bernoulli_(0.01)
    for t, x in enumerate(rollout.obs):
        rollout.actions[t], rollout.neglogp[t], rollout.values[t], rollout.mu[t], rollout.sigma[t] = agent.act(x)
    obs, last_state = rollout.obs[..., : agent.obs_size], torch.randn(num_envs, size, device=device)
    return Data(agent, rollout, obs, last_state)


def measure(learner: Learner, cfg: ppo.PPOConfig, args: argparse.Namespace) -> Tuple[float, str, List[float]]:
    """Median ms of an update, steps of each optimizer per update, losses of the first update."""
    device = torch.device(args.device)
    seconds, losses = [], []
    for _ in range(WARM_UP + args.updates):
        learner.refill()
        began = ppo.clock(device)
        both = learner.update()
        seconds.append(ppo.clock(device) - began)
        losses.append([float(loss) for loss in both])
    counts = [{float(x["step"]) / len(losses) for x in optimizer.state.values()} for optimizer in learner.optimizers]
    if any(count != {cfg.mini_epochs * cfg.num_minibatches} for count in counts) or not np.isfinite(losses).all():
        raise RuntimeError(f"{counts} steps per update, losses {losses}")
    return statistics.median(seconds[WARM_UP:]) * 1e3, " + ".join(f"{max(x):g}" for x in counts), losses[0]


# --- Ours ------------------------------------------------------------------------------------------------------------


def our_learner(data: Data, cfg: ppo.PPOConfig, compiled: bool, folder: str, cuda_graphs: bool = True) -> Learner:
    cfg = ppo.PPOConfig(**{**vars(cfg), "compile": compiled, "cuda_graphs": cuda_graphs})
    store = ppo.Rollout(*map(torch.clone, data.rollout))  # strides too
    learner = ppo.Learner(data.agent, ppo.make_optimizer(data.agent, cfg), store, cfg)

    def refill() -> None:
        for mine, x in zip(store, data.rollout):
            mine.copy_(x)

    def update() -> List[float]:
        return learner.learn(data.agent.value(data.last_state), 1).tolist()[:2]

    return Learner(refill, update, [learner.optimizer])


# --- Libraries -------------------------------------------------------------------------------------------------------


def settings(cfg: Any, names: str) -> Dict[str, Any]:
    """Ours in the words of a library: names is "theirs=ours ...", or one word where both say the same."""
    pairs = [name.partition("=") for name in names.split()]
    return {theirs: getattr(cfg, ours or theirs) for theirs, _, ours in pairs}


def actor_and_critic(agent: ppo.Agent) -> Tuple[nn.Sequential, nn.Sequential]:
    actor, critic = agent.a2c_network, agent.central_value
    assert critic is not None
    return nn.Sequential(*actor.actor_mlp, actor.mu), nn.Sequential(*critic.a2c_network.children())


def rl_games_params(data: Data, cfg: ppo.PPOConfig) -> Dict[str, Any]:
    num_envs, init = len(data.last_state), {"name": "default"}
    mlp = {"units": list(cfg.units), "activation": cfg.activation, "initializer": init}
    network = {"name": "actor_critic", "separate": cfg.separate, "mlp": mlp}
    space = {"mu_activation": "None", "sigma_activation": "None", "mu_init": init, "fixed_sigma": True}
    space["sigma_init"] = {"name": "const_initializer", "val": cfg.sigma_init}
    both = "mini_epochs learning_rate lr_schedule e_clip clip_value truncate_grads grad_norm normalize_input"
    central = {**settings(cfg, both), "network": {**network, "central_value": True}}
    same = "horizon_length schedule_type kl_threshold gamma tau critic_coef entropy_coef bounds_loss_coef"
    config = settings(cfg, f"{both} {same} normalize_value normalize_advantage")
    config.update(name="learner", env_name="none", env_info=task_spaces(), num_actors=num_envs)
    config.update(mixed_precision=False, reward_shaper=None, device=str(data.last_state.device))
    config.update(central_value_config=central, use_experimental_cv=False)  # True: the policy's learns values too
    config["minibatch_size"] = central["minibatch_size"] = num_envs * cfg.horizon_length // cfg.num_minibatches
    network = {**network, "space": {"continuous": space}}
    return {"config": config, "model": {"name": "continuous_a2c_logstd"}, "network": network}


def rl_games_learner(data: Data, cfg: ppo.PPOConfig, compiled: bool, folder: str) -> Learner:
    from rl_games.algos_torch.a2c_continuous import A2CAgent
    from rl_games.common.a2c_common import swap_and_flatten01
    from rl_games.common.algo_observer import AlgoObserver

    class LearnerOnly(A2CAgent):
        def train_central_value(self) -> Any:
            self.value_loss = super().train_central_value()

        def play_steps(self) -> Dict[str, Any]:  # what play_steps does after its last step
            stored = self.experience_buffer.tensor_dict
            dones, last_value = self.dones.float(), self.get_values(self.obs)
            arguments = (dones, last_value, stored["dones"].float(), stored["values"], stored["rewards"])
            returns = self.discount_values(*arguments) + stored["values"]
            batch = self.experience_buffer.get_transformed_list(swap_and_flatten01, self.tensor_list)
            return {**batch, "returns": swap_and_flatten01(returns), "played_frames": self.batch_size, "step_time": 0.0}

    params = rl_games_params(data, cfg)
    params["config"].update(features={"observer": AlgoObserver()}, train_dir=folder)
    params["config"]["vec_env"] = SimpleNamespace(set_train_info=lambda *_: None)
    agent = LearnerOnly("learner", params)
    assert agent.writer is not None
    agent.writer.close()  # nothing is logged
    agent.init_tensors()
    critic = agent.central_value_net
    critic.writter = None  # nor here
    for part, weights in zip((agent.model, critic), checkpoint.split(data.agent.state_dict())):
        part.load_state_dict(weights)
    if compiled:  # as Runner does for torch_compile: True
        agent.model, critic.model = (torch.compile(model, mode="default") for model in (agent.model, critic.model))

    def refill() -> None:
        stored, dones = agent.experience_buffer.tensor_dict, data.rollout.dones
        same = settings(data.rollout, "states=obs actions neglogpacs=neglogp mus=mu sigmas=sigma values rewards")
        for name, x in {**same, "obses": data.obs}.items():
            stored[name].copy_(x.view_as(stored[name]))
        stored["dones"][1:].copy_(dones[:-1])  # there: whether the step before ended the episode
        agent.dones, agent.obs = dones[-1].to(torch.uint8), {"states": data.last_state}

    def update() -> List[Any]:
        a_losses = agent.train_epoch()[4]
        return [torch.stack(a_losses).detach().mean(), agent.value_loss]

    return Learner(refill, update, [agent.optimizer, critic.optimizer])


def rsl_rl_learner(data: Data, cfg: ppo.PPOConfig, compiled: bool, folder: str) -> Learner:
    from rsl_rl.algorithms import PPO
    from rsl_rl.models import MLPModel
    from rsl_rl.storage import RolloutStorage
    from tensordict import TensorDict

    rollout, num_envs, device = data.rollout, len(data.last_state), str(data.last_state.device)
    num_actions = rollout.actions.shape[-1]
    parts = (x.tensor_split([data.agent.obs_size], 1) for x in (*rollout.obs, data.last_state))
    rows = [TensorDict({"policy": seen, "privileged": more}, batch_size=[num_envs]) for seen, more in parts]
    groups = {"actor": ["policy"], "critic": ["policy", "privileged"]}
    gaussian = {"class_name": "rsl_rl.modules.GaussianDistribution", "init_std": math.exp(cfg.sigma_init)}
    shape = {"hidden_dims": list(cfg.units), "activation": cfg.activation, "obs_normalization": cfg.normalize_input}
    actor = MLPModel(rows[0], groups, "actor", num_actions, **shape, distribution_cfg={**gaussian, "std_type": "log"})
    critic = MLPModel(rows[0], groups, "critic", 1, **shape)
    for mine, model in zip(actor_and_critic(data.agent), (actor, critic)):
        model.mlp.load_state_dict(dict(zip(model.mlp.state_dict(), mine.state_dict().values())))
    same = "gamma entropy_coef learning_rate clip_param=e_clip lam=tau max_grad_norm=grad_norm desired_kl=kl_threshold"
    same += " num_learning_epochs=mini_epochs num_mini_batches=num_minibatches use_clipped_value_loss=clip_value"
    kwargs = {**settings(cfg, same), "value_loss_coef": 0.5 * cfg.critic_coef, "device": device}
    storage = RolloutStorage("rl", num_envs, cfg.horizon_length, rows[0], [num_actions], device)
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

    def update() -> List[float]:
        with torch.inference_mode():  # as its runner does
            algorithm.compute_returns(rows[-1])
        losses = algorithm.update()
        return [losses["surrogate"], losses["value"]]

    return Learner(refill, update, [algorithm.optimizer])


def skrl_learner(data: Data, cfg: ppo.PPOConfig, compiled: bool, folder: str) -> Learner:
    from skrl.agents.torch.ppo import PPO
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
    from skrl.resources.preprocessors.torch import RunningStandardScaler
    from skrl.resources.schedulers.torch import KLAdaptiveLR

    rollout, num_envs, device = data.rollout, len(data.last_state), data.last_state.device

    def model(mixin: Any, sees: str, network: nn.Module, log_std: Any = None) -> Any:
        class Network(mixin, Model):
            def __init__(self) -> None:
                Model.__init__(self, **task_spaces(), device=device)
                mixin.__init__(self)
                self.network, self.log_std = network, log_std

            def compute(self, inputs: Dict[str, Any], role: str) -> Tuple[Tensor, Dict[str, Any]]:
                return self.network(inputs[sees]), {"log_std": self.log_std}

        return Network()  # pyright: ignore[reportAbstractUsage]  (its mixin has what Model lacks)

    actor, critic = actor_and_critic(data.agent)
    models = {"policy": model(GaussianMixin, "observations", actor, data.agent.a2c_network.sigma)}
    models["value"] = model(DeterministicMixin, "states", critic)
    same = "rollouts=horizon_length learning_epochs=mini_epochs mini_batches=num_minibatches discount_factor=gamma"
    same += " gae_lambda=tau learning_rate ratio_clip=e_clip value_clip=e_clip grad_norm_clip=grad_norm"
    kwargs = {**settings(cfg, same), "value_loss_scale": 0.5 * cfg.critic_coef}
    kwargs.update(learning_rate_scheduler=KLAdaptiveLR, learning_rate_scheduler_kwargs=settings(cfg, "kl_threshold"))
    for name in ("observation", "state", "value"):
        size = task_spaces().get(f"{name}_space", 1)
        kwargs[f"{name}_preprocessor"] = RunningStandardScaler
        kwargs[f"{name}_preprocessor_kwargs"] = {"size": size, "device": device}
    kwargs["experiment"] = {"directory": folder, "write_interval": 0, "checkpoint_interval": 0}
    memory = RandomMemory(memory_size=cfg.horizon_length, num_envs=num_envs, device=device)
    agent = PPO(models=models, memory=memory, **task_spaces(), device=device, cfg=kwargs)
    agent.init()
    agent.enable_models_training_mode(True)

    def refill() -> None:
        for t in range(cfg.horizon_length):
            same = settings(rollout, "states=obs actions rewards values")
            samples = {name: x[t].view(num_envs, -1) for name, x in {**same, "observations": data.obs}.items()}
            ended = rollout.dones[t].bool().view(num_envs, 1)
            samples.update(log_prob=-rollout.neglogp[t].view(num_envs, 1), terminated=ended)
            samples["truncated"] = torch.zeros_like(ended)
            memory.add_samples(**samples)
        agent._current_next_states = data.last_state
        agent._current_next_observations = data.last_state[:, : data.agent.obs_size]

    def update() -> List[float]:
        agent.update(timestep=0, timesteps=1)
        policy, value = (agent.tracking_data[f"Loss / {name} loss"][-1] for name in ("Policy", "Value"))
        return [policy, value / kwargs["value_loss_scale"]]

    return Learner(refill, update, [agent.optimizer])


# --- CleanRL style ---------------------------------------------------------------------------------------------------


def cleanrl_learner(data: Data, cfg: ppo.PPOConfig, compiled: bool, folder: str) -> Learner:
    store = ppo.Rollout(*(x.contiguous() for x in data.rollout))  # as it stores them: step before environment
    obs_rows, log_prob, device = data.obs.contiguous(), -store.neglogp, data.last_state.device
    (actor, critic), logstd = actor_and_critic(data.agent), data.agent.a2c_network.sigma
    parameters = [*actor.parameters(), logstd, *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=cfg.learning_rate, eps=1e-5)

    def update() -> List[float]:
        with torch.no_grad():
            last_value = critic(data.last_state).flatten()
            advantages = ppo.gae(store.rewards, store.values, store.dones, last_value, cfg.gamma, cfg.tau)
        columns = (obs_rows, store.obs, store.actions, log_prob, store.values, advantages, advantages + store.values)
        batch = [x.flatten(0, 1) for x in columns]
        size = len(batch[0]) // cfg.num_minibatches
        losses, clipped_shares = [], []
        for _ in range(cfg.mini_epochs):
            for chosen in torch.randperm(len(batch[0]), device=device).split(size):
                obs, state, actions, old_logp, old_value, advantage, returns = (x[chosen] for x in batch)
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
                value = critic(state).flatten()
                near = old_value + (value - old_value).clamp(-cfg.e_clip, cfg.e_clip)
                value_loss = torch.max((value - returns) ** 2, (near - returns) ** 2).mean()
                entropy = policy.entropy().sum(1).mean()
                optimizer.zero_grad()
                (policy_loss - cfg.entropy_coef * entropy + 0.5 * cfg.critic_coef * value_loss).backward()
                nn.utils.clip_grad_norm_(parameters, cfg.grad_norm)
                optimizer.step()
                losses.append(torch.stack((policy_loss, value_loss)).detach())
        return torch.stack(losses).mean(0).tolist()

    return Learner(lambda: None, update, [optimizer])


if __name__ == "__main__":
    main()
