"""Proximal Policy Optimization (PPO) in one file, to be read from top to bottom.

The arithmetic is that of rl_games 1.6.5 (`a2c_continuous`), so that its configs and checkpoints carry over; comments
mark what a textbook would do otherwise. The one deliberate difference is `value_bootstrap` (see PPOConfig).

The environment is any `gymnasium.vector.VectorEnv` on torch tensors in SAME_STEP autoreset mode: where an episode
ends, `step` returns the first observation of the next one, and `info["final_obs"]` [N, O] has the last one of the old
(on a GPU the key is there at every step). If info, also that of reset, has `critic_obs` [N, S] (and
`final_critic_obs`), which is the policy's observation followed by what only the critic may see, the critic learns from
that: an asymmetric actor-critic. `statistics() -> dict[str, float]`, `get_state()` and `set_state(state)` are used if
the environment has them; if `success_rate` is among the statistics (with `episodes`, their number), it decides which
policy is the best.

Letters: T steps per iteration, N environments, O observations (S with the critic's, else S = O), A actions, B = T * N
rows, M = B / num_minibatches.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import warnings
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Literal, NamedTuple, Tuple

import torch
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from dexhand_gym.caches import keep_compiled
from dexhand_gym.fields import Annotated, Length, Matching, Range, check

from . import checkpoint as checkpoints
from . import distributed, signals, workspace
from .adam import Adam
from .text import printable

log = logging.getLogger(__name__)

ACTIVATIONS = {"elu": nn.ELU, "relu": nn.ReLU, "selu": nn.SELU, "tanh": nn.Tanh, "swish": nn.SiLU, "gelu": nn.GELU}
LOSSES = ("a_loss", "c_loss", "entropy", "b_loss", "kl")  # what a minibatch reports, in this order
MIN_LEARNING_RATE, MAX_LEARNING_RATE = 1e-6, 1e-2
MIN_ENTROPY_COEF = 1e-4  # of a scheduled one, in rl_games, too
SOFT_BOUND = 1.1  # means of actions beyond this are pulled back by the bounds loss
GAMES_TO_TRACK = 100  # finished episodes in the moving averages of reward and length
EPISODES_TO_TRACK = 1000  # ... and in that of success: a hundred cannot tell 98 % from 99 %

# rl_games' TensorBoard tags for our metrics; a metric that is not listed keeps its own name.
TENSORBOARD_TAGS = {
    "steps_per_second": "performance/step_inference_rl_update_fps",
    "rollout_seconds": "performance/step_inference_time",
    "update_seconds": "performance/rl_update_time",
    "a_loss": "losses/a_loss",
    "c_loss": "losses/c_loss",
    "entropy": "losses/entropy",
    "b_loss": "losses/bounds_loss",
    "kl": "info/kl",
    "lr": "info/last_lr",
    "iteration": "info/epochs",
    "reward": "rewards/step",
    "episode_length": "episode_lengths/step",
}


@dataclass
class PPOConfig:
    """All settings of PPO. Names are those of rl_games wherever it has one."""

    name: Annotated[
        str,
        Matching(
            r"(?!last_|\.)[^/\\\x00-\x1f\x7f-\x9f]{1,80}",
            "a file name without slashes, 80 letters at most, that does not begin with last_ or a dot",
        ),
    ] = "policy"
    """Checkpoints are called NAME.pth (the best) and last_NAME_ep_EPOCH_rew_REWARD.pth."""
    seed: Annotated[int, Range(-1, 2**32 - 1, note="-1: a random one")] = 42
    """Random seed; -1 draws one."""
    max_iterations: Annotated[int, Range(1, 10**9)] = 10000
    """Iterations (rollout and update) in total, including those before a resume."""
    horizon_length: Annotated[int, Range(1, 10**6)] = 32
    """Steps of every environment per iteration."""
    num_minibatches: Annotated[int, Range(1, 10**6)] = 8
    """Parts into which num_envs * horizon_length rows are cut; one optimizer step each."""
    mini_epochs: Annotated[int, Range(1, 1000)] = 4
    """Passes over the rows per iteration."""
    learning_rate: Annotated[float, Range(0, 1, above=True)] = 5e-4
    """Learning rate of Adam; the schedule starts from it."""
    lr_schedule: Literal["adaptive", "linear", "adaptive_linear", "fixed"] = "adaptive"
    """adaptive: follow kl_threshold; linear: fall to 1e-6 at max_iterations; adaptive_linear: follow kl_threshold, but
    never above the linear rate; fixed: stay."""
    schedule_type: Literal["legacy", "standard"] = "standard"
    """When the schedule acts: legacy after every minibatch, standard after every mini-epoch."""
    kl_threshold: Annotated[float, Range(0, 1000, above=True)] = 0.016
    """The adaptive rate falls when the policy moves by more than twice this KL divergence, and rises when it moves by
    less than half of it."""
    gamma: Annotated[float, Range(0, 1)] = 0.99
    """Discount per step."""
    tau: Annotated[float, Range(0, 1)] = 0.95
    """Lambda of generalised advantage estimation."""
    e_clip: Annotated[float, Range(0, 100, above=True)] = 0.2
    """PPO's clipping range, of the probability ratio and (clip_value) of the normalised value."""
    clip_value: bool = True
    """Clip the value loss too."""
    critic_coef: Annotated[float, Range(0, 1e6)] = 4.0
    """Weight of the value loss (which also carries a factor 0.5)."""
    entropy_coef: Annotated[float, Range(-1000, 1000)] = 0.0
    """Weight of the entropy bonus; below 0 it penalises exploration, so that the mean action learns to do without."""
    schedule_entropy: bool = False
    """The weight of the entropy bonus goes linearly to 1e-4 at max_iterations (rl_games: of linear rates only)."""
    bounds_loss_coef: Annotated[float, Range(0, 1e6)] = 1e-4
    """Weight of the penalty on mean actions."""
    bound_loss_type: Literal["bound", "regularisation"] = "bound"
    """Kind of that penalty. bound: the square of what exceeds +-1.1; regularisation: the square of the mean itself."""
    truncate_grads: bool = True
    """Clip the gradient to grad_norm."""
    grad_norm: Annotated[float, Range(0, 1e9, above=True)] = 1.0
    """Largest L2 norm of the gradient, all parameters together."""
    weight_decay: Annotated[float, Range(0, 1000)] = 0.0
    """Adam's weight decay (L2, added to the gradient)."""
    normalize_input: bool = True
    """Normalise observations by their running mean and variance."""
    normalize_value: bool = True
    """Let the critic predict normalised returns."""
    normalize_advantage: bool = True
    """Normalise advantages over the rows of an iteration."""
    sync_statistics: bool = True
    """With several processes: compute the means and variances for these three over the rows of all. Off: each process
    uses its own rows, as in rl_games."""
    value_bootstrap: Literal["final_obs", "rl_games", "none"] = "final_obs"
    """What a time-out adds to the reward, for the future that it cut off. final_obs: gamma * V(final observation),
    which is correct; rl_games: gamma * V(observation before the step); none: nothing, so that a time-out counts as a
    death."""
    reward_scale: Annotated[float, Range(-1e9, 1e9)] = 1.0
    """Factor on rewards before learning (rl_games: scale_value); logged rewards are unscaled."""
    clip_actions: bool = True
    """Clamp actions to [-1, 1] and scale them to the environment's range. Off: the environment gets them as sampled."""
    units: Annotated[Tuple[Annotated[int, Range(1, 65536)], ...], Length(1, 64)] = (256, 128, 64)
    """Sizes of the hidden layers."""
    activation: Literal["elu", "relu", "selu", "tanh", "swish", "gelu"] = "elu"
    """Activation after every hidden layer."""
    separate: bool = True
    """Give the critic hidden layers of its own instead of sharing the actor's."""
    sigma_init: Annotated[float, Range(-20, 20)] = 0.0
    """Initial logarithm of the actions' standard deviation."""
    cuda_graphs: bool = True
    """On a GPU: replay the update as one CUDA graph. Off: run it eagerly, for debugging."""
    compile: bool = False
    """On a GPU: fuse the kernels of policy and update with torch.compile. Starts some 10 s later."""
    mixed_precision: bool = False
    """On a GPU: run the network in bfloat16 while learning."""
    tf32: bool = True
    """On a GPU: multiply matrices in TF32, which is faster and keeps 10 of 23 bits of the mantissa."""
    save_frequency: Annotated[int, Range(0, 10**9, note="0: none")] = 100
    """Iterations between two periodic checkpoints; 0 for none."""
    keep_checkpoints: Annotated[int, Range(0, 10**9, note="0: all")] = 0
    """Number of periodic checkpoints to keep, the newest ones; 0: all. The best one is always kept."""
    save_best_after: Annotated[int, Range(0, 10**9)] = 100
    """The best checkpoint is kept from this iteration on."""
    score_to_win: Annotated[float, Range(-math.inf, math.inf)] = math.inf
    """Training ends when the best checkpoint's mean reward exceeds this."""
    log_interval: Annotated[int, Range(1, 10**9)] = 10
    """Iterations between two lines on the console; used by the logger, which is called at every iteration."""

    def validate(self, num_envs: int) -> None:
        """Raises ValueError, one line that names the field, its value and what is allowed."""
        check(self)
        batch = num_envs * self.horizon_length
        if batch > 2**30:
            raise ValueError(
                f"horizon_length = {self.horizon_length}: allowed are 2^30 rows, num_envs * horizon_length"
            )
        if batch % self.num_minibatches:
            allowed = f"a divisor of num_envs * horizon_length = {batch}"
            raise ValueError(f"num_minibatches = {self.num_minibatches}: allowed is {allowed}")
        if self.keep_checkpoints and not self.save_frequency:
            raise ValueError(
                f"keep_checkpoints = {self.keep_checkpoints}: allowed is 0 where save_frequency = 0 saves none"
            )


