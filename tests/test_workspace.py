"""Runs, their links and what --checkpoint may be called."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from ppo import workspace
from ppo.workspace import create_run, resolve_checkpoint


def shown(root: Path) -> set:
    return {path.name for path in (root / "runs").iterdir()}


def with_checkpoints(run: Path, *names: str) -> Path:
    """Empty checkpoints, the first the oldest."""
    (run / "nn").mkdir(exist_ok=True)
    for age, name in enumerate(names):
        (run / "nn" / name).touch()
        os.utime(run / "nn" / name, (1000 + age, 1000 + age))
    return run


@pytest.fixture
def clock(monkeypatch):
    """Tells the time that `clock.time` says, a second later each time."""

    class Clock:
        time = 0

        def strftime(self, form):
            self.time += 1
            return f"20260102_{self.time:06d}"

    monkeypatch.setattr(workspace, "time", Clock())
    return workspace.time


def test_a_run_is_a_folder_and_two_links(tmp_path):
    run = create_run("BoxGrasping", "train", root=tmp_path)
    assert run.parent == tmp_path / "runs_all"
    assert workspace.RUN.fullmatch(run.name)
    assert shown(tmp_path) == {run.name, "latest_train", "pinned"}
    assert (tmp_path / "runs" / run.name).resolve() == (tmp_path / "runs" / "latest_train").resolve() == run
    test = create_run("BoxGrasping", "test", root=tmp_path)
    assert (tmp_path / "runs" / "latest_train").resolve() == run
    assert (tmp_path / "runs" / "latest_test").resolve() == test


def test_runs_of_the_same_second_get_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr(workspace.time, "strftime", lambda form: "20260102_150000")
    names = [create_run("Box", "train", keep=2, root=tmp_path).name for _ in range(11)]
    assert names[:2] == ["Box_train_20260102_150000", "Box_train_20260102_150000_2"]
    assert shown(tmp_path) == {names[9], names[10], "latest_train", "pinned"}, "_11 is newer than _9"


def make_runs(root: Path) -> list:
    return [create_run("Box", "train", keep=3, root=root).name for _ in range(20)]


def test_processes_may_start_at_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        names = [name for names in pool.map(make_runs, [tmp_path] * 4) for name in names]
    assert len(set(names)) == 80
    assert {path.name for path in (tmp_path / "runs_all").iterdir()} == set(names)
    links = shown(tmp_path) - {"latest_train", "pinned"}
    assert len(links) == 3
    assert links <= set(names)
    assert (tmp_path / "runs" / "latest_train").resolve().name in names


def test_only_the_links_of_old_runs_go(tmp_path, clock):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "Box_train_20250101_000000").mkdir()  # a folder is no link
    (tmp_path / "runs" / "notes").symlink_to(tmp_path)
    test = create_run("Box", "test", keep=2, root=tmp_path)
    trains = [create_run(name, "train", keep=2, root=tmp_path) for name in ("Zebra", "Box", "Apple", "Cup")]
    stay = {"Box_train_20250101_000000", "notes", "pinned", "latest_train", "latest_test", test.name}
    assert shown(tmp_path) == stay | {trains[2].name, trains[3].name}
    assert all(run.is_dir() for run in trains)


def test_a_training_goes_on_with_the_newest_and_a_test_takes_the_best(tmp_path, clock):
    run = with_checkpoints(create_run("Box", "train", root=tmp_path), "policy.pth")
    newest = run / "nn" / "last_policy_ep_9_rew_1.000.pth"
    newest.touch()
    os.utime(newest, ns=(2**61, 2**61))
    for name in ("latest", run.name):
        assert resolve_checkpoint(name, tmp_path) == run / "nn" / "policy.pth"
        assert resolve_checkpoint(name, tmp_path, newest=True) == newest


def test_a_moved_link_is_pinned(tmp_path, clock):
    run = with_checkpoints(create_run("Box", "train", keep=1, root=tmp_path), "policy.pth")
    pinned = tmp_path / "runs" / "pinned" / "best"
    (tmp_path / "runs" / run.name).rename(pinned)
    create_run("Box", "train", keep=1, root=tmp_path)
    assert pinned.resolve() == run
    for name in ("runs/pinned/best", "best", f"runs/{run.name}"):
        assert resolve_checkpoint(name, tmp_path) == run / "nn" / "policy.pth"


def test_links_are_found_again_when_the_project_has_moved(tmp_path):
    run = with_checkpoints(create_run("Box", "train", root=tmp_path / "old"), "policy.pth")
    test = with_checkpoints(create_run("Box", "test", root=tmp_path / "old"))
    workspace.link(test / "nn" / "policy.pth", run / "nn" / "policy.pth")
    (tmp_path / "old" / "runs" / run.name).rename(tmp_path / "old" / "runs" / "pinned" / "best")
    (tmp_path / "old").rename(tmp_path / "new")
    for name in ("best", "latest", "latest_test", run.name, str(run / "nn" / "policy.pth")):
        path = resolve_checkpoint(name, tmp_path / "new")
        assert path == tmp_path / "new" / "runs_all" / run.name / "nn" / "policy.pth"


def test_the_newest_run_is_found_without_its_links(tmp_path, clock):
    old, new = (with_checkpoints(create_run("Box", "train", root=tmp_path), "a.pth") for _ in range(2))
    (tmp_path / "runs" / "latest_train").rename(tmp_path / "runs" / "pinned" / "best")
    for name in ("latest", "latest_train", "runs/latest_train", "best"):
        assert resolve_checkpoint(name, tmp_path) == new / "nn" / "a.pth"
    new.rename(tmp_path / "elsewhere")
    assert resolve_checkpoint("latest", tmp_path) == old / "nn" / "a.pth"
    shutil.rmtree(tmp_path / "runs")
    assert resolve_checkpoint("latest", tmp_path) == old / "nn" / "a.pth"


def test_a_pinned_run_may_be_called_like_a_folder_of_the_project(tmp_path):
    run = with_checkpoints(create_run("Box", "train", root=tmp_path), "a.pth")
    (tmp_path / "runs" / run.name).rename(tmp_path / "runs" / "pinned" / "docs")
    (tmp_path / "docs").mkdir()
    assert resolve_checkpoint("docs", tmp_path) == run / "nn" / "a.pth"


def test_whatever_bears_a_runs_name_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(workspace.time, "strftime", lambda form: "20260102_150000")
    outside, archive, shown_runs = tmp_path / "outside", tmp_path / "root" / "runs_all", tmp_path / "root" / "runs"
    for folder in (outside, archive, shown_runs):
        folder.mkdir(parents=True)
    (archive / "Box_train_20260102_150000").symlink_to(outside)
    (archive / "Box_train_20260102_150000_2").symlink_to(tmp_path / "gone")
    (shown_runs / "Box_train_20260102_150000_3").mkdir()
    run = create_run("Box", "train", root=tmp_path / "root")
    assert run == archive / "Box_train_20260102_150000_4"
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("name", ["latest_train", "pinned", "x_test_20260102_150000", "runs_all"])
def test_a_run_may_be_called_like_a_link(tmp_path, name):
    first = with_checkpoints(create_run("Box", "train", root=tmp_path), "a.pth")
    run = with_checkpoints(create_run(name, "train", keep=2, root=tmp_path), "a.pth")
    assert shown(tmp_path) == {first.name, run.name, "latest_train", "pinned"}
    assert resolve_checkpoint("latest", tmp_path).parent.parent == run
    assert resolve_checkpoint(run.name, tmp_path).parent.parent == run


def test_folders_are_tried_before_anything_is_made(tmp_path):
    workspace.check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    create_run("Box", "train", root=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    workspace.check_writable(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    shutil.rmtree(tmp_path / "runs_all")
    (tmp_path / "runs_all").symlink_to("nowhere")
    with pytest.raises(OSError, match=rf"^runs cannot be written to {tmp_path}/runs_all: No such file or directory$"):
        workspace.check_writable(tmp_path)
    with pytest.raises(OSError, match="^runs cannot be written to /sys: "):  # not even by root
        workspace.check_writable(Path("/sys"))


def test_without_the_clean_workspace_runs_are_folders(tmp_path, clock):
    runs = [with_checkpoints(create_run("Box", "train", keep=1, clean=False, root=tmp_path), "a.pth") for _ in range(3)]
    assert all(run.parent == tmp_path / "runs" and not run.is_symlink() and run.is_dir() for run in runs)
    assert resolve_checkpoint("latest", tmp_path) == runs[-1] / "nn" / "a.pth"
    assert list((tmp_path / "runs_all").iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "a\\b", "/tmp/x", ".hidden", "a b", "a\n", "x" * 81])
def test_no_name_leads_out_of_the_archive(tmp_path, name):
    with pytest.raises(ValueError, match=r"^experiment.name = .*: allowed are letters, digits and"):
        create_run(name, "train", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_names_of_a_checkpoint(tmp_path, monkeypatch, clock):
    monkeypatch.chdir(tmp_path)
    old = with_checkpoints(
        create_run("Box", "train", keep=1), "last_policy_ep_9.pth", "policy.pth", "last_policy_ep_20.pth"
    )
    new = with_checkpoints(create_run("Box", "train", keep=1), "last_policy_ep_9.pth", "last_policy_ep_10.pth")
    test = with_checkpoints(create_run("Box", "test"), "policy.pth")
    best, newest = old / "nn" / "policy.pth", new / "nn" / "last_policy_ep_10.pth"
    for name, path in {
        "latest": newest,
        "latest_train": newest,
        "runs/latest_train": newest,
        "latest_test": test / "nn" / "policy.pth",
        new.name: newest,
        f"runs/{new.name}/": newest,
        f"./runs_all/{new.name}/nn": newest,
        old.name: best,
        f"runs/{old.name}": best,  # no longer linked there
        f"runs/{old.name}/nn/last_policy_ep_9.pth": old / "nn" / "last_policy_ep_9.pth",
        f"{old.name}/nn/policy.pth": best,
        str(best.resolve()): best,
    }.items():
        assert resolve_checkpoint(name) == path.resolve(), name


def test_wrong_names_of_a_checkpoint(tmp_path, monkeypatch, clock):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="'latest': there is no training run in runs/ yet"):
        resolve_checkpoint("latest")
    with pytest.raises(ValueError, match="'BoxGrasping': no such file or run. Allowed"):
        resolve_checkpoint("BoxGrasping")
    run = create_run("BoxGrasping", "train")
    with pytest.raises(ValueError, match=rf"no \.pth file in .*{run.name} yet"):
        resolve_checkpoint("latest")
    for name, near in {"latest_trian": "latest_train", f"runs/{run.name[:-1]}": run.name, "lates": "latest"}.items():
        with pytest.raises(ValueError, match=f"did you mean '{near}'") as error:
            resolve_checkpoint(name)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="'latest_test': there is no test run in runs/ yet"):
        resolve_checkpoint("latest_test")


# --- Clocks that are wrong, folders that are not ours -----------------------------------------------------------------


def test_the_number_in_a_name_decides_not_the_clock(tmp_path, clock):
    names = [f"last_policy_ep_{epoch}_rew_{-epoch}.5.pth" for epoch in (12, 100, 9, 3)]
    run = with_checkpoints(create_run("Box", "train", root=tmp_path), *names)  # the newest by its number is the oldest
    for name in ("latest", run.name, str(run / "nn")):
        assert resolve_checkpoint(name, tmp_path, newest=True).name == "last_policy_ep_100_rew_-100.5.pth"
        assert resolve_checkpoint(name, tmp_path).name == "last_policy_ep_100_rew_-100.5.pth"
    with_checkpoints(run, "old.pth", "policy.pth")
    assert resolve_checkpoint("latest", tmp_path).name == "policy.pth", "of files without a number the newer"
    assert resolve_checkpoint("latest", tmp_path, newest=True).name == "last_policy_ep_100_rew_-100.5.pth"


@pytest.mark.parametrize(
    ("name", "epoch", "best"),
    [
        ("last_policy_ep_9_rew_1.000.pth", 9, "policy.pth"),
        ("last_policy_ep_10_rew_nan.pth", 10, "policy.pth"),
        ("last_step_3_box_ep_90_rew__-147.2_.pth", 90, "step_3_box.pth"),  # of rl_games
        ("last_tinyep12rew3.5.pth", 12, "tiny.pth"),  # of older ones
        ("last_policy_ep_7.pth", 7, "policy.pth"),
        ("policy.pth", -1, "policy.pth"),
        ("last_one.pth", -1, "last_one.pth"),
    ],
)
def test_the_iteration_in_a_name(tmp_path, name, epoch, best):
    (tmp_path / name).touch()
    assert workspace.newness(tmp_path / name)[0] == epoch
    assert workspace.best_beside(tmp_path / name) == tmp_path / best


def test_a_clock_that_was_set_back_unlinks_other_runs_than_the_new_one(tmp_path, clock):
    clock.time = 500
    old = [with_checkpoints(create_run("Box", "train", keep=3, root=tmp_path), "a.pth") for _ in range(3)]
    clock.time = 100
    new = with_checkpoints(create_run("Box", "train", keep=3, root=tmp_path), "a.pth")
    assert shown(tmp_path) == {old[1].name, old[2].name, new.name, "latest_train", "pinned"}
    assert resolve_checkpoint("latest", tmp_path).parent.parent == new
    newer = create_run("Box", "train", keep=1, root=tmp_path)
    assert shown(tmp_path) == {newer.name, "latest_train", "pinned"}


@pytest.mark.parametrize("error", [OSError(1, "no"), PermissionError(1, "no"), NotImplementedError("no")])
def test_without_links_runs_are_found_by_their_names(tmp_path, monkeypatch, clock, caplog, error):
    def symlink(*args, **kwargs):
        raise error

    monkeypatch.setattr(os, "symlink", symlink)
    first, second = (with_checkpoints(create_run("Box", "train", root=tmp_path), "a.pth") for _ in range(2))
    assert len(caplog.records) == 2, "one line for each run"
    assert f"runs/{second.name} is no link to this run" in caplog.text
    for name in ("latest", "latest_train", "runs/latest_train", second.name, f"runs/{second.name}"):
        assert resolve_checkpoint(name, tmp_path) == second / "nn" / "a.pth", name
    assert resolve_checkpoint(f"runs/{first.name}", tmp_path) == first / "nn" / "a.pth"
    workspace.link_or_copy(tmp_path / "b.pth", first / "nn" / "a.pth")
    assert (tmp_path / "b.pth").is_file()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_a_user_calls_latest_train_stays(tmp_path, clock, caplog, kind):
    mine = tmp_path / "runs" / "latest_train"
    if kind == "folder":
        (mine / "nn").mkdir(parents=True)
        (mine / "nn" / "policy.pth").touch()
        assert resolve_checkpoint("latest", tmp_path) == mine / "nn" / "policy.pth", "as long as there is no other"
    else:
        mine.parent.mkdir()
        mine.write_text("mine")
    run = with_checkpoints(create_run("Box", "train", root=tmp_path), "policy.pth")
    assert not mine.is_symlink() and (mine.is_dir() or mine.read_text() == "mine")
    assert "latest_train is no link to this run" in caplog.text and len(caplog.records) == 1
    assert resolve_checkpoint("latest", tmp_path) == run / "nn" / "policy.pth"
    if kind == "folder":
        assert resolve_checkpoint("runs/latest_train", tmp_path) == mine / "nn" / "policy.pth", "for it says so"


def test_names_of_any_length(tmp_path):
    long = tmp_path / ("x" * 251 + ".pth")
    long.touch()
    workspace.link(tmp_path / "nn.pth", long)
    (tmp_path / "runs").mkdir()
    workspace.link(tmp_path / "runs" / long.name, long)
    assert (tmp_path / "runs" / long.name).resolve() == long
    for name in ("x" * 300, "a\0b", "x/" * 3000):
        with pytest.raises(ValueError, match="no such file or run"):
            resolve_checkpoint(name, tmp_path)


def test_a_run_whose_config_cannot_be_written_is_none(tmp_path, monkeypatch):
    first = create_run("Box", "train", root=tmp_path, config="a: 1\n")
    assert (first / "config.yaml").read_text() == "a: 1\n"
    before = sorted(tmp_path.rglob("*"))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"config.yaml: not written, No space left on device$"):
        create_run("Box", "train", root=tmp_path, config="a: 1\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_json_has_no_numbers_that_are_none():
    text = workspace.to_json({"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": (-float("inf"), 2, True, "x")}})
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": None,
        "b": [1.5, None],
        "c": {"d": [None, 2, True, "x"]},
    }
