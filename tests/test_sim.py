"""The Simulator contract (dexhand_gym/sim/base.py), held by every engine.

Where isaacgym has been imported the engine is Isaac Gym alone; test_isaacgym.py runs this file so, on a stand-in.
"""

import sys

import mujoco
import numpy as np
import pytest
import torch

from dexhand_gym.hands.dexhand021 import DEXHAND021_RIGHT as HAND
from dexhand_gym.sim import PHYSICS, Box, Scene, SimConfig, make_sim
from dexhand_gym.sim.mjcf import build_model, hand_and_ground, weights

N, DECIMATION, GRAVITY = 4, 1, 9.81
CONTROL_DT, PHYSICS_DT = SimConfig().dt * DECIMATION, SimConfig().dt / SimConfig().substeps
SCENE = Scene(hand_height=0.25, boxes=(Box(),))
BOX = -1  # the box is the last body and the last actor
DEVICE = {"mujoco": "cpu", "mjwarp": "cuda" if torch.cuda.is_available() else "cpu"}
LAG = PHYSICS_DT  # what is reported is the state before the last physics step
if "isaacgym" in sys.modules:
    DEVICE, PHYSICS_DT, LAG = {"isaacgym": "cpu"}, SimConfig().dt / SimConfig().physx.substeps, 0.0


@pytest.fixture(params=[pytest.param(x, marks=[pytest.mark.slow] * (x == "mjwarp")) for x in DEVICE])
def engine(request):
    """Name of the engine; new tensors are on its device."""
    with torch.device(DEVICE[request.param]):
        yield request.param


@pytest.fixture
def sim(engine):
    simulator = another(engine)
    yield simulator
    simulator.close()


def another(engine):
    return make_sim(SCENE, N, SimConfig(), DECIMATION, engine, DEVICE[engine])


def equal(engine, a, b):
    """To the bit; but on a GPU sums are taken in an order of their own."""
    return torch.equal(a, b) if engine != "mjwarp" else torch.allclose(a, b, atol=1e-3, rtol=1e-3)


def every_row():
    return torch.ones(N, dtype=torch.bool)


def place_box(sim, position, quat=(0, 0, 0, 1), linear=(0, 0, 0), angular=(0, 0, 0), mask=None):
    mask = every_row() if mask is None else mask
    sim.root_state[mask, 1] = torch.tensor([*position, *quat, *linear, *angular], dtype=torch.float32)
    sim.write_state(mask)


def targets(sim):
    """Drives hold where they are."""
    return sim.dof_state[..., 0].clone()


def snapshot(sim):
    return [x.clone() for x in (sim.root_state, sim.dof_state, sim.rigid_body_state, sim.net_contact_force)]


def mujoco_reference(sim, row, ctrl):
    """A plain mj_forward of the reported state: what bodies and contacts must be at that very instant."""
    model = build_model(SCENE, SimConfig())
    model.opt.iterations = model.opt.ls_iterations = 100  # it starts without the last acceleration
    data = mujoco.MjData(model)
    dofs, root = sim.dof_state[row].double().cpu().numpy(), sim.root_state[row, 1].double().cpu().numpy()
    data.qpos[:26], data.qvel[:26] = dofs[:, 0], dofs[:, 1]
    data.qpos[26:29], data.qpos[29:] = root[:3], np.roll(root[3:7], 1)
    data.qvel[26:29] = root[7:10]
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, data.qpos[29:33])
    data.qvel[29:] = rotation.reshape(3, 3).T @ root[10:]
    data.ctrl[:] = ctrl
    data.xfrc_applied[:] = weights(model, SCENE, SimConfig())
    mujoco.mj_forward(model, data)
    return model, data


