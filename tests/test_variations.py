"""Each variation of task.randomize changes what it names, by the amount stated: weighed, pushed, timed, counted."""

import re
from pathlib import Path

import gymnasium
import pytest
import torch

import dexhand_gym  # noqa: F401
import train_ppo
from configs import parse
from dexhand_gym.envs.randomize_config import EVERYTHING, RandomizeConfig
from dexhand_gym.sim import Box, Scene, SimConfig, make_sim
from dexhand_gym.sim.base import properties
from examples.scripted_grasp import scripted_env
from ppo import ppo
from ppo.policy import Policy

ROOT = Path(__file__).resolve().parent.parent
G = 9.81
DT = 0.02 / 3  # a physics step, by which both engines report the state early
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
engines = pytest.mark.parametrize(
    ("backend", "device"), [("mujoco", "cpu"), pytest.param("mjwarp", DEVICE, marks=pytest.mark.slow)]
)


def make(num_envs=4, backend="mujoco", device="cpu", seed=0, randomize=None, **fields):
    fields.update({f"task.randomize.{name}": value for name, value in (randomize or {}).items()})
    return gymnasium.make_vec(
        "DexHand/BoxGrasping-v0", num_envs=num_envs, seed=seed, backend=backend, device=device, **fields
    ).unwrapped


def varied_sim(backend, device, variation, center=(0.0, 0.0, 0.0), grip=()):
    """Two environments, of which the second has `variation`, {name: value of one environment}; nominal is the first."""
    scene = Scene(objects=(Box(center=center),), grip=grip)
    sim = make_sim(scene, 2, SimConfig(), 1, backend, device)
    nominal = {"box.mass": 0.1, "gravity": torch.tensor([0.0, 0.0, -G]), "hand.joint_friction": 0.0, "box.center": 0.0}
    shapes = properties(scene)
    rows = {}
    for name, value in variation.items():
        first = torch.as_tensor(nominal.get(name, 1.0)).expand(shapes[name])
        rows[name] = torch.stack((first, torch.as_tensor(value, dtype=first.dtype).expand(shapes[name]))).to(sim.device)
    sim.vary(rows)
    sim.write_state(torch.ones(2, dtype=torch.bool, device=sim.device))
    return sim


def place_box(sim, position, linear=(0.0, 0.0, 0.0), angular=(0.0, 0.0, 0.0)):
    row = torch.tensor([*position, 0.0, 0.0, 0.0, 1.0, *linear, *angular], device=sim.device)
    sim.root_state[:, 1] = row
    sim.write_state(torch.ones(2, dtype=torch.bool, device=sim.device))


def load(sim, dof, force):
    """A constant force or torque on a dof, beside those of the engine's own, N or N m."""
    if hasattr(sim, "_batch"):
        sim._batch.bind("qfrc_applied")[:, dof] = force
    else:
        import warp as wp

        wp.to_torch(sim._d.qfrc_applied)[:, dof] = force


def run(sim, steps, targets=None):
    targets = sim.dof_state[..., 0].clone() if targets is None else targets
    for _ in range(steps):
        sim.step(targets)


def still(sim):
    return torch.zeros(sim.num_envs, len(sim.dof_names), device=sim.device)


# --- Objects ---------------------------------------------------------------------------------------------------------


@engines
def test_gravity_by_free_fall(backend, device):
    """After t it falls with g t; inclined by 0.1 rad it moves aside with g t sin 0.1."""
    tilted = torch.tensor([1.2 * G * 0.0998334, 0.0, -1.2 * G * 0.9950042])
    sim = varied_sim(backend, device, {"gravity": tilted})
    place_box(sim, (1.0, 0.0, 2.0))
    run(sim, 10, still(sim))
    t = 10 * 0.02 - DT
    velocity = sim.root_state[:, 1, 7:10].cpu()
    assert velocity[0].numpy() == pytest.approx([0, 0, -G * t], abs=1e-4)
    assert velocity[1].numpy() == pytest.approx((tilted * t).numpy(), abs=1e-4)


