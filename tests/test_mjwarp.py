"""MuJoCo Warp beyond the Simulator contract (test_sim.py): on the GPU where there is one, else on Warp's CPU device."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import mujoco_warp as mjw
import pytest
import torch
import warp as wp

import dexhand_gym  # noqa: F401
import train_ppo
from dexhand_gym.checker import check_vector_env
from dexhand_gym.envs.box_grasping import BoxGrasping, BoxGraspingConfig
from dexhand_gym.envs.config import Config, override
from dexhand_gym.objects import Capsule
from dexhand_gym.sim import PHYSICS, Box, Scene, SimConfig, make_sim
from dexhand_gym.sim.mjcf import STATE
from examples.scripted_grasp import scripted_env, success_rate
from ppo import ppo

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"


def make(num_envs, **fields):
    fields = {"backend": "mjwarp", "device": DEVICE, "seed": 0, **fields}
    return gymnasium.make_vec("DexHand/BoxGrasping-v0", num_envs=num_envs, **fields).unwrapped


def grasping_states(num_envs):
    """States and dof targets of hands that have just closed on their box and begin to lift it, from the CPU engine."""
    env = scripted_env(num_envs, seed=0, backend="mujoco", device="cpu").unwrapped
    for _ in range(155):
        env.step(torch.zeros(num_envs, 0))
    start = env.sim.dof_state.clone(), env.sim.root_state.clone()
    targets = []
    for _ in range(20):
        env.step(torch.zeros(num_envs, 0))
        targets.append(env.stages.dof_targets.clone())
    return start, targets


def test_both_engines_agree_over_20_steps_of_contact():
    """64 closed grasps are lifted for 0.4 s by both engines from the same states. They solve the same equations, one in
    float64 and one in float32 with contact points of its own, and what differs grows where a grasp is about to slip.
    Measured: box 0.02 mm apart in the median, 0.4 mm in 63 of 64, 1.6 mm in one where a finger slips; joints 0.0002,
    0.007 and 0.02 rad."""
    (dofs, roots), targets = grasping_states(64)
    ends = []
    for backend, device in (("mujoco", "cpu"), ("mjwarp", DEVICE)):
        sim = make_sim(Scene(boxes=(Box(),)), 64, SimConfig(), 1, backend, device)
        sim.dof_state.copy_(dofs)
        sim.root_state.copy_(roots)
        sim.write_state(torch.ones(64, dtype=torch.bool, device=sim.device))
        for target in targets:
            sim.step(target.to(sim.device))
        ends.append([x.cpu().clone() for x in (sim.root_state[:, 1, :3], sim.dof_state[..., 0])])
    box, joints = zip(*ends)
    apart = (box[0] - box[1]).norm(dim=1)
    bent = (joints[0] - joints[1]).abs().amax(1)
    for share, metres, radians in ((0.5, 1e-4, 1e-3), (0.9, 1e-3, 1e-2), (1.0, 5e-3, 5e-2)):
        assert apart.quantile(share) < metres
        assert bent.quantile(share) < radians
    held = [b[:, 2] > 0.03 for b in box]
    assert held[0].float().mean() > 0.95
    assert torch.equal(held[0], held[1])


def test_a_write_gives_the_kinematics_of_the_other_engine():
    """Random positions and velocities of all joints and of a spinning box; float32 against float64."""
    generator = torch.Generator().manual_seed(0)
    dofs = torch.randn(8, 26, 2, generator=generator)
    box = torch.randn(8, 13, generator=generator)
    box[:, 3:7] /= box[:, 3:7].norm(dim=1, keepdim=True)
    states = []
    for backend, device in (("mujoco", "cpu"), ("mjwarp", DEVICE)):
        sim = make_sim(Scene(boxes=(Box(),)), 8, SimConfig(), 1, backend, device)
        before = sim.rigid_body_state[7].clone()
        sim.dof_state.copy_(dofs)
        sim.root_state[:, 1].copy_(box)
        sim.write_state(torch.arange(8, device=sim.device) < 7)
        assert torch.equal(sim.rigid_body_state[7], before)
        states.append(sim.rigid_body_state[:7].cpu())
    same_turn = torch.sign(
        (states[0][..., 3:7] * states[1][..., 3:7]).sum(-1, keepdim=True)
    )  # q and -q are one rotation
    states[1][..., 3:7] *= same_turn
    torch.testing.assert_close(states[1], states[0], atol=2e-5, rtol=2e-5)


def test_environment_passes_the_checker():
    check_vector_env(make(8, episode_length=7), steps=20)


def test_scripted_grasp_lifts_the_box():
    env = scripted_env(16, seed=1, backend="mjwarp", device=DEVICE)
    assert success_rate(env) >= 0.9
    assert env.unwrapped.statistics()["overflow"] == 0


def test_one_engine_goes_on_where_the_other_stopped():
    env, other = make(4, backend="mujoco", device="cpu", seed=1), make(4)
    for _ in range(40):
        env.step(torch.full((4, 18), 0.5))
    other.set_state(env.get_state())
    assert other.get_state()["generator"].shape == other.generator.get_state().shape
    for name, value in env.observations().items():
        torch.testing.assert_close(other.observations()[name].cpu(), value, atol=1e-6, rtol=0)
    obs, other_obs = env.step(torch.zeros(4, 18))[0], other.step(torch.zeros(4, 18, device=DEVICE))[0]
    assert (obs - other_obs.cpu()).abs().median() < 1e-4


def test_what_does_not_fit_is_counted(caplog):
    env = make(4, nconmax=1)
    for _ in range(3):
        env.step(torch.zeros(4, 18, device=DEVICE))
    assert env.statistics()["overflow"] > 0
    assert caplog.text.count("did not fit") == 1
    for _ in range(3):
        env.step(torch.zeros(4, 18, device=DEVICE))
    assert env.statistics()["overflow"] > 0
    assert caplog.text.count("did not fit") == 1, "said once, not at every iteration"
    assert make(4).statistics()["overflow"] == 0


def test_unusable_devices_are_named():
    cfg = Config(task=BoxGraspingConfig())
    cfg.env.device, cfg.env.num_envs = "cuda:99", 1
    with pytest.raises(ValueError, match="env.device = 'cuda:99': allowed here is auto, cpu"):
        gymnasium.make_vec("DexHand/BoxGrasping-v0", cfg=cfg)


if GPU:

    def play(env, steps=30):
        generator = torch.Generator(device="cuda").manual_seed(0)
        trace = [env.reset(seed=3)[0]]
        for _ in range(steps):
            action = torch.rand(env.num_envs, 18, generator=generator, device="cuda") * 2 - 1
            obs, reward, terminated, truncated, info = env.step(action)
            trace += [obs, reward, terminated, truncated, info["final_obs"]]
        return trace

    @pytest.mark.parametrize("changes", [{"compile": True}, {"compile": False}])
    def test_graphs_and_compilation_change_nothing(changes):
        """But for the order of sums: trajectories part slowly, so the comparison is over 30 steps, in the median row."""
        eager, fast = play(make(64, cuda_graphs=False)), play(make(64, **changes))
        for a, b in zip(eager, fast):
            assert a.dtype == b.dtype
            gap = (a.float() - b.float()).abs().reshape(64, -1).amax(1) / (1 + a.float().abs().reshape(64, -1).amax(1))
            assert gap.median() < 2e-2

    def test_a_step_never_waits_for_the_gpu():
        env = make(64)
        action = torch.zeros(64, 18, device="cuda")
        for _ in range(4):
            env.step(action)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                env.step(action)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_an_iteration_of_ppo_waits_only_for_its_metrics():
        env = make(64)
        cfg = ppo.PPOConfig(horizon_length=4, num_minibatches=2)
        obs = env.reset()[1]["critic_obs"]
        agent = ppo.Agent(env.single_observation_space, env.single_action_space, cfg, obs.shape[1]).cuda()
        store = ppo.allocate_rollout(64, obs.shape[1], 18, cfg, obs.device)
        progress = ppo.Progress(obs, episode=torch.zeros(2, 64, device="cuda"))
        learner = ppo.Learner(agent, ppo.make_optimizer(agent, cfg), store, cfg)
        for _ in range(3):  # run, captured, replayed
            ppo.iterate(env, learner, progress)
        torch.cuda.set_sync_debug_mode("error")
        try:
            last_value, _ = ppo.rollout(env, agent, store, progress, cfg)
            learner.learn(last_value, 4)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @pytest.mark.parametrize("changes", [{"compile": True}, {"cuda_graphs": True}, {"mixed_precision": True}])
    def test_a_fast_learner_learns_the_same(changes):
        """Losses of three updates on one rollout, against an eager learner from the same weights; 1 % of each, 5 % in
        bfloat16."""
        losses = []
        for fields in ({}, changes):
            torch.manual_seed(0)
            cfg = ppo.PPOConfig(horizon_length=8, num_minibatches=2, **{"cuda_graphs": False, **fields})
            space = gymnasium.spaces.Box(-1.0, 1.0, (30,))
            agent = ppo.Agent(space, space, cfg).cuda()
            store = ppo.allocate_rollout(64, 30, 30, cfg, torch.device("cuda"))
            learner = ppo.Learner(agent, ppo.make_optimizer(agent, cfg), store, cfg)
            generator = torch.Generator(device="cuda").manual_seed(0)
            store.obs.normal_(generator=generator)
            store.rewards.normal_(generator=generator)
            for t, obs in enumerate(store.obs):
                mu, logstd, store.values[t] = (x.detach() for x in agent(obs))
                store.actions[t] = mu + torch.randn(mu.shape, generator=generator, device="cuda")
                store.mu[t], store.sigma[t] = mu, logstd.exp()
                store.neglogp[t] = ppo.neglogp(store.actions[t], mu, logstd)
            start = [x.clone() for x in store]
            for _ in range(3):  # run, captured, replayed
                for x, before in zip(store, start):
                    x.copy_(before)
                losses.append(learner.learn(torch.zeros(64, device="cuda"), 1).clone())
        eager, fast = torch.stack(losses[:3]), torch.stack(losses[3:])
        tolerance = 5e-2 if "mixed_precision" in changes else 1e-2
        torch.testing.assert_close(fast[:, :3], eager[:, :3], rtol=tolerance, atol=tolerance)


class Waits(BoxGrasping):
    """A task that asks the GPU within its rewards."""

    @staticmethod
    def rewards(m, cfg):
        terms = BoxGrasping.rewards(m, cfg)
        scale = torch.tensor(1.0 if terms["grasp"].sum().item() >= 0 else 2.0, device=terms["grasp"].device)
        return {**terms, "reach": terms["reach"] * scale}


def test_a_task_that_cannot_be_captured_runs_and_is_named(caplog):
    """On a GPU; on the CPU nothing is captured and nothing is said. Either way it computes what it says."""
    fields = {"num_envs": 64, "backend": "mjwarp", "device": DEVICE}
    env, plain = (cls(override(Config(task=cls.config()), fields), seed=0) for cls in (Waits, BoxGrasping))
    env.reset(seed=1), plain.reset(seed=1)
    for _ in range(8):
        actions = torch.zeros(64, 18, device=DEVICE)
        reward, other = env.step(actions)[1], plain.step(actions)[1]
    torch.testing.assert_close(reward, other)
    told = [record.message for record in caplog.records if "not a CUDA graph" in record.message]
    assert len(told) == GPU
    assert not GPU or "rewards() in " in told[0]
    assert not GPU or "test_mjwarp.py:" in told[0]
    for captured in (plain._drive, plain._finish, plain._place, plain._observe):
        assert (captured._graph is not None) == GPU, "what does not wait is captured"


def test_what_lies_on_its_side_is_captured_too():
    env = make(16, object=Capsule("box", size=(0.04, 0.08)))
    for _ in range(4):
        env.step(torch.zeros(16, 18, device=DEVICE))
    assert (env._place._graph is not None) == GPU
    assert env.measured["start_box"][:, 2].tolist() == pytest.approx([0.02] * 16)


class Varied(BoxGrasping):
    """A cube of another mass and size in every episode."""

    def vary(self):
        return {"box.mass": self.uniform(0.1, 0.3, 1)[:, 0], "box.size": self.uniform(0.04, 0.06, 1)[:, 0]}


def test_a_variation_of_every_episode():
    fields = {"num_envs": 256, "backend": "mjwarp", "device": DEVICE, "episode_length": 3}
    env = Varied(override(Config(task=Varied.config()), fields), seed=0)
    seen = []
    for _ in range(13):
        seen.append(env.memory()["sim.body_mass"][:, 0].clone())
        env.step(torch.zeros(256, 18, device=DEVICE))
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[9], seen[11]), "within an episode"
    assert not torch.equal(seen[2], seen[3]) and not torch.equal(seen[11], seen[12])
    for mass in seen:
        assert 0.1 <= mass.min() < 0.11 and 0.29 < mass.max() <= 0.3
    state, size = env.get_state(), env.measured["box_size"].clone()
    assert torch.equal(env.measured["start_box"][:, 2:3], size / 2) and size.std() > 0.005
    env.reset(seed=9)
    env.set_state(state)
    assert torch.equal(env.measured["box_size"], size)
    assert torch.equal(env.memory()["sim.body_mass"], state["sim.body_mass"])


def test_parts_in_another_order_give_the_engines_results_to_the_bit():
    """Hands that hold a box: 20 physics steps of ours and of mujoco_warp.step, from the same state."""
    (dofs, roots), targets = grasping_states(8)
    sim = make_sim(Scene(objects=(Box(),)), 8, SimConfig(), 1, "mjwarp", DEVICE)
    sim.dof_state.copy_(dofs)
    sim.root_state.copy_(roots)
    sim.write_state(torch.ones(8, dtype=torch.bool, device=sim.device))
    sim.step(targets[0].to(sim.device))
    state = {name: wp.to_torch(getattr(sim._d, name)) for name in STATE}
    start = {name: x.clone() for name, x in state.items()}
    ends = []
    for step in (sim._physics_step, lambda d: mjw.step(sim._m, d)):
        for name, x in state.items():
            x.copy_(start[name])
        with sim._on_device():
            for _ in range(20):
                step(sim._d)
        found = (*STATE, "qacc", "xpos", "cvel", "actuator_force", "qfrc_constraint")
        ends.append({name: wp.to_torch(getattr(sim._d, name)).clone() for name in found})
        assert int(wp.to_torch(sim._d.nacon)[0]) > 8 * 3
    for name, ours in ends[0].items():
        if GPU:  # which thread adds first, varies there: the engine's own results differ by as much
            torch.testing.assert_close(ours, ends[1][name], atol=2e-2, rtol=1e-2)
        else:
            assert torch.equal(ours, ends[1][name]), name


def test_a_scene_with_tendons_is_left_to_the_engine():
    def with_tendon(spec):
        tendon = spec.add_tendon(name="string", stiffness=5.0)
        tendon.wrap_joint("r_f_joint2_2", 1.0)
        tendon.wrap_joint("r_f_joint3_2", -1.0)

    ends = []
    for backend, device in (("mujoco", "cpu"), ("mjwarp", DEVICE)):
        sim = make_sim(Scene(objects=(Box(),), edit_spec=with_tendon), 2, SimConfig(), 1, backend, device)
        target = torch.zeros(2, 26, device=sim.device)
        target[:, sim.dof_names.index("r_f_joint2_2")] = 0.8
        for _ in range(40):
            sim.step(target)
        ends.append(sim.dof_state[0, :, 0].cpu().clone())
    pulled = sim.dof_names.index("r_f_joint3_2")
    assert ends[0][pulled] > 0.2, "the string pulls at its other end"
    assert ends[1] == pytest.approx(ends[0], abs=2e-3)


LOADS = """
import torch, warp as wp
wp.config.verbose = False
from dexhand_gym.sim import Box, Scene, SimConfig, make_sim
from dexhand_gym.sim import mjwarp, warp_modules
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s")
wp.config.log_level, warp_modules.PATIENCE, warp_modules.MOST_THREADS = wp.LOG_INFO, 0.01, 2
sim = make_sim(Scene(objects=(Box(),)), 2, SimConfig(), 1, "mjwarp", {device!r})
for compilation in sim._compilations.values():
    compilation.wait()
