"""PPO's arithmetic on numbers small enough to work by hand, and PPO as a whole on a task that it learns in seconds."""

import dataclasses
import math
import signal
from pathlib import Path
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from torch.utils._python_dispatch import TorchDispatchMode

from ppo import checkpoint
from ppo.ppo import (
    Agent,
    PPOConfig,
    Progress,
    RunningMeanStd,
    allocate_rollout,
    gae,
    make_batch,
    make_optimizer,
    minibatch_step,
    policy_kl,
    rollout,
    rows,
    schedule_learning_rate,
    scheduled_entropy_coef,
    track_finished_episodes,
    train,
    update,
)

DATA = Path(__file__).parent / "data"


class PointMass(gymnasium.vector.VectorEnv):
    """Points in the plane that an action moves by up to 0.3; reward: exp(-distance to the origin). An episode fails at
    a distance of 3 and is over after 20 steps."""

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int = 64):
        self.num_envs = num_envs
        self.single_observation_space = Box(-np.inf, np.inf, (2,), np.float32)
        self.single_action_space = Box(-0.3, 0.3, (2,), np.float32)
        self.generator = torch.Generator()

    def start(self) -> torch.Tensor:
        angle = 2 * math.pi * torch.rand(self.num_envs, generator=self.generator)
        return torch.stack((angle.cos(), angle.sin()), dim=1)

    def reset(self, *, seed=None, options=None):
        self.generator.manual_seed(seed)
        self.position, self.time = self.start(), torch.randint(0, 20, (self.num_envs,), generator=self.generator)
        return self.position.clone(), {}

    def step(self, actions):
        assert actions.abs().max() <= 0.3 + 1e-6
        self.position, self.time = self.position + actions, self.time + 1
        distance = self.position.norm(dim=1)
        terminated, truncated = distance > 3, self.time >= 20
        done, final_obs = terminated | truncated, self.position
        self.position = torch.where(done[:, None], self.start(), self.position)
        self.time = torch.where(done, 0, self.time)
        info = {"final_obs": final_obs, "_final_obs": done}
        return self.position.clone(), (-distance).exp(), terminated, truncated, info

    def get_state(self):
        return {"position": self.position, "time": self.time, "rng": self.generator.get_state()}

    def set_state(self, state):
        self.position, self.time = state["position"], state["time"]
        self.generator.set_state(state["rng"])

    def statistics(self):
        return {"reward/distance": 0.5}


def config(**changes) -> PPOConfig:
    small = PPOConfig(
        horizon_length=16,
        num_minibatches=4,
        learning_rate=1e-3,
        units=(32,),
        max_iterations=3,
        save_frequency=0,
        save_best_after=0,
    )
    return dataclasses.replace(small, **changes)


def agent_for(env, cfg: PPOConfig) -> Agent:
    return Agent(env.single_observation_space, env.single_action_space, cfg)


def test_gae_three_steps():
    # gamma 0.5, tau 0.5; first column: no episode ends. Second: step 1 ends one, so nothing flows back over it.
    # t=2: delta = 3 + 0.5 * 8 - 2 = 5               advantage 5                            (both columns)
    # t=1: delta = 2 + 0.5 * 2 - 1 = 2               advantage 2 + 0.25 * 5 = 3.25
    #      done:   2           - 1 = 1               advantage 1
    # t=0: delta = 1 + 0.5 * 1 - 4 = -2.5            advantage -2.5 + 0.25 * 3.25 = -1.6875, or -2.5 + 0.25 * 1 = -2.25
    rewards = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    values = torch.tensor([[4.0, 4.0], [1.0, 1.0], [2.0, 2.0]])
    dones = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    advantages = gae(rewards, values, dones, torch.tensor([8.0, 8.0]), gamma=0.5, tau=0.5)
    assert advantages.tolist() == [[-1.6875, -2.25], [3.25, 1.0], [5.0, 5.0]]


