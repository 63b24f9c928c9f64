"""Watching an environment while it runs: a window where there is a display, else a page for the browser."""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Callable, Dict, NamedTuple, Optional

import numpy as np
import torch

from dexhand_gym.envs.config import EnvConfig, check_name
from dexhand_gym.hand import CONTACT_BODIES, PAD_BODIES
from dexhand_gym.sim import load_triton
from dexhand_gym.sim.base import draws_itself

# MuJoCo is imported where it draws: Isaac Gym has a window of its own, and its Python no MuJoCo.
if TYPE_CHECKING:
    from dexhand_gym.envs.vec_env import DexHandVecEnv

log = logging.getLogger(__name__)

SPEEDS = {"1/8x": 0.125, "1/4x": 0.25, "1/2x": 0.5, "1x": 1.0, "2x": 2.0, "4x": 4.0, "max": math.inf}
SPEED_NAMES = list(SPEEDS)
FRAME_TIME = 1 / 30  # s between two drawn frames
FORCE_SCALE = 0.02  # m of arrow per N
FORCE_COLOR = (38, 217, 89)


def open_viewer(env: DexHandVecEnv, speed: str = "1x") -> Viewer:
    """A window or a page that shows `env` from now on. Raises RuntimeError where there can be neither, ValueError if the
    page cannot be where it is to be."""
    if draws_itself(env.sim):
        from dexhand_gym.isaacgym_window import IsaacGymWindow

        return IsaacGymWindow(env, speed)
    check_viewing(env.cfg.env)
    if has_display():
        return Window(env, speed)
    from dexhand_gym.page import Page

    return Page(env, speed)


def check_viewing(cfg: EnvConfig) -> None:
    """Raises RuntimeError, one line that says what to install, where there can be neither window nor page; ValueError if
    the page cannot be where `cfg` says."""
    if has_display():
        return
    if find_spec("viser") is None:
        raise RuntimeError(
            "no display for a window, and a page in the browser needs viser: pip install 'dexhand-gym[view]'"
        )
    from dexhand_gym.gate import listen

    listen(cfg.render_host, cfg.render_port).close()


