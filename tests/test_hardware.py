"""Quantities in what the real hand reports (envs/hardware.py), on numbers worked by hand and in an engine, and the preset
`task.observe = "hardware"` from every place that can say it."""

import dataclasses
import math
from types import SimpleNamespace

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
import yaml
from hands_of_others import CLAW, GRIPPER

import configs
import train_ppo
from dexhand_gym import rotations
from dexhand_gym.envs.box_grasping import BoxGrasping, BoxGraspingConfig
from dexhand_gym.envs.hardware import HARDWARE, HARDWARE_QUANTITIES
from dexhand_gym.envs.quantities import HAND_QUANTITIES, Measured
from dexhand_gym.hands import Finger
from dexhand_gym.hands.dexhand021 import DEXHAND021_LEFT as LEFT
from dexhand_gym.hands.dexhand021 import DEXHAND021_RIGHT as RIGHT
from examples.scripted_grasp import scripted_env

HANDS = pytest.mark.parametrize("hand", [RIGHT, LEFT, GRIPPER, CLAW], ids=["right", "left", "gripper", "claw"])


def pressed(force, hand=RIGHT, turn=(0.0, 0.0, 0.0, 1.0), threshold=0.1):
    """What every fingertip reports while the world exerts `force` on it: into the skin, towards the tip, to the right,
    N. The pads stand anyhow, and with the hand they are turned by the quaternion `turn`."""
    torch.manual_seed(0)
    fingers = len(hand.fingers)
    quats = torch.nn.functional.normalize(torch.randn(1, fingers, 4), dim=-1)
    quats = rotations.multiply(torch.tensor(turn).expand_as(quats), quats)
    normal, forward = (torch.tensor([getattr(f, name) for f in hand.fingers]) for name in ("normal", "forward"))
    inside = force[0] * -normal + force[1] * forward + force[2] * torch.linalg.cross(forward, normal)
    bodies, forces = torch.zeros(1, len(hand.body_names), 13), torch.zeros(1, len(hand.body_names), 3)
    for i, finger in enumerate(hand.fingers):
        bodies[:, hand.body_names.index(finger.pad), 3:7] = quats[:, i]
        forces[:, hand.body_names.index(finger.contact)] = rotations.rotate(quats[:, i], inside[i : i + 1])
    cfg = SimpleNamespace(hand=hand, task=SimpleNamespace(contact_binary_threshold=threshold))
    m = Measured({"bodies": bodies, "body_forces": forces}, {**HAND_QUANTITIES, **HARDWARE_QUANTITIES}, cfg)
    names = ("normal_force", "tangential_force", "tangential_direction", "contact")
    return {name: m[f"fingertip_{name}"][0] for name in names}


def check(found, normal, tangential, direction, contact=1.0):
    for name, expected in zip(found, (normal, tangential, direction, contact)):
        fingers = len(found[name])
        wanted = torch.tensor(expected).expand(fingers, *[2] * (name == "tangential_direction"))
        torch.testing.assert_close(found[name], wanted, atol=1e-5, rtol=0, msg=f"{name}: {found[name]}")


# --- Fingertips, by hand ---------------------------------------------------------------------------------------------


@HANDS
def test_a_force_along_the_normal_is_a_normal_force(hand):
    check(pressed((3.0, 0.0, 0.0), hand), 3.0, 0.0, [0.0, 0.0])


@HANDS
def test_a_force_inclined_towards_the_tip_has_direction_zero(hand):
    """45 degrees: 2 N into the skin, 2 N towards the tip; an angle of 0 has cosine 1 and sine 0."""
    check(pressed((2.0, 2.0, 0.0), hand), 2.0, 2.0, [1.0, 0.0])


def test_the_direction_grows_clockwise_for_who_looks_at_the_pad():
    """To the right 90 degrees, away from the tip 180, to the left 270."""
    check(pressed((1.0, 0.0, 4.0)), 1.0, 4.0, [0.0, 1.0])
    check(pressed((1.0, -4.0, 0.0)), 1.0, 4.0, [-1.0, 0.0])
    check(pressed((1.0, 0.0, -4.0)), 1.0, 4.0, [0.0, -1.0])
    check(pressed((1.0, 3.0, -4.0)), 1.0, 5.0, [0.6, -0.8])


