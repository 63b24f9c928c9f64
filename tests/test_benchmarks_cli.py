"""Benchmarks say in one line where they cannot run."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dexhand_gym.object_sets import load_set

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
POLICY = BENCHMARKS.parent / "dexhand_gym" / "pretrained" / "BoxGrasping" / "v1" / "nn" / "policy.pth"
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("gpu.py", "error: PyTorch finds no CUDA device, on which this measures", marks=without_gpu),
        ("gpu.py --plot {tmp_path}/x.png --json nowhere.json", "error: --json nowhere.json: allowed is a file that"),
        pytest.param("learner.py", "error: --device cuda: ", marks=without_gpu),
        ("learner.py --device tpu", "error: --device tpu: "),
        (
            "env_step.py --task.randomize.joint-frictoin 0 1",
            "error: unknown option task.randomize.joint_frictoin; did you",
        ),
        ("grasping.py train --task Nope", "error: task: unknown name 'Nope'"),
        (
            "grasping.py train --task BaseTask",
            "error: task_name = BaseTask: allowed are tasks in which one can succeed",
        ),
        ("grasping.py train --json {tmp_path}/none/x", "error: --json "),
        ("grasping.py train --json {tmp_path}", "error: --json "),
        ("gpu.py --plot {tmp_path}/x.png", "error: --json None: allowed is a file that"),
        ("gpu.py --plot {tmp_path}/none/x.png --json nowhere.json", "error: --plot "),
        ("grasping.py train --episodes 0", "error: --episodes 0: allowed is 1 or more"),
        ("grasping.py train -- --num-envz 4", "error: unknown option num_envz"),
        ("grasping.py plot nowhere.json --out {tmp_path}/x.png", "error: FILE nowhere.json: allowed is a file that"),
        ("grasping.py plot {policy} --out {tmp_path}/x.png", "error: FILE "),
        ("rl_games_parity.py --json {policy}", "error: --json "),
        ("rl_games_parity.py --picture {tmp_path}/none/x.png", "error: --picture "),
        ("robustness.py --checkpoint pretrained:v0 --task CubeRotation", "error: task_name = CubeRotation: allowed is"),
        ("robustness.py --checkpoint pretrained --task ObjectGrasping", "error: task_name = ObjectGrasping: allowed"),
        ("env_step.py --task ObjectGrasping", "error: task_name = ObjectGrasping: allowed is BoxGrasping, whose"),
        ("learner.py --device cpu --num-envs 0", "error: --num-envs 0: allowed is 1 or more"),
        ("learner.py --device cpu --minibatches 8 0", "error: --minibatches 0: allowed is 1 or more"),
        ("objects.py --checkpoint latest --episodes 0", "error: --episodes 0: allowed is 1 or more"),
        ("objects.py --checkpoint latest --out {tmp_path}/none/x", "error: --out "),
        (
            "objects.py --checkpoint pretrained --objects wedges --out {tmp_path}/x --task.objects train",
            "error: task.objects = train: --objects says",
        ),
        (
            "objects.py --checkpoint pretrained --out {tmp_path}/x num_envs=2",
            "error: env.num_envs = 2: --episodes says",
        ),
        (
            "objects.py --checkpoint pretrained --out {tmp_path}/x --task BoxGrasping",
            "error: task_name = BoxGrasping: it is",
        ),
        (
            "objects.py --checkpoint pretrained --out {tmp_path}/x --objects trian",
            "error: task.objects: unknown name 'trian'",
        ),
        ("robustness.py --checkpoint pretrained --episodes 0", "error: --episodes 0: allowed is 1 or more"),
        ("robustness.py --checkpoint pretrained --out /nowhere/x", "error: --out /nowhere/x: /nowhere is no folder"),
        (
            "robustness.py --checkpoint pretrained --out {tmp_path}/x --task.randomize.box-mass 1 1",
            "error: --task.randomize.box-mass: not allowed, every row says it itself",
        ),
    ],
)
def test_a_mistake_is_one_line(line, message, tmp_path):
    pytest.importorskip("mujoco_warp")
    name, *flags = line.format(tmp_path=tmp_path, policy=POLICY).split()
    done = subprocess.run([sys.executable, str(BENCHMARKS / name), *flags], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir()), "a mistake leaves nothing behind"


def test_a_policy_that_does_not_fit_leaves_nothing_behind(tmp_path):
    shipped = BENCHMARKS.parent / "dexhand_gym" / "pretrained" / "BoxGrasping" / "v0"
    line = f"--checkpoint {shipped} --objects wedges --episodes 2 --device cpu --out {tmp_path}/x"
    command = [sys.executable, str(BENCHMARKS / "objects.py"), *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "does not fit" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", ["BoxGrasping", "ObjectGrasping", "CubeRotation"])
def test_the_shipped_policy_is_what_gpu_py_measures(task):
    """Its network and what it sees are not the task's defaults."""
    pytest.importorskip("mujoco_warp")
    import configs
    from benchmarks.gpu import agent_flags
    from dexhand_gym import find_task
    from dexhand_gym.envs import make_vec_env
    from ppo import ppo

    given = configs.parse(["--task", task, "--test", "--checkpoint", "pretrained"])
    cfg = configs.parse(["--task", task, "--device", "cpu", "--num-envs", "2", *agent_flags(given)])
    with contextlib.closing(make_vec_env(find_task(task), 2, cfg, 0)) as env:
        ppo.load_agent(Path(str(given.train.checkpoint)), ppo.begin(env, cfg.train)[0].agent, cfg.train)


