"""What differs between environments, as fields of MuJoCo's models."""

# mujoco fills its namespace from compiled modules, which the type checker does not see:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Dict, Optional, Tuple

import mujoco
import torch
from torch import Tensor

from dexhand_gym.fields import check_name
from dexhand_gym.objects import Object
from dexhand_gym.shapes import bounding_radius, geom_size, inertia
from dexhand_gym.sim.base import PROPERTIES, Scene, SimConfig, Variation, check_properties

SOLID = ("geom_size", "geom_rbound", "geom_aabb")


class Varied:
    """The properties of the free objects in every environment, and the model's fields that follow from them."""

    def __init__(self, scene: Scene, cfg: SimConfig, model: mujoco.MjModel, num_envs: int, device: torch.device):
        self.scene, self.things, self.model = scene, scene.free, model
        self.num_envs, self.of_some = num_envs, False
        self.gravity = torch.tensor(cfg.gravity, dtype=torch.float64, device=device)
        self.ratios = {
            thing.name: torch.tensor(thing.extents, dtype=torch.float64, device=device) / max(thing.extents)
            for thing in self.things
        }
        self.values: Dict[str, Tensor] = {
            f"{thing.name}.{name}": torch.full((num_envs,), value, dtype=torch.float64, device=device)
            for thing in self.things
            for name, value in self.nominal(thing).items()
        }

    def nominal(self, thing: Object) -> Dict[str, float]:
        """The object's properties as the model has them: a task may have edited it."""
        mass, friction = self.model.body(thing.name).mass[0], self.model.geom(thing.name).friction[0]
        return {"size": max(thing.extents), "mass": float(mass), "friction": float(friction)}

    def fields(self, variation: Variation, mask: Optional[Tensor] = None) -> Dict[str, Tensor]:
        """The fields that change, and `weights`, those of xfrc_applied: name -> their last rows [N, rows, ...], which
        are the objects'; all rows of a field that the variation names itself. Raises ValueError, one line, for an
        unknown name or a shape that does not fit."""
        check_properties(variation, self.scene, self.num_envs)
        self.of_some |= mask is not None
        own: Dict[str, Tensor] = {}
        for name, values in variation.items():
            if "." not in name:
                own[name] = self.checked(name, values)
                continue
            mine, given = self.values[name], torch.as_tensor(values).to(self.values[name])
            mine.copy_(given if mask is None else torch.where(mask, given, mine))
        return {**(self.of_objects() if any("." in name for name in variation) else {}), **own}

    def memory(self) -> Dict[str, Tensor]:
        """The values that later variations start from, once there has been a variation of some environments only."""
        return dict(self.values) if self.of_some else {}

    def checked(self, name: str, values: Tensor) -> Tensor:
        """Values [N, ...] for a whole field of the model. Raises ValueError, one line, if they do not fit it."""
        shape = getattr(getattr(self.model, name, None), "shape", None)  # of an array
        if not shape:
            known = [f for f in dir(self.model) if f.split("_")[0] in ("actuator", "body", "dof", "geom", "jnt")]
            check_name("variation", name, known)
        values = torch.as_tensor(values)
        if values.shape[1:] != shape:
            raise ValueError(f"variation {name!r}: shape {tuple(values.shape)}, allowed is (environments, {shape})")
        return values

    def of_objects(self) -> Dict[str, Tensor]:
        """All objects' fields, without those that no step reads (places at qpos0, averages over the model) and those
        that do not change (the tree of bounding boxes of a mesh of several parts)."""
        of_each = [self.of_object(thing) for thing in self.things]
        return {name: torch.cat([fields[name] for fields in of_each], 1) for name in of_each[0]}

    def of_object(self, thing: Object) -> Dict[str, Tensor]:
        """The fields of one object, each [N, bodies or geoms, ...]."""
        size, mass, friction = (self.values[f"{thing.name}.{name}"] for name in PROPERTIES)
        if thing.shape == "mesh":
            solid, moments = self.of_mesh(thing, mass)
        else:
            half = size.unsqueeze(1) * self.ratios[thing.name] / 2
            moments = inertia(thing.shape, mass, half)
            solid = {
                "geom_size": geom_size(thing.shape, half).unsqueeze(1),
                "geom_rbound": bounding_radius(thing.shape, half).unsqueeze(1),
                "geom_aabb": torch.cat((torch.zeros_like(half), half), 1).unsqueeze(1),
            }
        turning = [torch.full_like(mass, x) for x in self.model.geom(thing.name).friction[1:]]
        geoms = solid["geom_rbound"].shape[1]
        inverse = torch.stack((1 / mass, (1 / moments).mean(1)), 1)
        return {
            **solid,
            "geom_friction": torch.stack((friction, *turning), 1).unsqueeze(1).expand(-1, geoms, -1),
            "body_mass": mass.unsqueeze(1),
            "body_subtreemass": mass.unsqueeze(1),
            "body_inertia": moments.unsqueeze(1),
            "body_invweight0": inverse.unsqueeze(1),
            "dof_M0": torch.cat((mass.unsqueeze(1).expand(-1, 3), moments), 1),
            "dof_invweight0": inverse.repeat_interleave(3, 1),
            "weights": (mass.unsqueeze(1) * self.gravity).unsqueeze(1),
        }

    def of_mesh(self, thing: Object, mass: Tensor) -> Tuple[Dict[str, Tensor], Tensor]:
        """The parts of a mesh as the model has them, and its moments of inertia, which scale with its mass."""
        body = self.model.body(thing.name)
        first, count = int(body.geomadr[0]), int(body.geomnum[0])
        rows = {name: getattr(self.model, name)[first : first + count] for name in SOLID}
        solid = {name: torch.as_tensor(x, device=mass.device) for name, x in rows.items()}
        moments = torch.as_tensor(body.inertia, device=mass.device) * (mass / float(body.mass[0])).unsqueeze(1)
        return {name: x.expand(len(mass), *x.shape) for name, x in solid.items()}, moments
