"""The command line: what it accepts, what it refuses, and that it trains and tests."""

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml

import configs
import train_ppo
from configs import RunConfig, default_config, parse, to_yaml
from dexhand_gym import settings
from dexhand_gym.sim import PHYSICS
from ppo import evaluation, ppo
from ppo.workspace import create_run, resolve_checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
TINY = "--task BoxGrasping --num-envs 8 --train.horizon-length 4 --train.num-minibatches 2 --task.episode-length 5"


def value(cfg: RunConfig, name: str):
    for part in name.split("."):
        cfg = cfg[part] if isinstance(cfg, dict) else getattr(cfg, part)
    return cfg


# --- What it accepts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {"task_name": "BaseTask", "env.num_envs": 1024, "train.seed": 42, "train.max_iterations": 10000}),
        ("--task BoxGrasping", {"task_name": "BoxGrasping", "task.episode_length": 500, "train.reward_scale": 0.02}),
        ("task=BoxGrasping numEnvs=2048", {"task_name": "BoxGrasping", "env.num_envs": 2048}),
        ("--num-envs 64 --seed -1 --device cpu", {"env.num_envs": 64, "train.seed": -1, "env.device": "cpu"}),
        ("--num_envs=64 --max_iterations=7", {"env.num_envs": 64, "train.max_iterations": 7}),
        ("maxIter=100 logLevel=debug", {"train.max_iterations": 100, "train.log_level": "debug"}),
        ("max_iterations=9 log_level=warning", {"train.max_iterations": 9, "train.log_level": "warning"}),
        ("training.maxIterations=5 training.seed=1", {"train.max_iterations": 5, "train.seed": 1}),
        ("train.maxIterations=5000 train.seed=123", {"train.max_iterations": 5000, "train.seed": 123}),
        ("logging.logLevel=error logging.log_interval=3", {"train.log_level": "error", "train.log_interval": 3}),
        ("testing.reloadInterval=30", {"train.reload_interval": 30.0}),
        ("logging.experiment_name=abc", {"train.experiment.name": "abc"}),
        ("experiment.useCleanWorkspace=false", {"train.experiment.use_clean_workspace": False}),
        ("--train.experiment.max-train-runs 3", {"train.experiment.max_train_runs": 3}),
        (
            "sim.physx.numPositionIterations=8 sim.physx.num_threads=4",
            {"sim.physx.num_position_iterations": 8, "sim.threads": 4},
        ),
        ("sim.dt=0.01 sim.substeps=8", {"sim.dt": 0.01, "sim.substeps": 8}),
        ("--sim.dt 5e-3 --train.learning-rate=3e-4", {"sim.dt": 0.005, "train.learning_rate": 3e-4}),
        ("--sim.gravity 0 0 -1.62", {"sim.gravity": (0.0, 0.0, -1.62)}),
        ("--sim.gravity -1 -2 -3 --num-envs 64", {"sim.gravity": (-1.0, -2.0, -3.0), "env.num_envs": 64}),
        ("--train.units 64 32", {"train.units": (64, 32)}),
        ("train.units=[64,32]", {"train.units": (64, 32)}),
        ("train.units=64", {"train.units": (64,)}),
        (
            "task=BoxGrasping task.episodeLength=400 task.rewardWeights.object_height=2.0",
            {"task.episode_length": 400, "task.reward_weights.object_height": 2.0},
        ),
        ("--task.reward-weights.alive 0.5", {"task.reward_weights.alive": 0.5, "task.reward_weights.joint_limit": 0.5}),
        (
            "task.policyObservationKeys=[hand_pose,hand_vel]",
            {"task.policy_observation_keys": ("hand_pose", "hand_vel")},
        ),
        (
            "--task BoxGrasping --task.active-failure-criteria hitting_ground",
            {"task.active_failure_criteria": ("hitting_ground",)},
        ),
        ("--task.policy-controls-base False", {"task.policy_controls_base": False}),
        ("--task.policy-controls-base=false", {"task.policy_controls_base": False}),
        ("checkpoint=null", {"train.checkpoint": None}),
        ("--train.lr-schedule fixed", {"train.lr_schedule": "fixed"}),
        ("--physics fast", {"sim": PHYSICS["fast"]}),
        ("--task ObjectGrasping", {"sim": PHYSICS["cones"]}),  # a task may have its own
        ("--task ObjectGrasping --sim.substeps 3", {"sim.substeps": 3, "sim.solver.cone": "elliptic"}),
        ("--task ObjectGrasping --physics default", {"sim": PHYSICS["default"]}),
        ("--render", {"env.render": True}),
        ("--render False env.recordVideo=true", {"env.render": False, "env.record_video": True}),
        ("env.render=null", {"env.render": None}),
        ("training.torch_deterministic=true", {"train.torch_deterministic": True}),
        ("experiment.maxTrainRuns=3", {"train.experiment.max_train_runs": 3, "train.experiment.max_test_runs": 10}),
        (
            "experiment.maxRecentRuns=5 experiment.maxTestRuns=2",
            {"train.experiment.max_train_runs": 5, "train.experiment.max_test_runs": 2},
        ),
        ("reward.alive=2", {"task.reward_weights.alive": 2.0}),
        ("+defaults=[config,/physics/accurate]", {"sim": PHYSICS["accurate"], "env.num_envs": 1024}),
        (
            "+defaults=[train_headless,/task/BoxGrasping,/physics/fast] numEnvs=64 ++sim.dt=0.02",
            {"task_name": "BoxGrasping", "env.num_envs": 64, "train.compile": True, "sim.substeps": 2, "sim.dt": 0.02},
        ),
        ("physics=accurate sim.substeps=3", {"sim.substeps": 3, "sim.solver.cone": "elliptic"}),
        ("sim.substeps=3 physics=accurate", {"sim.substeps": 3, "sim.solver.cone": "elliptic"}),
        ("config=train_headless", {"env.num_envs": 8192}),
        ("-cn train_headless --num-envs 4096", {"env.num_envs": 4096}),
        ("--config debug", {"env.num_envs": 4, "train.log_level": "debug", "train.log_interval": 1}),
        ("--train.score-to-win -inf --seed 3", {"train.score_to_win": -math.inf, "train.seed": 3}),
        ("--train.wandb.tags a=b c=d numEnvs=4", {"train.wandb.tags": ("a=b", "c=d"), "env.num_envs": 4}),
        (
            "--task.critic-observation-keys task=BoxGrasping",
            {"task.critic_observation_keys": (), "task_name": "BoxGrasping"},
        ),
        ("--render numEnvs=4", {"env.render": True, "env.num_envs": 4}),
        ("--num-envs 64 --num-envs 128", {"env.num_envs": 128}),
    ],
)
def test_what_a_command_line_means(line, expected):
    cfg = parse(line.split())
    assert {name: value(cfg, name) for name in expected} == expected


