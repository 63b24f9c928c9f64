"""Whether there is a screen."""

from __future__ import annotations

import contextlib
import os
import warnings

from dexhand_gym.sim import load_triton


def has_display() -> bool:
    """Whether a window with OpenGL can be opened. It is tried, because a DISPLAY that is set says little (ssh, CI)."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    load_triton()
    try:
        import glfw
    except ImportError:
        return False
    with warnings.catch_warnings(), contextlib.suppress(glfw.GLFWError):  # it may warn or raise
        warnings.simplefilter("ignore", glfw.GLFWError)
        if glfw.init():
            glfw.window_hint(glfw.VISIBLE, glfw.FALSE)
            window = glfw.create_window(64, 64, "", None, None)
            glfw.default_window_hints()
            if window:
                glfw.destroy_window(window)
                return True
    return False