def has_display() -> bool:
    """Whether a window with OpenGL can be opened: tried, for a DISPLAY that is set says little (ssh, CI)."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    load_triton()
    try:
        import glfw
    except ImportError:
        return False
    with warnings.catch_warnings(), contextlib.suppress(glfw.GLFWError):  # it warns or raises, as it is set
        warnings.simplefilter("ignore", glfw.GLFWError)
        if glfw.init():
            glfw.window_hint(glfw.VISIBLE, glfw.FALSE)
            window = glfw.create_window(64, 64, "", None, None)
            glfw.default_window_hints()
            if window:
                glfw.destroy_window(window)
                return True
    return False


class Frame(NamedTuple):
    """What is drawn. `rows` are the environments shown, side by side at `places`; `picked` is one of them."""

    rows: range
    picked: int
    places: np.ndarray  # [k, 3] m
    coordinates: np.ndarray  # [k, Q + boxes] see render.coordinates
    poses: np.ndarray  # [k, B, 7] of the bodies, xyzw
    forces: np.ndarray  # [k, 5, 3] N, on the fingers
    terms: np.ndarray  # [terms] of the picked environment's reward, unweighted
    time: float  # s since its episode began
    successes: int
    episodes: int


def side_by_side(k: int, spacing: float) -> np.ndarray:
    """Places of k environments in rows and columns about the origin [k, 3], m."""
    columns = math.ceil(math.sqrt(k))
    row, column = np.divmod(np.arange(k), columns)
    return spacing * np.stack((row - row.max() / 2, (columns - 1) / 2 - column, np.zeros(k)), 1)


class Choice:
    """An attribute of a viewer that other threads may set to anything at any time. `accept` clamps a value, or raises if the
    value makes no sense; then the attribute stays as it is."""

    def __init__(self, accept: Callable[[Viewer, Any], Any]):
        self._accept = accept

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, viewer: Viewer, owner: Optional[type] = None) -> Any:
        return getattr(viewer, self._name)

    def __set__(self, viewer: Viewer, value: Any) -> None:
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # NaN, None, a word
            setattr(viewer, self._name, self._accept(viewer, value))


class Viewer:
    """What a window and a page share: which environments are shown, pausing, and the pace. The environment calls it after
    every step; buttons and keys, in other threads, only set these attributes:"""

    paused = Choice(lambda viewer, value: bool(value))
    steps_to_go = Choice(lambda viewer, value: max(int(value), 0))  # while paused
    speed = Choice(lambda viewer, value: SPEED_NAMES[SPEED_NAMES.index(value)])
    picked = Choice(lambda viewer, value: int(min(max(value, 0), viewer.env.num_envs - 1)))
    shown = Choice(lambda viewer, value: int(min(max(value, 1), viewer.most_shown)))

    def __init__(self, env: DexHandVecEnv, speed: str):
        check_name("speed", speed, SPEEDS)
        self.env, self.most_shown = env, min(env.num_envs, 64)
        self.paused, self.steps_to_go, self.speed = False, 0, speed
        self.picked, self.shown = 0, min(env.num_envs, 9)
        self.reload_wanted = False
        self.on_reload: Optional[Callable[[], None]] = None  # takes up a newer policy
        self.steps = 0
        self._seen: Any = None
        self._last_step = self._next_frame = 0.0
        self._counts = torch.zeros(2, device=env.device)
        self._pads = [env.sim.body_names.index(name) for name in PAD_BODIES]
        self._distal = torch.tensor([env.sim.body_names.index(name) for name in CONTACT_BODIES], device=env.device)
        env.watchers.append(self._after_step)

    def _after_step(self, info: Dict[str, Any]) -> None:
        try:
            self._show(info)
        except Exception as error:  # watching must not stop a training
            log.warning("no longer shown: %s: %s", type(error).__name__, " ".join(str(error).split()))
            self.env.watchers.remove(self._after_step)
            self.env.viewer = None
            with contextlib.suppress(Exception):
                self.close()

    def _show(self, info: Dict[str, Any]) -> None:
        self.steps += 1
        self._counts += torch.stack((info["success"].sum(), info["_episode"].sum()))
        if not self.watched():
            return
        if self.reload_wanted and self.on_reload is not None:
            self.reload_wanted = False
            self.on_reload()
        self.steps_to_go -= 1
        self._draw_if_due()
        while self.watched() and (left := self._time_left()) > 0:
            time.sleep(min(left, 0.01))
            self._draw_if_due()
        self._last_step = max(self._last_step + self._step_time(), time.perf_counter())

    def draw_still(self) -> None:
        """Shows the newest instant for a moment, with what a visitor picks."""
        if self.watched():
            self._draw_if_due()
        time.sleep(FRAME_TIME)

    def _time_left(self) -> float:
        """Seconds until the next step, as things are now."""
        if self.paused and not self.steps_to_go:
            return math.inf
        return self._last_step + self._step_time() - time.perf_counter()

    def _step_time(self) -> float:
        return self.env.control_dt / SPEEDS[self.speed]

    def hurry(self) -> None:
        """Ends a pause, and every wait until somebody else sets the pace."""
        self.paused, self.speed = False, "max"

    def _draw_if_due(self) -> None:
        """Thirty times a second, if anything has changed; when paused, every step."""
        seen = (self.steps, self.picked, self.shown, self.paused, self.speed)
        if seen == self._seen or (time.perf_counter() < self._next_frame and not self.paused):
            return
        self._seen, self._next_frame = seen, time.perf_counter() + FRAME_TIME
        self.draw(self._fetch())

    def _fetch(self) -> Frame:
        """One transfer from the device."""
        from dexhand_gym.render import coordinates

        env, picked, k = self.env, self.picked, self.shown
        first = picked // k * k
        rows = range(first, min(first + k, env.num_envs))
        shown = slice(rows.start, rows.stop)
        parts = [
            coordinates(env, shown),
            env.sim.rigid_body_state[shown, :, :7],
            env.sim.net_contact_force[shown].index_select(1, self._distal),
            env.reward_terms[:, picked],
            env.measured["episode_time"][picked],
            self._counts,
        ]
        numbers = torch.cat([part.float().flatten() for part in parts]).cpu().split([part.numel() for part in parts])
        state, poses, forces, terms, time, counts = (x.view(part.shape).numpy() for x, part in zip(numbers, parts))
        places = side_by_side(len(rows), env.cfg.env.spacing)
        successes, episodes = counts.astype(int)
        return Frame(rows, picked, places, state, poses, forces, terms, time.item(), successes, episodes)

    def arrows(self, frame: Frame) -> np.ndarray:
        """Contact forces on the fingers as [arrows, start and end, 3], m."""
        start = frame.poses[:, self._pads, :3] + frame.places[:, None]
        arrows = np.stack((start, start + FORCE_SCALE * frame.forces), 2)
        return arrows[np.linalg.norm(frame.forces, axis=-1) > self.env.task.contact_binary_threshold]

    where: str
    """For people."""

    def watched(self) -> bool:
        """Whether anybody is looking: else nothing is drawn and nothing waits."""
        raise NotImplementedError

    def is_over(self) -> bool:
        """Whether nobody can look any more."""
        return not self.watched()

    def draw(self, frame: Frame) -> None:
        """Shows it."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the show."""
        raise NotImplementedError


