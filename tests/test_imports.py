"""Imports point one way."""

import ast
from pathlib import Path

import pytest
from graphlib import CycleError, TopologicalSorter

ROOT = Path(__file__).parent.parent


def modules() -> dict:
    """Name -> file."""
    found = {name: ROOT / f"{name}.py" for name in ("configs", "train_ppo")}
    for file in [*ROOT.glob("dexhand_gym/**/*.py"), *ROOT.glob("ppo/*.py")]:
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(name: str, file: Path) -> set:
    """All that a module imports, at whatever moment. Of `from package import thing` both may be modules."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names - {name}


def test_no_module_imports_itself_by_way_of_others():
    known = modules()
    assert len(known) > 50
    graph = {name: imported(name, file) & set(known) for name, file in known.items()}
    assert "dexhand_gym.watch" in graph["dexhand_gym.envs.vec_env"] and "dexhand_gym.fields" in graph["ppo.ppo"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
