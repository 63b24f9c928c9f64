"""Where compiled kernels and other things computed once are kept."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from dexhand_gym.caches import cache_folder, keep_compiled

NAME = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(NAME, "")  # so that it is put back afterwards
    monkeypatch.delenv(NAME)


def test_caches_are_where_users_expect_them(monkeypatch, tmp_path):
    assert cache_folder("torchinductor") == tmp_path / ".cache" / "torchinductor"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "scratch"))
    assert cache_folder("torchinductor") == tmp_path / "scratch" / "torchinductor"
    keep_compiled()
    assert os.environ[NAME] == str(tmp_path / "scratch" / "torchinductor")
    assert Path(os.environ[NAME]).is_dir()


def test_the_folder_that_a_user_names_stays(monkeypatch):
    monkeypatch.setenv(NAME, "/somewhere/else")
    keep_compiled()
    assert os.environ[NAME] == "/somewhere/else"


def test_without_a_folder_to_write_to_torchs_own_default_stays(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # not even root can make a folder in it
    keep_compiled()
    assert NAME not in os.environ


def test_a_relative_folder_is_none(monkeypatch, tmp_path):
    """As the XDG specification has it; else every working directory would get a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", "rel/ative")
    assert cache_folder("torchinductor") == tmp_path / ".cache" / "torchinductor"


def test_what_is_not_kept_is_told(tmp_path, monkeypatch, capsys):
    """A folder that cannot be written costs the time at every start, so it is said; where it can, that it costs it once."""
    from dexhand_gym import meshes

    monkeypatch.setattr(meshes, "PATIENCE", 0.0)
    (tmp_path / "file").write_text("in the way of a folder")
    for place, message in (
        ("file", "at every start, for .*meshes is not written, "),
        ("folder", "once; they are kept in"),
    ):
        monkeypatch.setattr(meshes, "_computed", -1e-9)
        monkeypatch.setattr(meshes, "cache", lambda place=place: tmp_path / place / "meshes")
        meshes.kept([np.zeros(3)], lambda: [np.ones(2)], lambda arrays: True)
        assert re.search(f"shapes are being computed, {message}", capsys.readouterr().err)
