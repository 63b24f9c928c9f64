"""Pictures of an environment, drawn by MuJoCo off screen from any engine's tensors."""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import ctypes
import logging
import os
from importlib import import_module
from typing import Any, Dict, Optional, Tuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from dexhand_gym.envs.config import CameraConfig, check_name
from dexhand_gym.hands import Hand
from dexhand_gym.hands.pair import parts_of
from dexhand_gym.objects import AnyOf, Object
from dexhand_gym.shapes import geom_size
from dexhand_gym.sim import Scene, load_triton
from dexhand_gym.sim.bodies import FACES, OF_GEOMS, choices
from dexhand_gym.sim.mjcf import build_model
from dexhand_gym.watch.display import has_display

PLATFORMS = {"egl": "egl", "osmesa": "osmesa", "glfw": "glfw", "glx": "glfw"}
"""Values of MUJOCO_GL -> the module that implements them. By default EGL, else OSMesa."""


class Renderer:
    """Draws environments of `env` one at a time. Belongs to the thread that made it, as OpenGL does.

    Raises RuntimeError where nothing can be drawn.
    """

    def __init__(self, env: Any, size: Tuple[int, int]):
        width, height = size
        self._follow, self._hand, self._scene_of_env = env.cfg.env.camera.follow, env.hand, env.sim.scene
        self._model = build_model(env.sim.scene, env.cfg.sim, visuals=True)
        self._data = mujoco.MjData(self._model)
        self._tables = tables(self._model, env.sim.scene)
        self._camera = mujoco.MjvCamera()
        aim(self._camera, env.cfg.env.camera, env.hand)
        self._options, self._perturbation = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._scene = mujoco.MjvScene(self._model, 1000)
        self._area = mujoco.MjrRect(0, 0, width, height)
        self._context, self._buffers = open_gl(self._model, width, height)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._buffers)

    def draw(self, coordinates: np.ndarray, words: Optional[Dict[str, str]] = None) -> np.ndarray:
        """The picture, uint8 [height, width, 3], of one row of coordinates(), with names and values written in."""
        pose(self._model, self._data, self._scene_of_env, coordinates, self._tables)
        if self._follow:
            self._camera.lookat[:] = middle_of_hand(self._data, self._hand)
        what = mujoco.mjtCatBit.mjCAT_ALL
        scene = (self._options, self._perturbation, self._camera, what, self._scene)
        mujoco.mjv_updateScene(self._model, self._data, *scene)
        self._context.make_current()
        mujoco.mjr_render(self._area, self._scene, self._buffers)
        if words:
            place = mujoco.mjtFont.mjFONT_NORMAL, mujoco.mjtGridPos.mjGRID_TOPLEFT, self._area
            mujoco.mjr_overlay(*place, "\n".join(words), "\n".join(words.values()), self._buffers)
        picture = np.empty((self._area.height, self._area.width, 3), np.uint8)
        mujoco.mjr_readPixels(picture, None, self._area, self._buffers)
        return picture[::-1].copy()  # OpenGL begins at the bottom

    def close(self) -> None:
        """Frees the drawing context."""
        self._context.make_current()
        self._buffers.free()
        self._context.free()


def coordinates(env: Any, rows: Any = slice(None)) -> Tensor:
    """MuJoCo's qpos, the world poses of the ghosts, the half extents of the free objects, m, and which choice each AnyOf
    is, of some or all environments [N, Q + 7 ghosts + 3 objects + AnyOfs]."""
    dofs, roots = env.sim.dof_state[rows, :, 0], env.sim.root_state[rows, 1:]
    poses = torch.cat((roots[..., :3], roots[..., 6:7], roots[..., 3:6]), -1)  # MuJoCo's quaternions are w x y z
    looks = ghost_poses(env, rows).flatten(1), env.object_halves[rows].flatten(1), env.object_choices[rows]
    return torch.cat((dofs, poses.flatten(1), *looks), 1)


def ghost_poses(env: Any, rows: Any = slice(None)) -> Tensor:
    """World poses of the ghosts of some or all environments [N, ghosts, 7]."""
    ghosts, m = env.sim.scene.ghosts, env.measured
    return torch.stack([m[x.name] for x in ghosts], 1)[rows] if ghosts else env.sim.root_state[rows, :0, :7]


def tables(model: mujoco.MjModel, scene: Scene) -> Dict[str, Dict[str, np.ndarray]]:
    """What every choice of every AnyOf is in this model, by the object's name; for pose()."""
    return {thing.name: choices(thing, model) for thing in scene.free if isinstance(thing, AnyOf)}


