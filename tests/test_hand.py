"""The hand's model file and `hand.py` against the published figures in data/dexhand021.json."""

import json
from pathlib import Path

import mujoco
import numpy as np
import pytest

from dexhand_gym.hands.dexhand021 import DEXHAND021_RIGHT as HAND
from dexhand_gym.sim.mjcf import hand_and_ground

FIGURES = json.loads((Path(__file__).parent / "data" / "dexhand021.json").read_text())
BODIES = FIGURES["bodies"]
JOINTS = [body["joint"] for body in BODIES if "joint" in body]
COUPLING = np.array(HAND.coupling)
STIFFNESS, DAMPING, EFFORT = (
    [HAND.drives[name][what] for name in HAND.dof_names] for what in ("stiffness", "damping", "effort")
)


@pytest.fixture
def model():
    return mujoco.MjModel.from_xml_path(str(HAND.file))


def rotation(quat_wxyz):
    w, x, y, z = np.array(quat_wxyz) / np.linalg.norm(quat_wxyz)
    u, s = np.array([x, y, z]), np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return (w * w - u @ u) * np.eye(3) + 2 * np.outer(u, u) + 2 * w * s


def kinematics(qpos):
    """Position and rotation matrix of every body, from the published figures alone."""
    frames = {None: (np.zeros(3), np.eye(3))}
    angles = dict(zip((joint["name"] for joint in JOINTS), qpos))
    for body in BODIES:
        pos, rot = frames[body["parent"]]
        pos, rot = pos + rot @ body["pos"], rot @ rotation(body["quat_wxyz"])
        if "joint" in body:
            axis, q = np.array(body["joint"]["axis"]), angles[body["joint"]["name"]]
            if body["joint"]["type"] == "slide":
                pos = pos + rot @ axis * q
            else:
                rot = rot @ rotation([np.cos(q / 2), *(np.sin(q / 2) * axis)])
        frames[body["name"]] = (pos, rot)
    return frames


def names(model, kind, count):
    return [mujoco.mj_id2name(model, kind, i) for i in range(count)]


def test_names_and_order(model):
    assert list(HAND.body_names) == [body["name"] for body in BODIES]
    assert list(HAND.dof_names) == [joint["name"] for joint in JOINTS]
    assert list(HAND.action_names[6:]) == list(FIGURES["coupling"]["finger_actions"])
    assert HAND.action_names[:6] == HAND.base == HAND.dof_names[:6]
    assert names(model, mujoco.mjtObj.mjOBJ_BODY, model.nbody) == ["world", *HAND.body_names]
    assert names(model, mujoco.mjtObj.mjOBJ_JOINT, model.njnt) == list(HAND.dof_names)
    assert names(model, mujoco.mjtObj.mjOBJ_ACTUATOR, model.nu) == list(HAND.dof_names)
    assert model.actuator_trnid[:, 0].tolist() == list(range(26))
    for group in (
        [finger.tip for finger in HAND.fingers],
        [finger.pad for finger in HAND.fingers],
        [finger.contact for finger in HAND.fingers],
    ):
        assert [name for name in HAND.body_names if name in group] == list(group) and len(group) == 5
    for finger, (tip, pad) in enumerate(
        zip([finger.tip for finger in HAND.fingers], [finger.pad for finger in HAND.fingers])
    ):
        parents = [model.body(model.body(name).parentid[0]).name for name in (tip, pad)]
        assert parents == [[finger.contact for finger in HAND.fingers][finger]] * 2
    assert HAND.palm in HAND.body_names


def test_limits(model):
    ranges = [joint["range"] for joint in JOINTS]
    np.testing.assert_array_equal(np.transpose([HAND.dof_lower, HAND.dof_upper]), ranges)
    np.testing.assert_array_equal(model.jnt_range, ranges)
    np.testing.assert_array_equal(model.actuator_ctrlrange, ranges)
    assert model.jnt_limited.all() and model.actuator_ctrllimited.all()


