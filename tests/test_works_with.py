"""The environments in the hands of other learners: the scripts of docs/works-with.md, and the adapters."""

import math
import os
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import dexhand_gym  # noqa: F401

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "works-with.md").read_text()
ASYMMETRIC = {"sb3": False, "skrl": True, "rsl_rl": True, "torchrl": True, "cleanrl": False}
"""Script -> whether its critic sees more than its policy."""
MODULES = {"sb3": "stable_baselines3"}
WATCHED = """
import runpy, sys, torch
made, step = {}, torch.optim.Adam.step
def watched(self, *args, **options):
    if self not in made:  # skrl's layers have no sizes before
        weights = [weight for group in self.param_groups for weight in group["params"]]
        made[self] = [(weight, weight.detach().clone()) for weight in weights]
    return step(self, *args, **options)
torch.optim.Adam.step = watched
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
(pairs,) = made.values()
print("still", sum(torch.equal(new, old) for new, old in pairs), "of", len(pairs))
print("inputs", *sorted({new.shape[1] for new, _ in pairs if new.ndim == 2}))
"""


def need(library):
    if find_spec(MODULES.get(library, library)) is None:
        how = "the Makefile installs it" if library == "cleanrl" else "pip install 'dexhand-gym[works-with]'"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"without {library}: {how}")


def make(num_envs=3, **fields):
    return gymnasium.make_vec("DexHand/BoxGrasping-v0", num_envs=num_envs, seed=0, device="cpu", **fields)


@pytest.mark.parametrize("library", ASYMMETRIC)
def test_a_script_trains(library, tmp_path):
    """512 steps, episodes have 500 at most."""
    need(library)
    script = ROOT / "examples" / f"with_{library}.py"
    command = [sys.executable, "-c", WATCHED, script, "--task", "BoxGrasping", "--num-envs", "4", "--iterations", "16"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    count, mean = re.findall(r"^mean return of (\d+) episodes: (\S+)$", done.stdout, re.M)[0]
    assert int(count) >= 4 and math.isfinite(float(mean))
    if library == "rsl_rl":  # which counts for itself
        assert float(re.findall(r"Mean reward: (\S+)", done.stdout)[-1]) == pytest.approx(float(mean), abs=0.01)
    if library == "sb3":
        assert float(re.findall(r"ep_rew_mean +\| (\S+)", done.stdout)[-1]) == pytest.approx(float(mean), rel=0.01)
    assert re.search(r"^still 0 of \d+$", done.stdout, re.M)
    widths = re.findall(r"^inputs (.*)$", done.stdout, re.M)[0].split()
    space = make(1).unwrapped
    assert str(space.single_observation_space.shape[0]) in widths
    assert (str(space.single_critic_space.shape[0]) in widths) == ASYMMETRIC[library]


@pytest.mark.parametrize("library", ASYMMETRIC)
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--iterations 0", "--iterations 0: allowed is 1 or more"),
        ("--num-envs 0", "env.num_envs = 0: allowed is"),
        ("--task Nothing", "unknown name 'Nothing'"),
    ],
)
def test_a_mistake_is_one_line(library, words, says, monkeypatch, capsys):
    need(library)
    script = str(ROOT / "examples" / f"with_{library}.py")
    monkeypatch.setattr(sys, "argv", [script, *words.split()])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="program")["main"]()
    assert ended.value.code == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_cleanrls_file_must_be_there(monkeypatch, capsys):
    script = str(ROOT / "examples" / "with_cleanrl.py")
    monkeypatch.setattr(sys, "argv", [script, "--file", "nothing.py"])
    with pytest.raises(SystemExit):
        runpy.run_path(script, run_name="program")["main"]()
    assert "--file nothing.py: no such file" in capsys.readouterr().err.splitlines()[-1]


def history(env, step):
    """Of six steps with episodes of 5, in the third of which row 1 gets an action that is not a number:
    what `step` returns, and the environment's info, of each."""
    infos, results = [], []
    env.unwrapped.watchers.append(infos.append)
    for t in range(6):
        actions = torch.full((3, 18), 0.1)
        if t == 2:
            actions[1] = torch.nan
        results.append(step(actions))
    return results, infos


FAILED = [[False, t == 2, False] for t in range(6)]
TIMED_OUT = [[t == 4, False, t == 4] for t in range(6)]


def returns(rewards, ended):
    """[t][n] -> the return of the episode of row n that ended in step t."""
    totals, found = np.zeros(3), {}
    for t, (reward, done) in enumerate(zip(rewards, ended)):
        totals += np.asarray(reward)
        for n in np.flatnonzero(done):
            found[t, n], totals[n] = totals[n], 0.0
    return found


def told(infos):
    """The same as the environment tells it."""
    return {
        (t, n): info["episode"]["r"][n].item() for t, info in enumerate(infos) for n in np.flatnonzero(info["_episode"])
    }


