"""The results of trainings, as pictures and as pages: python -m ppo.plot runs/A runs/B [--out FOLDER]

curves.png     reward, success rate and episode length; runs that differ only in their seed are one line, the mean of
               them, with the range from the worst to the best
rewards.png    what each reward term contributed, stacked
endings.png    what ended the episodes, as shares
<run>.html     for each run one page: config, curves, final test, videos

The numbers come from the runs' TensorBoard events. Any run of ppo.ppo.train will do; nothing here knows of hands.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback, also while it imports
import argparse
import base64
import html
import io
import json
import os
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from . import strict_yaml
from .ppo import TENSORBOARD_TAGS
from .text import ending_with_the_reader, printable, write_anything
from .workspace import flatten

try:
    from matplotlib import pyplot as plt
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
except ImportError:
    sys.exit("error: ppo.plot needs matplotlib: pip install 'dexhand-gym[plot]'")

Scalars = Dict[str, Tuple[np.ndarray, np.ndarray]]  # metric -> environment steps, values
CURVES = {"reward": "reward of an episode", "success_rate": "success rate", "episode_length": "steps of an episode"}
UNIMPORTANT = (
    "train.seed",
    "train.checkpoint",
    "train.experiment",
    "train.log_level",
)  # runs that differ only in these are not separated
POINTS = 200  # per curve
LINES = "-", "--", ":", "-."  # of the first ten curves, the next ten ...
STYLE: Any = {
    "figure.dpi": 110,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "text.parse_math": False,  # labels contain names that users have given to runs
}


@dataclass
class Run:
    folder: Path
    config: Dict[str, Any]  # flat: full name of a setting -> its value
    scalars: Scalars

    @property
    def name(self) -> str:
        return self.folder.name


def read_run(folder: Path) -> Run:
    """Raises ValueError, one line, where there is nothing to plot."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such run")
    try:
        str(folder.resolve()).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{folder}: TensorBoard reads no folder whose name is not UTF-8, allowed is another") from None
    events = EventAccumulator(str(folder / "summaries"), size_guidance={"scalars": 0})
    names = {tag: name for name, tag in TENSORBOARD_TAGS.items()}
    scalars: Scalars = {}
    if (folder / "summaries").is_dir():
        events.Reload()
        for tag in map(str, events.Tags()["scalars"]):
            steps, values = np.array([(event.step, event.value) for event in events.Scalars(tag)]).T
            if np.isfinite(values).any():
                scalars[names.get(tag, tag)] = steps, values
    if not scalars:
        raise ValueError(f"{folder}: it has no TensorBoard events to plot")
    if not set(CURVES) & set(scalars):
        raise ValueError(f"{folder}: its events tell of no finished episode, so there are no curves to plot")
    result = folder / "result.json"
    if result.is_file():
        read_json(result)  # a mistake in it is reported before anything is written
    file = folder / "config.yaml"
    config = strict_yaml.read(file, "config") if file.is_file() else {}
    return Run(folder.resolve(), flatten(config), scalars)


def group(runs: Sequence[Run]) -> Dict[str, List[Run]]:
    """Label -> the runs that differ in nothing but their seed. A label says what is different from others of its
    task."""
    groups: Dict[str, List[Run]] = {}
    for run in runs:
        key = {name: value for name, value in run.config.items() if not name.startswith(UNIMPORTANT)}
        groups.setdefault(json.dumps(key, sort_keys=True) if key else run.name, []).append(run)
    labels: Dict[str, List[Run]] = {}
    for members in groups.values():
        config = members[0].config
        task = str(config.get("task_name", members[0].name))
        peers = [run.config for run in runs if run.config.get("task_name") == config.get("task_name")]
        settings = sorted({name for peer in peers for name in peer if not name.startswith(UNIMPORTANT)})
        different = [name for name in settings if len({str(peer.get(name)) for peer in peers}) > 1]
        parts = [f"{name.split('.')[-1]} {in_words(config.get(name))}" for name in different]
        label = ", ".join([task.split(":")[-1], *parts])  # of my_package.point:Point the end
        label = f"{label} ({len(members)} seeds)" if len(members) > 1 else label
        labels[f"{label}, {members[0].name}" if label in labels else label] = members
    return labels


