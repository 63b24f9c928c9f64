"""Physics engines behind one contract (base.py). make_sim is the only place that names them."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Optional

from dexhand_gym.objects import Box, Object
from dexhand_gym.sim.base import (
    PHYSICS,
    PhysxConfig,
    Scene,
    SimConfig,
    Simulator,
    SolverConfig,
    Variation,
    View,
    WarpConfig,
)

__all__ = [
    "BACKENDS",
    "ISAACGYM_ERRORS",
    "PHYSICS",
    "Box",
    "Object",
    "PhysxConfig",
    "Scene",
    "SimConfig",
    "Simulator",
    "SolverConfig",
    "Variation",
    "View",
    "WarpConfig",
    "make_sim",
]


def load_triton() -> None:
    """Must be called before OpenGL is first used: torch's optimizers load triton, which crashes if it finds the LLVM of
    software OpenGL in the process."""
    with contextlib.suppress(Exception):
        if "libLLVM" not in Path("/proc/self/maps").read_text():  # else it is too late
            import triton  # noqa: F401  # pyright: ignore[reportMissingImports]


def load_mujoco() -> None:
    """Imports MuJoCo even if the renderer that MUJOCO_GL names is missing, where its own import fails. Drawing reports
    that later."""
    load_triton()
    try:
        import mujoco
    except Exception:
        value, os.environ["MUJOCO_GL"] = os.environ["MUJOCO_GL"], "disabled"
        with contextlib.suppress(ImportError):
            import mujoco  # noqa: F401
        os.environ["MUJOCO_GL"] = value


if os.environ.get("MUJOCO_GL"):
    load_mujoco()

BACKENDS = ("auto", "mujoco", "mjwarp", "isaacgym", "none")

ISAACGYM_ERRORS = (ImportError, RuntimeError, OSError)
"""Errors that importing Isaac Gym raises where it does not work (RuntimeError: a Python that it does not support)."""


def make_sim(
    scene: Scene,
    num_envs: int,
    cfg: SimConfig,
    decimation: int,
    backend: str = "auto",
    device: str = "auto",
    variation: Optional[Variation] = None,
    view: View = View(),  # noqa: B008  (nobody changes it)
) -> Simulator:
    """A Simulator of `num_envs` copies of `scene`; one step of it lasts cfg.dt * decimation seconds.

    backend "auto" and device "auto" take Isaac Gym if it has been imported, else MuJoCo Warp on a CUDA device, else
    MuJoCo on CPU threads; backend "none" is no engine (still.py). `variation`: what differs between environments
    (base.py). `view` is for Isaac Gym, which must know at the start what it will have to draw. Raises ValueError for
    unknown names, RuntimeError if engine or device cannot be used here.
    """
    backend, device = choose_engine(backend, device)
    if backend == "none":
        from dexhand_gym.sim.still import StillSimulator

        return StillSimulator(scene, num_envs)
    if backend == "isaacgym":
        try:
            from dexhand_gym.sim.isaacgym import IsaacGymSimulator  # compiles gymtorch, the first time
        except ISAACGYM_ERRORS as error:
            raise no_isaacgym(error) from error
        return IsaacGymSimulator(scene, num_envs, cfg, decimation, device, variation, view)
    if backend == "mjwarp":
        from dexhand_gym.sim.mjwarp import WarpSimulator

        return WarpSimulator(scene, num_envs, cfg, decimation, device, variation)
    from dexhand_gym.sim.mujoco import MuJoCoSimulator

    return MuJoCoSimulator(scene, num_envs, cfg, decimation, variation)


def import_isaacgym(backend: str) -> None:
    """Imports Isaac Gym if it may be wanted and works here, unless torch is loaded: it refuses to be imported after
    torch."""
    if backend in ("auto", "isaacgym") and "torch" not in sys.modules:
        with contextlib.suppress(*ISAACGYM_ERRORS):
            import isaacgym  # type: ignore  # noqa: F401


def no_isaacgym(error: Exception) -> RuntimeError:
    """The error that says in one line why Isaac Gym cannot be used."""
    first = str(error).strip().partition("\n")[0]
    return RuntimeError(f"env.backend = 'isaacgym': {first} (see docs/isaac-gym.md)")


def choose_engine(backend: str, device: str) -> tuple[str, str]:
    """Resolves "auto" to the engine and device to use here; errors as make_sim's. Loads torch, but no engine other than
    Isaac Gym."""
    import_isaacgym(backend)
    import torch

    if backend not in BACKENDS:
        near = difflib.get_close_matches(backend, BACKENDS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"env.backend = '{backend}': allowed is {', '.join(BACKENDS)}{hint}")
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    devices = ["auto", "cpu", *(["cuda", *gpus] if gpus else [])]
    if device not in devices:
        missing = "" if gpus else " (PyTorch finds no CUDA device)"
        raise ValueError(f"env.device = '{device}': allowed here is {', '.join(devices)}{missing}")
    if backend == "none":
        return backend, "cpu"
    if backend == "auto" and "isaacgym" in sys.modules:
        backend = "isaacgym"
    if backend == "isaacgym":
        try:
            import isaacgym  # type: ignore  # noqa: F401
        except ISAACGYM_ERRORS as error:
            raise no_isaacgym(error) from error
        return backend, (gpus[0] if gpus else "cpu") if device in ("auto", "cuda") else device
    check_mujoco()
    has_warp = find_spec("mujoco_warp") is not None
    if backend == "auto":
        wants_gpu = device.startswith("cuda") or (device == "auto" and gpus)
        backend = "mjwarp" if wants_gpu and (has_warp or device != "auto") else "mujoco"
    if backend == "mjwarp" and not has_warp:
        raise RuntimeError("env.backend = 'mjwarp': MuJoCo Warp is not installed; pip install 'dexhand-gym[gpu]'")
    if backend == "mujoco":
        if device.startswith("cuda"):
            raise ValueError(f"env.device = '{device}': the engine 'mujoco' runs on the CPU, allowed is auto, cpu")
        return backend, "cpu"
    if device in ("auto", "cuda"):
        device = gpus[0] if gpus else "cpu"
    return backend, device


def check_mujoco() -> None:
    """Raises RuntimeError, one line that says what to install, unless MuJoCo 4 is installed. Does not load it."""
    try:
        found = version("mujoco")
    except PackageNotFoundError:
        found = ""
    if int(found.partition(".")[0] or 0) < 4:
        problem = f"MuJoCo {found} is too old" if found else "no physics engine found"
        python = "" if sys.version_info >= (3, 11) else " on Python 3.11 or newer"
        raise RuntimeError(f"{problem}: pip install mujoco==4.0.0{python}")
