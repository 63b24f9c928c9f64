"""A training that tests itself without exploration, and ends when that is good enough."""

import re
import signal
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_ppo
from ppo import checkpoint, trials

pytestmark = pytest.mark.slow

UP = """
from dexhand_gym.envs.base_task import BaseTask

class Up(BaseTask):
    "Raise the hand by 5 cm within 20 steps."
    @staticmethod
    def rewards(m, cfg):
        return {**BaseTask.rewards(m, cfg), "alive": 100 * m["dof_vel"][:, 2]}
    @staticmethod
    def successes(m, cfg):
        return {"up": m["dof_pos"][:, 2] > 0.05}
"""
LINE = "--import up --task up:Up --num-envs 32 --device cpu --seed 3 --task.episode-length 20 --train.horizon-length 10"
LINE += " --train.num-minibatches 2 --train.units 16 --train.learning-rate 1e-2 --train.lr-schedule fixed"
LINE += " --train.log-interval 1 --train.test-episodes 0"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a training of Up; its output and its run folder."""
    (tmp_path / "up.py").write_text(UP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def train(more: str) -> tuple:
        status, printed = train_ppo.main([*LINE.split(), *more.split()]), capsys.readouterr()
        assert status == 0, printed.err
        return printed.out + printed.err, max(Path("runs").glob("*"), key=lambda folder: folder.stat().st_mtime)

    return train


@pytest.fixture
def always(monkeypatch):
    """A trial after every iteration."""
    monkeypatch.setattr(trials, "INTERVAL", 0.0)
    monkeypatch.setattr(trials, "SHARE", 1e9)


def test_a_training_ends_when_its_policy_succeeds_without_exploration(run, always):
    out, folder = run("--max-iterations 200 --train.stop-at-success 0.9")
    shares = [float(share) for share in re.findall(r"without exploration ([\d.]+) % of 64", out)]
    assert 2 <= len(shares) < 100, "neither at once nor never"
    assert max(shares[:-1]) < 90 <= shares[-1]
    (confirmed,) = re.findall(r"without exploration ([\d.]+) % of 256 attempts", out)
    assert float(confirmed) >= 90
    assert "the training ends: 90.0 % were wanted (train.stop_at_success)" in out
    saved = checkpoint.load(folder / "nn" / "policy.pth")
    assert saved["epoch"] == len(shares), "the policy that was good enough counts as the best"
    curves = EventAccumulator(str(folder / "summaries")).Reload()
    curve = [event.value for event in curves.Scalars("trial_success_rate")]
    assert curve == pytest.approx([*(share / 100 for share in shares[:-1]), float(confirmed) / 100], abs=1e-3)


def test_trials_change_nothing_of_the_training(run, always):
    weights, folders = [], set()
    for more in ("", " --train.stop-at-success 1"):
        _, folder = run(f"--max-iterations 3{more}")
        folders.add(folder.resolve())
        (last,) = (folder / "nn").glob("last_*_ep_3_*.pth")
        weights.append(checkpoint.load(last)["model"])
    assert len(folders) == 2
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(("takes", "apart"), [(1.0, 61.0), (20.0, 220.0)])
def test_trials_come_every_minute_and_take_a_tenth_of_the_time(monkeypatch, takes, apart):
    now, told = [0.0], []
    monkeypatch.setattr(trials.time, "monotonic", lambda: now[0])
    tester = trials.Trials(None, None, 0.5)

    def play(episodes: int) -> float:
        now[0] += takes
        return 0.4

    monkeypatch.setattr(tester, "play", play)
    while now[0] < 1000.0:
        metrics: dict = {}
        assert not tester(metrics)
        told += [now[0]] if metrics else []
        assert metrics in ({}, {"trial_success_rate": 0.4})
        now[0] += 1.0
    assert told[0] == 60.0 + takes
    assert [b - a for a, b in zip(told, told[1:])] == [apart] * (len(told) - 1)


def test_a_task_without_success_has_no_share_to_stop_at(capsys):
    line = "--task BaseTask --num-envs 4 --max-iterations 1 --train.stop-at-success 0.9 --device cpu"
    assert train_ppo.main(line.split()) == 2
    assert "train.stop_at_success = 0.9: allowed is None, for no success is defined" in capsys.readouterr().err


def test_a_trial_is_abandoned_by_who_is_in_a_hurry(tmp_path, monkeypatch, always):
    """SIGINT in the first step of a trial: no trial is told, the checkpoint is saved, and the run can go on."""
    (tmp_path / "up.py").write_text(UP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    play, told = trials.Trials.play, []

    def interrupted(self, episodes):
        signal.raise_signal(signal.SIGINT)
        told.append(play(self, episodes))

    monkeypatch.setattr(trials.Trials, "play", interrupted)
    assert train_ppo.main([*LINE.split(), "--max-iterations", "20", "--train.stop-at-success", "0.0"]) == 130
    (folder,) = Path("runs_all").glob("*_train_*")
    assert told == [] and list((folder / "nn").glob("last_*_ep_1_*.pth"))


def test_the_last_iteration_is_told(run, always):
    out, _ = run("--max-iterations 200 --train.stop-at-success 0.0 --train.log-interval 50")
    assert "iteration 1/200 | reward" in out


@pytest.mark.parametrize(("more", "tests"), [("", 0), (" --train.test-episodes 8", 1)])
def test_a_training_ends_with_the_test_that_was_asked_for(run, more, tests):
    out, folder = run(f"--max-iterations 1{more}")
    assert out.count("tested: ") == tests
    assert (folder / "config.yaml").is_file()