@pytest.mark.parametrize(
    "flag", ["--test", "--test True", "--test true", "--test=True", "test=True", "test=true", "training.test=true"]
)
@pytest.mark.parametrize("name", ["test", "render"])
def test_spellings_of_true_and_false(tmp_path, monkeypatch, flag, name):
    monkeypatch.chdir(tmp_path)
    Path("a.pth").touch()
    flag = flag.replace("test", name).replace("training.render", "env.render")

    def given(flag: str) -> bool:
        cfg = parse(["--checkpoint", "a.pth", *flag.split()])
        return {"test": cfg.train.test, "render": cfg.env.render}[name]

    assert given(flag) is True
    assert given(f"{flag} --seed 1") is True
    if flag != f"--{name}":
        assert given(flag.replace("True", "False").replace("true", "false")) is False


def test_a_test_needs_no_minibatches(tmp_path):
    (tmp_path / "a.pth").touch()
    assert (
        parse(["--test", f"--checkpoint={tmp_path / 'a.pth'}", "--train.num-minibatches=7"]).train.num_minibatches == 7
    )


def test_only_what_is_said_changes():
    cfg = default_config("BoxGrasping")
    assert cfg.env.hand == "auto"
    cfg.env.hand = "right"  # which it stands for
    assert parse(["--task", "BoxGrasping"]) == cfg
    cfg.sim.dt, cfg.task.reward_weights["lift"] = 0.005, 9.5
    assert parse(["--task", "BoxGrasping", "--sim.dt", "0.005", "--task.reward-weights.lift", "9.5"]) == cfg


def test_presets_are_valid_and_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (create_run("BaseTask", "train") / "policy.pth").touch()
    before = repr((PHYSICS, configs.PRESETS))
    for physics in PHYSICS:
        for preset in configs.PRESETS:
            cfg = parse(["--physics", physics, "--config", preset])
            assert cfg.sim == PHYSICS[physics]
            cfg.sim.dt = cfg.sim.solver.impratio = 7.0
    assert repr((PHYSICS, configs.PRESETS)) == before


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("test_render", {"train.test": True, "env.render": True, "sim": PHYSICS["default"]}),
        ("test_stream", {"train.test": True, "env.render": True, "sim": PHYSICS["default"]}),
        ("test_record", {"train.test": True, "env.render": False, "env.record_video": True}),
    ],
)
def test_presets_of_a_test_take_up_the_newest_run(tmp_path, monkeypatch, preset, expected):
    monkeypatch.chdir(tmp_path)
    for name, task in (("old", "BaseTask"), ("new", "BoxGrasping")):
        run = create_run(name, "train")
        (run / "nn").mkdir()
        (run / "nn" / "policy.pth").touch()
        (run / "config.yaml").write_text(to_yaml(parse(["--task", task, "--task.episode-length", "123"])))
    for argv, run in (([], "new"), (["checkpoint=runs/old_*"], "old")):
        argv = [word.replace("runs/old_*", str(next(Path("runs").glob("old_*")))) for word in argv]
        cfg = parse(["-cn", preset, *argv])
        assert {name: value(cfg, name) for name in expected} == expected
        assert cfg.task_name == {"new": "BoxGrasping", "old": "BaseTask"}[run]
        assert cfg.task.episode_length == 123
        assert Path(cfg.train.checkpoint).parent.parent.name.startswith(run)