def test_running_mean_std():
    # The initial guess, mean 0 and variance 1, counts as one row; then come 1 and 3 (mean 2, variance 1):
    # mean = 2 * 2/3 = 4/3; variance = (1 * 1 + 1 * 2 + 2^2 * 1 * 2/3) / 3 = (3 + 8/3) / 3 = 17/9
    statistics = RunningMeanStd(1)
    statistics.update(torch.tensor([[1.0], [3.0]]))
    assert statistics.running_mean.item() == pytest.approx(4 / 3, abs=1e-15)
    assert statistics.running_var.item() == pytest.approx(17 / 9, abs=1e-15)
    assert statistics.count.item() == 3
    assert statistics.normalize(torch.tensor([4.0, 1000.0])).tolist() == pytest.approx(
        [(4 - 4 / 3) / math.sqrt(17 / 9 + 1e-5), 5.0]
    )
    assert statistics.denormalize(torch.tensor([1.0, 1000.0])).tolist() == pytest.approx(
        [4 / 3 + math.sqrt(17 / 9 + 1e-5), 4 / 3 + 5 * math.sqrt(17 / 9 + 1e-5)]
    )


def test_policy_kl():
    # One action, new N(1, 2), old N(0, 1): log(1/2 + 1e-5) + (4 + 1) / (2 * (1 + 1e-5)) - 0.5 = 1.3068
    # and a row where nothing changed: log(1 + 1e-5) + 1 / (2 * (1 + 1e-5)) - 0.5 = 0.000005
    mu, sigma = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [1.0]])
    old_mu, old_sigma = torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0], [1.0]])
    changed = math.log(0.50001) + 5 / 2.00002 - 0.5
    assert policy_kl(mu, sigma, old_mu, old_sigma).item() == pytest.approx((changed + 5e-6) / 2, rel=1e-5)


@pytest.mark.parametrize(
    "lr, kl, expected",
    [
        (3e-4, 0.0201, 2e-4),  # over 2 * 0.01: divided by 1.5
        (3e-4, 0.0049, 4.5e-4),  # under 0.5 * 0.01: times 1.5
        (3e-4, 0.0199, 3e-4),
        (3e-4, 0.0051, 3e-4),
        (1.2e-6, 1.0, 1e-6),  # 0.8e-6 is below the floor
        (9e-3, 0.0, 1e-2),  # 13.5e-3 is above the ceiling
    ],
)
def test_adaptive_learning_rate(lr, kl, expected):
    rate = torch.tensor(lr)
    schedule_learning_rate(rate, torch.tensor(kl), torch.tensor(1.0), PPOConfig(kl_threshold=0.01))
    assert rate.item() == pytest.approx(expected, rel=1e-6)


def test_linear_and_fixed_learning_rate():
    rate, kl = torch.tensor(123.0), torch.tensor(1.0)
    linear = PPOConfig(lr_schedule="linear", learning_rate=1e-3 + 1e-6, max_iterations=10)
    schedule_learning_rate(rate, kl, torch.tensor(4.0), linear)  # six of ten iterations are left
    assert rate.item() == pytest.approx(0.6e-3 + 1e-6)
    schedule_learning_rate(rate, kl, torch.tensor(10.0), linear)
    assert rate.item() == pytest.approx(1e-6)
    schedule_learning_rate(rate, kl, torch.tensor(1.0), PPOConfig(lr_schedule="fixed"))
    assert rate.item() == pytest.approx(1e-6)


@pytest.mark.parametrize(
    "scheduled, iteration, expected",
    [(True, 0, 1.1e-3), (True, 4, 0.7e-3), (True, 10, 1e-4), (False, 0, 1.1e-3), (False, 10, 1.1e-3)],
)
def test_weight_of_the_entropy_bonus(scheduled, iteration, expected):
    """It falls by 1e-3, to rl_games' 1e-4."""
    cfg = PPOConfig(entropy_coef=1.1e-3, schedule_entropy=scheduled, max_iterations=10)
    assert scheduled_entropy_coef(torch.tensor(float(iteration)), cfg).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "lr, kl, expected",
    [
        (4e-4, 0.0201, 4e-4 / 1.5),  # slower, and below the linear rate of 0.6e-3
        (3e-4, 0.0049, 4.5e-4),  # faster, and still below it
        (5e-4, 0.0049, 0.6e-3),  # 0.75e-3 would be above it
        (0.9e-3, 0.01, 0.6e-3),  # the policy moves as it should, but the linear rate has fallen
        (1.2e-3, 0.0201, 0.6e-3),  # 0.8e-3, slower, is still above it
    ],
)
def test_adaptive_learning_rate_under_a_linear_one(lr, kl, expected):
    cfg = PPOConfig(lr_schedule="adaptive_linear", kl_threshold=0.01, learning_rate=1e-3, max_iterations=10)
    rate = torch.tensor(lr)
    schedule_learning_rate(rate, torch.tensor(kl), torch.tensor(4.0), cfg)  # six of ten iterations are left
    assert rate.item() == pytest.approx(expected, rel=2e-3)  # the linear rate falls to 1e-6, not to 0


