"""The policies that come with the package: a folder for every task, in it one for every version, v0, v1, ..., and for
every variant of a version, such as v0_touch."""

from __future__ import annotations

from pathlib import Path

import dexhand_gym
from dexhand_gym.fields import check_name
from dexhand_gym.settings import Settings, only_word

PRETRAINED = Path(dexhand_gym.__file__).parent / "pretrained"


def resolve(given: Settings, name: str) -> list[str]:
    """The words of the setting `name`, in which `pretrained`, the newest version for the task, or `pretrained:v0_touch`, a
    certain one, has become its folder. Raises ValueError, one line."""
    wanted, named, version = " ".join(given[name]).partition(":")
    if wanted != "pretrained":
        return given[name]
    short = {"train.checkpoint": "checkpoint"}.get(name, name)
    known = sorted(path.name for path in PRETRAINED.iterdir() if path.is_dir())
    task = only_word("task", given.setdefault("task_name", ["BoxGrasping"]))
    if task not in known:
        raise ValueError(f"{short} = 'pretrained': there is none for {task}, only for {', '.join(known)}")
    versions = sorted(path.name for path in (PRETRAINED / task).glob("v*"))
    newest = max((name for name in versions if "_" not in name), key=lambda name: int(name[1:]))
    others = [name for name in known if version in {path.name for path in (PRETRAINED / name).iterdir()}]
    if "_" in version and others and version not in versions:
        raise ValueError(f"{short} = 'pretrained:{version}': {task} has none of this name, --task {others[0]} has")
    if named:
        check_name(short, f"pretrained:{version}", ["pretrained", *(f"pretrained:{name}" for name in versions)])
    return [str(PRETRAINED / task / (version or newest))]