# --- The agent -------------------------------------------------------------------------------------------------------


class Compiled:
    """A function fused by torch.compile, or unchanged where it cannot be compiled. Random numbers are those of eager
    code."""

    def __init__(self, function: Callable):
        self.plain, self.new = function, True
        keep_compiled()
        self.function = torch.compile(function, dynamic=False, options={"fallback_random": True})

    def __call__(self, *args: Any) -> Any:
        if self.new:
            log.info("torch.compile fuses %s()", self.plain.__name__)
            self.new = False
        try:
            return self.function(*args)
        except torch._dynamo.exc.TorchDynamoException as error:  # pyright: ignore  # no compiler on this machine, perhaps
            warnings.warn(f"not compiled, which costs some speed: {str(error).strip().splitlines()[0]}", stacklevel=2)
            self.function = self.plain
            return self.plain(*args)


class RunningMeanStd(nn.Module):
    """Running mean and variance of rows of `size` numbers, and normalisation by them (clamped to +-5)."""

    running_mean: Tensor
    running_var: Tensor
    count: Tensor

    def __init__(self, size: int, sync: bool = True):
        super().__init__()
        self.sync = sync  # with the other ranks
        self.register_buffer("running_mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("running_var", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.ones((), dtype=torch.float64))  # the initial guess counts as one row

    def update(self, x: Tensor) -> None:
        """Adds the rows of x ([n, size], or [n] if size is 1) to the statistics, in place."""
        self.add(*distributed.moments(x, self.sync))

    @torch.no_grad()
    def add(self, n: int, mean: Tensor, var: Tensor) -> None:
        """Adds n rows with these means and (biased) variances."""
        delta = mean - self.running_mean
        total = self.count + n
        spread = self.running_var * self.count + var * n + delta**2 * self.count * n / total
        self.running_var.copy_(spread / total)
        self.running_mean.add_(delta * n / total)
        self.count.view(1).copy_(total.view(1))  # torch.compile loses what is written to a buffer without dimensions

    def std(self) -> Tensor:
        return torch.sqrt(self.running_var.float() + 1e-5)

    def normalize(self, x: Tensor) -> Tensor:
        return ((x - self.running_mean.float()) / self.std()).clamp(-5.0, 5.0)

    def denormalize(self, y: Tensor) -> Tensor:
        return self.std() * y.clamp(-5.0, 5.0) + self.running_mean.float()


class AlignedLinear(nn.Linear):
    """On a GPU pads rows to a multiple of eight numbers: tensor cores need that, and observations seldom have such a
    size."""

    def forward(self, input: Tensor) -> Tensor:
        missing = -self.in_features % 8
        if not missing or not input.is_cuda:
            return super().forward(input)
        pad = nn.functional.pad
        return nn.functional.linear(pad(input, (0, missing)), pad(self.weight, (0, missing)), self.bias)


class ActorCritic(nn.Module):
    """Observation -> mean and log standard deviation of the actions, value. (rl_games calls the logarithm `sigma`.)"""

    def __init__(self, obs_size: int, action_size: int, cfg: PPOConfig):
        super().__init__()
        torch.rand(1, obs_size)  # rl_games measures its layers with this; so a seed gives the same weights bit for bit
        self.sigma = nn.Parameter(torch.full((action_size,), cfg.sigma_init))
        self.actor_mlp = self.mlp(obs_size, cfg)
        self.critic_mlp = self.mlp(obs_size, cfg) if cfg.separate else None
        self.value = nn.Linear(cfg.units[-1], 1)
        self.mu = nn.Linear(cfg.units[-1], action_size)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    @staticmethod
    def mlp(obs_size: int, cfg: PPOConfig) -> nn.Sequential:
        layers = []
        for size_in, size_out in zip((obs_size, *cfg.units), cfg.units):
            layers += [AlignedLinear(size_in, size_out), ACTIVATIONS[cfg.activation]()]
        return nn.Sequential(*layers)

    def critic(self, obs: Tensor) -> Tensor:
        mlp = self.actor_mlp if self.critic_mlp is None else self.critic_mlp
        return self.value(mlp(obs)).squeeze(-1)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.actor_mlp(obs)
        mu = self.mu(features)
        value = self.value(features).squeeze(-1) if self.critic_mlp is None else self.critic(obs)
        return mu, self.sigma.expand_as(mu), value


class Critic(nn.Module):
    """Value of rows [., S] that hold more than the policy sees: rl_games' central value network, key for key."""

    def __init__(self, size: int, cfg: PPOConfig):
        super().__init__()
        self.running_mean_std = RunningMeanStd(size, cfg.sync_statistics) if cfg.normalize_input else None
        layers = {"actor_mlp": ActorCritic.mlp(size, cfg), "value": nn.Linear(cfg.units[-1], 1)}
        self.a2c_network = nn.ModuleDict(layers).float()
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)

    def forward(self, rows: Tensor) -> Tensor:
        rows = rows if self.running_mean_std is None else self.running_mean_std.normalize(rows)
        return self.a2c_network["value"](self.a2c_network["actor_mlp"](rows)).squeeze(-1)


