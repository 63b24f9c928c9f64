"""Signals at any moment of real programs: nothing is lost, and nobody sees a traceback."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import programs
import pytest

from ppo import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.mujoco]

ROOT = Path(__file__).parent.parent
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
TRAIN = [sys.executable, str(ROOT / "train_ppo.py"), "--num-envs", "8", "--train.horizon-length", "8"]
TRAIN += ["--train.num-minibatches", "2", "--train.units", "16", "--train.log-interval", "1"]


def start(command: list, folder: Path) -> subprocess.Popen:
    return programs.start(command, folder, ENV, bufsize=1)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def under_way(folder: Path) -> bool:
    return any("iteration 2/" in path.read_text() for path in folder.glob("runs_all/*/train.log"))


def assert_saved(folder: Path, word: str) -> None:
    """The newest run has stopped with a checkpoint, and its log says so."""
    log = (folder / "runs" / "latest_train" / "train.log").read_text()
    (saved,) = re.findall(rf"{word}, checkpoint saved; to go on: --checkpoint (\S+)\n$", log)
    assert checkpoint.load(folder / saved)["epoch"] >= 2
    assert "Traceback" not in log


PROGRAMS = {
    "train_ppo.py": TRAIN,
    "dexhand_gym.doctor": [sys.executable, "-m", "dexhand_gym.doctor"],
    "ppo.plot": [sys.executable, "-m", "ppo.plot", "."],
    "pretrained.py": [sys.executable, str(ROOT / "examples" / "pretrained.py")],
    "scripted_grasp.py": [sys.executable, str(ROOT / "examples" / "scripted_grasp.py"), "--num-envs", "4"],
}
MOMENTS = [("train_ppo.py", signal.SIGINT, seconds) for seconds in (0.1, 0.4, 0.8, 1.2, 1.8, 2.5, 3.5)]
MOMENTS += [("train_ppo.py", signal.SIGTERM, 0.6), ("train_ppo.py", signal.SIGTERM, 2.0)]
MOMENTS += [(name, signal.SIGINT, 0.4) for name in PROGRAMS if name != "train_ppo.py"]


@pytest.mark.parametrize("name, number, seconds", MOMENTS)
def test_stopping_shows_no_traceback(tmp_path, name, number, seconds):
    """Neither while a program imports nor later. A shell makes 128 + n of what died of signal n."""
    process = start(PROGRAMS[name], tmp_path)
    time.sleep(seconds)
    process.send_signal(number)
    out, _ = process.communicate(timeout=300)
    opening = (
        re.escape(str(ROOT)) + r'/[\w/]+\.py", line ([0-9]|1[0-9]), in <module>'
    )  # down to the line that sets the signal
    assert f'File "{ROOT}' not in re.sub(opening, "", out), out
    if "KeyboardInterrupt" not in out:  # else it was Python's own start, down to that line
        assert process.returncode in (-number, 128 + number), out


def test_a_closed_terminal_stops_a_training_with_a_checkpoint(tmp_path):
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, TRAIN, ENV)
    os.set_blocking(terminal, False)

    def reading() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(terminal, 1 << 16)
        return under_way(tmp_path)

    wait_for(reading)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 129
    assert_saved(tmp_path, "terminal closed")


def test_a_shell_may_tell_twice(tmp_path):
    process = start(TRAIN, tmp_path)
    wait_for(lambda: under_way(tmp_path))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.001)
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 129, out
    assert_saved(tmp_path, "terminal closed")


def test_nohup_outlives_its_terminal(tmp_path):
    process = start(["nohup", *TRAIN], tmp_path)
    wait_for(lambda: under_way(tmp_path))
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 143, out
    assert_saved(tmp_path, "terminated")