def test_what_pulls_the_skin_off_is_not_felt():
    check(pressed((-3.0, 0.0, 0.0)), 0.0, 0.0, [0.0, 0.0], contact=0.0)


def test_next_to_no_force_has_no_direction():
    check(pressed((0.05, 0.0, 0.06)), 0.05, 0.06, [0.0, 0.0], contact=0.0)
    check(pressed((0.05, 0.0, 0.06), threshold=0.0), 0.05, 0.06, [0.0, 1.0])
    check(pressed((0.0, 0.0, 0.0), threshold=0.0), 0.0, 0.0, [0.0, 0.0], contact=0.0)


@HANDS
def test_a_turn_of_the_whole_hand_changes_nothing(hand):
    before, after = (pressed((1.0, 2.0, 3.0), hand, turn) for turn in ((0.0, 0.0, 0.0, 1.0), (0.5, -0.5, 0.5, 0.5)))
    for name in before:
        torch.testing.assert_close(before[name], after[name], atol=1e-5, rtol=0)


# --- The pad's frame, from the model ---------------------------------------------------------------------------------


@HANDS
def test_the_axes_of_the_pads_are_those_of_the_model(hand):
    """`normal` points from the middle of the last link's shape to the pad, `forward` from the pad to the tip."""
    model = mujoco.MjModel.from_xml_path(str(hand.file))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    for finger in hand.fingers:
        pad, tip = data.body(finger.pad), data.body(finger.tip)
        to_world = pad.xmat.reshape(3, 3)
        (geom,) = (
            i
            for i in range(model.ngeom)
            if model.geom_contype[i] and model.geom_bodyid[i] == model.body(finger.contact).id
        )
        axis, half = data.geom_xmat[geom].reshape(3, 3)[:, 2], model.geom_size[geom][1 if len(hand.fingers) > 2 else 2]
        middle = data.geom_xpos[geom] + np.clip((pad.xpos - data.geom_xpos[geom]) @ axis, -half, half) * axis
        out = (pad.xpos - middle) / np.linalg.norm(pad.xpos - middle)
        assert to_world @ finger.normal @ out > math.cos(math.radians(30)), finger.name
        ahead = tip.xpos - pad.xpos
        if ahead.any():  # else pad and tip are one body
            assert to_world @ finger.forward @ ahead > math.cos(math.radians(25)) * np.linalg.norm(ahead), finger.name


@pytest.mark.parametrize("hand", [RIGHT, LEFT], ids=["right", "left"])
def test_pads_face_the_palm(hand):
    """The four fingers flex towards where their pads look."""
    model = mujoco.MjModel.from_xml_path(str(hand.file))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    out_of_palm = data.body(hand.palm).xmat.reshape(3, 3)[:, 0]
    for finger in hand.fingers[1:]:
        assert data.body(finger.pad).xmat.reshape(3, 3) @ finger.normal @ out_of_palm > 0.85


def test_axes_that_are_none_are_named():
    for axes, message in (
        (((0.0, 2.0, 0.0), (1.0, 0.0, 0.0)), r"finger 'left': normal = \(0.0, 2.0, 0.0\): allowed are three numbers"),
        (((0.0, 1.0, 0.0), (0.0, 1.0, 0.0)), "finger 'left': forward = .*: allowed is one at a right angle"),
    ):
        first = Finger("left", "left_tip", "left_tip", "left", *axes)
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(GRIPPER, fingers=(first, GRIPPER.fingers[1])).check()


# --- Pads from reported angles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hand", [RIGHT, LEFT, CLAW], ids=["right", "left", "claw"])
def test_pads_follow_from_the_reported_angles(hand):
    """Against MuJoCo's kinematics, the joints of each action in their ratio and the hand anywhere."""
    random = np.random.default_rng(0)
    targets = random.uniform(hand.action_lower, hand.action_upper)
    dofs = np.array(hand.coupling) @ targets
    model = mujoco.MjModel.from_xml_path(str(hand.file))
    data = mujoco.MjData(model)
    data.qpos[:] = dofs
    mujoco.mj_forward(model, data)
    palm = data.body(hand.palm)
    pads = np.array([palm.xmat.reshape(3, 3).T @ (data.body(f.pad).xpos - palm.xpos) for f in hand.fingers])
    m = Measured(
        {"dof_pos": torch.tensor(dofs, dtype=torch.float32).expand(2, -1)},
        {**HAND_QUANTITIES, **HARDWARE_QUANTITIES},
        SimpleNamespace(hand=hand),
    )
    for row in range(2):
        np.testing.assert_allclose(m["reported_pads"][row], pads, atol=1e-6)
    assert m["reported_pad_distances"][0, 0] == pytest.approx(np.linalg.norm(pads[0] - pads[1]), abs=1e-6)
    assert m["reported_pad_distances"].shape[1] == len(pads) * (len(pads) - 1) // 2


