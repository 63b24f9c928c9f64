"""The life of a run: stopped, killed, resumed, followed, tested; real processes on real files."""

import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium
import programs
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_checkpoint import Hostile, same
from test_ppo import PointMass, config

import dexhand_gym  # noqa: F401
import train_ppo
from dexhand_gym.envs.box_grasping import BoxGraspingConfig
from ppo import checkpoint
from ppo.ppo import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
TINY = "--task BoxGrasping --num-envs 16 --train.horizon-length 8 --train.num-minibatches 2 --train.units 16"
TINY += " --task.episode-length 30 --train.log-interval 1 --train.save-best-after 0"
TINY += " --train.lr-schedule adaptive"  # for it does not ask how long a training is to be


def start(line: str, folder: Path) -> subprocess.Popen:
    return programs.start([sys.executable, str(ROOT / "train_ppo.py"), *line.split()], folder, ENV)


def finish(process: subprocess.Popen, status: int = 0) -> str:
    """Its output, once it has ended as it should."""
    out, _ = process.communicate(timeout=300)
    assert process.returncode == status, out
    return out


def wait_for(text: str, process: subprocess.Popen) -> str:
    """Reads the output up to the line that has `text`."""
    timer = threading.Timer(300, process.kill)
    timer.start()
    line = next((line for line in process.stdout if text in line), "")
    timer.cancel()
    assert line, f"no line with {text!r}"
    return line


def wait_until(condition) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def last(run: Path, epoch: int) -> Path:
    (path,) = (run / "nn").glob(f"last_policy_ep_{epoch}_*.pth")
    return path


def scalars(run: Path) -> dict:
    """(tag, step) -> value of all that TensorBoard would show, but for times."""
    events = EventAccumulator(str(run / "summaries"))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("performance/")]
    return {(tag, event.step): event.value for tag in tags for event in events.Scalars(tag)}


# --- Resume ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A training of forty iterations that nothing disturbed: its folder."""
    folder = tmp_path_factory.mktemp("straight")
    finish(start(f"{TINY} --max-iterations 40", folder))
    return (folder / "runs" / "latest_train").resolve()


def assert_goes_on_to_the_bit(straight: Path, folder: Path, path: Path) -> None:
    """From the checkpoint `path` to iteration 40, in a new process and run folder."""
    done = checkpoint.load(path)["epoch"]
    out = finish(start(f"--checkpoint {path} --max-iterations 40", folder))
    assert f"resumed after iteration {done}: {path}" in out
    assert "new episodes" not in out
    run = (folder / "runs" / "latest_train").resolve()
    assert run != path.parent.parent
    assert yaml.safe_load((run / "config.yaml").read_text())["train"]["checkpoint"] == str(path)
    expected, got = (checkpoint.load(last(folder, 40)) for folder in (straight, run))
    assert same(expected, got), "weights, Adam's moments, rate, statistics, random numbers, every environment"
    curves = {key: value for key, value in scalars(straight).items() if key[1] > done * 8 * 16}
    assert scalars(run) == curves
    assert {"ending/time_out", "success_rate"} <= {tag for tag, _ in curves}, "episodes have ended in between"


def test_forty_iterations_equal_twenty_and_twenty(straight, tmp_path):
    finish(start(f"{TINY} --max-iterations 20", tmp_path))
    assert_goes_on_to_the_bit(straight, tmp_path, last((tmp_path / "runs" / "latest_train").resolve(), 20))


