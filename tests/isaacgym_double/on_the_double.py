"""What test_isaacgym.py runs where isaacgym is the stand-in: our engine beyond the contract, and the stand-in's strictness."""

import re
import sys
from pathlib import Path

import gymnasium
import isaacgym
import numpy as np
import pytest
import torch
from isaacgym import gymapi, gymtorch

import dexhand_gym
from dexhand_gym.hands import find_hand
from dexhand_gym.hands.dexhand021 import DEXHAND021_RIGHT as HAND
from dexhand_gym.object_sets import load_set, volume
from dexhand_gym.objects import AnyOf, Capsule, Cylinder, Ellipsoid, Sphere
from dexhand_gym.resting import resting_poses
from dexhand_gym.sim import PHYSICS, Box, PhysxConfig, Scene, SimConfig, View, make_sim

N = 3
sys.path.append(str(Path(__file__).resolve().parent.parent))


@pytest.fixture
def sim():
    yield from simulators()


def simulators(boxes=None, view=None, **fields):
    scene = Scene(boxes=(Box(),) if boxes is None else boxes)
    simulator = make_sim(scene, N, SimConfig(**fields), 1, "isaacgym", "cpu", None, view or View())
    yield simulator
    simulator.close()


def hold(sim, steps=1):
    for _ in range(steps):
        sim.step(sim.dof_state[..., 0].clone())


