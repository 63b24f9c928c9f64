"""CubeReorientation: goals, how they follow each other, and their ghosts."""

from __future__ import annotations

import dataclasses
import math

import gymnasium
import numpy as np
import pytest
import torch

from dexhand_gym import rotations
from dexhand_gym.envs.config import Config, EnvConfig
from dexhand_gym.envs.cube_reorientation import (
    CubeReorientation,
    CubeReorientationConfig,
    any_orientation,
    difference,
    uniform,
)
from dexhand_gym.envs.in_hand import SIGHT, TOUCH, rotation_vector
from dexhand_gym.envs.quantities import Measured
from dexhand_gym.envs.randomize_config import RandomizeConfig
from dexhand_gym.objects import Box


def make(num_envs=3, seed=0, **fields):
    fields = {"device": "cpu", "backend": "mujoco", **fields}
    env = gymnasium.make_vec("DexHand/CubeReorientation-v0", num_envs=num_envs, **fields).unwrapped
    env.reset(seed=seed)
    return env


def angle(a, b):
    return torch.linalg.vector_norm(rotation_vector(difference(a, b)), dim=1)


# --- Goals -----------------------------------------------------------------------------------------------------------


def test_numbers_are_as_good_as_random_and_always_the_same():
    m = {"start_hand": torch.randn(4000, 18, generator=torch.Generator().manual_seed(0))}
    first, again, later = (uniform(m, torch.full((4000,), count)) for count in (0.0, 0.0, 1.0))
    assert torch.equal(first, again)
    for numbers in (first, later):
        assert numbers.min() >= 0 and numbers.max() < 1
        assert numbers.mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.02)
        assert numbers.std(0).tolist() == pytest.approx([12**-0.5] * 3, abs=0.01)
    every = torch.cat((first, later), 1)
    assert (torch.corrcoef(every.T) - torch.eye(6)).abs().max() < 0.06, "of each other they say nothing"
    moved = {"start_hand": m["start_hand"] + 1e-6 * (torch.arange(18) == 15)}
    assert (uniform(moved, torch.zeros(4000)) != first).all(1).float().mean() > 0.95, "another start, another goal"


