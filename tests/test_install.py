"""What is installed: dexhand_gym and dexhand_deploy, beside which users have files of whatever name."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dexhand_deploy
import dexhand_gym

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SOURCE = (
    "setup.cfg",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "configs.py",
    "train_ppo.py",
    "ppo",
    "dexhand_gym",
    "dexhand_deploy",
)
TINY = "--num-envs 4 --task.episode-length 3 --max-iterations 1 --train.horizon-length 4 --train.num-minibatches 1 --train.units 8"


def run(*command, cwd: Path, **variables) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": "", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def pip(*words, cwd: Path) -> None:
    offline = "--no-deps", "--no-build-isolation", "--disable-pip-version-check"
    run(sys.executable, "-m", "pip", *words, *offline, cwd=cwd)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what is to be installed, as building leaves files behind."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """Built from a source distribution, so that this is complete too."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-c", f"from setuptools import build_meta as b; b.build_sdist({str(folder)!r})", cwd=source)
    (archive,) = folder.glob("*.tar.gz")
    pip("wheel", archive, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request, tmp_path_factory):
    """The folder of the programs of an environment that has dexhand_gym, and all else from where this test runs."""
    folder = tmp_path_factory.mktemp(request.param)
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    source = request.getfixturevalue("wheel" if request.param == "wheel" else "source")
    pip("--python", folder / "bin" / "python", "install", *["-e"] * (request.param == "editable"), source, cwd=folder)
    return folder / "bin"


@pytest.fixture
def users_folder(tmp_path):
    for name in ("configs", "ppo", "train_ppo"):
        (tmp_path / f"{name}.py").write_text(f"MINE = {name!r}\n")
    return tmp_path


def test_the_wheel_has_two_packages_with_all_that_belongs_to_them(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (top_level,) = (archive.read(name).decode() for name in names if name.endswith("top_level.txt"))
    assert top_level == "dexhand_deploy\ndexhand_gym\n"
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dexhand_deploy", "dexhand_gym"}
    deployed = {f"dexhand_deploy/{path.name}" for path in (ROOT / "dexhand_deploy").glob("*.py")}
    deployed.add("dexhand_deploy/py.typed")
    assert {name for name in names if name.startswith("dexhand_deploy/")} == deployed
    kept = {path.relative_to(ROOT) for path in (ROOT / "dexhand_gym").rglob("*") if path.is_file()}
    expected = {str(path) for path in kept if "__pycache__" not in path.parts}
    expected |= {f"dexhand_gym/ppo/{path.name}" for path in (ROOT / "ppo").glob("*.py")}
    expected |= {"dexhand_gym/command/configs.py", "dexhand_gym/command/train_ppo.py"}
    assert {name for name in names if name.startswith("dexhand_gym/")} == expected
    assert {name for name in expected if "pretrained" in name} > {"dexhand_gym/pretrained/BoxGrasping/v0/nn/policy.pth"}


def test_dexhand_deploy_alone_needs_numpy_and_nothing_else(source, tmp_path):
    pip("wheel", source / "dexhand_deploy", cwd=tmp_path)
    (path,) = tmp_path.glob("dexhand_deploy-*.whl")
    with zipfile.ZipFile(path) as archive:
        (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("METADATA"))
        found = {name for name in archive.namelist() if name.endswith(".py")}
    needs = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert needs == ["Requires-Dist: numpy"]
    assert found == {f"dexhand_deploy/{path.name}" for path in (ROOT / "dexhand_deploy").glob("*.py")}


def test_both_packages_have_the_version_that_stands_in_one_place(source, wheel, tmp_path):
    pip("wheel", source / "dexhand_deploy", cwd=tmp_path)
    (alone,) = tmp_path.glob("*.whl")
    assert [path.name.split("-")[1] for path in (wheel, alone)] == [dexhand_deploy.__version__] * 2
    assert dexhand_gym.__version__ == dexhand_deploy.__version__
    tracked = subprocess.run(
        ["git", "grep", "-lF", f'"{dexhand_deploy.__version__}"'], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert tracked.stdout.decode().split() == ["dexhand_deploy/__init__.py"]


def test_neither_shadows_the_other(installed, users_folder):
    code = """
import configs, ppo, train_ppo
print(configs.MINE, ppo.MINE, train_ppo.MINE)
from dexhand_gym.ppo import rl_games_params
from dexhand_gym.ppo.runner import Runner
from dexhand_gym.command import configs as ours, train_ppo
assert (ours.rl_games_params, train_ppo.configs) == (rl_games_params, ours)
assert train_ppo.ppo.__name__ == "dexhand_gym.ppo.ppo"
print(ours.parse(["--task", "BoxGrasping", "--test", "--checkpoint", "pretrained"]).train.checkpoint)"""
    mine, policy = run(installed / "python", "-c", code, cwd=users_folder).splitlines()
    assert mine == "configs ppo train_ppo"
    assert "dexhand_gym/pretrained/BoxGrasping/v" in policy and policy.endswith("/nn/policy.pth")
    code = "from importlib.util import find_spec; print(*map(find_spec, ('configs', 'ppo', 'train_ppo')))"
    assert run(installed / "python", "-c", code, cwd=installed) == "None None None\n"


@pytest.mark.mujoco
def test_the_installed_commands_work(installed, users_folder):
    path = {"PYTHONPATH": str(users_folder)}
    out = run(installed / "dexhand-train", *TINY.split(), cwd=users_folder, **path)
    assert "test it: dexhand-train --test --checkpoint runs/BaseTask_train_" in out
    assert "curves.png" in run(installed / "dexhand-plot", "runs/latest_train", cwd=users_folder, **path)
    assert "ok      python" in run(installed / "dexhand-doctor", cwd=users_folder, **path)


def test_the_repository_keeps_its_names():
    code = "import configs, train_ppo, ppo.ppo; from ppo.runner import Runner; print(configs.PPOConfig is ppo.ppo.PPOConfig)"
    assert run(sys.executable, "-c", code, cwd=ROOT) == "True\n"
    assert "usage: " in run(sys.executable, "-m", "ppo.plot", "--help", cwd=ROOT)


PROGRAMS = """
import os, runpy, sys
root = os.environ["ROOT"]
for file in sorted(f"{root}/{folder}/{name}" for folder in ("benchmarks", "examples") for name in os.listdir(f"{root}/{folder}")):
    if file.endswith(".py") and not file.endswith(("__init__.py", "isaac_gym_check.py")) and "tutorial_" not in file:
        sys.path[:] = [os.path.dirname(file), *(x for x in sys.path if x not in ("", root, os.path.dirname(file)))]
        for name in [x for x in sys.modules if x.partition(".")[0] in ("configs", "ppo", "train_ppo", "examples")]:
            del sys.modules[name]
        runpy.run_path(file, run_name="program")
        print("ok", file)
"""


def test_programs_find_what_they_need(tmp_path):
    """Each from a folder of one's own, as `python .../benchmarks/costs.py` has it."""
    out = run(sys.executable, "-c", PROGRAMS, cwd=tmp_path, ROOT=str(ROOT))
    tasks = [*ROOT.glob("examples/tutorial_*.py")]
    programs = [*ROOT.glob("benchmarks/[a-z]*.py"), *ROOT.glob("examples/[a-z]*.py")]
    assert out.count("ok ") == len(programs) - len(tasks) - 1
