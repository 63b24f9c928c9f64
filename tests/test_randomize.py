"""Domain randomisation: boxes that differ, noise, delay."""

import json
import subprocess
import sys
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
import yaml

import dexhand_gym  # noqa: F401
from configs import parse, to_yaml
from dexhand_gym.checker import check_vector_env
from dexhand_gym.envs.config import RandomizeConfig
from dexhand_gym.sim import Box, Object, Scene, SimConfig, make_sim
from dexhand_gym.sim.mjcf import build_model
from dexhand_gym.sim.varied import Varied
from examples.scripted_grasp import scripted_env

GRAVITY = 9.81
ALL = {
    "box_size": (0.045, 0.055),
    "box_mass": (0.05, 0.3),
    "box_friction": (0.8, 1.5),
    "action_delay": (0, 2),
    "joint_position_noise": 0.01,
    "joint_velocity_noise": 0.1,
    "body_position_noise": 0.002,
    "contact_force_noise": 0.1,
}
engines = pytest.mark.parametrize(
    ("backend", "device"),
    [
        ("mujoco", "cpu"),
        pytest.param("mjwarp", "cuda" if torch.cuda.is_available() else "cpu", marks=pytest.mark.slow),
    ],
)


def make(num_envs=8, task="BoxGrasping", randomize=None, **fields):
    fields.update({f"task.randomize.{name}": value for name, value in (randomize or {}).items()})
    fields = {"device": "cpu", "seed": 0, **fields}
    return gymnasium.make_vec(f"DexHand/{task}-v0", num_envs=num_envs, **fields).unwrapped


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


# --- Boxes -----------------------------------------------------------------------------------------------------------


@engines
def test_each_box_has_its_own_weight_size_and_friction(backend, device):
    """They rest at half their size and weigh m g. Thrown at 1 m/s they slide for v^2 / (2 mu g) = 51, 102, 170 mm,
    less half of what v moves in a physics step, in which the velocity at its end counts."""
    size, mass, friction = np.array([0.03, 0.06, 0.08]), np.array([0.05, 0.3, 0.2]), np.array([1.0, 0.5, 0.3])
    own = {"box.size": size, "box.mass": mass, "box.friction": friction}
    sim = make_sim(Scene(objects=(Box(),)), 3, SimConfig(), 1, backend, device, own)
    hold = sim.dof_state[..., 0].clone()
    for _ in range(50):
        sim.step(hold)
    assert sim.root_state[:, 1, 2].cpu().numpy() == pytest.approx(size / 2, abs=5e-4)
    assert sim.net_contact_force[:, -1, 2].cpu().numpy() == pytest.approx(mass * GRAVITY, rel=1e-3)
    sim.root_state[:, 1, 0], sim.root_state[:, 1, 7] = 0.5, 1.0
    sim.write_state(torch.ones(3, dtype=torch.bool, device=sim.device))
    for _ in range(60):
        sim.step(hold)
    slid = sim.root_state[:, 1, 0].cpu().numpy() - 0.5
    assert slid == pytest.approx(1 / (2 * friction * GRAVITY) - SimConfig().dt / SimConfig().substeps / 2, rel=0.03)
    assert sim.root_state[:, 1, 7].abs().max() < 1e-3


