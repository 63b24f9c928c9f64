"""Draws architecture.png: which part of the package imports which when it is loaded, as the source says. Arrows that
follow from others are left out.

python docs/architecture.py
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import Dict, Iterator, Set

ROOT = Path(__file__).resolve().parent.parent
PLACES = {
    "train_ppo": (1.0, 3.0, "train_ppo.py, configs.py\nthe command"),
    "ppo": (0.0, 2.0, "ppo/\nthe learner"),
    "envs": (1.0, 2.0, "dexhand_gym/envs/\ntasks: actions, quantities,\nrewards, endings, starts"),
    "watch": (2.0, 2.0, "dexhand_gym/watch/\nwindow, page, videos"),
    "hands": (0.4, 1.0, "dexhand_gym/hands/\nan MJCF and a table"),
    "sim": (1.6, 1.0, "dexhand_gym/sim/\nMuJoCo, MuJoCo Warp,\nIsaac Gym"),
    "objects": (1.0, 0.1, "dexhand_gym/objects.py, ...\nshapes, meshes, sets"),
    "export": (3.0, 3.0, "export, deploy, replay"),
    "dexhand_deploy": (3.0, 2.0, "dexhand_deploy/\nNumPy alone: policy,\nobserver, bodies"),
}
"""Part -> column, row and label."""


def part_of(module: str) -> str:
    """The part that a module belongs to, or nothing."""
    names = module.split(".")
    if names[0] in ("train_ppo", "configs"):
        return "train_ppo"
    if names[0] in ("ppo", "dexhand_deploy"):
        return names[0]
    if names[0] != "dexhand_gym" or len(names) < 2:
        return ""
    if names[1] in PLACES:
        return names[1]
    if names[1] in ("deploy", "replay"):
        return "export"
    return "objects" if names[1] in ("shapes", "meshes", "object_sets", "shape_tables", "convex", "resting") else ""


def at_the_top(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that run when a module is loaded, whatever they depend on."""
    for node in tree.body:
        yield from (*node.body, *node.orelse) if isinstance(node, ast.If) else (node,)


def imports() -> Dict[str, Set[str]]:
    """Part -> the parts that its modules import when they are loaded."""
    found: Dict[str, Set[str]] = {name: set() for name in PLACES}
    folders = (ROOT / top for top in ("ppo", "dexhand_gym", "dexhand_deploy"))
    for file in (*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))):
        here = part_of(".".join(file.relative_to(ROOT).with_suffix("").parts))
        for node in at_the_top(ast.parse(file.read_text(encoding="utf-8"))) if here else ():
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found[here] |= {part_of(name) for name in names} - {"", here}
    return found


def drawn(found: Dict[str, Set[str]]) -> Dict[str, Set[str]]:
    """Without those that follow from two others, neither of which is mutual."""
    return {
        name: {x for x in others if not any({name, x} & found[y] == {x} and y not in found[x] for y in others - {x})}
        for name, others in found.items()
    }


def draw(file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 5.6))
    boxes = {}
    for name, (column, row, label) in PLACES.items():
        look = {"boxstyle": "round,pad=0.5", "facecolor": "#eef1fb", "edgecolor": "#334"}
        text = axes.text(3.0 * column, 1.9 * row, label, ha="center", va="center", fontsize=9, bbox=look)
        boxes[name] = text
    for name, others in drawn(imports()).items():
        for other in others:
            ends = {"patchA": boxes[name].get_bbox_patch(), "patchB": boxes[other].get_bbox_patch()}
            arrow = {"arrowstyle": "-|>", "color": "#44549a", "shrinkA": 1, "shrinkB": 1, "lw": 1.4, **ends}
            axes.annotate("", boxes[other].get_position(), boxes[name].get_position(), arrowprops=arrow)
    axes.set(xlim=(-1.4, 10.4), ylim=(-0.3, 6.4))
    axes.axis("off")
    figure.savefig(file, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    draw(Path(__file__).with_suffix(".png"))
