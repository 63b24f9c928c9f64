"""A log beside its simulation: where the hands are, the video, the page and the window."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import time

import numpy as np
import programs
import pytest
from test_replay import folder, log  # noqa: F401
from test_view import ENV, ROOT, read_video

from dexhand_deploy import Contract, SimBody
from dexhand_deploy.kinematics import Kinematics
from dexhand_gym import replay
from dexhand_gym.side_by_side import SideBySide, words

STEPS = 40
WRITTEN = 60
"""Rows of a picture with words in them."""


@pytest.fixture
def frozen(folder, tmp_path):  # noqa: F811
    """A log of a hand that is told to close, and reports that it does not move."""
    contract = Contract(folder)
    targets = np.repeat(contract.start[None], STEPS, 0)
    targets[:, 2] = 0.3  # high above the ground
    base = targets[:, : contract.base].copy()
    body = SimBody(contract)
    body.reset({"hand": targets[0], "box": [2.0, 2.0, 0.2, 0.0, 0.0, 0.0, 1.0]})
    angles = np.repeat(body.read()["angles"][None], STEPS, 0)
    share = np.linspace(0, 0.5, STEPS)[:, None]
    open_hand, closed = targets[:, contract.base :], contract.upper[contract.base :]
    targets[:, contract.base :] = open_hand + share * (closed - open_hand)
    file = tmp_path / "run.npz"
    kept = np.r_[:10, 30:STEPS]  # between them there was no feedback
    fields = {"targets": targets, "reading_angles": angles, "reading_base": base}
    np.savez(file, step=kept, **{name: rows[kept] for name, rows in fields.items()})
    return file


def test_both_hands_are_where_log_and_simulation_say(folder, frozen):  # noqa: F811
    """Their pads, from the joints: the log's from the deployed kinematics, the simulation's from plain MuJoCo."""
    contract = Contract(folder)
    body, found = SimBody(contract), replay.read(frozen, contract)
    simulated, logged = replay.simulate(body, found), replay.reported(contract, found) @ contract.coupling.T
    assert np.abs(simulated - logged).max() > 0.3
    env, (palm, *pads) = SideBySide(contract), [contract.said["hand"]["palm"], *Kinematics(contract).tips]
    try:
        env.put(np.stack((simulated[-1], logged[-1])))
        rows = [env.sim.body_names.index(name) for name in (palm, *pads)]
        poses = env.sim.rigid_body_state[:, rows, :3].double().numpy()
        assert env.control_dt == contract.control_dt
    finally:
        env.close()
    body.data.qpos[body.positions] = simulated[-1]
    body.mujoco.mj_kinematics(body.model, body.data)
    np.testing.assert_allclose(poses[0, 1:], body.data.xpos[body.pads], atol=1e-5)
    wanted = Kinematics(contract).pads(found.angles[-1])
    between = [np.linalg.norm(x[:, None] - x, axis=-1) for x in (poses[1, 1:], wanted)]
    np.testing.assert_allclose(between[0], between[1], atol=1e-5)
    np.testing.assert_allclose(
        np.linalg.norm(poses[1, 1:] - poses[1, 0], axis=1), np.linalg.norm(wanted, axis=1), atol=1e-5
    )


def test_without_feedback_the_hand_stays_where_it_last_was(folder, tmp_path):  # noqa: F811
    contract = Contract(folder)
    angles, base = np.linspace(0, 0.1, 36).reshape(3, 12), np.linspace(0, 0.1, 18).reshape(3, 6)
    targets = np.zeros((3, 18))
    np.savez(tmp_path / "run.npz", step=[1, 2, 5], targets=targets, reading_angles=angles, reading_base=base)
    found = replay.read(tmp_path / "run.npz", contract)
    joints = replay.reported(contract, found) @ contract.coupling.T
    rows = [0, 0, 1, 1, 1, 2]
    np.testing.assert_allclose(joints[:, SimBody(contract).active], angles[rows], atol=1e-6)
    np.testing.assert_allclose(joints[:, : contract.base], base[rows], atol=1e-6)


def test_the_words_name_the_joint_that_is_farthest_off(folder):  # noqa: F811
    contract, off = Contract(folder), np.zeros((3, 12))
    off[1, 4], off[1, 2], off[2] = -np.radians(30), np.radians(20), np.nan
    assert words(contract, off, 1) == {"time": "0.02 of 0.04 s", "worst joint": "ff_mcp, 30.0 degrees apart"}
    assert words(contract, off, 2) == {"time": "0.04 of 0.04 s", "worst joint": "no feedback"}


@pytest.mark.slow
@pytest.mark.draws
def test_the_video_has_the_hand_on_the_left_and_its_simulation_on_the_right(folder, frozen, capsys):  # noqa: F811
    video = frozen.with_name("beside.mp4")
    assert replay.main([str(frozen), "--policy", str(folder), "--video", str(video)]) == 0
    about, pictures = read_video(video)
    assert (about["size"], about["fps"], len(pictures)) == ((1280, 480), 25, STEPS // 2)
    assert {path.name for path in frozen.parent.iterdir()} == {"run.npz", "run.png", "beside.mp4"}
    left, right = (x[:, WRITTEN:].astype(int) for x in np.split(pictures, 2, axis=2))

    def changed(one, other):
        """Share of the pixels that look different."""
        return (np.abs(one - other).max(-1) > 60).mean()

    assert changed(left[0], right[0]) < 0.005, "they begin alike"
    assert changed(left[0], left[-1]) < 0.002 and changed(right[0], right[-1]) > 0.03, (
        "the hand of the log stands still"
    )
    orange = left[0, ..., 0] - left[0, ..., 2] > 90
    assert orange.sum() > 200, "fingertips are to be seen"
    told = pictures[:, :WRITTEN].astype(int)
    time, worst = np.split(np.abs(told[1:] - told[:-1]).max((1, 3)) > 60, 2, axis=1)
    assert time.any(1).all() and worst.any(), "the words change"


@pytest.mark.slow
def test_the_page_plays_it_until_interrupted(folder, frozen):  # noqa: F811
    from test_page import Client, wait_for

    command = [sys.executable, "-m", "dexhand_gym.replay", frozen.name, "--policy", str(folder), "--show"]
    process = programs.start(command, frozen.parent, ENV)
    client = Client(next(line.split()[-1] for line in process.stdout if "watch: " in line))
    wait_for(lambda: "Pause" in client.listen().controls)

    def told():
        (text,) = [text for text in client.listen().texts.values() if "worst joint" in text]
        return {name: re.search(f"id='{name}'>(.*?)</td>", text)[1] for name in ("state", "hand", "time", "worst")}

    client.set("Speed", value="1/4x")
    first = told()
    assert (first["hand"], first["state"][:7]) == ("left, environment 1", "playing")
    wait_for(lambda: told()["time"] != first["time"])
    client.set("Pause", value=True)
    wait_for(lambda: told()["state"] == "paused")
    still = told()
    assert re.fullmatch(r"\d\.\d\d of 0\.78 s", still["time"])
    assert still["worst"] == "no feedback" or still["worst"].endswith("degrees apart")
    assert told() == still
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    client.close()
    assert (process.returncode, "Traceback" in out) == (0, False), out


WINDOW = """
import sys, threading, time
from dexhand_gym import replay, side_by_side
from dexhand_gym.watch.window import Window
seen, step = [], side_by_side.SideBySide.step
def count(env, actions):
    seen.append(env.viewer.words["time"])
    assert isinstance(env.viewer, Window)
    if len(seen) == 50:
        env.viewer._window.close()  # what the user does
    return step(env, actions)
