"""Objects in MuJoCo's models.

One that is another in each environment (objects.AnyOf) has a geom for every kind of shape among its choices. In an
environment that of its choice has the choice's size, and the others are specks at its centre of mass, which nothing
reaches: the kind of a geom cannot differ between environments, but size, place and mesh can.
"""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Iterator, List, Tuple

import mujoco
import numpy as np
import torch

from dexhand_gym.meshes import load_mesh
from dexhand_gym.objects import AnyOf, Object
from dexhand_gym.shapes import geom_size

GHOSTLY = 0.35
"""Opacity of a ghost."""
SPECK = 1e-4
"""Half the size of a geom that is not to be touched, m."""
CORNERS = 10 * SPECK * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32)
"""Of the mesh of a speck: a smaller one has no volume to MuJoCo."""
AWRY = np.array([1.0, 1e-3, 1e-3, 1e-3])
"""A place and an orientation of no use: where they are those of the body, the engine takes short cuts for ever."""
OF_GEOMS = ("geom_size", "geom_rbound", "geom_aabb", "geom_pos", "geom_quat")


FACES = ((0.85, 0.2, 0.2), (0.95, 0.6, 0.1), (0.95, 0.9, 0.2), (0.2, 0.65, 0.3), (0.2, 0.4, 0.85), (0.95, 0.95, 0.95))
"""Colours of the faces of a marked box: +x, -x, +y, -y, +z, -z."""
PLATE = 2e-4
"""Thickness of what marks a face, m."""


def add_object(spec: mujoco.MjSpec, thing: Object) -> None:
    """A body with its shapes, at rest on the ground or where it is fixed."""
    if isinstance(thing, AnyOf):
        add_any(spec, thing)
        return
    height, (x, y, z, w) = thing.rest()
    place = thing.position if thing.fixed else (0.0, 0.0, height)
    if thing.fixed:
        x, y, z, w = thing.quat
    body = spec.worldbody.add_body(name=thing.name, pos=place, quat=(w, x, y, z))
    if not thing.fixed:
        body.add_freejoint(name=thing.name)
    for name, share, shape in shapes(spec, thing):
        body.add_geom(name=name, mass=share * thing.mass, **surface(thing), **shape)
    add_marks(body, thing)


def add_ghost(spec: mujoco.MjSpec, thing: Object) -> None:
    """A body that is only seen, and that a viewer puts where it is to be seen."""
    body = spec.worldbody.add_body(name=thing.name, mocap=True)
    for name, _, shape in shapes(spec, thing):
        body.add_geom(name=name, rgba=(*thing.color, GHOSTLY), contype=0, conaffinity=0, **shape)
    add_marks(body, thing, GHOSTLY)


def add_marks(body: Any, thing: Object, opacity: float = 1.0) -> None:
    """Thin plates on the faces of a box that is marked; nothing touches them."""
    half = np.array(thing.extents) / 2
    for i, color in enumerate(FACES if thing.marks else ()):
        axis, side = i // 2, 1 - 2 * (i % 2)
        size, place = 0.9 * half, np.zeros(3)
        size[axis], place[axis] = PLATE / 2, side * half[axis]
        body.add_geom(
            name=f"{thing.name}.face{i}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=size,
            pos=place,
            rgba=(*color, opacity),
            mass=0,
            contype=0,
            conaffinity=0,
        )


def surface(thing: Object) -> Dict[str, Any]:
    """What add_geom() takes for each of an object's geoms."""
    return {
        "friction": (thing.friction, thing.spinning_friction, thing.rolling_friction),
        "priority": 1,  # else a contact would take the larger friction of the two, never less than the hand's
        "rgba": (*thing.color, 1.0),
        "contype": 2,
        "conaffinity": 3,
        "condim": thing.condim,
    }


def shapes(spec: mujoco.MjSpec, thing: Object) -> Iterator[Tuple[str, float, Dict[str, Any]]]:
    """The geoms of an object: name, share of the object's mass, and further arguments of add_geom()."""
    kind = getattr(mujoco.mjtGeom, f"mjGEOM_{thing.shape.upper()}")
    if thing.shape != "mesh":
        half = torch.tensor(thing.extents, dtype=torch.float64) / 2
        yield thing.name, 1.0, {"type": kind, "size": geom_size(thing.shape, half).tolist()}
        return
    hulls = load_mesh(thing.file, thing.first_size, thing.parts).hulls
    whole = sum(hull.volume for hull in hulls)
    for i, hull in enumerate(hulls):
        name = f"{thing.name}.{i}" if i else thing.name
        corners, faces = hull.vertices.astype(np.float32), hull.faces.astype(np.int32)
        spec.add_mesh(name=name, uservert=corners.flatten(), userface=faces.flatten())
        yield name, hull.volume / whole, {"type": kind, "meshname": name}


