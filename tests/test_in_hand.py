"""Tasks in which an object lies in the hand: CubeRotation, and figures of an episode's end."""

from __future__ import annotations

import math
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import configs
import train_ppo
from dexhand_gym import rotations
from dexhand_gym.envs.base_task import BaseTask
from dexhand_gym.envs.config import Config, EnvConfig
from dexhand_gym.envs.cube_rotation import CubeRotation, CubeRotationConfig
from dexhand_gym.envs.in_hand import SIGHT, TOUCH, WRIST, in_palm, rotation_vector
from dexhand_gym.envs.quantities import Measured
from ppo.evaluation import evaluate, result_table
from ppo.policy import Policy

engines = pytest.mark.parametrize("backend", ["mujoco", pytest.param("mjwarp", marks=pytest.mark.slow)])


def make(num_envs=4, seed=0, **fields):
    env = gymnasium.make_vec(
        "DexHand/CubeRotation-v0", num_envs=num_envs, **{"device": "cpu", "backend": "mujoco", **fields}
    ).unwrapped
    env.reset(seed=seed)
    return env


def quat(axis, angle):
    return torch.tensor([[*(x * math.sin(angle / 2) for x in axis), math.cos(angle / 2)]])


# --- Quantities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 0.1, 3.0, -3.0, 3.5])
def test_a_rotation_vector_is_the_short_way(angle):
    short = (angle + math.pi) % (2 * math.pi) - math.pi
    found = rotation_vector(quat((0.0, 0.6, 0.8), angle))
    assert found[0].tolist() == pytest.approx([0, 0.6 * short, 0.8 * short], abs=1e-5)
    assert rotation_vector(-quat((0.0, 0.6, 0.8), angle))[0].tolist() == pytest.approx(found[0].tolist(), abs=1e-5)


def test_half_a_turn_is_not_none():
    """Whatever the sign of a w that is 0."""
    for w in (0.0, -0.0):
        assert rotation_vector(torch.tensor([[0.0, 1.0, 0.0, w]])).norm().item() == pytest.approx(math.pi)


def test_what_a_moving_palm_carries_does_not_move_in_it():
    """The palm turns about the vertical at 2 rad/s and slides along x at 0.1 m/s; the object is 5 cm beside it."""
    palm = torch.cat((torch.tensor([[0.0, 0.0, 0.3]]), quat((0.0, 0.0, 1.0), math.pi / 2)), 1)
    spin = torch.tensor([[0.0, 0.0, 2.0]])
    carried = torch.tensor([[0.1, 0.1, 0.0]])  # 0.1 along x, and 2 rad/s times 5 cm along y
    thing = torch.cat((torch.tensor([[0.05, 0.0, 0.3]]), quat((0.0, 0.0, 1.0), math.pi / 2), carried, spin), 1)
    m = {"hand_pose": palm, "hand_vel": torch.cat((torch.tensor([[0.1, 0.0, 0.0]]), spin), 1), "object": thing}
    found = in_palm(m, None)[0].tolist()
    assert found[:7] == pytest.approx([0.0, -0.05, 0.0, 0, 0, 0, 1], abs=1e-6)
    assert found[7:] == pytest.approx([0.0] * 6, abs=1e-6)


def measured(axis, angle, **fields):
    """A cube that has turned by so much in a step of 20 ms."""
    cfg = Config(task=CubeRotationConfig(axis=axis, **fields))
    before = quat((0.6, 0.0, 0.8), 1.0)
    now = rotations.multiply(quat((0.0, 0.0, 1.0), angle), before)
    raw = {
        "object_in_palm": torch.cat((torch.zeros(1, 3), now, torch.zeros(1, 6)), 1),
        "prev_object_quat_in_palm": before,
        "prev_first_place": torch.tensor([[0.03, 0.0, 0.04]]),
        "prev_turns": torch.tensor([1.5]),
        "episode_step": torch.tensor([100]),
        "last_actions": torch.full((1, 12), 0.5),
    }
    return Measured(raw, CubeRotation.quantities, cfg), cfg