side_by_side.SideBySide.step = count
status = replay.main(sys.argv[1:])
print(status, len(seen), seen[0], seen[39], seen[40])
"""


@pytest.mark.slow
def test_the_window_plays_it_again_until_it_is_closed(folder, frozen):  # noqa: F811
    program = [sys.executable, "-c", WINDOW, str(frozen), "--policy", str(folder), "--show"]
    command = [programs.need("xvfb-run"), "-a", "-s", "-screen 0 640x480x24", *program]
    process = programs.start(command, ROOT, ENV)
    out, _ = process.communicate(timeout=120)
    assert out.splitlines()[-2:] == ["watch: a window", "0 50 0.00 of 0.78 s 0.78 of 0.78 s 0.00 of 0.78 s"], out


def spoil(folder, **changes):  # noqa: F811
    file = folder / "contract.json"
    said = json.loads(file.read_text())
    for path, value in changes.items():
        group, name = path.split("__")
        said[group][name] = value
    file.write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("spoilt", "video", "message"),
    [
        ({}, "run.avi", "run.avi: allowed is a .mp4 file in a folder that is there"),
        ({}, "nowhere/run.mp4", "nowhere/run.mp4: allowed is a .mp4 file in a folder that is there"),
        ({}, "", "--video : allowed is a .mp4 file"),
        ({"hand__name": "third"}, "run.mp4", "env.hand: unknown name 'third'"),
        ({"hand__name": "left"}, "run.mp4", "allowed are those of the hand 'left'"),
        ({"physics__hand_quat": [0, 0, 0, 0]}, "run.mp4", "physics.hand_quat = [0, 0, 0, 0]: allowed"),
        ({"physics__hand_height": "high"}, "run.mp4", "env.hand_height = 'high': allowed is"),
        ({"physics__hand_height": 1e9}, "run.mp4", "env.hand_height = 1000000000.0: allowed is"),
    ],
)
@pytest.mark.draws
def test_mistakes_are_one_line_before_anything_is_written(folder, frozen, capsys, spoilt, video, message):  # noqa: F811
    policy = frozen.parent / "policy"
    shutil.copytree(folder, policy)
    spoil(policy, **spoilt)
    video = str(frozen.parent / video) if video else ""
    assert replay.main([str(frozen), "--policy", str(policy), "--video", video]) == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and message in error and (out, error.count("\n")) == ("", 1)
    assert {path.name for path in frozen.parent.iterdir()} == {"run.npz", "policy"}


@pytest.mark.slow
@pytest.mark.draws
def test_an_interrupted_video_leaves_nothing(folder, tmp_path):  # noqa: F811
    contract = Contract(folder)
    targets = np.repeat(contract.start[None], 2000, 0)
    log(
        tmp_path / "run.npz",
        step=np.arange(2000),
        targets=targets,
        reading_angles=np.zeros((2000, 12)),
        reading_base=targets[:, :6],
    )
    command = [sys.executable, "-m", "dexhand_gym.replay", "run.npz", "--policy", str(folder), "--video", "run.mp4"]
    process = programs.start(command, tmp_path, ENV)
    end = time.monotonic() + 100
    while not (tmp_path / ".run.mp4").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in out) == (130, False), out
    assert {path.name for path in tmp_path.iterdir()} == {"run.npz", "run.png"}
