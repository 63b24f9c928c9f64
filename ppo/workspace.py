"""Where runs live: runs_all/ keeps every run for ever, runs/ shows the newest of them as links.

runs_all/BoxGrasping_train_20260102_150000/   a run: config.yaml, train.log, result.json, nn/*.pth, summaries/
runs/BoxGrasping_train_20260102_150000        link to it
runs/latest_train, runs/latest_test           links to the newest of each kind
runs/pinned/                                  links that a user moved here, never cleaned up
"""

from __future__ import annotations

import difflib
import json
import logging
import math
import os
import re
import secrets
import shutil
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from . import strict_yaml
from .text import printable

log = logging.getLogger(__name__)

RUN = re.compile(r"[^.].*_(?P<kind>train|test)_(?P<time>\d{8}_\d{6})(?:_(?P<number>\d+))?")
PERIODIC = re.compile(r"last_(?P<name>.*[^_])_?ep_?(?P<epoch>\d+)(_?rew.*)?\.pth")  # rl_games' older ones lack some _
KINDS = {"latest_train": "training", "latest_test": "test"}
TASK = ("task_name", "task.", "sim.", "env.object.", "env.hand", "env.self_collision")
"""Beginnings of the settings that say what is learned."""
SPEED = ("sim.threads", "sim.warp.")
"""... and of those among them that say how fast."""


def check_run_name(name: str) -> None:
    """Raises ValueError, one line, unless `name` can begin a folder's name and nothing else."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}", name):
        raise ValueError(f"experiment.name = {name!r}: allowed are letters, digits and . _ + - (80 at most)")


def check_writable(root: Path = Path()) -> None:
    """Raises OSError, one line, unless runs can be made in `root`. Leaves nothing behind."""
    for folder in (root / "runs_all", root / "runs" / "pinned"):
        while not os.path.lexists(folder):
            folder = folder.parent
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise OSError(f"runs cannot be written to {printable(folder.absolute())}: {error.strerror}") from None


def create_run(
    name: str, kind: str, keep: int = 10, clean: bool = True, root: Path = Path(), config: Optional[str] = None
) -> Path:
    """Makes the folder of a new run, of kind train or test, with its config.yaml, and its links, and unlinks all but
    the newest `keep` runs of that kind. clean=False: the folder itself stands in runs/."""
    check_run_name(name)
    archive, shown = root / "runs_all", root / "runs"
    (shown / "pinned").mkdir(parents=True, exist_ok=True)
    archive.mkdir(exist_ok=True)
    run = make_folder(archive if clean else shown, shown, f"{name}_{kind}_{time.strftime('%Y%m%d_%H%M%S')}")
    if config is not None:
        try:
            write(run / "config.yaml", config)
        except OSError:
            shutil.rmtree(run, ignore_errors=True)
            raise
    places = [shown / run.name, shown / f"latest_{kind}"]
    for place in places if clean else places[1:]:
        try:
            link(place, run)
        except (OSError, NotImplementedError) as error:  # the user's own file, or a file system without links
            log.warning("%s is no link to this run (%s): --checkpoint %s or latest finds it", place, error, run.name)
            break
    others = [path for path in runs_of(kind, shown) if path.is_symlink() and path.name != run.name]
    # If the clock was set back, this run seems the oldest: it is kept all the same.
    for old in others[: max(len(others) + 1 - keep, 0)]:
        old.unlink(missing_ok=True)
    return run


def make_folder(parent: Path, shown: Path, name: str) -> Path:
    """Processes that start in the same second get name, name_2, name_3 ..."""
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}_{number}")
        try:
            if parent == shown or not os.path.lexists(shown / folder.name):
                folder.mkdir()
                return folder
        except FileExistsError:
            pass
    raise AssertionError


def link(place: Path, target: Path) -> None:
    """Makes `place` a link to `target`; a reader sees either the old link or the new one. The link is absolute, so
    that `mv runs/X runs/pinned/name` keeps it intact. After a move of the whole project its last part still names the
    run (see existing()). Raises OSError or NotImplementedError, and replaces nothing but links."""
    if os.path.lexists(place) and not place.is_symlink():
        raise FileExistsError(f"{printable(place)} is there already")
    temporary = place.with_name(f".link.{secrets.token_hex(8)}")  # not longer than any other name
    temporary.symlink_to(target.resolve())
    os.replace(temporary, place)


def link_or_copy(place: Path, target: Path) -> None:
    try:
        link(place, target)
    except (OSError, NotImplementedError):  # a file system without links
        shutil.copyfile(target, place)


class WriteError(OSError):
    """A file of a run that could not be written; the message is one line with its path."""


def write(path: Path, text: str) -> None:
    """Writes a file; a reader sees either the old text or the new one, whole."""
    unfinished = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # somebody may have moved the run
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        raise WriteError(f"{printable(path)}: not written, {error.strerror}") from None


def to_json(tree: Any) -> str:
    """JSON has no numbers that are not finite: they become null."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(entry) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(entry) for entry in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(tree), indent=2, allow_nan=False) + "\n"


