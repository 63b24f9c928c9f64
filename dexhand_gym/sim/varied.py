"""What differs between environments, as fields of MuJoCo's models."""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any, Callable, Dict, Optional, Sequence, Set, Tuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from dexhand_gym.fields import check_name
from dexhand_gym.objects import AnyOf, Object
from dexhand_gym.shapes import bounding_radius, geom_size, inertia
from dexhand_gym.sim.base import PROPERTIES, Scene, SimConfig, Variation, check_properties, overwrite
from dexhand_gym.sim.bodies import choices

SOLID = ("geom_size", "geom_rbound", "geom_aabb")
HAND: Dict[str, Tuple[Tuple[str, Any], ...]] = {
    "stiffness": (("actuator_gainprm", 0), ("actuator_biasprm", 1)),
    "damping": (("actuator_biasprm", 2),),
    "effort": (("actuator_forcerange", ...),),
    "joint_damping": (("dof_damping", ...),),
    "armature": (("dof_armature", ...),),
    "mass": (("body_mass", ...), ("body_inertia", ...)),
}
"""A property of the hand -> the fields of the model that are multiplied by it, and which column of theirs."""
KINDS = ("actuator", "body", "dof", "geom", "jnt")
"""What the names of the model's fields that may vary begin with."""


class Varied:
    """The properties of the free objects in every environment, and the model's fields that follow from them.
    `expand(name)` gives an engine's memory [N, ...] of a field, or of "weights", the forces on bodies [N, bodies, 3]."""

    def __init__(
        self,
        scene: Scene,
        cfg: SimConfig,
        model: mujoco.MjModel,
        num_envs: int,
        device: torch.device,
        expand: Callable[[str], Tensor],
    ):
        self.scene, self.things, self.model, self.num_envs, self.expand = scene, scene.free, model, num_envs, expand
        self.of_some = self.pushed = False
        self.noted: Set[str] = set()
        bodies = [model.body(thing.name) for thing in self.things]
        self.geoms = {
            thing.name: slice(*span(body.geomadr[0], body.geomnum[0])) for thing, body in zip(self.things, bodies)
        }
        self.rows = {
            "body": slice(*span(bodies[0].id, len(bodies))) if bodies else slice(0),
            "dof": slice(*span(bodies[0].dofadr[0], 6 * len(bodies))) if bodies else slice(0),
            "geom": slice(int(bodies[0].geomadr[0]), self.geoms[self.things[-1].name].stop) if bodies else slice(0),
        }
        """Of the free objects, which stand one behind the other, whatever a task has added around them."""
        self.solid = {
            name: {field: torch.tensor(getattr(model, field)[rows], device=device) for field in SOLID}
            for name, rows in self.geoms.items()
        }
        self.moments = {body.name: torch.tensor(body.inertia / body.mass[0], device=device) for body in bodies}
        """Shapes as the model has them, and moments of inertia per mass; on the device, so that no restart copies them."""
        self.rolling = {
            thing.name: torch.tensor(model.geom(thing.name).friction[1:], dtype=torch.float64, device=device)
            for thing in self.things
        }
        """Coefficients of friction against turning and rolling [2]."""
        names = [name for name in dir(model) if name.split("_")[0] in KINDS]
        arrays = {name: getattr(model, name) for name in names}
        self.shapes: Dict[str, Tuple[int, ...]] = {
            name: array.shape
            for name, array in arrays.items()
            if isinstance(array, np.ndarray) and (array.dtype.kind == "f" or name == "geom_dataid")
        }
        """The model's fields that may vary: numbers of bodies, geoms, joints, dofs or actuators."""
        self.fields: Dict[str, Tensor] = {}
        self.varied: Dict[str, Tuple[int, Optional[int]]] = {}
        """First row that varies of each, and the one behind the last; None: behind all."""
        self.ratios = {
            thing.name: torch.tensor(thing.extents, dtype=torch.float64, device=device) / max(thing.extents)
            for thing in self.things
        }
        self.values: Dict[str, Tensor] = {
            f"{thing.name}.{name}": torch.full((num_envs,), value, dtype=torch.float64, device=device)
            for thing in self.things
            for name, value in self.nominal(thing).items()
        }
        self.choices = {
            thing.name: {name: torch.tensor(rows, device=device) for name, rows in choices(thing, model).items()}
            for thing in self.things
            if isinstance(thing, AnyOf)
        }
        """Of objects that are another one in each environment: what each choice is [C, ...]."""
        self.values.update(
            {f"{name}.which": torch.zeros(num_envs, dtype=torch.float64, device=device) for name in self.choices}
        )
        whole = {"gravity": cfg.gravity, **{f"{thing.name}.center": thing.center for thing in self.things}}
        for name, value in whole.items():
            self.values[name] = torch.tensor(value, dtype=torch.float64, device=device).repeat(num_envs, 1)
        self.middle = {
            thing.name: torch.tensor(body.ipos - thing.center, device=device)
            for thing, body in zip(self.things, bodies)
        }
        """Centres of mass as they are before `center` moves them."""
        hand = scene.hand
        count = {"dof": len(hand.dof_names), "actuator": len(hand.dof_names), "body": len(hand.body_names)}
        names = ["dof_frictionloss", *(field for fields in HAND.values() for field, _ in fields)]
        self.hand = {name: slice(*span(name.startswith("body"), count[name.split("_")[0]])) for name in names}
        """The hand's rows of these fields: its bodies follow the world, its dofs and drives are the first."""
        self.as_built = {
            name: torch.tensor(getattr(model, name)[rows], device=device) for name, rows in self.hand.items()
        }
        geoms = {finger.contact: model.body(finger.contact) for finger in hand.fingers}
        self.skins = {name: slice(*span(body.geomadr[0], body.geomnum[0])) for name, body in geoms.items()}
        self.ground = slice(*span(model.body(0).geomadr[0], model.body(0).geomnum[0]))
        if self.choices:
            self.apply({name: self.values[name] for name in self.values if name.endswith(".which")})
            self.noted.clear()

    def nominal(self, thing: Object) -> Dict[str, float]:
        """The object's properties as the model has them: a task may have edited it."""
        mass, friction = self.model.body(thing.name).mass[0], self.model.geom(thing.name).friction[0]
        return {"size": max(thing.extents), "mass": float(mass), "friction": float(friction), "inertia": 1.0}

    def apply(self, variation: Variation, mask: Optional[Tensor] = None) -> None:
        """See Simulator.vary. torch.compile can fuse it, once a call has given memory to all that it writes."""
        check_properties(variation, self.scene, self.num_envs)
        own = [name for name in variation if name in self.values or "." in name]
        whole = {name: self.checked(name, values) for name, values in variation.items() if name not in own}
        self.of_some = self.of_some or mask is not None
        for name in sorted(own, key=lambda name: not name.endswith(".which")):  # which says what the others were
            if name in self.values:
                self.take(name, torch.as_tensor(variation[name]), mask)
        for name, values in (self.of_objects() if any(name in self.values for name in own) else {}).items():
            self.write(name, values, self.rows["body" if name == "weights" else name.split("_")[0]], mask)
        for name, values in whole.items():
            self.write(name, values, slice(None), mask)
        if "body_mass" in whole:  # then it weighs accordingly
            masses = whole["body_mass"][:, self.rows["body"]]
            for i, thing in enumerate(self.things):
                self.take(f"{thing.name}.mass", masses[:, i], mask)
            self.write("weights", self.weights(), self.rows["body"], mask)
        for name, values in variation.items():
            if name not in self.values and "." in name:
                self.of_hand(name, torch.as_tensor(values), mask)

    def of_hand(self, name: str, values: Tensor, mask: Optional[Tensor]) -> None:
        """Writes the fields of a property of hand or ground."""
        thing, _, what = name.partition(".")
        if what == "friction":
            surfaces = self.skins.values() if thing == "hand" else [self.ground]
            for rows, mine in zip(surfaces, values.view(self.num_envs, -1).unbind(1)):
                self.write("geom_friction", mine.view(-1, 1).expand(-1, rows.stop - rows.start), rows, mask, 0)
        elif what == "joint_friction":
            built = self.as_built["dof_frictionloss"]
            self.write("dof_frictionloss", built + values.to(built), self.hand["dof_damping"], mask)
        else:
            for field, column in HAND[what]:
                built = self.as_built[field][..., column] if self.as_built[field].dim() > 1 else self.as_built[field]
                factor = values.to(built).view(*values.shape, *[1] * (built.dim() - 1))
                self.write(field, built * factor, self.hand[field], mask, column)

    def push(self, pull: Tensor, wrench: Tensor) -> None:
        """See Simulator.push; `pull` [N, bodies, 6] is the engine's memory of forces and torques on bodies."""
        self.pushed = True
        mine = pull[:, self.rows["body"]]
        mine[..., :3] = self.weights() + wrench[..., :3]
        mine[..., 3:] = wrench[..., 3:]

    def weights(self) -> Tensor:
        """Of the objects [N, objects, 3], N."""
        masses = [self.values[f"{thing.name}.mass"].unsqueeze(1) for thing in self.things]
        return side_by_side(masses).unsqueeze(-1) * self.values["gravity"].unsqueeze(1)

    def take(self, name: str, values: Tensor, mask: Optional[Tensor]) -> None:
        """Notes a property of an object [N, ...], or gravity."""
        thing, _, what = name.partition(".")
        for more in ("size", "mass", "friction") if what == "which" else ():
            overwrite(self.values[f"{thing}.{more}"], self.choices[thing][more][values.long()], mask)
        parts = self.geoms[thing].stop - self.geoms[thing].start if what == "size" else 1
        if parts > 1:
            raise ValueError(f"variation {name!r}: its body has {parts} geoms, allowed is the one of its shape")
        if name not in self.noted:
            self.noted.add(name)
        overwrite(self.values[name], values, mask)

    def write(self, name: str, values: Tensor, rows: slice, mask: Optional[Tensor], column: Any = ...) -> None:
        """Rows [N, rows, ...] of a field, or a column of them [N, rows]."""
        if name not in self.fields:
            self.fields[name], self.varied[name] = self.expand(name), (rows.start or 0, rows.stop)
        first, behind = self.varied[name]
        both = min(first, rows.start or 0), None if None in (behind, rows.stop) else max(behind, rows.stop)
        if both != (first, behind):
            self.varied[name] = both
        mine = self.fields[name][:, rows]
        overwrite(mine if column is ... else mine[..., column], values, mask)

    def memory(self) -> Dict[str, Tensor]:
        """What varies, and what later variations and pushes start from."""
        fields = {name: self.fields[name][:, slice(*rows)] for name, rows in self.varied.items()}
        always = {name for name in self.values if name.partition(".")[2] in ("size", "mass", "friction")}
        values = {name: x for name, x in self.values.items() if name in self.noted | always}
        return {**fields, **(values if self.of_some or self.pushed or self.noted - always else {})}

    def checked(self, name: str, values: Any) -> Tensor:
        """Values [N, ...] for a whole field of the model. Raises ValueError, one line, if they do not fit it."""
        check_name("variation", name, self.shapes)
        shape = (self.num_envs, *self.shapes[name])
        if not isinstance(values, Tensor) or tuple(values.shape) != shape:
            found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"variation {name!r}: shape {found}, allowed is a tensor {shape}")
        return values

    def of_objects(self) -> Dict[str, Tensor]:
        """All objects' fields, without those that no step reads (places at qpos0, averages over the model) and those
        that do not change (the tree of bounding boxes of a mesh of several parts)."""
        of_each = [self.of_object(thing) for thing in self.things]
        return {name: side_by_side([fields[name] for fields in of_each]) for name in (of_each[0] if of_each else ())}

    def of_object(self, thing: Object) -> Dict[str, Tensor]:
        """The fields of one object, each [N, bodies or geoms, ...]."""
        size, mass, friction, factor, center = (self.values[f"{thing.name}.{name}"] for name in PROPERTIES)
        more: Dict[str, Tensor] = {}
        if isinstance(thing, AnyOf):
            more, moments = self.of_choice(thing, mass)
            solid = {name: more.pop(name) for name in SOLID}
        elif thing.shape == "mesh" or self.geoms[thing.name].stop - self.geoms[thing.name].start > 1:
            solid, moments = self.of_model(thing, mass)
        else:
            half = size.unsqueeze(1) * self.ratios[thing.name] / 2
            moments = inertia(thing.shape, mass, half)
            solid = {
                "geom_size": geom_size(thing.shape, half).unsqueeze(1),
                "geom_rbound": bounding_radius(thing.shape, half).unsqueeze(1),
                "geom_aabb": torch.cat((torch.zeros_like(half), half), 1).unsqueeze(1),
            }
        moments = moments * factor.unsqueeze(1)
        rolling = self.rolling[thing.name].expand(self.num_envs, -1)
        geoms = solid["geom_rbound"].shape[1]
        inverse = torch.stack((1 / mass, (1 / moments).mean(1)), 1)
        return {
            **solid,
            "geom_friction": torch.cat((friction.unsqueeze(1), rolling), 1).unsqueeze(1).expand(-1, geoms, -1),
            "body_mass": mass.unsqueeze(1),
            "body_subtreemass": mass.unsqueeze(1),
            "body_inertia": moments.unsqueeze(1),
            "body_invweight0": inverse.unsqueeze(1),
            "dof_M0": torch.cat((mass.unsqueeze(1).expand(-1, 3), moments), 1),
            "dof_invweight0": inverse.repeat_interleave(3, 1),
            "weights": (mass.unsqueeze(1) * self.values["gravity"]).unsqueeze(1),
            **({"body_ipos": (self.middle[thing.name] + center).unsqueeze(1)} if self.off_center else {}),
            **more,
        }

    def of_choice(self, thing: AnyOf, mass: Tensor) -> Tuple[Dict[str, Tensor], Tensor]:
        """Shape and centre of what this object is in each environment [N, ...], and its moments of inertia [N, 3]."""
        which = self.values[f"{thing.name}.which"].long()
        fields = {name: table for name, table in self.choices[thing.name].items() if "_" in name}
        rows = {name: table[which] for name, table in fields.items() if name != "geom_rgba"}
        return rows, self.choices[thing.name]["moments"][which] * mass.unsqueeze(1)

    @property
    def off_center(self) -> bool:
        """Whether a centre of mass has been moved."""
        return any(name.endswith(".center") for name in self.noted)

    def of_model(self, thing: Object, mass: Tensor) -> Tuple[Dict[str, Tensor], Tensor]:
        """Shapes [N, geoms, ...] as the model has them, and moments [N, 3] proportional to the mass."""
        solid = {name: x.expand(len(mass), *x.shape) for name, x in self.solid[thing.name].items()}
        return solid, self.moments[thing.name] * mass.unsqueeze(1)


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """[N, rows, ...] each -> [N, all their rows, ...]; one alone needs no copy."""
    return torch.cat(list(parts), 1) if len(parts) > 1 else parts[0]


def span(first: Any, count: Any) -> Tuple[int, int]:
    """First and behind last of so many rows."""
    return int(first), int(first) + int(count)
