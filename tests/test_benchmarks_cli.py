"""Benchmarks say in one line where they cannot run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("gpu.py", "error: PyTorch finds no CUDA device, on which this measures", marks=without_gpu),
        pytest.param("learner.py", "error: --device cuda: ", marks=without_gpu),
        ("learner.py --device tpu", "error: --device tpu: "),
        (
            "env_step.py --task.randomize.joint-frictoin 0 1",
            "error: unknown option task.randomize.joint_frictoin; did you",
        ),
        ("learner.py --device cpu --num-envs 0", "error: --num-envs 0: allowed is 1 or more"),
        ("learner.py --device cpu --minibatches 8 0", "error: --minibatches 0: allowed is 1 or more"),
    ],
)
def test_a_mistake_is_one_line(line, message):
    pytest.importorskip("mujoco_warp")
    name, *flags = line.split()
    done = subprocess.run([sys.executable, str(BENCHMARKS / name), *flags], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