@pytest.mark.parametrize(
    ("axis", "speed"), [("z", 1.5), ("x", 0.0), ("y", 0.0), ((0.0, 3.0, 4.0), 1.2), ((0.0, 0.0, -2.0), -1.5)]
)
def test_speed_about_the_axis(axis, speed):
    """0.03 rad in 20 ms about the palm's z axis."""
    m, cfg = measured(axis, 0.03)
    assert m["speed"].item() == pytest.approx(speed, abs=1e-4)
    terms = {name: value.item() for name, value in CubeRotation.rewards(m, cfg).items()}
    assert terms["spin"] == pytest.approx(speed, abs=1e-4)
    assert terms["other_spin"] == pytest.approx(math.sqrt(1.5**2 - speed**2), abs=1e-3)
    assert terms["drift"] == pytest.approx(1.0), "5 cm"
    assert terms["action"] == pytest.approx(3.0)
    assert m["turns"].item() == pytest.approx(1.5 + speed * 0.02 / (2 * math.pi), abs=1e-5)
    assert m["mean_speed"].item() == pytest.approx(2 * math.pi * m["turns"].item() / 2.0, rel=1e-5), "in two seconds"


def test_turning_slowly_and_jerking_back_earns_nothing():
    """Nine steps forward at 1 rad/s, and one back over the whole way."""
    earned = 0.0
    for angle in [0.02] * 9 + [-0.18]:
        m, cfg = measured("z", angle, max_speed=1.0)
        earned += CubeRotation.rewards(m, cfg)["spin"].item()
    assert earned == pytest.approx(0.0, abs=1e-3)


def test_haste_earns_no_more():
    m, cfg = measured("z", 0.1)
    assert m["speed"].item() == pytest.approx(5.0, rel=1e-4)
    assert CubeRotation.rewards(m, cfg)["spin"].item() == 2.0
    assert CubeRotation.failures(m, cfg)["dropped"].tolist() == [False]
    assert CubeRotation.failures(*measured("z", 0.1, max_away=0.04))["dropped"].tolist() == [True]


# --- The environment -------------------------------------------------------------------------------------------------


@engines
@pytest.mark.parametrize(("hand", "size"), [("right", (0.04, 0.06)), ("left", None)])
def test_it_lies_still_where_an_episode_begins(backend, hand, size):
    """Whatever its size; palm up, with the fingers higher than the wrist."""
    env = make(16 if backend == "mujoco" else 2, hand=hand, randomize={"box_size": size}, backend=backend)
    start = env.measured["object"][:, :3].clone()
    palm = env.measured["hand_pose"]
    out = rotations.rotate(palm[:, 3:], torch.tensor([1.0, 0.0, 0.0]).expand(len(palm), 3))
    along = rotations.rotate(palm[:, 3:], torch.tensor([0.0, 0.0, 1.0]).expand(len(palm), 3))
    assert out[:, 2].tolist() == pytest.approx([math.cos(0.2)] * len(palm), abs=1e-3)
    assert along[:, 2].tolist() == pytest.approx([math.sin(0.2)] * len(palm), abs=1e-3)
    for _ in range(50 if backend == "mujoco" else 10):
        _, _, terminated, *_ = env.step(torch.zeros(env.num_envs, 12))
        assert not terminated.any()
    assert (env.measured["object"][:, :3] - start).norm(dim=1).max() < 0.006
    assert env.measured["speed"].abs().max() < 0.5
    weight = env.sim.net_contact_force[:, -1, 2]
    assert weight.tolist() == pytest.approx([9.81 * 0.1] * env.num_envs, rel=0.1), "on the hand, not on the ground"
    assert (env.measured["object"][:, 2] > 0.25).all()
    env.close()


def test_a_turn_is_that_of_the_newest_step():
    """Of what compares with the step before, this and not the last."""
    env = make(num_envs=4, seed=5, max_away=0.5)
    for _ in range(6):
        before = env.measured["object_quat_in_palm"].clone()
        env.step(torch.full((4, 12), 0.6))
        moved = rotations.multiply(env.measured["object_quat_in_palm"], rotations.conjugate(before))
        torch.testing.assert_close(env.observations()["turned"], rotation_vector(moved) / 0.02)