@pytest.mark.parametrize(
    ("shape", "size", "other"),
    [
        ("box", 0.05, 0.06),
        ("box", (0.04, 0.05, 0.08), 0.06),
        ("sphere", 0.05, 0.07),
        ("cylinder", (0.04, 0.07), 0.05),
        ("capsule", (0.04, 0.07), 0.05),
        ("ellipsoid", (0.03, 0.05, 0.07), 0.05),
    ],
)
def test_own_objects_are_what_the_compiler_makes_of_them(shape, size, other):
    """Every array of a model with another object is that of Varied, or one that no step of such a model reads."""
    first = Object(shape=shape, size=size)
    ratio = other / max(first.extents)
    larger = tuple(x * ratio for x in size) if isinstance(size, tuple) else size * ratio
    second = Object(shape=shape, size=larger, mass=0.3, friction=0.5)
    scenes = [Scene(objects=(thing,)) for thing in (first, second)]
    nominal, compiled = (build_model(scene, SimConfig(), sensors=True) for scene in scenes)
    variation = {
        "box.size": torch.tensor([other]),
        "box.mass": torch.tensor([0.3]),
        "box.friction": torch.tensor([0.5]),
    }
    variation = {name: x.double() for name, x in variation.items()}
    wrenches = np.zeros((nominal.nbody, 3))
    varied = Varied(
        *(scenes[0], SimConfig(), nominal, 1, torch.device("cpu")),
        expand=lambda name: (
            torch.tensor(wrenches if name == "weights" else getattr(nominal, name)).unsqueeze(0).clone()
        ),
    )
    varied.apply(variation)
    fields = varied.memory()
    unread = {"body_pos", "qpos0", "qpos_spring", "cam_poscom0", "light_poscom0", "dof_length", "bvh_aabb"}
    assert nominal.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_MIDPHASE, "else collisions read bvh_aabb"
    for name in dir(mujoco.MjModel):
        before, after = getattr(nominal, name), getattr(compiled, name)
        if name in fields:
            rows = fields[name].shape[1]
            np.testing.assert_allclose(fields[name][0], after[-rows:], rtol=1e-6, err_msg=name)
        elif isinstance(before, np.ndarray) and before.dtype != object and name not in unread:
            np.testing.assert_array_equal(before, after, name)


@pytest.mark.parametrize("box", [(0.05, 0.1, 1.0), (0.045, 0.2, 0.8)])
def test_own_boxes_move_as_those_of_a_scene(box):
    """To the bit, through a grasp: once as env.box, once drawn from ranges of one value."""
    size, mass, friction = box
    narrow = {
        "box_size": (size, size),
        "box_mass": (mass, mass),
        "box_friction": (friction, friction),
        "per": "environment",
    }
    scene = scripted_env(8, seed=0, size=size, mass=mass, friction=friction, device="cpu").unwrapped
    own = scripted_env(8, seed=0, device="cpu", **{f"task.randomize.{k}": v for k, v in narrow.items()}).unwrapped
    for _ in range(180):
        for env in (scene, own):
            env.step(torch.zeros(8, 0))
        assert torch.equal(own.sim.rigid_body_state, scene.sim.rigid_body_state)
    assert scene.observations()["contact_force_magnitude"].max() > 1


def test_boxes_are_drawn_uniformly_once_and_from_the_seed():
    env, again, other = (
        make(1000, randomize={"box_mass": (0.1, 0.3), "per": "environment"}, seed=seed) for seed in (0, 0, 1)
    )
    mass = env.memory()["sim.body_mass"][:, 0].clone()
    assert (mass.min() >= 0.1, mass.max() <= 0.3) == (True, True)
    assert (mass.mean().item(), mass.std().item()) == pytest.approx((0.2, 0.2 / 12**0.5), rel=0.05)
    env.reset(seed=5)
    assert torch.equal(env.memory()["sim.body_mass"][:, 0], mass)
    assert torch.equal(again.memory()["sim.body_mass"][:, 0], mass)
    assert not torch.equal(other.memory()["sim.body_mass"][:, 0], mass)
    assert "sim.body_mass" not in make().memory()


