"""Weights & Biases: settings, metrics, clips and the best checkpoint of a training. Failures there never stop it."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Literal, Optional, Tuple

from . import workspace
from .text import printable

log = logging.getLogger(__name__)


@dataclass
class WandbConfig:
    """Weights & Biases."""

    enabled: bool = False
    """Log the training there too."""
    mode: Optional[Literal["online", "offline", "disabled"]] = None
    """By default WANDB_MODE, or online. offline: into the run's folder, for `wandb sync` to upload later; disabled:
    W&B's calls do nothing."""
    project: Optional[str] = None
    """Project that the run belongs to; by default WANDB_PROJECT, or dexhand_gym."""
    entity: Optional[str] = None
    """User or team; by default the user's own."""
    group: Optional[str] = None
    """Name of a group of runs, such as the seeds of one experiment."""
    tags: Tuple[str, ...] = ()
    """Words to find the run by."""


def check(cfg: WandbConfig) -> None:
    """Raises RuntimeError if wandb is enabled but not installed."""
    if cfg.enabled and importlib.util.find_spec("wandb") is None:
        raise RuntimeError("train.wandb.enabled = True: wandb is not installed; pip install 'dexhand-gym[wandb]'")


@contextmanager
def logging_to(
    cfg: WandbConfig, settings: Dict[str, Any], folder: Path, checkpoint: Optional[str]
) -> Iterator[Callable[[Dict[str, float]], None]]:
    """Yields a function that logs the metrics of an iteration of the run in `folder`. A training that resumes from
    `checkpoint` also resumes the W&B run of the training that wrote it, whose id is in the file wandb_id of its
    folder."""
    run = open_run(cfg, workspace.flatten(settings), folder, checkpoint) if cfg.enabled else None
    if run is None:
        yield lambda metrics: None
        return
    sent = set()

    def tell(metrics: Dict[str, float]) -> None:
        import wandb

        with survived("log"):
            run.log({name: value for name, value in metrics.items() if math.isfinite(value)})
            for clip in set(folder.glob("videos/*.mp4")) - sent:
                sent.add(clip)
                run.log({f"videos/{clip.stem}": wandb.Video(str(clip), format="mp4")})

    failed = True
    try:
        yield tell
        failed = False
    finally:
        tell({})  # clips
        with survived("finish"):
            save_results(run, folder)
            run.finish(exit_code=int(failed))


def open_run(cfg: WandbConfig, config: Dict[str, Any], folder: Path, checkpoint: Optional[str]) -> Any:
    """Starts a run of W&B, offline if W&B cannot be reached; None if that fails too."""
    import wandb

    ours: Dict[str, Any] = {"name": folder.name, "dir": folder, "project": "dexhand_gym"}
    settings: Dict[str, Any] = {"silent": True, "console": "off", "init_timeout": 30}
    if "finish_timeout" in wandb.Settings.model_fields:  # not on Python 3.8
        settings["finish_timeout"] = 60
    # Environment variables override our defaults, and the command line overrides both.
    ours, settings = (
        {name: x for name, x in some.items() if f"WANDB_{name.upper()}" not in os.environ} for some in (ours, settings)
    )
    said = {"project": cfg.project, "entity": cfg.entity, "group": cfg.group, "tags": cfg.tags}
    arguments = {**ours, **{name: x for name, x in said.items() if x}, "config": config}
    arguments["settings"] = wandb.Settings(**settings)
    saved = saved_id(checkpoint)
    if saved and "WANDB_RUN_ID" not in os.environ:  # a sweep's agent has chosen an id
        arguments.pop("name", None)
        arguments.update(id=saved, resume="allow")
    run = None
    modes: Any = (cfg.mode or os.environ.get("WANDB_MODE", "online"), "offline")
    for mode in dict.fromkeys(modes):
        with survived(f"start {mode}"):
            run = wandb.init(mode=mode, **arguments)
            break
    if run is not None:
        log.info("W&B: %s", run.dir if run.offline else run.url)
        with survived("start"):
            run.define_metric("*", step_metric="frames")
            workspace.write(folder / "wandb_id", f"{run.id}\n")
    return run


def saved_id(checkpoint: Optional[str]) -> str:
    """The id of the W&B run of the training that wrote `checkpoint`, or ""."""
    file = workspace.run_of(Path(checkpoint)) / "wandb_id" if checkpoint else None
    if file is None or not file.is_file():
        return ""
    with open(file, "rb") as opened:
        text = opened.read(200).decode("latin-1").strip()
    if re.fullmatch(r"[\w-]{1,128}", text, re.ASCII):
        return text
    log.warning("%s holds no id of a W&B run: a new one begins", file)
    return ""


def save_results(run: Any, folder: Path) -> None:
    """The best checkpoint, as an artifact, and the results of its test."""
    import wandb

    if (folder / "result.json").is_file():
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        run.summary.update(workspace.flatten({"test": result}))
    if workspace.checkpoint_files(folder):
        artifact = wandb.Artifact(f"policy-{run.id}", type="model")
        artifact.add_file(str(workspace.best_checkpoint(folder)))
        run.log_artifact(artifact)


@contextmanager
def survived(what: str) -> Iterator[None]:
    """Turns an error into a warning."""
    try:
        yield
    except Exception as error:
        log.warning("W&B could not %s: %s", what, printable(error, 500))
