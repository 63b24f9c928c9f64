"""Hands as values: what follows from a file and a table, the left hand, and hands of others."""

import dataclasses
import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from hands_of_others import CLAW, GRIPPER

import configs
from dexhand_gym import rotations
from dexhand_gym.envs.base_task import BaseTask
from dexhand_gym.envs.config import Config, EnvConfig
from dexhand_gym.hands import find_hand, hands, mirror, register_hand
from dexhand_gym.hands.dexhand021 import DEXHAND021_LEFT as LEFT
from dexhand_gym.hands.dexhand021 import DEXHAND021_RIGHT as RIGHT
from dexhand_gym.hands.placing import base_targets, palm_surface, resting_on
from dexhand_gym.objects import Box, Capsule
from dexhand_gym.sim import Scene, SimConfig, make_sim
from dexhand_gym.sim.kinematics import Kinematics


def poses(hand, q):
    """Positions [B, 3] and rotation matrices [B, 3, 3] of its bodies."""
    model = mujoco.MjModel.from_xml_path(str(hand.file))
    data = mujoco.MjData(model)
    data.qpos[:] = q
    mujoco.mj_forward(model, data)
    return data.xpos[1:].copy(), data.xmat[1:].reshape(-1, 3, 3).copy(), model, data


def test_the_left_hand_is_the_mirror_image_of_the_right():
    rng = np.random.default_rng(0)
    limits = np.array([RIGHT.dof_lower, RIGHT.dof_upper])
    flip = np.diag([1.0, -1.0, 1.0])
    for _ in range(20):
        q = rng.uniform(*limits)
        place, turn, model, data = poses(RIGHT, q)
        image, image_turn, left_model, left_data = poses(LEFT, q * mirror.dof_signs(RIGHT))
        np.testing.assert_allclose(image, place @ flip, atol=1e-9)
        for i, name in enumerate(RIGHT.body_names):
            axis = 2 if "_f_link" in name else 1  # the one that is turned round
            own = np.diag([-1.0 if k == axis else 1.0 for k in range(3)])
            np.testing.assert_allclose(image_turn[i], flip @ turn[i] @ own, atol=1e-9)
        np.testing.assert_allclose(left_data.subtree_com[0], data.subtree_com[0] @ flip, atol=1e-9)
        full, left_full = np.zeros((model.nv, model.nv)), np.zeros((model.nv, model.nv))
        mujoco.mj_fullM(model, data, full), mujoco.mj_fullM(left_model, left_data, left_full)
        signs = np.array(mirror.dof_signs(RIGHT))
        np.testing.assert_allclose(left_full, full * np.outer(signs, signs), atol=1e-9)


def test_the_left_hand_has_the_figures_of_its_maker():
    """The published left hand, of which the palm's own collision box is the right one's."""
    file = Path(__file__).parent / "data" / "dexhand021_left.json"
    for body in json.loads(file.read_text())["bodies"]:
        link = LEFT.links[LEFT.body_names.index(body["name"])]
        np.testing.assert_allclose(link.pos, body["pos"], atol=3e-6)
        quat = np.array(body["quat_wxyz"])
        assert abs(np.dot(link.quat, quat / np.linalg.norm(quat))) > 1 - 1e-9
        if "joint" in body:
            assert link.joint["name"] == body["joint"]["name"]
            np.testing.assert_allclose(
                [float(x) for x in link.joint["range"].split()], body["joint"]["range"], atol=2e-3
            )


def test_the_file_of_the_left_hand_is_made_from_the_right_ones():
    assert LEFT.file.read_bytes() == mirror.mirrored_mjcf(RIGHT, mirror.LEFT_NAMES)


def test_twice_mirrored_is_the_hand_itself(tmp_path):
    names = {"l_f_": "r_f_", "left_hand": "right_hand"}
    (tmp_path / "again.xml").write_bytes(mirror.mirrored_mjcf(LEFT, names))
    before = mujoco.MjModel.from_xml_path(str(RIGHT.file))
    after = mujoco.MjModel.from_xml_path(str(tmp_path / "again.xml"))
    for field in ("body_pos", "body_mass", "body_inertia", "jnt_axis", "jnt_range", "geom_pos", "geom_size"):
        np.testing.assert_allclose(getattr(after, field), getattr(before, field), atol=1e-9)


def test_what_mirrors_into_what():
    assert mirror.dof_signs(RIGHT)[:7] == (1, -1, 1, -1, 1, -1, 1)
    assert find_hand(RIGHT.mirror_image) is LEFT and find_hand(LEFT.mirror_image) is RIGHT
    np.testing.assert_allclose(np.array(LEFT.pre_grasp[:6]) * mirror.dof_signs(RIGHT)[:6], RIGHT.pre_grasp[:6])
    assert LEFT.pre_grasp[6:] == RIGHT.pre_grasp[6:]
    assert LEFT.palm_mount == pytest.approx(RIGHT.palm_mount)