def test_the_task_knows_each_size():
    """The box starts at half its own height, and a pad 4 cm beside its centre is 4 cm - size / 2 off its surface."""
    env = make(4, randomize={"box_size": (0.03, 0.07)})
    m = env.measured
    size = m["box_size"]
    assert size.std() > 0.001
    assert torch.equal(m["start_box"][:, 2:3], size / 2)
    assert env.observations()["object_pos"][:, 2:].numpy() == pytest.approx(size.numpy() / 2, abs=1e-6)
    m["pads"] = m["pads"].clone()
    m["pads"][..., :3] = m["box"][:, None, :3] + torch.tensor([0.0, 0.0, 0.04])
    torch.testing.assert_close(m["pads_to_surface"], (0.04 - size / 2).expand(-1, 5), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_engines_agree_on_boxes_that_differ():
    """Grasps just closed on 32 boxes of all kinds, lifted for 0.4 s by both engines from the same states; the tolerances
    are those of test_mjwarp.py."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ranges = {f"task.randomize.{name}": ALL[name] for name in ("box_size", "box_mass", "box_friction")}
    env, other = (
        scripted_env(32, seed=seed, backend=backend, device=where, **ranges).unwrapped
        for seed, backend, where in ((0, "mujoco", "cpu"), (1, "mjwarp", device))
    )
    for _ in range(155):
        env.step(torch.zeros(32, 0))
    other.set_state(env.get_state())
    assert torch.equal(other.measured["box_size"].cpu(), env.measured["box_size"])
    for _ in range(20):
        env.step(torch.zeros(32, 0))
        other.sim.step(env.stages.dof_targets.to(device))
    apart = (env.sim.root_state - other.sim.root_state.cpu())[:, 1, :3].norm(dim=1)
    for share, metres in ((0.5, 1e-4), (0.9, 1e-3), (1.0, 5e-3)):
        assert apart.quantile(share) < metres
    assert (env.sim.root_state[:, 1, 2] > 0.03).float().mean() > 0.9


# --- Delay and noise -------------------------------------------------------------------------------------------------


def dof_targets(env, steps):
    """What the drives get in each step [steps, N, 26], and at the start before them."""
    env.reset(seed=1)
    torch.manual_seed(0)
    seen = [env.stages.dof_targets.clone()]
    for _ in range(steps):
        env.step(torch.rand(env.num_envs, 18) * 2 - 1)
        seen.append(env.stages.dof_targets.clone())
    return torch.stack(seen)


@pytest.mark.parametrize("control_mode", ["position", "position_delta"])
def test_a_delay_of_one_step_shifts_the_targets_by_one_step(control_mode):
    prompt = dof_targets(make(4, control_mode=control_mode), 10)
    late = dof_targets(make(4, randomize={"action_delay": (1, 1)}, control_mode=control_mode), 10)
    assert not torch.equal(prompt[1], prompt[0])
    assert torch.equal(late[0], prompt[0])
    assert torch.equal(late[1:], prompt[:-1])


def test_each_environment_has_a_delay_of_its_own():
    prompt, env = dof_targets(make(60), 10), make(60, randomize={"action_delay": (0, 2), "per": "environment"})
    late, delay = dof_targets(env, 10), env.memory()["delay_steps"]
    assert delay.bincount().min() >= 10
    for i, steps in enumerate(delay):
        assert torch.equal(late[steps:, i], prompt[: 11 - steps, i])
    assert torch.equal(env.measured["targets"], env.stages.targets)


def test_a_new_episode_forgets_what_was_under_way():
    env = make(4, randomize={"action_delay": (2, 2)}, episode_length=3)
    env.reset()
    for _ in range(3):
        env.step(torch.ones(4, 18))
    start = env.stages.dof_targets.clone()
    torch.testing.assert_close(start[:, :6], env.measured["start_hand"][:, :6])
    for _ in range(2):
        env.step(torch.ones(4, 18))
        assert torch.equal(env.stages.dof_targets, start)


def test_noise_has_its_deviation_and_reaches_the_policy_only():
    keys = (
        "base_dof_pos",
        "all_finger_dof_pos",
        "all_finger_dof_vel",
        "contact_forces",
        "hand_pose",
        "object_pos",
        "last_actions",
    )
    noise = {name: value for name, value in ALL.items() if name.endswith("noise")}
    quiet, noisy = (make(256, randomize=r, policy_observation_keys=keys) for r in ({}, noise))
    first, second = quiet.reset(seed=1)[0], noisy.reset(seed=1)[0]
    differences = [second - first]
    torch.manual_seed(0)
    for _ in range(20):
        actions = torch.rand(256, 18) * 2 - 1
        (first, *rest, _), (second, *noisy_rest, info) = quiet.step(actions), noisy.step(actions)
        assert same(rest, noisy_rest)
        assert torch.equal(info["final_obs"], second)
        differences.append(second - first)
        for name, value in quiet.observations().items():
            assert torch.equal(noisy.observations()[name], value)
    position, fingers, velocity, force, pose, box, actions = torch.stack(differences).split(
        (6, 20, 20, 15, 7, 3, 18), -1
    )
    for x, std in (
        (position, 0.01),
        (fingers, 0.01),
        (velocity, 0.1),
        (force, 0.1),
        (pose[..., :3], 0.002),
        (box, 0.002),
    ):
        assert x.std().item() == pytest.approx(std, rel=0.02)
        assert abs(x.mean().item()) < 0.03 * std
        assert abs((x[1:] * x[:-1]).mean().item()) < 0.03 * std**2, "anew at every step"
    assert not pose[..., 3:].any() and not actions.any()


def test_what_is_computed_of_noisy_numbers_is_consistent():
    """The magnitude of a finger's force, whether it touches and for how long all follow from the noisy force."""
    keys = ("contact_forces", "contact_force_magnitude", "contact_binary", "contact_duration")
    env = make(64, randomize={"contact_force_noise": 0.1}, policy_observation_keys=keys)
    for _ in range(60):
        obs = env.step(torch.full((64, 18), -0.3))[0]
    force, magnitude, touch, duration = obs.split((15, 5, 5, 5), 1)
    torch.testing.assert_close(force.view(64, 5, 3).norm(dim=-1), magnitude)
    assert torch.equal(touch, (magnitude > 0.1).float())
    assert 0.1 < touch.mean() < 0.95
    assert not duration[touch == 0].any()
    assert (duration <= env.observations()["contact_duration"]).all()


# --- All of it -------------------------------------------------------------------------------------------------------


@engines
def test_a_randomised_environment_passes_the_checker(backend, device):
    check_vector_env(make(8, randomize=ALL, backend=backend, device=device, episode_length=7), steps=20)


def test_restoring_state_resumes():
    """In an environment of another seed too, whose boxes and delays were others."""

    def go_on(env):
        trace = []
        for action in actions:
            *result, info = env.step(action)
            trace += [*result, info["final_obs"], *env.observations().values()]
        return trace

    torch.manual_seed(0)
    actions = [torch.rand(8, 18) * 2 - 1 for _ in range(30)]
    env, other = (make(8, randomize=ALL, seed=seed, episode_length=20) for seed in (0, 7))
    go_on(env)
    other.step(actions[0])
    state = env.get_state()
    expected = go_on(env)
    other.set_state(state)
    assert same(go_on(other), expected)
    env.set_state(state)
    assert same(go_on(env), expected)


def test_off_means_nothing_is_there():
    """No array of the engine is multiplied, nothing more is remembered, no random number drawn."""
    env, other = make(), make(randomize={"contact_force_noise": 0.1})
    assert set(other.memory()) - set(env.memory()) == {"noise_body_forces"}
    assert not [name for name in env.memory() if name in (*ALL, "box_size") or "delay" in name or "sim.body" in name]
    before = env.get_state()["generator"], other.get_state()["generator"]
    for e in (env, other):
        e.step(torch.zeros(8, 18))
    assert torch.equal(env.get_state()["generator"], before[0])
    assert not torch.equal(other.get_state()["generator"], before[1])


# --- Saying it -------------------------------------------------------------------------------------------------------


def test_flags_and_yaml_say_the_same(tmp_path):
    line = (
        "--task BoxGrasping --task.randomize.box-mass 0.05 0.3 task.randomize.boxSize=[0.04,0.06]"
        " --task.randomize.action-delay 0 2 --task.randomize.contact-force-noise 0.1"
    )
    cfg = parse(line.split())
    wanted = RandomizeConfig(box_size=(0.04, 0.06), box_mass=(0.05, 0.3), action_delay=(0, 2), contact_force_noise=0.1)
    assert cfg.task.randomize == wanted
    (tmp_path / "config.yaml").write_text(to_yaml(cfg))
    assert yaml.safe_load(to_yaml(cfg))["task"]["randomize"]["box_friction"] is None
    assert parse(["--config", str(tmp_path / "config.yaml")]) == cfg
    off = parse(["--config", str(tmp_path / "config.yaml"), "--task.randomize.box-mass", "None"])
    assert off.task.randomize.box_mass is None
    assert off.task.randomize.box_size == (0.04, 0.06)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"box_mass": (0.3, 0.1)},
            r"task.randomize.box_mass = \(0.3, 0.1\): allowed are two numbers, the",
        ),
        (
            {"box_size": (-0.1, 0.1)},
            r"task.randomize.box_size = \(-0.1, 0.1\): allowed is 2 values, each a number, 0.001 to 1",
        ),
        ({"box_size": (0.1,)}, "task.randomize.box_size = .* or None"),
        ({"box_friction": 0.5}, "task.randomize.box_friction = 0.5: allowed is 2 values, each a number, more than 0"),
        ({"box_friction": (0.5, float("nan"))}, "task.randomize.box_friction = .* allowed is 2 values"),
        (
            {"action_delay": (-1, 0)},
            "task.randomize.action_delay = .* allowed is 2 values, each a whole number, 0 to 100",
        ),
        (
            {"action_delay": (0, 1.5)},
            "task.randomize.action_delay = .* allowed is 2 values, each a whole number, 0 to 100",
        ),
        ({"contact_force_noise": -1.0}, "task.randomize.contact_force_noise = -1.0: allowed is a number, 0 to 1000"),
        (
            {"joint_position_noise": float("nan")},
            "task.randomize.joint_position_noise = nan: allowed is a number, 0 to 1000",
        ),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        make(randomize=fields)
    assert "\n" not in str(error.value)


