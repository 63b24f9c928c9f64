"""Weights & Biases without its server: runs written offline and read back, sweeps as its agent would start them."""

import json
import math
import os
import random
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from wandb.proto.wandb_internal_pb2 import Record
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

import configs
import train_ppo
from dexhand_gym.settings import full_name
from ppo import workspace

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
TINY = "num_envs=8 max_iterations=2 train.horizon_length=8 train.num_minibatches=2 train.mini_epochs=1 train.units=8"
TINY += " task.episode_length=5"
OFFLINE = "train.wandb.mode=offline"
NOWHERE = {"WANDB_BASE_URL": "http://127.0.0.1:9"}  # should anything try to connect
ENV = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
ENV.update(NOWHERE, PYTHONPATH=str(ROOT), PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def run(command: list, folder: Path, status: int = 0, **variables: str) -> str:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 100}
    done = subprocess.run(command, cwd=folder, env={**ENV, **variables}, **pipes)
    assert done.returncode == status, done.stdout
    return done.stdout


def train(line: str, folder: Path, status: int = 0, **variables: str) -> str:
    return run([sys.executable, str(ROOT / "train_ppo.py"), *line.split()], folder, status, **variables)


def latest(folder: Path) -> Path:
    return (folder / "runs" / "latest_train").resolve()