def test_any_orientation_is_uniform():
    """The mean angle of a uniform random rotation is pi / 2 + 2 / pi, and each axis points anywhere."""
    turns = any_orientation(torch.rand(20000, 3, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(torch.linalg.vector_norm(turns, dim=1), torch.ones(20000))
    still = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(20000, 4)
    assert angle(turns, still).mean().item() == pytest.approx(math.pi / 2 + 2 / math.pi, abs=0.02)
    for axis in torch.eye(3):
        pointed = rotations.rotate(turns, axis.expand(20000, 3))
        assert pointed.mean(0).abs().max() < 0.02
        assert pointed.square().mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.01)


def measured(step=10, left=0.5, goals_reached=2.0, just_reached=0.0, age=1.0, **fields):
    """A cube that is `left` rad about z away from its goal."""
    cfg = Config(task=CubeReorientationConfig(**fields))
    wanted = torch.tensor([[0.5, -0.5, 0.5, 0.5]])
    now = rotations.multiply(torch.tensor([[0.0, 0.0, -math.sin(left / 2), math.cos(left / 2)]]), wanted)
    raw = {
        "object_in_palm": torch.cat((torch.zeros(1, 3), now, torch.zeros(1, 6)), 1),
        "start_hand": torch.full((1, 18), 0.25),
        "episode_step": torch.tensor([step]),
        "last_actions": torch.full((1, 12), 0.5),
        "prev_goal": wanted,
        "prev_first_place": torch.tensor([[0.0, 0.025, 0.0]]),
        "prev_reached": torch.tensor([just_reached]),
        "prev_goals_reached": torch.tensor([goals_reached]),
        "prev_goal_age": torch.tensor([age]),
        "prev_goal_angle": torch.tensor([0.6]),
    }
    return Measured(raw, CubeReorientation.quantities, cfg), cfg


def test_what_is_left_to_turn():
    m, cfg = measured(left=0.5)
    assert m["goal"].tolist() == m["prev_goal"].tolist()
    assert m["goal_angle"].item() == pytest.approx(0.5, abs=1e-5)
    assert m["goal_difference"][0].tolist() == pytest.approx([0, 0, math.sin(0.25), math.cos(0.25)], abs=1e-6)
    terms = {name: value.item() for name, value in CubeReorientation.rewards(m, cfg).items()}
    assert terms == {
        "rotation": pytest.approx(1 / 0.6, abs=1e-4),
        "progress": pytest.approx(0.1 / 0.02, abs=1e-3),
        "reached": 0.0,
        "drift": pytest.approx(0.5),
        "action": pytest.approx(3.0),
    }
    assert (m["goals_reached"].item(), m["goal_age"].item()) == (2.0, pytest.approx(1.02))
    far, _ = measured(left=4.0)
    assert far["goal_angle"].item() == pytest.approx(2 * math.pi - 4.0, abs=1e-4), "the short way"


def test_a_goal_counts_once_and_the_next_step_wants_another():
    m, cfg = measured(left=0.3)
    assert (m["reached"].item(), m["goals_reached"].item()) == (1.0, 3.0)
    assert not CubeReorientation.successes(m, cfg)["all_reached"]
    assert CubeReorientation.successes(*measured(left=0.3, max_goals=3))["all_reached"]
    m, _ = measured(left=0.3, just_reached=1.0, goals_reached=3.0)
    assert m["goal"].tolist() != m["prev_goal"].tolist()
    assert m["goal_age"].item() == 0.0
    assert m["goals_reached"].item() == 3.0 + m["reached"].item()
    assert CubeReorientation.rewards(m, cfg)["progress"].item() == 0.0, "the next goal is another, not farther away"
    turn = any_orientation(uniform(m, torch.tensor([3.0])))
    assert angle(m["goal"], rotations.multiply(turn, m["prev_goal"])).item() < 1e-3
    assert measured(left=0.3, success_tolerance=0.1)[0]["reached"].item() == 0.0


def test_an_episode_begins_with_nothing_reached():
    m, _ = measured(step=0, left=0.3, just_reached=1.0, goals_reached=7.0, age=5.0)
    assert [m[name].item() for name in ("reached", "goals_reached", "goal_age")] == [0.0, 0.0, 0.0]
    turn = any_orientation(uniform(m, torch.tensor([0.0])))
    assert angle(m["goal"], rotations.multiply(turn, m["object_quat_in_palm"])).item() < 1e-3


def test_a_goal_takes_too_long_or_the_cube_falls():
    for age, away, found in ((7.97, 0.08, [False, False]), (7.99, 0.08, [False, True]), (1.0, 0.02, [True, False])):
        m, cfg = measured(age=age, max_away=away)
        assert [x.item() for x in CubeReorientation.failures(m, cfg).values()] == found


def test_families_of_goals():
    m, _ = measured(just_reached=1.0, goals="quarter")
    assert angle(m["goal"], m["prev_goal"]).item() == pytest.approx(math.pi / 2, abs=1e-4)
    own = rotation_vector(rotations.multiply(rotations.conjugate(m["prev_goal"]), m["goal"]))[0]
    assert sorted(own.abs().tolist()) == pytest.approx([0, 0, math.pi / 2], abs=1e-4), "about one of its own axes"
    m, _ = measured(just_reached=1.0, goals="yaw")
    turn = rotation_vector(rotations.multiply(m["goal"], rotations.conjugate(m["prev_goal"])))[0]
    assert turn[1:].abs().max() < 1e-6 < turn[0].abs(), "about the axis out of the palm"


@pytest.mark.parametrize("goals", ["any", "yaw"])
def test_a_curriculum_begins_with_shorter_turns(goals):
    """At width 0 the same turn by a quarter of its angle, half-way by 0.625, at width 1 all of it."""
    whole, _ = measured(just_reached=1.0, goals=goals)
    full = rotation_vector(rotations.multiply(whole["goal"], rotations.conjugate(whole["prev_goal"])))
    for width, share in ((0.0, 0.25), (0.5, 0.625), (1.0, 1.0)):
        m, _ = measured(just_reached=1.0, goals=goals)
        m["curriculum_width"] = torch.tensor(width, dtype=torch.float64)
        turn = rotation_vector(rotations.multiply(m["goal"], rotations.conjugate(m["prev_goal"])))
        torch.testing.assert_close(turn, share * full, atol=1e-3, rtol=0)


def test_a_curriculum_widens_by_the_share_of_goals_that_are_reached():
    """Three goals and then one that is missed are 3 of 4; all 50 and no other are all; nothing told yet is 0."""
    env = make(4, seed=1, randomize=RandomizeConfig(curriculum=0.5))
    assert env.mastered({"figure/goals_reached": 3.0, "success_rate": 0.0}) == 0.75
    assert env.mastered({"figure/goals_reached": 50.0, "ending/all_reached": 1.0}) == 1.0
    assert env.mastered({}) == 0.0
    near = env.measured["goal_angle"]
    assert (near <= 0.25 * math.pi + 1e-3).all()
    env.mastered = lambda statistics: 0.6
    assert env.statistics()["randomize_width"] == pytest.approx(0.02)
    env.widen()
    env.reset(seed=1)
    torch.testing.assert_close(env.measured["goal_angle"], 4 * near, atol=1e-2, rtol=0)
    env.close()


def test_quarter_turns_do_not_widen():
    with pytest.raises(ValueError, match="curriculum = 0.5: allowed is 0, for nothing is there that it would widen"):
        make(2, goals="quarter", randomize=RandomizeConfig(curriculum=0.5))


# --- The environment -------------------------------------------------------------------------------------------------


def turn_to_goal(env, rows):
    """Puts the cube where it is wanted, in these rows."""
    m = env.measured
    palm, place = m["hand_pose"], m["object"][:, :3]
    env.sim.root_state[rows, 1, :7] = torch.cat((place, rotations.multiply(palm[:, 3:], m["goal"])), 1)[rows]
    env.sim.root_state[rows, 1, 7:] = 0.0
    env.sim.write_state(torch.tensor([row in rows for row in range(env.num_envs)]))


def test_goals_are_reached_one_after_the_other():
    env = make(num_envs=3, max_away=0.5)
    still = torch.zeros(3, 12)
    for count in (1, 2, 3):
        before = env.measured["goal"].clone()
        turn_to_goal(env, [0, 2])
        env.step(still)
        assert env.measured["goals_reached"].tolist() == [count, 0, count]
        assert torch.equal(env.measured["goal"], before), "it was this one"
        assert env.statistics()["reward_raw/reached"] == pytest.approx(2 / 3)
        *_, info = env.step(still)
        assert (angle(env.measured["goal"], before) > 1e-3).tolist() == [True, False, True]
        assert env.measured["goal_age"].tolist() == pytest.approx([0.0, 0.04 * count, 0.0], abs=1e-5)
        env.statistics()
    assert info["episode"]["goals_reached"].tolist() == [3, 0, 3]
    assert not torch.equal(env.measured["goal"][0], env.measured["goal"][2]), "each has goals of its own"


def test_what_begins_elsewhere_changes_nothing_here():
    """Many environments that begin anew at all times: each goal has its time all the same, and is counted once."""
    env = make(num_envs=64, max_away=0.004, goal_time=1.0, success_tolerance=1e-4)
    lengths, dropped = [], 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        *_, info = env.step(0.25 * torch.randn(64, 12, generator=generator))
        lengths += info["episode"]["l"][info["endings"]["too_slow"]].tolist()
        dropped += int(info["endings"]["dropped"].sum())
    assert dropped > 20 and len(lengths) > 10
    assert set(lengths) == {51}


def test_quantities_are_those_of_the_newest_step():
    env = make(num_envs=4, seed=5, max_away=0.5)
    for step in range(1, 7):
        env.step(torch.full((4, 12), 0.6))
        m = env.measured
        torch.testing.assert_close(m["goal_angle"], angle(m["goal"], m["object_quat_in_palm"]))
        assert env.observations()["goal_age"][:, 0].tolist() == pytest.approx([0.02 * step] * 4, abs=1e-6)


def test_who_is_too_slow_begins_again():
    env = make(num_envs=2, goal_time=0.1)
    for _ in range(6):
        _, _, terminated, _, info = env.step(torch.zeros(2, 12))
    assert terminated.all() and info["endings"]["too_slow"].all()
    assert env.measured["goal_age"].tolist() == [0.0, 0.0]
    assert env.measured["last_count"].tolist() == [0.0, 0.0]


def test_it_goes_on_from_a_checkpoint_with_the_same_goals():
    env, other = make(seed=1, max_away=0.5), make(seed=2, max_away=0.5)
    turn_to_goal(env, [1])
    env.step(torch.zeros(3, 12))
    other.set_state(env.get_state())
    for _ in range(3):
        a, b = (x.step(torch.full((3, 12), 0.1))[0] for x in (env, other))
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    assert torch.equal(env.measured["goal"], other.measured["goal"])


def test_it_goes_on_from_a_checkpoint_that_remembered_more():
    """As those from before a task ceased to remember a quantity; what is no quantity is still refused."""
    env = make(seed=1)
    more = {f"{prev}object_quat_in_palm": torch.zeros(3, 4) for prev in ("prev_", "next_prev_")}
    other = make(seed=2)
    other.set_state({**env.get_state(), **more})
    assert torch.equal(env.measured["goal"], other.measured["goal"])
    with pytest.raises(ValueError, match="its prev_nothing is .*here absent"):
        other.set_state({**env.get_state(), "prev_nothing": torch.zeros(3, 4)})


def test_what_a_policy_sees():
    env = make()
    assert env.task.policy_observation_keys == (*SIGHT, "goal_difference")
    env = make(observe="touch")
    assert env.task.policy_observation_keys == (*TOUCH, "goal")
    assert env.single_observation_space.shape == (56 + 4,)


# --- Ghosts ----------------------------------------------------------------------------------------------------------


@pytest.mark.draws
def test_pictures_show_the_goal_above_the_hand():
    """The same scene with another goal differs there, and only there."""
    env = make(num_envs=1, render_mode="rgb_array")
    (before,) = env.render()
    with torch.inference_mode():
        other = rotations.multiply(env.raw["prev_goal"], torch.tensor([[0.48, 0.64, 0.0, 0.6]]))
        env.raw["prev_goal"].copy_(other)
        env._episode_step.fill_(1)  # else it is made anew
    (after,) = env.render()
    changed = np.argwhere(np.abs(before.astype(int) - after).max(-1) > 40)  # its shadow falls elsewhere, too
    assert len(changed) > 200
    middle = np.median(changed, axis=0)
    assert 60 < middle[0] < 240 and 200 < middle[1] < 440, "above the middle of the picture, where the hand is"


def test_a_goal_that_is_reached_as_its_time_is_up_is_reached():
    for left, ended in ((0.1, False), (0.5, True)):
        m, cfg = measured(left=left, age=8.0)
        assert CubeReorientation.failures(m, cfg)["too_slow"].item() is ended


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"goal_time": 4.0, "active_failure_criteria": ("dropped",)},
            "task.goal_time = 4.0: allowed where too_slow ends",
        ),
        ({"goal_time": 0.001}, "task.goal_time = 0.001: allowed is a number, 0.1"),
    ],
)
def test_what_would_do_nothing_is_told(fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)


