"""Finds tasks and makes their environments; gymnasium.make and make_vec call these functions."""

from __future__ import annotations

import copy
import importlib
from typing import Any, Optional, Type

from dexhand_gym.envs.config import Config, override
from dexhand_gym.fields import check_name, shortened
from dexhand_gym.sim import PHYSICS, import_isaacgym


def task_class(entry: str) -> Type:
    """The environment class behind "package.module:Class". Raises ValueError, one line, if there is none."""
    name, _, attribute = str(entry).partition(":")
    if not all(part.isidentifier() for part in (*name.split("."), attribute)):
        raise ValueError(f"task '{entry}': allowed is package.module:Class")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):  # else an import inside the module failed
            raise ValueError(f"task '{entry}': {error}") from None
        raise
    from dexhand_gym.envs.checks import check_class
    from dexhand_gym.envs.vec_env import DexHandVecEnv

    check_name(f"task '{entry}'", attribute, [x for x in vars(module) if not x.startswith("_")])
    cls = getattr(module, attribute)
    if not (isinstance(cls, type) and issubclass(cls, DexHandVecEnv)):
        raise ValueError(f"task '{entry}' is {cls!r}: allowed is a subclass of dexhand_gym.envs.vec_env.DexHandVecEnv")
    check_class(cls, DexHandVecEnv)
    return cls


def make_vec_env(
    task: str,
    num_envs: int = 1,
    cfg: Optional[Config] = None,
    seed: Optional[int] = None,
    render_mode: Optional[str] = None,
    **fields: Any,
):
    """The vector environment behind gymnasium.make_vec.

    render_mode: None, "rgb_array" or "human". fields: device, backend and any other config field, by its full name
    (with ** and a dict) or its last part.
    """
    if cfg is not None and not isinstance(cfg, Config):
        raise ValueError(f"cfg = {shortened(repr(cfg))}: allowed is a dexhand_gym.envs.config.Config")
    given = cfg.env.backend if cfg else "auto"
    import_isaacgym(fields.get("backend", fields.get("env.backend", given)))  # before the task's module imports torch
    cls = task_class(task)
    cfg = cfg or Config(sim=copy.deepcopy(PHYSICS[cls.physics]), task=cls.config())
    shown = {"render_mode": render_mode} if render_mode else {}
    return cls(override(cfg, {"env.num_envs": num_envs, **fields}), seed=seed, **shown)


def make_env(task: str, cfg: Optional[Config] = None, **fields: Any):
    """The single NumPy environment behind gymnasium.make. fields: as for make_vec_env, except num_envs."""
    from dexhand_gym.envs.single import SingleEnv

    several = next((name for name in ("num_envs", "env.num_envs") if name in fields), None)
    if several:
        raise TypeError(f"{several} = {fields[several]}: gymnasium.make is one environment, gymnasium.make_vec several")
    return SingleEnv(make_vec_env(task, 1, cfg, **fields))
