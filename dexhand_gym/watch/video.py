"""Clips of an environment as MP4 files."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from dexhand_gym.sim.base import draws_itself

log = logging.getLogger(__name__)


class Recorder:
    """Films environment 0 in real time, at about 30 pictures a second. While a clip lasts, a step costs a copy of the
    state's few numbers, which stay on their device; a thread draws and encodes the clip afterwards, picture by picture.
    (Isaac Gym draws at once, and the pictures are kept until then.)

        with Recorder(env, folder) as recorder:
            recorder.start("lift")  # folder/lift.mp4: env.cfg.env.video_length steps from the next one on
            ...

    Leaving the block waits for the last picture, unless an exception ends it.
    """

    def __init__(self, env: Any, folder: Path):
        self._env, self._folder = env, folder
        self._stride = stride(env.control_dt)
        self._name, self._steps = "", 0
        self._states: List[Tensor] = []
        self._cancelled = False
        self._idle = threading.Event()  # after a Ctrl-C join() may mistake a live thread for a finished one
        self._idle.set()
        self._thread: Optional[threading.Thread] = None

    def start(self, name: str) -> None:
        """Begins a clip with the next step: before it, there may be a reset. A clip in progress ends here."""
        self._finish()
        self._name, self._steps = name, 0

    def _take(self, info: Optional[Dict[str, Any]] = None) -> None:
        """Called by the environment after every step."""
        if not self._name:
            return
        try:
            if self._steps % self._stride == 0:
                self._states.append(self._look())
            self._steps += 1
        except Exception as error:  # filming must not stop a training
            warn(self._name, error)
            self._name, self._states = "", []
        if self._steps == self._env.cfg.env.video_length:
            self._finish()

    def _look(self) -> Tensor:
        """The numbers that a picture is drawn from, or the picture itself (Isaac Gym) [1, ...]."""
        if draws_itself(self._env.sim):
            return torch.from_numpy(self._env.sim.pictures()[0]).unsqueeze(0)  # pyright: ignore[reportAttributeAccessIssue]
        from dexhand_gym.watch.render import coordinates

        return coordinates(self._env, slice(0, 1))

    def _finish(self) -> None:
        """Leaves the clip to a thread. One clip is drawn at a time; the next request blocks."""
        if not self._name:
            return
        name, states, self._name, self._states = self._name, self._states, "", []
        if not states:
            return
        self._idle.wait()
        self._idle.clear()
        try:
            task = torch.cat(states).cpu().numpy(), self._folder / f"{name}.mp4"
            thread = threading.Thread(target=self._save, args=task, daemon=True)
            thread.start()
            self._thread = thread
        except Exception as error:
            self._idle.set()
            warn(name, error)

    def _save(self, states: np.ndarray, file: Path) -> None:
        me = threading.get_native_id()
        try:
            os.setpriority(os.PRIO_PROCESS, me, max(os.getpriority(os.PRIO_PROCESS, me), 10))  # the physics goes first
            self._draw(states, file)
            if not self._cancelled:
                log.info("video: %s, %.1f s", os.path.relpath(file), len(states) * self._stride * self._env.control_dt)
        except Exception as error:
            warn(file.name, error)
        finally:
            self._idle.set()

    def _draw(self, states: np.ndarray, file: Path) -> None:
        size, fps = self._env.cfg.env.video_size, 1 / (self._stride * self._env.control_dt)
        file.parent.mkdir(parents=True, exist_ok=True)
        renderer: Any = None
        if not draws_itself(self._env.sim):
            from dexhand_gym.watch.render import Renderer

            renderer = Renderer(self._env, size)
        try:
            pictures = (renderer.draw(state) if renderer else state for state in states)
            write_clip(file, pictures, size, fps, lambda: self._cancelled)
        finally:
            if renderer:
                renderer.close()

    def __enter__(self) -> Recorder:
        self._env.watchers.append(self._take)
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        self._env.watchers.remove(self._take)
        self._cancelled = kind is not None
        try:
            if not self._cancelled:
                self._finish()
                if not self._idle.is_set():
                    log.info("video: being drawn")
            self._idle.wait()
        except BaseException:  # Ctrl-C
            self._cancelled = True
            raise
        finally:
            self._idle.wait()
            if self._thread:
                self._thread.join()  # it is about to end; a process that ends before it is aborted


def stride(control_dt: float) -> int:
    """Control steps of so many seconds between two pictures of a clip."""
    return max(1, round(1 / (30 * control_dt)))


def write_clip(
    file: Path,
    pictures: Iterable[np.ndarray],
    size: Tuple[int, int],
    fps: float,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Encodes pictures, uint8 [height, width, 3], as an MP4 file. There is none before it is whole, nor if it is
    cancelled."""
    from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter

    temporary = file.with_name(f".{file.name}")
    # faststart: a browser plays it while it loads.
    options = ["-movflags", "+faststart", "-pix_fmt", "yuv420p", "-crf", "20"]
    try:
        with FFMPEG_VideoWriter(str(temporary), size, fps, preset="veryfast", ffmpeg_params=options) as video:
            for picture in pictures:
                if cancelled():
                    break
                video.write_frame(picture)
        if not cancelled():
            os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def warn(name: str, error: Exception) -> None:
    log.warning("no video %s: %s", name, " ".join(str(error).split()))


def check_recording(draw: bool = True) -> None:
    """Raises RuntimeError, one line that says what to install, unless videos can be made here, and drawn by MuJoCo."""
    try:
        import moviepy.video.io.ffmpeg_writer  # noqa: F401
    except (ImportError, RuntimeError) as error:  # RuntimeError: it finds no ffmpeg
        raise RuntimeError(f"env.record_video needs moviepy ({error}): pip install moviepy") from error
    if draw:
        from dexhand_gym.watch.render import check_drawing

        check_drawing()