def test_of_a_joint_that_moves_twice_as_far_the_hand_reports_the_other():
    """ff_spr turns the little finger twice as far as index and ring finger; 0.2 rad are reported, 0.4 are meant."""
    dofs = torch.zeros(1, 26)
    place = [RIGHT.dof_names.index(f"r_f_joint{i}_1") for i in (2, 4, 5)]
    dofs[0, place] = torch.tensor([0.2, 0.0, 0.0])  # the two others do not report
    m = Measured({"dof_pos": dofs}, {**HAND_QUANTITIES, **HARDWARE_QUANTITIES}, SimpleNamespace(hand=RIGHT))
    meant = dofs.clone()
    meant[0, place] = torch.tensor([0.2, 0.2, 0.4])
    whole = Measured({"dof_pos": meant}, {**HAND_QUANTITIES, **HARDWARE_QUANTITIES}, SimpleNamespace(hand=RIGHT))
    torch.testing.assert_close(m["reported_pads"], whole["reported_pads"])


# --- In an engine ----------------------------------------------------------------------------------------------------


def test_a_held_box_presses_on_the_pads_that_hold_it():
    """Scripted grasp, held still in the air: thumb against the others, with 0.98 N of weight hanging on friction."""
    env = scripted_env(8, seed=0, device="cpu").unwrapped
    env.reset(seed=0)
    for _ in range(155):  # closed at 2.4 s, raised from 3.2 s
        env.step(torch.zeros(8, 0))
    m = env.measured
    assert (m["finger_box_contact"].sum(1) >= 2).all()
    normal, tangential = m["fingertip_normal_force"], m["fingertip_tangential_force"]
    assert (normal[:, 0] > 1).all() and (normal[:, 1:].sum(1) > 1).all(), normal
    assert (normal.sum(1) > 3).all() and (normal.sum(1) < 60).all()
    sizes = (normal.square() + tangential.square()).sqrt()
    held = normal > 0.1
    torch.testing.assert_close(sizes[held], m["contact_force_magnitude"][held], atol=1e-3, rtol=1e-3)
    length = m["fingertip_tangential_direction"].norm(dim=-1)
    torch.testing.assert_close(length, (tangential > 0.1).float())


def test_a_hand_that_presses_on_the_ground_feels_it_in_the_fingers_that_do():
    """Palm down, the pads of index and middle finger meet the ground: it presses on them, upwards."""
    env = gymnasium.make_vec(
        "DexHand/BaseTask-v0", num_envs=1, control_mode="position", max_linear_velocity=0.2, device="cpu"
    ).unwrapped
    goal = torch.zeros(18)
    goal[[10, 11, 12, 13]] = torch.tensor([0.5, 0.25, 0.5, 0.25])  # ff_mcp, ff_dip, mf_mcp, mf_dip
    goal[2] = -0.19
    lower, upper = env.limits.lower, env.limits.upper
    env.reset(seed=0)
    for _ in range(100):
        env.step(((2 * goal - lower - upper) / (upper - lower)).unsqueeze(0))
    m = env.measured
    normal, force = m["fingertip_normal_force"][0, 1:3], m["finger_forces"][0, 1:3]
    assert (normal > 0.5).all() and (force[:, 2] >= normal).all() and (force[:, 2] < 3).all(), force
    assert not m["fingertip_contact"][0, [0, 3, 4]].any()


# --- The preset ------------------------------------------------------------------------------------------------------

SMALL = "--num-envs 4 --env.backend none --train.horizon-length 4 --train.units 8 --max-iterations 1"
SMALL += " --train.num-minibatches 1 --train.test-episodes 1 --render False"


