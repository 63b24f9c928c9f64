"""The environments: contract, terms on hand-made numbers, and the hand at work."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import dexhand_gym
from dexhand_gym.checker import check_vector_env
from dexhand_gym.envs import actions as stages
from dexhand_gym.envs.base_task import BaseTask, BaseTaskConfig
from dexhand_gym.envs.box_grasping import BoxGrasping, BoxGraspingConfig
from dexhand_gym.envs.config import Config
from dexhand_gym.envs.quantities import Measured
from dexhand_gym.hands.dexhand021 import DEXHAND021_RIGHT as HAND
from dexhand_gym.sim import PHYSICS
from examples.scripted_grasp import scripted_env, scripted_grasp, success_rate

TASKS = ["DexHand/BaseTask-v0", "DexHand/BoxGrasping-v0", "DexHand/BlindGrasping-v0", "DexHand/ObjectGrasping-v0"]
TASKS += ["DexHand/BimanualLift-v0", "DexHand/CubeRotation-v0", "DexHand/CubeReorientation-v0"]


def make(task="DexHand/BoxGrasping-v0", num_envs=4, seed=0, **fields):
    return gymnasium.make_vec(task, num_envs=num_envs, seed=seed, **fields).unwrapped


def run_python(code):
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- Registration and Gymnasium's contract ---------------------------------------------------------------------------


def test_import_registers_and_loads_nothing_heavy():
    code = "import sys, gymnasium, dexhand_gym; print([m for m in ('torch', 'mujoco', 'isaacgym') if m in sys.modules])"
    assert run_python(code) == "[]"
    assert dexhand_gym.tasks()["BoxGrasping"] == "dexhand_gym.envs.box_grasping:BoxGrasping"


def test_make_vec_by_module_name_needs_no_import():
    code = "import gymnasium; print(gymnasium.make_vec('dexhand_gym:DexHand/BoxGrasping-v0', num_envs=3).num_envs)"
    assert run_python(code) == "3"


@pytest.mark.parametrize("task", TASKS)
def test_single_environment_passes_gymnasiums_checker(task):
    check_env(gymnasium.make(task).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("task", TASKS)
def test_vector_environment_passes_the_checker(task):
    check_vector_env(make(task, num_envs=8, episode_length=7), steps=20)


def test_checker_finds_a_terminal_observation_returned_as_the_new_one():
    class Stale(BoxGrasping):
        def step(self, actions):
            _, *rest, info = super().step(actions)
            return info["final_obs"], *rest, info

    cfg = Config(task=BoxGraspingConfig(episode_length=5))
    cfg.env.num_envs = 4
    with pytest.raises(AssertionError, match="the final, not the new observation"):
        check_vector_env(Stale(cfg, seed=0), steps=10)


def test_a_task_of_ones_own():
    dexhand_gym.register_task("Mine/Wave-v0", "dexhand_gym.envs.base_task:BaseTask")
    try:
        assert dexhand_gym.tasks()["Wave"] == "dexhand_gym.envs.base_task:BaseTask"
        assert make("Mine/Wave-v0", num_envs=2).num_envs == 2
    finally:
        del gymnasium.registry["Mine/Wave-v0"]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"episode_lenght": 5},
            TypeError,
            "unexpected keyword argument 'episode_lenght': no such environment option; did you mean episode_length?",
        ),
        ({"frameskip": 1}, TypeError, "unexpected keyword argument 'frameskip'"),  # what TorchRL tries, and looks for
        (
            {"randomize": {"box_sizes": (0.04, 0.06)}},
            TypeError,
            "argument 'task.randomize.box_sizes': .* did you mean task.randomize.box_size?",
        ),
        ({"size": 0.04, "task.dt": 1}, TypeError, "unexpected keyword argument 'task.dt': .* did you mean"),
        ({"episode_length": 0}, ValueError, "task.episode_length = 0: allowed is a whole number, 1 to"),
        ({"control_mode": "velocity"}, ValueError, "task.control_mode: unknown name 'velocity'"),
        (
            {"policy_observation_keys": ("hand_pos",)},
            ValueError,
            r"'hand_pos'; did you mean 'hand_pose'\? Allowed: base_",
        ),
        ({"active_failure_criteria": ("hit_ground",)}, ValueError, r"did you mean 'hitting_ground'\?"),
        ({"reward_weights": {"grasp": 1.0}}, ValueError, r"task.reward_weights.reach is missing"),
        ({"task.reward_weights.grip": 1.0}, TypeError, "did you mean"),
        ({"device": "cuda"}, ValueError, "env.device = 'cuda'"),
        ({"num_substeps": 3}, TypeError, "did you mean substeps"),
        ({"nonsense": 1}, TypeError, "'nonsense': no such environment option$"),
    ],
)
def test_mistakes_are_named(fields, error, message):
    with pytest.raises(error, match=message):
        make(**fields)


def test_options_of_a_reset_are_a_dict():
    with pytest.raises(ValueError, match="options = 3: allowed is a dict, such as {'reset_mask': mask}"):
        make("DexHand/BaseTask-v0", num_envs=1).reset(options=3)


@pytest.mark.parametrize("mask", [None, 1, "all", [True], [1, 0], [[True, False]], [None, True], {"a": 1}])
def test_a_mask_of_a_reset_is_one(mask):
    env = make("DexHand/BaseTask-v0", num_envs=2, backend="none")
    with pytest.raises(ValueError, match=r"reset_mask: .*, allowed is \(2,\) bool"):
        env.reset(options={"reset_mask": mask})


def test_the_single_environment_refuses_options_that_do_nothing():
    env = gymnasium.make("DexHand/BaseTask-v0", backend="none")
    env.reset(options={})
    with pytest.raises(ValueError, match="options: unknown name 'reset_masks'; did you mean 'reset_mask'"):
        env.reset(options={"reset_masks": [True]})


def test_an_ending_pays_nothing_unless_a_weight_says_so():
    assert "termination_success" not in BaseTaskConfig.__dataclass_fields__["reward_weights"].default_factory()
    paid = {**BaseTaskConfig().reward_weights, "termination_timeout_penalty": 3.0}
    env = make("DexHand/BaseTask-v0", num_envs=1, reward_weights=paid)
    endings = [name for name in env.reward_weights if name.startswith("termination_")]
    assert [env.reward_weights[name] for name in endings] == [0.0, 0.0, -3.0]
    assert endings == ["termination_success", "termination_failure_penalty", "termination_timeout_penalty"]


def test_gymnasium_make_is_one_environment():
    for name in ("num_envs", "env.num_envs"):
        with pytest.raises(
            TypeError, match=f"{name} = 2: gymnasium.make is one environment, gymnasium.make_vec several"
        ):
            gymnasium.make("DexHand/BaseTask-v0", **{name: 2})
    with pytest.raises(TypeError, match="'nonsense': no such environment option was raised"):
        gymnasium.make("DexHand/BaseTask-v0", nonsense=1)


def test_reward_terms_and_weights_must_match():
    class Extra(BaseTask):
        @staticmethod
        def rewards(m, cfg):
            return {**BaseTask.rewards(m, cfg), "bonus": m["dof_pos"][:, 0]}

    with pytest.raises(ValueError, match="reward term without a weight.*'bonus'"):
        Extra(Config(task=BaseTaskConfig()))


def test_options_reach_their_field_and_leave_the_config_alone():
    cfg = Config(task=BoxGraspingConfig())
    env = make(cfg=cfg, mass=0.3, **{"task.reward_weights.grasp": 9.0, "sim.dt": 0.005})
    assert env.cfg.env.box.mass == 0.3
    assert env.cfg.task.reward_weights["grasp"] == 9.0
    assert env.control_dt == pytest.approx(0.005)
    assert env.sim.model.body("box").mass == pytest.approx(0.3)
    assert cfg == Config(task=BoxGraspingConfig())


# --- Episodes --------------------------------------------------------------------------------------------------------


def play(env, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    trace = [env.reset(seed=seed)[0]]
    for _ in range(steps):
        action = torch.rand(env.num_envs, 18, generator=generator, dtype=torch.float32) * 2 - 1
        obs, reward, terminated, truncated, _ = env.step(action)
        trace += [obs, reward, terminated, truncated]
    return trace


def test_same_seed_same_trajectory_to_the_bit():
    first, again, other = (play(make(num_envs=6, episode_length=15), 40, seed) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first[0], other[0])


def test_time_out_truncates_and_restarts_within_the_step():
    env = make("DexHand/BaseTask-v0", num_envs=3, episode_length=4)
    env.reset(seed=0)
    for step in range(1, 9):
        _, reward, terminated, truncated, info = env.step(torch.zeros(3, 18))
        assert not terminated.any()
        assert truncated.all() == (step % 4 == 0)
        assert torch.equal(info["time_outs"], truncated)
        assert info["episode"]["l"].tolist() == [(step - 1) % 4 + 1] * 3
        time = env.observations()["episode_time"][:, 0]
        assert time.tolist() == pytest.approx([(step % 4) * 0.02] * 3)
    assert info["episode"]["r"].numpy() == pytest.approx(4 * reward.numpy(), rel=0.1)
    assert env.statistics()["ending/time_out"] == 1.0


def test_reset_mask_restarts_only_those():
    env = make(num_envs=4)
    for _ in range(5):
        env.step(torch.ones(4, 18))
    before = env.observations()
    for mask in (torch.tensor([True, False, False, True]), np.array([True, False, False, True])):
        env.reset(options={"reset_mask": mask})
        after = env.observations()
        assert after["episode_time"][:, 0].tolist() == pytest.approx([0, 0.1, 0.1, 0])
        for name in before:
            assert torch.equal(before[name][1:3], after[name][1:3]), name
        assert not torch.equal(before["base_dof_pos"][0], after["base_dof_pos"][0])
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": torch.ones(3, dtype=torch.bool)})


def test_starts_are_where_the_task_says():
    env = make(num_envs=512)
    m = env.observations()
    box, base = m["object_pos"], m["base_dof_pos"]
    assert box[:, :2].abs().max() <= 0.02
    assert box[:, :2].std(0).numpy() == pytest.approx(0.04 / 12**0.5, rel=0.1)  # uniform
    assert box[:, 2].numpy() == pytest.approx(0.025, abs=1e-6)
    yaw = 2 * torch.atan2(m["object_quat"][:, 2], m["object_quat"][:, 3])
    assert yaw.cos().mean().abs() < 0.15
    assert (base[:, 0] + 0.13).abs().max() <= 0.0301
    lowest = torch.cat((m["fingertip_poses_world"], m["fingerpad_poses_world"]), 1).view(512, 10, 7)[..., 2].min()
    assert lowest > 0, "a start inside the ground"
    assert (m["contact_force_magnitude"] > 5).float().mean() < 0.01, "starts inside the box"


def test_a_state_that_blows_up_ends_only_its_own_episode(caplog):
    env, twin = (make(num_envs=3) for _ in range(2))
    for e in (env, twin):
        e.reset(seed=1)
    env.sim.dof_state[1, 8, 1] = float("nan")
    env.sim.write_state(torch.tensor([False, True, False]))
    obs, reward, terminated, _, info = env.step(torch.zeros(3, 18))
    _, expected, *_ = twin.step(torch.zeros(3, 18))
    assert terminated.tolist() == [False, True, False]
    assert reward[1] == 0
    assert torch.equal(reward[[0, 2]], expected[[0, 2]])
    assert torch.isfinite(obs).all()
    assert torch.isfinite(info["final_obs"]).all()
    assert not info["success"].any()
    assert {name: hit.tolist() for name, hit in info["endings"].items() if hit.any()} == {
        "nonfinite": [False, True, False]
    }
    for _ in range(3):
        obs, reward, terminated, *_ = env.step(torch.zeros(3, 18))
        assert torch.isfinite(obs).all()
        assert not terminated.any()
    statistics = env.statistics()
    assert statistics["nonfinite"] == 1
    assert all(np.isfinite(value) for value in statistics.values())
    assert "1 environment" in caplog.text


def test_statistics_are_means_since_the_last_call():
    env = make("DexHand/BaseTask-v0", num_envs=2, episode_length=5)
    env.reset(seed=0)
    rewards = torch.stack([env.step(torch.zeros(2, 18))[1] for _ in range(10)])
    s = env.statistics()
    assert s["reward_raw/alive"] == pytest.approx(1.0)
    assert s["reward/alive"] == pytest.approx(0.1)
    assert sum(v for k, v in s.items() if k.startswith("reward/")) == pytest.approx(rewards.mean().item(), rel=1e-5)
    assert (s["episodes"], s["episode_length"], s["ending/time_out"]) == (4, 5, 1)
    assert env.statistics()["episodes"] == 0


# --- Observations ----------------------------------------------------------------------------------------------------


WIDTHS = {
    **dict.fromkeys(("base_dof_pos", "base_dof_vel", "base_dof_target", "hand_vel", "object_vel"), 6),
    **dict.fromkeys(("active_finger_dof_pos", "active_finger_dof_vel", "active_finger_dof_target"), 12),
    **dict.fromkeys(("all_finger_dof_pos", "all_finger_dof_vel", "all_finger_dof_target"), 20),
    **dict.fromkeys(("hand_pose", "hand_pose_arr_aligned"), 7),
    **dict.fromkeys(("fingertip_poses_world", "fingertip_poses_hand"), 35),
    **dict.fromkeys(("fingerpad_poses_world", "fingerpad_poses_hand"), 35),
    **dict.fromkeys(("contact_force_magnitude", "contact_binary", "contact_duration", "finger_box_contact"), 5),
    **{"contact_forces": 15, "last_actions": 18, "rule_targets": 18, "episode_time": 1, "fingerpad_distances": 10},
    **{"first_three_fingerpad_centroid": 3, "object_pos": 3, "object_quat": 4, "finger_to_object_distances": 5},
    **{"hand_to_object_distance": 1, "grasp_duration": 1},
}


def test_every_observation_has_its_name_width_and_meaning():
    env = make(num_envs=2)
    env.reset(seed=0)
    action = torch.linspace(-1, 1, 18).repeat(2, 1)
    obs, *_ = env.step(action)
    m = env.observations()
    assert {name: value.shape[1] for name, value in m.items()}.items() >= WIDTHS.items()
    assert torch.equal(obs, torch.cat([m[key] for key in env.task.policy_observation_keys], 1))
    assert torch.equal(m["last_actions"], action)
    assert torch.equal(m["all_finger_dof_pos"], env.sim.dof_state[:, 6:, 0])
    assert torch.equal(m["base_dof_vel"], env.sim.dof_state[:, :6, 1])
    # One column per finger action: joints 1-3 of the thumb, 1-3 of the index, 2-3 of the others.
    driven = ["1_1", "1_2", "1_3", "2_1", "2_2", "2_3", "3_2", "3_3", "4_2", "4_3", "5_2", "5_3"]
    columns = [HAND.dof_names.index(f"r_f_joint{joint}") for joint in driven]
    assert torch.equal(m["active_finger_dof_pos"], env.sim.dof_state[:, columns, 0])
    tip = env.sim.body_names.index("r_f_link2_tip")
    assert torch.equal(m["fingertip_poses_world"][:, 7:14], env.sim.rigid_body_state[:, tip, :7])
    gap = m["fingerpad_poses_world"].view(2, 5, 7)[:, :, :3] - m["object_pos"].unsqueeze(1)
    torch.testing.assert_close(m["finger_to_object_distances"], gap.norm(dim=-1))
    pads = m["fingerpad_poses_world"].view(2, 5, 7)[:, :, :3]
    torch.testing.assert_close(m["fingerpad_distances"][:, 9], (pads[:, 3] - pads[:, 4]).norm(dim=-1))
    torch.testing.assert_close(m["first_three_fingerpad_centroid"], pads[:, :3].mean(1))


def test_hand_poses_in_their_frames():
    env = make("DexHand/BaseTask-v0", num_envs=1)
    m = env.observations()
    assert m["hand_pose"][0].tolist() == pytest.approx([0, 0, 0.25, 0, 0.5**0.5, 0, 0.5**0.5], abs=1e-6)
    assert m["hand_pose_arr_aligned"][0].tolist() == pytest.approx([0, 0, 0.25, 0, 0, 0, 1], abs=1e-6)
    # Fingers point along the palm's z axis, so the middle fingertip is far out there; in the world along x.
    middle_in_hand, middle_in_world = m["fingertip_poses_hand"][0, 14:17], m["fingertip_poses_world"][0, 14:17]
    assert middle_in_hand[2] > 0.25
    assert middle_in_world[0].item() == pytest.approx(middle_in_hand[2].item(), abs=1e-5)


def test_blind_policies_see_nothing_of_the_object():
    privileged = [name for name in WIDTHS if "object" in name or name == "finger_box_contact"]
    assert len(privileged) == 6
    assert not set(privileged) & set(BoxGraspingConfig().policy_observation_keys)


# --- Actions ---------------------------------------------------------------------------------------------------------


def test_action_rules_on_hand_made_numbers():
    limits = stages.Limits(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.5]))
    previous = torch.tensor([[0.0, 1.0]])
    none = torch.zeros(1, 2)
    delta = stages.position_delta(torch.tensor([[0.5, -1.0]]), previous, none, limits)
    assert delta.tolist() == pytest.approx(np.array([[0.05, 0.5]]))
    # 0.5 is 0.5 in [-1, 1] and 1.5 in [0, 2]; the first is more than 0.1 away.
    assert stages.position(torch.tensor([[0.5, 0.5]]), previous, none, limits).tolist() == pytest.approx(
        np.array([[0.1, 1.5]])
    )
    wild = torch.tensor([[5.0, -5.0]])
    assert stages.clamp_velocity(wild, previous, limits).tolist() == pytest.approx(np.array([[0.1, 0.5]]))
    assert stages.clamp_position(wild, previous, limits).tolist() == [[1.0, 0.0]]


def test_targets_move_at_the_limits_and_couple():
    env = make("DexHand/BaseTask-v0", num_envs=1)
    env.step(torch.ones(1, 18))
    m = env.observations()
    assert m["base_dof_target"][0].tolist() == pytest.approx([0.01] * 3 + [0.03] * 3)
    assert m["active_finger_dof_target"][0].tolist() == pytest.approx([0.02] * 12)
    spread = [HAND.dof_names[6:].index(f"r_f_joint{finger}_1") for finger in (2, 3, 4, 5)]
    assert m["all_finger_dof_target"][0, spread].tolist() == pytest.approx([0.02, 0.0, 0.02, 0.04])


def test_each_stage_can_be_replaced():
    env = make("DexHand/BaseTask-v0", num_envs=1)
    seen = {}
    env.pre_action_rule = lambda m: m["start_hand"] + 0.1
    env.action_rule = lambda actions, previous, baseline, limits: baseline + 0.5 * actions  # residual learning
    env.post_action_filters = [lambda targets, previous, limits: seen.setdefault("filtered", targets) - 0.01]
    couple = env.coupling
    env.coupling = lambda targets: seen.setdefault("coupled", couple(targets))
    env.step(torch.full((1, 18), 0.2))
    assert env.observations()["rule_targets"][0].tolist() == pytest.approx([0.1] * 18)
    assert seen["filtered"][0].tolist() == pytest.approx([0.2] * 18)
    assert env.observations()["base_dof_target"][0].tolist() == pytest.approx([0.19] * 6)
    assert seen["coupled"].shape == (1, 26)


@pytest.mark.parametrize(("base", "fingers", "count"), [(True, False, 6), (False, True, 12), (False, False, 0)])
def test_uncontrolled_dofs_hold_their_start(base, fingers, count):
    env = make(num_envs=2, policy_controls_base=base, policy_controls_fingers=fingers)
    start = torch.cat([env.observations()[k] for k in ("base_dof_target", "active_finger_dof_target")], 1)
    assert env.single_action_space.shape == (count,)
    env.step(torch.ones(2, count))
    now = torch.cat([env.observations()[k] for k in ("base_dof_target", "active_finger_dof_target")], 1)
    moved = (now != start).any(0).tolist()
    assert moved == [base] * 6 + [fingers] * 12


# --- Rewards and endings, on hand-made numbers, without a simulator ---------------------------------------------------


def test_base_task_rewards():
    def hand_at_rest():
        return {
            "all_finger_dof_pos": torch.zeros(1, 20),
            "all_finger_dof_vel": torch.zeros(1, 20),
            "prev_all_finger_dof_vel": torch.zeros(1, 20),
            "hand_vel": torch.zeros(1, 6),
            "prev_hand_vel": torch.zeros(1, 6),
            "tips": torch.tensor([0.3, 0.02, 0.1, 0.2, 0.5]).view(1, 5, 1).expand(1, 5, 7),
            "contact_binary": torch.zeros(1, 5),
            "prev_contact_binary": torch.zeros(1, 5),
            "dof_lower": torch.tensor(HAND.dof_lower),
            "dof_upper": torch.tensor(HAND.dof_upper),
        }

    cfg = Config(task=BaseTaskConfig())
    rest = {name: value.item() for name, value in BaseTask.rewards(hand_at_rest(), cfg).items()}
    assert set(rest) == {name for name in BaseTaskConfig().reward_weights if not name.startswith("termination")}
    assert rest["height_safety"] == 0.0  # the lowest tip is at 2 cm
    # At zero every finger joint is at its lower limit, -1 normalised, 0.2 beyond the margin; the fixed one is at 0.
    assert rest["joint_limit"] == pytest.approx(1 - 0.2 * 19 / 20)
    ones = set(rest) - {"height_safety", "joint_limit"}
    assert all(rest[name] == 1.0 for name in ones)

    m = hand_at_rest()
    m["tips"] = m["tips"] + 0.1
    m["all_finger_dof_vel"][0, :2] = torch.tensor([3.0, 4.0])
    m["hand_vel"][0] = torch.tensor([0.0, 2.0, 0.0, 1.0, 0.0, 0.0])
    m["contact_binary"][0, :2] = 1.0
    busy = {name: value.item() for name, value in BaseTask.rewards(m, cfg).items()}
    assert busy["height_safety"] == pytest.approx(1 - np.exp(-20 * 0.1))
    assert busy["finger_velocity"] == pytest.approx(np.exp(-0.5))
    assert busy["hand_velocity"] == pytest.approx(np.exp(-0.4))
    assert busy["hand_angular_velocity"] == pytest.approx(np.exp(-0.2))
    assert busy["finger_acceleration"] == pytest.approx(np.exp(-10.0))
    assert busy["hand_acceleration"] == pytest.approx(np.exp(-1.0))
    assert busy["hand_angular_acceleration"] == pytest.approx(np.exp(-0.5))
    assert busy["contact_stability"] == pytest.approx(np.exp(-2.0))


def box_scene(height=0.025, touching=(0, 1), held=0.0):
    """A 5 cm cube, unturned, with all five pads 1 cm off its faces at x = +-3.5 cm, and the fingers in `touching` pressed."""
    pads = torch.zeros(1, 5, 7)
    pads[..., 0] = torch.tensor([-0.035, 0.035, 0.035, 0.035, 0.035])
    pads[..., 2] = height
    contact = torch.zeros(1, 5)
    contact[0, list(touching)] = 1.0
    raw = {
        "box": torch.tensor([[0.0, 0.0, height, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]]),
        "start_box": torch.tensor([[0.0, 0.03, 0.025, 0, 0, 0, 1]]),
        "box_size": torch.tensor([[0.05]]),
        "pads": pads,
        "tips": pads,
        "hand_pose": torch.tensor([[0.0, 0.0, height + 0.1, 0, 0, 0, 1]]),
        "contact_binary": contact,
        "last_actions": torch.full((1, 18), 0.5),
        "grasp_duration": torch.tensor([held]),
    }
    cfg = Config(task=BoxGraspingConfig())
    return Measured(raw, BoxGrasping.quantities, cfg), cfg


def test_box_grasping_rewards():
    m, cfg = box_scene(height=0.1125, held=0.5)  # half of the way from 0.025 to 0.2
    terms = {name: value.item() for name, value in BoxGrasping.rewards(m, cfg).items()}
    assert terms == pytest.approx(
        {
            "reach": np.exp(-0.25),
            "thumb_contact": np.exp(-0.3),  # pushed by 3 cm
            "finger_contact": np.exp(-0.3),
            "grasp": 1.0,
            "lift": 0.5,
            "hold": 0.25,
            "action": 18 * 0.25,
            "object_height": 0.5,
            "single_finger_contact": 0.0,
            "multi_finger_contact": 1.0,
            "finger_to_object": np.exp(-5 * 0.035),
            "fingerpad_to_box_centroid": np.exp(-32 * 0.035 / 3),  # pads 1-3: (-3.5 + 3.5 + 3.5) / 3
            "hand_to_object": np.exp(-0.1),
            "grasp_duration": 0.25,
        },
        rel=1e-5,
    )
    assert set(terms) == {name for name in cfg.task.reward_weights if not name.startswith("termination")}


@pytest.mark.parametrize(
    ("touching", "grasp", "single"), [((), 0, 0), ((0,), 0, 1), ((2,), 0, 1), ((1, 2), 0, 0), ((0, 4), 1, 0)]
)
def test_a_grasp_is_thumb_and_another_finger(touching, grasp, single):
    m, cfg = box_scene(height=0.15, touching=touching)
    terms = BoxGrasping.rewards(m, cfg)
    assert terms["grasp"].item() == terms["multi_finger_contact"].item() == grasp
    assert terms["single_finger_contact"].item() == single
    assert (terms["lift"].item() > 0) == bool(grasp)
    assert terms["object_height"].item() > 0


def test_fingers_on_the_ground_are_not_on_the_box():
    m, _ = box_scene(touching=(0, 1))
    m["pads"][0, 1, 0] = 0.046  # 2.1 cm from the face
    assert m["finger_box_contact"].tolist() == [[1, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("height", "touching", "held", "high", "success"),
    [
        (0.21, (0, 1), 0.0, True, False),
        (0.21, (1, 2), 2.0, True, True),  # any two fingers
        (0.21, (0,), 0.0, False, False),
        (0.199, (0, 1, 2), 1.98, False, False),
        (0.3, (0, 1, 2, 3, 4), 2.0, True, True),
    ],
)
def test_success_is_two_fingers_above_20_cm_for_2_s(height, touching, held, high, success):
    m, cfg = box_scene(height, touching, held)
    assert m["held_high"].item() is high
    assert BoxGrasping.successes(m, cfg)["grasp_lift_success"].item() is success


def test_failures_of_box_grasping():
    def failures(change):
        m, cfg = box_scene(height=0.1)
        change(m)
        return {name for name, hit in BoxGrasping.failures(m, cfg).items() if hit.item()}

    assert failures(lambda m: None) == set()
    assert failures(lambda m: m["hand_pose"][:, 2].fill_(0.02)) == {"hitting_ground"}
    assert failures(lambda m: m["tips"][0, 3, 2].fill_(-0.003)) == {"hitting_ground"}
    assert failures(lambda m: m["hand_pose"][:, 0].fill_(0.61)) == {"box_too_far"}
    assert failures(lambda m: m["start_box"][:, 1].fill_(0.13)) == {"box_pushed_away"}


def test_a_hold_is_counted_without_a_break_and_ends_the_episode():
    """The real environment with the box put into a closed hand by its own physics: the scripted grasp."""
    env = scripted_env(16, seed=0).unwrapped
    held_before, broke = torch.zeros(16), False
    for _ in range(450):
        *_, info = env.step(torch.zeros(16, 0))
        m = env.measured
        high, duration = m["held_high"], m["grasp_duration"]
        assert torch.equal(duration > 0, high & (env._episode_step > 0))
        grows = high & (held_before > 0) & ~info["_final_obs"]
        assert torch.allclose(duration[grows], held_before[grows] + 0.02, atol=1e-5)
        broke |= bool((~high & (held_before > 0)).any())
        held_before = duration.clone()
    s = env.statistics()
    assert s["success_rate"] > 0.9
    assert s["episode_length"] >= 100


def test_weights_and_endings_add_up_to_the_reward():
    env = make(num_envs=4, episode_length=3, **{"task.reward_weights.termination_timeout_penalty": 7.0})
    env.reset(seed=0)
    for step in range(1, 4):
        _, reward, _, truncated, _ = env.step(torch.zeros(4, 18))
        if step < 3:
            terms = BoxGrasping.rewards(env.measured, env.cfg)
            expected = sum(env.task.reward_weights[name] * value for name, value in terms.items())
            torch.testing.assert_close(reward, expected)
    assert truncated.all()
    assert (reward < -6).all()


# --- The hand at work ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("physics", [pytest.param(x, marks=[pytest.mark.slow] * (x == "accurate")) for x in PHYSICS])
def test_scripted_grasp_lifts_the_box(physics):
    assert success_rate(scripted_env(40, seed=1, physics=physics)) >= 0.95


def test_a_grasp_survives_exploration_noise():
    """Zero-mean action noise of std 0.6 on all 18 actions for 60 steps, from closed grasps: with a stiff base 1 % held on."""
    env = make(num_envs=64, seed=3)

    def grasping():
        on_box = env.observations()["finger_box_contact"]
        return (on_box[:, 0] > 0) & (on_box[:, 1:].amax(1) > 0)

    rule = scripted_grasp(env.device)
    for _ in range(145):
        m = env.measured
        env.step((rule(m) - m["targets"]) / env.limits.max_change)
    at_first = grasping()
    assert at_first.float().mean() > 0.9
    kept = at_first.clone()
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        *_, info = env.step(0.6 * torch.randn(64, 18, generator=generator))
        kept &= ~info["_final_obs"]
    kept &= grasping()
    assert kept.sum() >= 0.8 * at_first.sum()


def test_what_step_returns_can_be_learnt_from():
    """Tensors of inference mode could not: autograd refuses to save them."""
    env = make(num_envs=2)
    network = torch.nn.Linear(env.single_observation_space.shape[0], 1)
    for obs in (
        env.reset()[0],
        *(env.step(torch.zeros(2, 18))[0] for _ in range(2)),
        env.step(torch.zeros(2, 18))[4]["final_obs"],
    ):
        network(obs).sum().backward()
    env.observations()["hand_pose"].add_(1.0)


# --- What goes in and what comes out ---------------------------------------------------------------------------------


def leaves(value):
    """Every tensor in what step() returns."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [leaf for part in (value.values() if isinstance(value, dict) else value) for leaf in leaves(part)]