class Agent(nn.Module):
    """Normalisers and network. `state_dict()` is "model" in an rl_games checkpoint, key for key and in its order, but
    for the entries of `central_value`, which is there if the critic sees more than the policy: rows of `critic_size`
    numbers, of which the first O are the policy's. Methods take rows [., O], or [., S] if they compute a value."""

    action_low: Tensor
    action_high: Tensor

    def __init__(self, obs_space: Any, action_space: Any, cfg: PPOConfig, critic_size: int = 0):
        super().__init__()
        for what, space in (("observation", obs_space), ("action", action_space)):
            if not isinstance(space, Box) or len(space.shape) != 1:
                raise ValueError(f"{what} space = {space}: allowed is a flat Box")
        if cfg.clip_actions and not action_space.is_bounded():
            raise ValueError(f"action space = {action_space}: allowed is a Box with finite bounds")
        self.value_mean_std = RunningMeanStd(1, cfg.sync_statistics) if cfg.normalize_value else None
        sizes = (obs_space.shape[0], action_space.shape[0])
        self.running_mean_std = RunningMeanStd(sizes[0], cfg.sync_statistics) if cfg.normalize_input else None
        self.a2c_network = ActorCritic(*sizes, cfg).float()
        self.central_value = Critic(critic_size, cfg) if critic_size > sizes[0] else None
        self.obs_size, self.activation = sizes[0], cfg.activation
        self.clip_actions = cfg.clip_actions
        self.register_buffer("action_low", torch.as_tensor(action_space.low, dtype=torch.float32), persistent=False)
        self.register_buffer("action_high", torch.as_tensor(action_space.high, dtype=torch.float32), persistent=False)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw observations -> mean [N, A] and log standard deviation [N, A] of the action, value [N] (normalised)."""
        mu, logstd, value = self.a2c_network(self.normalize_obs(obs))
        return mu, logstd, value if self.central_value is None else self.central_value(obs)

    @torch.no_grad()
    def act(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A random action (unbounded), its negative log probability, the value, and the action's mean and deviation."""
        mu, logstd, value = self(obs)
        sigma = logstd.exp()
        action = mu + sigma * torch.randn_like(mu)
        return action, neglogp(action, mu, logstd), self.denormalize_value(value), mu, sigma

    @torch.no_grad()
    def act_deterministic(self, obs: Tensor) -> Tensor:
        return self.a2c_network(self.normalize_obs(obs))[0]

    @torch.no_grad()
    def value(self, obs: Tensor) -> Tensor:
        """Expected discounted return [N], in units of the (scaled) reward."""
        if self.central_value is not None:
            return self.denormalize_value(self.central_value(obs))
        return self.denormalize_value(self.a2c_network.critic(self.normalize_obs(obs)))

    def fuse(self) -> None:
        """Compiles the functions that a rollout calls."""
        if not isinstance(self.act, Compiled):
            self.act, self.value = Compiled(self.act), Compiled(self.value)  # type: ignore[method-assign]

    def to_env(self, action: Tensor) -> Tensor:
        """What the environment gets: [-1, 1] is its whole action space."""
        if not self.clip_actions:
            return action
        half_range, middle = (self.action_high - self.action_low) / 2.0, (self.action_high + self.action_low) / 2.0
        return action.clamp(-1.0, 1.0) * half_range + middle

    def normalize_obs(self, obs: Tensor) -> Tensor:
        obs = obs[:, : self.obs_size]
        return obs if self.running_mean_std is None else self.running_mean_std.normalize(obs)

    def update_statistics(self, n: int, mean: Tensor, var: Tensor) -> None:
        """Adds n rows with these means and variances, each [S], to those of the observations."""
        if self.running_mean_std is not None:
            self.running_mean_std.add(n, mean[: self.obs_size], var[: self.obs_size])
        if self.central_value is not None and self.central_value.running_mean_std is not None:
            self.central_value.running_mean_std.add(n, mean, var)

    def denormalize_value(self, value: Tensor) -> Tensor:
        return value if self.value_mean_std is None else self.value_mean_std.denormalize(value)


def neglogp(action: Tensor, mu: Tensor, logstd: Tensor) -> Tensor:
    """-log N(action; mu, exp(logstd)), summed over action dimensions."""
    squares = ((action - mu) / logstd.exp()) ** 2
    return 0.5 * squares.sum(-1) + 0.5 * math.log(2 * math.pi) * action.shape[-1] + logstd.sum(-1)


def policy_kl(mu: Tensor, sigma: Tensor, old_mu: Tensor, old_sigma: Tensor) -> Tensor:
    """Mean KL(new || old) of diagonal Gaussians, with rl_games' 1e-5 against division by zero."""
    logs = torch.log(old_sigma / sigma + 1e-5)
    return (logs + (sigma**2 + (old_mu - mu) ** 2) / (2.0 * (old_sigma**2 + 1e-5)) - 0.5).sum(-1).mean()


# --- Rollout ---------------------------------------------------------------------------------------------------------


class Rollout(NamedTuple):
    """The experience of one iteration. Allocated once, overwritten by every iteration."""

    obs: Tensor  # [T, N, S] raw
    actions: Tensor  # [T, N, A] unbounded, as sampled
    neglogp: Tensor  # [T, N]
    values: Tensor  # [T, N] in units of reward
    mu: Tensor  # [T, N, A]
    sigma: Tensor  # [T, N, A]
    rewards: Tensor  # [T, N] scaled, time-outs bootstrapped
    dones: Tensor  # [T, N] 1.0 where the step ended an episode, in whatever way