def test_model_is_laid_out_as_in_rl_games():
    theirs = checkpoint.load(DATA / "rl_games_1.6.5.pth")["model"]
    cfg = PPOConfig(units=(32, 32), separate=False)
    agent = Agent(Box(-1, 1, (3,), np.float32), Box(-1, 1, (1,), np.float32), cfg)
    assert [(key, x.shape, x.dtype) for key, x in agent.state_dict().items()] == [
        (key, x.shape, x.dtype) for key, x in theirs.items()
    ]


class OneStep(gymnasium.vector.VectorEnv):
    """From observation 2 one step, rewarded by 1, to 5; the next episode begins at 7. The first of three environments
    is out of time, the second has failed, the third both."""

    num_envs = 3
    single_observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    single_action_space = Box(-1, 1, (1,), np.float32)

    def step(self, actions):
        terminated, truncated = torch.tensor([False, True, True]), torch.tensor([True, False, True])
        return torch.full((3, 1), 7.0), torch.ones(3), terminated, truncated, {"final_obs": torch.full((3, 1), 5.0)}


@pytest.mark.parametrize("variant, expected", [("final_obs", 5.5), ("rl_games", 2.8), ("none", 1.0)])
def test_time_out_is_bootstrapped(variant, expected):
    # The network is made to compute V(obs) = obs. A time-out is worth 1 + 0.9 * 5 with the final observation,
    # 1 + 0.9 * 2 with the one before the step; failures are worth 1, also those in the last moment.
    cfg = config(
        value_bootstrap=variant,
        horizon_length=1,
        gamma=0.9,
        units=(1,),
        activation="relu",
        normalize_input=False,
        normalize_value=False,
    )
    env = OneStep()
    agent = agent_for(env, cfg)
    torch.nn.init.ones_(agent.a2c_network.critic_mlp[0].weight)
    torch.nn.init.ones_(agent.a2c_network.value.weight)
    progress = Progress(torch.full((3, 1), 2.0), torch.zeros(2, 3))
    store = allocate_rollout(3, 1, 1, cfg, torch.device("cpu"))
    last_value, finished = rollout(env, agent, store, progress, cfg)
    assert store.rewards[0].tolist() == pytest.approx([expected, 1.0, 1.0])
    assert store.values[0].tolist() == [2.0, 2.0, 2.0]
    assert last_value.tolist() == [7.0, 7.0, 7.0]
    assert finished.tolist() == [3.0, 3.0, 3.0]  # three episodes of reward 1 and length 1: logged without the bootstrap
    advantages = gae(store.rewards, store.values, store.dones, last_value, cfg.gamma, cfg.tau)
    assert advantages[0].tolist() == pytest.approx([expected - 2, -1.0, -1.0])


def collect(cfg: PPOConfig, env: PointMass):
    torch.manual_seed(0)
    agent = agent_for(env, cfg)
    progress = Progress(env.reset(seed=0)[0], torch.zeros(2, env.num_envs))
    store = allocate_rollout(env.num_envs, 2, 2, cfg, torch.device("cpu"))
    last_value, finished = rollout(env, agent, store, progress, cfg)
    return agent, store, last_value, finished


def test_rollout_keeps_actions_unclipped_and_rows_in_order_of_environments():
    agent, store, _, finished = collect(config(), PointMass())
    assert store.actions.abs().max() > 1  # PointMass itself checks that it gets them clipped and rescaled
    assert torch.equal(rows(store.obs)[16 * 5 + 3], store.obs[3, 5])
    assert rows(store.obs).data_ptr() == store.obs.data_ptr()  # a view, not a copy
    neglogp = -torch.distributions.Normal(store.mu, store.sigma).log_prob(store.actions).sum(-1)
    torch.testing.assert_close(store.neglogp, neglogp)
    assert finished[2] == store.dones.sum() > 0
    assert agent.to_env(torch.tensor([[-9.0, 0.5]])).tolist() == [pytest.approx([-0.3, 0.15])]


