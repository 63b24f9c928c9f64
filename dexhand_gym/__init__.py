"""GPU-vectorised DexHand environments. Importing registers the tasks with Gymnasium and loads nothing heavy."""

from __future__ import annotations

import os
import signal
import sys

# While one of our own programs is importing, Ctrl-C ends it without a traceback.
if (
    os.path.basename(sys.argv[0]) in ("dexhand-train", "dexhand-plot", "dexhand-doctor")
    or " ".join(getattr(sys, "orig_argv", [])[1:3]).startswith("-m dexhand_gym.")
) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
import re
import warnings
from importlib.metadata import entry_points

from gymnasium.envs.registration import register, registry

from dexhand_gym.fields import unknown_name
from dexhand_gym.hands import hands, register_hand

__all__ = ["find_task", "hands", "register_hand", "register_task", "tasks"]


def __getattr__(name: str) -> str:
    """`__version__`, which stands in dexhand_deploy, and is not loaded before somebody asks."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dexhand_deploy import __version__

    return __version__


def register_task(id: str, task: str) -> None:
    """Registers your task: register_task("My/Spin-v0", "my_package.spin:Spin").

    Then gymnasium.make_vec("My/Spin-v0") makes it, and `--import MODULE --task Spin` trains it, where MODULE makes this
    call. An installed package can register it by an entry point in the group "dexhand_gym.tasks" that has the id as its
    name; then nothing needs importing. `task` names a subclass of dexhand_gym.envs.vec_env.DexHandVecEnv; it is
    imported when an environment is made. Raises ValueError, one line, if `task` is not of this form, or if another id
    has the same short name ("Spin"); a registered id that begins with "DexHand/" cannot be given to another task.
    """
    if not isinstance(task, str) or not re.fullmatch(r"[\w.]+:\w+", task):
        raise ValueError(f"task id '{id}': task = {task!r}, allowed is the text package.module:Class")
    if id in _ids() and id.startswith("DexHand/") and registry[id].kwargs["task"] != task:
        raise ValueError(f"task id '{id}' is taken: allowed is another, such as 'My/{short_name(id)}2-v0'")
    for other in _ids():
        if short_name(other) == short_name(id) and family(other) != family(id):
            raise ValueError(
                f"task id '{id}': '{other}' has the short name {short_name(id)} already; allowed is another name"
            )
    register(
        id=id,
        entry_point="dexhand_gym.envs:make_env",
        vector_entry_point="dexhand_gym.envs:make_vec_env",
        kwargs={"task": task},
    )


def tasks() -> dict:
    """Short name -> "module:Class" of every registered task, in its newest version:
    {"BaseTask": "dexhand_gym.envs.base_task:BaseTask"}."""
    ids = sorted(_ids(), key=lambda id: registry[id].version or 0)
    return {short_name(id): registry[id].kwargs["task"] for id in ids}


def find_task(name: str) -> str:
    """ "module:Class" of a task, given its short name or "module:Class" itself. Raises ValueError, one line with the
    nearest name."""
    known = tasks()
    if ":" not in name and name not in known:
        hint = "one of your own is found by --import of the module that registers it, or as module:Class"
        raise ValueError(f"{unknown_name('task', name, known)} ({hint})")
    return known.get(name, name)


def short_name(id: str) -> str:
    """DexHand/BaseTask-v0 -> BaseTask"""
    return family(id).split("/")[-1]


def family(id: str) -> str:
    """DexHand/BaseTask-v0 -> DexHand/BaseTask"""
    return id.rsplit("-v", 1)[0]


def _ids() -> list:
    return [id for id, spec in registry.items() if spec.vector_entry_point == "dexhand_gym.envs:make_vec_env"]


register_task("DexHand/BaseTask-v0", "dexhand_gym.envs.base_task:BaseTask")
register_task("DexHand/BoxGrasping-v0", "dexhand_gym.envs.box_grasping:BoxGrasping")
register_task("DexHand/BlindGrasping-v0", "dexhand_gym.envs.blind_grasping:BlindGrasping")
register_task("DexHand/ObjectGrasping-v0", "dexhand_gym.envs.object_grasping:ObjectGrasping")
register_task("DexHand/BimanualLift-v0", "dexhand_gym.envs.bimanual_lift:BimanualLift")
register_task("DexHand/CubeRotation-v0", "dexhand_gym.envs.cube_rotation:CubeRotation")
register_task("DexHand/CubeReorientation-v0", "dexhand_gym.envs.cube_reorientation:CubeReorientation")

_found = entry_points()
for _what, _register in (("tasks", register_task), ("hands", register_hand)):
    _group = f"dexhand_gym.{_what}"
    for _entry in _found.select(group=_group) if hasattr(_found, "select") else _found.get(_group, ()):
        try:
            _register(_entry.name, _entry.value)
        except Exception as _error:  # another package's mistake must not keep this one from being imported
            warnings.warn(f"the entry point {_entry.name!r} makes none of {_group}: {_error}", stacklevel=2)
