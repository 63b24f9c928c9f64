"""What is shown of a run, and what is filmed."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any, Callable, Iterator

from dexhand_gym.envs.config import EnvConfig
from dexhand_gym.sim import choose_engine

log = logging.getLogger(__name__)


def check_watching(cfg: EnvConfig, shown: bool) -> None:
    """Raises RuntimeError if what is to be shown or filmed cannot be, ValueError if not where it is to be. What is shown without
    being asked for, cfg.render None, may stay unseen."""
    mujoco = choose_engine(cfg.backend, cfg.device)[0] != "isaacgym"  # which draws itself
    try:
        if shown and mujoco:
            with contextlib.suppress(*(() if cfg.render else (ImportError, RuntimeError))):
                from dexhand_gym.viewer import check_viewing

                check_viewing(cfg)
        if cfg.record_video:
            from dexhand_gym.video import check_recording

            check_recording(draw=mujoco)
    except ImportError as error:
        raise RuntimeError(f"nothing can be drawn here: {error}") from error


@contextlib.contextmanager
def watched(env: Any, shown: bool, speed: str, folder: Path) -> Iterator[Callable[[str], None]]:
    """Shows the environments at this speed, and films them into `folder`, as far as wanted. Gives a function that begins a clip
    of some name."""
    if shown:
        try:
            env.show(speed)
            log.info("watch: %s", env.viewer.where)
        except (ImportError, RuntimeError, ValueError) as error:
            log.warning("not shown: %s", error)
    if not env.cfg.env.record_video:
        yield lambda name: None
        return
    from dexhand_gym.video import Recorder

    with Recorder(env, folder) as recorder:
        yield recorder.start
