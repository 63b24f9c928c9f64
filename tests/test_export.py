"""Exported policies: the same numbers without this package, and the same grasps in plain MuJoCo."""

from __future__ import annotations

import json
import logging
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import configs
from dexhand_deploy import Contract, Observer, Policy, SimBody, Targets
from dexhand_gym import export, find_task, rotations
from dexhand_gym.envs import make_vec_env
from ppo import policy as policies

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ["pretrained", "pretrained:v0"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a shipped policy."""
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def get(name="pretrained", *words):
        if (name, words) not in made:
            out = folder / f"{len(made)}"
            assert export.main(["--checkpoint", name, "--out", str(out), *words]) == 0
            made[name, words] = out
        return made[name, words]

    return get


@pytest.fixture(autouse=True)
def own_log(monkeypatch):
    """A training that another test has run in this process has left its console."""
    monkeypatch.setattr(logging.root, "handlers", [])


@pytest.fixture
def copied(exported, tmp_path):
    shutil.copytree(exported(), tmp_path / "copy")
    return tmp_path / "copy"


def played(name):
    """The environment of a shipped policy, nominal, and its agent."""
    cfg = configs.parse(["--test", "--checkpoint", name, "--device", "cpu", "--num-envs", "1"])
    cfg.task.randomize = type(cfg.task.randomize)()
    env = make_vec_env(find_task(cfg.task_name), 1, cfg, 0)
    return env, policies.Policy(env, cfg.train, Path(cfg.train.checkpoint)).agent


# --- The files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_all_runtimes_compute_what_torch_does(exported, name):
    env, agent = played(name)
    contract = Contract(exported(name))
    rows = 4 * torch.randn(300, agent.obs_size, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        wanted = agent.act_deterministic(rows).clamp(-1, 1).numpy()
    for runtime in ("numpy", "onnx", "auto"):
        policy = Policy(contract, runtime)
        np.testing.assert_allclose(policy(rows.numpy()), wanted, atol=1e-5)
        np.testing.assert_allclose(policy(rows[7].numpy()), wanted[7], atol=1e-5)
        assert policy(rows[:0].numpy()).shape == (0, 18), "any number of rows"
        assert policy(rows[:6].numpy().reshape(2, 3, -1)).shape == (2, 3, 18)
    assert np.abs(wanted).max() == 1.0, "clamped"
    env.close()


@pytest.mark.parametrize("activation", ["relu", "selu", "tanh", "swish"])
def test_every_activation(tmp_path, activation):
    """A policy of one iteration, without its run's folder, as rl_games leaves them."""
    flags = ["--task", "BaseTask", "--train.activation", activation, "--train.units", "24", "8", "--device", "cpu"]
    cfg = configs.parse([*flags, "--num-envs", "4", "--max-iterations", "1"])
    env = make_vec_env(find_task("BaseTask"), 4, cfg, 0)
    policies.ppo.train(env, cfg.train, tmp_path / "run")
    env.close()
    file = next((tmp_path / "run" / "nn").glob("*.pth"))
    shutil.copy(file, tmp_path / "alone.pth")
    words = ["--task", "BaseTask", "--out", str(tmp_path / "out")]
    assert export.main(["--checkpoint", str(tmp_path / "alone.pth"), *words]) == 0
    said = Contract(tmp_path / "out").said
    assert said["checkpoint"] == "alone.pth"
    assert said["observations"][0] == {
        "name": "base_dof_pos",
        "width": 6,
        "unit": "m, rad",
        "frame": "the hand's root",
        "real_hand": True,
    }


def test_the_contract_says_what_has_to_be_known(exported):
    said = Contract(exported()).said
    env, agent = played("pretrained")
    assert sum(entry["width"] for entry in said["observations"]) == agent.obs_size
    assert all(entry["real_hand"] and entry["unit"] for entry in said["observations"])
    by_name = {entry["name"]: entry for entry in said["actions"]}
    assert list(by_name) == list(env.hand.action_names)
    spread = by_name["ff_spr"]
    assert spread["joints"] == {"r_f_joint2_1": 1.0, "r_f_joint4_1": 1.0, "r_f_joint5_1": 2.0}
    assert (spread["unit"], spread["max_speed"]) == ("rad", pytest.approx(1.0))
    assert by_name["ARTx"]["max_change"] == pytest.approx(0.1 * 0.02)
    np.testing.assert_allclose(said["normaliser"]["mean"], agent.running_mean_std.running_mean, rtol=1e-6)
    assert said["physics"]["objects"][0]["mass"] == 0.1
    assert said["physics"]["timestep"] == pytest.approx(0.02 / 3)
    assert str(ROOT) not in (exported() / "model.xml").read_text() + (exported() / "contract.json").read_text()
    env.close()


def test_only_numpy_is_needed(exported):
    """In a process in which everything else cannot be imported."""
    code = f"""
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "mujoco", "gymnasium", "onnxruntime", "dexhand_gym", "ppo", "configs", "yaml"):
            raise ImportError(name)
sys.meta_path.insert(0, Nothing())
import numpy as np
from dexhand_deploy import Contract, Observer, Policy, Targets
contract = Contract({str(exported())!r})
policy, observer, targets = Policy(contract), Observer(contract), Targets(contract)
readings = {{"base": np.zeros(6), "angles": np.zeros(12), "forces_pad": np.zeros((5, 3))}}
action = policy(observer(readings, targets.current, 0.0))
print(action.shape, targets(action).shape, targets.joints.shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "(18,) (18,) (26,)", done.stderr


# --- The same as the environment -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_plain_mujoco_gives_the_environments_observations(exported, name):
    """Step by step through the beginning of a grasp, touch included; the environment has float32 states."""
    env, agent = played(name)
    contract = Contract(exported(name))
    policy, observer, targets, body = Policy(contract), Observer(contract), Targets(contract), SimBody(contract)
    obs, _ = env.reset(seed=3)
    start = {"hand": env.raw["start_hand"][0].numpy(), "box": env.raw["start_box"][0].numpy()}
    targets.reset(body.reset(start))
    found = observer(body.read(), targets.current, 0.0)
    np.testing.assert_allclose(found, obs[0], atol=1e-5)
    felt = 0.0
    for step in range(60):
        action = policy(found)
        np.testing.assert_allclose(action, agent.act_deterministic(obs)[0].clamp(-1, 1).detach(), atol=2e-2)
        obs, *_ = env.step(torch.from_numpy(action).unsqueeze(0))
        observer.acted(action)
        np.testing.assert_allclose(targets(action), env.measured["targets"][0], atol=1e-5)
        np.testing.assert_allclose(targets.joints, env.measured["dof_targets"][0], atol=1e-5)
        body.send(targets.current)
        found = observer(body.read(), targets.current, contract.control_dt)
        felt = max(felt, np.abs(body.read()["forces_pad"]).max())
        if felt == 0.0:
            np.testing.assert_allclose(found, obs[0], atol=1e-4, err_msg=f"step {step}")
        np.testing.assert_allclose(body.read()["box"][:3], env.measured["object_pos"][0], atol=2e-3)
    assert felt > 0.5, "it has touched the cube"
    env.close()


def test_forces_are_the_environments(exported):
    """A hand pressed on the ground: forces are large and steady, in the world's axes and the pads'."""
    env, _ = played("pretrained")
    contract = Contract(exported())
    body = SimBody(contract)
    env.reset(seed=0)
    start = {"hand": env.raw["start_hand"][0].numpy(), "box": env.raw["start_box"][0].numpy()}
    body.reset(start)
    targets = Targets(contract)
    targets.reset(start["hand"])
    down = torch.zeros(1, 18)
    down[0, 2] = -1.0
    for _ in range(75):
        _, _, terminated, *_ = env.step(down)
        if terminated[0]:
            break
        targets(down[0].numpy())
        body.send(targets.current)
        m, found = env.observations(), body.read()
        np.testing.assert_allclose(found["forces_world"].ravel(), m["contact_forces"][0], atol=0.2, rtol=0.1)
        np.testing.assert_allclose(found["forces_pad"].ravel(), m["fingertip_forces"][0], atol=0.2, rtol=0.1)
        np.testing.assert_allclose(found["pads_world"].ravel(), m["pads"].view(5, -1)[:, :3].ravel(), atol=1e-4)
    env.close()


@pytest.mark.slow
def test_the_example_grasps(exported):
    done = subprocess.run(
        [sys.executable, "examples/deploy_in_mujoco.py", str(exported())], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= 62


@pytest.mark.slow
def test_a_blind_policy_that_remembers_turns_a_cube(exported):
    """CubeRotation by touch, with what it felt up to 20 steps ago: at least five turns about the vertical in 20 s of plain
    MuJoCo (7.4 on average of 16), none dropped."""
    contract = Contract(exported("pretrained:v0_touch", "--task", "CubeRotation"))
    policy, observer, targets, body = Policy(contract), Observer(contract), Targets(contract), SimBody(contract)
    starts = contract.said["starts"]
    for i in range(4):
        targets.reset(body.reset({name: rows[i] for name, rows in starts.items()}))
        observer.reset()
        observation, turned = observer(body.read(), targets.current, 0.0), 0.0
        before = torch.as_tensor(body.read()["object"])
        for _ in range(999):
            action = policy(observation)
            observer.acted(action)
            body.send(targets(action))
            observation = observer(body.read(), targets.current, contract.control_dt)
            now = torch.as_tensor(body.read()["object"])
            turn = rotations.multiply(now[None, 3:7], rotations.conjugate(before[None, 3:7]))[0]
            turned, before = turned + 2 * math.atan(turn[2] / turn[3]), now
        assert now[2] > starts["object"][i][2] - 0.08, "it is still in the hand"
        assert turned / (2 * math.pi) > 5.0


# --- Actions and observations by hand --------------------------------------------------------------------------------


def test_targets_are_integrated_limited_and_coupled(exported):
    contract = Contract(exported())
    targets = Targets(contract)
    start = contract.start.copy()
    action = np.zeros(18, np.float32)
    action[[0, 9]] = 0.5, 3.0  # clamped to 1
    found = targets(action)
    assert found[0] - start[0] == pytest.approx(0.5 * 0.1 * 0.02, abs=1e-7)
    assert found[9] - start[9] == pytest.approx(1.0 * 0.02, abs=1e-7)
    joints = dict(zip(contract.joints, targets.joints))
    assert joints["r_f_joint5_1"] == pytest.approx(2 * found[contract.targets.index("ff_spr")])
    assert joints["r_f_joint2_3"] == joints["r_f_joint2_4"] == pytest.approx(found[contract.targets.index("ff_dip")])
    for _ in range(200):
        targets(np.ones(18))
    np.testing.assert_allclose(targets.current[6:], contract.upper[6:])
    before = targets.current.copy()
    with pytest.raises(ValueError, match="allowed are 18 finite numbers"):
        targets(np.full(18, np.nan))
    np.testing.assert_array_equal(targets.current, before)


def test_touch_by_hand(exported):
    """3 N into the skin, 4 N along it: 3 to the tip and 4 to the right would be 5."""
    contract = Contract(exported())
    observer = Observer(contract)
    forces = np.zeros((5, 3))
    forces[1] = 3.0, 3.0, 4.0
    forces[2] = -1.0, 0.05, 0.0
    readings = {"base": np.arange(6), "angles": np.zeros(12), "forces_pad": forces}
    found = dict(
        zip(contract.observations, np.split(observer(readings, contract.start, 0.0), np.cumsum(contract.widths)[:-1]))
    )
    assert found["fingertip_normal_force"].tolist() == [0, 3, 0, 0, 0]
    assert found["fingertip_tangential_force"].tolist() == pytest.approx([0, 5, 0.05, 0, 0])
    assert found["fingertip_tangential_direction"].reshape(5, 2).tolist()[:3] == [
        [0, 0],
        pytest.approx([0.6, 0.8]),
        [0, 0],
    ]
    assert found["fingertip_contact"].tolist() == [0, 1, 0, 0, 0]
    assert found["base_dof_pos"].tolist() == [0, 1, 2, 3, 4, 5]


def test_how_long_a_finger_has_touched(exported):
    contract = Contract(exported("pretrained:v0"))
    observer = Observer(contract)
    where = slice(*np.cumsum([0, *contract.widths])[[i := contract.observations.index("contact_duration"), i + 1]])
    readings = {
        "base": np.zeros(6),
        "base_velocity": np.zeros(6),
        "angles": np.zeros(12),
        "angle_velocities": np.zeros(12),
    }
    readings["pads_world"] = np.zeros((5, 3))
    told = []
    for force in (0.0, 1.0, 1.0, 0.0, 1.0):
        readings["forces_world"] = np.full((5, 3), force)
        told.append(float(observer(readings, contract.start, 0.02 if told else 0.0)[where][0]))
    assert told == pytest.approx([0, 0.02, 0.04, 0, 0.02])
    observer.reset()
    assert observer(readings, contract.start, 0.0)[where][0] == 0.0


def test_a_policy_that_remembers(exported, copied):
    """Behind the newest observation come those of one and three steps ago; before that, the first."""
    said = json.loads((copied / "contract.json").read_text())
    said["history"], said["observations"] = [1, 3], said["observations"][:1]
    (copied / "contract.json").write_text(json.dumps(said))
    contract = Contract(copied)
    observer = Observer(contract)
    rows = [observer({"base": np.full(6, i)}, contract.start, 0.02)[::6].tolist() for i in range(5)]
    assert rows == [[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 2, 0], [4, 3, 1]]
    with pytest.raises(ValueError, match="the policy sees .* numbers, its contract says 18"):
        Policy(contract, "numpy")
    with pytest.raises(ValueError, match="the policy sees .* numbers, its contract says 18"):
        Policy(contract, "onnx")


# --- Mistakes --------------------------------------------------------------------------------------------------------


def test_readings_that_are_missing_or_wrong(exported):
    contract = Contract(exported())
    observer = Observer(contract)
    good = {"base": np.zeros(6), "angles": np.zeros(12), "forces_pad": np.zeros((5, 3))}
    for change, message in (
        ({"angles": None}, "reading 'angles' is not finite"),
        ({"base": np.zeros(5)}, "observation 'base_dof_pos': 5 numbers, allowed are 6"),
        ({"base": [np.inf] * 6}, "reading 'base' is not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            observer({**good, **change}, contract.start, 0.0)
    del good["angles"]
    with pytest.raises(ValueError, match="reading 'angles' is missing: the body reports base, forces_pad"):
        observer(good, contract.start, 0.0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: (x / "contract.json").unlink(), "No such file.*allowed is a folder of dexhand_gym.export"),
        (lambda x: (x / "contract.json").write_text("{"), "contract.json: "),
        (lambda x: (x / "contract.json").write_text("[]"), "contract.json: not whole"),
        (
            lambda x: changed(x, format="dexhand contract 0"),
            "format = 'dexhand contract 0': allowed is 'dexhand contract 1'",
        ),
        (lambda x: changed(x, control_dt=-1), "control_dt, limits or history make no sense"),
        (lambda x: changed(x, control_dt=float("inf")), "control_dt, limits or history make no sense"),
        (lambda x: changed(x, history=[-1]), "control_dt, limits or history make no sense"),
        (lambda x: changed(x, touch={"threshold": float("nan")}), "control_dt, limits or history make no sense"),
        (lambda x: action(x, max_change=-1), "control_dt, limits or history make no sense"),
        (lambda x: action(x, lower=float("-inf")), "control_dt, limits or history make no sense"),
        (lambda x: action(x, start=float("nan")), "control_dt, limits or history make no sense"),
        (lambda x: action(x, controlled="false"), "controlled: allowed is true or false"),
        (lambda x: of_hand(x, links=[]), "the hand has no body 'right_hand_base'"),
        (lambda x: of_hand(x, palm="x"), "the hand has no body 'x'"),
        (lambda x: of_hand(x, fingers=[]), "fingers or their joints are missing"),
        (lambda x: changed(x, starts={"hand": []}), "the starts are missing"),
        (lambda x: changed(x, starts={}), "not whole, KeyError 'hand'"),
        (lambda x: changed(x, control_mode="torque"), "control_mode = 'torque': allowed is position_delta or position"),
        (lambda x: changed(x, actions=[]), "contract.json|policy has 18 actions, its contract 0"),
        (lambda x: (x / "policy.npz").write_bytes(b"PK"), "policy.npz: not read"),
        (lambda x: (x / "policy.npz").unlink(), "policy.npz: not read"),
    ],
)
def test_a_damaged_export_is_one_line(copied, spoil, message):
    spoil(copied)
    with pytest.raises(ValueError, match=message) as caught:
        Policy(Contract(copied), "numpy")
    assert "\n" not in str(caught.value)


def changed(folder, **fields):
    said = json.loads((folder / "contract.json").read_text())
    (folder / "contract.json").write_text(json.dumps({**said, **fields}))


def action(folder, **fields):
    said = json.loads((folder / "contract.json").read_text())
    changed(folder, actions=[{**said["actions"][0], **fields}, *said["actions"][1:]])


def of_hand(folder, **fields):
    changed(folder, hand={**json.loads((folder / "contract.json").read_text())["hand"], **fields})


def test_a_simulation_takes_what_it_can_use(exported, copied):
    contract = Contract(exported())
    body = SimBody(contract)
    for wrong, message in (
        (lambda: body.send(np.full(18, np.nan)), "targets = .*allowed are 18 finite numbers"),
        (lambda: body.send(np.zeros(3)), "targets = .*allowed are 18 finite numbers"),
        (lambda: body.reset({"hand": contract.start}), "box = .*allowed are 7 finite numbers"),
        (lambda: body.reset({"hand": np.zeros(2), "box": np.zeros(7)}), "hand = .*allowed are 18 finite numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    changed(copied, control_dt=0.007)
    with pytest.raises(ValueError, match="control_dt = 0.007: allowed are steps of 0.00666667"):
        SimBody(Contract(copied))
    targets = Targets(contract)
    targets.reset(contract.start + 100)
    assert (targets.current <= contract.upper).all()


def test_a_damaged_onnx_or_model_is_one_line(copied):
    (copied / "policy.onnx").write_bytes(b"nothing")
    (copied / "model.xml").write_text("<mujoco/>")
    contract = Contract(copied)
    for make, message in (
        (lambda: Policy(contract, "onnx"), "policy.onnx: not read"),
        (lambda: SimBody(contract), "model.xml: "),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint", "nowhere", "--out", "out"], "nowhere"),
        (
            ["--checkpoint", "pretrained", "--out", "full"],
            "--out full: allowed is a folder that is empty or not there yet",
        ),
        (["--checkpoint", "pretrained", "--out", "out", "--task.episode-lenght", "3"], "episode"),
        (
            ["--checkpoint", "pretrained", "--task", "BimanualLift", "--out", "out"],
            "env.hand = 'both': allowed for an export is one hand",
        ),
        (["--checkpoint", "pretrained", "--out", "out", "--starts", "0"], "--starts 0: allowed is 1 to 100000"),
    ],
)
def test_mistakes_leave_nothing_behind(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert export.main(words) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("error: ") and "\n" not in error
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "mine"]


def test_runtimes_that_disagree_are_not_exported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    true = export.write_npz
    monkeypatch.setattr(
        export, "write_npz", lambda file, layers: true(file, {**layers, "bias0": layers["bias0"] + 1e-3})
    )
    assert export.main(["--checkpoint", "pretrained", "--out", "out"]) == 2
    assert "numpy differs from torch by" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
