"""Weights & Biases: settings, metrics, clips and the best checkpoint of a training. What fails there never stops it."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Literal, Optional, Tuple

from . import workspace

log = logging.getLogger(__name__)


@dataclass
class WandbConfig:
    """Weights & Biases."""

    enabled: bool = False
    """Log the training there too."""
    mode: Literal["online", "offline", "disabled"] = "online"
    """offline: into the run's folder, for `wandb sync` to upload later; disabled: go through the motions."""
    project: str = "dexhand_gym"
    """Project that the run belongs to."""
    entity: Optional[str] = None
    """User or team; by default the user's own."""
    group: Optional[str] = None
    """What puts runs together, such as the seeds of one experiment."""
    tags: Tuple[str, ...] = ()
    """Words to find the run by."""


def check(cfg: WandbConfig) -> None:
    """Raises RuntimeError if wandb is wanted and not there."""
    if cfg.enabled and importlib.util.find_spec("wandb") is None:
        raise RuntimeError("train.wandb.enabled = True: wandb is not installed; pip install 'dexhand-gym[wandb]'")


@contextmanager
def logging_to(
    cfg: WandbConfig, settings: Dict[str, Any], folder: Path, checkpoint: Optional[str]
) -> Iterator[Callable[[Dict[str, float]], None]]:
    """Gives a function that logs the metrics of an iteration of the run in `folder`. A training that goes on from
    `checkpoint` goes on with the W&B run of the one that wrote it, whose id is in the file wandb_id of its folder."""
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
    """A run of W&B, offline if there is no way to reach it, or None."""
    import wandb

    saved = Path(checkpoint).parent.parent / "wandb_id" if checkpoint else folder
    again = saved.is_file() and "WANDB_RUN_ID" not in os.environ  # a sweep's agent has chosen an id
    arguments: Dict[str, Any] = {"id": saved.read_text().strip(), "resume": "allow"} if again else {"name": folder.name}
    arguments.update(dir=folder, config=config, project=cfg.project, entity=cfg.entity, group=cfg.group)
    settings: Dict[str, Any] = {"silent": True, "console": "off", "init_timeout": 30}
    if "finish_timeout" in wandb.Settings.model_fields:  # not on Python 3.8
        settings["finish_timeout"] = 60
    arguments.update(tags=cfg.tags or None, settings=wandb.Settings(**settings))
    run = None
    for mode in dict.fromkeys((cfg.mode, "offline")):
        with survived(f"start {mode}"):
            run = wandb.init(mode=mode, **arguments)
            run.define_metric("*", step_metric="frames")
            (folder / "wandb_id").write_text(f"{run.id}\n", encoding="utf-8")
            log.info("W&B: %s", run.dir if run.offline else run.url)
            break
    return run


def save_results(run: Any, folder: Path) -> None:
    """The best checkpoint, as an artifact, and what its test has found."""
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
        log.warning("W&B could not %s: %s", what, " ".join(str(error).split()))
