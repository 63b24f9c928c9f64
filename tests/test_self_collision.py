"""env.self_collision: fingers that meet stop each other, what belongs together does not, and off is what it was."""

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from hands_of_others import CLAW, GRIPPER

import configs
import dexhand_gym  # noqa: F401
from dexhand_gym.hands.dexhand021 import DEXHAND021_LEFT as LEFT
from dexhand_gym.hands.dexhand021 import DEXHAND021_RIGHT as RIGHT
from dexhand_gym.sim import Scene, SimConfig
from dexhand_gym.sim.mjcf import build_model, never_colliding

MEETING = {"th_rot": 0.61, "th_mcp": 1.03, "th_dip": 0.3, "ff_mcp": 1.11, "ff_dip": 0.75}
"""rad; there the last links of thumb and index would stand in the same place."""


def make(num_envs=1, **fields):
    """The hand alone, whose actions are targets of the fingers."""
    more = {"control_mode": "position", "policy_controls_base": False, "device": "cpu", **fields}
    return gymnasium.make_vec("DexHand/BaseTask-v0", num_envs=num_envs, **more).unwrapped


def close_thumb_and_index(**fields):
    """Closes them within two seconds, holds them for one. -> the environment, and how deep the last links of the two
    were in each other, m, at every step."""
    env = make(**fields)
    env.reset(seed=0)
    model = build_model(Scene(hand_height=env.cfg.env.hand_height), SimConfig())
    data = mujoco.MjData(model)
    thumb, index = (int(model.body(env.hand.fingers[i].contact).geomadr[0]) for i in (0, 1))
    lower, upper = env.limits.lower[6:], env.limits.upper[6:]
    goal = torch.tensor([MEETING.get(name, 0.0) for name in env.hand.action_names[6:]])
    depths = []
    for step in range(150):
        targets = goal * min(1.0, step / 100)
        env.step(((2 * targets - lower - upper) / (upper - lower)).unsqueeze(0))
        data.qpos[:] = env.raw["dof_pos"][0].numpy()
        mujoco.mj_kinematics(model, data)
        depths.append(-mujoco.mj_geomDistance(model, data, thumb, index, 1.0, None))
    return env, np.array(depths)


def test_off_fingers_pass_through_each_other():
    env, depths = close_thumb_and_index(backend="mujoco")
    assert depths.max() > 0.015
    assert env.measured["contact_force_magnitude"].max() == 0


@pytest.mark.parametrize("backend", ["mujoco", pytest.param("mjwarp", marks=pytest.mark.slow)])
def test_on_fingers_stop_each_other(backend):
    env, depths = close_thumb_and_index(backend=backend, self_collision=True)
    assert depths.max() < 0.002 and depths[-1] > 0  # on each other to the end
    thumb, index = env.measured["finger_forces"][0, :2]
    torch.testing.assert_close(thumb, -index, atol=1e-3, rtol=0)  # action and reaction
    assert 2 < thumb.norm() < 20  # 0.5 Nm at 5 to 12 cm


@pytest.mark.slow
def test_both_engines_agree():
    ends = [close_thumb_and_index(backend=name, self_collision=True)[0].raw["dof_pos"] for name in ("mujoco", "mjwarp")]
    torch.testing.assert_close(*ends, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_warp_has_room_for_the_contacts_of_a_hand_on_itself():
    """Anywhere within the limits of the actions."""
    torch.manual_seed(0)
    env = make(64, backend="mjwarp", self_collision=True, hand="hands_of_others:CLAW")
    env.reset(seed=0)
    for _ in range(10):
        goal = torch.rand(env.action_space.shape) * 2 - 1
        for _ in range(10):
            env.step(goal)
    assert env.statistics()["overflow"] == 0


def test_off_nothing_of_the_model_is_another():
    model, on = (build_model(Scene(self_collision=value), SimConfig()) for value in (False, True))
    assert model.nexclude == 0 and not model.geom_conaffinity[model.geom_contype == 1].any()
    assert on.nexclude == 10 and (on.geom_conaffinity[on.geom_contype == 1] == 1).all()
    assert (
        gymnasium.make_vec("DexHand/BaseTask-v0", num_envs=1, backend="none").unwrapped.cfg.env.self_collision is False
    )


@pytest.mark.parametrize("hand", [RIGHT, LEFT], ids=["right", "left"])
def test_of_this_hand_only_neighbours_do_not_collide(hand):
    """Links 2, 3 and 4 of each finger; links 1 have no colliding shape."""
    link = hand.fingers[0].contact[:-3]  # r_f_link or l_f_link
    assert set(never_colliding(hand)) == {(f"{link}{i}_{k}", f"{link}{i}_{k + 1}") for i in range(1, 6) for k in (2, 3)}


def test_neighbours_of_other_hands_do_not_collide_either():
    """Even those of a palm that stands still in the world, where MuJoCo lets neighbours collide."""
    assert set(never_colliding(GRIPPER)) == {("palm", "left"), ("palm", "right")}
    assert set(never_colliding(CLAW)) == {
        (a, b) for i in range(3) for a, b in (("palm", f"finger{i}"), (f"finger{i}", f"end{i}"))
    }


def test_shapes_that_overlap_in_the_open_hand_or_nearly_always_do_not_collide(tmp_path):
    """The ends of two fingers made so thick that they touch while the fingers are straight."""
    import dataclasses

    text = CLAW.file.read_text()
    thick = text.replace('size="0.008" fromto="0 0 0 0 0 0.04"', 'size="0.04" fromto="0 0 0 0 0 0.04"')
    (tmp_path / "claw.xml").write_text(thick)
    hand = dataclasses.replace(CLAW, file=tmp_path / "claw.xml")
    pairs = set(never_colliding(hand)) - set(never_colliding(CLAW))
    assert {("end0", "end1"), ("end0", "end2"), ("end1", "end2")} <= pairs


@pytest.mark.slow
def test_it_goes_along_with_a_policy(tmp_path, monkeypatch):
    """As the rest of the physics does; the command line may say otherwise."""
    import train_ppo

    monkeypatch.chdir(tmp_path)
    small = "--task BoxGrasping --num-envs 4 --env.backend none --train.horizon-length 4 --train.units 8"
    small += " --max-iterations 1 --train.num-minibatches 1 --train.test-episodes 1 --env.self-collision"
    assert train_ppo.main(small.split()) == 0
    test = ["--test", "--checkpoint", "latest_train"]
    assert configs.parse(test).env.self_collision
    assert not configs.parse([*test, "--env.self-collision", "False"]).env.self_collision
    assert not configs.parse(["--test", "--checkpoint", "pretrained"]).env.self_collision