@engines
def test_inertia_and_mass_by_a_push(backend, device):
    """A force of 1 N gives 0.1 kg 10 m/s^2 beside gravity; 0.001 N m give a cube of 5 cm (0.1 kg, I = m a^2 / 6)
    24 rad/s^2, and one of twice the inertia half of it."""
    sim = varied_sim(backend, device, {"box.inertia": 2.0, "box.mass": 0.2})
    place_box(sim, (1.0, 0.0, 2.0))
    sim.push(torch.tensor([[[1.0, 0, 0, 0, 0, 0.001]]] * 2, device=sim.device))
    run(sim, 1, still(sim))
    moving = sim.root_state[:, 1].cpu().clone()
    t = 0.02 - DT
    assert moving[:, 7].numpy() == pytest.approx([10 * t, 5 * t], rel=1e-3)
    assert moving[:, 9].numpy() == pytest.approx([-G * t, -G * t], rel=1e-3)
    assert moving[:, 12].numpy() == pytest.approx([24 * t, 24 * t / 4], rel=1e-3)
    sim.push(torch.zeros(2, 1, 6, device=sim.device))
    run(sim, 1, still(sim))
    after = sim.root_state[:, 1, 7].cpu() - moving[:, 7]
    assert after.numpy() == pytest.approx([10 * DT, 5 * DT], rel=1e-3), "the last physics step under the push"


@engines
def test_a_body_turns_about_its_centre_of_mass(backend, device):
    """Spinning at 10 rad/s about z, its middle at rest at first: the centre of mass, 1 cm beside the middle, goes straight
    on with 0.1 m/s, and after half a turn the middle is 1 cm behind it."""
    sim = varied_sim(backend, device, {"box.center": (0.01, 0.0, 0.0), "gravity": 0.0}, center=(1e-5, 0.0, 0.0))
    place_box(sim, (1.0, 0.0, 2.0), angular=(0.0, 0.0, 10.0))
    run(sim, 16, still(sim))
    t = 16 * 0.02 - DT  # 0.3133 s, half a turn is 0.3142 s
    x, y = sim.root_state[1, 1, :2].cpu()
    assert x.item() == pytest.approx(1.0 + 0.01 - 0.01 * torch.cos(torch.tensor(10 * t)).item(), abs=1.5e-3), (
        "in physics steps of 6.7 ms"
    )
    assert y.item() == pytest.approx(0.1 * t - 0.01 * torch.sin(torch.tensor(10 * t)).item(), abs=1.5e-3), (
        "in physics steps of 6.7 ms"
    )


def test_a_centre_of_mass_varies_about_its_own_place():
    env = make(200, randomize={"box_center": 0.005}, object={"center": (0.01, 0.0, 0.0)})
    at = env.memory()["sim.body_ipos"][:, 0]
    assert at.mean(0).numpy() == pytest.approx([0.01, 0, 0], abs=6e-4)
    assert (at - torch.tensor([0.01, 0, 0])).abs().max() <= 0.005


@engines
def test_the_grounds_friction_by_sliding(backend, device):
    """At 1 m/s it slides for v^2 / (2 mu g), as in test_randomize.py: 102 mm with 0.5, 51 mm with 1."""
    sim = varied_sim(backend, device, {"world.friction": 0.5}, grip=("world",))
    place_box(sim, (1.0, 0.0, 0.025))
    run(sim, 20, still(sim))
    sim.root_state[:, 1, 7] = 1.0
    sim.write_state(torch.ones(2, dtype=torch.bool, device=sim.device))
    start = sim.root_state[:, 1, 0].clone()
    run(sim, 30, still(sim))
    slid = (sim.root_state[:, 1, 0] - start).cpu().numpy()
    assert slid == pytest.approx([0.051, 0.102], rel=0.1)