def assert_bodies_match(sim, row, ctrl, force_tolerance):
    model, data = mujoco_reference(sim, row, ctrl)
    for i, name in enumerate(sim.body_names):
        state = sim.rigid_body_state[row, i].double().cpu().numpy()
        velocity = np.zeros(6)
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, i + 1, velocity, 0)
        np.testing.assert_allclose(state[:3], data.xpos[i + 1], atol=2e-6, err_msg=name)
        assert abs(state[3:7] @ np.roll(data.xquat[i + 1], -1)) > 1 - 1e-6, name
        np.testing.assert_allclose(state[7:10], velocity[3:], atol=2e-5, err_msg=name)
        np.testing.assert_allclose(state[10:], velocity[:3], atol=2e-4, err_msg=name)
    forces = np.zeros((model.nbody, 3))
    for i in range(data.ncon):
        wrench = np.zeros(6)
        mujoco.mj_contactForce(model, data, i, wrench)
        world = data.contact[i].frame.reshape(3, 3).T @ wrench[:3]  # acts on the second geom's body
        forces[model.geom_bodyid[data.contact[i].geom2]] += world
        forces[model.geom_bodyid[data.contact[i].geom1]] -= world
    found = sim.net_contact_force[row].double().cpu().numpy()
    np.testing.assert_allclose(found, forces[1:], atol=force_tolerance)
    return np.abs(forces[1:]).max()


def test_names_and_shapes(sim):
    assert tuple(sim.dof_names) == HAND.dof_names
    assert sim.body_names == [*HAND.body_names, "box"]
    assert sim.actor_names == ["hand", "box"]
    assert sim.root_state.shape == (N, 2, 13)
    assert sim.dof_state.shape == (N, 26, 2)
    assert sim.rigid_body_state.shape == (N, 40, 13)
    assert sim.net_contact_force.shape == (N, 40, 3)
    assert all(x.dtype == torch.float32 for x in snapshot(sim))


def test_resting_box_weighs_m_g(sim):
    for _ in range(50):
        sim.step(targets(sim))
    force = sim.net_contact_force[:, BOX]
    assert force[:, 2].cpu().numpy() == pytest.approx(0.1 * GRAVITY, rel=1e-3)
    assert force[:, :2].abs().max() < 1e-3
    assert sim.root_state[:, BOX, 2].cpu().numpy() == pytest.approx(0.025, abs=5e-4)


def test_free_fall_from_the_first_step_on(sim):
    """v = -g t to rounding."""
    place_box(sim, (0.5, 0.0, 3.0))
    for k in range(1, 11):
        sim.step(targets(sim))
        t = k * CONTROL_DT - LAG
        assert sim.root_state[:, BOX, 9].cpu().numpy() == pytest.approx(-GRAVITY * t, rel=1e-4)
        # Semi-implicit Euler falls g t dt / 2 further than the parabola; dt is the physics step.
        fallen = 0.5 * GRAVITY * t * (t + PHYSICS_DT)
        assert sim.root_state[:, BOX, 2].cpu().numpy() == pytest.approx(3.0 - fallen, abs=1e-4)
        assert sim.net_contact_force.abs().max() == 0


def test_spinning_box_off_the_axis(sim):
    """A box tilted, moving and turning about the world's z axis: velocities come back in world axes and rotate it."""
    tilt = (0.5**0.5, 0.0, 0.0, 0.5**0.5)  # 90 degrees about x: body axes are not the world's
    place_box(sim, (0.4, 0.3, 2.0), quat=tilt, linear=(0.2, -0.1, 0.0), angular=(0.0, 0.0, 3.0))
    assert sim.rigid_body_state[0, BOX, 7:].tolist() == pytest.approx([0.2, -0.1, 0, 0, 0, 3], abs=1e-5)
    for _ in range(5):
        sim.step(targets(sim))
    t = 5 * CONTROL_DT - LAG
    assert sim.root_state[0, BOX, :2].tolist() == pytest.approx([0.4 + 0.2 * t, 0.3 - 0.1 * t], abs=1e-4)
    assert sim.root_state[0, BOX, 10:].tolist() == pytest.approx([0, 0, 3], abs=1e-3)
    half = 3.0 * t / 2  # z turn, after the tilt
    expected = torch.tensor([np.cos(half), np.sin(half), np.sin(half), np.cos(half)]) * 0.5**0.5
    assert abs(float(sim.root_state[0, BOX, 3:7] @ expected.float())) > 1 - 1e-5