# --- Hands of others -------------------------------------------------------------------------------------------------

WARP = [pytest.param("mjwarp", marks=pytest.mark.slow)] if find_spec("mujoco_warp") else []
ENGINES = ["none", "mujoco", *WARP]


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize(
    ("hand", "actions", "fingers", "dofs"),
    [("GRIPPER", 3, 2, 4), ("CLAW", 3, 3, 6)],
)
def test_the_tasks_run_on_a_hand_of_ones_own(backend, hand, actions, fingers, dofs):
    for task in ("BaseTask", "BoxGrasping", "BlindGrasping"):
        env = gymnasium.make_vec(
            f"DexHand/{task}-v0", num_envs=3, hand=f"hands_of_others:{hand}", backend=backend, device="cpu"
        ).unwrapped
        env.reset(seed=0)
        assert env.single_action_space.shape == (actions,)
        for _ in range(4):
            env.step(env.action_space.sample())
        m = env.observations()
        assert m["contact_binary"].shape == (3, fingers) and m["fingertip_poses_hand"].shape == (3, 7 * fingers)
        assert m["dof_pos"].shape == (3, dofs) and env.hand.num_base == len(env.hand.base)
        env.close()


def test_a_gripper_grasps_and_lifts():
    """By a script: down, close, up."""
    env = gymnasium.make_vec(
        "DexHand/BoxGrasping-v0",
        num_envs=2,
        hand="hands_of_others:GRIPPER",
        backend="mujoco",
        size=0.04,
        init_box_position_range=0.0,
        init_hand_position_range=0.0,
        policy_controls_base=False,
        policy_controls_fingers=False,
        max_box_distance=2.0,
        min_finger_height=-0.05,
    ).unwrapped
    time = {"now": 0.0}

    def script(m):
        down, close, up = (min(max((time["now"] - at) / 0.8, 0.0), 1.0) for at in (0.0, 0.9, 1.8))
        targets = m["start_hand"].clone()
        targets[:, 1] += -0.1 * down + 0.25 * up
        targets[:, 2] = 0.045 * close
        time["now"] += env.control_dt
        return targets

    env.pre_action_rule = script
    start = env.sample_start()
    start["box"][:, 3:] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    env.sample_start = lambda: start
    env.reset(seed=0)
    ended = []
    for _ in range(300):
        *_, info = env.step(torch.zeros(2, 0))
        ended += [name for name, hit in info["endings"].items() if hit.any()]
    assert ended[:1] == ["grasp_lift_success"], ended


def test_coupling_and_limits_of_a_table():
    assert CLAW.coupling == ((1, 0, 0), (0.5, 0, 0), (0, 1, 0), (0, 0.5, 0), (0, 0, 1), (0, 0, 0.5))
    assert CLAW.action_upper == (1.5, 1.5, 1.5) and CLAW.action_lower == (0, 0, 0)
    assert (CLAW.active_dofs, CLAW.tips, CLAW.lift) == (slice(0, 5, 2), slice(3, 12, 4), -1)
    assert (GRIPPER.num_slides, GRIPPER.lift, GRIPPER.palm_mount) == (2, 1, (1, 0, 0, 0))
    assert GRIPPER.drives["close_left"] == {"stiffness": 300, "damping": 10, "effort": 20}