@pytest.mark.parametrize(
    "number, status, word", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_stopped_training_goes_on_to_the_bit(straight, tmp_path, number, status, word):
    process = start(f"{TINY} --max-iterations 100000", tmp_path)
    wait_for("iteration 7/", process)
    process.send_signal(number)
    out = finish(process, status)
    assert "stopping after this iteration" in out
    message, path = out.splitlines()[-1].rsplit(" ", 1)
    assert message.endswith(f"{word}, checkpoint saved; to go on: --checkpoint")
    assert_goes_on_to_the_bit(straight, tmp_path, (tmp_path / path).resolve())


def test_a_second_signal_is_immediate(tmp_path):
    process = start(f"{TINY} --num-envs 4 --train.horizon-length 100000", tmp_path)  # an iteration of minutes
    wait_for("run: ", process)
    wait_until(lambda: list(tmp_path.glob("runs_all/*/summaries/*")))  # the training is under way
    process.send_signal(signal.SIGTERM)
    wait_for("a second time stops at once", process)
    process.send_signal(signal.SIGINT)
    assert finish(process, 130).endswith("interrupted\n")
    assert not list(tmp_path.glob("runs_all/*/nn/*"))


def test_state_of_the_environments():
    """Also with a reset of one row before the next step, and in an environment that was busy with something else."""

    def make(seed):
        return gymnasium.make_vec("DexHand/BoxGrasping-v0", num_envs=8, seed=seed, episode_length=20).unwrapped

    def play(env):
        trace = [env.reset(options={"reset_mask": torch.arange(8) == 3})[0], *env.observations().values()]
        for action in actions:
            *result, info = env.step(action)
            trace += [*result, info["final_obs"], info["episode"]["r"], *env.observations().values()]
        return trace, env.statistics()

    torch.manual_seed(0)
    actions = [torch.rand(8, 18) * 2 - 1 for _ in range(30)]
    env, other = make(0), make(7)
    for action in actions[:25]:
        env.step(action)
    other.step(actions[0])
    state = env.get_state()
    expected = play(env)
    addresses = [value.data_ptr() for value in other.memory().values()]
    other.set_state(state)
    assert same(play(other), expected)
    env.set_state(state)
    assert same(play(env), expected)
    assert [value.data_ptr() for value in other.memory().values()] == addresses

    before = other.get_state()
    for state, message in (
        (gymnasium.make_vec("DexHand/BaseTask-v0", num_envs=8).unwrapped.get_state(), "its task is BaseTask, here Box"),
        ({**before, "targets": torch.zeros(9, 18)}, r"its targets is \[9, 18\], here \[8, 18\]"),
        ({"task": "BoxGrasping"}, "its steps is absent"),
        ({**before, "more": torch.zeros(1)}, r"its more is \[1\], here absent"),
        *(({k: v for k, v in before.items() if k != name}, f"its {name} is absent") for name in before),
        ({**before, "steps": "3"}, "its steps is '3': allowed is a count"),
        ({**before, "generator": [1]}, "its generator is a list"),
        ({**before, "generator": before["generator"] * 0}, "its generator is damaged"),
    ):
        with pytest.raises(ValueError, match=message):
            other.set_state(state)
        assert same(other.get_state(), before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of two iterations."""
    folder = tmp_path_factory.mktemp("trained")
    finish(start(f"{TINY} --max-iterations 2 --task.episode-length 5", folder))
    return (folder / "runs" / "latest_train").resolve()


@pytest.mark.parametrize(
    "line, reason",
    [
        ("--checkpoint {last} --num-envs 8", "the checkpoint has the state of 16, here are 8"),
        ("--checkpoint {last} --task.active-failure-criteria box_too_far", "its sums is [26], here [24]"),
        ("--checkpoint {best}", "the checkpoint has no state of theirs, only last_*.pth have one"),
    ],
)
def test_environments_that_cannot_go_on_begin_anew_and_say_so(trained, tmp_path, monkeypatch, capsys, line, reason):
    monkeypatch.chdir(tmp_path)
    line = line.format(last=last(trained, 2), best=trained / "nn" / "policy.pth")
    assert train_ppo.main([*line.split(), "--max-iterations", "3"]) == 0
    out = capsys.readouterr().out
    assert "the environments begin new episodes: " in out
    assert reason in out
    assert "iteration 3/3 | " in out


def test_checkpoints_that_do_not_fit_cost_one_line(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good = last(trained, 2)
    content = checkpoint.load(good)
    Path("cut.pth").write_bytes(good.read_bytes()[:-1000])
    Path("hostile.pth").write_bytes(pickle.dumps({"model": Hostile()}, 2))
    for name, change in (("epoch", {"epoch": "7"}), ("state", {"ppo_state": []})):
        torch.save({**content, **change}, f"{name}.pth")
    files = sorted(path.name for path in tmp_path.iterdir())
    here = "--task BoxGrasping --train.units 16"
    for line, message in (
        ("--checkpoint cut.pth", "cut.pth: not loaded, it is damaged or not a checkpoint"),
        ("--checkpoint hostile.pth", "hostile.pth: not loaded, it holds code or objects, not only data"),
        ("--checkpoint epoch.pth", "epoch.pth: not loaded, its epoch is a str"),
        ("--checkpoint state.pth", "state.pth: not loaded, its ppo_state is a list"),
        (f"{here} --train.units 32 16 --checkpoint {good}", "it has units [16]; here units [32, 16]"),
        (f"{here} --train.activation tanh --checkpoint {good}", "activation is 'elu', here 'tanh'"),
        (f"{here} --train.normalize-value=False --checkpoint {good}", "it has normalize_value True; here normalize_"),
        (
            f"--task BaseTask --train.units 16 --checkpoint {good}",
            "it has observations 115, separate False; here observations 89, separate True",
        ),
        (
            f"{here} --task.policy-observation-keys hand_pose --checkpoint {good}",
            "it has observations 115; here observations 7",
        ),
        (
            f"{here} --task.policy-controls-base False --checkpoint {good}",
            "actions 18; here observations 109, actions 12",
        ),
    ):
        for more in ([], ["--test"]):
            assert train_ppo.main([*line.split(), "--max-iterations", "9", *more]) == 2
            out, err = capsys.readouterr()
            assert out == ""
            *warnings, error = err.splitlines()
            assert error.startswith("error: ") and message in error
            why = {"BaseTask": "a policy of BoxGrasping, not of BaseTask"}  # told before the error that it explains
            why.update(
                {"-keys": "learned task.policy_observation_keys", "controls": "learned task.policy_controls_base"}
            )
            expected = [text for part, text in why.items() if part in line]
            assert len(warnings) == len(expected) and all(map(str.__contains__, warnings, expected))
    assert sorted(path.name for path in tmp_path.iterdir()) == files, "nothing written, nothing executed"


def test_a_resume_without_all_it_needs_costs_one_line(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good = checkpoint.load(last(trained, 2))
    state = {**good["optimizer"]["state"]}
    state[0] = {name: value for name, value in state[0].items() if name != "exp_avg_sq"}
    damaged = [({**good, "optimizer": {**good["optimizer"], "state": state}}, "KeyError('exp_avg_sq')")]
    for name, value in (("rng", [torch.zeros(3)]), ("means", 1), ("obs", 5), ("episode", None)):
        content = {**good, "ppo_state": {**good["ppo_state"], name: value}}
        damaged.append((content, "a.pth: what a resume needs is damaged"))
    for content, message in damaged:
        torch.save(content, "a.pth")
        assert train_ppo.main([*TINY.split(), "--checkpoint", "a.pth"]) == 2
        out, err = capsys.readouterr()
        assert "run: " not in out and err.count("\n") == 1
        assert err.startswith("error: ") and message in err
        assert [path.name for path in tmp_path.iterdir()] == ["a.pth"], "no run has been opened"


# --- Death -----------------------------------------------------------------------------------------------------------


def train_for_ever(folder: Path, path) -> None:
    small = {"horizon_length": 1, "num_minibatches": 1, "mini_epochs": 1, "units": (8,)}  # most of the time it saves
    train(PointMass(8), config(max_iterations=10**9, save_frequency=1, **small), folder, checkpoint=path)


def test_kill_at_any_moment_leaves_readable_checkpoints(tmp_path):
    """Thirty times: the training is killed and goes on from the newest checkpoint."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["ppo.ppo", "torch._dynamo", "test_ppo"])  # or a start would take seconds
    moment, epoch, newest, cut = random.Random(0), 0, None, 0

    def life(nn: Path) -> None:
        process = processes.Process(target=train_for_ever, args=(nn.parent, newest))
        process.start()
        wait_until(lambda: list(nn.glob("last_*.pth")) or not process.is_alive())
        time.sleep(moment.uniform(0, 0.05))
        process.kill()
        process.join()

    for number in range(30):
        nn = tmp_path / str(number) / "nn"
        life(nn)
        files = sorted(nn.glob("*.pth"), key=lambda path: path.stat().st_mtime_ns)
        epochs = [checkpoint.load(path)["epoch"] for path in files]
        assert epochs[-1] == max(epochs), "the newest is whole"
        newest = [path for path in files if path.name.startswith("last_")][-1]
        assert checkpoint.load(newest)["epoch"] > epoch, "further than the life before"
        epoch = checkpoint.load(newest)["epoch"]
        cut += (nn / checkpoint.TEMPORARY_NAME).exists()
    assert cut > 0, "no kill came while saving, so nothing was tested"


# --- Test ------------------------------------------------------------------------------------------------------------


def iterations(line: str) -> int:
    """Of the policy that was tested."""
    return int(line.split(" after ")[1].split(" ")[0])


def test_reloading_follows_a_training(tmp_path):
    options = "--max-iterations 100000 --train.save-frequency 1 --train.save-best-after 100000 --train.log-interval 3"
    training = start(f"{TINY} --task.episode-length 5 {options}", tmp_path)
    wait_for("iteration 3/", training)
    testing = start("--test --checkpoint latest --train.test-episodes 16 --train.reload-interval 0.01", tmp_path)
    seen = [iterations(wait_for("tested: ", testing)) for _ in range(100)]
    assert len(set(seen)) > 2
    assert seen == sorted(seen)
    training.send_signal(signal.SIGTERM)
    finish(training, 143)
    testing.send_signal(signal.SIGINT)
    assert finish(testing, 130).endswith("interrupted\n")
    result = json.loads((tmp_path / "runs" / "latest_test" / "result.json").read_text())
    assert (result["episodes"], result["iteration"] >= seen[-1]) == (16, True)


def test_reloading_survives_whatever_happens_to_the_file(trained):
    """It is replaced all the time; then another program writes to it slowly; then it is gone."""
    folder, content = trained.parent.parent, checkpoint.load(last(trained, 2))
    policy = trained / "nn" / "policy.pth"
    testing = start("--test --checkpoint latest --train.test-episodes 8 --train.reload-interval 0.001", folder)
    wait_for("tested: ", testing)
    stop = threading.Event()

    def replace():
        while not stop.is_set():
            content["epoch"] += 1
            checkpoint.write_atomically(policy, content)

    writer = threading.Thread(target=replace)
    writer.start()
    lines = [next(testing.stdout) for _ in range(1000)]
    stop.set()
    writer.join()
    seen = [iterations(line) for line in lines if "tested: " in line]
    assert len(set(seen)) > 2
    assert seen == sorted(seen)
    assert not any("goes on" in line for line in lines)

    policy.write_bytes(policy.read_bytes()[:1000])
    wait_for("goes on with the policy it has: ", testing)
    for path in policy.parent.iterdir():
        path.unlink()
    wait_for("goes on with the policy it has: checkpoint: there is no .pth file", testing)
    content["epoch"] = 10**6
    checkpoint.write_atomically(policy, content)
    wait_for("after 1000000 iterations, 8 episodes", testing)
    testing.send_signal(signal.SIGTERM)
    assert finish(testing, 143).endswith("terminated\n")


# --- Logs ------------------------------------------------------------------------------------------------------------


def test_tensorboard_shows_everything(straight):
    task = BoxGraspingConfig
    terms = list(task().reward_weights)
    endings = ["grasp_lift_success", "hitting_ground", "box_too_far", "box_pushed_away", "time_out", "nonfinite"]
    expected = {
        *(f"{kind}/{term}" for kind in ("reward", "reward_raw") for term in terms),
        *(f"ending/{name}" for name in endings),
        *("success_rate", "episode_lengths/step", "episodes", "nonfinite", "overflow"),
        *("losses/a_loss", "losses/c_loss", "losses/entropy", "losses/bounds_loss"),
        *("info/kl", "info/last_lr", "info/epochs", "rewards/step"),
    }
    values = scalars(straight)
    assert {tag for tag, _ in values} == expected
    frames = range(128, 41 * 128, 128)
    for tag in ("reward/grasp", "losses/a_loss", "info/last_lr"):
        assert [step for name, step in values if name == tag] == list(frames), "one value per iteration"
    assert [values["info/epochs", frame] for frame in frames] == list(range(1, 41))
    shares = [values[f"ending/{name}", 4 * 128] for name in endings]
    assert sum(shares) == pytest.approx(1.0), "the thirtieth step, with which episodes end, is in the fourth iteration"
    events = EventAccumulator(str(straight / "summaries"))
    events.Reload()
    speeds = {"step_inference_rl_update_fps", "step_inference_time", "rl_update_time"}
    assert {f"performance/{name}" for name in speeds} <= set(events.Tags()["scalars"])
