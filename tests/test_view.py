"""Watching: pictures, clips, a page in a real browser, a window on a virtual display."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import imageio_ffmpeg
import numpy as np
import programs
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers.vector import RecordVideo

import train_ppo
from dexhand_gym.sim import Box, Scene, SimConfig
from dexhand_gym.sim.mjcf import build_model
from examples.scripted_grasp import scripted_env

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
BOX = "DexHand/BoxGrasping-v0"
TINY = "--task BoxGrasping --num-envs 4 --train.horizon-length 8 --train.num-minibatches 2 --task.episode-length 20"
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}
for _name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
    ENV.pop(_name, None)


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def make(task=BOX, num_envs=2, render_mode="rgb_array", **fields):
    return gymnasium.make_vec(task, num_envs=num_envs, seed=0, render_mode=render_mode, **fields).unwrapped


def run(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "train_ppo.py"), *line.split()]
    return subprocess.run(command, cwd=folder, env={**ENV, **variables}, capture_output=True, text=True, timeout=300)


def read_video(file: Path):
    """ffmpeg's description of a file, and its pictures [n, height, width, 3]."""
    reader = imageio_ffmpeg.read_frames(str(file))
    about = next(reader)
    width, height = about["size"]
    return about, np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def is_picture(picture: np.ndarray) -> bool:
    """Neither black nor of one colour, and the box is on it."""
    return 50 < picture.mean() < 220 and picture.std() > 15 and 50 < blue(picture).sum() < picture[..., 0].size / 10


def blue(picture: np.ndarray) -> np.ndarray:
    """Where the box is."""
    r, _, b = picture.astype(int).transpose(2, 0, 1)
    return b - r > 60


# --- Pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.draws
def test_pictures_of_a_vector_environment():
    env = make(num_envs=3, video_size=(320, 240))
    env.reset()
    first = env.render()
    assert isinstance(first, tuple) and len(first) == 3
    assert all(picture.shape == (240, 320, 3) and picture.dtype == np.uint8 for picture in first)
    assert all(is_picture(picture) for picture in first)
    assert np.abs(first[0].astype(int) - first[1]).mean() > 0.5, "each starts somewhere else"
    for _ in range(10):
        env.step(torch.ones(3, 18))
    assert np.abs(env.render()[0].astype(int) - first[0]).mean() > 0.5, "the hand has moved"
    env.close()


@pytest.mark.draws
def test_pictures_show_every_box_in_its_own_size():
    env = make(
        num_envs=6, randomize={"box_size": (0.03, 0.07)}, init_box_position_range=0.0, follow=False, distance=1.0
    )
    env.reset()
    area = np.array([blue(picture).sum() for picture in env.render()])
    size = 2 * env.object_halves[:, 0, 0].numpy()
    assert size.max() > 1.3 * size.min()
    np.testing.assert_allclose(area / area.max(), (size / size.max()) ** 2, atol=0.2)  # a turned one shows more
    assert np.corrcoef(area, size**2)[0, 1] > 0.93
    env.close()


@pytest.mark.draws
def test_the_camera_sees_the_whole_lift():
    env = scripted_env(1, seed=4, render_mode="rgb_array", video_size=(320, 240))
    edge = np.ones((240, 320), bool)
    edge[3:-3, 3:-3] = False
    for step in range(280):
        env.step(torch.zeros(1, 0))
        if step % 70 == 69:
            (picture,) = env.render()
            orange = (picture[..., 0].astype(int) - picture[..., 2]) > 90
            assert blue(picture).sum() > 100 and orange.sum() > 50
            assert not (blue(picture) | orange)[edge].any()
    assert env.unwrapped.observations()["object_pos"][0, 2] > 0.2
    env.close()


@pytest.mark.draws
def test_the_camera_follows_the_hand_from_where_it_is_told():
    def middle(**fields):
        """Height in the picture of the fingertips, which are orange, 0 to 1 from the top, as the hand rises 5 cm."""
        env = make("DexHand/BaseTask-v0", num_envs=1, video_size=(160, 120), **fields)
        up = torch.zeros(1, 18)
        up[:, 2] = 0.25
        heights = []
        for step in range(21):
            if step % 20 == 0:
                picture = env.render()[0].astype(int)
                heights.append(np.nonzero(picture[..., 0] - picture[..., 2] > 90)[0].mean() / 120)
            env.step(up)
        env.close()
        return heights

    followed, still = middle(), middle(follow=False)
    assert followed[1] == pytest.approx(followed[0], abs=0.03)
    assert still[1] < still[0] - 0.05
    near, far = (make(num_envs=1, distance=d, video_size=(160, 120)) for d in (0.4, 0.8))
    assert blue(near.render()[0]).sum() > 2 * blue(far.render()[0]).sum()


