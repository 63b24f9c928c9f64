"""Isaac Gym's own window."""

# pyright: reportMissingModuleSource=false

from __future__ import annotations

import time
from typing import Any

from isaacgym import gymapi

from dexhand_gym.watch.viewer import SPEED_NAMES, SPEEDS, Viewer

_KEYS = {
    gymapi.KEY_SPACE: "pause",
    gymapi.KEY_RIGHT: "step",
    gymapi.KEY_UP: "faster",
    gymapi.KEY_DOWN: "slower",
    gymapi.KEY_PERIOD: "next",
    gymapi.KEY_COMMA: "previous",
    gymapi.KEY_ENTER: "reload",
}


class IsaacGymWindow(Viewer):
    """Shows all environments in their places, from in front of the picked one. Keys as in MuJoCo's window
    (window.py)."""

    where = "a window"

    def __init__(self, env: Any, speed: str):
        sim: Any = env.sim
        if not sim.view.window:
            raise RuntimeError(
                "Isaac Gym has been started without a window: env.render = True says that there is to be one"
            )
        self._sim, self._gym = sim, sim.gym
        self._window = self._gym.create_viewer(sim.sim, gymapi.CameraProperties())
        if self._window is None:
            raise RuntimeError("no display for Isaac Gym's window (create_viewer failed; what it printed says why)")
        for key, name in _KEYS.items():
            self._gym.subscribe_viewer_keyboard_event(self._window, key, name)
        self._looked_at = -1
        super().__init__(env, speed)

    def watched(self) -> bool:
        """See Viewer.watched: until the window is closed. Handles pressed keys."""
        self._take_events()
        self._gym.poll_viewer_events(self._window)
        return not self._gym.query_viewer_has_closed(self._window)

    def _take_events(self) -> None:
        """Must be called before poll_viewer_events and draw_viewer, which begin a new list of events."""
        for event in self._gym.query_viewer_action_events(self._window):
            if event.value > 0:  # pressed, not let go
                self._on_key(event.action)

    def _on_key(self, name: str) -> None:
        faster = {"faster": 1, "slower": -1}.get(name, 0)
        self.speed = SPEED_NAMES[min(max(SPEED_NAMES.index(self.speed) + faster, 0), len(SPEEDS) - 1)]
        self.picked = (self.picked + {"next": 1, "previous": -1}.get(name, 0)) % self.env.num_envs
        if name == "pause":
            self.paused = not self.paused
        elif name == "step":
            self.paused, self.steps_to_go = True, self.steps_to_go + 1
        elif name == "reload":
            self.reload_wanted = True

    def _draw_if_due(self) -> None:
        """Thirty times a second, paused or not: the mouse moves Isaac Gym's camera, which shows only when it draws."""
        if time.perf_counter() >= self._next_frame:
            self._seen = None
        super()._draw_if_due()

    def _fetch(self) -> Any:
        """Nothing: Isaac Gym draws its own state."""

    def draw(self, frame: Any) -> None:
        """See Viewer.draw."""
        if self._looked_at != self.picked:
            self._looked_at, env = self.picked, self._sim.envs[self.picked]
            eye, target = gymapi.Vec3(-0.5, -0.86, 0.52), gymapi.Vec3(-0.05, 0.0, 0.12)
            self._gym.viewer_camera_look_at(self._window, env, eye, target)
        self._sim.step_graphics()
        self._take_events()
        self._gym.draw_viewer(self._window, self._sim.sim, True)

    def close(self) -> None:
        """See Viewer.close."""
        self._gym.destroy_viewer(self._window)
