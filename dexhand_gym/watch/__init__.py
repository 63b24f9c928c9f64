"""Watching an environment while it runs (a window if there is a display, else a page for the browser), and filming it.
This package knows the environment; the environment only asks for a viewer or a picture."""

from __future__ import annotations

import contextlib
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Iterator

from dexhand_gym.envs.config import EnvConfig
from dexhand_gym.sim import choose_engine
from dexhand_gym.sim.base import draws_itself
from dexhand_gym.watch.display import has_display

log = logging.getLogger(__name__)


def open_viewer(env: Any, speed: str = "1x") -> Any:
    """A window or a page that shows `env` from now on. Raises RuntimeError if neither is possible, ValueError if the
    page cannot be served at its address."""
    if draws_itself(env.sim):
        from dexhand_gym.watch.isaacgym_window import IsaacGymWindow

        return IsaacGymWindow(env, speed)
    check_viewing(env.cfg.env)
    if has_display():
        from dexhand_gym.watch.window import Window

        return Window(env, speed)
    from dexhand_gym.watch.page import Page

    return Page(env, speed)


def check_viewing(cfg: EnvConfig) -> None:
    """Raises RuntimeError, one line that says what to install, if neither a window nor a page is possible; ValueError
    if the page cannot be served where `cfg` says."""
    if has_display():
        return
    if find_spec("viser") is None:
        raise RuntimeError(
            "no display for a window, and a page in the browser needs viser: pip install 'dexhand-gym[view]'"
        )
    from dexhand_gym.watch.gate import listen

    listen(cfg.render_host, cfg.render_port).close()


def check_watching(cfg: EnvConfig, shown: bool) -> None:
    """Raises RuntimeError if the environments cannot be shown or filmed as wanted, ValueError if the page cannot be
    served at its address. With cfg.render None, not being able to show them is no error."""
    mujoco = choose_engine(cfg.backend, cfg.device)[0] != "isaacgym"  # which draws itself
    try:
        if shown and mujoco:
            with contextlib.suppress(*(() if cfg.render else (ImportError, RuntimeError))):
                check_viewing(cfg)
        if cfg.record_video:
            from dexhand_gym.watch.video import check_recording

            check_recording(draw=mujoco)
    except ImportError as error:
        raise RuntimeError(f"nothing can be drawn here: {error}") from error


@contextlib.contextmanager
def watched(env: Any, shown: bool, speed: str, folder: Path) -> Iterator[Callable[[str], None]]:
    """Shows the environments at this speed, and films them into `folder`, as far as wanted. Yields a function that
    begins a clip of a given name."""
    if shown:
        try:
            env.show(speed)
            log.info("watch: %s", env.viewer.where)
        except (ImportError, RuntimeError, ValueError) as error:
            log.warning("not shown: %s", error)
    if not env.cfg.env.record_video:
        yield lambda name: None
        return
    from dexhand_gym.watch.video import Recorder

    with Recorder(env, folder) as recorder:
        yield recorder.start