def kinds(thing: AnyOf) -> List[str]:
    """The kinds of shapes among the choices, in the order of their geoms."""
    return sorted({choice.shape for choice in thing.of})


def geom_name(thing: AnyOf, kind: str) -> str:
    return thing.name if kind == kinds(thing)[0] else f"{thing.name}.{kind}"


def add_any(spec: mujoco.MjSpec, thing: AnyOf) -> None:
    """A body with its shapes, which weighs what the first of its choices does."""
    _, (first, *_) = built_apart(replace(thing, of=thing.of[:1]))
    height, (x, y, z, w) = thing.rest()
    body = spec.worldbody.add_body(name=thing.name, pos=(0.0, 0.0, height), quat=(w, x, y, z))
    body.add_freejoint(name=thing.name)
    body.explicitinertial = True
    body.mass, body.inertia = first.mass[0], first.inertia
    body.ipos, body.iquat = first.ipos + AWRY[1:], first.iquat + AWRY
    for kind in kinds(thing):
        of_kind = [choice for choice in thing.of if choice.shape == kind]
        shape: Dict[str, Any] = {"type": getattr(mujoco.mjtGeom, f"mjGEOM_{kind.upper()}"), "size": (SPECK,) * 3}
        if kind == "mesh":
            shape["meshname"] = f"{thing.name}.speck"
            spec.add_mesh(name=shape["meshname"], uservert=CORNERS.flatten())
            for choice in of_kind:
                (hull,) = load_mesh(choice.file, choice.first_size).hulls
                # Without faces, for which the compiler computes the hull that collisions need: no geom refers to it.
                spec.add_mesh(name=f"{thing.name}.{choice.name}", uservert=hull.vertices.astype(np.float32).flatten())
        body.add_geom(name=geom_name(thing, kind), pos=AWRY[1:], quat=AWRY, **surface(of_kind[0]), **shape)


def built_apart(thing: AnyOf) -> Tuple[mujoco.MjModel, List[Any]]:
    """A model with each choice as a body of its own, and these bodies."""
    spec = mujoco.MjSpec()
    for i, choice in enumerate(thing.of):
        add_object(spec, replace(choice, name=f"choice{i}", fixed=False))
    model = spec.compile()
    return model, [model.body(f"choice{i}") for i in range(len(thing.of))]


def choices(thing: AnyOf, model: mujoco.MjModel) -> Dict[str, np.ndarray]:
    """For each choice [C, ...] the fields of the object's body and geoms in `model`, and size, mass, friction and moments
    of inertia per mass."""
    built, bodies = built_apart(thing)
    geoms = [model.geom(geom_name(thing, kind)).id for kind in kinds(thing)]
    table = {
        "size": np.array([max(choice.extents) for choice in thing.of]),
        "mass": np.array([body.mass[0] for body in bodies]),
        "friction": np.array([choice.friction for choice in thing.of]),
        "moments": np.array([body.inertia / body.mass[0] for body in bodies]),
        "body_ipos": np.array([[body.ipos] for body in bodies]),
        "body_iquat": np.array([[body.iquat] for body in bodies]),
    }
    for field in (*OF_GEOMS, "geom_dataid"):
        table[field] = np.repeat(getattr(model, field)[None, geoms], len(thing.of), 0)  # specks
    table["geom_pos"][:] = table["body_ipos"]
    colors = [[(*choice.color, 1.0)] * len(geoms) for choice in thing.of]
    table["geom_rgba"] = np.array(colors)
    for i, (choice, body) in enumerate(zip(thing.of, bodies)):
        kind = kinds(thing).index(choice.shape)
        for field in OF_GEOMS:
            table[field][i, kind] = getattr(built, field)[body.geomadr[0]]
        if choice.shape == "mesh":
            table["geom_dataid"][i, kind] = model.mesh(f"{thing.name}.{choice.name}").id
    return table
