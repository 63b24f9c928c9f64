"""Checks, before the first step, that what a task returns has the names, types and shapes that the environment
needs."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import logging
import math
import sys
from numbers import Integral
from typing import Any, Callable, Collection, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Type

import numpy as np
import torch
from torch import Tensor

from dexhand_gym.envs.config import TaskConfig
from dexhand_gym.envs.mirror import HAND_MIRRORS, OF_THE_HAND
from dexhand_gym.envs.quantities import RAW
from dexhand_gym.envs.randomize_config import OF_TRAINING, RandomizeConfig
from dexhand_gym.fields import check, check_name, checked, shortened
from dexhand_gym.objects import Object
from dexhand_gym.sim import PHYSICS, Scene

log = logging.getLogger(__name__)

Mastered = Callable[[Dict[str, float]], float]
"""A task's mastered()."""

NUMBERS = (torch.float32, torch.bool, torch.int32, torch.int64, torch.uint8)


METHODS = ("scene", "sample_start", "vary", "edit_spec", "rewards", "successes", "failures")
"""Of a task."""
STAGES = ("pre_action_rule", "action_rule", "post_action_filters", "coupling")
TAKEN = (*STAGES, "cfg", "task", "hand", "num_envs", "device", "generator", "sim", "stages", "limits", "raw", "terms")
"""Attributes of an environment, which a task's class cannot have."""


def check_class(cls: type, base: type) -> None:
    """Raises ValueError, one line, unless the tables and methods of a task's class, a subclass of `base`, are well
    formed."""
    task: Any = cls
    if not (isinstance(task.config, type) and issubclass(task.config, TaskConfig)):
        raise ValueError(f"{cls.__name__}.config is {task.config!r}: allowed is a subclass of TaskConfig")
    check_config_class(task.config)
    for name in METHODS:
        if not callable(getattr(task, name)):
            raise ValueError(f"{cls.__name__}.{name} = {shortened(repr(getattr(task, name)))}: allowed is a method")
    for name in (name for each in cls.__mro__ if each not in base.__mro__ for name in vars(each)):
        if name in TAKEN:
            instead = f"env.{name} = a function" if name in STAGES else "another name"
            raise ValueError(f"{cls.__name__}.{name}: every environment has such an attribute, allowed is {instead}")
    text = "the name of a quantity"
    for owner, table, what, fits in (
        (task, "quantities", "a function (measured, cfg)", lambda x: callable(x) and takes_two(x)),
        (task, "timers", text, lambda x: isinstance(x, str)),
        (task, "mirrors", "a pattern of signed places", is_pattern),
        (task, "train_defaults", "a value", lambda x: True),
    ):
        where, entries = f"{owner.__name__}.{table}", getattr(owner, table)
        if not isinstance(entries, dict):
            raise ValueError(f"{where} is a {type(entries).__name__}: allowed is a dict, name -> {what}")
        for name, value in entries.items():
            if not isinstance(name, str) or not fits(value):
                raise ValueError(f"{where}[{name!r}] = {shortened(repr(value))}: allowed is {what} for each name")
    check_name(f"{cls.__name__}.physics", task.physics, PHYSICS)
    for table in ("remembered", "figures"):
        names = getattr(task, table)
        if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{cls.__name__}.{table} = {shortened(repr(names))}: allowed is a tuple, each {text}")
    for name in {"r", "l"} & {*task.figures}:
        raise ValueError(f"{cls.__name__}.figures: {name!r} is the episode's return or length, allowed is another name")


def check_config_class(config: Type[TaskConfig]) -> None:
    """Raises ValueError, one line, for a field that Python would pass over: in a class without @dataclass, or another
    default without a type."""
    for cls in config.__mro__[: config.__mro__.index(TaskConfig)]:
        own = vars(cls)
        typed = own.get("__annotations__") or (
            getattr(cls, "__annotations__", {}) if sys.version_info >= (3, 14) else {}
        )
        fields = [name for name, hint in typed.items() if "ClassVar" not in str(hint)]
        if fields and "__dataclass_fields__" not in own:
            raise ValueError(
                f"{cls.__name__}.{fields[0]} is no field: allowed is one in a class with @dataclass above it"
            )
        for item in dataclasses.fields(config):
            if item.name in own and item.name not in typed:
                value = shortened(repr(own[item.name]))
                raise ValueError(
                    f"{cls.__name__}.{item.name} = {value} has no effect: allowed is {item.name}: <its type> = {value}"
                )


