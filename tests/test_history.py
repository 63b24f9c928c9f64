"""TaskConfig.observation_history: the policy sees what it saw a while ago."""

import pytest
import torch

from configs import parse
from dexhand_gym import tasks
from dexhand_gym.envs import make_vec_env
from dexhand_gym.envs.mirror import images


def make(num_envs=3, task="BoxGrasping", **fields):
    return make_vec_env(tasks()[task], num_envs, seed=1, device="cpu", backend="mujoco", **fields)


def play(env, steps, generator):
    return [env.step(torch.rand(env.action_space.shape, generator=generator) * 2 - 1) for _ in range(steps)]


def test_columns_are_earlier_observations():
    """Behind the newest, those of 2 and 5 steps ago; in a younger episode the first."""
    env, plain = make(observation_history=(2, 5)), make()
    width = plain.single_observation_space.shape[0]
    assert env.single_observation_space.shape == (3 * width,)
    assert env.single_critic_space.shape[0] - 3 * width == plain.single_critic_space.shape[0] - width
    first, _ = env.reset(seed=4)
    rows = [plain.reset(seed=4)[0]]
    assert torch.equal(first, torch.cat([rows[0]] * 3, 1))
    a, b = (torch.Generator().manual_seed(0) for _ in range(2))
    for (obs, *_), (now, *_) in zip(play(env, 8, a), play(plain, 8, b)):
        rows.append(now)
        assert torch.equal(obs, torch.cat((now, rows[max(len(rows) - 3, 0)], rows[max(len(rows) - 6, 0)]), 1))


def test_a_new_episode_forgets_the_old_one_alone():
    env = make(observation_history=(3,))
    env.reset(seed=4)
    before = play(env, 6, torch.Generator().manual_seed(0))[-1][0]
    obs, _ = env.reset(options={"reset_mask": torch.tensor([False, True, False])})
    now, ago = obs.chunk(2, 1)
    assert torch.equal(now[1], ago[1])
    assert torch.equal(obs[[0, 2]], before[[0, 2]])
    assert not torch.equal(now[0], ago[0])


def test_final_observations_have_the_history_of_their_episode():
    env = make(observation_history=(1,), episode_length=4)
    env.reset(seed=4)
    *_, third, fourth = play(env, 4, torch.Generator().manual_seed(0))
    assert fourth[3].all()
    width = third[0].shape[1] // 2
    assert torch.equal(fourth[4]["final_obs"][:, width:], third[0][:, :width])
    assert torch.equal(fourth[0][:, :width], fourth[0][:, width:])


def test_a_state_has_it():
    envs = [make(observation_history=(2, 4), randomize={"observation_delay": (0, 2)}) for _ in range(2)]
    for i, env in enumerate(envs):
        env.reset(seed=i)
    play(envs[0], 7, torch.Generator().manual_seed(0))
    envs[1].set_state(envs[0].get_state())
    after = [play(env, 3, torch.Generator().manual_seed(1))[-1][0] for env in envs]
    assert torch.equal(*after)


def test_a_mirror_image_has_it():
    env, plain = make(observation_history=(2,)), make()
    (index, sign), (of_critic, _), _ = images(env)
    (alone, signs), *_ = images(plain)
    assert torch.equal(index, torch.cat((alone, alone + len(alone))))
    assert torch.equal(sign, torch.cat((signs, signs)))
    assert len(of_critic) == env.single_critic_space.shape[0]


@pytest.mark.parametrize("value", ["0", "501", "-3", "x", "5 5", "45 5"])
def test_mistakes_cost_one_line(value):
    with pytest.raises(ValueError, match="observation.history") as caught:
        parse(["--task.observation-history", *value.split()])
    assert "\n" not in str(caught.value)