# --- YAML ------------------------------------------------------------------------------------------------------------


def test_yaml_gives_the_same_configuration_back(tmp_path):
    line = "--task BoxGrasping --physics accurate --sim.gravity 0 0 -1 --task.reward-weights.lift 1e-7 --seed 7"
    cfg = parse([*line.split(), "--train.units", "8", "--train.experiment.name", "2024"])
    (tmp_path / "config.yaml").write_text(to_yaml(cfg))
    assert parse(["--config", str(tmp_path / "config.yaml")]) == cfg
    assert yaml.safe_load(to_yaml(cfg))["task_name"] == "BoxGrasping"
    changed = parse(["--config", str(tmp_path / "config.yaml"), "--seed", "8", "--physics", "fast"])
    assert (changed.train.seed, changed.sim, changed.task) == (8, PHYSICS["fast"], cfg.task)


def test_a_file_may_say_a_part(tmp_path):
    text = "task: BoxGrasping\nnum_envs: 64\nphysics: fast\nsim: {dt: 0.02}\ntrain:\n  learning_rate: 1e-4\n  units: [8, 4]\n"
    (tmp_path / "a.yml").write_text(text)
    cfg = parse([f"config={tmp_path / 'a.yml'}"])
    assert (cfg.task_name, cfg.env.num_envs, cfg.sim.dt, cfg.sim.substeps) == ("BoxGrasping", 64, 0.02, 2)
    assert (cfg.train.learning_rate, cfg.train.units) == (1e-4, (8, 4))


def test_a_file_may_use_the_names_of_the_original(tmp_path):
    text = "task: BoxGrasping\nenv: {numEnvs: 64}\ntraining: {maxIterations: 5}\nreward: {grasp: 3.5}\nphysics: fast\n"
    (tmp_path / "a.yaml").write_text(text)
    cfg = parse(["--config", str(tmp_path / "a.yaml")])
    assert (cfg.env.num_envs, cfg.train.max_iterations, cfg.sim) == (64, 5, PHYSICS["fast"])
    assert cfg.task.reward_weights["grasp"] == 3.5


