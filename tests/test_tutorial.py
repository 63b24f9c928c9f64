"""The tasks of docs/tutorial.md, the pictures that it makes, and the notebook: run, not only read."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dexhand_gym.checker import check_vector_env
from dexhand_gym.envs.config import Config, EnvConfig, override
from dexhand_gym.envs.quantities import Measured
from examples.tutorial_grasp import Grasp
from examples.tutorial_reach import Reach

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
GRASP = "--task examples.tutorial_grasp:Grasp --checkpoint latest_train"


def make(cls, n=4, **fields):
    return cls(override(Config(task=cls.config(), env=EnvConfig(n, device="cpu")), fields), seed=0)


@pytest.mark.parametrize("cls", [Reach, Grasp])
def test_a_task_of_the_tutorial_is_one(cls):
    check_vector_env(make(cls, episode_length=10), steps=25)


@pytest.mark.parametrize("name", ["tutorial_reach", "tutorial_grasp"])
def test_the_page_shows_the_files_as_they_are(name):
    code = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").split('"""\n\n', 1)[1]
    assert f"```python\n{code}```" in PAGE


def test_a_hand_that_goes_to_the_point_succeeds():
    """The base moves as `to_point` says, at 0.2 m/s and so 4 mm a step at most; half a second later the episode ends."""
    env = make(Reach, 8)
    env.reset()
    for _ in range(100):
        action = torch.zeros(8, 18)
        action[:, :3] = (env.measured["to_point"] / 0.01).clamp(-1, 1)
        *_, info = env.step(action)
        if info["success"].any():
            break
    assert info["endings"]["stayed"].any()


def numbers(**values):
    """Hand-made quantities of one environment."""
    return Measured({name: torch.tensor([value]) for name, value in values.items()}, Grasp.quantities, Config())


def test_what_the_tutorial_pays():
    """A gap of 0.1 m is worth 1 / e. Half of the way up is worth half, but only to a hand that holds the cube; one
    finger of three on it is worth a third. Of three pads one is on the cube, two are 5 cm off: (1 + 2 / e) / 3."""
    cfg = Config(task=Grasp.config())
    seen = {"gap": 0.1, "last_actions": [0.5, 0.5], "rise": 0.05, "from_box": [0.0, 0.05, 0.05, 0.0, 0.0]}
    loose = Grasp.rewards(numbers(**seen, on_box=[0.0, 1.0, 0.0, 0.0, 0.0]), cfg)
    held = Grasp.rewards(numbers(**seen, on_box=[1.0, 0.0, 0.0, 1.0, 0.0]), cfg)
    assert loose["near"].item() == pytest.approx(0.3679, abs=1e-4) and loose["action"].item() == 0.5
    assert loose["close"].item() == pytest.approx(0.5786, abs=1e-4)
    assert (loose["touch"].item(), loose["grasp"].item(), loose["lift"].item()) == (pytest.approx(1 / 3), 0, 0)
    assert (held["touch"].item(), held["grasp"].item(), held["lift"].item()) == (pytest.approx(1 / 3), 1, 0.5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the repository's commands and a run of two iterations."""
    folder = tmp_path_factory.mktemp("tutorial")
    for name in ("train_ppo.py", "examples"):
        (folder / name).symlink_to(ROOT / name)
    words = "--num-envs 4 --max-iterations 2 --train.horizon-length 8 --train.num-minibatches 1 --train.test-episodes 0"
    run(folder, "train_ppo.py", *f"--task examples.tutorial_grasp:Grasp --task.episode-length 10 {words}".split())
    return folder


def run(folder, *command, status=0):
    where = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=where, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.draws
@pytest.mark.parametrize("more", ["", f"--quantities gap last_actions:3 --explore --moments 2 --seed {2**70}"])
def test_a_picture_of_an_episode(trained, more, tmp_path):
    from PIL import Image

    file = tmp_path / "episode.png"
    assert str(file) in run(trained, "examples/look.py", *f"{GRASP} --out {file} {more}".split())
    with Image.open(file) as picture:
        width, height = picture.size
    assert width == 810 and height > (400 if more else 150)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (f"{GRASP} --quantities gapp", "--quantities: unknown name 'gapp'; did you mean 'gap'?"),
        (f"{GRASP} --quantities gap:1", "--quantities gap:1: allowed are columns from 0 to 0"),
        (f"{GRASP} --moments 0", "--moments 0: allowed is 1 to 20"),
        (f"{GRASP} --moments 300", "--moments 300: allowed is 1 to 20"),
        (f"{GRASP} --out nowhere/x.png", "--out nowhere/x.png: allowed is a .png file in a folder that is there"),
        ("--task BoxGrasping --checkpoint nowhere", "checkpoint = 'nowhere': no such file or run"),
        (f"{GRASP} --env.camera.distanec 1", "unknown option env.camera.distanec"),
    ],
)
def test_mistakes_are_told_at_once(trained, words, says):
    out = run(trained, "examples/look.py", *words.split(), status=1)
    assert says in out.splitlines()[-1] and "Traceback" not in out


def test_the_notebook_is_kept_without_outputs():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert cells and not any(cell["outputs"] or cell["execution_count"] for cell in cells)


@pytest.mark.slow
@pytest.mark.draws
def test_the_notebook_runs(trained, monkeypatch):
    """All of its cells, with a training of two iterations."""
    import nbclient
    import nbformat

    monkeypatch.setenv("QUICKSTART_ITERATIONS", "2")
    monkeypatch.setenv("QUICKSTART_ENVS", "16")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(trained)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = {kind for output in outputs for kind in output.get("data", ())}
    text = "".join(output.get("text", "") for output in outputs)
    assert "image/png" in shown and "text/html" in shown
    assert (
        text.count("tested: ") == 2
        and "error" not in text
        and "\x1b" not in text
        and re.search(r"video: \S+test\.mp4", text)
    )
    assert [*trained.glob("runs/*_test_*/videos/test.mp4")]