def records(folder: Path) -> list:
    """What `wandb sync` would upload: a file in the format of LevelDB's log, blocks of 32 KiB."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data, at, found, record = file.read_bytes(), 7, [], b""
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(record))
            record = b""
    return found


def values(items) -> dict:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.mark.draws
def test_an_offline_run_is_complete(tmp_path):
    line = f"task=BoxGrasping {TINY} {OFFLINE} train.wandb.project=hands train.wandb.group=small train.wandb.tags=[a,b]"
    out = train(f"{line} --wandb --env.record-video --env.video-interval 1", tmp_path)
    assert "W&B: runs_all/" in out and "W&B could not" not in out
    folder = latest(tmp_path)
    sent = records(folder)
    (start,) = (record.run for record in sent if record.WhichOneof("record_type") == "run")
    assert (start.project, start.run_group, list(start.tags)) == ("hands", "small", ["a", "b"])
    assert (folder / "wandb_id").read_text() == f"{start.run_id}\n" and start.display_name == folder.name
    config = values(start.config.update)
    assert config["train.horizon_length"] == 8 and config["task.reward_weights.grasp"] == 2.0
    assert config["train.wandb.tags"] == ["a", "b"] and config["task_name"] == "BoxGrasping"
    rows = [values(record.history.item) for record in sent if record.WhichOneof("record_type") == "history"]
    metrics = [row for row in rows if "reward" in row]
    assert [(row["iteration"], row["frames"]) for row in metrics] == [(1, 64), (2, 128)]
    assert {"kl", "lr", "success_rate", "ending/time_out", "reward_raw/grasp", "steps_per_second"} <= set(metrics[-1])
    clips = {f"videos/{path.stem}" for path in folder.glob("videos/*.mp4")}
    assert clips and clips == {name.split(".")[0] for row in rows for name in row if name.startswith("videos/")}
    (artifact,) = (record.artifact for record in sent if record.WhichOneof("record_type") == "artifact")
    (file,) = artifact.manifest.contents
    assert artifact.type == "model" and (folder / "nn" / file.path).stat().st_size == file.size
    assert values(record for r in sent for record in r.summary.update)["test.iteration"] == 2


def test_a_resumed_training_goes_on_with_its_run(tmp_path):
    train(f"{TINY} {OFFLINE} --wandb", tmp_path)
    first = latest(tmp_path)
    train(f"--checkpoint latest max_iterations=4 {OFFLINE} --wandb", tmp_path)
    second = latest(tmp_path)
    assert first != second and (first / "wandb_id").read_text() == (second / "wandb_id").read_text()
    rows = [values(record.history.item) for record in records(second) if record.WhichOneof("record_type") == "history"]
    assert [row["iteration"] for row in rows if "reward_raw/alive" in row] == [3, 4]


def test_no_connection_and_no_login_do_not_stop_a_training(tmp_path):
    out = train(f"{TINY} --wandb", tmp_path, HOME=str(tmp_path))
    assert "W&B could not start online: " in out and "iteration 2/2" in out
    assert records(latest(tmp_path))


def test_the_environment_beats_our_defaults_and_a_flag_beats_it(tmp_path):
    theirs = {"WANDB_MODE": "offline", "WANDB_PROJECT": "theirs", "WANDB_NAME": "mine"}
    for line, project in (("", "theirs"), ("train.wandb.project=ours", "ours")):
        out = train(f"{TINY} --wandb {line}", tmp_path, **theirs)
        assert "W&B could not" not in out
        (start,) = (record.run for record in records(latest(tmp_path)) if record.WhichOneof("record_type") == "run")
        assert (start.project, start.display_name) == (project, "mine")
    out = train(f"{TINY} --wandb", tmp_path, WANDB_MODE="disabled")
    assert "W&B could not" not in out and not (latest(tmp_path) / "wandb").exists()


def test_an_id_that_is_none_begins_a_new_run(tmp_path):
    train(f"{TINY} {OFFLINE} --wandb", tmp_path)
    (latest(tmp_path) / "wandb_id").write_bytes(b"\xff\x00\x1b[31m" * 1000)
    out = train(f"--checkpoint latest max_iterations=4 --wandb {OFFLINE}", tmp_path)
    assert "wandb_id holds no id of a W&B run: a new one begins" in out
    assert re.fullmatch(r"\w+\n", (latest(tmp_path) / "wandb_id").read_text())


def test_wandb_that_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert train_ppo.main(["--wandb"]) == 2
    message = "train.wandb.enabled = True: wandb is not installed; pip install 'dexhand-gym[wandb]'"
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not list(tmp_path.iterdir())


# --- Sweeps ----------------------------------------------------------------------------------------------------------


SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))


def sample(parameter: dict):
    """A value as the server would draw it."""
    if "value" in parameter:
        return parameter["value"]
    if "values" in parameter:
        return random.choice(parameter["values"])
    low, high = parameter["min"], parameter["max"]
    assert low < high
    return {
        "uniform": lambda: random.uniform(low, high),
        "log_uniform_values": lambda: math.exp(random.uniform(math.log(low), math.log(high))),
        "int_uniform": lambda: random.randint(low, high),
    }[parameter["distribution"]]()


def trial(sweep: dict, values: dict) -> list:
    """The words that W&B's agent runs."""
    arguments = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    words = {**arguments, "env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep["program"]]}
    command = create_sweep_command(list(sweep["command"]))
    return [word for part in command for word in (words[part[2:-1]] if part.startswith("${") else [part])]


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_trial_of_a_sweep_is_a_command(file):
    random.seed(0)
    sweep = yaml.safe_load(file.read_text())
    for _ in range(8):
        values = {name: sample(parameter) for name, parameter in sweep["parameters"].items()}
        command = trial(sweep, values)
        cfg = configs.parse(command[command.index("train_ppo.py") + 1 :])
        assert cfg.train.wandb.enabled and cfg.task_name == values["task"]
        flat = workspace.flatten(json.loads(json.dumps(yaml.safe_load(configs.to_yaml(cfg)))))
        for name, value in values.items():
            if name != "task":
                assert flat[full_name(name)] == value, name
    assert ("torch.distributed.run" in command) == (file.stem == "several_gpus")


@pytest.mark.parametrize("name", ["base_task", "several_gpus"])
def test_a_trial_runs(tmp_path, name):
    """With the variables that the agent sets."""
    sweep = yaml.safe_load((ROOT / "sweeps" / f"{name}.yaml").read_text())
    values = {name: sample(parameter) for name, parameter in sweep["parameters"].items()}
    (tmp_path / "parameters.yaml").write_text(yaml.safe_dump({name: {"value": x} for name, x in values.items()}))
    variables = {"WANDB_SWEEP_ID": "abc", "WANDB_RUN_ID": "trial1", "WANDB_SWEEP_PARAM_PATH": "parameters.yaml"}
    (tmp_path / "train_ppo.py").symlink_to(ROOT / "train_ppo.py")
    run([*trial(sweep, values), *TINY.split(), OFFLINE], tmp_path, **variables)
    (folder,) = (tmp_path / "runs_all").iterdir()
    assert (folder / "wandb_id").read_text() == "trial1\n"
    assert any(record.WhichOneof("record_type") == "history" for record in records(folder))
