"""Physics engines behind one contract (base.py). make_sim is the only place that names them."""

from __future__ import annotations

import difflib
from importlib.util import find_spec

from dexhand_gym.sim.base import PHYSICS, Box, Scene, SimConfig, Simulator, SolverConfig

__all__ = ["BACKENDS", "PHYSICS", "Box", "Scene", "SimConfig", "Simulator", "SolverConfig", "make_sim"]

BACKENDS = ("auto", "mujoco")


def make_sim(scene: Scene, num_envs: int, cfg: SimConfig, decimation: int, backend: str = "auto", device: str = "auto"):
    """A Simulator of `num_envs` copies of `scene`; one step of it lasts cfg.dt * decimation seconds.

    backend "auto" and device "auto" take the fastest engine there is. Raises ValueError for names it does not know,
    RuntimeError when the engine or device asked for is not usable.
    """
    if backend not in BACKENDS:
        near = difflib.get_close_matches(backend, BACKENDS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"env.backend = '{backend}': allowed is {', '.join(BACKENDS)}{hint}")
    if device not in ("auto", "cpu"):
        raise ValueError(f"env.device = '{device}': the MuJoCo engine runs on the CPU, allowed is auto, cpu")
    if find_spec("mujoco") is None:
        raise RuntimeError("no physics engine found: pip install mujoco==4.0.0 (Python 3.11 or newer)")
    from dexhand_gym.sim.mujoco import MuJoCoSimulator

    return MuJoCoSimulator(scene, num_envs, cfg, decimation)
