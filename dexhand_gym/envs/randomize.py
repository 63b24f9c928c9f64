"""Domain randomisation (RandomizeConfig) of the physics. (commands.py has what happens to targets, sensing.py what to
measurements.)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from dexhand_gym.envs.randomize_config import PHYSICAL, RandomizeConfig
from dexhand_gym.hands.hand import Hand
from dexhand_gym.objects import AnyOf
from dexhand_gym.sim.base import Scene

Uniform = Callable[[float, float, int], Tensor]
"""(low, high, columns) -> random numbers [N, columns]."""
OF_PHYSX = ("box_size", "box_mass", "box_friction", "joint_damping", "joint_armature")
OF_PHYSX += tuple(f"{part}_{name}" for part in ("finger", "base") for name in ("stiffness", "damping", "effort"))


def once(num_envs: int, random: np.random.Generator) -> Uniform:
    """Numbers for environments that keep them for life."""
    return lambda low, high, columns: torch.from_numpy(random.uniform(low, high, (num_envs, columns)))


def narrowed(values: Tensor, nominal: Any, width: Optional[Tensor]) -> Tensor:
    """`values`, of whose distance from nominal a curriculum leaves the share `width` [] (None: all of it)."""
    return values if width is None else nominal + width * (values - nominal)


def steps_between(low: int, high: int, uniform: Uniform, like: Tensor, width: Optional[Tensor]) -> Tensor:
    """Whole numbers [N], low and high among them."""
    steps = uniform(low, high + 1, 1)[:, 0].floor() if high > low else torch.full_like(like, high).double()
    return narrowed(steps.clamp(low, high), 0.0, width).round()


def check_engine(cfg: RandomizeConfig, backend: str) -> None:
    """Raises ValueError, one line, for what Isaac Gym cannot change."""
    if backend != "isaacgym":
        return
    off = RandomizeConfig()
    for name in (*PHYSICAL, "push_impulse", "push_twist"):
        if cfg.is_on(name) and name not in OF_PHYSX:
            value = getattr(cfg, name)
            raise ValueError(f"task.randomize.{name} = {value}: with Isaac Gym allowed is {getattr(off, name)}")
        if cfg.is_on(name) and name in OF_PHYSX and cfg.per == "episode":
            raise ValueError(f"task.randomize.per = 'episode': with Isaac Gym and {name} allowed is 'environment'")


def choices_for_life(scene: Scene, num_envs: int) -> Dict[str, Tensor]:
    """A Variation in which an environment's number says what its objects are, where that differs: all are as many."""
    of = {thing.name: len(thing.of) for thing in scene.free if isinstance(thing, AnyOf)}
    return {f"{name}.which": torch.arange(num_envs, dtype=torch.float64) % count for name, count in of.items()}


def randomizable(scene: Scene, cfg: RandomizeConfig) -> Scene:
    """The scene, built so that what is randomised can vary. Raises ValueError, one line, for objects that it has
    not."""
    check_objects(cfg, scene)
    objects = scene.objects
    if cfg.box_center:  # exactly 0, the engines take short cuts that another centre of mass does not allow
        off = {"center": (1e-5, 0.0, 0.0)}
        objects = tuple(x if x.fixed or any(x.center) else replace(x, **off) for x in objects)
    grip = {"hand": cfg.fingertip_friction, "world": cfg.ground_friction}
    return replace(scene, objects=objects, grip=tuple(name for name, bounds in grip.items() if bounds))


