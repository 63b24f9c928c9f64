"""Isaac Gym's engine on a stand-in (isaacgym_double, which says what that proves and what not). It must be imported before
torch, and so in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from dexhand_gym.hands.dexhand021 import DEXHAND021_RIGHT as HAND
from dexhand_gym.hands.mjcf import write_plain_mjcf
from dexhand_gym.sim import choose_engine, import_isaacgym
from dexhand_gym.sim.kinematics import Kinematics

ROOT = Path(__file__).resolve().parent.parent
DOUBLE = ROOT / "tests" / "isaacgym_double"
MUJOCO_4 = sys.version_info >= (3, 11)  # for the stand-in itself the MuJoCo of Isaac Gym's Python will do
TRAIN = str(ROOT / "train_ppo.py")
SMALL = """--task BoxGrasping --num-envs 4 --env.backend isaacgym --device cpu --train.test-episodes 4
--train.horizon-length 4 --train.num-minibatches 2 --train.mini-epochs 1 --task.episode-length 5"""
FILM = "--env.record-video --env.video-interval 1 --env.video-length 4"


def run(*command, path=DOUBLE, cwd=ROOT, **environment):
    search = os.pathsep.join([str(ROOT), *([str(path)] if path else [])])
    environment = {**os.environ, **environment, "PYTHONPATH": search}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=cwd, env=environment)


def run_tests(file, *options, **environment):
    code = "import isaacgym, pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
    environment = {"ISAACGYM_DOUBLE_SIMS": "many", **environment}
    done = run("-c", code, "-q", "-p", "no:cacheprovider", file, *options, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- The hand without MuJoCo -----------------------------------------------------------------------------------------


@pytest.fixture(params=["ours", "plain"])
def model(request, tmp_path):
    """Of our file, and of the one that is written for Isaac Gym."""
    write_plain_mjcf(HAND.links, tmp_path / "hand.xml")
    return mujoco.MjModel.from_xml_path(str(HAND.file if request.param == "ours" else tmp_path / "hand.xml"))


@pytest.mark.mujoco
def test_kinematics_are_mujocos(model):
    torch.manual_seed(0)
    low, high = torch.tensor(HAND.dof_lower), torch.tensor(HAND.dof_upper)
    state = torch.stack((low + torch.rand(32, 26) * (high - low), torch.randn(32, 26)), -1)
    found = Kinematics(HAND.links, torch.device("cpu"))(state).double().numpy()
    data, motion = mujoco.MjData(model), np.zeros(6)
    for row, bodies in zip(state.double().numpy(), found):
        data.qpos[:], data.qvel[:] = row[:, 0], row[:, 1]
        mujoco.mj_forward(model, data)
        for i, body in enumerate(bodies, 1):
            mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, i, motion, 0)
            np.testing.assert_allclose(body[:3], data.xpos[i], atol=1e-6)
            assert abs(body[3:7] @ np.roll(data.xquat[i], -1)) > 1 - 1e-6
            np.testing.assert_allclose(body[7:], np.roll(motion, 3), atol=1e-5)


@pytest.mark.mujoco
def test_the_plain_file_is_the_same_hand(model):
    ours = mujoco.MjModel.from_xml_path(str(HAND.file))
    assert [model.body(i).name for i in range(1, model.nbody)] == list(HAND.body_names)
    assert [model.joint(i).name for i in range(model.njnt)] == list(HAND.dof_names)
    np.testing.assert_allclose(model.jnt_range, ours.jnt_range)
    np.testing.assert_allclose(model.dof_armature, ours.dof_armature)
    heavy = ours.body_mass > 0  # the others must weigh something for PhysX
    np.testing.assert_allclose(model.body_mass[heavy], ours.body_mass[heavy])
    np.testing.assert_allclose(model.body_ipos[heavy], ours.body_ipos[heavy], atol=1e-9)
    np.testing.assert_allclose(model.body_inertia[heavy], ours.body_inertia[heavy], rtol=1e-6)
    assert model.body_mass.sum() - ours.body_mass.sum() < 0.002
    collides = ours.geom_contype + ours.geom_conaffinity > 0
    wanted = zip(ours.geom_bodyid[collides], ours.geom_size[collides].tolist())
    found = model.geom_contype + model.geom_conaffinity > 0
    assert list(zip(model.geom_bodyid[found], model.geom_size[found].tolist())) == list(wanted)


# --- On the stand-in -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("origins", "order"), [("local", "file"), ("global", "alphabet")])
def test_the_contract(origins, order):
    """Wherever Isaac Gym counts positions from, and in whatever order its importer puts bodies and dofs."""
    environment = {"ISAACGYM_DOUBLE_ORIGINS": origins, "ISAACGYM_DOUBLE_ORDER": order}
    which, passed = "isaacgym", "12 passed"
    if not MUJOCO_4:
        which, passed = "isaacgym and not fresh_kinematics and not same_instant", "10 passed"
    assert passed in run_tests("tests/test_sim.py", "-k", which, **environment)


@pytest.mark.slow
def test_the_engine_and_what_the_stand_in_forbids():
    run_tests("tests/isaacgym_double/on_the_double.py", *([] if MUJOCO_4 else ["-m", "not mujoco"]))


@pytest.mark.slow
def test_a_training_leaves_checkpoints_and_videos_and_is_gone_on_with(tmp_path):
    train = [TRAIN, *SMALL.split()]
    differ = (
        "--task.randomize.per environment --task.randomize.finger-stiffness 0.5 2 --task.randomize.box-mass 0.1 0.2"
    )
    done = run(*train, "--max-iterations", "2", *FILM.split(), *differ.split(), "--seed", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = next((tmp_path / "runs").glob("BoxGrasping_train_*"))
    assert list((folder / "nn").glob("last_*.pth"))
    assert list((folder / "videos").glob("*.mp4"))
    assert "isaacgym" in (folder / "config.yaml").read_text()
    more = run(*train, "--max-iterations", "3", "--checkpoint", "latest", "--seed", "3", cwd=tmp_path)
    assert more.returncode == 0, more.stdout + more.stderr
    assert "iteration 3/3" in more.stdout
    shown = run(*train, "--test", "--checkpoint", "latest", "--render", cwd=tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "watch: a window" in shown.stdout


@pytest.mark.slow
def test_the_self_check_passes_and_fails():
    check = "examples/isaac_gym_check.py"
    done = run(check, "--num-envs", "4", "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    assert "16 of 16" in done.stdout
    numb = """