def runs_of(kind: str, *folders: Path) -> List[Path]:
    """Runs of a kind, and links to such, oldest first."""

    def age(path: Path) -> Tuple[str, int]:
        match = RUN.fullmatch(path.name)
        return (match["time"], int(match["number"] or 1)) if match and match["kind"] == kind else ("", 0)

    paths = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return sorted((path for path in paths if age(path)[1]), key=age)


def resolve_checkpoint(text: str, root: Path = Path(), newest: bool = False) -> Path:
    """The file that --checkpoint means, given a file, a run's folder or name, latest, latest_train or latest_test: a
    run's best checkpoint, or with `newest`, to resume a training, its newest. Raises ValueError, one line with the
    nearest name that exists."""
    name = "latest_train" if text == "latest" else text
    found = list(existing(name, root))
    with_checkpoint = [path for path in found if path.is_file() or checkpoint_files(path, root)]
    for path in with_checkpoint or found:
        return path.resolve() if path.is_file() else best_checkpoint(path, root, newest)
    if name in KINDS:
        raise ValueError(f"checkpoint = {text!r}: there is no {KINDS[name]} run in runs/ yet")
    known = [path.name for place in places(root) if place.is_dir() for path in place.iterdir()]
    known += ["latest", "pretrained"]
    near = difflib.get_close_matches(Path(name).name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ValueError(
        f"checkpoint = {text!r}: no such file or run{hint} Allowed: a .pth file, a run, latest, latest_train, latest_test, pretrained"
    )


def places(root: Path) -> Tuple[Path, ...]:
    return root / "runs", root / "runs" / "pinned", root / "runs_all"


def existing(name: str, root: Path) -> Iterator[Path]:
    """Files and folders that `name` may mean, the likeliest first. A run unlinked from runs/ is still found by that
    path, one in runs_all/ by the path that it had before the project was moved."""
    bare = re.sub(r"^(\./)?(runs/pinned/|runs/)|^(.*/)?runs_all/", "", name)
    paths = [root / name, *(place / bare for place in places(root))]
    no_links = [path for path in paths if name in KINDS and not os.path.islink(path)]  # the user's own, or copies
    for path in paths:
        # For a name that cannot exist os.path says that there is nothing, where pathlib raises OSError.
        if path not in no_links and os.path.exists(path := follow(path, root)):
            yield path
    if bare in KINDS:  # for when that link is gone
        runs = runs_of(bare[len("latest_") :], root / "runs", root / "runs_all")
        yield from [path for path in runs if path.exists()][-1:]
    yield from filter(os.path.exists, no_links)


def follow(path: Path, root: Path) -> Path:
    """Where to look instead if `path` is a link to a run, or to a checkpoint of one, that has moved with the
    project."""
    if not os.path.islink(path) or os.path.exists(path):
        return path
    target = Path(os.readlink(path))
    return root.joinpath("runs_all", *target.parts[-3 if target.suffix == ".pth" else -1 :])


def checkpoint_files(run: Path, root: Path = Path()) -> List[Path]:
    files = [follow(path, root) for path in (*run.glob("nn/*.pth"), *run.glob("*.pth"))]
    return [path for path in files if path.is_file()]


def best_checkpoint(run: Path, root: Path = Path(), newest: bool = False) -> Path:
    """The best checkpoint in a run's folder, or else (or with `newest`) the newest. Raises ValueError if there is
    none."""
    files = checkpoint_files(run, root)
    if not files:
        raise ValueError(f"checkpoint: there is no .pth file in {printable(run.resolve())} yet")
    best = [path for path in files if not newest and not path.name.startswith("last_")]
    return max(best or files, key=newness).resolve()


def newness(checkpoint: Path) -> Tuple[int, int]:
    """Sort key, the larger the newer: by the iteration in the name, and only without one by the clock, which may be
    wrong."""
    match = PERIODIC.fullmatch(checkpoint.name)
    return (int(match["epoch"]), 0) if match else (-1, checkpoint.stat().st_mtime_ns)


def best_beside(checkpoint: Path) -> Path:
    """Path of the best policy of the training that has written this checkpoint."""
    match = PERIODIC.fullmatch(checkpoint.name)
    return checkpoint.with_name(f"{match['name']}.pth") if match else checkpoint


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint is in."""
    return checkpoint.parent.parent if checkpoint.parent.name == "nn" else checkpoint.parent


def another_task(ours: Path, theirs: Path) -> Optional[str]:
    """The first setting of the task or of its physics in which two runs differ, by what both config.yaml say."""
    settings = []
    for run in (ours, theirs):
        try:
            settings.append(flatten(strict_yaml.read(run / "config.yaml", "config", words=True)))
        except (OSError, ValueError):
            return None
    both = settings[0].keys() & settings[1].keys()
    names = [name for name in both if name.startswith(TASK) and not name.startswith(SPEED)]
    names.sort(key=lambda name: (name.startswith("sim.physx."), name))  # only Isaac Gym reads these
    return next((name for name in names if settings[0][name] != settings[1][name]), None)


def flatten(tree: Dict[str, Any], prefix: str = "") -> Dict[str, Any]:
    """{"train": {"gamma": 0.99}} -> {"train.gamma": 0.99}: a run's settings by their full names."""
    flat: Dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat.update(flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return flat