def is_pattern(kind: Any) -> bool:
    """Whether it is one of the hand's kinds, or signed places 1 to n in any order."""
    if isinstance(kind, str):
        return kind in OF_THE_HAND
    whole = isinstance(kind, tuple) and len(kind) > 0 and all(type(place) is int for place in kind)
    return whole and sorted(map(abs, kind)) == list(range(1, len(kind) + 1))


def check_table_names(task: Any, raw: Iterable[str]) -> None:
    """Raises ValueError, one line, unless the tables of a task's class name known quantities only, and quantities and
    timers have names of their own."""
    name, known = type(task).__name__, [*raw, *task.quantities]
    for quantity in {*raw, *RAW, *(f"prev_{kept}" for kept in task.remembered)} & {*task.quantities}:
        raise ValueError(f"{name}.quantities[{quantity!r}]: the environment has one of that name, allowed is another")
    for timer, source in task.timers.items():
        if timer in known:
            raise ValueError(f"{name}.timers[{timer!r}]: a quantity has that name, allowed is another")
        check_name(f"{name}.timers[{timer!r}]", source, known)
    for quantity in task.remembered:
        check_name(f"{name}.remembered", quantity, [*known, *task.timers])
    for quantity in {*task.mirrors} - {*HAND_MIRRORS}:
        kept = [f"prev_{kept}" for kept in task.remembered]
        check_name(f"{name}.mirrors", quantity, [*known, *task.timers, *kept])


def takes_two(function: Any) -> bool:
    """Whether it can be called as function(measured, cfg), as far as Python can tell."""
    try:
        inspect.signature(function).bind({}, None)
    except TypeError:
        return False
    except ValueError:  # a C function without a signature
        return True
    return True


def warn_of_misspelt(cls: type, members: List[str]) -> None:
    """Warns of members of a task's class whose name is close to one that the environment reads."""
    for name in vars(cls):
        near = difflib.get_close_matches(name, members, 1, 0.8)
        if near and name not in members and not name.startswith("_"):
            log.warning("%s.%s is nothing that the environment reads; did you mean %s?", cls.__name__, name, near[0])


@contextlib.contextmanager
def unchanged(what: str, measured: Dict[str, Tensor]) -> Iterator[None]:
    """Raises ValueError, one line, if the code within changes a quantity that existed before."""
    before = {name: value.clone() for name, value in measured.items() if isinstance(value, Tensor)}
    yield
    for name, value in before.items():
        if not torch.equal(value.nan_to_num(), measured[name].nan_to_num()):
            raise ValueError(f"{what} changes quantity {name!r} in place: allowed is to read it")


def check_shape(stage: Any, value: Any, shape: Tuple[int, ...]) -> Tensor:
    """Returns `value`, the output of a stage of the actions. Raises ValueError, one line, unless it has this shape."""
    if not isinstance(value, Tensor) or value.shape != shape:
        name = stage if isinstance(stage, str) else getattr(stage, "__name__", type(stage).__name__)
        found = f"a tensor {numbers(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ValueError(f"{name} returns {found}: allowed is a tensor {numbers(shape)}")
    return value


def check_named(what: str, values: Any, num_envs: int, dtypes: Tuple[torch.dtype, ...], device: torch.device) -> None:
    """Raises ValueError, one line, unless `values` is a dict of such tensors [num_envs]; `what` is the message's word
    for one."""
    if not isinstance(values, dict):
        raise ValueError(
            f"the task's {what}s are a {type(values).__name__}: allowed is a dict, name -> tensor [{num_envs}]"
        )
    for name, value in values.items():
        check_tensor(f"{what} {name!r}", value, (num_envs,), dtypes, device)