@engines
def test_the_box_has_its_friction_beside_fingertips_of_their_own(backend, device):
    """Only what has a range of its own takes the box's place: on the ground the box slides as with its own 0.5."""
    env = make(2, backend, device, randomize={"box_friction": (0.5, 0.5), "fingertip_friction": (1.3, 1.3)})
    friction = env.sim.memory()["geom_friction"] if backend == "mujoco" else None
    sim = env.sim
    sim.root_state[:, 1] = 0.0
    sim.root_state[:, 1, 0], sim.root_state[:, 1, 2], sim.root_state[:, 1, 6] = 1.0, 0.025, 1.0
    sim.write_state(torch.ones(2, dtype=torch.bool, device=sim.device))
    run(sim, 20, still(sim))
    sim.root_state[:, 1, 7] = 1.0
    sim.write_state(torch.ones(2, dtype=torch.bool, device=sim.device))
    start = sim.root_state[:, 1, 0].clone()
    run(sim, 30, still(sim))
    assert (sim.root_state[:, 1, 0] - start).cpu().numpy() == pytest.approx([0.102] * 2, rel=0.1)
    assert friction is None or float(friction[..., 0].max()) == pytest.approx(1.3)


@pytest.mark.slow
def test_fingertips_without_friction_lift_nothing():
    lifted = {}
    for friction in (0.02, 1.0):
        env = scripted_env(
            16, seed=0, device="cpu", **{"task.randomize.fingertip_friction": (friction, friction)}
        ).unwrapped
        for _ in range(260):
            env.step(torch.zeros(16, 0))
        lifted[friction] = (env.sim.root_state[:, 1, 2] > 0.1).float().mean().item()
    assert lifted[0.02] == 0.0 and lifted[1.0] > 0.9


# --- The hand --------------------------------------------------------------------------------------------------------

FINGER = 8  # r_f_joint1_3, a joint of the thumb


@engines
def test_stiffness_by_static_deflection(backend, device):
    """Under 0.03 N m a joint whose drive has 3 N m/rad gives way by 0.01 rad, one of half the stiffness by 0.02."""
    sim = varied_sim(backend, device, {"hand.stiffness": 0.5})
    target = still(sim)
    target[:, FINGER] = 0.5
    load(sim, FINGER, 0.03)
    run(sim, 100, target)
    assert (sim.dof_state[:, FINGER, 0].cpu() - 0.5).numpy() == pytest.approx([0.01, 0.02], rel=0.02)


@engines
@pytest.mark.parametrize(
    ("variation", "speeds"),
    [
        ({"hand.damping": 2.0}, (0.02 / 0.11, 0.02 / 0.21)),
        ({"hand.joint_damping": 11.0}, (0.02 / 0.11, 0.02 / 0.21)),
    ],
)
def test_damping_by_speed(backend, device, variation, speeds):
    """Without stiffness 0.02 N m turn a joint at torque / (drive's damping 0.1 + joint's 0.01 N m s/rad)."""
    sim = varied_sim(backend, device, variation)
    sim.vary({"hand.stiffness": torch.full((2, 26), 1e-6, device=sim.device)})
    load(sim, FINGER, 0.02)
    run(sim, 20, still(sim))
    assert sim.dof_state[:, FINGER, 1].cpu().numpy() == pytest.approx(speeds, rel=0.03)


@engines
def test_effort_by_what_it_reaches(backend, device):
    """0.01 of 500 N are 5 N: the same as a load of 5 N without a drive."""
    sim = varied_sim(backend, device, {"hand.effort": torch.tensor([0.01] * 3 + [1.0] * 23)})
    target = still(sim)
    target[:, 0] = 0.1
    run(sim, 1, target)
    limited = sim.dof_state[1, 0, 1].item()
    free = varied_sim(backend, device, {"hand.stiffness": 1e-6, "hand.damping": 1e-6})
    load(free, 0, 5.0)
    run(free, 1, still(free))
    assert limited == pytest.approx(free.dof_state[1, 0, 1].item(), rel=0.01)
    assert sim.dof_state[0, 0, 1].item() > 2 * limited