def test_hands_of_others():
    """A gripper is imported as its file says; its task runs."""
    env = gymnasium.make_vec(
        "DexHand/BoxGrasping-v0", num_envs=N, hand="hands_of_others:GRIPPER", backend="isaacgym", device="cpu"
    ).unwrapped
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.action_space.sample())
    assert env.sim.dof_names == ["move_x", "move_z", "close_left", "close_right"]
    palm = env.measured["hand_pose"]
    torch.testing.assert_close(palm[:, 0], env.sim.dof_state[:, 0, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(palm[:, 2], 0.25 + env.sim.dof_state[:, 1, 0], atol=1e-5, rtol=0)


def test_a_hand_that_collides_with_itself_is_refused():
    with pytest.raises(ValueError, match="^env.self_collision = True: with Isaac Gym allowed is False$"):
        make_sim(Scene(self_collision=True), N, SimConfig(), 1, "isaacgym", "cpu")
    with pytest.raises(ValueError, match="^hands left, right: with Isaac Gym allowed is one$"):
        make_sim(Scene(hand=find_hand("both")), N, SimConfig(), 1, "isaacgym", "cpu")


# --- The engine ------------------------------------------------------------------------------------------------------


def test_presets_reach_physx():
    for name, substeps, iterations, pairs in (
        ("default", 8, 16, 512),
        ("fast", 4, 8, 256),
        ("cones", 8, 16, 512),
        ("accurate", 64, 32, 512),
    ):
        params = next(simulators(**vars(PHYSICS[name]))).sim.params
        assert (params.dt, params.substeps) == (0.02, substeps)
        assert params.physx.num_position_iterations == iterations
        assert params.physx.max_gpu_contact_pairs == pairs * N
        assert not params.use_gpu_pipeline
        assert params.physx.contact_collection == gymapi.CC_LAST_SUBSTEP


def test_settings_for_small_parts_reach_physx():
    physx = PhysxConfig(
        friction_offset_threshold=0.01, friction_correlation_distance=0.00625, always_use_articulations=True
    )
    params = next(simulators(physx=physx)).sim.params.physx
    assert (params.friction_offset_threshold, params.friction_correlation_distance) == (0.01, 0.00625)
    assert params.always_use_articulations
    params = next(simulators()).sim.params.physx  # as Isaac Gym has them
    assert vars_of(params, "friction") == vars_of(gymapi.PhysXParams(), "friction")
    assert not params.always_use_articulations


def vars_of(struct, prefix):
    return {name: getattr(struct, name) for name in struct.__slots__ if name.startswith(prefix)}


def test_which_gpu_draws():
    for view, device, drawing in ((View(), 3, -1), (View(cameras=1), 3, 3), (View(cameras=1), -1, 0)):
        sim = next(simulators(view=view, physx=PhysxConfig(graphics_device=device)))
        assert sim.sim.graphics == drawing


@pytest.mark.parametrize(
    ("call", "result"),
    [
        *((name, None) for name in ("load_asset", "create_env", "create_box", "acquire_dof_state_tensor")),
        *((name, -1) for name in ("create_actor", "create_camera_sensor")),
        *((name, False) for name in ("set_actor_dof_properties", "set_actor_rigid_shape_properties", "prepare_sim")),
    ],
)
def test_what_cannot_be_built(call, result, monkeypatch):
    monkeypatch.setitem(gymapi.FAILING, call, result)
    with pytest.raises(RuntimeError, match=rf"^Isaac Gym's {call} failed; what it printed says why$"):
        next(simulators(view=View(cameras=1)))


@pytest.mark.parametrize(
    "call",
    [
        "set_dof_position_target_tensor",
        "set_dof_state_tensor_indexed",
        "set_actor_root_state_tensor_indexed",
        "refresh_dof_state_tensor",
        "refresh_actor_root_state_tensor",
        "refresh_net_contact_force_tensor",
    ],
)
def test_a_step_that_cannot_be_done(sim, call, monkeypatch):
    sim.write_state(torch.ones(N, dtype=torch.bool))
    monkeypatch.setitem(gymapi.FAILING, call, False)
    with pytest.raises(RuntimeError, match=rf"^Isaac Gym's {call} failed; what it printed says why$"):
        hold(sim)


def test_an_extension_that_cannot_be_compiled(monkeypatch):
    monkeypatch.delitem(sys.modules, "dexhand_gym.sim.isaacgym", raising=False)
    monkeypatch.setitem(sys.modules, "isaacgym.gymtorch", None)
    monkeypatch.delattr(isaacgym, "gymtorch")
    with pytest.raises(RuntimeError, match=r"^env.backend = 'isaacgym': .*gymtorch.* \(see docs/isaac-gym.md\)$"):
        next(simulators())


def test_more_frictions_than_physx_has_materials(monkeypatch):
    from dexhand_gym.sim import isaacgym_objects as engine

    few, many = np.array([[0.5], [0.7], [0.5]]), np.random.default_rng(0).uniform(0.5, 1.5, (1000, 2))
    assert engine.in_steps(few, 2) is few
    stepped = engine.in_steps(many, 11)
    assert len(np.unique(stepped)) == 11
    assert (stepped.min(), stepped.max()) == pytest.approx((many.min(), many.max()))
    assert np.abs(stepped - many).max() <= 0.05 + 1e-9
    monkeypatch.setattr(engine, "in_steps", lambda friction: np.full_like(friction, 0.75))
    sim = next(simulators())
    assert sim.memory()["box_friction"].tolist() == [[0.75]] * N
    hold(sim, 2)
    assert [env.data.contact[0].friction[0] for env in sim.envs] == pytest.approx([0.75] * N)


def test_drives_are_those_of_the_hand(sim):
    properties = sim.envs[0].actors[0].dof_properties
    names = sim.envs[0].actors[0].asset.dof_names
    for dof, name in enumerate(HAND.dof_names):
        row = properties[names.index(name)]
        assert row["driveMode"] == gymapi.DOF_MODE_POS
        damping = HAND.drives[name]["damping"] + float(HAND.joints[name]["damping"])
        wanted = [
            HAND.drives[name]["stiffness"],
            damping,
            HAND.drives[name]["effort"],
            float(HAND.joints[name]["armature"]),
        ]
        assert [row[key] for key in ("stiffness", "damping", "effort", "armature")] == pytest.approx(wanted)
        assert (row["lower"], row["upper"]) == pytest.approx((HAND.dof_lower[dof], HAND.dof_upper[dof]))


def test_each_box_has_its_own_weight_size_and_friction():
    """The hand and the ground have 1, and PhysX takes the mean."""
    size, mass, friction = np.array([0.03, 0.06, 0.08]), np.array([0.05, 0.3, 0.2]), np.array([1.0, 0.5, 2.0])
    own = {"box.size": size, "box.mass": mass, "box.friction": friction}
    sim = make_sim(Scene(objects=(Box(),)), 3, SimConfig(), 1, "isaacgym", "cpu", own)
    assert sim.root_state[:, 1, 2].numpy() == pytest.approx(size / 2)
    hold(sim, 50)
    assert sim.root_state[:, 1, 2].numpy() == pytest.approx(size / 2, abs=5e-4)
    assert sim.net_contact_force[:, -1, 2].numpy() == pytest.approx(mass * 9.81, rel=1e-3)
    assert [env.data.contact[0].friction[0] for env in sim.envs] == pytest.approx(friction.tolist())
    sim.memory()
    hold(sim)
    sim.memory()["box_mass"][0] = 1.0
    with pytest.raises(RuntimeError, match="another box_mass"):
        hold(sim)


def test_each_hand_has_its_own_drives():
    """PhysX adds a joint's damping to that of its drive."""
    names = ("stiffness", "damping", "effort", "joint_damping", "armature")
    own = {f"hand.{name}": torch.rand(2, len(HAND.dof_names)) + 0.5 for name in names}
    sim = make_sim(Scene(), 2, SimConfig(), 1, "isaacgym", "cpu", own)
    for i, env in enumerate(sim.envs):
        (hand,) = env.actors
        for dof, name in enumerate(HAND.dof_names):
            row = hand.dof_properties[hand.asset.dof_names.index(name)]
            stiffness, damping, effort, of_joint, armature = (float(x[i, dof]) for x in own.values())
            drive, joint = HAND.drives[name], HAND.joints[name]
            wanted = drive["damping"] * damping + float(joint.get("damping", 0)) * of_joint
            assert row["damping"] == pytest.approx(wanted)
            assert row["stiffness"] == pytest.approx(drive["stiffness"] * stiffness)
            assert row["effort"] == pytest.approx(drive["effort"] * effort)
            assert row["armature"] == pytest.approx(float(joint["armature"]) * armature)
    for wrong, message in (
        ({"hand.mass": torch.ones(2, len(HAND.body_names))}, "variation with Isaac Gym: unknown name 'hand.mass'"),
        ({"hand.effort": torch.ones(2, 3)}, r"variation 'hand.effort': shape \(2, 3\), allowed is a tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            make_sim(Scene(), 2, SimConfig(), 1, "isaacgym", "cpu", wrong)


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (Box(fixed=True), "object 'box' is a fixed object: with Isaac Gym allowed is one that moves"),
        (Sphere(center=(0.01, 0.0, 0.0)), "object 'sphere' has center = .*: with Isaac Gym allowed is 0 0 0"),
    ],
)
def test_objects_that_it_does_not_have(thing, message):
    with pytest.raises(ValueError, match=message):
        next(simulators(boxes=(thing,)))


def test_a_box_of_three_edges():
    sim = next(simulators(boxes=(Box(size=(0.04, 0.05, 0.08)),)))
    hold(sim, 30)
    assert sim.root_state[:, 1, 2].numpy() == pytest.approx(0.04, abs=5e-4)
    assert sim.net_contact_force[:, -1, 2].numpy() == pytest.approx(0.981, rel=1e-3)
    with pytest.raises(ValueError, match="variation box.mass: with Isaac Gym allowed are values for whole runs only"):
        sim.vary({"box.mass": torch.ones(N)})


@pytest.mark.mujoco
@pytest.mark.parametrize("name", ["train", "held_out"])
def test_all_of_a_set_lie_still_and_weigh_what_they_should(name):
    """Of each family two, as MuJoCo settled them."""
    of = load_set(name)
    of = tuple(thing for thing in of if re.search("_0[01]$", thing.name))
    which = {"object.which": torch.arange(len(of))}
    sim = make_sim(Scene(objects=(AnyOf(of=of),)), len(of), SimConfig(), 1, "isaacgym", "cpu", which)
    poses = torch.tensor(np.array([resting_poses(thing)[0] for thing in of]))
    sim.root_state[:, 1] = 0.0
    sim.root_state[:, 1, 0], sim.root_state[:, 1, 2:7] = 1.0, poses  # beside the hand
    sim.write_state(torch.ones(len(of), dtype=torch.bool))
    hold(sim, 100)
    weight = sim.net_contact_force[:, -1, 2].numpy()
    assert weight == pytest.approx([9.81 * thing.mass for thing in of], rel=0.05)
    assert sim.root_state[:, 1, 2].numpy() == pytest.approx(poses[:, 0].numpy(), abs=1.5e-3)
    turned = 1 - (sim.root_state[:, 1, 3:7] * poses[:, 1:]).sum(-1).abs()
    flat = [i for i, thing in enumerate(of) if thing.shape in ("box", "mesh")]
    assert turned[flat].max() < 1e-3
    frictions = [env.data.contact[0].friction[0] for env in sim.envs]
    assert frictions == pytest.approx([thing.friction for thing in of])


def test_shapes_fill_the_space_of_the_object_and_have_its_inertia(tmp_path):
    from dexhand_gym.sim import isaacgym_objects

    for thing in (Cylinder(size=(0.04, 0.06)), Capsule(size=(0.03, 0.08)), Ellipsoid(size=(0.03, 0.05, 0.07))):
        (solid,) = isaacgym_objects.solids_of(thing)
        assert len(solid.vertices) <= 64
        assert np.ptp(solid.vertices, axis=0) == pytest.approx(thing.extents, rel=0.03)
        assert solid.volume == pytest.approx(volume(thing), rel=0.12)
        assert solid.volume < volume(thing)
        _, moments = isaacgym_objects.weighed(thing, [solid])
        wanted = solid.moment_inertia * thing.mass / solid.volume
        assert np.diag(moments) == pytest.approx(np.diag(wanted), rel=0.1)


@pytest.mark.parametrize("objects", ["held_out:cylinder", pytest.param("held_out:prism", marks=pytest.mark.mujoco)])
def test_many_objects_each_environment_its_own(objects):
    env = gymnasium.make_vec(
        "DexHand/ObjectGrasping-v0", num_envs=10, objects=objects, backend="isaacgym", device="cpu"
    ).unwrapped
    of = load_set(objects)
    assert env.raw["box_which"].tolist() == list(range(10))
    assert env.raw["box_size"][:, 0].tolist() == pytest.approx([max(thing.extents) for thing in of[:10]])
    env.reset(seed=0)
    for _ in range(3):
        obs, *_ = env.step(env.action_space.sample())
    assert torch.isfinite(obs).all()
    env.reset(seed=1)
    assert env.raw["box_which"].tolist() == list(range(10))
    assert env.sim.memory()["box_mass"][:, 0].tolist() == pytest.approx([thing.mass for thing in of[:10]])
    assert env.object_choices[:, 0].tolist() == list(range(10))


def test_friction_that_the_mean_cannot_be():
    with pytest.raises(ValueError, match=r"friction of an object = 0.3: with Isaac Gym allowed is 0.5 or more"):
        next(simulators(boxes=(Box(friction=0.3),)))


def test_writes_add_up_until_the_next_step_and_are_one_call(sim):
    for row, height in ((0, 0.5), (2, 0.9)):
        sim.root_state[row, 1, 2] = height
        sim.dof_state[row, 0, 0] = 0.1
        sim.write_state(torch.arange(N) == row)
    hold(sim)
    assert sim.root_state[:, 1, 2].tolist() == pytest.approx([0.5, 0.025, 0.9], abs=0.01)
    assert sim.dof_state[:, 0, 0].tolist() == pytest.approx([0.1, 0.0, 0.1], abs=1e-3)


def test_a_fist_does_not_feel_itself(sim):
    closed = torch.tensor(HAND.dof_upper).repeat(N, 1)
    closed[:, :6] = 0.0
    closed[:, 2] = 0.5
    sim.dof_state[..., 0] = closed
    sim.write_state(torch.ones(N, dtype=torch.bool))
    sim.step(closed)
    assert sim.net_contact_force[:, : len(HAND.body_names)].abs().max() == 0
    assert (sim.dof_state[..., 0] - closed).abs().max() < 2e-3


def test_hands_press_on_the_ground_and_hang_without_weight(sim):
    before = sim.rigid_body_state[:, :39, :3].clone()
    hold(sim, 20)
    torch.testing.assert_close(sim.rigid_body_state[:, :39, :3], before, atol=1e-6, rtol=0)
    down = sim.dof_state[..., 0].clone()
    down[:, 2] = -0.3
    for _ in range(40):
        sim.step(down)
    assert sim.net_contact_force[:, :39, 2].sum(1).min() > 1.0
    assert sim.root_state[:, 1].isfinite().all()


def test_a_scene_without_boxes():
    sim = next(simulators(boxes=()))
    sim.dof_state[..., 0, 0] = 0.2
    sim.write_state(torch.ones(N, dtype=torch.bool))
    hold(sim, 3)
    assert sim.body_names == list(HAND.body_names)
    assert sim.dof_state[:, 0, 0].tolist() == pytest.approx([0.2] * N, abs=1e-5)


def test_the_root_of_the_hand_is_ours_alone(sim):
    sim.root_state[:, 0, :3] = 7.0
    sim.write_state(torch.ones(N, dtype=torch.bool))
    assert sim.root_state[:, 0].tolist() == [[0, 0, 0.25, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]] * N


def test_pictures_show_what_moves():
    env = gymnasium.make_vec(
        "DexHand/BoxGrasping-v0", num_envs=2, backend="isaacgym", device="cpu", render_mode="rgb_array", seed=0
    )
    env.reset()
    first = env.render()
    assert [picture.shape for picture in first] == [(480, 640, 3)] * 2
    assert first[0].max() == 255
    for _ in range(10):
        env.step(torch.ones(2, 18))
    assert not np.array_equal(first[0], env.render()[0])
    env.close()


def test_the_window_is_isaac_gyms_own():
    env = gymnasium.make_vec(
        "DexHand/BoxGrasping-v0", num_envs=2, backend="isaacgym", device="cpu", render_mode="human", seed=0
    ).unwrapped
    window, gym_window = env.viewer, env.sim.sim.viewers[0]
    env.step(torch.zeros(2, 18))
    assert gym_window.frames > 0
    assert gym_window.looked_at is env.sim.envs[0]

    def press(action):
        for value in (1.0, 0.0):  # pressed, let go
            event = gymapi.ActionEvent()
            event.action, event.value = action, value
            gym_window.typed.append(event)
        assert window.watched() and window.watched()  # polls, then takes what has been polled

    press("next")
    press("faster")
    assert (window.picked, window.speed) == (1, "2x")
    for _ in range(6):  # some are between two frames
        env.step(torch.zeros(2, 18))
    assert gym_window.looked_at is env.sim.envs[1]
    press("pause")
    assert window.paused
    frames = gym_window.frames
    for _ in range(3):  # the camera may have been moved
        window._next_frame = 0.0
        window._draw_if_due()
    assert gym_window.frames == frames + 3
    press("pause")
    press_while_it_draws = gymapi.ActionEvent()
    press_while_it_draws.action, press_while_it_draws.value = "pause", 1.0
    gym_window.typed.append(press_while_it_draws)
    assert window.watched()
    window._draw_if_due()
    assert window.watched() and window.paused
    press("pause")
    gym_window.closed = True
    assert not window.watched()
    env.step(torch.zeros(2, 18))  # goes on without being seen
    env.close()


def test_a_window_without_a_display(monkeypatch):
    monkeypatch.setattr(gymapi, "DISPLAY", False)
    with pytest.raises(RuntimeError, match="no display for Isaac Gym's window"):
        gymnasium.make_vec("DexHand/BaseTask-v0", num_envs=1, backend="isaacgym", device="cpu", render_mode="human")


def test_a_window_must_be_asked_for_at_the_start():
    env = gymnasium.make_vec("DexHand/BaseTask-v0", num_envs=1, backend="isaacgym", device="cpu").unwrapped
    with pytest.raises(RuntimeError, match=r"without a window: env.render = True"):
        env.show()
    env.close()


def test_auto_takes_isaac_gym_once_it_is_imported():
    env = gymnasium.make_vec("DexHand/BaseTask-v0", num_envs=1, device="cpu").unwrapped
    assert type(env.sim).__name__ == "IsaacGymSimulator"
    env.close()
    assert dexhand_gym.tasks()


def test_an_environment_restores_its_state():
    envs = [
        gymnasium.make_vec("DexHand/BoxGrasping-v0", num_envs=4, backend="isaacgym", device="cpu", seed=seed).unwrapped
        for seed in (0, 1)
    ]
    for env in envs:
        env.reset()
    torch.manual_seed(0)
    actions = 2 * torch.rand(12, 4, 18) - 1
    for action in actions[:6]:
        envs[0].step(action)
    envs[1].set_state(envs[0].get_state())
    for action in actions[6:]:
        (mine, *_), (other, *_) = (env.step(action) for env in envs)
        assert torch.equal(mine, other)
    for env in envs:
        env.close()


# --- The stand-in forbids --------------------------------------------------------------------------------------------


def forbidden(message):
    return pytest.raises(gymapi.GymError, match=message)


def indices(*values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype)


def test_unknown_fields_and_wrong_types():
    params = gymapi.SimParams()
    with pytest.raises(AttributeError):
        params.substep = 2
    with pytest.raises(AttributeError):
        params.physx.contact_offest = 0.1
    with pytest.raises(TypeError, match=r"SimParams.substeps = 2.5: must be int"):
        params.substeps = 2.5
    with pytest.raises(TypeError, match="must be UpAxis"):
        params.up_axis = 1


def test_the_order_of_building():
    gym = gymapi.acquire_gym()
    params = gymapi.SimParams()
    params.up_axis = gymapi.UP_AXIS_Z
    sim = gym.create_sim(0, -1, gymapi.SIM_PHYSX, params)
    for acquire in (gym.acquire_dof_state_tensor, gym.acquire_actor_root_state_tensor):
        with forbidden("prepare_sim has not been called"):
            acquire(sim)
    with forbidden("prepare_sim has not been called"):
        gym.simulate(sim)
    with forbidden("nothing to simulate"):
        gym.prepare_sim(sim)
    with forbidden("normal is not up"):
        gym.add_ground(sim, gymapi.PlaneParams())


def test_one_simulation_a_process(sim, monkeypatch):
    monkeypatch.setattr(gymapi, "MANY_SIMS", False)
    with forbidden("a second simulation in a process crashes"):
        next(simulators())


def test_a_second_simulator_on_a_gpu_is_an_error_and_no_crash(sim):
    with pytest.raises(RuntimeError, match="one simulator per process"):
        type(sim)(Scene(), N, SimConfig(), 1, "cuda:0", None, View())


def test_what_is_set_counts_from_the_next_step(sim):
    roots = sim._roots.clone()
    roots[:, 1, 2] = 2.0
    flat, boxes = roots.view(-1, 13), indices(1, 3, 5)
    sim.gym.set_actor_root_state_tensor_indexed(sim.sim, *map(gymtorch.unwrap_tensor, (flat, boxes)), 3)
    roots.zero_()  # the engine has taken it
    assert sim.envs[0].data.qpos[-5] == pytest.approx(0.025)
    sim.gym.simulate(sim.sim)
    assert sim.envs[0].data.qpos[-5] == pytest.approx(2.0, abs=1e-2)


def test_nothing_is_added_or_used_too_late(sim):
    with forbidden("nothing can be added"):
        sim.gym.create_env(sim.sim, gymapi.Vec3(), gymapi.Vec3(), 1)
    with forbidden("nothing can be added"):
        sim.gym.set_actor_dof_properties(sim.envs[0], 0, sim.envs[0].actors[0].dof_properties)
    other = next(simulators())
    other.close()
    with forbidden("destroyed"):
        hold(other)


def test_tensors_are_nan_until_refreshed_and_after_every_step(sim):
    bodies = gymtorch.wrap_tensor(sim.gym.acquire_rigid_body_state_tensor(sim.sim))
    assert bodies.shape == (N * 40, 13)
    assert bodies.isnan().all()
    sim.gym.refresh_rigid_body_state_tensor(sim.sim)
    assert not bodies.isnan().any()
    sim.gym.simulate(sim.sim)
    assert sim._dofs.isnan().all()
    with forbidden("fetch_results comes first"):
        sim.gym.refresh_dof_state_tensor(sim.sim)


def test_refreshing_twice_or_after_a_setter_is_stale(sim):
    with forbidden("refreshed since the last step"):
        sim.gym.refresh_dof_state_tensor(sim.sim)
    hold(sim)
    hands = indices(0)
    states = sim._dofs.view(-1, 2)
    sim.gym.set_dof_state_tensor_indexed(sim.sim, *map(gymtorch.unwrap_tensor, (states, hands)), 1)
    with forbidden("stale"):
        sim.gym.refresh_dof_state_tensor(sim.sim)


def test_one_call_per_setter_and_step(sim):
    roots, boxes, targets = sim._roots.view(-1, 13), indices(1), torch.zeros(N, 26)
    for _ in range(2):  # a step makes both possible again
        sim.gym.set_actor_root_state_tensor_indexed(sim.sim, *map(gymtorch.unwrap_tensor, (roots, boxes)), 1)
        with forbidden("root states is set a second time"):
            sim.gym.set_actor_root_state_tensor_indexed(sim.sim, *map(gymtorch.unwrap_tensor, (roots, boxes)), 1)
        sim.gym.set_dof_position_target_tensor(sim.sim, gymtorch.unwrap_tensor(targets))
        with forbidden("targets is set a second time"):
            sim.gym.set_dof_position_target_tensor(sim.sim, gymtorch.unwrap_tensor(targets))
        sim.gym.simulate(sim.sim)
        sim.gym.fetch_results(sim.sim, True)
        sim._refresh()


@pytest.mark.parametrize(
    ("states", "actors", "count", "message"),
    [
        (torch.zeros(N * 26, 2), indices(0, dtype=torch.int64), 1, "torch.int64, must be int32"),
        (torch.zeros(N * 26, 2, dtype=torch.float64), indices(0), 1, "torch.float64, must be float32"),
        (torch.zeros(N * 26 - 1, 2), indices(0), 1, "must be"),
        (torch.zeros(N * 26, 2), indices(0, 2), 1, "must be"),
        (torch.zeros(N * 26, 2), indices(1), 1, "actor 1 has no dofs"),
        (torch.zeros(N * 26, 2), indices(0, 0), 2, "named twice"),
        (torch.zeros(N * 26, 2), indices(6), 1, "no such actor"),
    ],
)
def test_wrong_types_sizes_and_actors(sim, states, actors, count, message):
    with forbidden(message):
        sim.gym.set_dof_state_tensor_indexed(sim.sim, *map(gymtorch.unwrap_tensor, (states, actors)), count)


def test_a_tensor_that_is_gone(sim):
    gone = gymtorch.unwrap_tensor(torch.zeros(N, 26).clone())
    with forbidden("has been freed"):
        sim.gym.set_dof_position_target_tensor(sim.sim, gone)
    with forbidden("takes what unwrap_tensor gives"):
        sim.gym.set_dof_position_target_tensor(sim.sim, torch.zeros(N, 26))
    with pytest.raises(ValueError, match="contiguous"):
        gymtorch.unwrap_tensor(torch.zeros(N, 26).T)


def test_pictures_without_graphics_or_out_of_order(sim):
    with forbidden("no graphics device"):
        sim.gym.step_graphics(sim.sim)
    seeing = next(simulators(view=View(cameras=1)))
    with forbidden("step_graphics comes first"):
        seeing.gym.render_all_camera_sensors(seeing.sim)
    with forbidden("render_all_camera_sensors comes first"):
        seeing.gym.get_camera_image(seeing.sim, seeing.envs[0], 0, gymapi.IMAGE_COLOR)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('<compiler angle="radian" coordinate="local" />', "", "angles are degrees"),
        ('limited="true"', "", "has no limited='true'"),
        ('limited="true"', 'limited="true" class="finger"', "<joint class> is not imported"),
        ("</worldbody>", "</worldbody><actuator />", "<actuator> is not imported"),
        ('<inertial mass="0.0001"', '<inertial mass="0"', "has no mass"),
    ],
)
def test_files_that_the_importer_would_misread(tmp_path, old, new, message):
    from dexhand_gym.hands.mjcf import write_plain_mjcf

    file = tmp_path / "hand.xml"
    write_plain_mjcf(HAND.links, file)
    gymapi.parse(file)
    file.write_text(file.read_text().replace(old, new, 1))
    with forbidden(message):
        gymapi.parse(file)