@dataclass
class Progress:
    """Where training stands, apart from weights and optimizer: what a resumed run needs to go on."""

    obs: Tensor  # [N, S] the newest observation
    episode: Tensor  # [2, N] reward and length so far of the running episodes
    epoch: int = 0  # iterations done
    frame: int = 0  # environment steps done
    best_reward: float = -1e9
    mean_reward: float = math.nan  # of the last finished episodes; NaN before the first
    mean_length: float = math.nan
    games: int = 0  # how many episodes the means stand for
    success: float = 0.0  # share of the last finished episodes; 0 where it is not counted
    episodes: int = 0  # how many episodes it stands for
    best_success: float = 0.0
    width: float = 1.0  # how far a curriculum has widened what is randomised


def allocate_rollout(num_envs: int, obs_size: int, action_size: int, cfg: PPOConfig, device: torch.device) -> Rollout:
    def tensor(*shape: int) -> Tensor:
        # In memory environment comes before step, so that rl_games' order of rows (env * T + t) is a view: see rows().
        return torch.zeros(num_envs, cfg.horizon_length, *shape, dtype=torch.float32, device=device).transpose(0, 1)

    return Rollout(
        obs=tensor(obs_size),
        actions=tensor(action_size),
        neglogp=tensor(),
        values=tensor(),
        mu=tensor(action_size),
        sigma=tensor(action_size),
        rewards=tensor(),
        dones=tensor(),
    )


def rows(x: Tensor) -> Tensor:
    """[T, N, ...] -> [N * T, ...], environment by environment."""
    return x.transpose(0, 1).flatten(0, 1)


@torch.no_grad()
def rollout(env: VectorEnv, agent: Agent, store: Rollout, progress: Progress, cfg: PPOConfig) -> tuple[Tensor, Tensor]:
    """Fills `store` with T steps. Returns the value of the observation after the last step [N], and for the episodes
    that ended the sum of their rewards, the sum of their lengths and their number [3]. Nothing in here waits for a
    GPU."""
    finished = torch.zeros(3, dtype=torch.float32, device=progress.obs.device)
    for t in range(cfg.horizon_length):
        store.obs[t] = progress.obs
        action, store.neglogp[t], value, store.mu[t], store.sigma[t] = agent.act(progress.obs)
        store.actions[t], store.values[t] = action, value

        obs, reward, terminated, truncated, info = env.step(agent.to_env(action))
        progress.obs = info.get("critic_obs", obs)
        timed_out = truncated & ~terminated
        store.rewards[t] = reward * cfg.reward_scale + time_out_value(agent, value, timed_out, info, cfg)
        store.dones[t] = done = terminated | truncated

        progress.episode[0] += reward
        progress.episode[1] += 1
        finished[:2] += torch.where(done, progress.episode, 0.0).sum(1)
        finished[2] += done.sum()
        progress.episode.masked_fill_(done, 0.0)
    torch.randn_like(action)  # rl_games samples an action with the last value too; so a seed gives the same numbers
    return agent.value(progress.obs), finished


def time_out_value(agent: Agent, value: Tensor, timed_out: Tensor, info: dict[str, Any], cfg: PPOConfig) -> Any:
    """The return that time-outs cut off: the discounted value of the last state, 0 where no time-out happened."""
    if cfg.value_bootstrap == "none":
        return 0.0
    if cfg.value_bootstrap == "final_obs":
        if not timed_out.is_cuda and not timed_out.any():  # on a GPU checking would cost more than computing
            return 0.0
        value = agent.value(info["final_critic_obs" if "final_critic_obs" in info else "final_obs"])
    return torch.where(timed_out, cfg.gamma * value, 0.0)


# --- Update ----------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """The data that the update learns from: B rows, or the M rows of one minibatch as views into them."""

    obs: Tensor  # [B, S]
    actions: Tensor  # [B, A]
    neglogp: Tensor  # [B]
    mu: Tensor  # [B, A] of the policy that visited the rows last
    sigma: Tensor  # [B, A]
    values: Tensor  # [B] normalised
    returns: Tensor  # [B] normalised
    advantages: Tensor  # [B]


def gae(rewards: Tensor, values: Tensor, dones: Tensor, last_value: Tensor, gamma: float, tau: float) -> Tensor:
    """Generalised advantage estimation. All are [T, N], except last_value [N]; dones[t] = 1 if step t ended the
    episode."""
    advantages = torch.empty_like(rewards)
    next_value, advantage = last_value, torch.zeros_like(last_value)
    for t in reversed(range(len(rewards))):
        goes_on = 1.0 - dones[t]
        delta = rewards[t] + gamma * next_value * goes_on - values[t]
        advantages[t] = advantage = delta + gamma * tau * goes_on * advantage
        next_value = values[t]
    return advantages


def make_batch(agent: Agent, store: Rollout, last_value: Tensor, cfg: PPOConfig) -> Batch:
    """Advantages and returns of a rollout, normalised, as rows."""
    advantages = rows(gae(store.rewards, store.values, store.dones, last_value, cfg.gamma, cfg.tau))
    values = rows(store.values)
    returns = advantages + values
    if agent.value_mean_std is not None:
        # Two updates: values and returns are normalised by different statistics, as in rl_games.
        agent.value_mean_std.update(values)
        values = agent.value_mean_std.normalize(values)
        agent.value_mean_std.update(returns)
        returns = agent.value_mean_std.normalize(returns)
    if cfg.normalize_advantage:
        n, mean, var = distributed.moments(advantages, cfg.sync_statistics)
        advantages = (advantages - mean) / ((var * (n / max(n - 1, 1))).sqrt() + 1e-8)
    obs, actions, mu, sigma = rows(store.obs), rows(store.actions), rows(store.mu), rows(store.sigma)
    return Batch(obs, actions, rows(store.neglogp), mu, sigma, values, returns, advantages)


Moments = Tuple[int, Tensor, Tensor]
"""Number, means and variances of a minibatch's observations; without cfg.normalize_input there are none."""


def minibatch_loss(
    agent: Agent, batch: Batch, moments: Moments | None, entropy_coef: Tensor, cfg: PPOConfig
) -> tuple[Tensor, Tensor]:
    """The loss of the M rows of `batch`, and LOSSES as a tensor. `entropy_coef` [] is today's, cfg has the first."""
    if moments is not None:
        agent.update_statistics(*moments)  # before use, so the ratio is not quite 1 even in the first minibatch
    with torch.autocast(batch.obs.device.type, torch.bfloat16, enabled=cfg.mixed_precision and batch.obs.is_cuda):
        mu, logstd, value = agent(batch.obs)
    mu, value = mu.float(), value.float()

    ratio = torch.exp(batch.neglogp - neglogp(batch.actions, mu, logstd))
    clipped_ratio = ratio.clamp(1.0 - cfg.e_clip, 1.0 + cfg.e_clip)
    a_loss = torch.max(-batch.advantages * ratio, -batch.advantages * clipped_ratio).mean()

    c_loss = value_loss(value, batch, cfg)
    entropy = (0.5 + 0.5 * math.log(2 * math.pi) + logstd).sum(-1).mean()
    beyond = mu if cfg.bound_loss_type == "regularisation" else (mu.abs() - SOFT_BOUND).clamp(min=0.0)
    b_loss = (beyond**2).sum(-1).mean()
    loss = a_loss + 0.5 * cfg.critic_coef * c_loss - entropy_coef * entropy + cfg.bounds_loss_coef * b_loss
    return loss, torch.stack((a_loss, c_loss, entropy, b_loss, moved(batch, mu, logstd))).detach()