def test_a_hand_by_name():
    register_hand("gripper_of_a_test", "hands_of_others:GRIPPER")
    assert find_hand("gripper_of_a_test") is GRIPPER
    assert hands()["right"].endswith("DEXHAND021_RIGHT")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rigth", "env.hand: unknown name 'rigth'; did you mean 'right'"),
        ("hands_of_others:CLAWS", "env.hand = 'hands_of_others:CLAWS': module 'hands_of_others' has no attribute"),
        ("no_such_module:HAND", "env.hand = 'no_such_module:HAND': No module named"),
        ("hands_of_others:DATA", "allowed is a dexhand_gym.hands.Hand"),
    ],
)
def test_a_hand_that_is_none(name, message):
    with pytest.raises(ValueError, match=message):
        gymnasium.make_vec("DexHand/BaseTask-v0", num_envs=1, hand=name, backend="none")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('angle="radian"', 'angle="degree"', 'allowed is <compiler angle="radian"/>'),
        ("<mujoco", "<mujocco", "not XML"),
        ('name="palm"', 'name="plam"', "body: unknown name 'palm'; did you mean 'plam'"),
        ('joint="close_left"', 'joint="close_right"', "allowed is one for each joint, in their order"),
        ('<body name="left" pos', '<body name="left" euler="0 0 1" pos', "allowed is its orientation as quat"),
        ('range="0 0.045" ', "", "has no range"),
        *(
            ('range="0 0.045"', f'range="{text}"', f"range = '{text}', allowed are two numbers, the lower one first")
            for text in ("1", "0.045 0", "a b", "0 nan", "-inf 1", "0 1 2", "0 0")
        ),
        *(
            (old, new, "allowed is pos of three numbers and quat of four that are not all zero")
            for old, new in (
                ('quat="0 1 0 0"', 'quat="0 0 0 0"'),
                ('quat="0 1 0 0"', 'quat="0 1 0"'),
                ('pos="0 0.05 0.01"', 'pos="0 0.05"'),
                ('pos="0 0.05 0.01"', 'pos="0 nan 0"'),
            )
        ),
        ('name="move_x" type="slide"', 'name="move_x" type="ball"', "allowed is a slide or a hinge"),
        ('name="move_x"', 'name="move_x" pos="0 0 1"', "allowed is a joint at its origin"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(tmp_path, old, new, message):
    text = GRIPPER.file.read_text()
    assert old in text
    file = tmp_path / "other.xml"
    file.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=f"^[^\n]*{re.escape(message)}[^\n]*$"):
        dataclasses.replace(GRIPPER, file=file).check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingers": GRIPPER.fingers[:1]}, "allowed are a thumb and one more at least"),
        ({"base": ("move_z",)}, "allowed are the first joints of the file"),
        ({"actions": {"close": {"close_left": -1.0}}}, "allowed are joints with scales above 0"),
        ({"actions": {"a": {"close_left": 1.0}, "b": {"close_left": 1.0}}}, "has two actions"),
        ({"actions": {"a": {"close_lft": 1.0}}}, "did you mean 'close_left'"),
        ({"fingers": "ab"}, "fingers = 'ab': allowed is a tuple of Finger"),
        ({"file": None}, "file = None: allowed is a path"),
        ({"actions": ["close"]}, "allowed is action -> {joint: scale}"),
        ({"actions": {}}, "allowed is action -> {joint: scale}"),
        ({"actions": {"close": {"close_left": float("nan")}}}, "allowed is action -> {joint: scale}"),
        ({"pre_grasp": ("a", 0.0, 0.0)}, "pre_grasp = .*: allowed are numbers"),
        ({"pre_grasp": (0.0,)}, "pre_grasp has 1 numbers: allowed are 3"),
        ({"pre_grasp": (0.0, 0.0, 99.0)}, "pre_grasp has 99.0 for close: allowed is 0 to 0.045"),
        ({"actions": {"close": {"close_left": True}}}, "allowed is action -> {joint: scale}"),
        ({"mirror_image": 5}, "mirror_image = 5: allowed is the name of a hand"),
        ({"palm_point": (0.0, 1.0)}, "palm_point = .*: allowed are three numbers"),
        ({"palm_point": 5}, "palm_point = 5: allowed is a tuple"),
        ({"fingers": GRIPPER.fingers[:1] * 2}, "finger 'left' is there twice"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(GRIPPER, **changes).check()


def test_a_strangers_run_imports_no_hand(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("env:\n  hand: hands_of_others:CLAW\n")
    with pytest.raises(ValueError, match="is code; to import it say --env.hand hands_of_others:CLAW"):
        configs.parse(["--config", str(tmp_path / "config.yaml")])


# --- Where a hand stands ---------------------------------------------------------------------------------------------

PALM_UP = (0.7071067811865476, 0.0, 0.0, 0.7071067811865476)  # turned about x


@pytest.mark.parametrize("hand", [RIGHT, LEFT])
@pytest.mark.parametrize("quat", [(0.0, 0.0, 0.0, 1.0), PALM_UP, (0.5, 0.5, 0.5, 0.5)])
def test_the_palm_gets_where_it_is_wanted(hand, quat):
    """In MuJoCo, and with the kinematics that Isaac Gym's engine has."""
    scene = Scene(hand=hand, hand_quat=quat)
    torch.manual_seed(0)
    turn = torch.nn.functional.normalize(torch.randn(5, 4), dim=1)
    palm = torch.cat((torch.rand(5, 3) - 0.5, turn), 1)
    targets = base_targets(scene, palm)
    sim = make_sim(scene, 5, SimConfig(), 1, "mujoco", "cpu")
    sim.dof_state[:, :6, 0] = targets
    sim.write_state(torch.ones(5, dtype=torch.bool))
    found = sim.rigid_body_state[:, hand.palm_index, :7]
    torch.testing.assert_close(found[:, :3], palm[:, :3], atol=1e-5, rtol=0)
    assert (found[:, 3:] * palm[:, 3:]).sum(1).abs().tolist() == pytest.approx([1.0] * 5, abs=1e-5)
    plain = Kinematics(scene.hand_links, torch.device("cpu"))(sim.dof_state)
    torch.testing.assert_close(plain[:, :, :3], sim.rigid_body_state[:, :, :3], atol=1e-5, rtol=0)


def test_a_turned_hand_is_not_turned_to_its_policy():
    """hand_pose_arr_aligned is what the base does, wherever the hand stands."""

    class Up(BaseTask):
        def scene(self):
            return Scene(0.3, hand_quat=PALM_UP)

    env = Up(Config(task=Up.config(), env=EnvConfig(num_envs=2, backend="mujoco")))
    env.reset(seed=0)
    aligned = env.observations()["hand_pose_arr_aligned"]
    assert aligned[0].tolist() == pytest.approx([0, 0, 0.3, 0, 0, 0, 1], abs=1e-5)
    palm = env.observations()["hand_pose"][0]
    out_of_palm = rotations.rotate(palm[3:], torch.tensor([1.0, 0.0, 0.0]))
    assert out_of_palm.tolist() == pytest.approx([0, 1, 0], abs=1e-5), "palm down, turned by 90 degrees about x"


def test_a_base_that_cannot_be_placed_is_told():
    with pytest.raises(ValueError, match="allowed is one of three slides and three hinges"):
        base_targets(Scene(hand=GRIPPER), torch.zeros(1, 7))


def test_a_hand_of_the_current_folder_is_found(tmp_path, monkeypatch):
    """As `python train_ppo.py --env.hand my_hand:GRIPPER`, and its file may be a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hand_of_this_folder.py").write_text(
        f"from dataclasses import replace\nfrom hands_of_others import GRIPPER\nMINE = replace(GRIPPER, file={str(GRIPPER.file)!r})\n"
    )
    monkeypatch.setattr("sys.path", [path for path in sys.path if path not in ("", str(tmp_path))])
    cfg = configs.parse(["--task", "BoxGrasping", "--env.hand", "hand_of_this_folder:MINE"])
    assert cfg.hand.file == GRIPPER.file


def test_an_object_rests_on_a_surface():
    """A palm that looks up carries a capsule on its side, 2 cm above it; one that looks along y carries it in front."""
    palm = torch.tensor(
        [[0.1, 0.2, 0.3, 0.0, -(0.5**0.5), 0.0, 0.5**0.5], [0.0, 0.0, 0.0, 0.0, 0.0, 0.5**0.5, 0.5**0.5]]
    )
    assert rotations.rotate(palm[:, 3:], torch.tensor([1.0, 0, 0]).expand(2, 3)).round().tolist() == [
        [0, 0, 1],
        [0, 1, 0],
    ]
    found = resting_on(palm, Capsule(size=(0.04, 0.1)), away=(1.0, 0.0, 0.0))
    torch.testing.assert_close(found[:, :3], torch.tensor([[0.1, 0.2, 0.32], [0.0, 0.02, 0.0]]), atol=1e-6, rtol=0)
    along = rotations.rotate(found[:, 3:], torch.tensor([0.0, 0.0, 1.0]).expand(2, 3))
    assert along[0, 2].abs() < 1e-6 and along[1, 1].abs() < 1e-6, "on its side"
    ground = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    assert resting_on(ground, Box(size=(0.02, 0.04, 0.06)))[0].tolist() == pytest.approx([0, 0, 0.03, 0, 0, 0, 1])
    below = resting_on(ground, Box(), away=(0.0, 0.0, -1.0))[0]
    assert below[:3].tolist() == pytest.approx([0, 0, -0.025])


@pytest.mark.parametrize("hand", [RIGHT, LEFT])
@pytest.mark.parametrize("thing", [Box(size=0.04), Box(size=0.06), Box(size=(0.05, 0.04, 0.02))])
def test_what_is_laid_on_an_open_palm_stays_there(hand, thing):
    scene = Scene(0.3, objects=(thing,), hand=hand, hand_quat=(1.0, 0.0, 0.0, 0.0))  # palm up
    sim = make_sim(scene, 2, SimConfig(), 1, "mujoco", "cpu")
    palm = sim.rigid_body_state[:, hand.palm_index, :7]
    start = resting_on(palm_surface(hand, palm), thing, away=(1.0, 0.0, 0.0))
    assert (start[:, 2] > 0.3).all()
    sim.root_state[:, 1, :7] = start
    sim.write_state(torch.ones(2, dtype=torch.bool))
    hold = sim.dof_state[..., 0].clone()
    for _ in range(50):
        sim.step(hold)
    torch.testing.assert_close(sim.root_state[:, 1, :3], start[:, :3], atol=3e-3, rtol=0)