@pytest.mark.draws
def test_either_engine_gives_the_same_picture():
    pictures = []
    for backend in ("mujoco", "mjwarp"):
        env = make(num_envs=1, backend=backend, device="cpu", video_size=(160, 120))
        env.reset(seed=3)
        pictures.append(env.render()[0].astype(int))
        env.close()
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.1


@pytest.mark.draws
def test_single_environment_draws():
    env = gymnasium.make(BOX, render_mode="rgb_array", video_size=(160, 120))
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert is_picture(env.render())
    assert env.metadata["render_fps"] == 50
    env.close()
    assert gymnasium.make(BOX).unwrapped.render() is None


@pytest.mark.draws
def test_gymnasiums_checker_accepts_every_render_mode(capsys):
    env = gymnasium.make(BOX, render_mode="rgb_array", video_size=(64, 48))
    check_env(env.unwrapped)
    assert "watch: http://127.0.0.1:" in capsys.readouterr().out, "human mode was tried"


def test_a_wrong_render_mode_is_named():
    with pytest.raises(ValueError, match="render_mode: unknown name 'rgb'; did you mean 'rgb_array'"):
        make(render_mode="rgb")


PICTURE = "import gymnasium; env = gymnasium.make('dexhand_gym:DexHand/BoxGrasping-v0', render_mode='rgb_array')"
PICTURE += "; env.reset(seed=0); print(env.render().mean()); env.close()"
NO_EGL = {"__EGL_VENDOR_LIBRARY_DIRS": "/nonexistent"}


