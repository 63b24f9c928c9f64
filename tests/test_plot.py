"""Plots and reports, from event files made here with known numbers."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import yaml
from torch.utils.tensorboard import SummaryWriter

from ppo import plot

ROOT = Path(__file__).parent.parent


def make_run(folder: Path, seed: int, rate: float = 1e-3, reward=(0.0, 10.0, 20.0), task="Spin", **settings) -> Path:
    (folder / "nn").mkdir(parents=True)
    config = {"task_name": task, "train": {"seed": seed, "learning_rate": rate, "checkpoint": None, **settings}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with SummaryWriter(str(folder / "summaries")) as writer:
        for i, value in enumerate(reward):
            writer.add_scalar("rewards/step", value, 1000 * (i + 1))
            writer.add_scalar("success_rate", i / 10, 1000 * (i + 1))
            writer.add_scalar("reward/turn", 2.0, 1000 * (i + 1))
            writer.add_scalar("reward/effort", -1.0, 1000 * (i + 1))
            writer.add_scalar("ending/time_out", 1.0, 1000 * (i + 1))
    return folder


def test_runs_that_differ_only_in_their_seed_are_one(tmp_path):
    runs = [
        plot.read_run(make_run(tmp_path / "a", seed=1)),
        plot.read_run(make_run(tmp_path / "b", seed=2)),
        plot.read_run(make_run(tmp_path / "c", seed=1, rate=0.1)),
    ]
    groups = plot.group(runs)
    names = {label: [run.name for run in members] for label, members in groups.items()}
    assert names == {"Spin, learning_rate 0.001 (2 seeds)": ["a", "b"], "Spin, learning_rate 0.1": ["c"]}
    assert list(plot.group(runs[:2])) == ["Spin (2 seeds)"]


def test_names_of_runs_hide_no_line_and_leave_out_the_module(tmp_path):
    tasks = "my_package.point:Point", "my_package.point:Pinch"
    groups = plot.group([plot.read_run(make_run(tmp_path / task[-3:], seed=1, task=task)) for task in tasks])
    assert list(groups) == ["Point", "Pinch"]
    figure = plot.plot_curves(groups)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend.get_window_extent().y1 < min(axis.get_window_extent().y0 for axis in figure.axes)


def test_a_label_tells_what_differs_within_a_task_and_is_not_cut_off(tmp_path):
    weights = {f"a_weight_with_a_long_name_{i}": float(i) for i in range(40)}
    runs = [
        make_run(tmp_path / "a", seed=1, units=[64, 64], **weights),
        make_run(tmp_path / "b", seed=1, units=[32], **dict.fromkeys(weights, 0.5)),
        make_run(tmp_path / "c", seed=1, task="Pinch", own_setting=1),
    ]
    groups = plot.group([plot.read_run(run) for run in runs])
    first, _, third = groups
    assert third == "Pinch", "not that it has no such weights"
    assert first.startswith("Spin, a_weight_with_a_long_name_0 0.0, ") and "units 64 64" in first
    for figure in plot.plots(groups).values():
        figure.draw_without_rendering()
        whole = figure.bbox
        texts = [text for legend in figure.legends for text in legend.get_texts()]
        texts += [text for axis in figure.axes for text in (axis.title, axis._left_title) if text.get_text()]
        boxes = [text.get_window_extent() for text in texts]
        assert len(boxes) >= 3
        for i, box in enumerate(boxes):
            assert min(box.x0, box.y0) >= 0 and box.x1 <= whole.x1 and box.y1 <= whole.y1, "cut off"
            assert not any(box.overlaps(other) for other in boxes[:i])


def test_runs_of_equal_labels_are_all_there(tmp_path):
    tasks = "mine.a:Point", "mine.b:Point"
    groups = plot.group([plot.read_run(make_run(tmp_path / task[5], seed=1, task=task)) for task in tasks])
    assert list(groups) == ["Point", "Point, b"]


def test_a_run_has_one_colour_in_all_curves(tmp_path):
    runs = [plot.read_run(make_run(tmp_path / name, seed=1, task=name)) for name in "abcdefghijklm"]
    del runs[0].scalars["success_rate"]
    del runs[1].scalars["reward"]
    figure = plot.plot_curves(plot.group(runs))
    looks = [[(line.get_color(), line.get_linestyle()) for line in axis.lines] for axis in figure.axes]
    assert looks[0][1:] == looks[1][1:] and len({*looks[0], *looks[1]}) == len(runs), "apart from the one that lacks it"
    assert sorted(text.get_text() for text in figure.legends[0].get_texts()) == [*"abcdefghijklm"]


@pytest.mark.filterwarnings("error")
def test_values_that_are_no_numbers_leave_a_gap(tmp_path):
    values = (0.0, 10.0, np.nan, np.inf, 20.0, 30.0)
    run = make_run(tmp_path / "a", seed=1, reward=values)
    with SummaryWriter(str(run / "summaries"), filename_suffix="more") as writer:
        for i in range(3):
            writer.add_scalar("episode_lengths/step", np.nan, 1000 * (i + 1))
    figure = plot.plot_curves(plot.group([plot.read_run(run)]))
    assert [axis.get_title() for axis in figure.axes] == ["reward of an episode", "success rate"], "not an empty one"
    x, y = figure.axes[0].lines[0].get_data()
    assert np.nanmax(y[x < 0.002]) == pytest.approx(10, abs=0.3)
    assert np.isnan(y[(x > 0.002) & (x < 0.005)]).all()
    assert y[x > 0.005] == pytest.approx(10 * (x[x > 0.005] * 1000 - 3), abs=0.2)


def test_curves_are_means_with_their_range(tmp_path):
    runs = [
        plot.read_run(make_run(tmp_path / "a", seed=1, reward=(0.0, 10.0, 20.0))),
        plot.read_run(make_run(tmp_path / "b", seed=2, reward=(4.0, 20.0))),  # stopped early
    ]
    figure = plot.plot_curves(plot.group(runs))
    (line,) = figure.axes[0].lines
    x, y = line.get_data()
    # At 1000, 1500, 1900 steps: means of (0, 4), (5, 12), (9, 18.4); after 2000 only the first run is there.
    assert np.interp([0.001, 0.0015, 0.0019], x, y) == pytest.approx([2.0, 8.5, 13.7], abs=0.1)
    assert np.interp([0.0025, 0.003], x, y) == pytest.approx([15.0, 20.0], abs=0.1)
    (band,) = figure.axes[0].collections
    edge = band.get_paths()[0].vertices
    assert edge[:, 1].min() == 0.0
    at_start = edge[np.isclose(edge[:, 0], 0.001)][:, 1]
    assert (at_start.min(), at_start.max()) == (0.0, 4.0)


def test_rewards_are_stacked_up_and_down(tmp_path):
    figure = plot.plot_shares({"a": [plot.read_run(make_run(tmp_path / "a", seed=1))]}, "reward/", "reward")
    extents = [area.get_paths()[0].vertices[:, 1] for area in figure.axes[0].collections]
    assert sorted((e.min(), e.max()) for e in extents) == [(-1.0, 0.0), (0.0, 2.0)]


def test_pictures_and_a_page(tmp_path, capsys):
    run = make_run(tmp_path / "runs" / "Spin_train_1", seed=1)
    (run / "result.json").write_text(
        '{"success_rate": 0.25, "endings": {"<lost>": 0.75}, "success_rate_95": [0.1, 0.4], "figures": []}'
    )
    (run / "videos").mkdir()
    (run / "videos" / "best.mp4").touch()
    other = make_run(tmp_path / "runs" / "Spin_train_2", seed=2)
    assert plot.main([str(run), str(other), "--out", str(tmp_path / "plots")]) == 0
    names = ["curves.png", "rewards.png", "endings.png", "Spin_train_1.html", "Spin_train_2.html"]
    assert capsys.readouterr().out.split() == [str(tmp_path / "plots" / name) for name in names]
    for name in names[:3]:
        picture = matplotlib.image.imread(tmp_path / "plots" / name)
        assert picture.shape[0] > 300 and picture.shape[1] > 500 and picture.std() > 0.05
    page = (tmp_path / "plots" / "Spin_train_1.html").read_text()
    assert "<td>success_rate</td><td>0.25</td>" in page and "<td>0.1 to 0.4</td>" in page
    assert "endings.&lt;lost&gt;" in page, "escaped"
    assert "<td>figures</td>" not in page, "there are none"
    assert page.count('src="data:image/png;base64,') == 3
    assert 'src="../runs/Spin_train_1/videos/best.mp4"' in page
    assert "learning_rate: 0.001" in page


def test_mistakes_cost_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name, message in (("no_run", "there is no such run"), ("empty", "it has no TensorBoard events to plot")):
        assert plot.main([name]) == 2
        assert capsys.readouterr().err == f"error: {name}: {message}\n"
    with SummaryWriter(str(tmp_path / "short" / "summaries")) as writer:
        writer.add_scalar("losses/entropy", 1.0, 1000)
    assert plot.main(["short"]) == 2
    assert (
        capsys.readouterr().err
        == "error: short: its events tell of no finished episode, so there are no curves to plot\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "short"}


def test_a_folder_to_write_to_that_is_none(tmp_path, capsys):
    run = make_run(tmp_path / "good", seed=1)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "more"):
        assert plot.main([str(run), "--out", str(out)]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: --out {out}: ") and err.endswith("allowed is a folder to write to\n")


def test_a_folder_that_tensorboard_cannot_name(tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    assert plot.main([str(folder)]) == 2
    assert "TensorBoard reads no folder whose name is not UTF-8" in capsys.readouterr().err


def test_files_of_a_run_that_are_damaged_cost_one_line(tmp_path, capsys):
    run = make_run(tmp_path / "\x1b[31ma", seed=1)
    for name, data, message in (
        ("result.json", b"{", "result.json: not JSON, "),
        ("result.json", b"[" * 10**6, "result.json: not JSON, "),
        ("result.json", b"\xff", "result.json: not JSON, "),
        ("result.json", b"[1]", "result.json: allowed are names and values"),
        ("config.yaml", b"a: 1\na: 2", "config.yaml' is not YAML: line 2: 'a' is in line 1 already"),
        ("config.yaml", b"\xff", "config.yaml' is not YAML: byte 0 is not UTF-8"),
    ):
        (run / name).write_bytes(data)
        assert plot.main([str(run), "--out", str(tmp_path / "plots")]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and message in err and "\\x1b[31ma" in err
        assert err[:-1].isprintable() and err.endswith("\n"), "one line"
        (run / name).unlink()


def test_who_reads_the_first_line_only_gets_all_files(tmp_path):
    run = make_run(tmp_path / "run", seed=1)
    command = f"{sys.executable} -m ppo.plot {run} --out {tmp_path / 'out'} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("141\n", "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "curves.png",
        "rewards.png",
        "endings.png",
        "run.html",
    }


def test_nothing_is_written_where_one_run_cannot_be_plotted(tmp_path, capsys):
    good, bad = make_run(tmp_path / "a" / "good", seed=1), make_run(tmp_path / "bad", seed=1)
    (bad / "result.json").write_text("[1]")
    for runs, message in (
        ([good, bad], "result.json: allowed are names and values"),
        ([good, make_run(tmp_path / "b" / "good", seed=2)], "good: another run has that name, too"),
    ):
        assert plot.main([*map(str, runs), "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_name_is_no_formula(tmp_path):
    run = make_run(tmp_path / "$x_1^{$", seed=1, task="$\\frac{$")
    assert plot.main([str(run), "--out", str(tmp_path / "out")]) == 0


EXPECTED = {
    "dexhand_gym",
    "dexhand_gym.caches",
    "dexhand_gym.fields",
    *(f"dexhand_gym.hands{name}" for name in ("", ".hand", ".mjcf")),
}
"""What registers tasks and hands, none of which is loaded."""


@pytest.mark.slow
def test_it_knows_nothing_of_hands():
    code = "import sys, ppo.plot; print([name for name in sys.modules if name.startswith('dexhand')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert set(ast.literal_eval(done.stdout)) <= EXPECTED, done.stderr