def test_any_array_like_of_numbers_is_an_action():
    env, twin = make(num_envs=2), make(num_envs=2)
    plain = torch.randint(-1, 2, (2, 18), generator=torch.Generator().manual_seed(0)).float()
    numpy = plain.numpy()
    read_only = numpy.copy()
    read_only.flags.writeable = False
    for action in (
        *(numpy.astype(kind) for kind in (np.float64, np.float16, np.int8, np.int64)),
        *(plain.to(kind) for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int32)),
        numpy.tolist(),
        tuple(numpy),
        list(plain),
        read_only,
        np.asfortranarray(numpy),
        np.repeat(numpy, 2, 1)[:, ::2],
        plain.T.contiguous().T,
        torch.nn.Parameter(plain),
        [torch.nn.Parameter(row) for row in plain],
    ):
        for mine, its in zip(leaves(env.step(action)), leaves(twin.step(plain))):
            assert torch.equal(mine, its), type(action)
    assert not env.stages.newest.requires_grad
    single = gymnasium.make(TASKS[0])
    single.reset(seed=0)
    for action in (np.zeros(18), [0] * 18, torch.zeros(18, requires_grad=True)):
        assert single.unwrapped.step(action)[0].dtype == np.float32


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (torch.zeros(3, 18), ValueError, r"actions: shape \(3, 18\), allowed are numbers of shape \(2, 18\)"),
        (0.0, ValueError, r"shape \(\)"),
        ([], ValueError, r"shape \(0,\)"),
        (None, TypeError, r"actions: NoneType \(of dtype object\), allowed are numbers of shape \(2, 18\)"),
        ("stop", TypeError, r"actions: str \(of dtype <U4\)"),
        ([["1"] * 18] * 2, TypeError, "list .of dtype <U1"),
        ({"hand": 1}, TypeError, "actions: dict"),
        ([[0.0] * 18, [0.0] * 17], TypeError, "actions: list"),
        (np.zeros((2, 18), complex), TypeError, "dtype complex128"),
        (torch.zeros(2, 18, dtype=torch.complex64), TypeError, "dtype torch.complex64"),
        (np.array([[object()] * 18] * 2), TypeError, "dtype object"),
        (torch.zeros(2, 18).to_sparse(), TypeError, "torch.sparse_coo"),
        (torch.zeros(2, 18, device="meta"), TypeError, "on meta"),
    ],
)
def test_what_is_no_action_is_said_in_one_line(action, error, message):
    env = make(num_envs=2)
    before = env.get_state()
    with pytest.raises(error, match=message) as caught:
        env.step(action)
    assert "\n" not in str(caught.value)
    assert all(
        torch.equal(a, b) for a, b in zip(leaves(list(before.values())[2:]), leaves(list(env.get_state().values())[2:]))
    )


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        ("DexHand/BaseTask-v0", {"control_mode": "position"}),
        ("DexHand/BoxGrasping-v0", {"randomize": {"box_size": (0.04, 0.06)}}),
        (
            "DexHand/BlindGrasping-v0",
            {"randomize": {"action_delay": (0, 2), "joint_position_noise": 0.01, "body_position_noise": 0.01}},
        ),
    ],
)
def test_everything_is_float32_whatever_the_default_is(task, fields):
    def trace():
        env = make(task, num_envs=3, episode_length=4, **fields)
        return leaves([play(env, 6, seed=0), env.observations(), list(env.get_state().values())[2:]])

    expected = trace()
    torch.set_default_dtype(torch.float64)
    try:
        found = trace()
    finally:
        torch.set_default_dtype(torch.float32)
    for mine, its in zip(found, expected):
        assert mine.dtype == its.dtype
        assert torch.equal(mine, its)