def in_words(value: Any) -> str:
    """A setting as on the command line."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def smooth(run: Run, metric: str, steps: np.ndarray) -> np.ndarray:
    """The metric's moving average at these environment steps; NaN outside of the run and where no value near is
    finite."""
    at, values = run.scalars[metric]
    width = max(1, len(values) // 40)
    known = np.isfinite(values)
    sums, counts = (np.cumsum(np.pad(x, (1, 0))) for x in (np.where(known, values, 0.0), known.astype(int)))
    first = np.clip(np.arange(len(values)) - width // 2, 0, None)
    last = np.clip(first + width, None, len(values))
    count = counts[last] - counts[first]
    means = np.where(count > 0, (sums[last] - sums[first]) / np.maximum(count, 1), np.nan)
    return np.interp(steps, at, means, np.nan, np.nan)


def mean(values: np.ndarray) -> np.ndarray:
    """The mean over the runs [runs, points] that have values there; NaN where none has."""
    known = (~np.isnan(values)).sum(0)
    return np.where(known, np.nansum(values, 0) / np.maximum(known, 1), np.nan)


def steps_of(runs: Sequence[Run], metrics: Sequence[str]) -> np.ndarray:
    ends = [run.scalars[metric][0] for run in runs for metric in metrics if metric in run.scalars]
    return np.linspace(min(at[0] for at in ends), max(at[-1] for at in ends), POINTS)


def plot_curves(groups: Dict[str, List[Run]]) -> Figure:
    metrics = [metric for metric in CURVES if any(metric in run.scalars for runs in groups.values() for run in runs)]
    width = 4.2 * len(metrics)
    texts = {label: textwrap.fill(label, int(14 * width)) for label in groups}
    size = width, 3.2 + 0.2 * sum(text.count("\n") + 1 for text in texts.values())
    figure, axes = plt.subplots(1, len(metrics), figsize=size, squeeze=False, layout="constrained")
    lines = {}
    for axis, metric in zip(axes[0], metrics):
        for i, (label, runs) in enumerate(groups.items()):
            runs = [run for run in runs if metric in run.scalars]
            if not runs:
                continue
            steps = steps_of(runs, [metric])
            values = np.stack([smooth(run, metric, steps) for run in runs])
            style = LINES[i // 10 % len(LINES)]
            (lines[texts[label]],) = axis.plot(steps / 1e6, mean(values), style, color=f"C{i % 10}")
            if len(runs) > 1:
                low, high = np.fmin.reduce(values), np.fmax.reduce(values)
                axis.fill_between(steps / 1e6, low, high, color=f"C{i % 10}", alpha=0.2, linewidth=0)
        axis.set_title(CURVES[metric])
        axis.set_xlabel("million environment steps")
    # Below the curves, for a name may be long.
    figure.legend([*lines.values()], [*lines], frameon=False, fontsize=8, loc="outside lower left")
    return figure


def plot_shares(groups: Dict[str, List[Run]], prefix: str, title: str) -> Figure:
    """For each group the metrics `prefix`..., stacked, as means over seeds. Negative values are stacked downwards."""
    columns, rows = min(len(groups), 3), -(-len(groups) // 3)
    texts = [textwrap.fill(label, 65) for label in groups] if len(groups) > 1 else [title]
    size = 5.6 * columns, rows * (3.4 + 0.15 * max(text.count("\n") + 1 for text in texts))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=True)
    all_metrics = {metric: None for runs in groups.values() for run in runs for metric in run.scalars}
    metrics = [metric for metric in all_metrics if metric.startswith(prefix)]
    colors = {metric: plt.get_cmap("tab20")(i % 20) for i, metric in enumerate(metrics)}
    for axis in axes.flat[len(groups) :]:
        axis.remove()
    for axis, text, runs in zip(axes.flat, texts, groups.values()):
        axis.set_title(text, fontsize=9, loc="left")
        axis.set_xlabel("million environment steps")
        theirs = [metric for metric in metrics if any(metric in run.scalars for run in runs)]
        steps, shown = steps_of(runs, theirs) if theirs else np.zeros(POINTS), []
        for sign in (1, -1):
            base = np.zeros(POINTS)
            for metric in theirs:
                having = [run for run in runs if metric in run.scalars]
                height = np.nan_to_num(mean(np.stack([smooth(run, metric, steps) for run in having])))
                part = sign * np.clip(sign * height, 0, None)
                if part.any():
                    axis.fill_between(steps / 1e6, base, base + part, color=colors[metric], linewidth=0)
                    shown.append(metric)
                base += part
        patches = [Patch(color=colors[metric], label=metric[len(prefix) :]) for metric in metrics if metric in shown]
        axis.legend(handles=patches, frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    for row in axes:
        row[0].set_ylabel(title)
    figure.tight_layout()
    return figure


def plots(groups: Dict[str, List[Run]]) -> Dict[str, Figure]:
    figures = {"curves": plot_curves(groups)}
    metrics = {metric for runs in groups.values() for run in runs for metric in run.scalars}
    for name, prefix, title in (("rewards", "reward/", "reward per step"), ("endings", "ending/", "share of episodes")):
        if any(metric.startswith(prefix) for metric in metrics):
            figures[name] = plot_shares(groups, prefix, title)
    return figures


# --- Report ----------------------------------------------------------------------------------------------------------

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{name}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #223 }}
h1 {{ font-size: 1.4rem }} h2 {{ font-size: 1.1rem; margin-top: 2rem }}
img {{ max-width: 100% }} video {{ width: 320px; margin: 0 8px 8px 0; border-radius: 4px; vertical-align: top }}
td {{ padding: 1px 1.5rem 1px 0 }} pre {{ background: #f4f5f7; padding: 1rem; overflow: auto; font-size: 13px }}
</style>
<h1>{name}</h1>
{sections}
</html>
"""