def check_tensor(
    what: str, value: Any, shape: Tuple[int, ...], dtypes: Tuple[torch.dtype, ...], device: torch.device
) -> None:
    """Raises ValueError, one line, unless `value` is a tensor of this shape (-1: any number) and one of these dtypes,
    on such a device."""
    found = f"a {type(value).__name__}"
    if isinstance(value, Tensor):
        fits = len(value.shape) == len(shape) and all(want in (-1, size) for want, size in zip(shape, value.shape))
        if fits and value.dtype in dtypes and value.device.type == device.type:
            return
        found = f"a tensor {numbers(value.shape)} of {str(value.dtype)[6:]} on {value.device}"
    kinds = " or ".join(str(dtype)[6:] for dtype in dtypes)
    raise ValueError(f"{what} is {found}: allowed is a tensor {numbers(shape)} of {kinds} on {device}")


def check_quantities(measured: Dict[str, Tensor], names: Iterable[str], num_envs: int, device: torch.device) -> None:
    """Raises ValueError, one line, unless each of these quantities is a tensor with one row per environment."""
    for name in names:
        value: Any = measured[name]
        rows = tuple(value.shape[1:]) if isinstance(value, Tensor) else ()
        check_tensor(f"quantity {name!r}", value, (num_envs, *rows), NUMBERS, device)


def check_seed(seed: Any) -> Optional[int]:
    """The seed as an int, or None. Gymnasium's seeds have no upper bound."""
    if seed is None:
        return None
    if isinstance(seed, Integral) and not isinstance(seed, bool) and int(seed) >= 0:
        return int(seed)
    raise ValueError(f"seed = {shortened(repr(seed))}: allowed is a whole number, 0 or more, or None")


def check_reset(options: Any, num_envs: int, device: torch.device) -> Tensor:
    """Mask [N] bool of the environments that reset(options=...) selects: all, or those of its reset_mask. Raises
    ValueError, one line."""
    if options is not None and not isinstance(options, dict):
        raise ValueError(f"options = {shortened(repr(options))}: allowed is a dict, such as {{'reset_mask': mask}}")
    for name in options or {}:
        check_name("options", name, ["reset_mask"])
    given = (options or {}).get("reset_mask", np.ones(num_envs, dtype=bool))
    array = given if isinstance(given, Tensor) else np.array(given)
    if not isinstance(array, Tensor) and array.dtype != bool:
        raise ValueError(f"reset_mask: {array.shape} {array.dtype}, allowed is ({num_envs},) bool")
    mask = torch.as_tensor(array, device=device)
    if mask.shape != (num_envs,) or mask.dtype != torch.bool:
        raise ValueError(f"reset_mask: {tuple(mask.shape)} {mask.dtype}, allowed is ({num_envs},) bool")
    return mask


def check_remembered(name: str, value: Tensor, most: Optional[int]) -> None:
    """Raises ValueError, one line, unless an entry of an environment's state is finite and, if `most` is given, a count
    up to it."""
    if not torch.isfinite(value.double()).all():
        raise ValueError(f"its {name} is not finite")
    if most is not None and not ((value >= 0) & (value <= most)).all():
        raise ValueError(f"its {name} is no count from 0 to {most}")


def check_scene(scene: Any, taken: Collection[str]) -> Scene:
    """Returns what scene() returned. Raises ValueError, one line, if that is not a valid scene or an object has a name
    that is `taken`."""
    if not isinstance(scene, Scene):
        raise ValueError(f"scene() returns a {type(scene).__name__}: allowed is a Scene")
    for name, kind in (("hand_height", float), ("spacing", float), ("hand_quat", Tuple[float, float, float, float])):
        setattr(scene, name, checked(f"scene().{name}", getattr(scene, name), kind))
    if abs(math.hypot(*scene.hand_quat) - 1) > 0.01:
        raise ValueError(f"scene().hand_quat = {scene.hand_quat}: allowed is a quaternion of length 1")
    for field in ("objects", "ghosts"):
        things = getattr(scene, field)
        for i, thing in enumerate(things):
            name = f"scene().{field}[{i}]"
            if not isinstance(thing, Object):
                raise ValueError(f"{name} is a {type(thing).__name__}: allowed is an Object, such as Box()")
            check(thing, f"{name}.")
            thing.validate(f"{name}.")
        names = [thing.name for thing in things]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"scene().{field}: {name!r} is there twice, allowed is a name of its own for each")
            if field == "objects" and name in taken:
                raise ValueError(f"scene().objects: {name!r} is the name of something else, allowed is another")
            if field == "ghosts" and name not in taken:
                raise ValueError(f"scene().ghosts: {name!r}: allowed is the name of a quantity, which says where it is")
    return scene


