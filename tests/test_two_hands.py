"""Several hands as one (hands/pair.py), quantities of each, and BimanualLift."""

import re

import gymnasium
import numpy as np
import pytest
import torch

import dexhand_gym  # noqa: F401
from dexhand_gym import tasks
from dexhand_gym.envs import make_vec_env
from dexhand_gym.envs.randomize_config import EVERYTHING
from dexhand_gym.hands import find_hand
from dexhand_gym.hands.dexhand021 import DEXHAND021_LEFT, DEXHAND021_RIGHT
from dexhand_gym.hands.pair import Placed, side_by_side

ID = "DexHand/BimanualLift-v0"
ENGINES = ["mujoco", pytest.param("mjwarp", marks=pytest.mark.slow)]
LEFT, RIGHT = slice(0, 18), slice(18, 36)
"""Of the actions."""


def base_task(hand, **fields):
    fields = {"device": "cpu", "max_linear_velocity": 0.5, **fields}
    return make_vec_env(tasks()["BaseTask"], 3, seed=1, hand=hand, **fields)


def test_a_pair_is_a_hand():
    both = find_hand("both")
    both.check()
    assert (both.num_actions, len(both.dof_names), len(both.fingers), both.num_base) == (36, 52, 10, 0)
    assert both.action_kinds == (("slide",) * 3 + ("turn",) * 3 + ("finger",) * 12) * 2
    assert [finger.name for finger in both.fingers][4:6] == ["left.little", "right.thumb"]
    left, right = both.parts
    assert both.body_names[right.bodies][0] == "right.floating_base_root"
    assert both.dof_names[left.dofs] == tuple(f"left.{name}" for name in DEXHAND021_LEFT.dof_names)
    assert both.action_lower[right.actions] == DEXHAND021_RIGHT.action_lower
    assert both.drives["left.ARTz"] == DEXHAND021_LEFT.drives["ARTz"]


@pytest.mark.parametrize("backend", ENGINES)
def test_each_hand_moves_as_it_does_alone(backend):
    """Random actions: joints, quantities and observations of both parts are those of the single hands."""
    both, alone = base_task("both", backend=backend), {s: base_task(s, backend=backend) for s in ("left", "right")}
    generator = torch.Generator().manual_seed(0)
    for env in (both, *alone.values()):
        env.reset(seed=1)
    for _ in range(30):
        actions = torch.rand(3, 36, generator=generator) * 2 - 1
        both.step(actions)
        alone["left"].step(actions[:, LEFT])
        alone["right"].step(actions[:, RIGHT])
    m = both.measured
    for side, env in alone.items():
        same = ("base_dof_pos", "active_finger_dof_pos", "all_finger_dof_vel", "targets", "reported_pads")
        for name in (*same, "fingertip_poses_hand", "contact_force_magnitude"):
            there = env.measured[name].reshape(3, -1)
            assert torch.allclose(m[f"{side}.{name}"].reshape(3, -1), there, atol=2e-4), (side, name)
        assert (env.measured["base_dof_pos"][:, :3].abs() > 0.01).any()
    assert {f"{side}.tips" for side in alone} <= set(both.observable())


def test_speeds_are_those_of_bases_and_fingers():
    env = make_vec_env(tasks()["BimanualLift"], 2, seed=1, device="cpu", backend="none")
    assert env.control_dt == pytest.approx(0.02)
    change = env.limits.max_change / env.control_dt
    expected = torch.tensor(([0.15] * 3 + [0.5] * 3 + [1.0] * 12) * 2)
    assert torch.allclose(change, expected)


@pytest.mark.parametrize("controls", [{"policy_controls_base": False}, {"policy_controls_fingers": False}])
def test_a_policy_may_move_bases_or_fingers_only(controls):
    env = base_task("both", backend="none", **controls)
    base = "policy_controls_fingers" in controls
    assert env.single_action_space.shape == (12 if base else 24,)
    env.reset(seed=1)
    before = env.measured["targets"].clone()
    env.step(torch.ones(env.action_space.shape))
    moved = (env.measured["targets"] != before).any(0)
    of_bases = torch.tensor(([True] * 6 + [False] * 12) * 2)
    assert torch.equal(moved, of_bases if base else ~of_bases)