@engines
def test_links_of_twice_the_mass_start_half_as_fast(backend, device):
    sim = varied_sim(backend, device, {"hand.mass": 2.0})
    sim.vary({f"hand.{name}": torch.full((2, 26), 1e-6, device=sim.device) for name in ("stiffness", "damping", "joint_damping", "armature")})  # fmt: skip
    load(sim, 0, 1.0)
    run(sim, 1, still(sim))
    fast, slow = sim.dof_state[:, 0, 1].cpu()
    assert (fast / slow).item() == pytest.approx(2.0, rel=0.01)


@engines
def test_armature_by_acceleration(backend, device):
    """The motor's 0.0005 kg m^2 are most of what the last joint of a finger moves."""
    last = 9  # r_f_joint1_4
    sim = varied_sim(backend, device, {"hand.armature": 10.0})
    sim.vary({f"hand.{name}": torch.full((2, 26), 1e-6, device=sim.device) for name in ("stiffness", "damping", "joint_damping")})  # fmt: skip
    load(sim, last, 0.001)
    run(sim, 1, still(sim))
    fast, slow = sim.dof_state[:, last, 1].cpu()
    assert 8 < (fast / slow).item() < 10.5


@engines
def test_friction_in_a_joint_holds_it(backend, device):
    """0.02 N m of friction hold against 0.01 N m, but for the creep of MuJoCo's friction, 0.015 rad/s here."""
    sim = varied_sim(backend, device, {"hand.joint_friction": torch.tensor([0.0] * 6 + [0.02] * 20)})
    target = still(sim)
    target[:, FINGER] = 0.5
    load(sim, FINGER, 0.0)
    run(sim, 100, target)
    before = sim.dof_state[:, FINGER, 0].clone()
    load(sim, FINGER, 0.01)
    run(sim, 3, target)
    moved = (sim.dof_state[:, FINGER, 0] - before).cpu()
    assert moved[0].item() > 0.8 * 0.01 / 3
    assert abs(moved[1].item()) < 1.1 * 0.06 * 0.015


# --- Commands --------------------------------------------------------------------------------------------------------


def test_a_lowpass_goes_a_share_of_the_way():
    """A step of the target is reached by 1 - 0.7^k after k steps."""
    env = make(1, randomize={"action_lowpass": (0.3, 0.3)})
    env.reset(seed=0)
    commands, first = env.stages.commands, env.stages.dof_targets.clone()
    for k in range(1, 6):
        assert (commands(first + 1.0) - first).mean().item() == pytest.approx(1 - 0.7**k, abs=1e-5)


@pytest.mark.slow
def test_lost_commands_by_counting():
    env = make(500, randomize={"action_drop": 0.25})
    env.reset(seed=0)
    lost = 0
    for _ in range(20):
        before = env.stages.dof_targets.clone()
        env.step(torch.ones(500, 18))
        lost += (env.stages.dof_targets == before).all(1).float().mean().item() / 20
    assert lost == pytest.approx(0.25, abs=0.02)


@pytest.mark.slow
def test_a_wrong_zero_is_reported_and_reached():
    """What the hand reports is what was asked for; where it is, is off by up to 0.05 rad. The base's are right."""
    env = make(64, randomize={"joint_offset": 0.05}, policy_observation_keys=("base_dof_pos", "all_finger_dof_pos"))
    obs = env.reset(seed=0)[0]
    for _ in range(100):
        obs = env.step(torch.zeros(64, 18))[0]
    true = env.sim.dof_state[..., 0]
    off = obs - true
    assert not off[:, :6].any()
    assert off[:, 6:].abs().max() <= 0.05 and off[:, 6:].std().item() == pytest.approx(0.1 / 12**0.5, rel=0.05)
    asked = env.stages.coupling(env.stages.targets)[:, 6:]
    assert (obs[:, 6:] - asked).abs().quantile(0.9) < 0.01
    again = env.stages.commands.offset.clone()
    env.reset(seed=1)
    assert not torch.equal(env.stages.commands.offset, again), "every episode has its own"


