"""docs/commands.md, row by row: both spellings mean the same, and what trains or tests is run."""

import contextlib
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Iterator, List

import gymnasium
import pytest

import train_ppo
from configs import parse
from dexhand_gym import register_task
from ppo import workspace

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
COMMANDS, SETTINGS = (
    [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in part.splitlines()
        if line.startswith("| `")
    ]
    for part in (ROOT / "docs" / "commands.md").read_text().split("\n## ")[:2]
)
OURS = [row for row in COMMANDS if "train.py" in row[0]]
SHELL = [row[row[1] != "the same"].strip("`") for row in COMMANDS if "train.py" not in row[0]]
SMALL = "num_envs=4 max_iterations=2 train.horizon_length=4 train.num_minibatches=2 train.mini_epochs=1"
SMALL += " task.episode_length=5 train.test_episodes=4 train.reload_interval=0"
RUNS = {  # that the guide speaks of
    "BoxGrasping_20250707_183716": "BoxGrasping",
    "BoxGrasping_excellent_results_20240101_120000": "BoxGrasping",
    "BoxGrasping_train_20240101_120000": "BoxGrasping",
    "BaseTask_20240101_120000": "BaseTask",
    "experiment_dir": "BaseTask",
    "old_experiment_20231201_100000": "BaseTask",
}


def arguments(command: str) -> List[str]:
    """`python train_ppo.py --test` -> ["--test"]"""
    return shlex.split(command.strip("`").replace("train.py", "train_ppo.py").partition("train_ppo.py")[2])


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """There, and with the logging that was."""
    before, handlers = Path.cwd(), logging.root.handlers[:]
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        logging.captureWarnings(False)
        for handler in logging.root.handlers:
            handler.close()
        logging.root.handlers[:] = handlers


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a training of each task, of one iteration."""
    folder = tmp_path_factory.mktemp("trained")
    with inside(folder):
        for task in ("BaseTask", "BoxGrasping"):
            assert train_ppo.main(f"task={task} {SMALL} max_iterations=1 experiment.name={task}".split()) == 0
    return folder


@pytest.fixture
def project(trained, tmp_path):
    """A folder with the guide's runs, and the task that it makes up."""
    for name, task in RUNS.items():
        (run,) = (trained / "runs_all").glob(f"{task}_train_*")
        shutil.copytree(run, tmp_path / "runs_all" / name, copy_function=os.link)
        (saved,) = (tmp_path / "runs_all" / name / "nn").iterdir()
        saved.rename(saved.with_name("checkpoint_1000.pth"))
    (tmp_path / "runs" / "pinned").mkdir(parents=True)
    (tmp_path / "path" / "to").mkdir(parents=True)
    shutil.copy(
        tmp_path / "runs_all/BaseTask_20240101_120000/nn/checkpoint_1000.pth", tmp_path / "path/to/checkpoint.pth"
    )
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shutil.copy(tmp_path / "examples" / "rl_games.yaml", tmp_path / "MyTaskPPO.yaml")
    for name in RUNS:
        workspace.link(tmp_path / "runs" / name, tmp_path / "runs_all" / name)
    register_task("Mine/MyTask-v0", "dexhand_gym.envs.base_task:BaseTask")
    yield tmp_path
    gymnasium.registry.pop("Mine/MyTask-v0")


def run_command(ours: str) -> int:
    """Exit status of a row, with SMALL settings; in this process unless it starts some."""
    if "torch.distributed" not in ours:
        return train_ppo.main([*arguments(ours), *SMALL.split()])
    words = [str(ROOT / word) if word == "train_ppo.py" else word for word in shlex.split(ours.strip("`"))]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    return subprocess.run([sys.executable, *words[1:], *SMALL.split()], env=variables).returncode


def point_latest(project: Path, command: str) -> None:
    """`latest` is a run of the task that the command names."""
    task = "BoxGrasping" if "BoxGrasping" in command else "BaseTask"
    run = next(name for name in RUNS if RUNS[name] == task)
    for kind in ("train", "test"):
        workspace.link(project / "runs" / f"latest_{kind}", project / "runs_all" / run)


def test_the_page_has_rows():
    assert (len(OURS), len(SHELL), len(SETTINGS)) >= (38, 5, 19)
    assert {row[2].split("*")[1] for row in COMMANDS if row[2]} == {"differs"}


def marked(row: list):
    return pytest.param(row, marks=[pytest.mark.draws] if "record" in row[1] else [])


@pytest.mark.parametrize("row", map(marked, OURS), ids=lambda row: row[0].strip("`")[7:])
def test_a_command_of_the_guide(project, row):
    original, ours, note = row
    point_latest(project, original)
    with inside(project):
        if note.startswith("*differs*"):
            assert train_ppo.main(arguments(original)) == 2
        else:
            assert parse(arguments(original)) == parse(arguments(ours))
        runs = set((project / "runs").iterdir())
        assert run_command(ours) == 0
        cfg = parse(arguments(ours))
    (run,) = {path for path in (project / "runs").iterdir() if path not in runs}
    kind = "test" if cfg.train.test else "train"
    assert re.fullmatch(rf"{cfg.task_name}_{kind}_\d+_\d+", run.name)
    assert run.is_symlink() == cfg.train.experiment.use_clean_workspace
    assert (run / "result.json").is_file() or not cfg.train.test
    assert (run / "config.yaml").is_file() and any((run / "nn").glob("*.pth"))


@pytest.mark.parametrize("command", SHELL)
def test_a_command_of_the_shell(project, command):
    command = command.replace("tensorboard", f"{sys.executable} -m tensorboard.main --inspect")  # and do not serve
    done = subprocess.run(command, shell=True, cwd=project, capture_output=True, text=True, check=True)
    boxes = [name for name in RUNS if "BoxGrasping" in name]
    if command.startswith("cp"):
        assert (project / command.split()[-1]).read_text() == (ROOT / "examples" / "rl_games.yaml").read_text()
    elif command.startswith("ls"):
        assert done.stdout.split() == sorted(boxes)
    elif command.startswith("mv"):
        source, target = command.split()[1:]
        name = Path(source).name if target.endswith("/") else Path(target).name
        run = project / "runs_all" / Path(source).name
        for _ in range(2):
            for spelled in (f"runs/pinned/{name}", f"pinned/{name}", name, source):
                assert workspace.resolve_checkpoint(spelled, project) == run / "nn" / "checkpoint_1000.pth"
            workspace.create_run("Box", "train", keep=1, root=project)
        assert os.listdir(project / "runs" / "pinned") == [name]
    else:
        for name in RUNS:
            assert f"runs/{name}/summaries" in done.stdout, "links are followed"


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row[0])
def test_a_setting_of_the_guide(row):
    originals, ours = (re.findall(r"`([^`]+)`", cell) for cell in row)
    for original in originals:
        assert parse(original.split()) == parse(ours[0].split()), original


def test_what_is_refused_says_what_to_use(capsys):
    page = (ROOT / "docs" / "commands.md").read_text()
    (refused,) = re.findall(r"Refused, .*: `(.*)`\.", page)
    assert train_ppo.main([refused]) == 2
    assert "env.graphics_device_id is not an option here: pictures are drawn on the GPU" in capsys.readouterr().err
