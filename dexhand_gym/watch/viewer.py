"""What a window and a page share."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from typing import Any, Callable, Dict, NamedTuple, Optional

import numpy as np
import torch

from dexhand_gym.fields import check_name

log = logging.getLogger(__name__)

SPEEDS = {"1/8x": 0.125, "1/4x": 0.25, "1/2x": 0.5, "1x": 1.0, "2x": 2.0, "4x": 4.0, "max": math.inf}
SPEED_NAMES = list(SPEEDS)
FRAME_TIME = 1 / 30  # s between two drawn frames
FORCE_SCALE = 0.02  # m of arrow per N
FORCE_COLOR = (38, 217, 89)


class Frame(NamedTuple):
    """What is drawn. `rows` are the environments shown, side by side at `places`; `picked` is one of them."""

    rows: range
    picked: int
    places: np.ndarray  # [k, 3] m
    coordinates: np.ndarray  # [k, Q + 3 objects + AnyOfs] see render.coordinates
    poses: np.ndarray  # [k, B, 7] of the bodies, xyzw
    forces: np.ndarray  # [k, F, 3] N, on the fingers
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
    """An attribute of a viewer that other threads may set to anything at any time. `accept` clamps a value, or raises
    if the value makes no sense; then the attribute stays as it is."""

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
    """What a window and a page share: which environments are shown, pausing, and the pace. The environment calls it
    after every step; buttons and keys, in other threads, only set these attributes:"""

    paused = Choice(lambda viewer, value: bool(value))
    steps_to_go = Choice(lambda viewer, value: max(int(value), 0))  # while paused
    speed = Choice(lambda viewer, value: SPEED_NAMES[SPEED_NAMES.index(value)])
    picked = Choice(lambda viewer, value: int(min(max(value, 0), viewer.env.num_envs - 1)))
    shown = Choice(lambda viewer, value: int(min(max(value, 1), viewer.most_shown)))

    def __init__(self, env: Any, speed: str):
        check_name("speed", speed, SPEEDS)
        self.env, self.most_shown = env, min(env.num_envs, 64)
        self.paused, self.steps_to_go, self.speed = False, 0, speed
        self.picked, self.shown = 0, min(env.num_envs, 9)
        self.words: Dict[str, str] = {}  # if any, written in the place of episodes and successes
        self.reload_wanted = False
        self.on_reload: Optional[Callable[[], None]] = None  # loads a newer policy
        self.steps = 0
        self._seen: Any = None
        self._last_step = self._next_frame = 0.0
        self._counts = torch.zeros(2, device=env.device)
        names = env.sim.body_names
        self._pads = [names.index(finger.pad) for finger in env.hand.fingers]
        self._contacts = torch.tensor([names.index(finger.contact) for finger in env.hand.fingers], device=env.device)
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
        """Shows the newest instant for the time of one frame; what a visitor picks takes effect."""
        if self.watched():
            self._draw_if_due()
        time.sleep(FRAME_TIME)

    def _time_left(self) -> float:
        """Seconds until the next step, with the current settings."""
        if self.paused and not self.steps_to_go:
            return math.inf
        return self._last_step + self._step_time() - time.perf_counter()

    def _step_time(self) -> float:
        return self.env.control_dt / SPEEDS[self.speed]

    def hurry(self) -> None:
        """Ends a pause, and all waiting until somebody sets another speed."""
        self.paused, self.speed = False, "max"

    def _draw_if_due(self) -> None:
        """Thirty times a second, if anything has changed; when paused, every step."""
        seen = (self.steps, self.picked, self.shown, self.paused, self.speed)
        if seen == self._seen or (time.perf_counter() < self._next_frame and not self.paused):
            return
        self._seen, self._next_frame = seen, time.perf_counter() + FRAME_TIME
        self.draw(self._fetch())

    def _fetch(self) -> Frame:
        """The frame to draw, in one transfer from the device."""
        from dexhand_gym.watch.render import coordinates, ghost_poses

        env, picked, k = self.env, self.picked, self.shown
        first = picked // k * k
        rows = range(first, min(first + k, env.num_envs))
        shown = slice(rows.start, rows.stop)
        parts = [
            coordinates(env, shown),
            torch.cat((env.sim.rigid_body_state[shown, :, :7], ghost_poses(env, shown)), 1),
            env.sim.net_contact_force[shown].index_select(1, self._contacts),
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
    """Where to watch, for messages."""

    def watched(self) -> bool:
        """Whether anybody is looking: else nothing is drawn and nothing waits."""
        raise NotImplementedError

    def is_over(self) -> bool:
        """Whether nobody can look any more."""
        return not self.watched()

    def draw(self, frame: Frame) -> None:
        """Shows a frame."""
        raise NotImplementedError

    def close(self) -> None:
        """Closes the window or page."""
        raise NotImplementedError
