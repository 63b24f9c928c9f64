"""The pages of the documentation: their code runs, their tables are the code's, their messages are printed, the site can
be built."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dexhand_gym import export

ROOT = Path(__file__).resolve().parent.parent
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))}
CODE = {name: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for name, text in PAGES.items()}
SOURCES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "benchmarks", "examples", "ppo", "dexhand_gym")
SOURCES += ("dexhand_deploy", "tests")
"""What pages link to."""
ELSEWHERE = {"sweeps.md": "asks W&B's server"}
ENTRIES = re.findall(r"^### (error: .+?)\n\n```bash\n(.+?)```", PAGES["troubleshooting.md"], re.DOTALL | re.MULTILINE)


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name, blocks in CODE.items() if blocks and name not in ELSEWHERE])
def test_the_code_of_a_page_runs(page, tmp_path):
    """All blocks of a page, one after the other, in a folder with the examples and an exported policy."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    if "exported" in "".join(CODE[page]):
        assert export.main(["--checkpoint", "pretrained", "--out", str(tmp_path / "exported")]) == 0
    where = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(CODE[page])],
        cwd=tmp_path,
        env=where,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_tables_are_those_of_the_code():
    done = subprocess.run([sys.executable, "docs/tables.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_picture_of_the_architecture():
    """What the page says of it: the learner knows no hands, what runs on a robot imports nothing of the rest, and only
    command and export know both sides."""
    found = module(ROOT / "docs" / "architecture.py").imports()
    assert found["ppo"] == {"envs"} and found["dexhand_deploy"] == set()
    assert "ppo" not in set().union(*(found[name] for name in ("envs", "sim", "hands", "objects", "watch")))
    assert "envs" not in found["sim"] | found["hands"] | found["objects"]


@pytest.mark.slow
@pytest.mark.parametrize(("message", "command"), ENTRIES, ids=[message[7:40] for message, _ in ENTRIES])
def test_a_message_is_printed_as_the_page_has_it(message, command, tmp_path):
    command = command.replace("python train_ppo.py", f"{sys.executable} {ROOT / 'train_ppo.py'}")
    command = command.replace("dexhand_gym/pretrained", str(ROOT / "dexhand_gym" / "pretrained"))
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert re.match(".*".join(map(re.escape, message.split("..."))), line), line
    assert "Traceback" not in done.stderr


def test_every_entry_has_a_command():
    assert len(ENTRIES) == PAGES["troubleshooting.md"].count("### ") > 8


def build(root, more=""):
    """What `make docs` does in a folder."""
    (line,) = re.findall(r"\$\(BIN\)/(mkdocs build.*?)(?:  #.*)?\n", (ROOT / "Makefile").read_text(encoding="utf-8"))
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    command = f"{sys.executable} -m {line} {more}".split()
    return subprocess.run(command, cwd=root, env=quiet, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_broken_link_ends_make_docs(tmp_path):
    for name in ("mkdocs.yml", "docs", *SOURCES):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    with open(tmp_path / "docs" / "faq.md", "a", encoding="utf-8") as page:
        page.write("\n[nowhere](nothing.md)\n")
    done = build(tmp_path)
    assert done.returncode != 0 and "'nothing.md'" in done.stderr


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    done = build(ROOT, f"--site-dir {tmp_path / 'site'}")
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    reference = (tmp_path / "site" / "docs" / "api" / "index.html").read_text(encoding="utf-8")
    assert "Restores a state from get_state()" in reference.replace("<code>", "").replace("</code>", "")
    front = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    looks = re.findall(r'(?:href|src)="(assets/[^"#]*)"', front)
    assert any(".css" in link for link in looks) and any(".js" in link for link in looks)
    for link in (*looks, *re.findall(r'href="(docs/[^"#]*)"', front)):
        target = tmp_path / "site" / link
        assert (target / "index.html").is_file() or target.is_file(), link
    kept = {path.name for path in (tmp_path / "site").iterdir()}
    assert not kept & {"runs", "runs_all", ".git", "setup.cfg", "train_ppo.py"}


def test_every_page_is_one_click_from_the_front_page():
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)[#)]", front))
    assert set(PAGES) - linked == set()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "<!-- table: actions -->\n\nword\n\n<!-- table: dofs -->\n<!-- end -->",
            "table 'actions' has no <!-- end -->",
        ),
        ("<!-- table: actions -->\n\nword", "table 'actions' has no <!-- end -->"),
        ("<!--table: akctions-->\n<!-- end -->", "unknown name 'akctions'; did you mean 'actions'?"),
    ],
)
def test_marks_that_do_not_belong_together_lose_nothing(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        module(ROOT / "docs" / "tables.py").filled(text)
