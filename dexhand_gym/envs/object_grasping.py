"""ObjectGrasping: grasp whatever lies there, by touch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Dict, Tuple

import torch
from torch import Tensor

from dexhand_gym import rotations
from dexhand_gym.envs.box_grasping import BoxGrasping, BoxGraspingConfig
from dexhand_gym.envs.config import Config
from dexhand_gym.envs.mirror import VECTOR
from dexhand_gym.fields import Annotated, Range, shortened
from dexhand_gym.object_sets import load_set, with_whole_paths
from dexhand_gym.objects import AnyOf, Object
from dexhand_gym.shape_tables import ShapeTables, distances, shape_tables
from dexhand_gym.sim import Scene
from dexhand_gym.sim.base import keeps_objects


@dataclass
class ObjectGraspingConfig(BoxGraspingConfig):
    """Blind grasp and lift of many objects."""

    objects: str = "train"
    """A set of objects: train, held_out, wedges, a family of one (train:sphere), a folder of meshes (.obj, .stl, .ply), or
    several of these (train,wedges)."""
    mesh_unit: Annotated[float, Range(0, 1000, above=True)] = 1.0
    """Metres in a unit of a folder's meshes: 0.001 where they are in millimetres."""
    critic_observation_keys: Tuple[str, ...] = (
        "object_pos",
        "object_quat",
        "object_vel",
        "object_points",
        "finger_to_object_distances",
        "finger_box_contact",
        "grasp_duration",
        "episode_time",
    )
    reward_weights: Dict[str, float] = field(
        default_factory=lambda: {
            **BoxGraspingConfig().reward_weights,
            # What slips is often lost: where holding it on the ground pays as for the cube, policies learn to stay there.
            "thumb_contact": 0.25,
            "finger_contact": 0.25,
            "grasp": 0.5,
            "lift": 20.0,
        }
    )
    """Weight of each reward term and ending."""

    @property
    def widens(self) -> bool:
        """The set of objects does."""
        return True

    def validate(self) -> None:
        """See BoxGraspingConfig. A folder gets its whole path, by which a checkpoint finds it from everywhere."""
        self.objects = with_whole_paths(self.objects)
        super().validate()


EASIEST = 0.2
"""Share of the set with which a curriculum begins."""


def tables(m: Dict[str, Tensor], cfg: Config) -> ShapeTables:
    """Of all objects of the set."""
    return shape_tables(cfg.task.objects, cfg.task.mesh_unit, m["box"].device)


def pads_to_surface(m: Dict[str, Tensor], cfg: Config) -> Tensor:
    """Distance of each finger pad to the object's surface [N, F], m; 0 inside."""
    box = m["box"].unsqueeze(1)
    local = rotations.rotate_inverse(box[..., 3:7], m["pads"][..., :3] - box[..., :3])
    return distances(tables(m, cfg), m["box_which"], local)


class ObjectGrasping(BoxGrasping):
    """BoxGrasping with an object of a set, another one in each episode.

    **Objects** `objects` names a set (object_sets.py: boxes, spheres, cylinders, capsules, ellipsoids, superquadrics and
    random hulls of 3 to 9 cm and 20 to 400 g) or a folder of meshes.

    **Observations** as BoxGrasping's. Privileged in addition: object_points [N, 96], 32 points of the surface in the
    object's frame, m.

    **Rewards, ends** as BoxGrasping's; distances are to the surface of the object that is there.

    **Curriculum** with `randomize.curriculum` the set, too, begins with its easiest part, the fifth of the objects whose
    thinnest side is thickest, and widens to all of it.

    **Start** as BoxGrasping; the object lies on one of the sides on which it lies stably, each as likely as the others.
    """

    config = ObjectGraspingConfig
    physics = "cones"  # with pyramids what touches at a point or along an edge is lost more often (docs/objects.md)
    quantities = {
        **BoxGrasping.quantities,
        "box_half": lambda m, cfg: tables(m, cfg).halves[m["box_which"]],
        "pads_to_surface": pads_to_surface,
        "object_points": lambda m, cfg: tables(m, cfg).points[m["box_which"]],
    }
    mirrors = {**BoxGrasping.mirrors, "object_points": VECTOR}  # of the mirrored object, which is another one
    train_defaults = {
        **BoxGrasping.train_defaults,
        "max_iterations": 1500,
        "learning_rate": 5e-4,
        "lr_schedule": "adaptive_linear",
        "num_minibatches": 32,
        "units": (1024, 512, 256),
    }

    def scene(self) -> Scene:
        """One object, which is "box" to this task, and another in each environment."""
        env, task = self.cfg.env, self.task
        for item in fields(Object):
            if (said := getattr(env.object, item.name)) != item.default:
                raise ValueError(
                    f"env.object.{item.name} = {shortened(repr(said))}: this task has the objects of task.objects = "
                    f"{task.objects!r}, allowed is such a set or a folder of meshes; --task.randomize.box-mass and box-friction "
                    "change what they weigh and how they slip"
                )
        things = load_set(task.objects, task.mesh_unit)
        highest = max(max(thing.extents) for thing in things)
        if task.success_height <= highest / 2:
            raise ValueError(
                f"task.success_height = {task.success_height}: allowed is more than {highest / 2}, where the longest of "
                "task.objects stands"
            )
        return Scene(env.hand_height, objects=(AnyOf(name="box", of=things),), spacing=env.spacing)

    @cached_property
    def _tables(self) -> ShapeTables:
        return shape_tables(self.task.objects, self.task.mesh_unit, self.device)

    def vary(self) -> Dict[str, Any]:
        """Another object; with a curriculum one of those to which the set has widened. With Isaac Gym an environment keeps
        its own."""
        if keeps_objects(self.sim):
            return {}
        count = len(self._tables.counts)
        among = count if self.width is None else (EASIEST + (1.0 - EASIEST) * self.width).float() * count
        rank = (self.uniform(0.0, 1.0, 1)[:, 0] * among).floor().clamp(max=count - 1)
        return {"box.which": rank if self.width is None else self._by_thickness[rank.long()].to(rank)}

    @cached_property
    def _by_thickness(self) -> Tensor:
        """The objects [C], those that are thick on all sides first: they are easier to grasp."""
        return self._tables.halves.amin(1).argsort(descending=True)

    def sample_start(self) -> Dict[str, Tensor]:
        """As BoxGrasping's, the object on one of its sides, at any yaw."""
        start, which = super().sample_start(), self.raw["box_which"]
        side = (self.uniform(0.0, 1.0, 1)[:, 0] * self._tables.counts[which]).floor().long()
        pose = self._tables.poses[which, side]
        position, turn = start["box"].split((3, 4), 1)
        lying = rotations.multiply(turn, pose[:, 1:])
        return {**start, "box": torch.cat((position[:, :2], pose[:, :1], lying), 1)}