def test_no_set_is_played_before_all_are_found(tmp_path):
    line = f"--checkpoint {POLICY} --objects train:box nothere --episodes 8 --device cpu --out found"
    command = [sys.executable, str(BENCHMARKS / "objects.py"), *line.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and not done.stdout and not list(tmp_path.iterdir())
    assert done.stderr.splitlines()[-1].startswith("error: task.objects: unknown name 'nothere'")


def test_objects_by_family(tmp_path):
    """The cube's policy lifts most boxes of a set and few others (benchmarks/RESULTS.md). All of the set is played, also of
    a run whose curriculum begins with a fifth of it."""
    critic = (
        "object_pos object_quat object_vel finger_to_object_distances finger_box_contact grasp_duration episode_time"
    )
    line = f"--checkpoint {POLICY} --task.observe hardware --task.critic-observation-keys {critic} --objects held_out"
    command = [sys.executable, str(BENCHMARKS / "objects.py"), *line.split(), "--episodes", "96", "--device", "cpu"]
    command += ["--task.randomize.curriculum", "0.7", "--train.units", "256", "128", "64"]
    done = subprocess.run([*command, "--out", "found"], cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    families, frictions = done.stdout.split("| friction to spare")
    rows = {row.split(" | ")[0][2:]: row.split(" | ") for row in families.splitlines() if row.startswith("| ")}
    bands = [row.split(" | ") for row in frictions.splitlines() if row.startswith("| ")]
    assert sum(int(row[1]) for row in bands) == 96 and bands[-1][0] == "| 1.1 to inf"
    assert {"box", "sphere", "prism", "frustum", "all"} <= set(rows)
    assert sum(int(row[1]) for name, row in rows.items() if name not in ("family", "all")) == 96
    box, hull = (float(rows[name][2].split()[0]) for name in ("box", "hull"))
    assert box > 40 and box > hull, "84 % and 19 % in the long run; here few episodes of each"
    ended = json.loads((tmp_path / "found.json").read_text())["held_out"]
    assert len({x["object"] for x in ended}) > 208 / 5
    friction = {thing.name: thing.friction for thing in load_set("held_out")}
    assert all(x["friction_to_spare"] == friction[x["object"]] for x in ended if x["family"] in ("box", "capsule"))
    assert all(x["friction_to_spare"] < friction[x["object"]] for x in ended if x["family"] == "frustum")
    assert len(ended) == 96 and {x["family"] for x in ended} == set(rows) - {"family", "all"}
    assert (tmp_path / "found.png").stat().st_size > 10_000 and (tmp_path / "found.md").is_file()


def test_the_heat_map_has_what_is_small_and_what_is_large():
    """A folder's meshes may be of any size."""
    from benchmarks.objects import SIZES, columns_of

    assert columns_of([0.02, 0.05, 0.2]) == [(0.0, 0.03), (0.05, 0.06), (SIZES[-2], SIZES[-1])]
    assert columns_of([0.03, 0.09]) == [(0.03, 0.04), (0.08, SIZES[-2])], "9 cm belong to 8 to 9"
