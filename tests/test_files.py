"""Files and folders that make trouble, by the command line: hostile, damaged, oddly called, moved away; a full disk, a
terminal that knows few letters."""

import json
import math
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml

import train_ppo
from ppo import checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SMALL = "--num-envs 4 --train.horizon-length 4 --train.num-minibatches 2 --train.mini-epochs 1 --device cpu"
TINY = f"--task BoxGrasping {SMALL} --train.units 16 --task.episode-length 5 --train.log-interval 1"


def start(words: list, folder: Path, out=subprocess.PIPE, **more) -> subprocess.Popen:
    more = {"env": {**ENV, **more.pop("env", {})}, **more}
    command = [sys.executable, str(ROOT / "train_ppo.py"), *words]
    return subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.PIPE, **more)


def finish(process: subprocess.Popen, status: int = 0) -> tuple:
    """What it has written, as bytes."""
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == status, (out, err)
    return out or b"", err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The last checkpoint of a training of two iterations."""
    folder = tmp_path_factory.mktemp("trained")
    finish(start([*TINY.split(), "--max-iterations", "2"], folder))
    return next((folder / "runs" / "latest_train").resolve().glob("nn/last_*"))


def refused(line: str, capsys) -> str:
    assert train_ppo.main([*line.split(), "--max-iterations", "9"]) == 2
    out, err = capsys.readouterr()
    *warnings, error = err.splitlines()
    assert out == "" and error.startswith("error: ") and len(error) < 2100, (out, err[:3000])
    assert all("does not say its activation" in warning for warning in warnings)
    assert all(line.isprintable() for line in err.splitlines())
    return error


def changed(content: dict, name: str, change) -> dict:
    *way, end = name.split("/")
    place = result = {**content, way[0] if way else end: content.get(way[0] if way else end)}
    for part in way:
        place[part] = dict(place[part])
        place = place[part]
    place[end] = change(place.get(end))
    return result


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model/a2c_network.mu.weight", lambda x: x * math.nan, "its a2c_network.mu.weight is not finite"),
        ("model/a2c_network.mu.weight", lambda x: x.to_sparse(), "holds code or objects"),
        ("model/a2c_network.mu.weight", lambda x: x.half(), "a2c_network.mu.weight float16; here"),
        ("model/running_mean_std.running_var", lambda x: x * 0, "running_mean_std.running_var is not more than 0"),
        ("model/running_mean_std.count", lambda x: -x, "running_mean_std.count is not more than 0"),
        ("epoch", lambda x: -5, "its epoch is no number of iterations"),
        ("epoch", lambda x: 10**30, "its epoch is no number of iterations"),
        ("last_mean_rewards", lambda x: math.nan, "its last_mean_rewards is not finite"),
        ("ppo_state/activation", lambda x: "\x1b[31m\n" * 10**6, "activation is"),
        ("ppo_state/activation", lambda x: [[[x] * 99] * 99] * 99, "its activation is a list"),
        ("env_state", lambda x: {"\x1b" * 10**6: {1, 2}}, "holds code or objects"),
    ],
)
def test_a_hostile_checkpoint_costs_one_line(trained, tmp_path, monkeypatch, capsys, name, change, message):
    monkeypatch.chdir(tmp_path)
    torch.save(changed(checkpoint.load(trained), name, change), "a.pth")
    for more in ("", "--test"):
        assert message in refused(f"{TINY} --checkpoint a.pth {more}", capsys)
    assert os.listdir() == ["a.pth"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_envs: 8\nseed: 1\nnum_envs: 16", "line 3: 'num_envs' is in line 1 already"),
        ("num_envs: 8\nenv: {numEnvs: 16}", "num_envs and env.numEnvs are the same setting"),
        ("train: {seed: 1:30}", "train.seed = '1:30': allowed is a whole number"),
        ("train: {normalize_input: yes}", "train.normalize_input = 'yes': allowed is True, False"),
        ("num_envs: &a [*a]", "*a contains itself"),
        ("num_envs: '" + "x" * 10**6 + "'", "env.num_envs = 'xxx"),
        ('num_envs: "\\e[31m\\n"', "env.num_envs = "),
    ],
    ids=lambda text: text[:20],
)
def test_a_hostile_config_costs_one_line(tmp_path, monkeypatch, capsys, text, message):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(text)
    assert message in refused("--config a.yaml", capsys)
    assert os.listdir() == ["a.yaml"]


def test_a_hostile_file_of_rl_games_costs_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good = (ROOT / "examples" / "rl_games.yaml").read_text()
    for text, message in (
        (good + "\nparams: {}\n", "'params' is in line"),
        ("params: &a {config: *a}", "*a contains itself"),
        ("- 1", "allowed are names and values"),
        ("params: 1", "allowed is a file of rl_games, with params.config in it"),
    ):
        Path("a.yaml").write_text(text)
        line = refused("--train-config a.yaml", capsys)
        assert line.startswith("error: train_config = 'a.yaml'") and message in line


def test_numbers_in_a_config_are_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = {"num_envs": 8, "train": {"experiment": {"name": "3e-4"}, "wandb": {"tags": ["1e5", "010"]}, "units": [16]}}
    Path("a.yaml").write_text(yaml.safe_dump(tree) + "task: {episode_length: 010}\n")
    cfg = train_ppo.configs.parse(["--config", "a.yaml"])
    assert (cfg.train.experiment.name, cfg.train.wandb.tags, cfg.task.episode_length) == ("3e-4", ("1e5", "010"), 10)
    Path("b.yaml").write_text(train_ppo.configs.to_yaml(cfg))
    assert train_ppo.configs.parse(["--config", "b.yaml"]) == cfg


def test_names_that_a_terminal_would_obey(trained, tmp_path):
    """In the C locale, where Python knows such letters by their bytes only."""
    folder = tmp_path / "ünï 手"
    folder.mkdir()
    name = "\x1b[31mred\nnew line" + "x" * 200 + ".pth"
    shutil.copy(trained, folder / name)
    words = [*TINY.split(), "--checkpoint", os.fsencode(f"{folder.name}/{name}"), "--max-iterations", "3"]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for more in ([], ["--test", "--train.test-episodes", "2", "--render", "False"]):
        out, err = finish(start([*words, *more], tmp_path, env=ascii_only))
        assert err == b"" and out.isascii() and b"\x1b" not in out
        assert b"\\x1b[31mred new linexxx" in out
    log = (tmp_path / "runs" / "latest_test" / "train.log").read_text(encoding="utf-8")
    assert "\x1b" not in log and "tested: \\x1b[31mred new linexxx" in log
    result = json.loads((tmp_path / "runs" / "latest_test" / "result.json").read_text())
    assert os.fsdecode(os.fsencode(result["checkpoint"])).endswith(name)
    out, err = finish(start([*words, "--train.units", "8"], tmp_path), status=2)
    assert err.count(b"\n") == 1 and b"\x1b" not in err


def test_a_terminal_that_knows_few_letters(trained, tmp_path):
    words = [*TINY.split(), "--test", "--checkpoint", str(trained), "--train.test-episodes", "2", "--render", "False"]
    out, err = finish(start(words, tmp_path, env={"PYTHONIOENCODING": "latin-1"}))
    assert err == b""
    assert b"| success rate" in out, "lines that are drawn with what there is"


def limited() -> None:
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (12_000, 12_000)
    )  # a file that grows beyond fails like one on a full disk


def test_a_full_disk_stops_neither_log_nor_training(tmp_path):
    words = f"{TINY} --max-iterations 60 --train.save-frequency 30 --train.save-best-after 1000".split()
    out, err = finish(start(words, tmp_path, preexec_fn=limited), status=1)
    (run,) = (tmp_path / "runs_all").iterdir()
    out, err = out.decode(), err.decode()
    assert "Traceback" not in out + err and "iteration 60/60" in out
    assert f"runs_all/{run.name}/nn/last_policy_ep_30_" in out
    assert "not saved, File too large; the training goes on\n" in out
    assert f"runs_all/{run.name}/summaries: no more curves, File too large\n" in out
    assert err == f"{run}/train.log: not written, File too large\n", "once"
    assert out.splitlines()[-1].endswith("not saved, File too large"), "the last word"
    assert list((run / "nn").iterdir()) == []

    def no_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    out, err = finish(start(words, tmp_path, preexec_fn=no_room), status=2)
    assert (
        b"run: " not in out and err.endswith(b"/config.yaml: not written, File too large\n") and err.count(b"\n") == 1
    )
    assert list((tmp_path / "runs_all").iterdir()) == [run], "nothing half-made"


def test_a_console_that_cannot_be_written(tmp_path):
    with open("/dev/full", "wb") as full:
        _, err = finish(start([*TINY.split(), "--max-iterations", "2"], tmp_path, out=full))
    assert err == b"standard output: not written, No space left on device\n"
    assert list(tmp_path.glob("runs_all/*/nn/last_policy_ep_2_*.pth"))


def test_runs_that_are_moved_away_in_mid_training(tmp_path):
    options = (
        "--max-iterations 100000 --train.save-frequency 1 --train.keep-checkpoints 2 --train.save-best-after 100000"
    )
    process = start([*TINY.split(), *options.split()], tmp_path)
    timer = threading.Timer(60, process.kill)
    timer.start()
    assert any(b"iteration 3/" in line for line in process.stdout)
    (tmp_path / "runs_all").rename(tmp_path / "elsewhere")
    (run,) = (tmp_path / "elsewhere").iterdir()
    assert any(f"runs_all/{run.name} was moved or deleted; it is made anew".encode() in line for line in process.stdout)
    process.terminate()
    timer.cancel()
    out, err = finish(process, status=143)
    assert err == b"" and b"terminated, checkpoint saved; to go on: --checkpoint runs/" in out
    assert (tmp_path / out.decode().splitlines()[-1].split(" --checkpoint ")[1]).is_file(), "by the path that was told"


def test_the_policy_of_the_package_can_be_trained_on(tmp_path):
    words = f"--task BoxGrasping --checkpoint pretrained {SMALL} --max-iterations 2".split()
    out, err = finish(start(words, tmp_path))
    assert err == b"" and b"iteration 2/2 | " in out
    lines = [line for line in out.decode().splitlines() if "a new training begins with the weights of " in line]
    assert len(lines) == 1 and lines[0].endswith("policy.pth, which holds a policy and no training")
    assert "newest checkpoint: runs/" in out.decode() and "best checkpoint" not in out.decode()
