"""Config dataclass fields whose types state what is allowed, and one check of a whole config against them.

    @dataclass
    class Lamp:
        power: Annotated[float, Range(0, 100)] = 5.0

    check(Lamp(power=200.0), "lamp.")  # ValueError: lamp.power = 200.0: allowed is a number, 0 to 100

A mistake gets the same message on the command line, in a file and in Python. Loads neither torch nor an engine.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import re
import types
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Literal, Tuple, Union

from typing_extensions import Annotated, get_args, get_origin, get_type_hints

__all__ = ["Annotated", "Length", "Matching", "Range", "check", "check_name", "describe"]

LARGEST = {int: 2**63 - 1, float: 3e38}
"""Tensors are int64 and float32: numbers that do not fit are refused."""
UNIONS = Union, getattr(types, "UnionType", Union)
"""What Optional[int] and int | None are."""
WORDS: Dict[Any, str] = {bool: "True, False", int: "a whole number", float: "a finite number", str: "one line of text"}


@dataclass(frozen=True)
class Range:
    """Bounds of a number. `above`: the lower bound itself is not allowed. `note`: what a special value means."""

    least: float
    most: float
    above: bool = False
    even: bool = False
    note: str = ""

    def allows(self, value: Any) -> bool:
        """NaN is in no range."""
        return self.least <= value <= self.most and not (
            (self.above and value == self.least) or (self.even and value % 2)
        )

    def __str__(self) -> str:
        low = (
            f"more than {self.least:g}, at most {self.most:.10g}"
            if self.above
            else f"{self.least:g} to {self.most:.10g}"
        )
        return low + " and even" * self.even + f" ({self.note})" * bool(self.note)


@dataclass(frozen=True)
class Matching:
    """Text that must match a regular expression."""

    pattern: str
    words: str

    def allows(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Length:
    """How many values a tuple has."""

    least: int
    most: int

    def allows(self, value: Tuple) -> bool:
        return self.least <= len(value) <= self.most

    def __str__(self) -> str:
        return f"{self.least} to {self.most} of them"


ONE_LINE = Matching(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{0,4096}", "one line of text")


def check(config: Any, prefix: str = "") -> None:
    """Checks every field of a dataclass, groups of fields included, against its type, and converts equivalents to plain
    values (a list to a tuple, NumPy's numbers). Raises ValueError, one line that names the field, its value and what is
    allowed."""
    hints = field_types(type(config))
    for item in dataclasses.fields(config):
        name, value, hint = f"{prefix}{item.name}", getattr(config, item.name), hints[item.name]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            if hint is not Any and isinstance(hint, type) and not isinstance(value, hint):
                raise refusal(name, value, hint)
            check(value, f"{name}.")
        elif isinstance(value, dict) and get_origin(hint) is dict:
            if len(get_args(hint)) != 2:
                raise ValueError(f"{name}: its type is {hint}, allowed is one such as Dict[str, float]")
            types = get_args(hint)[1]
            setattr(config, item.name, {key: checked(f"{name}.{key}", x, types) for key, x in value.items()})
        else:
            setattr(config, item.name, checked(name, value, hint))


def field_types(cls: type) -> Dict[str, Any]:
    """Name -> type of every field. A subclass that redeclares a field with another default and its plain type
    (`episode_length: int = 500`) keeps the field's bounds. Raises ValueError, one line, if a type's name is unknown at
    run time."""
    types: Dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        try:
            hints = get_type_hints(base, include_extras=True)
        except NameError as error:
            raise ValueError(f"{base.__name__}: the type of a field cannot be read, {error}") from None
        for name, hint in hints.items():
            bounded = get_origin(types.get(name)) is Annotated and get_args(types[name])[0] == hint
            types[name] = types[name] if bounded else hint
    return types


def checked(name: str, value: Any, hint: Any) -> Any:
    """`value` converted to the type `hint`. Raises ValueError, one line, if that is not possible."""
    try:
        value = conform(value, hint)
    except (ValueError, TypeError, OverflowError):
        raise refusal(name, value, hint) from None
    if not plain(value):
        allowed = "what a file can hold: a number, a text, True, None, and tuples, lists, dicts of them"
        raise ValueError(f"{name} = {shortened(repr(value))}: allowed is {allowed}")
    return value


def plain(value: Any) -> bool:
    if isinstance(value, (list, tuple, set)):
        return all(plain(x) for x in value)
    if isinstance(value, dict):
        return all(plain(x) for pair in value.items() for x in pair)
    return dataclasses.is_dataclass(value) or type(value) in (bool, int, float, str, bytes, type(None))


def refusal(name: str, value: Any, hint: Any) -> ValueError:
    """The error that says what is wrong with a value."""
    kinds = get_args(hint) if get_origin(hint) in UNIONS else (hint,)
    choices = [choice for part in kinds if get_origin(part) is Literal for choice in get_args(part)]
    only_names = all(get_origin(part) is Literal or part is type(None) for part in kinds)
    if only_names and isinstance(value, str):
        return unknown_name(name, value, choices)
    return ValueError(f"{name} = {shortened(repr(value))}: allowed is {describe(hint)}")


def conform(value: Any, hint: Any) -> Any:
    """`value` converted to the type `hint`. Raises ValueError, TypeError or OverflowError if that is not possible."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if args[0] is not str and value not in (math.inf, -math.inf):  # the rules decide about text and infinity
            value = conform(value, args[0])
        good = isinstance(value, args[0]) if args[0] is str else True
        good = good and all(rule.allows(value) for rule in args[1:] if hasattr(rule, "allows"))
    elif origin in UNIONS:
        return _first_that_fits(value, args)
    elif origin is tuple:
        if isinstance(value, (str, bytes, dict)):
            raise TypeError
        values = tuple(value)
        kinds = args if args and args[-1] is not Ellipsis else (args[:1] or (Any,)) * len(values)
        good, value = len(values) == len(kinds), tuple(conform(x, of_x) for x, of_x in zip(values, kinds))
    elif origin is Literal:
        good = any(value == choice and type(value) is type(choice) for choice in args)
    elif hint in (int, float):
        kind: Any = numbers.Integral if hint is int else numbers.Real
        good = isinstance(value, kind) and not isinstance(value, bool)
        value = hint(value)
        good = good and abs(value) <= LARGEST[hint]
    elif hint is bool:
        good, value = type(value).__name__ in ("bool", "bool_"), bool(value)  # NumPy's own too
    elif hint is type(None):
        good = value is None
    elif hint is str:
        value, good = str(value), isinstance(value, str) and ONE_LINE.allows(value)
    else:
        good = hint is Any or not isinstance(origin or hint, type) or isinstance(value, origin or hint)
    if not good:
        raise ValueError
    return value


def _first_that_fits(value: Any, hints: Iterable[Any]) -> Any:
    for hint in hints:
        try:
            return conform(value, hint)
        except (ValueError, TypeError, OverflowError):
            pass
    raise ValueError


def describe(hint: Any) -> str:
    """What a user may write for a value of this type."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        rules = ", ".join(str(rule) for rule in args[1:] if hasattr(rule, "allows"))
        base = describe(args[0]).replace("finite ", "")  # the bounds say that
        return rules if args[0] is str else f"{base}, {rules}"
    if origin is tuple:
        each = describe(args[0]) if args else "any"
        return f"{'any number of' if Ellipsis in args else len(args)} values, each {each}"
    if origin in UNIONS:
        return " or ".join(describe(arg) for arg in args if arg is not type(None)) + ", or None" * (type(None) in args)
    if origin is Literal:
        return ", ".join(map(str, args))
    if origin is dict:
        return f"names, each with {describe(args[1])}"
    name = str(getattr(hint, "__name__", hint))
    return WORDS.get(hint, f"{'an' if name[0] in 'AEIOU' else 'a'} {name}")


def shortened(text: str, most: int = 200) -> str:
    """The beginning of a long text."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def check_name(field_name: str, value: str, allowed: Iterable[str]) -> None:
    """Raises ValueError, one line with the nearest valid name, unless `value` is in `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise unknown_name(field_name, value, allowed)


def unknown_name(field_name: str, value: str, allowed: Iterable[Any]) -> ValueError:
    """The error that gives the nearest valid name."""
    names = [str(name) for name in allowed]
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.4)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    listed = ", ".join(names) or "none"
    return ValueError(f"{field_name}: unknown name {shortened(repr(value))}{hint} Allowed: {listed}")