import atexit, isaacgym, os, runpy, sys
gym = isaacgym.gymapi.Gym
gym.refresh_net_contact_force_tensor = lambda self, sim: sim.tensors["net_contact_force"].zero_()
atexit.register(os.abort)  # as an engine that crashes at the end
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")"""
    done = run("-c", numb, check, "--num-envs", "2", "--device", "cpu", "--no-grasp")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAIL  a resting box weighs m g" in done.stdout


@pytest.mark.slow
def test_each_check_fails_when_what_it_is_about_is_broken():
    run_tests("tests/isaacgym_double/broken_checks.py")


# --- Without it ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "path", "message"),
    [
        ("import torch", DOUBLE, "PyTorch was imported before isaacgym modules"),
        ("", None, "No module named 'isaacgym' (see docs/isaac-gym.md)"),
    ],
)
def test_why_it_cannot_be_used(code, path, message):
    make = "import gymnasium; gymnasium.make_vec('dexhand_gym:DexHand/BaseTask-v0', backend='isaacgym')"
    done = run("-c", f"{code}\n{make}", path=path)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: env.backend = 'isaacgym': ")
    assert message in last


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "environment", "message"),
    [
        (None, {}, "No module named 'isaacgym'"),
        (DOUBLE, {"ISAACGYM_DOUBLE_IMPORT": "RuntimeError"}, "No gym module found (see docs/isaac-gym.md)"),
    ],
)
def test_a_command_without_it_costs_one_line(tmp_path, path, environment, message):
    done = run(TRAIN, "--env.backend", "isaacgym", path=path, cwd=tmp_path, **environment)
    assert done.returncode == 2
    assert done.stderr.strip().startswith(f"error: env.backend = 'isaacgym': {message}")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.mujoco
def test_on_another_python_than_its_own_mujoco_trains(tmp_path):
    """Isaac Gym is there and raises RuntimeError."""
    train = [TRAIN, *SMALL.replace("isaacgym", "auto").split(), "--max-iterations", "1"]
    done = run(*train, cwd=tmp_path, ISAACGYM_DOUBLE_IMPORT="RuntimeError")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "iteration 1/1" in done.stdout


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError", "OSError"])
def test_whatever_importing_it_raises(error, monkeypatch):
    monkeypatch.setenv("ISAACGYM_DOUBLE_IMPORT", error)
    monkeypatch.syspath_prepend(str(DOUBLE))
    with pytest.raises(
        RuntimeError, match=r"^env.backend = 'isaacgym': No gym module found \(see docs/isaac-gym.md\)$"
    ):
        choose_engine("isaacgym", "cpu")
    monkeypatch.delitem(sys.modules, "torch")
    import_isaacgym("auto")
    assert "isaacgym" not in sys.modules


def test_the_self_check_without_it_costs_one_line():
    done = run("examples/isaac_gym_check.py", ISAACGYM_DOUBLE_IMPORT="RuntimeError")
    wanted = "FAIL  Isaac Gym can be imported: No gym module found; see docs/isaac-gym.md\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", wanted)
