"""python -m dexhand_gym.doctor: what it says where things work and where they do not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
ENGINES, DRAWING = ["isaacgym", "mujoco", "mjwarp"], ["egl", "osmesa", "window", "page", "video"]
LIBRARIES = ["tyro", "yaml", "rich", "tensorboard", "matplotlib", "wandb", "rl_games"]


def examine(*first_on_path: Path, **environment: str) -> tuple:
    """Exit status, {name: (ok, missing or broken; what it says)}, and what else there is to read."""
    path = os.pathsep.join([*map(str, first_on_path), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    command = [sys.executable, "-m", "dexhand_gym.doctor"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.isascii()
    lines = [re.fullmatch(r"(ok|missing|broken) +(\w+) +(\S.*)", line) for line in done.stdout.splitlines()]
    rows = {line[2]: (line[1], line[3]) for line in lines if line}
    assert list(rows) == ["python", *ENGINES, "torch", "gymnasium", *DRAWING, *LIBRARIES]
    return done.returncode, rows, done.stdout.splitlines()[len(rows) :]


@pytest.mark.draws
@pytest.mark.mujoco
def test_here_mujoco_works_without_a_gpu_or_a_display():
    status, rows, rest = examine(DISPLAY="", WAYLAND_DISPLAY="")
    assert (status, rest) == (0, [])
    assert rows["mujoco"] == ("ok", "steps BoxGrasping on cpu")
    assert rows["isaacgym"] == ("missing", "isaacgym is not installed; see docs/isaac-gym.md")
    assert rows["window"] == ("missing", "no display; watch the page, or record a video")
    working = ("egl", "osmesa", "page", "video", "torch", "matplotlib", "wandb")
    assert not {name: rows[name] for name in working if rows[name][0] != "ok"}
    assert re.match(r"\d+\.\d+", rows["torch"][1])


def test_a_package_that_crashes_and_one_that_fails_spoil_no_other(tmp_path):
    (tmp_path / "mujoco.py").write_text("raise OSError('libmujoco.so: no such\\nfile')")
    (tmp_path / "wandb.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    (tmp_path / "isaacgym.py").write_text("raise SyntaxError('not for this Python')")
    status, rows, rest = examine(tmp_path)
    assert (status, rest) == (1, ["no engine works: see isaacgym, mujoco and mjwarp above"])
    assert rows["isaacgym"] == ("broken", "SyntaxError: not for this Python; see docs/isaac-gym.md")
    assert rows["mujoco"][0] == "broken"
    assert "pip install mujoco==4.0.0" in rows["mujoco"][1]
    if sys.version_info >= (3, 11):
        assert rows["mujoco"][1].startswith("OSError: libmujoco.so: no such file; ")
        assert rows["egl"][1] == "OSError: libmujoco.so: no such file; apt-get install libegl1 libegl-mesa0"
    assert rows["wandb"] == ("broken", "crashes with SIGSEGV; pip install 'dexhand-gym[wandb]'")
    assert {rows[name][0] for name in ("python", "torch", "gymnasium", "video", "tyro")} == {"ok"}


def test_who_reads_the_first_line_only_is_told_no_more():
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m dexhand_gym.doctor | head -1"], cwd=ROOT, capture_output=True, text=True
    )
    assert re.fullmatch(r"ok +python +\S+, .+\n", done.stdout)
    assert done.stderr == ""


def test_it_has_no_options_but_help():
    def say(option):
        command = [sys.executable, "-m", "dexhand_gym.doctor", option]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    told = say("--help")
    assert (told.returncode, told.stderr) == (0, "") and "One line per component" in told.stdout
    refused = say("--gpu")
    assert refused.returncode == 2 and "unrecognized arguments: --gpu" in refused.stderr and not refused.stdout