@pytest.mark.parametrize("task", ["BoxGrasping", "BlindGrasping"])
def test_the_preset_is_what_the_hand_reports(task):
    env = gymnasium.make_vec(f"DexHand/{task}-v0", num_envs=3, backend="none", **{"task.observe": "hardware"}).unwrapped
    assert env.task.policy_observation_keys == HARDWARE
    assert env.single_observation_space.shape == (6 + 6 + 12 + 12 + 5 + 5 + 10 + 5 + 18 + 15 + 10,)
    assert env.task.critic_observation_keys == BoxGraspingConfig().critic_observation_keys
    assert not any("vel" in name or "world" in name for name in HARDWARE)


def test_the_preset_reads_nothing_that_no_hand_reports():
    """Velocities and the places of simulated bodies change nothing; the orientations of the pads only turn the forces, of
    which there are none here."""
    env = gymnasium.make_vec("DexHand/BoxGrasping-v0", num_envs=2, backend="none", observe="hardware").unwrapped
    before = env._instruments.observe(env.measured)[:, :104].clone()
    env.raw["dof_vel"].uniform_(-1, 1)
    env.raw["bodies"].uniform_(-1, 1)
    env.raw["box"].uniform_(-1, 1)
    assert torch.equal(env._instruments.observe(env.measured)[:, :104], before)


@pytest.mark.slow
def test_it_can_be_said_in_every_place(tmp_path):
    (tmp_path / "hardware.yaml").write_text(
        yaml.safe_dump({"task_name": "BlindGrasping", "task": {"observe": "hardware"}})
    )
    for argv in (
        ["--task", "BoxGrasping", "--task.observe", "hardware"],
        ["task=BlindGrasping", "task.observe=hardware"],
        ["--config", str(tmp_path / "hardware.yaml")],
    ):
        cfg = configs.parse(argv)
        assert (cfg.task.observe, cfg.task.policy_observation_keys) == ("hardware", HARDWARE)
    assert (
        configs.parse(["--task", "BoxGrasping"]).task.policy_observation_keys
        == BoxGraspingConfig().policy_observation_keys
    )
    with pytest.raises(ValueError, match="task.observe: unknown name 'hardwear'; did you mean 'hardware'"):
        configs.parse(["--task", "BoxGrasping", "--task.observe", "hardwear"])


@pytest.mark.slow
def test_a_run_keeps_it_and_is_tested_and_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train_ppo.main(f"--task BoxGrasping --task.observe hardware {SMALL}".split()) == 0
    kept = yaml.safe_load((tmp_path / "runs/latest_train/config.yaml").read_text())["task"]
    assert (kept["observe"], tuple(kept["policy_observation_keys"])) == ("hardware", HARDWARE)
    again = ["--test", "--checkpoint", "latest_train"]
    assert configs.parse(again).task == configs.parse(["--config", "runs/latest_train/config.yaml"]).task
    assert train_ppo.main([*again, *["--env.backend", "none", "--train.test-episodes", "1", "--render", "False"]]) == 0
    assert train_ppo.main(f"--checkpoint latest_train {SMALL} --max-iterations 2".split()) == 0
    left = [*again, *["--env.backend", "none", "--train.test-episodes", "1", "--render", "False", "--env.hand", "left"]]
    assert train_ppo.main(left) == 0


def test_keys_of_ones_own_next_to_it_are_an_error():
    own = ("base_dof_pos", "fingertip_normal_force")
    with pytest.raises(
        ValueError, match=r"^task.policy_observation_keys = \('base_dof_pos', .*\): allowed are none next to task"
    ):
        gymnasium.make_vec("DexHand/BoxGrasping-v0", num_envs=1, observe="hardware", policy_observation_keys=own)
    with pytest.raises(ValueError, match="allowed are none next to task.observe = 'hardware'$"):
        configs.parse(["--task", "BoxGrasping", "--task.observe", "hardware", "--task.policy-observation-keys", *own])
    env = gymnasium.make_vec("DexHand/BoxGrasping-v0", num_envs=1, backend="none", policy_observation_keys=own)
    assert env.unwrapped.single_observation_space.shape == (11,)


def test_keys_of_hardware_without_it_are_an_error():
    """Such as the config.yaml of a run with it, and `--task.observe simulation` on the command line."""
    task = BoxGraspingConfig(policy_observation_keys=HARDWARE)
    with pytest.raises(
        ValueError, match="task.observe = 'simulation': allowed with policy_observation_keys of hardware is"
    ):
        BoxGrasping(configs.Config(task=task))
