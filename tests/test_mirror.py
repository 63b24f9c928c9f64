"""The other hand: what one policy does with the right hand, its image does with the left."""

import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
import torch

import configs
import dexhand_gym  # noqa: F401
import train_ppo
from dexhand_gym.envs import make_vec_env
from dexhand_gym.envs.mirror import image_of_row, images
from dexhand_gym.hands.mirror import dof_signs
from ppo import distributed, policy, ppo
from ppo.mirror import Image, mirror

ROOT = Path(__file__).resolve().parent.parent


def pair(id, n=6, **more):
    """The same scene for both hands, the left one's seen in a mirror, out of the reach of chance."""
    right, left = (
        gymnasium.make_vec(id, num_envs=n, hand=hand, backend="mujoco", **more).unwrapped for hand in ("right", "left")
    )
    right.reset(seed=3)
    signs = torch.tensor(dof_signs(right.hand), dtype=torch.float32)
    flip = torch.tensor([1.0, -1.0, 1.0])
    start = {"hand": right._start["hand"] * torch.cat((signs[:6], torch.ones(12)))}
    if "box" in right._start:
        box = right._start["box"]
        turn = box[:, 3:] * torch.tensor([-1.0, 1.0, -1.0, 1.0])
        start["box"] = torch.cat((box[:, :3] * flip, turn), 1)
    left.sample_start = lambda: start
    left.reset()
    return right, left


@pytest.mark.parametrize("id", ["DexHand/BaseTask-v0", "DexHand/BoxGrasping-v0", "DexHand/BlindGrasping-v0"])
def test_everything_observed_in_the_left_hand_is_the_image_of_what_is_in_the_right(id):
    right, left = pair(id)
    keys = [name for name in right.mirrors if name in right.observable()]
    assert len(keys) > 20
    image, actions = Image(*image_of_row(right, keys)), Image(*images(right)[2])
    torch.manual_seed(0)
    for step in range(25):
        action = torch.rand(6, 18) * 2 - 1
        reward, other_reward = right.step(action)[1], left.step(actions.of(action, 1))[1]
        torch.testing.assert_close(reward, other_reward, atol=1e-3, rtol=1e-3)
        if step % 6:
            continue
        row, other = (torch.cat([env.observations()[key] for key in keys], 1) for env in (right, left))
        expected, first = image.of(row, 1), 0
        for key in keys:
            width = right.observations()[key].shape[1]
            a, b = expected[:, first : first + width], other[:, first : first + width]
            if "pose" in key:  # q and -q are the same turn
                a, b = a.view(6, -1, 7), b.view(6, -1, 7)
                dot = (a[..., 3:] * b[..., 3:]).sum(-1)
                torch.testing.assert_close(
                    dot.abs(), torch.ones_like(dot), atol=1e-4, rtol=0, msg=f"{key}, step {step}"
                )
                a, b = a[..., :3], b[..., :3]
            tolerance = {"atol": 0.02, "rtol": 0.02} if "force" in key else {"atol": 2e-3, "rtol": 1e-3}
            torch.testing.assert_close(a, b, msg=f"{key} at step {step}:\n{a}\n{b}", **tolerance)
            first += width


def test_an_image_by_hand():
    env = gymnasium.make_vec("DexHand/BoxGrasping-v0", num_envs=1, backend="none").unwrapped
    image = Image(*image_of_row(env, ("base_dof_pos", "object_pos", "grasp_duration")))
    row = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10]])
    assert image.of(row, 1).tolist() == [[1, -2, 3, -4, 5, -6, 7, -8, 9, 10]]
    env.mirrors = {}
    with pytest.raises(ValueError, match="BoxGrasping.mirrors: it does not say what 'object_pos'"):
        image_of_row(env, ("object_pos",))


@pytest.mark.parametrize("separate", [False, True])
def test_the_image_of_a_policy_acts_and_values_in_the_image_as_it_did(separate):
    env = gymnasium.make_vec("DexHand/BoxGrasping-v0", num_envs=3, backend="none").unwrapped
    cfg = ppo.PPOConfig(units=(16, 8), separate=separate)
    size = env.single_critic_space.shape[0]
    agent = ppo.Agent(env.single_observation_space, env.single_action_space, cfg, size)
    torch.manual_seed(1)
    rows = torch.randn(32, size)
    agent.update_statistics(*distributed.moments(rows))
    optimizer = ppo.make_optimizer(agent, cfg)
    mu, _, value = agent(rows)
    (mu.square().sum() + value.square().sum()).backward()
    optimizer.step()
    with torch.no_grad():
        agent.a2c_network.mu.bias.normal_()
        mu, _, value = agent(rows)
    image = [Image(*x) for x in images(env)]
    before = optimizer.state[agent.a2c_network.mu.bias]["exp_avg"].clone()
    mirror(agent, optimizer, *image)
    with torch.no_grad():
        seen = image[1].of(rows, 1)
        torch.testing.assert_close(seen[:, : env.single_observation_space.shape[0]], image[0].of(rows[:, :115], 1))
        other_mu, _, other_value = agent(seen)
    torch.testing.assert_close(other_mu, image[2].of(mu, 1))
    torch.testing.assert_close(other_value, value)
    torch.testing.assert_close(optimizer.state[agent.a2c_network.mu.bias]["exp_avg"], image[2].of(before))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["BoxGrasping", "BlindGrasping"])
def test_the_shipped_policies_play_the_left_hand(task, tmp_path):
    command = [sys.executable, ROOT / "train_ppo.py", "--test", "--checkpoint", "pretrained", "--task", task]
    command += ["--env.hand", "left", "--num-envs", "64", "--train.test-episodes", "64", "--render", "False"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    import json

    (result,) = tmp_path.glob("runs/latest_test/result.json")
    assert json.loads(result.read_text())["success_rate"] > 0.9


def test_a_training_goes_on_from_the_image_of_what_the_other_hand_has_learned(tmp_path, monkeypatch):
    """With moments of its own, and with nothing that was the best of another training."""
    monkeypatch.chdir(tmp_path)
    command = "--task BoxGrasping --num-envs 4 --env.backend none --train.horizon-length 8 --train.units 16 --max-iterations 2"
    assert train_ppo.main([*command.split(), "--train.num-minibatches", "2", "--train.test-episodes", "1"]) == 0
    (saved,) = tmp_path.glob("runs/latest_train/nn/last_*.pth")
    begun = {}
    for hand in ("right", "left"):
        cfg = configs.parse(["--checkpoint", str(saved), "--env.hand", hand, "--max-iterations", "3"])
        env = make_vec_env("dexhand_gym.envs.box_grasping:BoxGrasping", 4, cfg)
        begun[hand] = policy.begin(env, cfg.train, str(saved))
    (right, gone_on), (left, progress) = begun["right"], begun["left"]
    _, critic, actions = (Image(*image) for image in images(env))
    rows = torch.randn(5, env.single_critic_space.shape[0])
    with torch.no_grad():
        torch.testing.assert_close(left.agent(critic.of(rows, 1))[0], actions.of(right.agent(rows)[0], 1))
        torch.testing.assert_close(left.agent(critic.of(rows, 1))[2], right.agent(rows)[2])
    bias = [learner.optimizer.state[learner.agent.a2c_network.mu.bias]["exp_avg"] for learner in (right, left)]
    torch.testing.assert_close(bias[1], actions.of(bias[0]))
    assert bias[0].any() and (progress.best_reward, progress.best_success) == (-1e9, 0.0)
    assert (progress.epoch, gone_on.epoch) == (2, 2)