def test_joints_that_follow_do_so_by_a_factor():
    env = make(32, randomize={"coupling": (0.9, 1.1)})
    env.reset(seed=0)
    exact = env.stages.coupling(env.stages.targets)
    ratio = env.stages.dof_targets / exact
    names = env.sim.dof_names
    following = [
        i for i, name in enumerate(names) if ratio[:, i].isfinite().all() and (ratio[:, i] - 1).abs().max() > 1e-3
    ]
    assert {names[i] for i in following} <= {f"r_f_joint{f}_{j}" for f, j in ((1, 4), (2, 4), (3, 4), (4, 4), (5, 4), (2, 1), (4, 1), (5, 1))}  # fmt: skip
    assert len(following) >= 5
    assert ratio[:, following].min() >= 0.9 and ratio[:, following].max() <= 1.1


# --- Sensors ---------------------------------------------------------------------------------------------------------


def test_an_observation_is_late_by_its_steps():
    keys = ("active_finger_dof_pos", "base_dof_target", "last_actions")
    now, late = (make(6, randomize=r, policy_observation_keys=keys) for r in ({}, {"observation_delay": (2, 2)}))
    seen = [(now.reset(seed=0)[0], late.reset(seed=0)[0])]
    torch.manual_seed(0)
    for _ in range(8):
        action = torch.rand(6, 18) * 2 - 1
        seen.append((now.step(action)[0], late.step(action)[0]))
    for t, (exact, delayed) in enumerate(seen):
        assert torch.equal(delayed[:, 12:], exact[:, 12:]), "what the policy did itself"
        assert torch.equal(delayed[:, :12], seen[max(0, t - 2)][0][:, :12])


def test_an_episode_begins_with_what_it_sees_first():
    """Nothing of the last episode is seen in the next."""
    keys = ("active_finger_dof_pos",)
    env = make(4, randomize={"observation_delay": (3, 3)}, episode_length=5, policy_observation_keys=keys)
    env.reset(seed=0)
    for _ in range(5):
        obs = env.step(torch.ones(4, 18))[0]
    assert torch.equal(obs, env.observations()["active_finger_dof_pos"])


def test_fingertips_have_gains_and_limits():
    force = torch.zeros(2, 26, 3)
    env = make(2, randomize={"contact_force_limit": 4.0, "contact_force_step": 0.5})
    force = env.sim.net_contact_force.clone()
    contacts = env._sensors.contacts
    force[:, contacts] = torch.tensor([[3.0, 0.0, 4.0], [0.3, 0.2, -0.8], [0.0, 0.0, 0.0], [10.0, 0, 0], [0, 0.26, 0]])
    told = env._sensors.report({**env.raw, "body_forces": force})["body_forces"][:, contacts]
    wanted = torch.tensor([[2.5, 0.0, 3.0], [0.5, 0.0, -1.0], [0.0, 0.0, 0.0], [4.0, 0, 0], [0, 0.5, 0]])
    torch.testing.assert_close(told, wanted.expand(2, -1, -1), msg="2.4 and 3.2 of 5 N, whole halves of a newton")


def test_dead_fingertips_by_counting():
    env = make(500, randomize={"dead_fingertip": 0.2, "contact_force_gain": (0.8, 1.2), "contact_force_bias": 0.1})
    force = torch.zeros_like(env.sim.net_contact_force) + torch.tensor([0.0, 0.0, 10.0])
    told = env._sensors.report({**env.raw, "body_forces": force})["body_forces"][:, env._sensors.contacts]
    dead = ~told.any(-1)
    assert dead.float().mean().item() == pytest.approx(0.2, abs=0.03)
    alive = told[~dead]
    assert alive[:, 2].min() >= 7.9 and alive[:, 2].max() <= 12.1
    assert alive[:, 0].abs().max() <= 0.1 and alive[:, 0].std().item() == pytest.approx(0.2 / 12**0.5, rel=0.1)


