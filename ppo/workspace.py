"""Where runs live: runs_all/ keeps every run for ever, runs/ shows the newest of them as links.

runs_all/BoxGrasping_train_20260102_150000/   a run: config.yaml, train.log, result.json, nn/*.pth, summaries/
runs/BoxGrasping_train_20260102_150000        link to it
runs/latest_train, runs/latest_test           links to the newest of each kind
runs/pinned/                                  links that a user moved here, never cleaned up
"""

from __future__ import annotations

import difflib
import os
import re
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

RUN = re.compile(r"[^.].*_(?P<kind>train|test)_(?P<time>\d{8}_\d{6})(?:_(?P<number>\d+))?")
KINDS = {"latest_train": "training", "latest_test": "test"}


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
            raise OSError(f"runs cannot be written to {folder.absolute()}: {error.strerror}") from None


def create_run(name: str, kind: str, keep: int = 10, clean: bool = True, root: Path = Path()) -> Path:
    """Makes the folder of a new run, of kind train or test, and its links, and unlinks all but the newest `keep` runs of
    that kind. clean=False: the folder itself stands in runs/."""
    check_run_name(name)
    archive, shown = root / "runs_all", root / "runs"
    (shown / "pinned").mkdir(parents=True, exist_ok=True)
    archive.mkdir(exist_ok=True)
    run = make_folder(archive if clean else shown, shown, f"{name}_{kind}_{time.strftime('%Y%m%d_%H%M%S')}")
    if clean:
        link(shown / run.name, run)
    link(shown / f"latest_{kind}", run)
    for old in [path for path in runs_of(kind, shown) if path.is_symlink()][:-keep]:
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
    """Whoever looks at `place` sees the old link or the new one. Absolute, so that `mv runs/X runs/pinned/name` leaves it
    whole; after a move of the whole project its last part still names the run (see existing())."""
    temporary = place.with_name(f".{place.name}.{target.name}")
    temporary.symlink_to(target.resolve())
    os.replace(temporary, place)


def runs_of(kind: str, *folders: Path) -> List[Path]:
    """Runs of a kind, and links to such, oldest first."""

    def age(path: Path) -> Tuple[str, int]:
        match = RUN.fullmatch(path.name)
        return (match["time"], int(match["number"] or 1)) if match and match["kind"] == kind else ("", 0)

    paths = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return sorted((path for path in paths if age(path)[1]), key=age)


def resolve_checkpoint(text: str, root: Path = Path(), newest: bool = False) -> Path:
    """The file that --checkpoint means by a file, a run's folder or name, latest, latest_train or latest_test: of a run its
    best one, or with `newest`, for a training to go on with, its newest. Raises ValueError, one line with the nearest name there is."""
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
    """Files and folders that `name` may mean. A run unlinked from runs/ is still found by that path, one in runs_all/ by
    the path that it had before the project was moved."""
    bare = re.sub(r"^(\./)?(runs/pinned/|runs/)|^(.*/)?runs_all/", "", name)
    for path in (root / name, *(place / bare for place in places(root))):
        if (path := follow(path, root)).exists():
            yield path
    if bare in KINDS:  # for when that link is gone
        runs = runs_of(bare[len("latest_") :], root / "runs", root / "runs_all")
        yield from [path for path in runs if path.exists()][-1:]


def follow(path: Path, root: Path) -> Path:
    """Where to look instead if `path` is a link to a run, or to a checkpoint of one, that has moved with the project."""
    if not path.is_symlink() or path.exists():
        return path
    target = Path(os.readlink(path))
    return root.joinpath("runs_all", *target.parts[-3 if target.suffix == ".pth" else -1 :])


def checkpoint_files(run: Path, root: Path = Path()) -> List[Path]:
    files = [follow(path, root) for path in (*run.glob("nn/*.pth"), *run.glob("*.pth"))]
    return [path for path in files if path.is_file()]


def best_checkpoint(run: Path, root: Path = Path(), newest: bool = False) -> Path:
    """The best checkpoint in a run's folder, or else (or with `newest`) the newest. Raises ValueError if there is none."""
    files = checkpoint_files(run, root)
    if not files:
        raise ValueError(f"checkpoint: there is no .pth file in {run.resolve()} yet")
    best = [path for path in files if not newest and not path.name.startswith("last_")]
    return max(best or files, key=lambda path: path.stat().st_mtime_ns).resolve()


def flatten(tree: Dict[str, Any], prefix: str = "") -> Dict[str, Any]:
    """{"train": {"gamma": 0.99}} -> {"train.gamma": 0.99}: a run's settings by their full names."""
    flat: Dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat.update(flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return flat