def test_a_task_without_boxes_has_none_to_randomise():
    with pytest.raises(ValueError, match="task.randomize.box_mass = .*: this task has no object, allowed is None"):
        make(task="BaseTask", randomize={"box_mass": (0.1, 0.2)}, backend="none")


def test_names_of_flags_are_checked():
    with pytest.raises(ValueError, match="task.randomize.box_mas; did you mean task.randomize.box_mass"):
        parse(["--task", "BoxGrasping", "--task.randomize.box-mas", "1", "2"])
    with pytest.raises(
        ValueError, match="task.randomize.box_mass = '1': allowed is 2 values, each a number, 1e-06 to 1000, or None"
    ):
        parse(["--task", "BoxGrasping", "--task.randomize.box-mass", "1"])


def test_without_an_engine_too():
    env = make(randomize=ALL, backend="none")
    assert env.step(torch.zeros(8, 18))[0].std() > 0


@pytest.mark.slow
def test_the_benchmark_of_robustness(tmp_path):
    """Every setting has its row, and each hits the field that it names."""
    root = Path(__file__).resolve().parent.parent

    def run(script, *words):
        return subprocess.run(
            [sys.executable, root / script, *words, "--task.episode-length", "3"],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip

    tiny = ("--max-iterations", "1", "--train.horizon-length", "4", "--train.num-minibatches", "1", "--num-envs", "4")
    assert run("train_ppo.py", "--task", "BoxGrasping", "--device", "cpu", *tiny).returncode == 0
    options = ("--checkpoint", "latest", "--episodes", "4", "--backend", "mujoco", "--out", "found")
    done = run("benchmarks/robustness.py", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "found.md").read_text() == done.stdout
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines()[2:]]
    assert rows == list(found := json.loads((tmp_path / "found.json").read_text()))
    assert [rows[i] for i in (0, 2, 9, -3, -1)] == [
        "nominal", "box size, m 0.04", "box mass, kg 0.05", "hand collides with itself", "everything randomised"
    ]  # fmt: skip
    assert {"finger stiffness 0.75", "finger stiffness 1.5", "joint offset 0.02", "coupling 0.9"} <= {*rows}
    assert (tmp_path / "found.png").stat().st_size > 10_000
    assert all(found[row]["mujoco"]["episodes"] == 4 for row in rows)
    assert "| nominal | 0.0% (0.0% to 49.0%) |" in done.stdout
    refused = run("benchmarks/robustness.py", "--checkpoint", "latest", "--task.randomize.box-mas", "1")
    assert refused.stderr.startswith("error: unknown option task.randomize.box_mas; did you mean")
    assert refused.stderr.count("\n") == 1