def test_starts_are_found_once(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr("dexhand_gym.meshes.cache", lambda: tmp_path)
    monkeypatch.setattr("dexhand_gym.envs.in_hand_starts.TRIED", 64)
    make(2).close()
    assert "looking for states in which object lies in the hand, once" in capfd.readouterr().err
    make(2).close()
    assert "looking" not in capfd.readouterr().err
    make(2, **{"env.object.size": 0.045}).close()
    assert "looking" in capfd.readouterr().err, "another cube lies otherwise"


def test_starts_of_fingers_that_collide_are_others(tmp_path, monkeypatch):
    monkeypatch.setattr("dexhand_gym.meshes.cache", lambda: tmp_path)
    monkeypatch.setattr("dexhand_gym.envs.in_hand_starts.TRIED", 64)
    for collide in (False, True):
        make(2, **{"env.self_collision": collide}).close()
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_damaged_starts_are_found_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("dexhand_gym.meshes.cache", lambda: tmp_path)
    monkeypatch.setattr("dexhand_gym.envs.in_hand_starts.TRIED", 64)
    make(2).close()
    (file,) = tmp_path.glob("*.npz")
    with np.load(file) as stored:
        np.savez(file, **{name: np.full_like(stored[name], np.nan) for name in stored.files})
    make(2).close()
    with np.load(file) as stored:
        assert all(np.isfinite(stored[name]).all() for name in stored.files)


@pytest.mark.parametrize(("axis", "checkpoint"), [("x", "v0"), ("y", "v0_y"), ("z", "v0_z"), ("x", "v0_touch")])
def test_the_left_hand_turns_as_the_right_one_does_in_the_mirror(axis, checkpoint):
    """About -x, y and -z, with the same policy."""
    line = f"--task CubeRotation --test --checkpoint pretrained:{checkpoint} --env.hand left --device cpu --num-envs 16"
    cfg = configs.parse(line.split())
    assert cfg.task.axis == axis
    env = train_ppo.make_env(cfg)
    agent = Policy(env, cfg.train, Path(str(cfg.train.checkpoint))).agent
    obs, _ = env.reset(seed=1)
    turned = torch.zeros(3)
    with torch.no_grad():
        for _ in range(100):
            obs, *_ = env.step(agent.to_env(agent.act_deterministic(obs)))
            turned += env.measured["turned"].mean(0) * 0.02
    env.close()
    way = turned["xyz".index(axis)] * (1 if axis == "y" else -1)
    assert way > 1.2, "rad in two seconds"


def test_another_shape_begins_elsewhere():
    """With the same extents, mass and friction."""
    box, ball = (make(8, **{"env.object.shape": shape, "env.object.size": 0.047}) for shape in ("box", "sphere"))
    assert box._starts[2].shape != ball._starts[2].shape or not torch.equal(box._starts[2], ball._starts[2])
    for _ in range(50):
        _, _, terminated, *_ = ball.step(torch.zeros(8, 12))
        assert not terminated.any()


def test_the_wrist_turns_by_20_degrees_and_does_not_slide():
    env = make(2, policy_controls_base=True, max_away=1.0)
    assert env.single_action_space.shape == (18,)
    for _ in range(60):
        env.step(torch.ones(2, 18))
    targets = env.measured["targets"][:, :6]
    assert targets[:, :3].abs().max() == 0.0
    assert targets[:, 3:].tolist() == [[pytest.approx(0.35)] * 3] * 2
    assert env.measured["targets"][:, 6:].max() > 1.0, "fingers are not held"


def test_what_a_policy_sees():
    for observe, base, keys in (("sight", False, SIGHT), ("touch", False, TOUCH), ("touch", True, TOUCH + WRIST)):
        words = ["--task", "CubeRotation", "--task.observe", observe, "--task.policy-controls-base", str(base)]
        assert configs.parse(words).task.policy_observation_keys == keys
    env = make(2, observe="touch")
    assert env.single_observation_space.shape == (12 + 12 + 5 + 5 + 10 + 12,)
    assert env.single_critic_space.shape == (56 + 13 + 12 + 1,)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"axis": (0.0, 0.0, 0.0)}, r"task.axis = \(0.0, 0.0, 0.0\): allowed is a vector that is not zero"),
        ({"axis": "w"}, "task.axis = 'w': allowed is x, y, z or 3 values, each a number, -1000 to 1000"),
        ({"axis": (0.0, 1.0)}, r"task.axis = \(0.0, 1.0\): allowed is x, y, z or 3 values"),
        ({"observe": "touch", "policy_observation_keys": ("episode_time",)}, "task.policy_observation_keys: allowed"),
        ({"env.object.fixed": True}, "env.object.fixed = True: allowed is False"),
        ({"hand": "both"}, "env.hand = 'both': this task is for one hand"),
    ],
)
def test_mistakes_are_told(fields, message):
    with pytest.raises(ValueError, match=message):
        make(2, **fields)