def test_names_of_a_task_may_have_capitals(tmp_path, monkeypatch):
    cfg = default_config()
    cfg.task.reward_weights = {"LiftHigh": 1.0, "low": 2.0}
    given = settings.read_command_line(["--task.reward-weights.LiftHigh=3"], default_config())
    assert settings.apply(cfg, {**settings.flatten(yaml.safe_load(to_yaml(cfg))), **given}) == (
        dataclasses.replace(
            cfg, task=dataclasses.replace(cfg.task, reward_weights={**cfg.task.reward_weights, "LiftHigh": 3.0})
        )
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config: debug", "it names another config"),
        ("sim: {dtt: 0.1}", "unknown option sim.dtt; did you mean sim.dt?"),
        ("sims: {dt: 0.1}", "unknown option sims.dt; did you mean sim.dt?"),
        ("sim: 3", "unknown option sim"),
        ("sim: {dt: {a: 1}}", "unknown option sim.dt.a"),
        ("sim: {dt: quick}", "sim.dt = 'quick': allowed is a number"),
        ("train: {seed: 1.5}", "train.seed = '1.5': allowed is a whole number"),
        ("train: {seed: null}", "train.seed = 'None': allowed is a whole number"),
        ("train: {seed: [1, 2]}", "train.seed = '1 2': allowed is a whole number"),
        ("train: {test: 1}", "train.test = '1': allowed is True, False"),
        ("task: BaseTsk", "task: unknown name 'BaseTsk'; did you mean 'BaseTask'?"),
        ("- 1", "allowed are names and values"),
        ("a: [", "is not YAML"),
        ("!!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_mistakes_in_a_file(tmp_path, capsys, text, message):
    (tmp_path / "a.yaml").write_text(text)
    assert message in refused(["--config", str(tmp_path / "a.yaml")], capsys)


# --- What it refuses -------------------------------------------------------------------------------------------------


def refused(argv: list, capsys) -> str:
    """The one line on stderr with which main() ends at once."""
    assert train_ppo.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


MISTAKES = [
    ("--nun-envs 4", "unknown option nun_envs; did you mean num_envs? Allowed: task, num_envs"),
    ("numEnv=4", "unknown option num_env; did you mean num_envs?"),
    ("--learning-rate 1", "did you mean train.learning_rate?"),
    ("task.rewardWeights.alife=2", "did you mean task.reward_weights.alive? Allowed: alive, height_safety"),
    ("--env.box.sise 1", "unknown option env.object.sise; did you mean env.object.size? Allowed: name, shape, size"),
    (
        "--task BoxGraspng",
        "task: unknown name 'BoxGraspng'; did you mean 'BoxGrasping'? Allowed: BaseTask, BoxGrasping",
    ),
    ("--physics fst", "physics: unknown name 'fst'; did you mean 'fast'? Allowed: default, fast, cones, accurate"),
    ("config=tran_headless", "unknown name 'tran_headless'; did you mean 'train_headless'?"),
    ("--config no.yaml", "config = 'no.yaml': No such file"),
    ("--physics", "physics = '': allowed is one value"),
    ("--num-envs many", "env.num_envs = 'many': allowed is a whole number"),
    ("--num-envs 1 2", "env.num_envs = '1 2': allowed is a whole number"),
    ("--seed", "train.seed = '': allowed is a whole number"),
    ("sim.dt=fast", "sim.dt = 'fast': allowed is a number"),
    ("--sim.gravity 0 1", "sim.gravity = '0 1': allowed is 3 values, each a number"),
    ("--train.units 64 x", "train.units = '64 x': allowed is any number of values, each a whole number"),
    ("--test maybe", "train.test = 'maybe': allowed is True, False"),
    ("--train.lr-schedule adaptve", "train.lr_schedule: unknown name 'adaptve'; did you mean 'adaptive'?"),
    ("--log-level loud", "train.log_level: unknown name 'loud'"),
    (
        "--task BoxGrasping --task.objects train",
        "task.objects is an option of ObjectGrasping (--task), not of BoxGrasping",
    ),
    ("--task.goals any", "task.goals is an option of CubeReorientation (--task), not of BaseTask"),
    (
        "--task ObjectGrasping --task.objects train wedges",
        "task.objects = 'train wedges': allowed is one value, in quotes",
    ),
    ("--num-envs 4 --sim.dt 0.01 --train.tau a --seed 1", "train.tau = 'a': allowed is a number"),
    ("BoxGrasping", "'BoxGrasping' is not an option"),
    ("--num-envs 0", "env.num_envs = 0: allowed is a whole number, 1 to 1048576"),
    ("--sim.dt nan", "sim.dt = nan: allowed is a number, 1e-05 to 1"),
    ("sim.gravity=[0,0,-inf]", "sim.gravity = (0.0, 0.0, -inf): allowed is 3 values, each a number, -1000 to 1000"),
    ("--task.reward-weights.alive 1e999", "task.reward_weights.alive = inf: allowed is a finite number"),
    (
        "--sim.physx.num-subscenes 4",
        "unknown option sim.physx.num_subscenes; did you mean sim.physx.substeps? Allowed: substeps, solver_type",
    ),
    ("+defaults=[config,/physics/fst]", "physics: unknown name 'fst'; did you mean 'fast'?"),
    ("--render perhaps", "env.render = 'perhaps': allowed is True, False, or None"),
    ("env.graphicsDeviceId=0", "env.graphics_device_id is not an option here: pictures are drawn on the GPU"),
    ("experiment.maxRecentRuns=0", "train.experiment.max_train_runs = 0: allowed is a whole number, 1 to 1000000"),
    ("-cn test_render", "checkpoint = 'latest': there is no training run"),
    ("--sim.dt -1", "sim.dt = -1.0: allowed is a number, 1e-05 to 1"),
    ("sim.physx.solverType=2", "sim.physx.solver_type = 2: allowed is a whole number, 0 to 1 (0: PGS, 1: TGS)"),
    (
        "--sim.physx.contact-offset 0.0001",
        "sim.physx.contact_offset = 0.0001: allowed is more than sim.physx.rest_offset = 0.0005",
    ),
    ("--task.episode-length 0", "task.episode_length = 0: allowed is a whole number, 1 to 1000000"),
    ("--train.gamma 2", "train.gamma = 2.0: allowed is a number, 0 to 1"),
    (
        "--num-envs 10 --train.num-minibatches 7",
        "train.num_minibatches = 7: allowed is a divisor of num_envs * horizon_length = 320",
    ),
    ("--train.test-episodes -1", "train.test_episodes = -1: allowed is a whole number, 0 to 1000000000"),
    (
        "--train.experiment.max-test-runs 0",
        "train.experiment.max_test_runs = 0: allowed is a whole number, 1 to 1000000",
    ),
    ("experiment.name=../x", "train.experiment.name = '../x': allowed are letters"),
    (
        "--task.policy-observation-keys hand_pos",
        "task.policy_observation_keys: unknown name 'hand_pos'; did you mean 'hand_pose'?",
    ),
    ("--task.control-mode velocity", "task.control_mode: unknown name 'velocity'"),
    ("--test", "train.checkpoint is missing"),
    ("--test --checkpoint latest", "checkpoint = 'latest': there is no training run"),
    ("--checkpoint no.pth", "checkpoint = 'no.pth': no such file or run"),
    ("--env.backend mujco", "env.backend = 'mujco': allowed is auto, mujoco"),
    ("--num-envs 1000000 --train.horizon-length 100000", "train.horizon_length = 100000: allowed are 2^30 rows"),
    ("--device cuda:99", "env.device = 'cuda:99'"),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_a_mistake_costs_one_line(tmp_path, monkeypatch, capsys, line, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(line.split(), capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--checkpoint epoch=12.pth", "checkpoint = 'epoch=12.pth': no such file or run"),
        ("--checkpoint seed=3.pth --test", "checkpoint = 'seed=3.pth': no such file or run"),
        ("checkpoint=a=b.pth", "checkpoint = 'a=b.pth': no such file or run"),
        ("--checkpoint -odd.pth", "checkpoint = '-odd.pth': no such file or run"),
        ("--checkpoint --odd.pth", "checkpoint = '--odd.pth': no such file or run"),
        ("--checkpoint +odd.pth", "checkpoint = '+odd.pth': no such file or run"),
        ("--checkpoint --test", "checkpoint = '': allowed is one value"),
        ("--checkpoint=", "train.checkpoint = '': allowed is a file or a run, or None"),
        ("--train-config=", "train_config = '': allowed is one line of text"),
        ("--device=", "env.device = '': allowed is one line of text"),
        ("--seed=", "train.seed = '': allowed is a whole number"),
        ("--seed -x", "train.seed = '-x': allowed is a whole number"),
        ("--test=", "train.test = '': allowed is True, False"),
        ("--render -cn=no", "config (a preset or a .yaml file): unknown name 'no'"),
        ("--render nun_envs=4", "unknown option nun_envs; did you mean num_envs?"),
        ("--chekpoint a=b.pth", "unknown option chekpoint; did you mean checkpoint?"),
        ("--task BoxGrasping --task.reward-weights.lift -inf", "task.reward_weights.lift = -inf: allowed is a finite"),
        ("--", "'--' is not an option"),
        ("--seed 3 --x=4", "unknown option x"),
    ],
)
def test_values_that_look_like_options(tmp_path, monkeypatch, capsys, line, message):
    monkeypatch.chdir(tmp_path)
    Path("some.pth").touch()  # which nothing is not a name of
    assert message in refused(line.split(), capsys)


@pytest.mark.parametrize("line", ["--checkpoint {} --seed 3", "checkpoint={} seed=3", "--checkpoint={} --seed=3"])
@pytest.mark.parametrize("name", ["epoch=12.pth", "-odd.pth", "--odd=.pth", "seed=4.pth"])
def test_files_that_look_like_options(tmp_path, monkeypatch, line, name):
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    cfg = parse(line.format(name).split())
    assert (Path(str(cfg.train.checkpoint)).name, cfg.train.seed) == (name, 3)


ALONE = """
import sys, torch, train_ppo
status = train_ppo.main(sys.argv[1:])
assert not {"mujoco", "mujoco_warp", "warp"} & set(sys.modules) and not torch.cuda.is_initialized()
sys.exit(status)
"""


def refused_alone(line: str, folder: Path, *paths: Path) -> str:
    """The one line with which a process of its own ends, in which neither an engine nor CUDA has been loaded."""
    env = {**ENV, "PYTHONPATH": os.pathsep.join([*map(str, paths), ENV["PYTHONPATH"]])}
    before = sorted(folder.rglob("*"))
    command = [sys.executable, "-c", ALONE, *line.split()]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("error: ")
    assert sorted(folder.rglob("*")) == before, "nothing is written"
    return done.stderr


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("--nun-envs 4", ["nun_envs", "num_envs"]),
        ("task=BoxGraspng", ["BoxGraspng", "BoxGrasping"]),
        ("--num-envs many", ["env.num_envs", "many"]),
        ("--train.gamma 2", ["train.gamma", "2.0", "0 to 1"]),
        ("task.rewardWeights.object_hight=2.0 task=BoxGrasping", ["object_hight", "task.reward_weights.object_height"]),
        ("--num-envs 10 --train.num-minibatches 7", ["train.num_minibatches", "7", "320"]),
        ("--config no.yaml", ["config", "no.yaml"]),
        ("--test --checkpoint latest", ["checkpoint", "latest", "training"]),
        ("--checkpoint runs/no.pth", ["checkpoint", "runs/no.pth"]),
        ("--num-envs 1000000 --train.horizon-length 100000", "train.horizon_length = 100000: allowed are 2^30 rows"),
        ("--device cuda:99", ["env.device", "cuda:99", "cpu"]),
    ],
)
def test_mistakes_are_found_before_anything_loads(tmp_path, line, names):
    message = refused_alone(line, tmp_path)
    assert all(name in message for name in names)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "runs_all").touch()
    assert f"runs cannot be written to {tmp_path}/runs_all: Not a directory" in refused_alone(
        "--env.backend none", tmp_path
    )