def test_rsl_rls_environment():
    need("rsl_rl")
    from dexhand_gym.rsl_rl import RslRlVecEnv

    env = make(episode_length=5)
    wrapped = RslRlVecEnv(env, seed=0)
    first = wrapped.get_observations()
    critic = env.unwrapped.single_critic_space.shape[0]
    assert {name: tuple(rows.shape) for name, rows in first.items()} == {"policy": (3, 115), "critic": (3, critic)}
    assert first.device == wrapped.device == env.unwrapped.device
    assert (wrapped.num_envs, wrapped.num_actions, wrapped.max_episode_length) == (3, 18, 5)
    results, infos = history(env, wrapped.step)
    rewards, dones = [result[1].tolist() for result in results], [result[2].tolist() for result in results]
    assert [result[3]["time_outs"].tolist() for result in results] == TIMED_OUT
    assert dones == [[a or b for a, b in zip(*rows)] for rows in zip(FAILED, TIMED_OUT)]
    assert returns(rewards, dones) == pytest.approx(told(infos)) and len(told(infos)) == 3
    assert wrapped.get_observations() is results[-1][0]
    assert torch.equal(results[-1][0]["critic"], infos[-1]["critic_obs"])


def test_rsl_rl_may_begin_in_the_middle_of_episodes():
    need("rsl_rl")
    from dexhand_gym.rsl_rl import RslRlVecEnv

    wrapped = RslRlVecEnv(make(episode_length=5))
    wrapped.episode_length_buf = torch.tensor([4, 0, 3])
    ended = [wrapped.step(torch.zeros(3, 18))[3]["time_outs"].tolist() for _ in range(2)]
    assert ended == [[True, False, False], [False, False, True]]
    assert wrapped.episode_length_buf.tolist() == [1, 2, 0]


def test_without_more_for_the_critic_rsl_rl_gets_one_group():
    need("rsl_rl")
    from dexhand_gym.rsl_rl import RslRlVecEnv

    wrapped = RslRlVecEnv(gymnasium.make_vec("DexHand/BaseTask-v0", num_envs=2, device="cpu"))
    assert list(wrapped.get_observations().keys()) == ["policy"]


def test_sb3s_environments():
    need("sb3")
    from dexhand_gym.sb3 import SB3VecEnv

    env = make(episode_length=5)
    wrapped = SB3VecEnv(env)
    wrapped.seed(7)
    first = wrapped.reset()
    assert (first.shape, first.dtype) == ((3, 115), np.float32)
    assert not np.array_equal(wrapped.reset(), first)  # a seed is for one reset
    wrapped.seed(7)
    assert np.array_equal(wrapped.reset(), first)
    results, infos = history(env, lambda actions: wrapped.step(actions.numpy()))
    rewards, dones = [result[1] for result in results], [result[2] for result in results]
    theirs = {(t, n): results[t][3][n] for t, done in enumerate(dones) for n in np.flatnonzero(done)}
    assert {key: info["TimeLimit.truncated"] for key, info in theirs.items()} == {
        (2, 1): False,
        (4, 0): True,
        (4, 2): True,
    }
    assert returns(rewards, dones) == pytest.approx(told(infos))
    assert {key: info["episode"]["r"] for key, info in theirs.items()} == pytest.approx(told(infos))
    assert [info["episode"]["l"] for info in theirs.values()] == [3, 5, 5]
    assert not any(info["is_success"] for info in theirs.values())
    for (t, n), info in theirs.items():
        assert np.array_equal(info["terminal_observation"], infos[t]["final_obs"][n].numpy())
        assert not np.array_equal(info["terminal_observation"], results[t][0][n])
    assert results[0][3] == [{}, {}, {}]


def test_sb3s_environments_are_one_object():
    need("sb3")
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    from dexhand_gym.sb3 import SB3VecEnv

    wrapped = SB3VecEnv(make(episode_length=5))
    assert wrapped.get_attr("num_envs") == [3, 3, 3] and wrapped.get_attr("num_envs", [0, 2]) == [3, 3]
    assert not wrapped.has_attr("nothing") and wrapped.env_is_wrapped(Monitor) == [False] * 3
    for call in (lambda: wrapped.set_attr("num_envs", 4), lambda: wrapped.env_method("reset")):
        with pytest.raises(NotImplementedError, match="the environments are one object"):
            call()

    class Still:
        def predict(self, observations, **options):
            return np.zeros((3, 18), np.float32), None

    found, lengths = evaluate_policy(Still(), wrapped, n_eval_episodes=6, return_episode_rewards=True, warn=False)
    assert len(found) == 6 and lengths == [5] * 6