def value_loss(value: Tensor, batch: Batch, cfg: PPOConfig) -> Tensor:
    """Mean squared error of the values [M]; with cfg.clip_value that of moving away from the old ones is not less."""
    squares = (value - batch.returns) ** 2
    if cfg.clip_value:
        clipped = batch.values + (value - batch.values).clamp(-cfg.e_clip, cfg.e_clip)
        squares = torch.max(squares, (clipped - batch.returns) ** 2)
    return squares.mean()


@torch.no_grad()
def moved(batch: Batch, mu: Tensor, logstd: Tensor) -> Tensor:
    """KL divergence from the policy that visited the rows last, which this one becomes. To be called before the
    optimizer's step, which changes logstd: it is a view of the parameter."""
    sigma = logstd.exp()
    kl = policy_kl(mu, sigma, batch.mu, batch.sigma)
    batch.mu.copy_(mu)  # the next visit measures its KL from here, not from the policy that acted
    batch.sigma.copy_(sigma)
    return kl


def minibatch_step(
    agent: Agent,
    optimizer: Adam,
    batch: Batch,
    moments: Moments | None,
    entropy_coef: Tensor,
    cfg: PPOConfig,
    loss_of: Callable = minibatch_loss,
) -> Tensor:
    """One optimizer step on the M rows of `batch` (on those of all ranks); returns LOSSES as a tensor. Shapes and
    addresses never change."""
    loss, losses = loss_of(agent, batch, moments, entropy_coef, cfg)
    optimizer.zero_grad()
    loss.backward()
    distributed.average([losses, *(p.grad for p in agent.parameters() if p.grad is not None)])
    if cfg.truncate_grads:
        nn.utils.clip_grad_norm_(agent.parameters(), cfg.grad_norm)
    optimizer.step()
    return losses


@torch.no_grad()
def schedule_learning_rate(lr: Tensor, kl: Tensor, iteration: Tensor, cfg: PPOConfig) -> None:
    """Changes `lr` in place. It is a tensor on the device of the weights, so that no rule has to wait for a GPU."""
    linear = MIN_LEARNING_RATE + (cfg.learning_rate - MIN_LEARNING_RATE) * (1.0 - iteration / cfg.max_iterations)
    slower, faster = (lr / 1.5).clamp(min=MIN_LEARNING_RATE), (lr * 1.5).clamp(max=MAX_LEARNING_RATE)
    unchanged_or_faster = torch.where(kl < 0.5 * cfg.kl_threshold, faster, lr)
    adaptive = torch.where(kl > 2.0 * cfg.kl_threshold, slower, unchanged_or_faster)
    rates = {"linear": linear, "adaptive": adaptive, "adaptive_linear": torch.minimum(adaptive, linear), "fixed": lr}
    lr.copy_(rates[cfg.lr_schedule])


def scheduled_entropy_coef(iteration: Tensor, cfg: PPOConfig) -> Tensor:
    """The weight of the entropy bonus [] after `iteration` []."""
    first, last = cfg.entropy_coef, MIN_ENTROPY_COEF if cfg.schedule_entropy else cfg.entropy_coef
    return last + (first - last) * (1.0 - iteration / cfg.max_iterations)


def update(
    agent: Agent,
    optimizer: Adam,
    batch: Batch,
    iteration: Tensor,
    cfg: PPOConfig,
    loss_of: Callable = minibatch_loss,
) -> Tensor:
    """All mini-epochs over one batch; returns the mean of LOSSES. `iteration` [] counts from 1. Nothing in here waits
    for a GPU."""
    lr: Tensor = optimizer.param_groups[0]["lr"]
    size = len(batch.obs) // cfg.num_minibatches
    # Contiguous blocks in fixed order, as in rl_games: a minibatch is a set of environments, never shuffled.
    minibatches = [Batch(*(x[start : start + size] for x in batch)) for start in range(0, len(batch.obs), size)]
    # Its observations stay the same: their statistics are added in every mini-epoch but computed once.
    moments = [distributed.moments(x.obs, cfg.sync_statistics) if cfg.normalize_input else None for x in minibatches]
    losses = batch.obs.new_empty(cfg.mini_epochs, cfg.num_minibatches, len(LOSSES))
    entropy_coef = scheduled_entropy_coef(iteration - 1.0, cfg)  # as the rate: the schedule acts after a minibatch
    for mini_epoch in losses:
        for minibatch, of_it, result in zip(minibatches, moments, mini_epoch):
            result.copy_(minibatch_step(agent, optimizer, minibatch, of_it, entropy_coef, cfg, loss_of))
            if cfg.schedule_type == "legacy":
                schedule_learning_rate(lr, result[LOSSES.index("kl")], iteration, cfg)
                entropy_coef = scheduled_entropy_coef(iteration, cfg)
        if cfg.schedule_type == "standard":
            schedule_learning_rate(lr, mini_epoch[:, LOSSES.index("kl")].mean(), iteration, cfg)
            entropy_coef = scheduled_entropy_coef(iteration, cfg)
    return losses.mean((0, 1))


class Learner:
    """The part of an iteration after its rollout: makes the batch and does all updates. On a GPU its ten thousand
    kernels are one CUDA graph: the first call runs them, the second captures them, and from then on they are
    replayed."""

    def __init__(self, agent: Agent, optimizer: Adam, store: Rollout, cfg: PPOConfig):
        self.agent, self.optimizer, self.store, self.cfg = agent, optimizer, store, cfg
        self.last_value, self.iteration = torch.zeros_like(store.rewards[0]), torch.zeros_like(store.rewards[0, 0])
        self.reduce(minibatch_loss)
        if cfg.compile and self.last_value.is_cuda:
            agent.fuse()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.losses: Tensor | None = None

    def reduce(self, loss: Callable) -> None:
        """Makes `loss`, which is called as minibatch_loss is, what the updates reduce."""
        self.loss_of = Compiled(loss) if self.cfg.compile and self.last_value.is_cuda else loss

    def learn(self, last_value: Tensor, iteration: int) -> Tensor:
        """Mean of LOSSES over the updates."""
        self.last_value.copy_(last_value)
        self.iteration.fill_(iteration)
        if not (self.cfg.cuda_graphs and last_value.is_cuda) or self.losses is None:
            self.losses = self.run()
            return self.losses
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # NCCL has threads of its own
                self.losses = self.run()
        with distributed.deadline(last_value.device):
            self.graph.replay()
        return self.losses

    def run(self) -> Tensor:
        batch = make_batch(self.agent, self.store, self.last_value, self.cfg)
        return update(self.agent, self.optimizer, batch, self.iteration, self.cfg, self.loss_of)