def pose(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    scene: Scene,
    coordinates: np.ndarray,
    tables: Dict[str, Dict[str, np.ndarray]],
) -> None:
    """Applies one row of coordinates(): positions, sizes and choices."""
    data.qpos[:], rest = coordinates[: model.nq], coordinates[model.nq :]
    for ghost in scene.ghosts:
        mocap, place, rest = model.body(ghost.name).mocapid[0], rest[:7], rest[7:]
        data.mocap_pos[mocap], data.mocap_quat[mocap] = place[:3], np.roll(place[3:], 1)
    halves = torch.from_numpy(rest[: 3 * len(scene.free)]).view(-1, 3)
    for thing, half in zip(scene.free, halves):
        if thing.shape != "mesh":
            model.geom(thing.name).size[:] = geom_size(thing.shape, half).numpy()
        if thing.marks:
            resize_marks(model, thing, half.numpy())
    for (name, table), which in zip(tables.items(), rest[3 * len(scene.free) :]):
        geoms = slice(model.body(name).geomadr[0], model.body(name).geomadr[0] + model.body(name).geomnum[0])
        for field in (*OF_GEOMS, "geom_dataid", "geom_rgba"):
            getattr(model, field)[geoms] = table[field][int(which)]
    mujoco.mj_kinematics(model, data)
    mujoco.mj_camlight(model, data)


def resize_marks(model: mujoco.MjModel, thing: Object, half: np.ndarray) -> None:
    """Puts the plates on the faces of a box with these half extents [3], m."""
    for i in range(len(FACES)):
        plate, axis = model.geom(f"{thing.name}.face{i}"), i // 2
        size, place = 0.9 * half, np.zeros(3)
        size[axis], place[axis] = plate.size[axis], (1 - 2 * (i % 2)) * half[axis]
        plate.size[:], plate.pos[:] = size, place


def away(cfg: CameraConfig, hand: Hand) -> float:
    """Distance of the camera, m: of two hands it sees both."""
    return cfg.distance * max(1, len(parts_of(hand)))


def aim(camera: Any, cfg: CameraConfig, hand: Hand) -> None:
    """Puts one of MuJoCo's cameras where the config says; following the hand is up to the caller."""
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.distance, camera.azimuth, camera.elevation = away(cfg, hand), cfg.azimuth, cfg.elevation
    camera.lookat[:] = 0.0, 0.0, 0.12


def middle_of_hand(data: mujoco.MjData, hand: Hand) -> np.ndarray:
    """Mean position of the palm and the bodies after it in the hand's file [3], m."""
    first = data.model.body(hand.palm).id
    return data.xpos[first : first + len(hand.body_names) - hand.palm_index].mean(0)


def check_drawing() -> None:
    """Raises RuntimeError, one line that says what to install, where nothing can be drawn."""
    context, buffers = open_gl(mujoco.MjModel.from_xml_string("<mujoco/>"), 16, 16)
    buffers.free()
    context.free()


def open_gl(model: mujoco.MjModel, width: int, height: int) -> Tuple[Any, mujoco.MjrContext]:
    """An off-screen OpenGL context, and MuJoCo's context for drawing `model` in it. Raises RuntimeError, one line,
    where there is none."""
    name = os.environ.get("MUJOCO_GL", "").lower().strip()
    if name in ("disable", "disabled", "off", "false", "0"):
        raise RuntimeError(f"MUJOCO_GL = '{name}' forbids drawing; allowed is {', '.join(PLATFORMS)}")
    if name not in ("", "enable", "enabled", "on", "true", "1"):
        check_name("MUJOCO_GL", name, PLATFORMS)
    load_triton()
    name = PLATFORMS.get(name) or ("egl" if egl_has_devices() else "osmesa")
    try:
        if name == "glfw" and not has_display():
            raise RuntimeError("no display")
        logging.getLogger("OpenGL").setLevel(logging.ERROR)  # it reports every library that it does not find
        context = import_module(f"mujoco.{name}").GLContext(width, height)
        context.make_current()
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        return context, mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150.value)
    except Exception as error:  # what it is depends on which library is missing, and how
        raise RuntimeError(
            f"nothing to draw with ({name}: {error}): install OpenGL, on Debian and Ubuntu by "
            "apt-get install libegl1 libegl-mesa0 (or libosmesa6)"
        ) from error


def egl_has_devices() -> bool:
    """Whether EGL has a device. Asked without PyOpenGL and MuJoCo, where a failure with EGL breaks OSMesa in the same
    process."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    address, count = egl.eglGetProcAddress(b"eglQueryDevicesEXT"), ctypes.c_int(0)
    if address:
        signature = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        signature(address)(0, None, ctypes.byref(count))
    return count.value > 0