def check_start(start: Any, known: Dict[str, Tensor]) -> None:
    """Raises ValueError, one line, unless sample_start() returned a pose for each actor it names and action targets for
    the hand."""
    if not isinstance(start, dict):
        raise ValueError(f"sample_start() returns a {type(start).__name__}: allowed is a dict, name -> tensor")
    for name, value in start.items():
        if name not in known:
            raise ValueError(f"sample_start() names {name!r}: allowed are {', '.join(known)}")
        check_tensor(f"sample_start()'s {name!r}", value, tuple(known[name].shape), (torch.float32,), value.device)


def check_started(start: Dict[str, Tensor], lower: Tensor, upper: Tensor, names: Sequence[str]) -> None:
    """Raises ValueError, one line, for a start that is not finite or has no orientation; warns of action targets `names`
    beyond their limits."""
    for name, value in start.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"sample_start()'s {name!r} is not finite")
        if name != "hand" and ((value[:, 3:].norm(dim=1) - 1).abs() > 0.01).any():
            raise ValueError(f"sample_start()'s {name!r} has a quaternion that is not of length 1")
    beyond = ((start["hand"] < lower - 1e-4) | (start["hand"] > upper + 1e-4)).any(0)
    if beyond.any():
        told = ", ".join(name for name, out in zip(names, beyond.tolist()) if out)
        log.warning("sample_start()'s 'hand' is beyond the limits of %s, where the physics may blow up", told)


MAY_BE_ZERO = (".which", ".center", ".joint_friction", "hand.friction", "world.friction")
"""Ends of the names of properties that may also be 0, or less."""


def check_variation(variation: Any) -> None:
    """Raises ValueError, one line, for values of vary() that are no numbers, or of a property that are not above 0."""
    for name, values in variation.items() if isinstance(variation, dict) else ():
        if isinstance(values, Tensor) and not torch.isfinite(values.double()).all():
            raise ValueError(f"vary()'s {name!r} is not finite")
        positive = "." in str(name) and not str(name).endswith(MAY_BE_ZERO)
        if isinstance(values, Tensor) and positive and not (values > 0).all():
            raise ValueError(f"vary()'s {name!r} has values of {values.min():g}: allowed are those above 0")


def numbers(shape: Iterable[int]) -> str:
    return f"[{', '.join('any' if n < 0 else str(n) for n in shape)}]"


def check_training(randomize: RandomizeConfig, successes: Sequence[str], mastered: Mastered, own: bool) -> None:
    """Raises ValueError, one line, for what needs a success in a task that defines none, and for a `mastered` that is
    wrong; `own`: the task says by it what a curriculum widens by."""
    share_mastered(mastered, {})
    for name in () if successes else OF_TRAINING:
        if (value := getattr(randomize, name)) and not (own and name == "curriculum"):
            raise ValueError(f"task.randomize.{name} = {value}: allowed is 0, for no success is defined")


def share_mastered(mastered: Mastered, statistics: Dict[str, float]) -> float:
    """What a task's mastered() returns for these statistics, of which there are none before an episode has ended.
    Raises ValueError, one line, unless it is a share."""
    try:
        share = mastered({**statistics})
    except KeyError as error:
        when = "" if statistics else " before an episode has ended"
        raise ValueError(
            f"mastered() asks for {error}, which is not there{when}: allowed is statistics.get({error}, 0.0)"
        ) from None
    if not isinstance(share, (int, float)) or not -1e-6 <= share <= 1 + 1e-6:
        raise ValueError(f"mastered() returns {shortened(repr(share))}: allowed is a number, from 0 to 1")
    return share