@pytest.mark.draws
def test_a_marked_box_shows_how_it_has_turned():
    env = make(num_envs=1, render_mode="rgb_array")
    (before,) = env.render()
    x, y, z, w = env.sim.root_state[0, 1, 3:7].tolist()
    turned = rotations.multiply(torch.tensor([[x, y, z, w]]), torch.tensor([[0.0, 0.0, 0.5**0.5, 0.5**0.5]]))
    env.sim.root_state[0, 1, 3:7] = turned[0]  # by 90 degrees about its own axis: the same space
    (after,) = env.render()
    changed = np.abs(before.astype(int) - after).max(-1) > 60  # two pictures of the same are not quite the same
    assert changed.sum() > 500


def test_a_ghost_that_is_nowhere_is_a_mistake():
    class Lost(CubeReorientation):
        def scene(self):
            return dataclasses.replace(super().scene(), ghosts=(Box(name="nowhere"),))

    with pytest.raises(ValueError, match="scene.*ghosts: 'nowhere': allowed is the name of a quantity"):
        Lost(Config(task=Lost.config(), env=EnvConfig(num_envs=2, backend="mujoco")))


def test_a_marked_ball_is_a_mistake():
    with pytest.raises(ValueError, match="env.object.marks = True: allowed is False for a sphere"):
        make(**{"env.object.shape": "sphere", "env.object.marks": True})


@pytest.mark.slow
def test_the_page_shows_the_goal_and_each_cube_in_its_size():
    pytest.importorskip("viser")
    from dexhand_gym.watch.page import scales_of

    env = make(num_envs=2, render_mode="human", render_port=0, randomize={"box_size": (0.04, 0.06)})
    frame = env.viewer._fetch()
    ghost = len(env.sim.body_names)
    np.testing.assert_allclose(frame.poses[:, ghost], env.measured["shown_goal"].numpy(), atol=1e-6)
    scales = scales_of(frame, [ghost - 1, ghost], env.viewer._nominal, 0, 1).reshape(2, 2, 3)
    np.testing.assert_allclose(scales[:, 0], 2 * env.object_halves[:, 0] / 0.05, rtol=1e-5)
    np.testing.assert_allclose(scales[:, 1], 1.0)
    env.viewer.draw(frame)
    handles = [handle for handle, of in env.viewer._bodies if of == [ghost]]
    assert len(handles) == 7, "the cube and its six faces"
    np.testing.assert_allclose(handles[0].batched_positions, frame.poses[:, ghost, :3] + frame.places, atol=1e-5)
    env.close()