class Physics:
    """Draws what differs in the physics. `width` [] in [0, 1], if there is one, says how far from nominal."""

    def __init__(
        self,
        cfg: RandomizeConfig,
        scene: Scene,
        gravity: Tuple[float, float, float],
        device: Any,
        width: Optional[Tensor] = None,
    ):
        self.cfg, self.scene, self.width = cfg, scene, width
        size = float(np.linalg.norm(gravity))
        down = np.array(gravity) / size if size else np.array([0.0, 0.0, -1.0])
        side = np.cross(down, [1.0, 0.0, 0.0] if abs(down[0]) < 0.9 else [0.0, 1.0, 0.0])
        side /= np.linalg.norm(side)
        self.axes = torch.tensor(np.stack((down, side, np.cross(down, side))) * size, device=device)
        """Gravity, and two vectors of its size across it [3, 3]."""
        nominal = [(max(x.extents), x.mass, x.friction) for x in scene.free]
        self.centers = torch.tensor([x.center for x in scene.free], dtype=torch.float64, device=device).view(-1, 3)
        self.nominal = torch.tensor(nominal, dtype=torch.float64, device=device).view(-1, 3)

    def draw(self, uniform: Uniform) -> Dict[str, Tensor]:
        """A Variation (sim.base) of what is randomised; empty if nothing is."""
        return {**self.of_objects(uniform), **self.of_hand(uniform), **self.of_world(uniform)}

    def between(self, uniform: Uniform, bounds: Tuple[float, float], nominal: Any, columns: int) -> Tensor:
        return narrowed(uniform(bounds[0], bounds[1], columns), nominal, self.width)

    def of_objects(self, uniform: Uniform) -> Dict[str, Tensor]:
        cfg, things = self.cfg, self.scene.free
        drawn: Dict[str, Tensor] = {}
        for i, name in enumerate(("size", "mass", "friction")):
            if bounds := getattr(cfg, f"box_{name}"):
                drawn[name] = self.between(uniform, bounds, self.nominal[:, i], len(things))
        if cfg.box_inertia:
            drawn["inertia"] = self.between(uniform, cfg.box_inertia, 1.0, len(things))
        if cfg.box_center:
            most = cfg.box_center
            off = self.between(uniform, (-most, most), 0.0, 3 * len(things)).unflatten(1, (-1, 3))
            drawn["center"] = self.centers + off
        return {f"{thing.name}.{name}": rows[:, i] for name, rows in drawn.items() for i, thing in enumerate(things)}

    def of_hand(self, uniform: Uniform) -> Dict[str, Tensor]:
        cfg, hand = self.cfg, self.scene.hand
        fingers = sum(hand.finger_dofs)
        base = len(hand.finger_dofs) - fingers
        drawn: Dict[str, Tensor] = {}
        ranges = {name: (getattr(cfg, f"base_{name}"), getattr(cfg, f"finger_{name}")) for name in _DRIVES}
        ranges.update({"joint_damping": (None, cfg.joint_damping), "armature": (None, cfg.joint_armature)})
        for name, bounds in ranges.items():
            if any(bounds):
                parts = zip(bounds, (base, fingers))
                values = torch.cat([self.between(uniform, b or (1.0, 1.0), 1.0, n) for b, n in parts], 1)
                drawn[name] = in_order(values, hand)
        if cfg.joint_friction:
            of_fingers = self.between(uniform, cfg.joint_friction, 0.0, fingers)
            drawn["joint_friction"] = in_order(torch.nn.functional.pad(of_fingers, (base, 0)), hand)
        if cfg.link_mass:
            drawn["mass"] = self.between(uniform, cfg.link_mass, 1.0, len(hand.body_names))
        if cfg.fingertip_friction:
            usual = self.nominal[0, 2]
            drawn["friction"] = self.between(uniform, cfg.fingertip_friction, usual, len(hand.fingers))
        return {f"hand.{name}": values for name, values in drawn.items()}

    def of_world(self, uniform: Uniform) -> Dict[str, Tensor]:
        cfg = self.cfg
        drawn: Dict[str, Tensor] = {}
        if cfg.ground_friction:
            drawn["world.friction"] = self.between(uniform, cfg.ground_friction, self.nominal[0, 2], 1)[:, 0]
        if cfg.gravity_scale or cfg.gravity_tilt:
            size = self.between(uniform, cfg.gravity_scale or (1.0, 1.0), 1.0, 1)
            tilt = self.between(uniform, (0.0, cfg.gravity_tilt), 0.0, 1)
            way = uniform(-torch.pi, torch.pi, 1)
            parts = torch.cat((tilt.cos(), tilt.sin() * way.cos(), tilt.sin() * way.sin()), 1)
            drawn["gravity"] = size * (parts.unsqueeze(-1) * self.axes).sum(1)  # a product of matrices may be in TF32
        return drawn


_DRIVES = ("stiffness", "damping", "effort")


def check_objects(cfg: RandomizeConfig, scene: Scene) -> None:
    """Raises ValueError, one line, for ranges of objects that are not there, or of the size of a mesh."""
    of_objects = [name for name in PHYSICAL if name.startswith("box_")]
    for name in (*of_objects, "push_impulse", "push_twist", "fingertip_friction", "ground_friction"):
        value, off = getattr(cfg, name), getattr(RandomizeConfig(), name)
        if cfg.is_on(name) and not scene.free:
            raise ValueError(f"task.randomize.{name} = {value}: this task has no object, allowed is {off}")
    for thing in scene.free:
        if thing.shape == "mesh" and cfg.box_size:
            raise ValueError(f"task.randomize.box_size = {cfg.box_size}: allowed for a mesh is None, it has one size")


class Pushes:
    """Impulses on objects at random times."""

    def __init__(
        self, cfg: RandomizeConfig, things: Sequence[Any], control_dt: float, num_envs: int, generator: torch.Generator
    ):
        self.chance = min(1.0, cfg.push_rate * control_dt)
        self.shape, self.generator = (num_envs, len(things)), generator
        self.most = (cfg.push_impulse / control_dt, cfg.push_twist / control_dt)

    def draw(self, width: Optional[Tensor] = None) -> Tensor:
        """Forces and torques [N, objects, 6] of this control step: N and N m, world axes; 0 where there is no push."""
        kind: Dict[str, Any] = {"generator": self.generator, "device": self.generator.device}
        return self.wrench(torch.rand(3, *self.shape, 1, **kind), torch.randn(*self.shape, 2, 3, **kind), width)

    def wrench(self, numbers: Tensor, ways: Tensor, width: Optional[Tensor]) -> Tensor:
        """What draw() makes of random numbers: uniform [3, N, objects, 1] and normal [N, objects, 2, 3]."""
        chance, *share = numbers.unbind(0)
        ways = torch.nn.functional.normalize(ways, dim=-1)
        parts = [most * part * ways[..., i, :] for i, (most, part) in enumerate(zip(self.most, share))]
        wrench = torch.cat(parts, -1) * (chance < self.chance)
        return wrench if width is None else wrench * width.to(wrench.dtype)


def in_order(values: Tensor, hand: Hand) -> Tensor:
    """[N, D] of the bases' dofs, then of the fingers' -> in the order of the hand's dofs."""
    order = sorted(range(len(hand.finger_dofs)), key=lambda dof: hand.finger_dofs[dof])
    if order == sorted(order):
        return values
    return torch.stack([values[:, order.index(dof)] for dof in range(len(order))], 1)