def test_written_state_is_read_back_with_fresh_kinematics(sim):
    torch.manual_seed(0)
    low, high = torch.tensor(HAND.dof_lower), torch.tensor(HAND.dof_upper)
    sim.dof_state[..., 0] = low + torch.rand(N, 26) * (high - low)
    sim.dof_state[:, 2, 0] = 0.9  # high above the box: a hand inside it would be pushed by forces of no meaning
    sim.dof_state[..., 1] = torch.randn(N, 26)
    sim.root_state[:, 1] = torch.tensor([0.3, -0.2, 0.1, 0.5, 0.5, 0.5, 0.5, 0.1, 0.2, 0.3, 1.0, 2.0, 3.0])
    root, dofs = sim.root_state.clone(), sim.dof_state.clone()
    sim.write_state(every_row())
    assert torch.equal(sim.dof_state, dofs)
    torch.testing.assert_close(sim.root_state, root, atol=1e-6, rtol=1e-5)
    for row in range(N):
        assert_bodies_match(sim, row, dofs[row, :, 0].double().cpu().numpy(), force_tolerance=1e-2)


def test_everything_describes_the_same_instant_after_a_step(sim):
    """Hand moving, fingers closing on a box that slides: poses, velocities and forces are those of the reported state."""
    torch.manual_seed(1)
    place_box(sim, (0.24, 0.0, 0.2885), linear=(0.0, 0.1, -0.3), angular=(1.0, 2.0, 3.0))
    pressed, force_tolerance = 0.0, 0.1 if LAG else 1.0  # without a lag, forces are a physics step older than the rest
    for _ in range(12):
        goal = targets(sim) + 0.1 * torch.rand(N, 26)
        sim.step(goal)
        pressed = max(pressed, assert_bodies_match(sim, 0, goal[0].double().cpu().numpy(), force_tolerance))
    assert pressed > 1.0, "nothing was touched, so forces went untested"


def test_memory_stays_where_it_is(sim):
    tensors = (sim.root_state, sim.dof_state, sim.rigid_body_state, sim.net_contact_force, sim.nonfinite)
    before = [x.data_ptr() for x in tensors]
    box_view = sim.root_state[:, BOX]
    place_box(sim, (0.5, 0.0, 1.0))
    sim.step(targets(sim))
    after = (sim.root_state, sim.dof_state, sim.rigid_body_state, sim.net_contact_force, sim.nonfinite)
    assert [x.data_ptr() for x in after] == before
    assert box_view[0, 2] < 1.0


def test_a_write_leaves_neighbours_alone(sim, engine):
    """Row 0 is rewritten in one of two equal simulators: all other rows stay equal to the bit, now and later."""
    twin = another(engine)
    torch.manual_seed(0)
    goal = 0.3 * torch.rand(N, 26)
    only_first = torch.tensor([True, False, False, False])
    for k in range(10):
        if k == 4:
            sim.root_state[1:, 1, 2] = 9.0  # edited, but not in the mask: forgotten
            place_box(sim, (0.2, 0.1, 0.4), mask=only_first)
            assert float(sim.root_state[0, 1, 2]) == pytest.approx(0.4)
        if k != 4:
            for mine, other in zip(snapshot(sim), snapshot(twin)):
                assert equal(engine, mine[1:], other[1:])
        sim.step(goal)
        twin.step(goal)
    assert not torch.equal(sim.root_state[0], twin.root_state[0])


def test_drives_hold_a_written_pose_and_reach_their_targets(sim):
    pose = torch.zeros(N, 26)
    pose[:, 2], pose[:, 6:] = 0.1, 0.2
    pose[:, HAND.dof_names.index("r_f_joint3_1")] = 0.0
    sim.dof_state[..., 0], sim.dof_state[..., 1] = pose, 0.0
    sim.write_state(every_row())
    for _ in range(10):
        sim.step(pose)
    assert (sim.dof_state[..., 0] - pose).abs().max() < 1e-3
    for _ in range(100):
        sim.step(pose + 0.05)
    reached = sim.dof_state[..., 0] - pose - 0.05
    reached[:, HAND.dof_names.index("r_f_joint3_1")] = 0.0  # fixed
    assert reached.abs().max() < 2e-3


