"""Sets of objects to grasp: "train", "held_out", "wedges", one family of them ("train:sphere"), a folder of meshes, or
several of these ("train,wedges"). Loads neither torch nor an engine.

    for thing in load_set("held_out"):
        print(thing.name, family(thing), thing.extents, thing.mass)

A set's objects depend on its name alone; their meshes are in the cache folder.
"""

from __future__ import annotations

import colorsys
import math
import os
import re
import zlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np

from dexhand_gym.antipodal import friction_needed
from dexhand_gym.convex import SOLIDS, Random, stretched
from dexhand_gym.fields import check_name, shortened, unknown_name
from dexhand_gym.objects import Box, Capsule, Cylinder, Ellipsoid, Mesh, Object, Sphere
from dexhand_gym.resting import profiles

SETS: Dict[str, Dict[str, int]] = {
    "train": dict.fromkeys(("box", "sphere", "cylinder", "capsule", "ellipsoid", "superquadric", "hull"), 48),
    "held_out": {
        **dict.fromkeys(("box", "sphere", "cylinder", "capsule", "ellipsoid"), 32),
        **dict.fromkeys(("superquadric", "hull", "prism", "frustum"), 12),
    },
    "wedges": {"wedge": 48},
}
"""Name of a set -> family -> how many. Training sees no prism and no frustum. Wedges are hard to hold: few of their faces
are opposite each other."""
SEEDS = {"held_out": 0, "train": 1, "wedges": 2}
LARGEST = (0.03, 0.09)
"""Largest extent, m."""
LEAST = 0.02
"""Height in every resting pose, and every extent, at least, m."""
WIDEST = 0.07
"""What a hand from above must span at most, m: resting.grasp_width."""
MASS = (0.02, 0.4)
"""kg."""
DENSITY = (100.0, 3000.0)
"""kg/m3: from foam to stone."""
FRICTION = (0.5, 1.5)
ROLLS: Dict[str, Any] = {"condim": 6, "rolling_friction": 0.001}
"""Of what is round and would roll on forever otherwise: a ball of 6 cm, pushed at 5 cm/s, stops after 2 cm."""
GOLDEN = (5**0.5 - 1) / 2
SUFFIXES = (".obj", ".stl", ".ply")


def load_set(names: str, scale: float = 1.0) -> Tuple[Object, ...]:
    """The objects of a set by its name, or of one family of it (`train:sphere`), or those of the meshes in a folder,
    whose units are metres, or `scale` metres: 0.001 for millimetres. Or those of several: `train,wedges`,
    `train,path/to/folder`. A folder's objects have the names of their files (with _ for what is no letter or digit of
    ASCII), and mass and friction that Mesh has. Raises ValueError, one line."""
    each = parts(names)
    if scale != 1.0 and all(map(_is_set, each)):
        raise ValueError(
            f"task.mesh_unit = {scale}: allowed is 1 for the set {names!r}, which has its size (--task.mesh-unit 1)"
        )
    things = tuple(thing for part in each for thing in _of_part(part, scale))
    known = [thing.name for thing in things]
    twice = [name for name in known if known.count(name) > 1]
    if twice:
        raise ValueError(
            f"task.objects = {shortened(repr(names))}: there are two of the name {twice[0]!r}, allowed are sets whose "
            "objects have other names"
        )
    return things


def parts(names: str) -> Tuple[str, ...]:
    """The sets and folders whose objects are meant. A folder that stands alone may have a comma in its path."""
    return (names,) if os.path.isdir(names) else tuple(names.split(","))


def with_whole_paths(names: str) -> str:
    """The same sets and folders, by names that mean them from everywhere. Raises ValueError, one line."""
    whole = [part if _is_set(part) or not os.path.isdir(part) else os.path.abspath(part) for part in parts(names)]
    for part in whole:
        if len(whole) > 1 and "," in part:
            raise ValueError(
                f"task.objects: folder {shortened(repr(part))}: allowed beside others is one without a comma"
            )
    return ",".join(whole)


def _is_set(part: str) -> bool:
    return part.partition(":")[0] in SETS


def _of_part(part: str, scale: float) -> Tuple[Object, ...]:
    if not _is_set(part):
        return _in_folder(part, scale)
    name, _, kind = part.partition(":")
    if kind or name != part:
        check_name(f"task.objects = {part!r}: family", kind, SETS[name])
    things = [thing for each in SETS[name] if kind in ("", each) for thing in _named(name, each)]
    return tuple(replace(thing) for thing in things)  # to be changed by their owner


def family(thing: Object) -> str:
    """The family of a set's object: its name without the number."""
    return re.sub(r"_\d+$", "", thing.name)


@lru_cache(maxsize=None)
def _named(name: str, kind: str) -> Tuple[Object, ...]:
    return tuple(drawn(name, kind, i) for i in range(SETS[name][kind]))