@pytest.mark.parametrize("critic_keys", [("object_pos",), ()])
def test_what_is_returned_is_the_callers(critic_keys):
    """Overwrites every tensor, one by one: no other one changes, and the environment goes on as its twin does."""
    env, twin = (make(num_envs=3, episode_length=3, critic_observation_keys=critic_keys) for _ in range(2))
    returned = [env.reset(seed=0), twin.reset(seed=0)]
    for _ in range(5):
        mine, expected = map(leaves, returned)
        for i, spoilt in enumerate(mine):
            spoilt.fill_(True) if spoilt.dtype == torch.bool and not spoilt.any() else spoilt.zero_()
            assert all(torch.equal(a, b) for a, b in zip(mine[i + 1 :], expected[i + 1 :])), i
        kept = [x.clone() for x in mine]
        returned = [env.step(torch.ones(3, 18)), twin.step(torch.ones(3, 18))]
        assert all(torch.equal(a, b) for a, b in zip(mine, kept))
        assert all(torch.equal(a, b) for a, b in zip(*map(leaves, returned)))


def test_a_seed_is_that_of_np_random_too():
    env = make(num_envs=2)
    first, _ = env.reset(seed=np.int64(7))
    assert env.np_random_seed == 7
    assert env.np_random.random() == np.random.default_rng(7).random()
    env.reset()
    assert env.np_random_seed == 7
    assert torch.equal(env.reset(seed=7)[0], first)
    env.reset(seed=10**30)  # NumPy takes any
    read_only = np.zeros(2, bool)
    read_only.flags.writeable = False
    env.reset(options={"reset_mask": read_only})


