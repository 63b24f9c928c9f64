"""Objects as values: what a scene holds besides the hand. Loads neither torch nor an engine; shapes.py has the
geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Literal, Tuple, Union

from dexhand_gym.fields import Annotated, Matching, Range

Name = Annotated[str, Matching(r"[A-Za-z_]\w{0,63}", "letters, digits and _, 64 at most")]
Size = Annotated[float, Range(1e-3, 1)]
Mass = Annotated[float, Range(1e-6, 1000)]
Friction = Annotated[float, Range(0, 100, above=True)]
Share = Annotated[float, Range(0, 1)]
Place = Annotated[float, Range(-100, 100)]
Shape = Literal["box", "sphere", "cylinder", "capsule", "ellipsoid", "mesh"]

NUMBERS: Dict[str, Tuple[int, ...]] = {
    "box": (1, 3),
    "sphere": (1,),
    "cylinder": (1, 2),
    "capsule": (1, 2),
    "ellipsoid": (1, 3),
    "mesh": (1,),
}
"""Shape -> how many numbers its size may have."""


@dataclass
class Object:
    """An object that moves freely, or a fixed one. Its actor, body and joint have its name. Its frame is at its
    middle."""

    name: Name = "box"
    shape: Shape = "box"
    """box, sphere, cylinder, capsule, ellipsoid or mesh; cylinder and capsule stand along z."""
    size: Union[Size, Tuple[Size, Size], Tuple[Size, Size, Size]] = 0.05
    """Whole lengths, m. One number is the edge of a cube, the diameter of a sphere, diameter and height of a cylinder,
    the length of a capsule half as wide, the largest extent of a mesh. Two are the diameter and the length of a
    cylinder or capsule, three the extents of a box or ellipsoid along x, y and z."""
    mass: Mass = 0.1
    """kg, spread evenly."""
    center: Tuple[Place, Place, Place] = (0.0, 0.0, 0.0)
    """Centre of mass in the object's frame, m (MuJoCo's engines)."""
    friction: Friction = 1.0
    """Sliding friction coefficient of its contacts with hand and ground; two objects that touch take the larger."""
    color: Tuple[Share, Share, Share] = (0.15, 0.55, 0.78)
    marks: bool = False
    """A box shows faces of six colours in pictures and windows (MuJoCo's), so that one sees how it has turned."""
    condim: Literal[3, 4, 6] = 3
    """Motions that its contacts resist (MuJoCo's engines): 3 sliding, 4 also spinning, 6 also rolling."""
    spinning_friction: Annotated[float, Range(0, 1)] = 0.005
    """Friction against spinning about a contact's normal, m; takes effect with condim 4 or 6."""
    rolling_friction: Annotated[float, Range(0, 1)] = 0.0001
    """Friction against rolling, m; takes effect with condim 6."""
    file: str = ""
    """The file of a mesh: .obj, .stl or .ply."""
    parts: Annotated[int, Range(1, 64)] = 1
    """A mesh collides as this many convex parts at most; 1: as its convex hull."""
    fixed: bool = False
    """It is fixed in the world at position and quat, and is not an actor."""
    position: Tuple[Place, Place, Place] = (0.0, 0.0, 0.0)
    """Position of a fixed object, m."""
    quat: Tuple[Place, Place, Place, Place] = (0.0, 0.0, 0.0, 1.0)
    """Orientation of a fixed object, x y z w."""

    def validate(self, prefix: str = "") -> None:
        """Raises ValueError, one line, for values that do not go together."""
        count = len(self.size) if isinstance(self.size, tuple) else 1
        if count not in NUMBERS[self.shape]:
            allowed = " or ".join(map(str, NUMBERS[self.shape]))
            raise ValueError(f"{prefix}size = {self.size}: allowed for a {self.shape} is {allowed} numbers")
        if self.shape == "capsule" and isinstance(self.size, tuple) and self.size[1] < self.size[0]:
            raise ValueError(f"{prefix}size = {self.size}: allowed is a capsule at least as long as it is wide")
        if (self.shape == "mesh") != bool(self.file):
            raise ValueError(f"{prefix}file = {self.file!r}: allowed is a file for the shape mesh and for no other")
        if self.shape != "mesh" and self.parts != 1:
            raise ValueError(f"{prefix}parts = {self.parts}: allowed is 1, but for a mesh")
        for name, least in (("spinning_friction", 4), ("rolling_friction", 6)):
            if getattr(self, name) != getattr(Object, name) and self.condim < least:
                raise ValueError(
                    f"{prefix}{name} = {getattr(self, name)}: allowed is condim = {least} with it, else it does nothing"
                )
        if self.marks and self.shape != "box":
            raise ValueError(f"{prefix}marks = True: allowed is False for a {self.shape}")
        if not any(self.quat):
            raise ValueError(f"{prefix}quat = {self.quat}: allowed is a quaternion that is not zero")

    @property
    def extents(self) -> Tuple[float, float, float]:
        """Whole lengths along x, y and z, m."""
        if self.shape == "mesh":
            from dexhand_gym.meshes import load_mesh

            return load_mesh(self.file, self.first_size, self.parts).extents
        first, size = self.first_size, self.size if isinstance(self.size, tuple) else (self.size,)
        if len(size) == 3:
            return size
        if len(size) == 2:
            return (first, first, size[1])
        return (first / 2, first / 2, first) if self.shape == "capsule" else (first, first, first)

    @property
    def first_size(self) -> float:
        """Its size, or the first number of it, m."""
        return self.size[0] if isinstance(self.size, tuple) else self.size

    def rest(self) -> Tuple[float, Tuple[float, float, float, float]]:
        """Height of its middle and orientation x y z w where it lies still on the ground: a capsule on its side, an
        ellipsoid on its flattest side, all others as they are."""
        x, y, z = self.extents
        if self.shape == "capsule" or (self.shape == "ellipsoid" and x < min(y, z)):
            return x / 2, (0.0, 0.5**0.5, 0.0, 0.5**0.5)
        if self.shape == "ellipsoid" and y < z:
            return y / 2, (0.5**0.5, 0.0, 0.0, 0.5**0.5)
        return z / 2, (0.0, 0.0, 0.0, 1.0)


@dataclass
class Box(Object):
    """A cube, or a box of three edges."""


@dataclass
class Sphere(Object):
    """size: its diameter."""

    name: Name = "sphere"
    shape: Shape = "sphere"


@dataclass
class Cylinder(Object):
    """size: diameter and height."""

    name: Name = "cylinder"
    shape: Shape = "cylinder"


@dataclass
class Capsule(Object):
    """size: diameter and length."""

    name: Name = "capsule"
    shape: Shape = "capsule"


@dataclass
class Ellipsoid(Object):
    """size: its three diameters."""

    name: Name = "ellipsoid"
    shape: Shape = "ellipsoid"


@dataclass
class Mesh(Object):
    """file, and size: its largest extent."""

    name: Name = "mesh"
    shape: Shape = "mesh"

    @classmethod
    def of_vertices(cls, vertices: Any, faces: Any = None, **fields: Any) -> Mesh:
        """A mesh of vertices [V, 3] and triangles [F, 3], by default those of their hull; it is kept in a file in the
        cache folder. Its size is by default that of the vertices, m."""
        from dexhand_gym.meshes import write_mesh

        if "file" in fields:
            raise ValueError(f"file = {fields['file']!r}: allowed is a file or vertices, not both")
        file, size = write_mesh(vertices, faces, (0.0, 1e9) if "size" in fields else (1e-3, 1.0))
        return cls(**{"size": size, **fields, "file": file})


@dataclass
class AnyOf(Object):
    """One of several objects, another in each environment and, with MuJoCo's engines, in each episode: a Variation
    "<name>.which" says which, by number. The others' names, colours, marks and places do not count; those of one shape
    have one `condim`."""

    name: Name = "object"
    shape: Shape = "mesh"  # in what concerns the rest of the package: it has one size
    of: Tuple[Object, ...] = ()

    def validate(self, prefix: str = "") -> None:
        """Raises ValueError, one line, for choices that do not go together."""
        if not self.of:
            raise ValueError(f"{prefix}of = (): allowed are one or more objects")
        names = [choice.name for choice in self.of]
        for choice in self.of:
            choice.validate(f"{prefix}of {choice.name!r}: ")
            if choice.fixed or choice.parts != 1 or any(choice.center) or isinstance(choice, AnyOf):
                raise ValueError(f"{prefix}of {choice.name!r}: allowed is a free object of one part, with center 0 0 0")
            if names.count(choice.name) > 1:
                raise ValueError(f"{prefix}of {choice.name!r}: two have this name, allowed are names that differ")
            like = next(other for other in self.of if other.shape == choice.shape)
            for name in ("condim", "spinning_friction", "rolling_friction"):
                if getattr(choice, name) != getattr(like, name):
                    raise ValueError(
                        f"{prefix}of {choice.name!r}: {name} = {getattr(choice, name)}, allowed is that of "
                        f"{like.name!r}, {getattr(like, name)}"
                    )

    @property
    def extents(self) -> Tuple[float, float, float]:
        """The largest of the choices' whole lengths along x, y and z, m."""
        x, y, z = (max(lengths) for lengths in zip(*(choice.extents for choice in self.of)))
        return x, y, z

    def rest(self) -> Tuple[float, Tuple[float, float, float, float]]:
        """That of the first choice."""
        return self.of[0].rest()