class Window(Viewer):
    """MuJoCo's own window. Keys: space pauses, right steps, up and down change the speed, . and , pick an environment,
    enter takes up a newer policy."""

    where = "a window"

    def __init__(self, env: DexHandVecEnv, speed: str):
        import mujoco.viewer

        from dexhand_gym.render import aim
        from dexhand_gym.sim.mjcf import build_model

        super().__init__(env, speed)
        self._model = build_model(env.scene(), env.cfg.sim, visuals=True)
        self._data = mujoco.MjData(self._model)
        self._options, self._perturbation = mujoco.MjvOption(), mujoco.MjvPerturb()
        before = set(threading.enumerate())
        self._window = mujoco.viewer.launch_passive(
            self._model, self._data, key_callback=self._on_key, show_left_ui=False, show_right_ui=False
        )
        self._threads = set(threading.enumerate()) - before
        with self._window.lock():
            aim(self._window.cam, env.cfg.env.camera)
            self._looked_at = self._window.cam.lookat.copy()
            self._window.cam.distance += 0.6 * (self.shown > 1)

    def _follow(self, hand: np.ndarray) -> None:
        """Moves the camera, which the user may have turned, along with the hand."""
        if self.env.cfg.env.camera.follow:
            self._window.cam.lookat[:] += hand - self._looked_at
        self._looked_at = hand.copy()

    def _on_key(self, key: int) -> None:
        import glfw

        faster = {glfw.KEY_UP: 1, glfw.KEY_DOWN: -1}.get(key, 0)
        self.speed = SPEED_NAMES[min(max(SPEED_NAMES.index(self.speed) + faster, 0), len(SPEEDS) - 1)]
        self.picked = (self.picked + {glfw.KEY_PERIOD: 1, glfw.KEY_COMMA: -1}.get(key, 0)) % self.env.num_envs
        if key == glfw.KEY_SPACE:
            self.paused = not self.paused
        elif key == glfw.KEY_RIGHT:
            self.paused, self.steps_to_go = True, self.steps_to_go + 1
        elif key == glfw.KEY_ENTER:
            self.reload_wanted = True

    def watched(self) -> bool:
        """See Viewer.watched: until the window is closed."""
        return self._window.is_running()

    def draw(self, frame: Frame) -> None:
        """The picked environment in the middle, its neighbours around it."""
        import mujoco

        from dexhand_gym.render import middle_of_hand, pose

        index = frame.picked - frame.rows.start
        middle = frame.places[index]
        with self._window.lock():
            scene: Any = self._window.user_scn
            scene.ngeom = 0
            for i, place in enumerate(frame.places):
                if i == index:
                    continue
                pose(self._model, self._data, frame.coordinates[i])
                first = scene.ngeom
                what = int(mujoco.mjtCatBit.mjCAT_DYNAMIC)
                mujoco.mjv_addGeoms(self._model, self._data, self._options, self._perturbation, what, scene)
                for geom in scene.geoms[first : scene.ngeom]:
                    geom.pos += place - middle
            for start, end in self.arrows(frame) - middle:
                arrow = scene.geoms[scene.ngeom]
                color = np.array((*FORCE_COLOR, 255), np.float32) / 255
                mujoco.mjv_initGeom(arrow, mujoco.mjtGeom.mjGEOM_ARROW, np.zeros(3), np.zeros(3), np.zeros(9), color)
                mujoco.mjv_connector(arrow, mujoco.mjtGeom.mjGEOM_ARROW, 0.004, start, end)
                scene.ngeom += 1
            pose(self._model, self._data, frame.coordinates[index])
            self._follow(middle_of_hand(self._data))
        names = ["environment", "speed", "episode", "success"]
        values = [str(frame.picked), "paused" if self.paused else self.speed, f"{frame.time:.2f} s"]
        values.append(f"{frame.successes} of {frame.episodes}")
        self._window.set_texts((None, None, "\n".join(names), "\n".join(values)))
        self._window.sync()

    def close(self) -> None:
        """See Viewer.close."""
        self._window.close()
        for thread in self._threads:  # the process must not end while it draws
            thread.join(timeout=30)