@pytest.mark.parametrize("backend", ENGINES)
def test_two_hands_lift_what_one_cannot(backend):
    """Inwards, then up, from the middle of all starts. With the right hand alone the box is pushed away."""
    starts = (
        "init_box_position_range",
        "init_box_rotation_range",
        "init_hand_position_range",
        "init_hand_rotation_range",
    )
    env = gymnasium.make_vec(ID, num_envs=4, device="cpu", backend=backend, **dict.fromkeys(starts, 0.002))
    assert env.single_action_space.shape == (36,)

    def play(inwards):
        """How each first episode ends, and how high its box came."""
        env.reset(seed=3)
        ends, highest = [""] * 4, torch.zeros(4)
        for step in range(400):
            action = torch.zeros(4, 36)
            for part in inwards:
                action[:, part.start + 2] = -1.0 if step < 60 else 0.0
                action[:, part.start + 1] = (0.0 if step < 60 else 1.0) * (1 if part is RIGHT else -1)
            *_, info = env.step(action)
            going = torch.tensor([not end for end in ends])
            highest = torch.where(going & ~info["_episode"], highest.maximum(env.measured["rise"]), highest)
            for name, now in info["endings"].items():
                ends = [name if ended and not end else end for ended, end in zip(now.tolist(), ends)]
            if all(ends):
                return ends, highest
        raise AssertionError(ends)

    ends, highest = play([LEFT, RIGHT])
    assert ends == ["lifted_by_both"] * 4 and highest.min() > 0.2
    ends, highest = play([RIGHT])
    assert set(ends) <= {"box_pushed_away", "box_tilted"} and highest.max() < 0.1


@pytest.mark.parametrize("backend", ENGINES)
def test_boxes_of_all_sizes_start_on_the_ground(backend):
    fields = {"task.randomize.box_size": (0.1, 0.34), "backend": backend, "device": "cpu"}
    env = make_vec_env(tasks()["BimanualLift"], 16, seed=1, **fields)
    env.reset(seed=1)
    half = env.measured["box_size"][:, 0] / 2
    assert torch.allclose(env.measured["object_pos"][:, 2], half) and half.min() < 0.07 < 0.13 < half.max()
    assert (env.measured["palms"][..., 2] - half.unsqueeze(1)).abs().max() < 0.06, "beside their middles"
    assert (env.measured["palms_to_box"].mean(0) - 0.05).abs().max() < 0.02, "as far, whatever the size"
    for _ in range(20):
        env.step(torch.zeros(16, 36))
    assert env.measured["rise"].abs().max() < 2e-3, "and stay there"


def test_everything_may_be_wrong_with_both():
    """Ranges of fingers are drawn for the fingers of both hands, those of bases for both bases."""
    only = {"finger_stiffness": (0.5, 0.6), "joint_friction": (0.01, 0.02)}
    env = make_vec_env(tasks()["BimanualLift"], 2, seed=1, device="cpu", backend="mujoco", randomize=only)
    fields = env.sim._varied.fields
    fingers = torch.tensor(find_hand("both").finger_dofs)
    assert fingers.sum() == 40
    gains, friction = fields["actuator_gainprm"][:, :52, 0], fields["dof_frictionloss"][:, :52]
    assert ((gains < 2) == fingers).all()  # of fingers 3 Nm/rad, of bases 1000 N/m and 20 Nm/rad
    assert ((friction > 0) == fingers).all()
    env = make_vec_env(tasks()["BimanualLift"], 2, seed=1, device="cpu", backend="mujoco", randomize=dict(EVERYTHING))
    env.reset(seed=2)
    for _ in range(5):
        obs, *_ = env.step(torch.zeros(2, 36))
    assert torch.isfinite(obs).all()


