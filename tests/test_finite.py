"""What is not finite ends its episode as `nonfinite`, wherever it comes from, and spoils nothing else."""

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from dexhand_gym.envs.box_grasping import BoxGrasping, BoxGraspingConfig
from dexhand_gym.envs.config import Config
from ppo.ppo import Agent, PPOConfig, Progress, allocate_rollout, rollout
from ppo.runner import Player

N, BAD = 4, 1
DEVICE = {"mujoco": "cpu", "mjwarp": "cuda" if torch.cuda.is_available() else "cpu"}
FAULTS = {
    **dict.fromkeys(("action", "rule", "action_rule", "filter", "coupling"), float("nan")),
    **dict.fromkeys(("observation", "critic", "sensor", "criterion", "reward"), float("nan")),
    "unpaid_reward": float("inf"),
    "huge_reward": 3e38,  # finite, but not with its weight
    **dict.fromkeys(("force", "box_force"), float("inf")),
    "start": float("nan"),
}


class Faulty(BoxGrasping):
    """BoxGrasping in which `fault[name]` [N], where it is not zero, is added to what `name` says."""

    def __init__(self, *args, **kwargs):
        self.fault = None
        super().__init__(*args, **kwargs)

    def scene(self):
        device = DEVICE[self.cfg.env.backend]
        self.fault = {name: torch.zeros(N, device=device) for name in (*FAULTS, "return")}
        plain = BoxGrasping.quantities
        self.quantities = {
            **plain,
            "pads_to_box": lambda m, cfg: m["push"] + self.fault["criterion"],
            "fingerpad_distances": self.spoil("observation", plain["fingerpad_distances"]),
            "finger_to_object_distances": self.spoil("critic", plain["finger_to_object_distances"]),
        }
        return super().scene()

    def spoil(self, name, function):
        def spoilt(*args):
            value = function(*args)
            return value + self.fault[name].view(-1, *[1] * (value.dim() - 1))

        return spoilt

    def sample_start(self):
        start = super().sample_start()
        return {**start, "hand": start["hand"] + self.fault["start"].unsqueeze(1)}

    def rewards(self, m, cfg):
        terms = BoxGrasping.rewards(m, cfg)
        terms["reach"] = terms["reach"] + self.fault["reward"] + self.fault["return"]
        terms["object_height"] = terms["object_height"] + self.fault["unpaid_reward"]
        terms["hold"] = terms["hold"] + self.fault["huge_reward"]
        return terms

    def failures(self, m, cfg):
        return {**BoxGrasping.failures(m, cfg), "box_pushed_away": m["pads_to_box"] > 0.12}


def make(backend):
    task = BoxGraspingConfig()
    task.randomize.joint_position_noise, task.randomize.action_delay = 0.01, (1, 1)
    task.reward_weights["hold"] = 5.0
    cfg = Config(task=task)
    cfg.env.backend, cfg.env.device, cfg.env.num_envs = backend, DEVICE[backend], N
    env = Faulty(cfg, seed=0)
    env.pre_action_rule = env.spoil("rule", env.pre_action_rule)
    rule, env.seen = env.spoil("action_rule", env.action_rule), torch.zeros(N, 18, device=env.device)

    def remembering_rule(actions, *args):
        env.seen.add_(actions)
        return rule(actions, *args)

    env.action_rule = remembering_rule
    env.post_action_filters = [*env.post_action_filters, env.spoil("filter", lambda targets, *_: targets)]
    env.coupling = env.spoil("coupling", env.coupling)
    step = env.sim.step

    def watched_step(targets):
        assert torch.isfinite(targets).all(), "a target that is not finite reached the engine"
        step(targets)
        env.sim.net_contact_force.add_(env.fault["force"].view(-1, 1, 1))
        env.sim.net_contact_force[:, -1].add_(env.fault["box_force"].view(-1, 1))
        env._sensors.unit["dof_pos"].add_(env.fault["sensor"].view(-1, 1))

    env.sim.step = watched_step
    return env


def equal(a, b):
    return torch.allclose(a, b, atol=1e-3) if a.is_cuda else torch.equal(a, b)


def tensors(*results):
    """All of them, in whatever they are nested."""
    for value in results:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple)):
            yield from tensors(*(value.values() if isinstance(value, dict) else value))


