"""What the documentation says, done."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import mujoco
import pytest
import torch

import dexhand_gym
from dexhand_gym.checker import check_vector_env

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_first_example_runs():
    scope = {}
    exec(PYTHON[0], scope)
    assert scope["obs"].shape == scope["env"].observation_space.shape


def test_the_task_of_the_readme_is_a_task(tmp_path, monkeypatch):
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "point.py").write_text(PYTHON[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        exec("import my_package.point")
        assert dexhand_gym.tasks()["Point"] == "my_package.point:Point"
        env = gymnasium.make_vec("Mine/Point-v0", num_envs=4, seed=0, episode_length=10).unwrapped
        check_vector_env(env, steps=25)
        env.reset()
        for _ in range(9):  # at full speed the fingers stretch by 0.02 rad a step, from 0.2 rad at most
            *_, info = env.step(-torch.ones(4, 18))
        assert info["success"].any() or env.statistics()["success_rate"] > 0
    finally:
        gymnasium.registry.pop("Mine/Point-v0", None)
        sys.modules.pop("my_package.point", None)


def test_an_installed_package_registers_its_tasks(tmp_path):
    info = tmp_path / "waver-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: waver\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dexhand_gym.tasks]\nWaver/Wave-v0 = waver.task:Wave\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import dexhand_gym; print(dexhand_gym.tasks()['Wave'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "waver.task:Wave\n", done.stderr


def test_the_object_of_the_readme_is_one():
    (block,) = [block for block in PYTHON if "Capsule" in block]
    place = {}
    exec(block, place)
    env = place["env"].unwrapped
    env.reset(seed=0)
    assert env.sim.model.geom("box").type[0] == mujoco.mjtGeom.mjGEOM_CAPSULE
    assert env.measured["object_pos"][:, 2].tolist() == pytest.approx([0.02] * 4)


def test_the_hand_of_the_readme_is_one(tmp_path, monkeypatch):
    (block,) = [block for block in PYTHON if "GRIPPER" in block]
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "gripper.py").write_text(block)
    shutil.copy(ROOT / "tests" / "data" / "gripper.xml", tmp_path)
    command = [sys.executable, str(ROOT / "train_ppo.py"), "--import", "my_package.gripper", "--env.hand", "gripper"]
    command += [
        "--task",
        "BoxGrasping",
        "--num-envs",
        "4",
        "--max-iterations",
        "1",
        "--train.horizon-length",
        "4",
        "--train.num-minibatches",
        "1",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "28 observations, 3 actions" in done.stderr + done.stdout


def test_files_that_the_readme_links_exist():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("scripted_grasp.py --num-envs 0", "error: env.num_envs = 0: allowed is a whole number, 1 to 1048576"),
        ("scripted_grasp.py --picture none/x.png", "error: --picture none/x.png: allowed is a .png file in a folder"),
        ("look.py --task BoxGrasping --checkpoint pretrained --out none/x.png", "error: --out none/x.png: allowed is"),
        ("look.py --task Nope --checkpoint pretrained", "error: checkpoint = 'pretrained': there is none for Nope"),
        ("pretrained.py --gif none/x.gif", "error: --gif 'none/x.gif': allowed is"),
    ],
)
def test_a_mistake_in_an_example_is_one_line(line, message, tmp_path):
    name, *flags = line.split()
    command = [sys.executable, str(ROOT / "examples" / name), *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(message), done.stderr
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_scripts_start_as_the_documentation_says():
    for script in ("examples/scripted_grasp.py", "benchmarks/env_step.py"):
        done = subprocess.run(
            [sys.executable, script, "--num-envs", "4", "--help"], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        assert "--num-envs" in done.stdout