# --- Training --------------------------------------------------------------------------------------------------------


def make_optimizer(agent: Agent, cfg: PPOConfig) -> Adam:
    """Adam whose learning rate is a tensor on the weights' device (see schedule_learning_rate)."""
    lr = torch.tensor(cfg.learning_rate, dtype=torch.float32, device=agent.action_low.device)
    return Adam(agent.parameters(), lr, cfg.weight_decay)


def iterate(env: VectorEnv, learner: Learner, progress: Progress) -> dict[str, float]:
    """One rollout and one update; returns the metrics."""
    cfg, start = learner.cfg, clock(progress.obs.device)
    last_value, finished = rollout(env, learner.agent, learner.store, progress, cfg)
    middle = clock(progress.obs.device)
    losses = learner.learn(last_value, progress.epoch + 1)
    lr = learner.optimizer.param_groups[0]["lr"].reshape(1)
    numbers = torch.cat((losses, lr, finished)).tolist()  # all of PPO's numbers leave the GPU in one transfer
    end = time.perf_counter()

    steps = env.num_envs * cfg.horizon_length * distributed.world_size()
    ranks = distributed.gather((numbers[-3:], getattr(env, "statistics", dict)()))
    progress.epoch += 1
    progress.frame += steps
    track_finished_episodes(progress, *(sum(column) for column in zip(*(finished for finished, _ in ranks))))
    statistics = average([statistics for _, statistics in ranks])
    for name in {"episodes", "nonfinite", "overflow"} & set(statistics):  # counts add up
        statistics[name] *= len(ranks)
    track_success(progress, statistics)
    metrics: dict[str, float] = dict(zip((*LOSSES, "lr"), numbers))
    metrics["reward"], metrics["episode_length"] = progress.mean_reward, progress.mean_length
    metrics["rollout_seconds"], metrics["update_seconds"] = middle - start, end - middle
    metrics["steps_per_second"] = steps / (end - start)
    metrics["iteration"], metrics["frames"] = progress.epoch, progress.frame
    return {**metrics, **statistics}


def average(several: list[dict[str, float]]) -> dict[str, float]:
    """Averages the metrics of several iterations, or ranks: endings are weighted by episodes, speed by time, the rest
    equally. `reward` is a moving average already."""

    def weight(name: str, metrics: dict[str, float]) -> float:
        if name in ("success_rate", "episode_length") or name.startswith(("ending/", "figure/")):
            return metrics.get("episodes", 1)
        if name == "steps_per_second":
            return metrics["rollout_seconds"] + metrics["update_seconds"]
        return 1

    result = dict(several[-1])
    for name in {name for metrics in several for name in metrics} - {"reward"}:
        pairs = [(metrics[name], weight(name, metrics)) for metrics in several if name in metrics]
        total = sum(w for _, w in pairs)
        if total:
            result[name] = sum(value * w for value, w in pairs if w) / total
    return result