@pytest.mark.mujoco
def test_a_checkpoint_that_does_not_fit(trained):
    message = refused_alone("--test --checkpoint latest --train.units 8 4", trained[0])
    assert "it has units [256, 128, 64]; here units [8, 4]" in message


TASK = """
from dexhand_gym.envs.base_task import BaseTask, BaseTaskConfig
from dexhand_gym.envs.vec_env import DexHandVecEnv

class Mine(DexHandVecEnv):
    config = BaseTaskConfig
    remembered = BaseTask.remembered

    @staticmethod
    def rewards(m, cfg):
        terms = BaseTask.rewards(m, cfg)
        {change}
        return terms
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "terms['jont_limit'] = terms['alive']",
            "reward term without a weight in task.reward_weights: unknown name 'jont",
        ),
        ("del terms['alive']", "weight in task.reward_weights without a reward term: unknown name 'alive'"),
    ],
)
def test_terms_and_weights_that_do_not_match(tmp_path, change, message):
    package, project = tmp_path / "package", tmp_path / "project"
    info = package / "mine-1.0.dist-info"
    info.mkdir(parents=True)
    project.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dexhand_gym.tasks]\nMine/Mine-v0 = mine:Mine\n")
    (package / "mine.py").write_text(TASK.format(change=change))
    assert message in refused_alone("--task Mine --env.backend none", project, package)


def test_a_rehearsal_asks_nothing_of_the_minibatches():
    """It has another number of environments."""
    line = "--task BaseTask --env.backend none --num-envs 64 --train.horizon-length 4 --train.num-minibatches 8"
    cfg = parse(line.split())
    train_ppo.make_env(cfg).close()
    assert (cfg.env.num_envs, cfg.env.backend) == (64, "none")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero (in "),
        ("raise GeneratorExit", "GeneratorExit (in "),
        ("raise BaseException('x')", "BaseException: x (in "),
        ("class Mute(Exception): __str__ = lambda self: 1 / 0\nraise Mute", "imported_once.Mute: "),
        (
            "from dexhand_gym import register_task\nregister_task('My/T-v0', 5)",
            "task = 5, allowed is the text package.mod",
        ),
        (
            "from dexhand_gym import register_task\nregister_task('DexHand/BaseTask-v0', 'a:B')",
            "DexHand/BaseTask-v0' is taken",
        ),
        ("", "import is empty: allowed is the name of a module"),
    ],
)
def test_whatever_an_imported_module_raises(tmp_path, monkeypatch, capsys, code, message):
    (tmp_path / "imported_once.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "imported_once", raising=False)
    assert train_ppo.main(["--import", *(["imported_once"] if code else [])]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.mark.mujoco
def test_deterministic_algorithms():
    for wanted in (True, False):
        train_ppo.make_env(parse([f"--train.torch-deterministic={wanted}", "--num-envs", "8"])).close()
        assert torch.are_deterministic_algorithms_enabled() is wanted


def test_a_damaged_checkpoint_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.pth").write_text("nonsense")
    assert "a.pth: not loaded" in refused(["--checkpoint", "a.pth", "--env.backend=none"], capsys)


def test_help(capsys):
    assert train_ppo.main(["--help"]) == 0
    short = capsys.readouterr().out
    assert all(
        f"--{name.replace('_', '-')} " in short for name in [*settings.SHORT_NAMES, "physics", "config", "help-all"]
    )
    assert "BaseTask, BoxGrasping" in short
    assert all(f"\n  {preset} " in short for preset in configs.PRESETS)
    assert train_ppo.main(["--task", "BoxGrasping", "--help-all"]) == 0
    everything = capsys.readouterr().out
    for name in settings.all_types(default_config("BoxGrasping")):
        assert f"--{name}".replace("_", "-") in everything


def test_help_of_which_only_the_first_line_is_read():
    command = f"{sys.executable} train_ppo.py --help-all | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("141\n", "")


# --- Training and testing --------------------------------------------------------------------------------------------

ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def start(line: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "train_ppo.py"), *line.split()]
    return subprocess.Popen(
        command, cwd=folder, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen) -> tuple:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for(text: str, process: subprocess.Popen) -> None:
    """Reads the output until a line has `text`."""
    timer = threading.Timer(60, process.kill)
    timer.start()
    assert any(text in line for line in process.stdout), process.stderr.read()
    timer.cancel()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one training of two iterations, and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    status, out, err = finish(start(f"{TINY} --max-iterations 2 --seed -1 --train.log-interval 1", folder))
    assert (status, err) == (0, "")
    return folder, out


@pytest.mark.mujoco
def test_a_training_run(trained):
    folder, out = trained
    run = (folder / "runs" / "latest_train").resolve()
    assert run.parent == folder / "runs_all"
    assert {path.name for path in run.iterdir()} == {"config.yaml", "train.log", "nn", "summaries", "result.json"}
    (saved,) = (run / "nn").iterdir()
    assert torch.load(saved, weights_only=True)["epoch"] == 2

    lines = [line for line in out.splitlines() if "iteration " in line]
    assert len(lines) == 2
    for name in ("reward", "episode length", "success rate", "learning rate", "policy loss", "value loss", "entropy"):
        assert all(f"| {name} " in line for line in lines)
    assert "iteration 2/2 | reward " in lines[1]
    assert "| episode length 5 | success rate 0.0% |" in lines[1], "the fifth step is in the second iteration"
    assert "| steps/s " in lines[1]
    assert lines[1].endswith("| time left 0:00:00")
    assert re.search(r"success rate +│ 0.0% +│ 0.0% to 32.4%", out)
    assert f"--test --checkpoint runs/{run.name}" in out
    log = (run / "train.log").read_text()
    assert all(line.split(" ", 1)[-1] in log for line in out.splitlines()), "train.log has what the console showed"


@pytest.mark.mujoco
def test_a_run_can_be_repeated_from_its_config(trained):
    folder, _ = trained
    file = folder / "runs" / "latest_train" / "config.yaml"
    cfg = parse(["--config", str(file)])
    assert to_yaml(cfg) == file.read_text()
    assert cfg.train.seed >= 0, "the seed that was drawn"


@pytest.mark.mujoco
def test_testing_a_checkpoint(trained):
    folder, _ = trained
    # The task, and whatever else shapes the policy, is the run's own.
    status, out, err = finish(start("test=true checkpoint=latest --train.test-episodes 11 numEnvs=4", folder))
    assert (status, err) == (0, "")
    run = (folder / "runs" / "latest_test").resolve()
    result = json.loads((run / "result.json").read_text())
    assert result["episodes"] == 11
    assert result["iteration"] == 2
    assert (result["length_mean"], result["length_std"]) == (5.0, 0.0)
    assert (result["success_rate"], result["endings"]["time_out"]) == (0.0, 1.0)
    assert result["checkpoint"].startswith(str(folder / "runs_all"))
    assert "11 episodes" in out
    assert re.search(rf"reward +│ {result['reward_mean']:.2f} +│ \+- {result['reward_std']:.2f}", out)
    assert re.search(r"ended by time_out +│ 100.0% +│ 74.1% to 100.0%", out), "10 and 11 of 11: 1 - z^2 / (n + z^2)"
    assert parse(["--config", str(run / "config.yaml")]).task_name == "BoxGrasping"
    assert str(resolve_checkpoint("latest_test", folder)) == result["checkpoint"], (
        "a test run stands for what it tested"
    )


@pytest.mark.mujoco
def test_reloading_goes_on_until_interrupted(trained):
    folder, _ = trained
    nn = (folder / "runs" / "latest_train" / "nn").resolve()
    (last,) = nn.glob("last_*.pth")
    process = start("--test --checkpoint latest_train --train.test-episodes 3 --train.reload-interval 0.01", folder)
    wait_for("tested: last_policy_ep_2", process)
    (nn / "policy.tmp").write_bytes(last.read_bytes())
    (nn / "policy.tmp").rename(nn / "policy.pth")
    wait_for("tested: policy.pth after 2 iterations, 3 episodes", process)  # so there were 3 environments, not 8
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    (nn / "policy.pth").unlink()
    assert (status, err) == (130, "")
    assert out.endswith("interrupted\n")


@pytest.mark.mujoco
def test_an_interrupted_training_goes_on(trained, tmp_path):
    process = start(f"{TINY} --max-iterations 1000000 --train.log-interval 1", tmp_path)
    wait_for("iteration 3/", process)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert (status, err) == (130, "")
    message, checkpoint = out.splitlines()[-1].rsplit(" ", 1)
    assert message.endswith("interrupted, checkpoint saved; to go on: --checkpoint")
    epoch = torch.load(tmp_path / checkpoint, weights_only=True)["epoch"]
    assert epoch >= 3

    too_few = finish(start(f"--checkpoint {checkpoint} --max-iterations {epoch}", tmp_path))
    assert too_few == (
        2,
        "",
        f"error: train.max_iterations = {epoch}: allowed is more than the {epoch} that it has done\n",
    )
    status, out, err = finish(start(f"--checkpoint {checkpoint} --max-iterations {epoch + 1}", tmp_path))
    assert (status, err) == (0, "")
    assert f"iteration {epoch + 1}/{epoch + 1} | " in out


def test_no_engine_is_needed_to_rehearse(tmp_path):
    command = f"{TINY} --env.backend none --max-iterations 2 --train.torch-deterministic"
    assert finish(start(f"{command} --wandb --train.wandb.mode offline", tmp_path))[::2] == (0, "")
    assert list(tmp_path.glob("runs_all/*/wandb/offline-run-*/*.wandb"))
    status, out, err = finish(start("--test --checkpoint latest --env.backend none", tmp_path))
    assert (status, err) == (0, "")
    assert re.search(r"ended by hitting_ground +│ 100.0%", out), "the hand of still.py lies on the ground"


def test_an_old_mujoco_is_named(tmp_path):
    package, project = tmp_path / "package", tmp_path / "project"
    info = package / "mujoco-3.2.3.dist-info"
    info.mkdir(parents=True)
    project.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mujoco\nVersion: 3.2.3\n")
    assert "MuJoCo 3.2.3 is too old: pip install mujoco==4.0.0" in refused_alone("", project, package)


# --- Arithmetic ------------------------------------------------------------------------------------------------------


class TwoLengths:
    """Environment 0 succeeds at every step, environment 1 fails at every fifth; the reward of a step is 1."""

    num_envs = 2

    success_criteria = ("s",)
    differ = False

    def reset(self):
        self.steps = 0
        return torch.zeros(2, 1), {}

    def step(self, action):
        self.steps += 1
        done = torch.tensor([True, self.steps % 5 == 0])
        length = torch.tensor([1, (self.steps - 1) % 5 + 1])
        info = {
            "_episode": done,
            "episode": {"r": length.float(), "l": length},
            "success": done & torch.tensor([True, False]),
            "endings": {"won": done & torch.tensor([True, False]), "lost": done & torch.tensor([False, True])},
        }
        return torch.zeros(2, 1), torch.ones(2), done, torch.zeros(2, dtype=torch.bool), info


class Still:
    def act_deterministic(self, obs):
        return obs

    def to_env(self, action):
        return action


def test_short_episodes_count_no_more_than_long_ones():
    result = evaluation.evaluate(TwoLengths(), Still(), episodes=4)
    assert result["episodes"] == 4, "two of each; the first four that end would all be successes"
    assert result["success_rate"] == 0.5
    assert result["endings"] == {"won": 0.5, "lost": 0.5}
    assert (result["length_mean"], result["length_std"]) == (3.0, 2.0)
    assert (result["reward_mean"], result["reward_std"]) == (3.0, 2.0)
    uneven = evaluation.evaluate(TwoLengths(), Still(), episodes=3)
    assert (uneven["episodes"], uneven["length_mean"]) == (3, pytest.approx((1 + 1 + 5) / 3)), (
        "as many as were asked for"
    )


def test_wilson_interval():
    # 8 of 10, Newcombe 1998: 0.4902 to 0.9433; none of 10 gives 0 to z^2 / (n + z^2)
    assert evaluation.wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert evaluation.wilson(0.0, 10) == pytest.approx((0.0, 1.96**2 / (10 + 1.96**2)))


def test_averages_over_an_interval():
    first = {"episodes": 1, "success_rate": 1.0, "ending/a": 1.0, "episode_length": 10, "reward": 1.0, "kl": 0.1}
    second = {"episodes": 3, "success_rate": 0.0, "ending/a": 0.0, "episode_length": 30, "reward": 3.0, "kl": 0.3}
    idle = {"episodes": 0, "episode_length": 7.0, "reward": 3.0, "kl": 0.2}
    time = ({"rollout_seconds": 1.0, "update_seconds": 0.0, "steps_per_second": 300.0},)
    time += ({"rollout_seconds": 1.0, "update_seconds": 1.0, "steps_per_second": 150.0},) * 2
    result = ppo.average([{**a, **b} for a, b in zip((first, second, idle), time)])
    assert (result["success_rate"], result["ending/a"]) == (0.25, 0.25), "by episodes: 1 of 4"
    assert result["episode_length"] == 25.0, "(10 + 3 * 30) / 4"
    assert result["reward"] == 3.0
    assert result["kl"] == pytest.approx(0.2)
    assert result["steps_per_second"] == 180.0, "900 steps in 5 s"