print("all loaded", flush=True)
sim.step(torch.zeros(2, 26, device=sim.device))
sim.step(torch.zeros(2, 26, device=sim.device))
print("stepped", flush=True)
"""


def test_kernels_are_compiled_side_by_side_before_the_first_step():
    """Not one more is loaded when it runs, and whoever waits is told how far it is."""
    done = subprocess.run(
        [sys.executable, "-c", LOADS.format(device=DEVICE)], capture_output=True, text=True, timeout=600, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    before, _, after = done.stdout.partition("all loaded")
    assert before.count("Module ") > 30
    assert "Module " not in after and "stepped" in after
    told = re.findall(r"compiling the kernels of the physics, once on this machine: (\d+) of (\d+)", done.stderr)
    done, of = zip(*((int(n), int(total)) for n, total in told if int(total) > 30))
    assert list(done) == sorted(done) and done[-1] < of[0] == of[-1], (
        "it counts up, and says no more when all are there"
    )


@pytest.mark.parametrize(
    ("physics", "said", "found"), [("default", 0, (20, 6)), ("default", 9, (9, 9)), ("accurate", 20, (20, 20))]
)
def test_each_engine_has_its_own_limit_of_solver_iterations_until_one_is_said(physics, said, found):
    cfg = copy.deepcopy(PHYSICS[physics])
    if said:
        cfg.solver.iterations = said
    cpu, gpu = (make_sim(Scene(), 1, cfg, 1, *where) for where in (("mujoco", "cpu"), ("mjwarp", DEVICE)))
    assert (cpu.model.opt.iterations, gpu._m.opt.iterations) == found


def test_a_training_goes_on_with_the_other_engine(tmp_path, monkeypatch, capfd):
    """They differ in the kinds of their numbers."""
    monkeypatch.chdir(tmp_path)
    small = [
        "--num-envs",
        "4",
        "--train.num-minibatches",
        "1",
        "--train.horizon-length",
        "4",
        "--train.test-episodes",
        "0",
    ]
    begun = ["--task", "BoxGrasping", *small, "--env.backend", "mjwarp", "--device", DEVICE, "--max-iterations", "1"]
    assert train_ppo.main(begun) == 0
    more = ["--checkpoint", "latest", "--env.backend", "mujoco", "--device", "cpu", "--train.test-episodes", "0"]
    assert train_ppo.main([*more, "--num-envs", "4", "--max-iterations", "2"]) == 0
    told = "".join(capfd.readouterr())
    assert "resumed after iteration 1" in told and "new episodes" not in told
    assert train_ppo.main([*more, "--num-envs", "8", "--max-iterations", "3"]) == 0
    assert "new episodes" in "".join(capfd.readouterr()), "so it is said where they do not go on"