def test_joint_types(model):
    slide, hinge = mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE
    assert model.jnt_type.tolist() == [slide if joint["type"] == "slide" else hinge for joint in JOINTS]
    np.testing.assert_array_equal(model.jnt_axis, [joint["axis"] for joint in JOINTS])
    assert not model.jnt_pos.any()
    assert not model.dof_frictionloss.any()


def test_masses_and_inertias(model):
    """The palm, the tips and the pads carry no mass: no shape that collides or is drawn may add any."""
    massless = {"mass": 0.0, "pos": [0, 0, 0], "quat_wxyz": [1, 0, 0, 0], "diaginertia": [0, 0, 0]}
    for body in BODIES:
        figures, compiled = body.get("inertial", massless), model.body(body["name"])
        assert compiled.mass[0] == figures["mass"]
        np.testing.assert_array_equal(compiled.inertia, figures["diaginertia"])
        if figures["mass"]:
            np.testing.assert_array_equal(compiled.ipos, figures["pos"])
            np.testing.assert_allclose(rotation(compiled.iquat), rotation(figures["quat_wxyz"]), atol=1e-12)
    assert model.body_mass.sum() == pytest.approx(0.157127, abs=5e-7)


def test_collision_shapes(model):
    """Capsules as the original's; its palm, a box, is three of them that fill it."""
    palm, *expected = [body for body in BODIES if "collision" in body]
    geoms = [model.geom(i) for i in range(model.ngeom) if model.geom_contype[i]]
    assert all(geom.type[0] == mujoco.mjtGeom.mjGEOM_CAPSULE for geom in geoms)
    names = [*[palm["name"]] * 3, *(body["name"] for body in expected)]
    assert [model.body(geom.bodyid[0]).name for geom in geoms] == names
    low, high = (
        np.array([geom.pos + sign * (geom.size[0] + abs(half_axis(geom))) for geom in geoms[:3]]) for sign in (-1, 1)
    )
    box = palm["collision"]
    np.testing.assert_allclose(low.min(0), np.array(box["pos"]) - box["size"], atol=1e-12)
    np.testing.assert_allclose(high.max(0), np.array(box["pos"]) + box["size"], atol=1e-12)
    for geom, body in zip(geoms[3:], expected):
        shape = body["collision"]
        start, end = np.split(np.array(shape["fromto"]), 2)
        assert geom.size[0] == shape["size"][0]
        np.testing.assert_allclose(geom.pos, (start + end) / 2, atol=1e-12)
        np.testing.assert_allclose(abs(half_axis(geom)), abs(end - start) / 2, atol=1e-12)
        assert abs(half_axis(geom) @ (end - start)) == pytest.approx((end - start) @ (end - start) / 2)
    for geom in geoms:
        assert geom.condim[0] == 3 and geom.friction[0] == 1.0 and geom.group[0] == 3


def half_axis(geom):
    """From a capsule's middle to the centre of its end."""
    return rotation(geom.quat)[:, 2] * geom.size[1]


def test_gains(model):
    np.testing.assert_array_equal(model.actuator_gainprm[:, 0], STIFFNESS)
    np.testing.assert_array_equal(model.actuator_biasprm[:, 1], -np.array(STIFFNESS))
    np.testing.assert_array_equal(model.actuator_biasprm[:, 2], -np.array(DAMPING))
    np.testing.assert_array_equal(model.actuator_forcerange, np.transpose([-np.array(EFFORT), EFFORT]))
    assert (STIFFNESS[0], STIFFNESS[3], STIFFNESS[6]) == (1000, 20, 3)
    assert (DAMPING[0], DAMPING[3], DAMPING[6]) == (80, 1.6, 0.1)
    assert (EFFORT[0], EFFORT[3], EFFORT[6]) == (500, 100, 0.5)