def test_what_cannot_lie_in_the_hand_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("dexhand_gym.meshes.cache", lambda: tmp_path)
    monkeypatch.setattr("dexhand_gym.envs.in_hand_starts.TRIED", 8)
    with pytest.raises(ValueError, match="env.object .box, .* m, .* kg.: it lies still in the hand in none of 8 tries"):
        make(2, **{"env.object.size": 0.3})
    with pytest.raises(ValueError, match=r"^task.randomize.box_size = \(0.2, 0.3\): env.object .box, 0.2 m"):
        make(2, randomize={"box_size": (0.2, 0.3)})


def test_a_range_of_a_wrist_that_stays_is_told():
    with pytest.raises(ValueError, match="task.wrist_range = 0.2: allowed with task.policy_controls_base True"):
        make(2, wrist_range=0.2)
    make(2, wrist_range=0.2, policy_controls_base=True).close()


# --- Figures ---------------------------------------------------------------------------------------------------------


class Counting(BaseTask):
    """Tells at the end how long an episode was."""

    quantities = {**BaseTask.quantities, "steps": lambda m, cfg: m["episode_step"].float()}
    figures = ("steps",)


class Still:
    @staticmethod
    def act_deterministic(obs):
        return torch.zeros(len(obs), 18)

    @staticmethod
    def to_env(action):
        return action


def test_figures_are_told_where_episodes_end():
    cfg = Config(task=Counting.config(episode_length=7), env=EnvConfig(num_envs=3, backend="mujoco"))
    env = Counting(cfg)
    env.reset(seed=0)
    for step in range(1, 8):
        *_, info = env.step(torch.zeros(3, 18))
        assert info["episode"]["steps"].tolist() == [step] * 3
    assert info["_episode"].all()
    assert env.statistics()["figure/steps"] == 7.0
    result = evaluate(env, Still, 6)
    assert (result["steps_mean"], result["steps_std"], result["figures"]) == (7.0, 0.0, ["steps"])
    assert [*result_table(result).columns[0].cells][-1] == "steps"
    result["steps_mean"], result["steps_std"] = 0.00412, 12.3456
    assert [[*column.cells][-1] for column in result_table(result).columns] == ["steps", "0.00412", "+- 12.35"]


def test_the_figure_of_an_episode_that_blew_up_is_0():
    class Faulty(Counting):
        quantities = {
            **BaseTask.quantities,
            "steps": lambda m, cfg: (
                m["episode_step"] / m["faultless"] if "faultless" in m else m["episode_step"].float()
            ),
        }

    env = Faulty(Config(task=Counting.config(episode_length=7), env=EnvConfig(num_envs=3, backend="mujoco")))
    env.raw["faultless"] = torch.ones(3)
    env.reset(seed=0)
    env.raw["faultless"][1] = 0.0
    *_, info = env.step(torch.zeros(3, 18))
    assert info["endings"]["nonfinite"].tolist() == [False, True, False]
    assert info["episode"]["steps"].tolist() == [1.0, 0.0, 1.0]
    assert env.statistics()["figure/steps"] == 0.0


def test_a_figure_that_is_not_there_is_told():
    class Wrong(BaseTask):
        figures = ("stepz",)

    with pytest.raises(ValueError, match="Wrong.figures: unknown name 'stepz'"):
        Wrong(Config(task=Wrong.config(), env=EnvConfig(num_envs=2, backend="none")))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("--task.axis y", "its policy has learned task.axis x, not y"),
        ("--task.max-finger-velocity 4", "its policy has learned task.max_finger_velocity 5.0, not 4.0"),
        ("--task.axis x --task.max-speed 4 --task.randomize.box-mass 0.1 0.2 --task.episode-length 20", ""),
    ],
)
@pytest.mark.parametrize("test", [["--test"], []])
def test_a_policy_of_another_task_is_told(said, told, test, caplog):
    configs.parse(["--task", "CubeRotation", *test, "--checkpoint", "pretrained:v0", *said.split()])
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [message.partition("config.yaml: ")[2] for message in warnings] == ([told] if told else [])


@pytest.mark.parametrize("sizes", [None, (0.04, 0.06)])
def test_a_start_is_one_graph_for_the_compiler(sizes):
    """And with it a start is the same as without."""
    env = make(8, randomize={"box_size": sizes})
    share, jitter = env.uniform(0.0, 1.0, 1), env.uniform(-0.01, 0.01, env.hand.num_actions)
    plain = env._lying(share, jitter)
    compiled = torch.compile(env._lying, dynamic=False, fullgraph=True, backend="aot_eager")(share, jitter)
    assert plain.keys() == compiled.keys() and all(torch.equal(plain[name], compiled[name]) for name in plain)
    assert "_lying" in env.fusible