def test_minibatch_step_measures_kl_before_the_step_and_moves_the_reference():
    cfg, no_bonus = config(normalize_input=False, learning_rate=0.1), torch.tensor(0.0)
    agent, store, last_value, _ = collect(cfg, PointMass())
    batch = make_batch(agent, store, last_value, cfg)
    behaviour = batch.mu.clone()
    optimizer = make_optimizer(agent, cfg)
    # Nothing has moved yet: KL is 0 but for rl_games' 1e-5, see test_policy_kl; 2 actions of 5e-6 each.
    assert minibatch_step(agent, optimizer, batch, None, no_bonus, cfg)[4].item() == pytest.approx(1e-5, abs=2e-6)
    torch.testing.assert_close(batch.mu, behaviour)
    assert torch.all(batch.sigma == 1)
    moved = agent(batch.obs)[0].detach()
    assert minibatch_step(agent, optimizer, batch, None, no_bonus, cfg)[4].item() > 1e-3
    torch.testing.assert_close(batch.mu, moved)
    assert not torch.allclose(moved, behaviour)


class NoReadback(TorchDispatchMode):
    """Fails on what makes a program wait for a GPU: a tensor's number, or a shape that depends on numbers."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(word in str(func) for word in ("_local_scalar_dense", "nonzero", "masked_select", "equal")), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("schedule", ["adaptive", "linear"])
def test_rollout_and_update_never_look_at_a_number(schedule):
    class Blind(PointMass):
        def step(self, actions):
            return torch.zeros(8, 2), torch.zeros(8), torch.zeros(8) > 1, torch.zeros(8) < 1, {}

    cfg = config(value_bootstrap="rl_games", lr_schedule=schedule, schedule_type="legacy")
    env = Blind(8)
    agent, store = agent_for(env, cfg), allocate_rollout(8, 2, 2, cfg, torch.device("cpu"))
    optimizer, progress = make_optimizer(agent, cfg), Progress(torch.zeros(8, 2), torch.zeros(2, 8))
    with NoReadback():
        last_value, _ = rollout(env, agent, store, progress, cfg)
        update(agent, optimizer, make_batch(agent, store, last_value, cfg), torch.tensor(1.0), cfg)


def test_statistics_are_the_same_when_compiled():
    """torch.compile loses what is written to a buffer without dimensions, as the count is."""
    plain, fused = RunningMeanStd(3), RunningMeanStd(3)
    update = torch.compile(RunningMeanStd.update, dynamic=False, backend="aot_eager")
    for x in torch.randn(3, 16, 3):
        plain.update(x)
        update(fused, x)
    assert plain.count == 49
    for name, expected in plain.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[name], expected)


def test_learning_rate_keeps_its_address():
    cfg = config(schedule_type="legacy")
    agent, store, last_value, _ = collect(cfg, PointMass())
    optimizer = make_optimizer(agent, cfg)
    rate = optimizer.param_groups[0]["lr"]
    update(agent, optimizer, make_batch(agent, store, last_value, cfg), torch.tensor(1.0), cfg)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() != pytest.approx(cfg.learning_rate)


def test_means_follow_the_last_hundred_episodes():
    progress = Progress(torch.zeros(1, 1), torch.zeros(2, 1))
    track_finished_episodes(progress, 0.0, 0.0, 0.0)
    assert math.isnan(progress.mean_reward)
    track_finished_episodes(progress, reward_sum=60.0, length_sum=600.0, count=30.0)
    assert (progress.mean_reward, progress.mean_length, progress.games) == (2.0, 20.0, 30)
    track_finished_episodes(progress, 80 * 7.0, 80 * 10.0, 80.0)  # 20 of the old remain: (20 * 2 + 80 * 7) / 100
    assert (progress.mean_reward, progress.mean_length, progress.games) == (6.0, 12.0, 100)
    track_finished_episodes(progress, 500.0, 500.0, 500.0)
    assert (progress.mean_reward, progress.mean_length, progress.games) == (1.0, 1.0, 100)


@pytest.mark.parametrize("separate", [False, True])
def test_learns(tmp_path, separate):
    """Standing still earns 7.4, walking straight to the origin 19; with its noise an agent soon earns 16."""
    torch.set_num_threads(1)
    rewards = []
    cfg = config(max_iterations=40, separate=separate)
    final = train(PointMass(), cfg, tmp_path, logger=lambda metrics: rewards.append(metrics["reward"]))
    assert rewards[1] < 8
    assert final["reward"] > 16
    best = max(reward for reward in rewards if not math.isnan(reward))
    assert checkpoint.load(tmp_path / "nn" / "policy.pth")["last_mean_rewards"] == best


def test_same_seed_same_run_to_the_bit(tmp_path):
    def run(folder, seed):
        metrics = train(PointMass(), config(seed=seed), tmp_path / folder)
        (path,) = (tmp_path / folder / "nn").glob("last_*_ep_3_*")
        return metrics["reward"], metrics["a_loss"], checkpoint.load(path)["model"]

    reward, a_loss, model = run("a", seed=1)
    again = run("b", seed=1)
    assert (reward, a_loss) == again[:2]
    assert all(torch.equal(model[key], again[2][key]) for key in model)
    assert run("c", seed=2)[1] != a_loss


def test_metrics_and_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged = []
    final = train(PointMass(), config(), tmp_path, logger=logged.append)
    assert [metrics["iteration"] for metrics in logged] == [1, 2, 3]
    assert logged[-1] == final
    assert final["frames"] == 3 * 16 * 64
    assert final["reward/distance"] == 0.5
    (path,) = (tmp_path / "nn").glob("last_*")
    assert final["lr"] == checkpoint.load(path)["optimizer"]["param_groups"][0]["lr"]
    assert all(isinstance(value, (int, float)) for value in final.values())
    events = EventAccumulator(str(tmp_path / "summaries"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"rewards/step", "losses/a_loss", "info/last_lr", "reward/distance"} <= tags
    assert events.Scalars("losses/a_loss")[-1].value == pytest.approx(final["a_loss"])


def test_interrupt_waits_for_the_end_of_the_iteration_and_for_its_checkpoint(tmp_path):
    class Interrupting(PointMass):
        steps = 0

        def step(self, actions):
            self.steps += 1
            if self.steps == 17:  # the first of the second iteration
                signal.raise_signal(signal.SIGINT)
            return super().step(actions)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    env = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        train(env, config(), tmp_path)
    assert env.steps == 32
    (path,) = (tmp_path / "nn").glob("last_policy_ep_2_*.pth")
    assert checkpoint.load(path)["epoch"] == 2
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_nan_stops_training(tmp_path):
    class Broken(PointMass):
        def step(self, actions):
            obs, reward, *rest = super().step(actions)
            return obs, reward * math.nan, *rest

    with pytest.raises(FloatingPointError, match="iteration 1 are not finite"):
        train(Broken(), config(), tmp_path)
    assert not list(tmp_path.rglob("*.pth")), "no checkpoint of such weights"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_minibatches": 7}, r"num_minibatches = 7: allowed is a divisor of num_envs \* horizon_length = 1024"),
        ({"num_minibatches": 0}, "num_minibatches = 0"),
        ({"gamma": 1.5}, "gamma = 1.5: allowed is a number, 0 to 1"),
        ({"gamma": math.nan}, "gamma = nan"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0: allowed is a number, more than 0, at most 1"),
        (
            {"lr_schedule": "cosine"},
            "lr_schedule: unknown name 'cosine'; .* Allowed: adaptive, linear, adaptive_linear, fixed",
        ),
        ({"activation": "sine"}, "activation: unknown name 'sine'; did you mean 'selu'. Allowed: elu, relu"),
        (
            {"units": ()},
            r"units = \(\): allowed is any number of values, each a whole number, 1 to 65536, 1 to 64 of them",
        ),
        ({"name": "a/b"}, "name = 'a/b': allowed is a file name"),
        ({"seed": -2}, "seed = -2: allowed is a whole number, -1 to 4294967295"),
        ({"keep_checkpoints": -1}, "keep_checkpoints = -1: allowed is a whole number, 0 to 1000000000 .0: all"),
    ],
)
def test_config_errors(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(PointMass(), config(**changes), tmp_path)
    assert not list(tmp_path.iterdir())


def test_spaces_that_do_not_fit():
    flat, image = Box(-1, 1, (3,), np.float32), Box(0, 1, (8, 8, 3), np.float32)
    with pytest.raises(ValueError, match="observation space"):
        Agent(image, flat, PPOConfig())
    with pytest.raises(ValueError, match="action space .* finite bounds"):
        Agent(flat, Box(-np.inf, np.inf, (3,), np.float32), PPOConfig())


def test_defaults_are_valid():
    PPOConfig().validate(num_envs=1024)