def test_angles_come_in_whole_steps():
    env = make(
        4, randomize={"joint_position_step": 0.01}, policy_observation_keys=("base_dof_pos", "all_finger_dof_pos")
    )
    env.reset(seed=0)
    obs = env.step(torch.rand(4, 18))[0]
    assert (obs[:, 6:] / 0.01 - (obs[:, 6:] / 0.01).round()).abs().max() < 1e-3
    assert (obs[:, 6:] - env.sim.dof_state[:, 6:, 0]).abs().max() <= 0.0051
    assert torch.equal(obs[:, :6], env.sim.dof_state[:, :6, 0])


# --- Pushes ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pushes_by_their_rate_and_size():
    """5 a second are one in ten of the steps of 20 ms; 0.02 N s within one step are 1 N at most."""
    env = make(400, randomize={"push_rate": 5.0, "push_impulse": 0.02})
    env.reset(seed=0)
    drawn = torch.stack([env._pushes.draw() for _ in range(50)])[..., 0, :]
    force = drawn[..., :3].norm(dim=-1)
    pushed = force > 0
    assert pushed.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert force.max() <= 1.0 and force[pushed].mean().item() == pytest.approx(0.5, abs=0.03)
    assert not drawn[..., 3:].any()
    assert drawn[..., :3][pushed].mean(0).abs().max() < 0.05, "in every direction"
    moved = 0
    for _ in range(20):
        env.step(torch.zeros(400, 18))
        moved += (env.sim.root_state[:, 1, 7:9].norm(dim=1) > 0.01).float().mean().item() / 20
    assert moved > 0.02


# --- All of it -------------------------------------------------------------------------------------------------------


def test_everything_is_everything():
    rest = {"per", "curriculum", "retry", "push_rate"}
    assert {*EVERYTHING, *rest} == set(vars(RandomizeConfig()))


@pytest.mark.parametrize("task", ["BoxGrasping", "BlindGrasping"])
def test_a_file_has_all_of_it(task):
    cfg = parse(["--task", task, "--config", str(ROOT / "examples/train_hardware.yaml")])
    assert cfg.task.observe == "hardware" and cfg.env.num_envs == 8192
    assert cfg.task.randomize.curriculum == 0.7
    for name, wanted in EVERYTHING.items():
        found = getattr(cfg.task.randomize, name)
        wider = name in ("box_size", "box_mass", "box_friction")  # what lies beside the range of the table counts too
        assert found[0] <= wanted[0] < wanted[1] <= found[1] if wider else found == wanted, name


@engines
def test_all_of_it_at_once_is_finite_and_drawn_anew(backend, device):
    env = make(16, backend, device, randomize=EVERYTHING, episode_length=20)
    drawn = [name for name in env.memory() if name.startswith(("sim.actuator", "sim.dof_", "sim.body_", "touch", "joint_offset", "lowpass_share", "coupling"))]  # fmt: skip
    assert len(drawn) > 12
    before = {name: env.memory()[name].clone() for name in drawn}
    for _ in range(45):
        obs, reward, *_ = env.step(torch.rand(16, 18, device=env.device) * 2 - 1)
        assert torch.isfinite(obs).all() and torch.isfinite(reward).all()
    assert env.statistics()["nonfinite"] == 0
    for name, old in before.items():
        assert not torch.equal(env.memory()[name], old), name


@pytest.mark.parametrize("per", ["episode", "environment"])
def test_with_all_of_it_a_restored_state_goes_on_to_the_bit(per):
    env, other = (make(6, seed=seed, randomize={**EVERYTHING, "per": per}, episode_length=15) for seed in (0, 7))
    torch.manual_seed(0)
    actions = [torch.rand(6, 18) * 2 - 1 for _ in range(40)]
    for action in actions[:10]:
        env.step(action)
    other.set_state(env.get_state())
    for action in actions:
        (a, b, *_), (c, d, *_) = env.step(action), other.step(action)
        assert torch.equal(a, c) and torch.equal(b, d)


