"""The environments in other libraries' hands, which fork, draw and retry in ways of their own."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ASYNC = """
import gymnasium, dexhand_gym
for more in {}, {"render_mode": "rgb_array", "video_size": (64, 48)}:
    env = gymnasium.make_vec("DexHand/BoxGrasping-v0", num_envs=2, vectorization_mode="async", **more)
    env.reset(seed=0)
    for _ in range(3):
        obs, *_ = env.step(env.action_space.sample())
    print(obs.shape, [picture.shape for picture in env.render()] if more else "")
    env.close()
"""
SB3 = """
import gymnasium, dexhand_gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
if __name__ == "__main__":
    for method in ("fork", "forkserver", "spawn", None):  # None, which draws in this process, comes last
        how = {"vec_env_cls": SubprocVecEnv, "vec_env_kwargs": {"start_method": method}} if method else {}
        env = make_vec_env("DexHand/BoxGrasping-v0", n_envs=2, seed=0, env_kwargs={"video_size": (64, 48)}, **how)
        env.reset()
        for _ in range(3):
            obs, *_ = env.step([env.action_space.sample()] * 2)
        print(method, obs.shape, [picture.shape for picture in env.get_images()])
        env.close()
    env = gymnasium.make("DexHand/BoxGrasping-v0", episode_length=20)
    PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1).learn(64)
    print("learnt")
"""
SKRL = """
import gymnasium, torch, dexhand_gym
from skrl.envs.wrappers.torch import wrap_env
for env in (gymnasium.make_vec("DexHand/BlindGrasping-v0", num_envs=3), gymnasium.make("DexHand/BaseTask-v0")):
    env = wrap_env(env)
    env.reset()
    obs, reward, *_ = env.step(torch.zeros(env.num_envs, 18))
    print(type(env).__name__, tuple(obs.shape), tuple(reward.shape))
"""
TORCHRL = """
import dexhand_gym
from torchrl.envs import GymEnv
print(tuple(GymEnv("DexHand/BaseTask-v0").rollout(3)["next", "observation"].shape))
"""
PICTURES = "[(48, 64, 3), (48, 64, 3)]"


def run(code, folder):
    """In a process of its own: what threads and OpenGL contexts a process has decides whether it survives a fork."""
    script = folder / "script.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.draws
def test_gymnasiums_async_vector_env_steps_and_draws(tmp_path):
    assert run(ASYNC, tmp_path).splitlines() == ["(2, 115) ", f"(2, 115) {PICTURES}"]


@pytest.mark.draws
def test_stable_baselines3_forks_spawns_draws_and_learns(tmp_path):
    pytest.importorskip("stable_baselines3")
    *made, learnt = run(SB3, tmp_path).splitlines()
    assert made == [f"{method} (2, 115) {PICTURES}" for method in ("fork", "forkserver", "spawn", None)]
    assert learnt == "learnt"


def test_skrl_knows_what_it_has_got(tmp_path):
    pytest.importorskip("skrl")
    *_, vector, single = run(SKRL, tmp_path).splitlines()
    assert vector == "GymnasiumWrapper (3, 115) (3, 1)"
    assert single == "GymnasiumWrapper (1, 89) (1, 1)"


def test_torchrl_does_without_its_own_options(tmp_path):
    pytest.importorskip("torchrl")
    assert run(TORCHRL, tmp_path).splitlines()[-1] == "(3, 89)"