@pytest.mark.draws
def test_osmesa_draws_where_egl_cannot():
    values = []
    for variables in ({}, NO_EGL):
        command = [sys.executable, "-c", PICTURE]
        done = subprocess.run(command, env={**ENV, **variables}, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        values.append(float(done.stdout))
    assert values[0] == pytest.approx(values[1], abs=2)


def test_nothing_to_draw_with_is_one_line(tmp_path):
    done = run(f"{TINY} --env.record-video", tmp_path, MUJOCO_GL="egl", **NO_EGL)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "apt-get install libegl1 libegl-mesa0 (or libosmesa6)" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "library", "why"),
    [
        ("osmesa", "libOSMesa.so", "nothing to draw with (osmesa: "),
        ("egl", "libEGL.so", "nothing to draw with (egl: "),
        ("glfw", "", "nothing to draw with (glfw: no display)"),
        ("osmsa", "", "MUJOCO_GL: unknown name 'osmsa'; did you mean 'osmesa'?"),
        ("off", "", "MUJOCO_GL = 'off' forbids drawing; allowed is egl, osmesa, glfw, glx"),
    ],
)
def test_only_what_draws_minds_opengl(tmp_path, name, library, why):
    """Without the library that MUJOCO_GL names, `import mujoco` fails; training does not."""
    (tmp_path / "lib").mkdir()
    for number in ("", *(f".{i}" for i in range(10))) if library else ():
        (tmp_path / "lib" / f"{library}{number}").touch()  # is found first, and is none
    code = f"""if True:
        import train_ppo
        print(train_ppo.main("{TINY} --max-iterations 1".split()))
        print(train_ppo.main("{TINY} --env.record-video".split()))"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**ENV, "MUJOCO_GL": name, "LD_LIBRARY_PATH": str(tmp_path / "lib")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "2" and "\n0\n" in done.stdout, done
    assert done.stderr.count("\n") == 1 and why in done.stderr
    assert len([path for path in (tmp_path / "runs").iterdir() if not path.is_symlink()]) == 1, "the first one's"


TRITON = """if True:
    maps = open("/proc/self/maps").read()
    assert "libLLVM" not in maps, "software OpenGL has come first"
    print("first")"""
OPTIMIZER = PICTURE + "; import torch; torch.optim.Adam([torch.zeros(1, requires_grad=True)]); import triton"


@pytest.mark.draws
@pytest.mark.parametrize("name", ["egl", "osmesa"])
def test_triton_bears_pictures(name):
    """Its LLVM and the one of software OpenGL crash in one process if OpenGL comes first."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed: it comes with PyTorch for CUDA")
    command = [sys.executable, "-c", OPTIMIZER]
    done = subprocess.run(command, env={**ENV, "MUJOCO_GL": name}, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.draws
@pytest.mark.parametrize("how", ["egl", "osmesa", "window"])
def test_triton_comes_before_opengl(tmp_path, how):
    """The order, by one that only looks around: for machines without a triton to crash."""
    (tmp_path / "triton.py").write_text(TRITON)
    variables = {**ENV, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", PICTURE]
    if how == "window":
        code = "from dexhand_gym.watch.display import has_display; assert has_display()"
        command = [programs.need("xvfb-run"), "-a", sys.executable, "-c", code]
    else:
        variables["MUJOCO_GL"] = how
    command[-1] += "; assert 'libLLVM' in open('/proc/self/maps').read()"
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "first"), done.stderr


def test_what_pleases_the_eye_is_free_of_physics():
    scene = Scene(boxes=(Box(),))
    seen, simulated = (build_model(scene, SimConfig(), visuals=visuals) for visuals in (True, False))
    for name in ("body_mass", "body_inertia", "body_ipos", "body_iquat", "dof_damping", "dof_armature", "jnt_range"):
        assert np.array_equal(getattr(seen, name), getattr(simulated, name)), name
    touching = (seen.geom_contype | seen.geom_conaffinity) > 0
    assert touching.sum() == simulated.ngeom < seen.ngeom
    for name in ("geom_type", "geom_size", "geom_pos", "geom_quat", "geom_friction", "geom_solref", "geom_bodyid"):
        assert np.array_equal(getattr(seen, name)[touching], getattr(simulated, name)), name


# --- Clips -----------------------------------------------------------------------------------------------------------


def check_clip(file: Path, size: tuple, seconds: float) -> np.ndarray:
    about, pictures = read_video(file)
    assert about["codec"] == "h264"
    assert about["pix_fmt"].startswith("yuv420p")
    assert about["size"] == size
    assert about["fps"] == 25.0, "every other control step of 0.02 s"
    assert about["duration"] == pytest.approx(seconds, abs=0.01)
    assert len(pictures) == round(seconds * 25)
    assert all(is_picture(picture) for picture in pictures)
    return pictures


@pytest.mark.draws
def test_training_and_testing_are_filmed(tmp_path):
    film = "--env.record-video --env.video-length 31 --env.video-size 160 120"
    done = run(f"{TINY} {film} --max-iterations 4 --env.video-interval 2", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    videos = tmp_path / "runs" / "latest_train" / "videos"
    # The clip of iteration 2 is cut short after two iterations of 8 steps, that of iteration 4 before its first step.
    assert {path.name for path in videos.iterdir()} == {"iteration_000002.mp4", "best.mp4"}
    pictures = check_clip(videos / "iteration_000002.mp4", (160, 120), 8 / 25)
    assert np.abs(pictures[0].astype(int) - pictures[-1]).mean() > 0.2, "something moves"
    assert "videos/iteration_000002.mp4, 0.3 s" in done.stdout

    done = run(f"--test --checkpoint latest --num-envs 4 --env.render False {film} --train.test-episodes 8", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "watch" not in done.stdout
    check_clip(tmp_path / "runs" / "latest_test" / "videos" / "test.mp4", (160, 120), 16 / 25)


@pytest.mark.draws
def test_a_clip_begins_in_the_episode_that_it_shows(tmp_path):
    """A test begins new episodes; with objects, those of before had others."""
    film = "--task ObjectGrasping --env.record-video --env.video-length 41 --env.video-size 160 120"
    line = f"--test --checkpoint pretrained --task.objects train:box {film} --num-envs 2 --train.test-episodes 2"
    done = run(f"{line} --env.render False --device cpu", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    _, pictures = read_video(tmp_path / "runs" / "latest_test" / "videos" / "test.mp4")
    assert len(pictures) == 21
    changes = [np.abs(a.astype(int) - b).mean() for a, b in zip(pictures, pictures[1:])]
    assert changes[0] < 2 * max(changes[1:]), "nothing jumps from the first picture to the second"


@pytest.mark.draws
def test_an_interrupted_training_leaves_only_whole_clips(tmp_path):
    film = "--env.record-video --env.video-interval 1 --env.video-length 8 --env.video-size 320 240"
    command = [sys.executable, str(ROOT / "train_ppo.py"), *f"{TINY} {film} --max-iterations 1000".split()]
    process = programs.start(command, tmp_path, ENV)
    assert any("video: runs" in line and "iteration_000003.mp4" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 130, out
    clips = sorted((tmp_path / "runs" / "latest_train" / "videos").iterdir())
    assert all(clip.name.startswith("iteration_") for clip in clips)
    check_clip(clips[-1], (320, 240), 4 / 25)


@pytest.mark.draws
@pytest.mark.parametrize("seconds", [0, 0.5, 1])
def test_ctrl_c_while_the_last_clip_is_drawn(tmp_path, seconds):
    film = "--env.record-video --env.video-size 1280 960 --task.episode-length 60 --render False"
    line = f"--test --checkpoint pretrained --num-envs 1 --train.test-episodes 1 {film}"
    process = programs.start([sys.executable, str(ROOT / "train_ppo.py"), *line.split()], tmp_path, ENV)
    assert any("video: being drawn" in line for line in process.stdout)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 130 and out.splitlines()[-1].endswith("interrupted"), out
    assert list((tmp_path / "runs" / "latest_test" / "videos").iterdir()) == []


def test_a_closed_environment_draws_nothing():
    env = make(num_envs=1)
    env.close()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        env.render()


@pytest.mark.draws
def test_gymnasiums_recorder_films_all(tmp_path):
    env = RecordVideo(make(num_envs=4, video_size=(80, 60)), str(tmp_path / "clips"), video_length=10)
    env.reset()
    for _ in range(12):
        env.step(torch.zeros(4, 18))
    env.close()
    (file,) = (tmp_path / "clips").iterdir()
    about, pictures = read_video(file)
    assert (about["size"], about["fps"], len(pictures)) == ((160, 120), 50.0, 10)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--env.video-size 641 480",
            "env.video_size = (641, 480): allowed is 2 values, each a whole number, 2 to 8192 and even",
        ),
        ("--env.video-length 0", "env.video_length = 0: allowed is a whole number, 1 to"),
        ("--env.video-interval 0", "env.video_interval = 0: allowed is a whole number, 1 to"),
        ("--env.render-port 70000", "env.render_port = 70000: allowed is a whole number, 0 to 65535 (0: any)"),
    ],
)
def test_mistakes_are_named(capsys, line, message):
    assert train_ppo.main(line.split()) == 2
    assert message in capsys.readouterr().err


# --- The command -----------------------------------------------------------------------------------------------------


def test_a_test_that_nobody_watches_ends(tmp_path):
    assert run(f"{TINY} --max-iterations 1", tmp_path).returncode == 0
    done = run("--test --checkpoint latest --train.test-episodes 4", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "watch: http://127.0.0.1:" in done.stdout
    result = json.loads((tmp_path / "runs" / "latest_test" / "result.json").read_text())
    assert result["episodes"] == 4


def test_without_viser_the_extra_is_named(tmp_path):
    arguments = [*TINY.split(), "--env.render", "True"]
    code = f"import sys; sys.modules['viser'] = None; import train_ppo; sys.exit(train_ppo.main({arguments}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'dexhand-gym[view]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_mujoco_a_run_goes_on_unseen(tmp_path):
    """As on Python 3.8, where there is another engine."""
    assert run(f"{TINY} --max-iterations 1", tmp_path).returncode == 0
    code = """if True:
        import sys
        from dexhand_gym.sim import mujoco  # what steps the physics is loaded, what draws is not to be had
        import train_ppo
        sys.modules["dexhand_gym.watch.render"] = sys.modules["dexhand_gym.watch.viewer"] = None
        sys.exit(train_ppo.main("--test --checkpoint latest --train.test-episodes 4".split()))"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "not shown: " in done.stdout and "watch:" not in done.stdout


WINDOW = """
import threading, time, torch
from dexhand_gym.watch.window import Window
from examples.scripted_grasp import scripted_env
env = scripted_env(3, seed=0, render_mode="human")
shown = env.unwrapped.viewer
assert isinstance(shown, Window)
for _ in range(4):
    env.step(torch.zeros(3, 0))
shown._on_key(46)  # .
shown._on_key(265)  # up
assert (shown.picked, shown.speed) == (1, "2x")
shown._on_key(32)  # space
threading.Timer(1.0, shown._on_key, [262]).start()  # right
threading.Timer(2.0, shown._on_key, [32]).start()
start = time.monotonic()
env.step(torch.zeros(3, 0))
assert time.monotonic() - start > 0.9
env.step(torch.zeros(3, 0))
assert time.monotonic() - start > 1.9
env.close()
print("closed after", shown.steps)
"""


def test_window_on_a_display():
    command = [programs.need("xvfb-run"), "-a", "-s", "-screen 0 640x480x24", sys.executable, "-c", WINDOW]
    done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "watch: a window\nclosed after 6\n"), done.stderr


def test_a_display_that_does_not_answer_is_none():
    code = "from dexhand_gym.watch.display import has_display; print(has_display())"
    variables = {**ENV, "DISPLAY": ":987"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


# --- docs/watching.md ------------------------------------------------------------------------------------------------


@pytest.mark.draws
def test_documentation():
    text = (ROOT / "docs" / "watching.md").read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / "docs" / link).stat().st_size < 300_000
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope: dict = {}
    exec(code, scope)
    assert [picture.shape for picture in scope["pictures"]] == [(240, 320, 3)] * 4