def test_skrls_environment():
    need("skrl")
    from skrl.utils import set_seed

    from dexhand_gym.skrl import FinalObservations, SkrlVecEnv

    set_seed(0)
    env = make(episode_length=5)
    wrapped = SkrlVecEnv(env)
    critic = env.unwrapped.single_critic_space
    assert (wrapped.num_envs, wrapped.device, wrapped.state_space) == (3, env.unwrapped.device, critic)
    obs, info = wrapped.reset()
    assert obs.shape == (3, 115) and torch.equal(wrapped.state(), info["critic_obs"])
    recorded = []

    class Agent:
        def record_transition(self, **transition):
            recorded.append(transition)

    class Mine(FinalObservations, Agent):
        pass

    def step(actions):
        obs, reward, terminated, truncated, info = wrapped.step(actions)
        assert torch.equal(wrapped.state(), info["critic_obs"])
        Mine().record_transition(next_observations=obs, next_states=wrapped.state(), infos=info, rewards=reward)
        return reward.squeeze(1), terminated.squeeze(1).tolist(), truncated.squeeze(1).tolist()

    results, infos = history(env, step)
    rewards, failed, timed_out = zip(*results)
    assert (list(failed), list(timed_out)) == (FAILED, TIMED_OUT)
    assert returns(rewards, np.logical_or(failed, timed_out)) == pytest.approx(told(infos))
    for seen, info in zip(recorded, infos):
        assert torch.equal(seen["next_observations"], info["final_obs"])
        assert torch.equal(seen["next_states"], info["final_critic_obs"])
        assert set(seen) == {"next_observations", "next_states", "infos", "rewards"}


@pytest.mark.draws
def test_sb3_gets_pictures():
    need("sb3")
    from dexhand_gym.sb3 import SB3VecEnv

    wrapped = SB3VecEnv(make(2, render_mode="rgb_array", video_size=(64, 48)))
    assert wrapped.render_mode == "rgb_array"
    wrapped.reset()
    assert [picture.shape for picture in wrapped.get_images()] == [(48, 64, 3)] * 2


def still(tensordict):
    return tensordict.set("action", torch.full((3, 18), 0.1))


def test_torchrls_environment():
    need("torchrl")
    from torchrl.envs.utils import check_env_specs

    from dexhand_gym.torchrl import TorchRLEnv

    env = make(episode_length=5)
    wrapped = TorchRLEnv(env)
    check_env_specs(wrapped)
    assert wrapped.device == env.unwrapped.device and wrapped.batch_size == (3,)
    tensordicts = [wrapped.reset()]
    critic = env.unwrapped.single_critic_space.shape
    assert tensordicts[0]["observation"].shape == (3, 115) and tensordicts[0]["critic_obs"].shape == (3, *critic)

    def step(actions):
        now, then = wrapped.step_and_maybe_reset(tensordicts[-1].set("action", actions))
        tensordicts.append(then)
        return now

    results, infos = history(env, step)
    ended = [now["next", "done"].squeeze(1).tolist() for now in results]
    assert [now["next", "terminated"].squeeze(1).tolist() for now in results] == FAILED
    assert [now["next", "truncated"].squeeze(1).tolist() for now in results] == TIMED_OUT
    assert returns([now["next", "reward"].squeeze(1) for now in results], ended) == pytest.approx(told(infos))
    for now, then, info, done in zip(results, tensordicts[1:], infos, ended):
        assert torch.equal(now["next", "observation"], info["final_obs"])
        assert torch.equal(now["next", "critic_obs"], info["final_critic_obs"])
        assert torch.equal(then["critic_obs"], info["critic_obs"])
        same = (then["observation"] == now["next", "observation"]).all(1)
        assert same.tolist() == [not ends for ends in done]


def test_torchrl_may_end_episodes_itself_and_seeds():
    need("torchrl")
    from torchrl.envs import StepCounter, TransformedEnv

    from dexhand_gym.torchrl import TorchRLEnv

    env = make(episode_length=5)
    counted = TransformedEnv(TorchRLEnv(env), StepCounter(max_steps=3))
    counted.set_seed(7)
    first = counted.rollout(7, still, break_when_any_done=False)
    assert first["next", "truncated"][0, :, 0].tolist() == [False, False, True] * 2 + [False]
    assert env.unwrapped.memory()["episode_step"].tolist() == [1, 1, 1]
    counted.set_seed(7)
    again = counted.rollout(7, still, break_when_any_done=False)
    assert torch.equal(first["observation"], again["observation"])
    assert not torch.equal(first["observation"][:, 0], first["observation"][:, 3])


def test_the_page_says_what_was_tried():
    """The versions are those of CI."""
    tried = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "constraints.txt").read_text(), re.M))
    tried.update(re.findall(r"(cleanrl)==([\w.]+)", (ROOT / "Makefile").read_text()))
    rows = re.findall(r"^\| .* \| `([\w-]+)` (\S+) \|", PAGE, re.M)
    assert dict(rows) == {name: tried[name] for name, _ in rows}
    assert len(rows) == 6
    assert set(re.findall(r"examples/(with_\w+\.py)", PAGE)) == {f"with_{library}.py" for library in ASYMMETRIC}


def test_the_code_of_the_page():
    for library in ("sb3", "skrl", "rsl_rl", "torchrl"):
        need(library)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(block, {})
