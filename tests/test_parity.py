"""This PPO against the real rl_games 1.6.5: same files, same numbers, same interface. Without rl_games these tests fail."""

import contextlib
import copy
import io
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from rl_games.algos_torch.a2c_continuous import A2CAgent
from rl_games.algos_torch.players import PpoPlayerContinuous
from rl_games.common.algo_observer import AlgoObserver
from rl_games.common.tr_helpers import DefaultRewardsShaper
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import configs
from dexhand_gym.rl_games import RlGamesVecEnv
from ppo import checkpoint, ppo
from ppo.runner import Runner, ppo_fields

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "examples" / "rl_games.yaml"


class Pendulums(VectorEnv):
    """Deterministic: no random numbers, starts that follow from the environment's index and its number of episodes. Ends
    by failure where the point leaves the unit disc, by time-out after 6 to 9 steps."""

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.SAME_STEP}
    single_observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    single_action_space = Box(np.float32([-2, -1]), np.float32([1, 3]), dtype=np.float32)

    def __init__(self, num_envs: int = 8):
        self.num_envs = num_envs

    def start(self):
        phase = torch.arange(self.num_envs) + 0.7 * self.episodes
        return 0.5 * torch.stack((torch.sin(phase), torch.cos(2 * phase)), 1)

    def obs(self):
        return torch.cat((3 * self.x + 1, self.time[:, None] / 5), 1)

    def reset(self, *, seed=None, options=None):
        self.episodes, self.time = torch.zeros(self.num_envs), torch.zeros(self.num_envs)
        self.x = self.start()
        return self.obs(), {}

    def step(self, actions):
        assert actions.shape == (self.num_envs, 2)
        self.x, self.time = 0.9 * self.x + 0.2 * actions, self.time + 1
        reward = 1 - self.x.norm(dim=1)
        terminated = reward < 0
        truncated = (self.time >= 6 + torch.arange(self.num_envs) % 4) & ~terminated
        done = terminated | truncated
        final_obs, self.episodes = self.obs(), self.episodes + done
        self.x = torch.where(done[:, None], self.start(), self.x)
        self.time = torch.where(done, 0.0, self.time)
        return self.obs(), reward, terminated, truncated, {"final_obs": final_obs, "_final_obs": done}


def make_params(env, folder, **changes):
    """A config for both, with keys of every kind; `changes` by their last names."""
    params = yaml.safe_load(SAMPLE.read_text())["params"]
    params["network"]["mlp"]["units"] = changes.pop("units", [32, 16])
    params["network"]["separate"] = changes.pop("separate", False)
    params["config"].update(
        num_actors=env.num_envs,
        minibatch_size=env.num_envs * 16 // 4,
        reward_shaper={"scale_value": 0.5},
        entropy_coef=0.01,
        bounds_loss_coef=0.1,
        learning_rate="1e-3",
        device="cpu",
        device_name="cpu",
        train_dir=str(folder),
        vec_env=RlGamesVecEnv(env),
        env_info=RlGamesVecEnv(env).get_env_info(),
        save_best_after=2,
        torch_compile=False,
    )
    params["config"].update(changes)
    return params


