"""GPU-vectorised DexHand environments. Importing registers the tasks with Gymnasium and loads nothing heavy."""

from __future__ import annotations

import os
import signal
import sys

# Ctrl-C while one of our own programs imports ends it without a traceback.
if (
    os.path.basename(sys.argv[0]) in ("dexhand-train", "dexhand-plot")
    or " ".join(getattr(sys, "orig_argv", [])[1:3]).startswith("-m dexhand_gym.")
) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
from importlib.metadata import entry_points

from gymnasium.envs.registration import register, registry

__version__ = "0.1.0"
__all__ = ["register_task", "tasks"]


def register_task(id: str, task: str) -> None:
    """Makes a task of yours known: register_task("My/Spin-v0", "my_package.spin:Spin").

    An installed package can do the same by an entry point in the group "dexhand_gym.tasks", with the id as its name.
    Then gymnasium.make_vec("My/Spin-v0") makes it and `--task Spin` trains it. `task` names a subclass of dexhand_gym.envs.vec_env.DexHandVecEnv; it is imported when an environment is made.
    """
    register(
        id=id,
        entry_point="dexhand_gym.envs:make_env",
        vector_entry_point="dexhand_gym.envs:make_vec_env",
        kwargs={"task": task},
    )


def tasks() -> dict:
    """Short name -> "module:Class" of every registered task, as {"BaseTask": "dexhand_gym.envs.base_task:BaseTask"}."""
    return {
        id.split("/")[-1].rsplit("-v", 1)[0]: spec.kwargs["task"]
        for id, spec in registry.items()
        if spec.vector_entry_point == "dexhand_gym.envs:make_vec_env"
    }


register_task("DexHand/BaseTask-v0", "dexhand_gym.envs.base_task:BaseTask")
register_task("DexHand/BoxGrasping-v0", "dexhand_gym.envs.box_grasping:BoxGrasping")
register_task("DexHand/BlindGrasping-v0", "dexhand_gym.envs.blind_grasping:BlindGrasping")

_found = entry_points()
for _entry in (
    _found.select(group="dexhand_gym.tasks") if hasattr(_found, "select") else _found.get("dexhand_gym.tasks", ())
):
    register_task(_entry.name, _entry.value)
