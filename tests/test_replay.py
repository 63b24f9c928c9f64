"""A logged run, repeated in simulation; drives that were others are found again."""

from __future__ import annotations

import numpy as np
import pytest

import configs
from dexhand_deploy import Contract, SimBody
from dexhand_deploy.__main__ import main as deploy
from dexhand_gym import export, replay

STEPS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "policy"
    assert export.main(["--checkpoint", "pretrained", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def logged(folder, tmp_path_factory):
    """Fingers that swing freely, of a hand with other drives, late."""
    contract = Contract(folder)
    body, file = SimBody(contract), tmp_path_factory.mktemp("log") / "run.npz"
    middle = contract.start.copy()
    middle[2] = 0.3  # high above the ground
    times, random = np.arange(STEPS) * contract.control_dt, np.random.default_rng(0)
    targets = np.repeat(middle[None], STEPS, 0)
    for column in range(contract.base, len(middle)):
        swing = np.sin(2 * np.pi * (0.4 + 1.5 * random.random()) * times)
        span = contract.upper[column] - contract.lower[column]
        wanted = np.clip(
            contract.lower[column] + span * (0.4 + 0.25 * swing), contract.lower[column], contract.upper[column]
        )
        targets[:, column] = wanted
    middle[contract.base :] = targets[0, contract.base :]
    base, angles = (np.repeat(x[None], STEPS, 0) for x in np.split(middle, [contract.base]))
    angles = replay.simulate(body, replay.Log(targets, angles, base), 0.6, 1.5, 2)[:, body.active]
    np.savez(file, step=np.arange(STEPS), targets=targets, reading_angles=angles, reading_base=base)
    return file


@pytest.mark.slow
def test_known_drives_and_delays_are_found_again(folder, logged, capsys):
    assert replay.main([str(logged), "--policy", str(folder), "--fit"]) == 0
    contract = Contract(folder)
    found = replay.fit(SimBody(contract), replay.read(logged, contract))
    assert found.stiffness == pytest.approx(0.6, rel=0.1)
    assert found.damping == pytest.approx(1.5, rel=0.1)
    assert found.delay == 2
    assert np.degrees(found.error) < 0.2
    told = capsys.readouterr().out
    assert "| th_rot |" in told and "commands 2 control steps late" in told
    cfg = configs.parse(["--task", "BoxGrasping", "--config", str(logged.with_suffix(".yaml"))])
    low, high = cfg.task.randomize.finger_stiffness
    assert low < 0.6 < high and cfg.task.randomize.action_delay == (1, 3)
    assert logged.with_suffix(".png").stat().st_size > 20_000


def test_the_same_simulation_gives_the_same_angles(folder, logged, capsys):
    """And leaves the model as it was."""
    contract = Contract(folder)
    body, log = SimBody(contract), replay.read(logged, contract)
    first = replay.simulate(body, log)
    replay.simulate(body, log, 0.3, 2.0, 1)
    np.testing.assert_array_equal(replay.simulate(body, log), first)
    assert np.abs(first[:, body.active] - log.angles).max() > np.radians(3), "those of the log had other drives"


def test_a_run_of_the_deployed_policy_can_be_repeated(folder, tmp_path, capsys):
    """Of a hand that touches nothing for a second, the mock's smoothing shows."""
    words = [
        "--policy",
        str(folder),
        "--body",
        "mock",
        "--seconds",
        "0.6",
        "--quiet",
        "--log",
        str(tmp_path / "run.npz"),
    ]
    assert deploy(words) == 0
    assert replay.main([str(tmp_path / "run.npz"), "--policy", str(folder)]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 12 and all(float(row[2]) < 5 for row in rows)
    assert (tmp_path / "run.png").exists()


def test_steps_without_feedback_keep_their_time(folder, tmp_path):
    contract = Contract(folder)
    rows = [0, 1, 4]
    targets = np.repeat(contract.start[None], 3, 0) + np.arange(3)[:, None]
    angles, base = np.arange(36.0).reshape(3, 12), np.zeros((3, 6))
    np.savez(tmp_path / "run.npz", step=rows, targets=targets, reading_angles=angles, reading_base=base)
    log = replay.read(tmp_path / "run.npz", contract)
    assert (log.targets[:, 0] - contract.start[0]).tolist() == pytest.approx([0, 1, 1, 1, 2])
    assert np.isnan(log.angles[2:4]).all() and log.angles[4].tolist() == angles[2].tolist()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: None, "No such file"),
        (lambda file: file.write_bytes(b"PK"), "not read"),
        (lambda file: np.savez(file, step=[0]), "it lacks targets, reading_angles, reading_base"),
        (
            lambda file: log(file, targets=np.zeros((2, 4))),
            "targets is float64 (2, 4), allowed are finite numbers [steps, 18]",
        ),
        (lambda file: log(file, targets=np.full((2, 18), np.nan)), "targets is float64 (2, 18), allowed are finite"),
        (lambda file: log(file, targets=np.full((2, 18), "x")), "targets is <U1 (2, 18), allowed are finite"),
        (lambda file: log(file, reading_angles=np.full((2, 12), 1e300)), "reading_angles is float64 (2, 12), allowed"),
        (lambda file: log(file, reading_angles=np.zeros((2, 3))), "reading_angles is float64 (2, 3)"),
        (lambda file: log(file, reading_base=np.zeros((3, 6))), "reading_base is float64 (3, 6)"),
        (lambda file: log(file, step=[0, 10**15]), "step is no count that rises"),
        (lambda file: log(file, step=[1, 0]), "step is no count that rises"),
        (lambda file: log(file, step=[-2, 0]), "step is no count that rises"),
        (lambda file: log(file, step=[0.0, np.inf]), "step is no count that rises"),
        (
            lambda file: log(file, policy="BoxGrasping other.pth 3 left"),
            "is of BoxGrasping other.pth 3 left: allowed is a log of",
        ),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, capsys, spoil, message):
    spoil(tmp_path / "run.npz")
    assert replay.main([str(tmp_path / "run.npz"), "--policy", str(folder)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and message in error and "\n" not in error
    assert {path.name for path in tmp_path.iterdir()} <= {"run.npz"}


def log(file, **fields):
    whole = {
        "step": [0, 1],
        "targets": np.zeros((2, 18)),
        "reading_angles": np.zeros((2, 12)),
        "reading_base": np.zeros((2, 6)),
    }
    np.savez(file, **{**whole, **fields})


def test_a_hand_that_reports_late_is_repeated_from_its_first_report(folder, tmp_path, capsys):
    log(tmp_path / "run.npz", step=[3, 4])
    assert replay.main([str(tmp_path / "run.npz"), "--policy", str(folder)]) == 0
    assert "nan" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_log_of_a_grasp_tells_nothing_of_the_drives(folder, tmp_path, capsys):
    """Fingers that hold something: the search ends at its edge, and says so."""
    file = tmp_path / "grasp.npz"
    assert deploy(["--policy", str(folder), "--body", "mock", "--seconds", "5", "--log", str(file)]) == 0
    assert replay.main([str(file), "--policy", str(folder), "--fit"]) == 2
    assert "where the search ends" in capsys.readouterr().err
    assert not file.with_suffix(".yaml").exists()