def clock(device: torch.device) -> float:
    """Seconds, after waiting for a GPU, so that its work counts where it was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def track_finished_episodes(progress: Progress, reward_sum: float, length_sum: float, count: float) -> None:
    """Updates the means with the episodes that ended in an iteration; they stand for the last GAMES_TO_TRACK."""
    new = min(int(count), GAMES_TO_TRACK)
    old = min(GAMES_TO_TRACK - new, progress.games)
    if new:
        progress.games = old + new
        for name, total in (("mean_reward", reward_sum), ("mean_length", length_sum)):
            before = getattr(progress, name) * old if old else 0.0
            setattr(progress, name, (before + total / count * new) / progress.games)


def track_success(progress: Progress, statistics: dict[str, float]) -> None:
    """Likewise for the share of successes, over EPISODES_TO_TRACK. Those of a curriculum that is still easier than the
    task do not count."""
    progress.width = statistics.get("randomize_width", 1.0)
    if progress.width < 1.0:
        progress.success, progress.episodes = 0.0, 0
        return
    count = int(statistics.get("episodes", 0))
    if count and "success_rate" in statistics:
        new = min(count, EPISODES_TO_TRACK)
        old = min(EPISODES_TO_TRACK - new, progress.episodes)
        progress.episodes = old + new
        before = progress.success * old if old else 0.0
        progress.success = (before + statistics["success_rate"] * new) / progress.episodes


def best_so_far(progress: Progress) -> bool:
    """Whether the newest policy is the best; if so, records that. By success rate if there is one, since a slow episode
    often earns more reward than a good one; else by reward, as in rl_games. None is while a curriculum is easier than
    the task."""
    if progress.width < 1.0:
        return False
    if progress.success or progress.best_success:
        better = progress.success >= progress.best_success
    else:
        better = progress.mean_reward > progress.best_reward
    if better:
        progress.best_success, progress.best_reward = progress.success, progress.mean_reward
    return better


@contextmanager
def tensorboard(folder: Path) -> Iterator[Callable[[dict[str, float]], None]]:
    """Yields a function that writes metrics into `folder`, as events. A full disk costs a warning and the rest of the
    curves, not the training."""
    writers: list[SummaryWriter] = []  # one, as long as it can write

    def survive(step: Callable[[], Any]) -> None:
        try:
            step()
        except OSError as error:
            log.warning("%s: no more curves, %s", folder, error.strerror or error)
            writers.clear()

    def write(metrics: dict[str, float]) -> None:
        for name, value in metrics.items() if writers else ():
            if name != "frames" and math.isfinite(value):
                writers[0].add_scalar(TENSORBOARD_TAGS.get(name, name), value, metrics["frames"])

    def in_thread(failed: Any) -> None:  # TensorBoard writes in a thread, and raises its error again at our next write
        if not isinstance(failed.exc_value, OSError):
            before(failed)

    before, threading.excepthook = threading.excepthook, in_thread
    survive(lambda: writers.append(SummaryWriter(str(folder))))
    try:
        yield lambda metrics: survive(lambda: write(metrics))
    finally:
        survive(lambda: [writer.close() for writer in writers])
        threading.excepthook = before


def save(path: Path, env: VectorEnv | None, agent: Agent, optimizer: Adam, progress: Progress, cfg: PPOConfig) -> None:
    """Writes a checkpoint that rl_games reads and that resume() continues from. Without `env` it is much smaller, and
    training can resume from it with new episodes only. With several ranks only the first writes."""
    if not distributed.is_main():
        return
    if not path.parent.is_dir():  # it was one when the training began
        log.warning("%s was moved or deleted; it is made anew, for what is saved from now on", path.parent.parent)
        checkpoints.make_folder(path.parent)
    ppo_state: dict[str, Any] = {
        "activation": cfg.activation,
        "means": [progress.mean_reward, progress.mean_length, progress.games],
        "success": [progress.success, progress.episodes, progress.best_success],
        "width": progress.width,
        "rng": [torch.get_rng_state()],
    }
    if progress.obs.is_cuda:
        ppo_state["rng"].append(torch.cuda.get_rng_state(progress.obs.device))
    get_env_state = getattr(env, "get_state", None)
    if get_env_state is not None:  # only useful if the environment's state can be restored
        ppo_state["obs"], ppo_state["episode"] = progress.obs, progress.episode
    checkpoints.save(
        path,
        agent,
        optimizer,
        epoch=progress.epoch,
        frame=progress.frame,
        best_reward=progress.best_reward,
        env_state=get_env_state() if get_env_state is not None else None,
        ppo_state=ppo_state,
    )


def load_agent(path: str | Path, agent: Agent, cfg: PPOConfig) -> dict[str, Any]:
    """Weights and normalisers of a file, in place; returns all that is in it. CheckpointError, one line, if the file is
    broken or does not fit."""
    saved = checkpoints.load(path)
    activation = saved["ppo_state"].get("activation", cfg.activation)
    if not isinstance(activation, str):
        raise checkpoints.CheckpointError(f"{path}: not loaded, its activation is a {type(activation).__name__}")
    if activation != cfg.activation:
        raise checkpoints.CheckpointError(f"{path} does not fit: activation is {activation!r}, here {cfg.activation!r}")
    checkpoints.load_weights(agent, saved, path)
    return saved


def resume(path: str | Path, env: VectorEnv, agent: Agent, optimizer: Adam, progress: Progress, cfg: PPOConfig) -> None:
    """Resumes the training that wrote `path`: exactly, if the environment's state can be restored. A file of rl_games
    gives weights, optimizer, counters and best reward; a policy without an optimizer only its weights."""
    saved = load_agent(path, agent, cfg)
    if saved["assymetric_vf_nets"] is not None and agent.central_value is None:
        raise checkpoints.CheckpointError(
            f"{path} does not fit: its critic sees more than the policy, here it does not"
        )
    if saved["optimizer"] is None:
        log.info("a new training begins with the weights of %s, which holds a policy and no training", printable(path))
        return
    checkpoints.load_optimizer(optimizer, saved, path)
    checkpoints.sweep(Path(path).parent)
    progress.epoch, progress.frame = saved["epoch"], saved["frame"]
    lr = optimizer.param_groups[0]["lr"]
    if cfg.lr_schedule == "fixed":  # the others go on from the file's rate, as far as the schedule allows it
        lr.fill_(cfg.learning_rate)
    schedule_learning_rate(lr, lr.new_tensor(cfg.kl_threshold), lr.new_tensor(progress.epoch), cfg)
    progress.best_reward = float(saved["last_mean_rewards"])
    if progress.epoch >= cfg.max_iterations:
        raise ValueError(f"max_iterations = {cfg.max_iterations}: allowed is more than {path} has, {progress.epoch}")
    try:
        if saved["ppo_state"]:
            resume_means(progress, saved["ppo_state"])
            resume_width(env, progress, saved["ppo_state"].get("width", 0.0))
        if not distributed.is_main():
            return  # a checkpoint has the environments and random numbers of the first rank only
        why_not = resume_episodes(env, progress, saved)
        if saved["ppo_state"]:
            torch.set_rng_state(saved["ppo_state"]["rng"][0])
            if progress.obs.is_cuda and len(saved["ppo_state"]["rng"]) > 1:
                torch.cuda.set_rng_state(saved["ppo_state"]["rng"][1], progress.obs.device)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise checkpoints.CheckpointError(f"{path}: what a resume needs is damaged ({error!r})") from error
    log.info("resumed after iteration %d: %s", progress.epoch, printable(path))
    if why_not:
        log.warning("the environments begin new episodes: %s", printable(why_not, 300))


def resume_means(progress: Progress, state: dict[str, Any]) -> None:
    """Restores the moving averages. Raises ValueError if they cannot be what save() has written."""
    reward, length, games = state["means"]
    success, episodes, best_success = state.get("success", (0.0, 0, 0.0))
    numbers = {float, int} >= {type(x) for x in (reward, length, success, best_success)}
    counts = (
        type(games) is type(episodes) is int and 0 <= games <= GAMES_TO_TRACK and 0 <= episodes <= EPISODES_TO_TRACK
    )
    known = games == 0 or (math.isfinite(reward) and math.isfinite(length))
    if not (numbers and counts and known and 0 <= success <= 1 and 0 <= best_success <= 1):
        raise ValueError("its means are none")
    progress.mean_reward, progress.mean_length, progress.games = reward, length, games
    progress.success, progress.episodes, progress.best_success = success, episodes, best_success


def resume_width(env: VectorEnv, progress: Progress, width: float) -> None:
    """Widens the ranges of a curriculum as far as they were, whatever becomes of the environments' state. Raises
    ValueError for what cannot be a width."""
    if type(width) is not float or not 0 <= width <= 1:
        raise ValueError("its width is none")
    here = getattr(env, "width", None)
    if isinstance(here, Tensor):
        progress.width = width
        here.fill_(width)


def resume_episodes(env: VectorEnv, progress: Progress, saved: dict[str, Any]) -> str:
    """Puts the environments back where they were, or says why they cannot be. Raises ValueError for a state that they
    can never have had."""
    if "obs" not in saved["ppo_state"]:
        return "the checkpoint has no state of theirs, only last_*.pth have one"
    device = progress.obs.device
    obs, episode = saved["ppo_state"]["obs"], saved["ppo_state"]["episode"]
    if obs.shape != progress.obs.shape:
        return f"the checkpoint has the state of {len(obs)}, here are {env.num_envs}"
    mine: Any = env.get_state() if hasattr(env, "get_state") else None  # type: ignore[attr-defined]
    kinds = [{obs.dtype, progress.obs.dtype}, {episode.dtype, progress.episode.dtype}]
    if isinstance(mine, dict) and isinstance(saved["env_state"], dict):
        theirs = {name: x for name, x in saved["env_state"].items() if isinstance(mine.get(name), Tensor)}
        either = {torch.float32, torch.float64}  # MuJoCo Warp's numbers, and MuJoCo's
        kinds += [kind for name, x in theirs.items() if (kind := {x.dtype, mine[name].dtype}) != either]
    if episode.shape != progress.episode.shape or any(len(kind) > 1 for kind in kinds):
        raise ValueError("sizes or types of the environments' state differ")
    if not (obs.isfinite().all() and episode.isfinite().all()):
        raise ValueError("the environments' state is not finite")
    try:
        env.set_state(saved["env_state"])  # type: ignore[attr-defined]
    except ValueError as error:
        return f"the checkpoint's state of them does not fit, {error}"
    progress.obs, progress.episode = obs.to(device).clone(), episode.to(device).clone()
    return ""


def forget_another_task(checkpoint: Path, run_dir: Path, progress: Progress) -> None:
    """Forgets means and the best policy so far if the resumed training was of another task, or of other physics: what
    succeeded there says nothing here."""
    changed = distributed.gather(workspace.another_task(run_dir, workspace.run_of(checkpoint)))[0]
    if changed:
        log.info("%s is not what it was: means and the best policy begin anew", changed)
        progress.best_reward, progress.best_success, progress.success = -1e9, 0.0, 0.0
        progress.games = progress.episodes = 0


def take_best_along(checkpoint: Path, folder: Path, agent: Agent, progress: Progress, cfg: PPOConfig) -> None:
    """Copies the best policy of the resumed training, because it may never be beaten. If it is lost, or from a later
    iteration than the resumed one, the next policy is the best so far."""
    if progress.best_reward == -1e9:
        return
    there = False
    with suppress(checkpoints.CheckpointError):
        if distributed.is_main():
            best = checkpoints.load(workspace.best_beside(checkpoint))
            checkpoints.fitting(agent, best)
            there = best["epoch"] <= progress.epoch
            if there:
                checkpoints.write_atomically(folder / f"{cfg.name}.pth", checkpoints.on_cpu(best))
    if not distributed.gather(there)[0]:
        progress.best_reward, progress.best_success = -1e9, 0.0


def stopped(caught: list[int], enough: bool) -> bool:
    """Whether any rank has caught a signal, which all ranks then get into `caught`, or has had enough."""
    ranks = distributed.gather((list(caught), enough))
    agreed = [number for numbers, _ in ranks for number in numbers]
    caught[:] = agreed or caught
    return any(numbers or enough for numbers, enough in ranks)  # not `caught`: a signal may have come meanwhile


def train(
    env: VectorEnv,
    cfg: PPOConfig,
    run_dir: str | Path,
    logger: Callable[[dict[str, float]], bool | None] | None = None,
    checkpoint: str | Path | None = None,
) -> dict[str, float]:
    """Trains until cfg.max_iterations, or resumes the training that wrote `checkpoint`: begin() and learn()."""
    learner, progress = begin(env, cfg, checkpoint)
    return learn(env, learner, progress, run_dir, logger, checkpoint)


def be_deterministic(wanted: bool) -> None:
    """Lets PyTorch use only deterministic algorithms, or any."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else CUDA's matrix products refuse
    if wanted != torch.are_deterministic_algorithms_enabled():  # any call costs a second of imports
        torch.use_deterministic_algorithms(wanted)