@pytest.mark.parametrize("backend", ["mujoco", pytest.param("mjwarp", marks=pytest.mark.slow)])
def test_a_fault_ends_its_own_episode_and_nothing_else(backend):
    env, twin = make(backend), make(backend)
    others = [row for row in range(N) if row != BAD]
    generator = torch.Generator().manual_seed(0)
    for name, value in FAULTS.items():
        for e in (env, twin):
            e.reset(seed=3)
        for step in range(5):
            action = torch.rand(N, 18, generator=generator).to(env.device) * 2 - 1
            expected = twin.step(action)
            if step == 1 and name == "action":
                action[BAD, 5] = value
            elif step == 1:
                env.fault[name][BAD] = value
                if name == "start":
                    env.reset(options={"reset_mask": torch.arange(N) == BAD})
                    env.fault[name].zero_()
            _, reward, terminated, truncated, info = result = env.step(action)
            env.fault[name].zero_()
            assert all(torch.isfinite(x).all() for x in tensors(*result)), name
            assert terminated.tolist() == [step == 1 and row == BAD for row in range(N)], (name, step)
            assert torch.equal(terminated, info["endings"]["nonfinite"]), name
            assert not truncated.any()
            if step == 1:
                assert reward[BAD] == 0
                assert not info["final_obs"][BAD].any()
                assert sum(int(hit.sum()) for hit in info["endings"].values()) == 1
            assert equal(reward[others], expected[1][others]), (name, step)
            for mine, its in zip(env.observations().values(), twin.observations().values()):  # without noise
                assert equal(mine[others], its[others]), (name, step)
        assert torch.isfinite(env.seen).all(), "a stage got an action that is not finite"
        assert all(torch.isfinite(x).all() for x in tensors(env.get_state()) if x.is_floating_point()), name
        statistics = env.statistics()
        assert statistics["nonfinite"] == 1, name
        assert np.isfinite([*statistics.values()]).all(), name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_no_action_is_what_is_not_finite(value, caplog):
    """Numbers beyond +-1 are clamped; these are nonsense. 1e300 is infinite in float32."""
    env = gymnasium.make_vec("DexHand/BaseTask-v0", num_envs=2)
    actions = np.zeros((2, 18))
    actions[1, 17], actions[0, 0] = value, 1e9
    *_, info = env.step(actions)
    assert info["endings"]["nonfinite"].tolist() == [False, True]
    assert env.unwrapped.statistics()["nonfinite"] == 1
    assert "in 1 environments an action" in caplog.text


def test_a_return_that_overflows_is_not_finite_either():
    env = make("mujoco")
    env.reset(seed=0)
    env.fault["return"][BAD] = 3e38  # weight 0.3
    ended = []
    for _ in range(6):
        *_, info = result = env.step(torch.zeros(N, 18))
        assert all(torch.isfinite(x).all() for x in tensors(*result))
        ended.append(info["endings"]["nonfinite"].tolist())
    assert ended == [[False, row_ended, False, False] for row_ended in (False, False, False, True, False, False)]


SLIPPERY = """
import os, gymnasium, torch, dexhand_gym
env = gymnasium.make_vec("DexHand/BoxGrasping-v0", num_envs=16, seed=0, friction=1e-6, backend="mujoco", device="cpu")
generator, bad = torch.Generator().manual_seed(0), 0
for _ in range(60):
    obs, reward, *_, info = env.step(torch.rand(16, 18, generator=generator) * 2 - 1)
    assert torch.isfinite(obs).all() and torch.isfinite(reward).all() and torch.isfinite(info["critic_obs"]).all()
    bad += int(info["endings"]["nonfinite"].sum())
print(bad, env.unwrapped.statistics()["nonfinite"], os.listdir())
"""


def test_a_physics_that_blows_up_leaves_no_file_behind(tmp_path):
    """Without friction it does, and MuJoCo has much to say about it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SLIPPERY]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING: " in done.stdout + done.stderr, "nothing blew up"
    bad, counted, files = done.stdout.splitlines()[-1].split(maxsplit=2)
    assert int(bad) == float(counted) > 0
    assert files == "[]"


# --- Sums over episodes ----------------------------------------------------------------------------------------------


class Spoilt(VectorEnv):
    """Three environments with episodes of 2 steps, each paid 1; the first one's first episode is paid NaN."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    single_observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    single_action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    num_envs, steps = 3, 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return torch.zeros(3, 1), {}

    def step(self, actions):
        self.steps += 1
        reward = torch.ones(3)
        if self.steps <= 2:
            reward[0] = float("nan")
        done = torch.full((3,), self.steps % 2 == 0)
        return torch.zeros(3, 1), reward, done, torch.zeros(3, dtype=torch.bool), {}


def test_an_episode_paid_nan_is_not_the_end_of_all_sums(capsys):
    cfg = PPOConfig(horizon_length=2, num_minibatches=1, units=(4,), value_bootstrap="none")
    env = Spoilt()
    player = Player(env, cfg, {"games_num": 6})
    player.run()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "reward: nan steps: 2.0"
    assert lines[1] == "reward: 2.00 steps: 2.0"

    progress = Progress(env.reset()[0], episode=torch.zeros(2, 3))
    store = allocate_rollout(3, 1, 1, cfg, torch.device("cpu"))
    agent = Agent(env.single_observation_space, env.single_action_space, cfg)
    rollout(env, agent, store, progress, cfg)
    assert not progress.episode.any()
    assert rollout(env, agent, store, progress, cfg)[1].tolist() == [6.0, 6.0, 3.0]