@pytest.mark.parametrize(
    "action, driven",
    [
        ("ARTz", {"ARTz": 1}),
        ("th_rot", {"r_f_joint1_1": 1}),
        ("th_dip", {"r_f_joint1_3": 1, "r_f_joint1_4": 1}),
        ("ff_spr", {"r_f_joint2_1": 1, "r_f_joint4_1": 1, "r_f_joint5_1": 2}),
        ("mf_mcp", {"r_f_joint3_2": 1}),
        ("lf_dip", {"r_f_joint5_3": 1, "r_f_joint5_4": 1}),
    ],
)
def test_coupling_columns(action, driven):
    column = COUPLING[:, HAND.action_names.index(action)]
    assert {HAND.dof_names[i]: column[i] for i in np.flatnonzero(column)} == driven


def test_coupling():
    assert COUPLING.shape == (26, 18)
    for action, driven in FIGURES["coupling"]["finger_actions"].items():
        column = COUPLING[:, HAND.action_names.index(action)]
        assert {HAND.dof_names[i]: column[i] for i in np.flatnonzero(column)} == driven
    sources = (COUPLING != 0).sum(axis=1)  # every dof follows exactly one action, but for the fixed joint
    assert [HAND.dof_names[i] for i in np.flatnonzero(sources != 1)] == ["r_f_joint3_1"]
    assert not COUPLING[HAND.dof_names.index("r_f_joint3_1")].any()


def test_action_range_fills_the_dof_range():
    """The bounds map onto the joints' limits exactly: a wider range would leave them, a narrower one waste travel."""
    free = np.array(HAND.dof_names) != "r_f_joint3_1"
    np.testing.assert_allclose((COUPLING @ HAND.action_lower)[free], np.array(HAND.dof_lower)[free])
    np.testing.assert_allclose((COUPLING @ HAND.action_upper)[free], np.array(HAND.dof_upper)[free])


def test_mount(model):
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    palm = data.body(HAND.palm)
    np.testing.assert_allclose(palm.xquat[[1, 2, 3, 0]], HAND.palm_mount, atol=1e-12)
    np.testing.assert_allclose(HAND.palm_mount, [0, 0.70710678, 0, 0.70710678], atol=1e-8)
    for knuckle, tip in zip(
        ("r_f_link2_1", "r_f_link3_1", "r_f_link4_1", "r_f_link5_1"), [finger.tip for finger in HAND.fingers][1:]
    ):
        reach = data.body(tip).xpos - data.body(knuckle).xpos
        assert reach[0] > 0.99 * np.linalg.norm(reach)
    for distal, pad in zip(
        [finger.contact for finger in HAND.fingers][1:], [finger.pad for finger in HAND.fingers][1:]
    ):  # palm down: pads face the ground
        data.qpos[model.joint(distal.replace("link", "joint")).qposadr[0]] = 1.0
        before = data.body(pad).xpos[2]
        mujoco.mj_forward(model, data)
        assert data.body(pad).xpos[2] < before - 0.01