def report(run: Run, place: Path) -> str:
    """One page on a run, self-contained except for the videos, which it links relative to the folder `place`."""
    sections = []
    if (run.folder / "result.json").is_file():
        result = flatten(read_json(run.folder / "result.json"))
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(show(x))}</td></tr>"
            for name, x in result.items()
            if show(x)
        )
        sections.append(f"<h2>Final test</h2><table>{rows}</table>")
    videos = sorted((run.folder / "videos").glob("*.mp4"))
    if videos:
        tags = "".join(
            f'<video src="{html.escape(os.path.relpath(video, place.resolve()))}" title="{html.escape(video.stem)}" controls muted loop preload="metadata">'
            "</video>"
            for video in videos
        )
        sections.append(f"<h2>Videos</h2>{tags}")
    pictures = "".join(
        f'<p><img alt="{name}" src="{inline(figure)}"></p>' for name, figure in plots({run.name: [run]}).items()
    )
    sections.append(f"<h2>Training</h2>{pictures}")
    if run.config:
        text = (run.folder / "config.yaml").read_text(encoding="utf-8")
        sections.append(f"<h2>Configuration</h2><pre>{html.escape(text)}</pre>")
    return PAGE.format(name=html.escape(run.name), sections="\n".join(sections))


def read_json(file: Path) -> Dict[str, Any]:
    """Raises ValueError, one line, if there is no object in it."""
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON, {printable(error, 200)}") from None
    if not isinstance(result, dict):
        raise ValueError(f"{file}: allowed are names and values")
    return result


def show(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(show(x) for x in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def inline(figure: Figure) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {out}: {error.strerror}, allowed is a folder to write to") from None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, such as runs/latest_train")
    parser.add_argument("--out", type=Path, default=Path("plots"), metavar="FOLDER", help="where to write [plots]")
    args = parser.parse_args(argv)
    plt.switch_backend("agg")
    write_anything()
    try:
        runs = [read_run(folder) for folder in args.runs]
        for run in runs:
            if sum(other.name == run.name for other in runs) > 1:
                raise ValueError(f"{run.folder}: another run has that name, too: allowed is one of each name")
        make_folder(args.out)
        written = []
        with plt.rc_context(STYLE):
            for name, figure in plots(group(runs)).items():
                written.append(args.out / f"{name}.png")
                figure.savefig(written[-1])
                plt.close(figure)
            for run in runs:
                written.append(args.out / f"{run.name}.html")
                written[-1].write_text(report(run, args.out), encoding="utf-8")
        with ending_with_the_reader():
            print(*map(printable, written), sep="\n")
    except (ValueError, OSError) as error:
        print("error:", printable(error), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
