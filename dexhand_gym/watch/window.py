"""MuJoCo's own window, which shows environments."""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import threading
from typing import Any

import mujoco
import mujoco.viewer
import numpy as np

from dexhand_gym.sim.mjcf import build_model
from dexhand_gym.watch.render import aim, middle_of_hand, pose, tables
from dexhand_gym.watch.viewer import FORCE_COLOR, SPEED_NAMES, SPEEDS, Frame, Viewer


class Window(Viewer):
    """MuJoCo's own window. Keys: space pauses, right steps, up and down change the speed, . and , pick an environment,
    enter loads a newer policy."""

    where = "a window"

    def __init__(self, env: Any, speed: str):
        super().__init__(env, speed)
        self._model = build_model(env.sim.scene, env.cfg.sim, visuals=True)
        self._data = mujoco.MjData(self._model)
        self._tables = tables(self._model, env.sim.scene)
        self._options, self._perturbation = mujoco.MjvOption(), mujoco.MjvPerturb()
        before = set(threading.enumerate())
        self._window = mujoco.viewer.launch_passive(
            self._model, self._data, key_callback=self._on_key, show_left_ui=False, show_right_ui=False
        )
        self._threads = set(threading.enumerate()) - before
        with self._window.lock():
            aim(self._window.cam, env.cfg.env.camera, env.hand)
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
        index = frame.picked - frame.rows.start
        middle = frame.places[index]
        with self._window.lock():
            scene: Any = self._window.user_scn
            scene.ngeom = 0
            for i, place in enumerate(frame.places):
                if i == index:
                    continue
                pose(self._model, self._data, self.env.sim.scene, frame.coordinates[i], self._tables)
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
            pose(self._model, self._data, self.env.sim.scene, frame.coordinates[index], self._tables)
            self._follow(middle_of_hand(self._data, self.env.hand))
        words = {"environment": str(frame.picked), "speed": "paused" if self.paused else self.speed}
        told = {"episode": f"{frame.time:.2f} s", "success": f"{frame.successes} of {frame.episodes}"}
        words.update(self.words or told)
        self._window.set_texts((None, None, "\n".join(words), "\n".join(words.values())))
        self._window.sync()

    def close(self) -> None:
        """See Viewer.close."""
        self._window.close()
        for thread in self._threads:  # the process must not end while it draws
            thread.join(timeout=30)