@pytest.mark.parametrize("seed", range(5))
def test_kinematics(model, seed):
    data = mujoco.MjData(model)
    data.qpos[:] = np.random.default_rng(seed).uniform(HAND.dof_lower, HAND.dof_upper)
    mujoco.mj_forward(model, data)
    for name, (pos, rot) in ((name, frame) for name, frame in kinematics(data.qpos).items() if name):
        np.testing.assert_allclose(data.body(name).xpos, pos, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(data.body(name).xmat.reshape(3, 3), rot, atol=1e-6, err_msg=name)


def test_no_self_collision():
    fist = [upper if dof in HAND.dof_names[6:] else 0 for dof, upper in zip(HAND.dof_names, HAND.dof_upper)]

    def contacts(spec):
        model = spec.compile()
        data = mujoco.MjData(model)
        data.qpos[:] = fist
        mujoco.mj_forward(model, data)
        return data.ncon

    spec = mujoco.MjSpec.from_file(str(HAND.file))
    assert contacts(spec) == 0
    for geom in spec.geoms:
        geom.conaffinity = geom.contype
    assert contacts(spec) > 0, "the fist should overlap itself, or this test shows nothing"


def test_scene_keeps_names_options_and_contacts(model):
    spec = mujoco.MjSpec.from_string(hand_and_ground(HAND))
    spec.body("floating_base_root").pos = [0, 0, 0.05]
    box = spec.worldbody.add_body(name="box", pos=[0, 0, 0.0245])
    box.add_freejoint()
    box.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.025] * 3, contype=2, conaffinity=3)
    scene = spec.compile()
    assert names(scene, mujoco.mjtObj.mjOBJ_BODY, scene.nbody) == ["world", *HAND.body_names, "box"]
    assert names(scene, mujoco.mjtObj.mjOBJ_ACTUATOR, scene.nu) == list(HAND.dof_names)
    assert scene.camera("watch") and scene.geom("ground")
    for m in (model, scene):
        opt = m.opt
        assert opt.timestep == 0.005 and opt.integrator == mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        assert opt.solver == mujoco.mjtSolver.mjSOL_NEWTON and opt.cone == mujoco.mjtCone.mjCONE_PYRAMIDAL
        assert opt.jacobian == mujoco.mjtJacobian.mjJAC_DENSE
        assert opt.disableflags == mujoco.mjtDisableBit.mjDSBL_AUTORESET
    data = mujoco.MjData(scene)
    data.qpos[0] = -0.11  # the palm comes down on the box, the fingers on the ground
    data.qpos[2] = -0.03
    data.qpos[7:10] = 0.5
    data.qpos[[11, 15, 19, 23]] = 0.3
    mujoco.mj_forward(scene, data)
    bodies = {frozenset(scene.body(scene.geom_bodyid[g]).name for g in pair) for pair in data.contact.geom}
    assert {frozenset(("world", "box")), frozenset((HAND.palm, "box"))} <= bodies
    assert any("world" in pair and pair & {finger.contact for finger in HAND.fingers} for pair in bodies)


def test_visuals_are_free_of_physics(model):
    visual = model.geom_group == 2
    assert visual.any() and (visual | (model.geom_contype == 1)).all()
    assert not model.geom_contype[visual].any() and not model.geom_conaffinity.any()


def test_hand_is_weightless(model):
    """Gravity compensation is exact: without any drive force the hand hovers."""
    data = mujoco.MjData(model)
    data.qpos[:] = data.ctrl[:] = np.random.default_rng(0).uniform(HAND.dof_lower, HAND.dof_upper)
    start = data.qpos.copy()
    mujoco.mj_step(model, data, 100)
    np.testing.assert_allclose(data.qpos, start, atol=1e-9)
    model.body_gravcomp[:] = 0
    mujoco.mj_step(model, data, 100)
    assert abs(data.qpos - start).max() > 1e-3


@pytest.mark.parametrize("timestep", [0.005, 0.01])
@pytest.mark.parametrize("step", [0.02, 0.3, 1.0])
def test_drives_are_calm(model, timestep, step):
    """A step of every finger's target ends at the target without overshoot, even at the drives' force limit."""
    model.opt.timestep = timestep
    data = mujoco.MjData(model)
    fingers = np.array([dof in HAND.dof_names[6:] and dof != "r_f_joint3_1" for dof in HAND.dof_names])
    data.ctrl[fingers] = np.minimum(step, np.array(HAND.dof_upper)[fingers])
    path = []
    for _ in range(round(0.5 / timestep)):
        mujoco.mj_step(model, data)
        path.append(data.qpos[fingers])
    assert (np.array(path) - data.ctrl[fingers]).max() < 1e-3
    np.testing.assert_allclose(data.qpos, data.ctrl, atol=1e-3)
    assert abs(data.qvel).max() < 0.05