def stock(params, kind=A2CAgent, seed=42):
    """rl_games' trainer or player, made as its Runner makes them."""
    params = {**params, "config": {**params["config"], "features": {"observer": AlgoObserver()}}}
    params["config"]["reward_shaper"] = DefaultRewardsShaper(**params["config"]["reward_shaper"])
    torch.manual_seed(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        return kind("run", params) if kind is A2CAgent else kind(params)


def ours(params, env, seed=42):
    cfg = ppo.PPOConfig(**ppo_fields(params, env.num_envs))
    cfg.validate(env.num_envs)
    torch.manual_seed(seed)
    agent = ppo.Agent(env.single_observation_space, env.single_action_space, cfg)
    return cfg, agent, ppo.make_optimizer(agent, cfg)


def assert_close(a, b, name, tolerance=2e-5):
    """Relative to the tensor's largest number: the small ones are differences of large ones."""
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    assert a.shape == b.shape, name
    assert (a - b).abs().max() <= tolerance * b.abs().max(), (name, a, b)


VARIANTS = [
    {},
    {"schedule_type": "legacy"},
    {"clip_value": False},
    {"schedule_type": "legacy", "clip_value": False, "separate": True},
    {"separate": True, "units": [64, 48, 16], "minibatch_size": 128},
    {"minibatch_size": 16, "mini_epochs": 2, "units": [16]},
    {"normalize_input": False, "normalize_value": False, "normalize_advantage": False, "truncate_grads": False},
    {"lr_schedule": "linear", "max_epochs": 7, "weight_decay": 0.01, "bound_loss_type": "regularisation"},
    {"lr_schedule": None, "value_bootstrap": False, "reward_shaper": {}},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_one_update_on_the_same_rollout(tmp_path, changes):
    """Both begin with the same weights, to the bit, and learn twice from what rl_games has collected."""
    env = Pendulums()
    params = make_params(env, tmp_path, **changes)
    theirs = stock(params)
    cfg, agent, optimizer = ours(params, env)
    assert list(agent.state_dict()) == list(theirs.model.state_dict())
    assert all(torch.equal(x, theirs.model.state_dict()[key]) for key, x in agent.state_dict().items())
    for module in (agent, theirs.model):  # means beyond the bounds
        module.a2c_network.mu.weight.data.mul_(4.0)

    store = ppo.allocate_rollout(env.num_envs, 3, 2, cfg, torch.device("cpu"))
    learner = ppo.Learner(agent, optimizer, store, cfg)
    theirs.init_tensors()
    theirs.obs = theirs.env_reset()
    for epoch in (1, 2):
        theirs.update_epoch()
        *_, a_losses, c_losses, b_losses, entropies, kls, _, _ = theirs.train_epoch()
        recorded = theirs.experience_buffer.tensor_dict
        names = {"obs": "obses", "actions": "actions", "neglogp": "neglogpacs", "mu": "mus", "sigma": "sigmas"}
        for mine, other in {**names, "values": "values", "rewards": "rewards"}.items():
            x = getattr(store, mine)
            x.copy_(recorded[other].view_as(x))
        store.dones.copy_(torch.cat((recorded["dones"][1:], theirs.dones[None])))
        assert 0 < store.dones.sum() < store.dones.numel() / 3
        losses = learner.learn(agent.value(theirs.obs["obs"]), epoch)

        weights = theirs.model.state_dict()
        for key, x in agent.state_dict().items():
            assert_close(x, weights[key], key)
        for i, moments in theirs.optimizer.state_dict()["state"].items():
            for key, x in optimizer.state_dict()["state"][i].items():
                assert_close(x, moments[key], f"{key} of parameter {i}")
        means = [torch.stack(list(x)).mean() for x in (a_losses, c_losses, entropies, b_losses, kls)]
        for name, x, other in zip(ppo.LOSSES, losses, means):
            assert_close(x, other, name)
        assert_close(optimizer.param_groups[0]["lr"], theirs.optimizer.param_groups[0]["lr"], "learning rate")
    assert all(x != 0 for x in losses)
    if cfg.lr_schedule != "fixed":
        assert optimizer.param_groups[0]["lr"] != pytest.approx(cfg.learning_rate)


def curves(folder):
    events = EventAccumulator(str(folder / "summaries"))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("schedule", ["standard", "legacy"])
def test_ten_epochs_follow_the_same_curve(tmp_path, schedule):
    """From the seed on: weights, random actions, time-outs, episodes' means, learning rates, files."""
    env, seed = Pendulums(4), 7
    params = make_params(env, tmp_path, schedule_type=schedule, max_epochs=10, full_experiment_name="theirs")
    with contextlib.redirect_stdout(io.StringIO()) as stock_output:
        theirs = stock(params, seed=seed)
        theirs.train()
        theirs.writer.close()
        params["config"].update(full_experiment_name="ours")
        runner = Runner()
        runner.load({"params": {**params, "seed": seed}})
        runner.run({"train": True, "play": False, "checkpoint": None, "sigma": None})
    assert stock_output.getvalue().count("epoch: 10/10") == 2
    expected, got = curves(tmp_path / "theirs"), curves(tmp_path / "ours")
    for tag in ("a_loss", "c_loss", "entropy", "bounds_loss"):
        np.testing.assert_allclose(got[f"losses/{tag}"], expected[f"losses/{tag}"], rtol=1e-3, atol=1e-6, err_msg=tag)
    for tag in ("rewards/step", "episode_lengths/step", "info/kl"):
        assert len(expected[tag]) == 10
        np.testing.assert_allclose(got[tag], expected[tag], rtol=1e-3, err_msg=tag)
    assert len({round(x, 6) for x in got["rewards/step"]}) > 5

    (theirs,), (mine,) = ((tmp_path / run / "nn").glob("last_policy_ep_10_*") for run in ("theirs", "ours"))
    theirs, mine = checkpoint.load(theirs), checkpoint.load(mine)
    for key, x in mine["model"].items():
        assert_close(x, theirs["model"][key], key, tolerance=1e-3)
    assert (mine["epoch"], mine["frame"]) == (theirs["epoch"], theirs["frame"]) == (10, 10 * 16 * 4)
    assert mine["optimizer"]["param_groups"][0]["lr"] == pytest.approx(theirs["optimizer"]["param_groups"][0]["lr"])
    best = [checkpoint.load(tmp_path / run / "nn" / "policy.pth") for run in ("theirs", "ours")]
    assert best[0]["epoch"] == best[1]["epoch"]
    assert best[0]["last_mean_rewards"] == pytest.approx(best[1]["last_mean_rewards"], rel=1e-3)