def test_for_life_means_for_life():
    env = make(6, randomize={**EVERYTHING, "per": "environment"}, episode_length=5)
    names = [name for name in env.memory() if name.startswith(("sim.actuator", "sim.body_", "touch", "joint_offset"))]
    before = {name: env.memory()[name].clone() for name in names}
    for _ in range(12):
        env.step(torch.rand(6, 18) * 2 - 1)
    assert names and all(torch.equal(env.memory()[name], before[name]) for name in names)


@pytest.mark.slow
def test_a_curriculum_widens_while_attempts_succeed():
    """Nominal at first; after an iteration of successes the factors 0.5 to 1.5 are those of 0.99 to 1.01."""
    ranges = {"task.randomize.base_stiffness": (0.5, 1.5), "task.randomize.curriculum": 0.5}
    env = scripted_env(8, seed=0, device="cpu", **ranges).unwrapped
    gains = env.memory()["sim.actuator_gainprm"]
    assert torch.equal(gains[:, :3, 0], torch.full((8, 3), 1000.0, dtype=gains.dtype))
    assert env.statistics()["randomize_width"] == 0.0, "no episode has ended"
    for _ in range(420):
        env.step(torch.zeros(8, 0))
    found = env.statistics()
    assert found["success_rate"] > 0.5 and found["randomize_width"] == pytest.approx(0.02)
    env.reset()
    gains = env.memory()["sim.actuator_gainprm"][:, :3, 0] / 1000
    assert 0.001 < (gains - 1).abs().max() <= 0.01
    for _ in range(420):
        env.step(torch.ones(8, 0))
    env.width.fill_(0.99)
    assert env.statistics()["randomize_width"] == 1.0


@pytest.mark.slow
def test_a_training_is_tested_at_full_width(tmp_path, monkeypatch):
    """Though its ranges are still nominal when it ends."""
    monkeypatch.chdir(tmp_path)
    measure, widths = Policy.measure, []

    def measured(self, *args):
        widths.append(self.env.width.item())
        return measure(self, *args)

    monkeypatch.setattr(Policy, "measure", measured)
    small = "--num-envs 4 --device cpu --max-iterations 1 --train.horizon-length 4 --train.num-minibatches 1"
    line = f"--task BoxGrasping {small} --train.test-episodes 2 --task.episode-length 5"
    more = "--task.randomize.curriculum 0.9 --task.randomize.link-mass 0.5 1.5"
    assert train_ppo.main(f"{line} {more}".split()) == 0
    assert widths == [1.0]


@pytest.mark.parametrize("name", ["curriculum", "retry"])
def test_what_looks_at_successes_needs_one(name):
    ranges = {f"task.randomize.{name}": 0.9, "task.randomize.link_mass": (0.5, 1.5)}
    with pytest.raises(ValueError, match=f"^task.randomize.{name} = 0.9: allowed is 0, for no success is defined"):
        gymnasium.make_vec("DexHand/BaseTask-v0", num_envs=2, device="cpu", **ranges)


def test_a_rotations_curriculum_widens_by_speed_and_by_what_is_kept():
    """1.5 of 2 rad/s and nine of ten kept are 0.675; a wrong way round is 0, and more than max_speed is not more."""
    ranges = {"task.randomize.curriculum": 0.6, "task.randomize.link_mass": (0.5, 1.5)}
    env = gymnasium.make_vec("DexHand/CubeRotation-v0", num_envs=2, device="cpu", **ranges).unwrapped
    for speed, kept, share in ((1.5, 0.9, 0.675), (-1.0, 1.0, 0.0), (3.0, 0.5, 0.5)):
        assert env.mastered({"figure/mean_speed": speed, "ending/time_out": kept}) == pytest.approx(share)
    assert env.mastered({}) == 0.0
    assert env.statistics()["randomize_width"] == 0.0
    env.close()
    with pytest.raises(ValueError, match="retry = 0.9: allowed is 0, for no success is defined"):
        gymnasium.make_vec(
            "DexHand/CubeRotation-v0", num_envs=2, device="cpu", **{**ranges, "task.randomize.retry": 0.9}
        )