# --- What is asked of it wrongly -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [-1, 1.5, "3", True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ValueError, match="^seed = .*: allowed is a whole number, 0 or more"):
        make(seed=seed)
    with pytest.raises(ValueError, match="^seed = .*: allowed is a whole number, 0 or more"):
        make(backend="none").reset(seed=seed)


def test_a_misspelt_option_of_reset_is_told():
    with pytest.raises(ValueError, match="options: unknown name 'reset_maks'; did you mean 'reset_mask'"):
        make(backend="none").reset(options={"reset_maks": torch.ones(4, dtype=torch.bool)})


def test_a_config_is_a_config():
    with pytest.raises(ValueError, match="^cfg = 3: allowed is a Config"):
        BoxGrasping(3)


def test_a_closed_environment_says_so():
    env = make(backend="none")
    env.close()
    for call in (lambda: env.step(torch.zeros(4, 18)), env.reset):
        with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="make another one"):
            call()


@pytest.mark.parametrize(
    ("stage", "function", "message"),
    [
        ("pre_action_rule", lambda m: m["start_hand"][:, :1], r"pre_action_rule returns a tensor \[4, 1\].*\[4, 18\]"),
        ("pre_action_rule", lambda m: m["start_hand"][:1], r"pre_action_rule returns a tensor \[1, 18\]"),
        ("action_rule", lambda a, *_: a[:1], r"action_rule returns a tensor \[1, 18\]: allowed is a tensor \[4, 18\]"),
        ("coupling", lambda targets: targets, r"coupling returns a tensor \[4, 18\]: allowed is a tensor \[4, 26\]"),
        ("coupling", lambda targets: 0.0, "coupling returns a float"),
        ("coupling", lambda targets: np.zeros((4, 26), np.float32), "coupling returns a ndarray"),
        ("action_rule", lambda a, *_: a.numpy(), "action_rule returns a ndarray"),
        ("pre_action_rule", lambda m: m["start_hand"].numpy(), "pre_action_rule returns a ndarray"),
    ],
)
def test_a_stage_of_another_shape_is_named(stage, function, message):
    env = make(backend="none")
    setattr(env, stage, function)
    with pytest.raises(ValueError, match=message):
        env.step(torch.zeros(4, 18))
    if stage == "coupling":  # which a start needs, too
        with pytest.raises(ValueError, match=message):
            env.reset(seed=0)


def test_a_filter_of_another_shape_is_named():
    def halve(targets, previous, limits):
        return targets[:, :1]

    env = make(backend="none")
    env.post_action_filters = [halve]
    with pytest.raises(ValueError, match=r"halve returns a tensor \[4, 1\]"):
        env.step(torch.zeros(4, 18))


@pytest.mark.parametrize("name", ["episode_step", "consecutive_successes", "delay_steps"])
@pytest.mark.parametrize("value", [-3, 2**62])
def test_counts_of_a_state_are_counts(name, value):
    env = make(backend="none", randomize={"action_delay": (0, 2)})
    state = env.get_state()
    state[name] = state[name] + value
    with pytest.raises(ValueError, match=f"its {name} is no count"):
        env.set_state(state)
