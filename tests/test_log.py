"""What the console and train.log tell."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live

from configs import TrainConfig
from ppo.progress import ProgressDisplay

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SMALL = "--task Fragile --num-envs 4 --max-iterations 3 --train.horizon-length 4 --train.num-minibatches 2"
TASK = """
import warnings
from dexhand_gym.envs.base_task import BaseTask

class Fragile(BaseTask):
    def __init__(self, cfg, seed=None):
        warnings.warn("made of glass")
        super().__init__(cfg, seed)
        print("made", flush=True)
        self.left = 6

    def step(self, actions):
        self.left -= 1
        if not self.left:
            raise KeyError("broken")
        return super().step(actions)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """An installed package with a task that warns when it is made and breaks at the sixth step."""
    folder = tmp_path_factory.mktemp("package")
    info = folder / "fragile-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fragile\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dexhand_gym.tasks]\nFragile/Fragile-v0 = fragile:Fragile\n")
    (folder / "fragile.py").write_text(TASK)
    return folder


def run(package: Path, folder: Path, line: str) -> tuple:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), str(ROOT)])}
    command = [sys.executable, str(ROOT / "train_ppo.py"), *line.split()]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr, (folder / "runs/latest_train/train.log").read_text()


def test_a_crash_is_a_line_on_the_console_and_all_in_the_file(package, tmp_path):
    status, out, err, log = run(package, tmp_path, SMALL)
    assert (status, err) == (1, "")
    assert re.search(rf"crashed in {package}/fragile.py:15, KeyError: 'broken'\n", out)
    assert re.search(r"the traceback is in runs/Fragile_train_\d+_\d+/train.log\n", out)
    assert "Traceback" not in out
    assert "Traceback" in log
    assert 'raise KeyError("broken")' in log
    for line in (
        "WARNING py.warnings: ",
        "made of glass",
        "Fragile: 4 environments on cpu, 89 observations, 18 actions",
    ):
        assert line in log, "what was said before there was a file"
    assert out.index("made of glass") < out.rindex("made\n"), "while it is being made, not when it is there"
    assert "reward per step" not in log


def test_debugging_shows_tracebacks_and_reward_terms(package, tmp_path):
    status, out, err, log = run(package, tmp_path, f"{SMALL} --log-level debug --train.log-interval 1")
    assert (status, err) == (1, "")
    for text in (out, log):
        assert 'raise KeyError("broken")' in text
        assert len(re.findall(r"^ *alive +1.0000 +0.1000 *$", text, re.MULTILINE)) == 1, (
            "of the one iteration that ended"
        )


def test_the_level_is_for_everything(package, tmp_path):
    status, out, err, log = run(package, tmp_path, f"{SMALL} --log-level error")
    assert (status, err) == (1, "")
    assert len(out.replace("made\n", "").splitlines()) == 2
    assert "INFO" not in log and "WARNING" not in log


def test_a_log_without_a_line_is_an_empty_file(package, tmp_path):
    quick = f"{SMALL} --max-iterations 1 --train.test-episodes 1 --task.episode-length 2 --log-level error"
    status, out, err, log = run(package, tmp_path, quick.replace("--task Fragile", "--task BoxGrasping"))
    assert (status, out, err, log) == (0, "", "", "")


def test_a_level_is_for_the_engine_too(package, tmp_path):
    """Warp says nothing of itself and its modules at level info either; the line about a missing driver is not ours."""
    quick = (
        f"{SMALL} --max-iterations 1 --train.test-episodes 1 --task.episode-length 2 --env.backend mjwarp --device cpu"
    )
    status, out, err, _ = run(package, tmp_path, quick.replace("--task Fragile", "--task BoxGrasping"))
    assert status == 0, err
    assert not re.findall(r"^(?:Module |Warp \d|   CUDA|   Devices).*", out + err, re.MULTILINE)


def test_a_line_tells_the_tasks_figures_and_warns_once_of_steps_that_are_far_too_long(caplog):
    caplog.set_level(logging.INFO, "train_ppo")
    display = ProgressDisplay(TrainConfig(log_interval=1, max_iterations=4), Console(force_terminal=False))
    for iteration in (1, 2, 3):
        metrics = {"iteration": iteration, "reward": 1.0, "figure/goals_reached": 3.5, "kl": 49.0 * (iteration > 1)}
        display({**metrics, "rollout_seconds": 1.0, "update_seconds": 1.0, "steps_per_second": 1.0})
    assert caplog.text.count("| goals_reached 3.50 |") == 3
    assert caplog.text.count("the policy moves by a KL divergence of 49 in an iteration") == 1


def test_a_terminal_shows_the_terms_below_the_numbers(caplog):
    caplog.set_level(logging.DEBUG, "train_ppo.progress")
    console = Console(width=100, force_terminal=True, color_system=None)
    display = ProgressDisplay(TrainConfig(log_interval=2, max_iterations=4), console)
    for iteration, raw in ((1, 0.25), (2, 0.75)):
        metrics = {"iteration": iteration, "reward": 1.0, "reward_raw/lift": raw, "reward/lift": 10 * raw}
        metrics.update(rollout_seconds=1.0, update_seconds=1.0, steps_per_second=1.0)
        display({**metrics, "reward_raw/hold": 0.0, "reward/hold": 0.0})
    assert isinstance(display.live, Live)
    with console.capture() as text:
        console.print(display.live.renderable)
    assert re.search(r"lift +0.5000 +5.0000 *\n +hold +0.0000 +0.0000", text.get()), "means of two iterations"