def test_a_curriculums_width_outlives_its_environments(tmp_path):
    """Whatever the checkpoint: one with other environments, or without any, as the best policy's is."""
    ranges = {"curriculum": 0.5, "link_mass": (0.5, 1.5)}
    cfg = parse(["--task", "BoxGrasping", "--train.horizon-length", "4", "--train.num-minibatches", "1"]).train
    env = make(2, randomize=ranges)
    learner, progress = ppo.begin(env, cfg)
    env.width.fill_(0.42)
    progress.width = 0.42
    for file, saved in (("last.pth", env), ("policy.pth", None)):
        ppo.save(tmp_path / file, saved, learner.agent, learner.optimizer, progress, cfg)
        other = make(3, randomize=ranges)
        again, later = ppo.begin(other, cfg)
        ppo.resume(tmp_path / file, other, again.agent, again.optimizer, later, cfg)
        assert other.width.item() == later.width == pytest.approx(0.42)
        other.reset()
        mass = other.memory()["sim.body_mass"][:, :20] / torch.as_tensor(other.sim.model.body_mass[1:21])
        off = (mass - 1).nan_to_num().abs()  # some bodies have no mass
        assert 0.05 < off.max() <= 0.211


def test_nothing_counts_as_the_best_before_full_width():
    progress = ppo.Progress(torch.zeros(1, 1), torch.zeros(2, 1), mean_reward=9.0)
    ppo.track_success(progress, {"randomize_width": 0.98, "episodes": 10, "success_rate": 1.0})
    assert not ppo.best_so_far(progress)
    progress.mean_reward = 5.0  # ranges are wider
    ppo.track_success(progress, {"randomize_width": 1.0, "episodes": 10, "success_rate": 0.7})
    assert ppo.best_so_far(progress) and progress.best_reward == 5.0


def test_no_joint_starts_beyond_its_limit():
    """Though the zero of every joint is wrong."""
    env = make(64, randomize={"joint_offset": 0.05})
    env.reset(seed=0)
    dofs = env.sim.dof_state[..., 0]
    assert (dofs >= env.raw["dof_lower"]).all() and (dofs <= env.raw["dof_upper"]).all()
    env.step(torch.zeros(64, 18))
    assert env.sim.dof_state[:, 6:, 1].abs().max() < 0.2


@pytest.mark.parametrize(
    ("randomize", "message"),
    [
        ({"action_lowpass": (0.0, 0.5)}, "task.randomize.action_lowpass"),
        ({"finger_stiffness": (1.2, 0.8)}, "task.randomize.finger_stiffness = (1.2, 0.8): allowed are two numbers, the lower one first"),
        ({"curriculum": 0.9, "per": "environment"}, "task.randomize.curriculum = 0.9: allowed is 0 with per = 'environment'"),
        ({"curriculum": 0.9}, "task.randomize.curriculum = 0.9: allowed is 0, for nothing is there that it would widen"),
        ({"push_rate": 3.0}, "task.randomize.push_rate = 3.0: allowed with push_impulse or push_twist above 0"),
        ({"contact_force_step": 1e-30}, "task.randomize.contact_force_step = 1e-30: allowed is 0, or 1e-09 or more"),
        ({"per": "epsiode"}, "task.randomize.per: unknown name 'epsiode'; did you mean 'episode'?"),
        ({"dead_fingertip": 1.5}, "task.randomize.dead_fingertip = 1.5"),
    ],
)  # fmt: skip
def test_mistakes_are_named(randomize, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make(2, randomize=randomize)


@pytest.mark.parametrize("name", ["push_impulse", "box_center", "fingertip_friction", "ground_friction", "box_inertia"])
def test_a_task_without_an_object_has_none_to_vary(name):
    value = EVERYTHING[name]
    with pytest.raises(ValueError, match=f"task.randomize.{name} = .*: this task has no object, allowed is"):
        gymnasium.make_vec("DexHand/BaseTask-v0", num_envs=2, device="cpu", **{f"task.randomize.{name}": value})