def drawn(name: str, kind: str, number: int) -> Object:
    """One object of a set's family: its largest extent, then the first form that fits a hand. The largest extents of a
    family are spread evenly, however many there are: each is a golden section on."""
    seeds = [SEEDS[name], zlib.crc32(kind.encode())]
    random, share = Random([*seeds, number]), (Random(seeds).uniform() + number * GOLDEN) % 1
    most = WIDEST if kind == "sphere" else LARGEST[1]
    largest = round(LARGEST[0] + share * (most - LARGEST[0]), 4)
    thing = shaped(kind, largest, random)
    # The other families are older than this measure: what policies have been trained and measured with stays as it is.
    while not (fits(thing) and (kind != "wedge" or friction_needed(thing).max() <= FRICTION[0])):
        thing = shaped(kind, largest, random)
    lightest, heaviest = _masses(thing)
    return replace(
        thing,
        name=f"{kind}_{number:02d}",
        mass=round(float(np.exp(random.uniform(math.log(lightest), math.log(heaviest)))), 4),
        friction=round(random.uniform(*FRICTION), 2),
        color=colorsys.hsv_to_rgb(random.uniform(), 0.55, 0.9),
    )


def shaped(kind: str, largest: float, random: Random) -> Object:
    """An object of a family, of this largest extent, m, and random form."""
    if kind == "sphere":
        return Sphere(size=largest, **ROLLS)
    other, third = (_length(random, LEAST, largest) for _ in range(2))
    if kind == "capsule":
        return Capsule(size=(other, largest), **ROLLS)
    if kind == "cylinder":
        return Cylinder(size=(other, largest) if random.uniform() < 0.5 else (largest, other), **ROLLS)
    x, y, z = random.permutation((largest, other, third)).tolist()
    if kind in SOLIDS:
        return Mesh.of_vertices(stretched(SOLIDS[kind](random), (x, y, z)))
    return Box(size=(x, y, z)) if kind == "box" else Ellipsoid(size=(x, y, z), **ROLLS)


def _length(random: Random, least: float, most: float) -> float:
    return round(random.uniform(least, most), 4)


def fits(thing: Object) -> bool:
    """Whether a hand can lift it from the ground, however it lies there, and its mass can be that of a real thing."""
    height, width = profiles(thing).T
    lightest, heaviest = _masses(thing)
    return (
        LARGEST[0] <= max(thing.extents) <= LARGEST[1] + 1e-6
        and min(height) >= LEAST
        and max(width) <= WIDEST
        and lightest <= heaviest
    )


def _masses(thing: Object) -> Tuple[float, float]:
    """The least and the largest mass it may have, kg."""
    space = volume(thing)
    return max(MASS[0], DENSITY[0] * space), min(MASS[1], DENSITY[1] * space)


def volume(thing: Object) -> float:
    """m3."""
    x, y, z = thing.extents
    if thing.shape == "mesh":
        from dexhand_gym.meshes import load_mesh

        return sum(hull.volume for hull in load_mesh(thing.file, thing.first_size, thing.parts).hulls)
    if thing.shape == "capsule":
        return math.pi * x**2 * ((z - x) / 4 + x / 6)
    return x * y * z * {"box": 1.0, "cylinder": math.pi / 4}.get(thing.shape, math.pi / 6)


def _in_folder(folder: str, scale: float) -> Tuple[Object, ...]:
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale = {scale}: allowed is a number more than 0, the metres in a unit of the files")
    try:
        files = sorted(Path(folder, name) for name in os.listdir(folder) if is_mesh(name))
    except NotADirectoryError:
        raise ValueError(f"task.objects = {shortened(repr(folder))} is a file: allowed is its folder") from None
    except (OSError, ValueError):
        unknown = unknown_name("task.objects", folder, SETS)
        raise ValueError(
            f"{unknown}, a folder of {', '.join(SUFFIXES)} files, or several with a comma between them"
        ) from None
    where = f"task.objects = {shortened(repr(folder))}"
    if not files:
        raise ValueError(f"{where}: the folder has no mesh, allowed are {', '.join(SUFFIXES)} files")
    things = tuple(_from_file(where, file, scale) for file in files)
    names = [thing.name for thing in things]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        two = " and ".join(file.name for file, name in zip(files, names) if name == twice[0])
        raise ValueError(
            f"{where}: {shortened(two)} are both {twice[0]!r}, allowed are names that differ in letters, digits, . _ -"
        )
    return things


def is_mesh(name: str) -> bool:
    """Whether a file of this name is meant: not a hidden one, as an archive of a Mac has them beside each."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _from_file(where: str, file: Path, scale: float) -> Object:
    from dexhand_gym.meshes import check_solid, read

    try:
        vertices, faces = read(file)
        check_solid(f"mesh {file.name!r}", vertices, faces)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    size = float(np.ptp(vertices, axis=0).max()) * scale
    if not 1e-3 <= size <= 1:
        hint = (
            "; is it in millimetres? Then its unit (task.mesh_unit, scale) is 0.001"
            if size > 1
            else "; its unit (task.mesh_unit, scale) is larger, perhaps"
        )
        raise ValueError(f"{where}: mesh {file.name!r} spans {size:g} m, allowed is 0.001 to 1 m{hint}")
    letters = re.sub(r"\W", "_", file.stem, flags=re.ASCII)
    name = letters if letters[0].isalpha() else f"mesh_{letters}"  # what a name begins with
    return Mesh(name=name[:64], file=str(file), size=size)