@pytest.mark.parametrize("speed", [float("inf"), 1e12])
def test_a_state_that_blows_up_stays_in_its_row(sim, engine, speed):
    twin = another(engine)
    goal = targets(sim)
    third = torch.tensor([False, False, True, False])
    sim.dof_state[2, 7, 1] = speed
    sim.write_state(third)
    assert torch.equal(sim.nonfinite, third)
    sim.step(goal)
    twin.step(goal)
    assert torch.equal(sim.nonfinite, third)
    for mine, other in zip(snapshot(sim), snapshot(twin)):
        assert equal(engine, mine[~third], other[~third])
    sim.dof_state[2] = 0.0
    sim.root_state[2, 1] = torch.tensor([0.0, 0.0, 0.025, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    sim.write_state(third)
    assert not sim.nonfinite.any()
    sim.step(goal)
    assert not sim.nonfinite.any()
    assert all(torch.isfinite(x).all() for x in snapshot(sim))


def test_restoring_state_resumes(sim, engine):
    """Fingers close on a box; the same again from the kept state, after a write to one row, in another simulator."""
    goals = torch.zeros(32, N, 26)
    goals[..., 6:] = torch.linspace(0.0, 1.0, 32).view(-1, 1, 1)
    place_box(sim, (0.24, 0.0, 0.2885))
    for goal in goals[:16]:
        sim.step(goal)
    kept = {name: value.clone() for name, value in sim.memory().items()}

    def go_on(simulator):
        place_box(simulator, (0.2, 0.1, 0.4), mask=torch.tensor([True, False, False, False]))
        trace = snapshot(simulator)
        for goal in goals[16:]:
            simulator.step(goal)
            trace += snapshot(simulator)
        return trace

    expected = go_on(sim)
    assert max(forces.abs().max() for forces in expected[3::4]) > 0.5, "nothing was touched"
    for simulator in (sim, another(engine)):
        for name, value in simulator.memory().items():
            value.copy_(kept[name])
        assert all(equal(engine, mine, other) for mine, other in zip(go_on(simulator), expected))


@pytest.mark.parametrize("name", list(PHYSICS))
def test_physics_presets_last_equally_long(name):
    cfg = PHYSICS[name]
    cfg.validate()
    assert cfg.dt * DECIMATION == CONTROL_DT


def test_the_still_hand_has_the_names_and_shapes_of_an_engine():
    still, real = (make_sim(SCENE, N, SimConfig(), DECIMATION, backend, "cpu") for backend in ("none", "mujoco"))
    for names in ("actor_names", "dof_names", "body_names"):
        assert getattr(still, names) == getattr(real, names)
    for tensor in ("root_state", "dof_state", "rigid_body_state", "net_contact_force", "nonfinite"):
        assert getattr(still, tensor).shape == getattr(real, tensor).shape
        assert getattr(still, tensor).dtype == getattr(real, tensor).dtype
    real.close()


def test_unknown_backend_names_the_nearest():
    with pytest.raises(
        ValueError,
        match=r"env.backend = 'mujoko': allowed is auto, mujoco, mjwarp, isaacgym, none; did you mean 'mujoco'\?",
    ):
        make_sim(SCENE, 1, SimConfig(), 1, backend="mujoko")


def test_pulling_at_the_boxes_is_gravity_for_a_compensated_hand():
    """The engines leave gravity and its compensation out and pull at the boxes; a model with both moves alike."""
    light = build_model(SCENE, SimConfig())
    spec = mujoco.MjSpec.from_string(hand_and_ground(HAND))  # bodies of the hand have gravcomp="1"
    spec.body("floating_base_root").pos = (0, 0, SCENE.hand_height)
    body = spec.worldbody.add_body(name="box", pos=(0, 0, 0.025))
    body.add_freejoint()
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[0.025] * 3,
        mass=0.1,
        friction=(1, 0.005, 0.0001),
        contype=2,
        conaffinity=3,
    )
    spec.option.timestep = light.opt.timestep
    spec.option.impratio = light.opt.impratio
    heavy = spec.compile()
    assert heavy.opt.gravity[2] == -GRAVITY
    ends = []
    for model in (light, heavy):
        model.opt.iterations = model.opt.ls_iterations = 100
        data = mujoco.MjData(model)
        data.qpos[26:29] = 0.24, 0.0, 0.29  # falls onto the fingers, which close
        data.ctrl[6:] = 0.5
        if model is light:
            data.xfrc_applied[:] = weights(model, SCENE, SimConfig())
        mujoco.mj_step(model, data, 45)
        ends.append(data.qpos.copy())
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-6)
    assert ends[0][28] < 0.28