def test_state_goes_on():
    envs = [make_vec_env(tasks()["BimanualLift"], 2, seed=seed, device="cpu", backend="mujoco") for seed in (1, 2)]
    for env in envs:
        env.reset(seed=env.num_envs)
    for _ in range(10):
        envs[0].step(torch.full((2, 36), 0.3))
    envs[1].set_state(envs[0].get_state())
    after = [env.step(torch.full((2, 36), 0.3))[0] for env in envs]
    assert torch.equal(*after)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hand": "left"}, "env.hand = 'left': this task is for 'both'"),
        ({"hand": "right"}, "env.hand = 'right': this task is for 'both'"),
        ({"task.randomize.box_size": (0.1, 0.6)}, "task.randomize.box_size = (0.1, 0.6): allowed is at most 0.5 m"),
        ({"env.object.size": 0.1}, "this task has a box of task.box_size and task.box_mass"),
    ],
)
def test_mistakes_cost_one_line(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        make_vec_env(tasks()["BimanualLift"], 1, device="cpu", **fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", ["BoxGrasping", "BlindGrasping", "ObjectGrasping"])
def test_tasks_of_one_hand_refuse_two(task):
    with pytest.raises(ValueError, match="^env.hand = 'both': this task is for one hand$"):
        make_vec_env(tasks()[task], 1, device="cpu", hand="both")


def test_a_run_says_which_hands_it_had():
    assert make_vec_env(tasks()["BimanualLift"], 1, device="cpu", backend="none").cfg.env.hand == "both"
    assert make_vec_env(tasks()["BaseTask"], 1, device="cpu", backend="none").cfg.env.hand == "right"


def test_a_place_may_be_any_numbers_and_a_turn_of_any_length():
    one = side_by_side(a=Placed(DEXHAND021_LEFT), b=Placed(DEXHAND021_RIGHT, (0, 0.5, 0), (0, 0, 0.5, 3**0.5 / 2)))
    numbers = np.array([0.0, 0.5, 0.0]), torch.tensor([0.0, 0.0, 1.0, 3**0.5], dtype=torch.float64)
    two = side_by_side(a=Placed(DEXHAND021_LEFT), b=Placed(DEXHAND021_RIGHT, *numbers))
    assert two.parts[1].palm_mount == pytest.approx(one.parts[1].palm_mount, abs=1e-12)
    assert two.links[one.body_names.index("b.floating_base_root")].pos == (0.0, 0.5, 0.0)


@pytest.mark.parametrize(
    ("hands", "message"),
    [
        ({"a": Placed(DEXHAND021_LEFT)}, "allowed are two or more"),
        ({"a": DEXHAND021_LEFT, "b": DEXHAND021_RIGHT}, "a = .*: allowed is Placed"),
        ({"a": Placed(DEXHAND021_LEFT), "b": Placed("right")}, "b: hand = 'right': allowed is one hand"),
        ({"a": Placed(DEXHAND021_LEFT), "b": Placed(DEXHAND021_RIGHT, 5)}, "b: position = 5: allowed are 3 numbers"),
        ({"a": Placed(DEXHAND021_LEFT, "abc"), "b": Placed(DEXHAND021_RIGHT)}, "a: position = 'abc': allowed are 3"),
        ({"a": Placed(DEXHAND021_LEFT, (0, 0, float("nan"))), "b": Placed(DEXHAND021_RIGHT)}, "a: position = .*nan"),
        ({"a": Placed(DEXHAND021_LEFT, quat=(0, 0, 1)), "b": Placed(DEXHAND021_RIGHT)}, "a: quat = .*: allowed are 4"),
        (
            {"a": Placed(DEXHAND021_LEFT, quat=(0, 0, 0, 0)), "b": Placed(DEXHAND021_RIGHT)},
            "allowed is one that is not",
        ),
        *(
            ({name: Placed(DEXHAND021_LEFT), "b": Placed(DEXHAND021_RIGHT)}, "allowed is a name of letters")
            for name in ("", "a b", "a.b", "world", "hands", 'a/"<', "1")
        ),
    ],
)
def test_what_does_not_make_a_pair(hands, message):
    with pytest.raises(ValueError, match=message) as caught:
        side_by_side(**hands)
    assert "\n" not in str(caught.value)


def test_a_pair_of_pairs_is_none_and_three_are_some():
    with pytest.raises(ValueError, match="left: hand = .*: allowed is one hand"):
        side_by_side(left=Placed(find_hand("both")), right=Placed(DEXHAND021_RIGHT))
    three = side_by_side(a=Placed(DEXHAND021_LEFT), b=Placed(DEXHAND021_RIGHT), c=Placed(DEXHAND021_LEFT))
    three.check()
    assert len(three.parts) == 3


def test_the_file_of_both(tmp_path, monkeypatch):
    """A damaged one is written again; where none can be written, one line says so."""
    pair = {"a": Placed(DEXHAND021_LEFT), "b": Placed(DEXHAND021_RIGHT)}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = side_by_side(**pair).file
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    assert side_by_side(**pair).file.read_bytes() == whole
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="is not written, .*: XDG_CACHE_HOME may name another folder"):
        side_by_side(**pair)
