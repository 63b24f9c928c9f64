"""dexhand_deploy: the loop, the vendor's SDK by its methods, the bus and its faults, ROS messages, the command."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dexhand_deploy import Contract, DexHandBody, MockHand, RosBody, Safety, SimBody, Targets, run
from dexhand_deploy.__main__ import main
from dexhand_gym import export

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "policy"
    assert export.main(["--checkpoint", "pretrained", "--out", str(out)]) == 0
    return out


@pytest.fixture
def contract(folder):
    return Contract(folder)


class Sdk:
    """What a hand at rest reports; remembers what it was told."""

    def __init__(self):
        self.sent, self.errors, self.cleared, self.angle, self.heat = [], {}, 0, 12.34, 30
        self.touch = {"ff": (3.0, 5.0, 90), "th": (1.0, 2.0, 180)}

    def move_joints(self, **degrees):
        self.sent.append(degrees)

    def get_errors(self):
        return {board: self.errors.get(board) for board in range(6)}

    def clear_errors(self):
        self.errors, self.cleared = {}, self.cleared + 1

    def get_feedback(self):
        tactile = {
            name: SimpleNamespace(normal_force=n, tangential_force=t, direction=d, temperature=self.heat)
            for name, (n, t, d) in self.touch.items()
        }
        names = [
            "th_dip",
            "th_mcp",
            "th_rot",
            "ff_spr",
            "ff_dip",
            "ff_mcp",
            "mf_dip",
            "mf_mcp",
            "rf_dip",
            "rf_mcp",
            "lf_dip",
            "lf_mcp",
        ]
        return SimpleNamespace(joints={name: SimpleNamespace(angle=self.angle) for name in names}, tactile=tactile)


# --- The SDK ---------------------------------------------------------------------------------------------------------


def test_angles_go_in_degrees_by_the_sdks_names(contract):
    sdk = Sdk()
    body = DexHandBody(contract, sdk)
    targets = np.zeros(18, np.float32)
    targets[6:] = np.radians(np.arange(12))
    targets[0] = 0.25
    body.send(targets)
    names = contract.targets[6:]
    assert sdk.sent == [{name: pytest.approx(i, abs=1e-4) for i, name in enumerate(names)}]
    assert set(names) == set(sdk.get_feedback().joints)
    assert body.read()["base"][0] == pytest.approx(0.25), "an arm that believes to be there"
    np.testing.assert_allclose(body.read()["angles"], math.radians(12.34))


def test_touch_comes_in_the_pads_frame(contract):
    """Into the skin, to the tip (0 degrees), to the right (90 degrees); a finger that reports nothing feels nothing."""
    found = DexHandBody(contract, Sdk()).read()["forces_pad"]
    np.testing.assert_allclose(found, [[1, -2, 0], [3, 0, 5], [0] * 3, [0] * 3, [0] * 3], atol=1e-12)
    other = DexHandBody(contract, Sdk(), direction=-1).read()["forces_pad"]
    np.testing.assert_allclose(other[1], [3, 0, -5], atol=1e-12)


def test_a_stall_is_cleared_and_counted(contract):
    sdk = Sdk()
    body = DexHandBody(contract, sdk)
    sdk.errors = {2: "stall"}
    body.send(contract.start)
    body.send(contract.start)
    assert (sdk.cleared, body.health()["stalls"]) == (1, 1)


# --- The loop --------------------------------------------------------------------------------------------------------


def test_the_loop_keeps_its_rate(contract):
    begin = time.perf_counter()
    found = run(contract, DexHandBody(contract, Sdk()), 0.2, Targets(contract))
    assert time.perf_counter() - begin >= 0.19
    assert (found.why, found.steps, found.lost) == ("done", 10, 0)
    assert np.array(found.log["action"]).shape == (10, 18) and np.array(found.log["reading_angles"]).shape == (10, 12)


def test_steps_that_are_late_are_counted(contract):
    def slow(found, readings, targets):
        time.sleep(0.03)
        return False

    found = run(contract, DexHandBody(contract, Sdk()), 0.1, Targets(contract), tell=slow)
    assert found.late == 5 and found.worst > 0.005 and found.busy > 0.03


def test_lost_feedback_holds_the_hand_and_then_stops_it(contract):
    sdk, targets = Sdk(), Targets(contract)
    body = DexHandBody(contract, sdk)
    run(contract, body, 0.1, targets, realtime=False)
    before, count = targets.current.copy(), len(sdk.sent)
    sdk.angle = math.nan
    found = run(contract, body, 1.0, targets, realtime=False, safety=Safety(most_lost=3))
    assert found.why == "no feedback for 4 control steps: allowed are 3"
    np.testing.assert_array_equal(targets.current, before)
    assert sdk.sent[count:] == [sdk.sent[count - 1]] * 4


def test_a_short_loss_is_bridged(contract):
    sdk = Sdk()
    body = DexHandBody(contract, sdk)

    def now_and_then(found, readings, targets):
        sdk.angle = math.nan if found.steps % 4 in (1, 2) else 10.0
        return False

    found = run(contract, body, 0.4, Targets(contract), realtime=False, tell=now_and_then)
    assert (found.why, found.steps, found.lost) == ("done", 20, 10)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda sdk: setattr(sdk, "heat", 80), "fingertip th has 80 degrees C: allowed are 70"),
        (lambda sdk: setattr(sdk, "clear_errors", lambda: None), "21 stalls: allowed are 20"),
    ],
)
def test_what_stops_the_hand(contract, spoil, why):
    sdk = Sdk()
    sdk.touch = dict(list(sdk.touch.items())[::-1])
    sdk.errors = {0: "stall"}
    spoil(sdk)
    sdk.touch.pop("ff")
    found = run(contract, DexHandBody(contract, sdk), 2.0, Targets(contract), realtime=False)
    assert found.why == why


def test_ctrl_c_opens_the_hand_at_its_speed_limits(contract):
    sdk, targets = Sdk(), Targets(contract)
    body = DexHandBody(contract, sdk)

    def interrupt(found, readings, current):
        if found.steps == 5:
            raise KeyboardInterrupt
        return False

    before = targets.current.copy()
    found = run(contract, body, 1.0, targets, realtime=False, tell=interrupt)
    assert (found.why, found.steps) == ("interrupted", 5)
    sent = np.array([[row[name] for name in contract.targets[6:]] for row in sdk.sent])
    most = np.degrees(contract.max_change[6:])
    assert (np.abs(np.diff(sent, axis=0)) <= most + 1e-4).all()
    assert (np.abs(targets.current[6:]) <= np.maximum(np.abs(before[6:]) - 0.9, 0.2)).all(), "open after a second"
    assert np.abs(targets.current[:6] - before[:6]).max() < 0.05, "the base stays"


# --- The bus ---------------------------------------------------------------------------------------------------------


def test_the_mock_is_coarse_and_smooth(contract):
    hand = MockHand(contract, low_pass=0.25, lost=0.0)
    start = hand.targets.copy()
    hand.move_joints(ff_mcp=math.degrees(start[contract.targets.index("ff_mcp")]) + 4.0)
    moved = np.degrees(hand.targets - start)
    assert moved[contract.targets.index("ff_mcp")] == pytest.approx(1.0, abs=0.01), "a quarter of four degrees"
    assert np.abs(np.delete(moved, contract.targets.index("ff_mcp"))).max() == 0.0
    for joint in hand.get_feedback().joints.values():
        assert joint.angle * 100 == pytest.approx(round(joint.angle * 100), abs=1e-6)
    for touch in hand.get_feedback().tactile.values():
        assert touch.direction == int(touch.direction) and 0 <= touch.direction < 360


def test_the_mock_loses_frames(contract):
    hand = MockHand(contract, low_pass=1.0, lost=0.3, seed=1)
    arrived = 0
    for i in range(100):
        hand.move_joints(lf_mcp=float(i % 7))
        column = contract.targets.index("lf_mcp")
        arrived += math.degrees(hand.targets[column]) == pytest.approx(i % 7, abs=0.02)
    assert 60 < arrived < 85, "each seventh is right by chance, too"


def test_a_stall_of_the_mock_latches_until_it_is_cleared(contract):
    hand = MockHand(contract, low_pass=1.0, lost=0.0)
    body = DexHandBody(contract, hand, hand)
    hand.stall(3)
    targets, column = contract.start.copy(), contract.targets.index("mf_mcp")
    targets[column] += 0.1
    body.send(targets)
    assert hand.targets[column] == pytest.approx(contract.said["starts"]["hand"][0][column], abs=1e-5)
    assert body.health()["stalls"] == 1
    body.send(targets)
    assert hand.targets[column] == pytest.approx(targets[column], abs=2e-4)


@pytest.mark.slow
def test_the_policy_grasps_through_the_bus(folder, capsys):
    words = ["--policy", str(folder), "--body", "mock", "--episodes", "20", "--until-height", "0.2", "--quiet"]
    assert main(words) == 0
    assert int(capsys.readouterr().out.split()[0]) >= 18


# --- ROS -------------------------------------------------------------------------------------------------------------


def test_ros_gets_one_joint_of_every_motor(contract):
    said = []
    body = RosBody(contract, lambda names, positions: said.append(dict(zip(names, positions))), lambda: {"angles": 1})
    targets = np.zeros(18)
    targets[contract.targets.index("ff_spr")] = 0.1
    targets[contract.targets.index("th_dip")] = 0.4
    body.send(targets)
    (message,) = said
    assert len(message) == 12
    assert message["r_f_joint2_1"] == pytest.approx(0.1)
    assert "r_f_joint4_1" not in message and "r_f_joint5_1" not in message, "which the node would average"
    assert message["r_f_joint1_3"] == pytest.approx(0.4) and "r_f_joint1_4" not in message
    assert body.read()["angles"] == 1
    targets[2] = 0.05
    body.send(targets)
    assert body.read()["base"][2] == pytest.approx(0.05), "the arm went along"


# --- The command -----------------------------------------------------------------------------------------------------


def test_the_command_logs_and_tells(folder, tmp_path):
    command = [
        sys.executable,
        "-m",
        "dexhand_deploy",
        "--policy",
        str(folder),
        "--body",
        "mock",
        "--seconds",
        "1",
        "--arm",
    ]
    done = subprocess.run([*command, "--log", str(tmp_path / "run.npz")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 50 and [*rows[0]] == ["time", "ARTx", "ARTy", "ARTz", "ARRx", "ARRy", "ARRz"]
    assert re.search(r"done: 50 steps, \d+ late", done.stderr), "how many were late is this machine's business"
    assert "th_rot" in done.stderr and "on fingertips, N" in done.stderr
    with np.load(tmp_path / "run.npz") as log:
        assert log["targets"].shape == (50, 18) and log["reading_forces_pad"].shape == (50, 5, 3)
        np.testing.assert_allclose(log["targets"][:, 0], [row["ARTx"] for row in rows], atol=1e-6)


def test_a_run_that_was_stopped_is_no_success(folder, monkeypatch, capsys):
    """Its exit status says so, and no other episode begins."""
    monkeypatch.setattr("dexhand_deploy.loop.stopped", lambda *args: "something is wrong")
    assert main(["--policy", str(folder), "--body", "mock", "--episodes", "3", "--quiet"]) == 1
    assert capsys.readouterr().err.count("something is wrong: 1 steps") == 1


def test_an_interrupted_run_opens_the_hand_and_ends(folder, monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("dexhand_deploy.loop.stopped", interrupt)
    assert main(["--policy", str(folder), "--body", "mock", "--episodes", "3", "--quiet"]) == 130
    assert capsys.readouterr().err.count("interrupted: 1 steps") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "nowhere", "--body", "sim"], "nowhere/contract.json: No such file"),
        (
            ["--policy", "FOLDER", "--body", "dexhand"],
            "the body dexhand needs the vendor's SDK: pip install pyzlg_dexhand",
        ),
        (["--policy", "FOLDER", "--body", "ros"], "the body ros needs the vendor's SDK"),
        *(
            (
                ["--policy", "FOLDER", "--body", "sim", "--seconds", value],
                f"seconds = {float(value)}: allowed is 0.02 to 1e+06",
            )
            for value in ("0", "-1", "nan", "inf", "1e300", "0.001")
        ),
        *(
            (
                ["--policy", "FOLDER", "--body", "sim", "--log", value],
                f"--log {value}: allowed is a .npz file in a folder",
            )
            for value in ("no/where.npz", "run", ".")
        ),
        (["--policy", "FOLDER", "--body", "sim", "--log", "run.npz", "--episodes", "3"], "and one episode"),
        (["--policy", "FOLDER", "--body", "sim", "--episodes", "0"], "--episodes 0: allowed is 1 or more"),
        (["--policy", "FOLDER", "--body", "sim", "--until-height", "nan"], "--until-height nan: allowed is 0 to 100 m"),
        (["--policy", "FOLDER", "--body", "mock", "--low-pass", "5"], "low_pass = 5.0, lost = 0.01: allowed are"),
        (["--policy", "FOLDER", "--body", "mock", "--low-pass", "nan"], "low_pass = nan, lost = 0.01: allowed are"),
        (["--policy", "FOLDER", "--body", "mock", "--lost", "2"], "low_pass = 0.3, lost = 2.0: allowed are"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main([str(folder) if word == "FOLDER" else word for word in words]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and message in error and "\n" not in error
    assert not list(tmp_path.iterdir())


def test_a_simulation_without_mujoco_says_so(contract, monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ValueError, match="a simulation needs MuJoCo: pip install mujoco"):
        SimBody(contract)