def begin(env: VectorEnv, cfg: PPOConfig, checkpoint: str | Path | None = None) -> tuple[Learner, Progress]:
    """All that a training has before its first iteration; mistakes are found here, and nothing is written. If
    torch.distributed has a process group, its ranks train together; cfg and env.num_envs are those of each rank."""
    cfg.validate(env.num_envs)
    seed = distributed.gather(cfg.seed if cfg.seed >= 0 else torch.seed() % 2**31)[0]
    own_seed = seed + distributed.rank() * env.num_envs
    torch.set_float32_matmul_precision("high" if cfg.tf32 else "highest")
    obs, info = env.reset(seed=own_seed)
    obs = info.get("critic_obs", obs)
    torch.manual_seed(seed)
    agent = Agent(env.single_observation_space, env.single_action_space, cfg, obs.shape[1])
    optimizer = make_optimizer(agent.to(obs.device), cfg)
    store = allocate_rollout(env.num_envs, obs.shape[1], len(agent.action_low), cfg, obs.device)
    progress = Progress(obs, episode=torch.zeros(2, env.num_envs, dtype=torch.float32, device=obs.device))
    learner = Learner(agent, optimizer, store, cfg)
    if not distributed.is_main():
        torch.manual_seed(own_seed)  # other actions for other environments
    if checkpoint is not None:
        resume(checkpoint, env, agent, optimizer, progress, cfg)
    distributed.wait()
    distributed.broadcast(agent.state_dict().values())
    return learner, progress


def learn(
    env: VectorEnv,
    learner: Learner,
    progress: Progress,
    run_dir: str | Path,
    logger: Callable[[dict[str, float]], bool | None] | None = None,
    checkpoint: str | Path | None = None,
    hurry: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Iterates until max_iterations and returns the last metrics; `logger` gets those of every iteration, may add to
    them, and ends the training by returning True. Checkpoints go to run_dir/nn, TensorBoard events to
    run_dir/summaries; with several ranks only the first logs and writes.
    SIGINT, SIGTERM and SIGHUP take effect at the end of an iteration, when its checkpoint has been saved;
    `hurry()`, and `env.hurry()` if it exists, are called at once. `checkpoint` is what begin() was given."""
    cfg, agent, optimizer, folder = learner.cfg, learner.agent, learner.optimizer, Path(run_dir) / "nn"
    if distributed.is_main():
        checkpoints.make_folder(folder)
    if checkpoint is not None:
        forget_another_task(Path(checkpoint), Path(run_dir), progress)
        take_best_along(Path(checkpoint), folder, agent, progress, cfg)
    saved: list[Path] = []  # the periodic ones, oldest first

    def save_last() -> None:
        reward = progress.mean_reward if progress.games else -math.inf  # as rl_games before an episode has ended
        path = folder / f"last_{cfg.name}_ep_{progress.epoch}_rew_{reward:.3f}.pth"
        save(path, env, agent, optimizer, progress, cfg)
        if path not in saved:
            saved.append(path)
        while cfg.keep_checkpoints and len(saved) > cfg.keep_checkpoints:
            saved.pop(0).unlink(missing_ok=True)

    def if_there_is_room(save: Callable, *args: Any) -> None:
        try:
            save(*args)
        except checkpoints.SaveError as error:
            log.error("%s; the training goes on", error)

    metrics: dict[str, float] = {}
    if distributed.is_main():
        curves: Any = tensorboard(Path(run_dir) / "summaries")
    else:
        curves = nullcontext(lambda metrics: None)

    def hurry_all() -> None:
        hurry()
        getattr(env, "hurry", lambda: None)()

    postponed = signals.postponed_signals(hurry_all, "stopping after this iteration")
    with postponed as caught, curves as write_curves:
        enough = False
        while progress.epoch < cfg.max_iterations and not stopped(caught, enough):
            metrics = iterate(env, learner, progress)
            enough = logger is not None and distributed.is_main() and logger(metrics) is True
            write_curves(metrics)
            if not all(math.isfinite(metrics[name]) for name in LOSSES):
                raise FloatingPointError(f"losses of iteration {progress.epoch} are not finite: {metrics}")
            if enough or (progress.epoch >= cfg.save_best_after and best_so_far(progress)):
                if_there_is_room(save, folder / f"{cfg.name}.pth", None, agent, optimizer, progress, cfg)
                if progress.best_reward > cfg.score_to_win:
                    break
            if cfg.save_frequency and progress.epoch % cfg.save_frequency == 0:
                if_there_is_room(save_last)
        save_last()
    return metrics
