"""The one reader of YAML files: the core schema of YAML 1.2, in bounded time and memory; a failure is one line.

So 010 is ten, 3e-4 a number, 1:30 and yes are texts, and a key that is there twice is a mistake. PyYAML alone reads
1.1, where they are 8, a text, 90, True, and the later of the two. Merge keys (<<) are understood although 1.2 has none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, Dict, Type

import yaml

from .text import printable

MAX_BYTES, MAX_NODES, MAX_DEPTH = 1 << 20, 10_000, 40  # nodes: with aliases expanded


def read(path: str | Path, what: str = "file", words: bool = False) -> Dict[str, Any]:
    """The mapping in a file, {} for an empty one. With `words` numbers stay text, as they are written. Raises
    ValueError, one line that begins with `what` and the path."""
    name = f"{what} = '{printable(path)}'"
    try:
        if not Path(path).is_file() and Path(path).exists():
            raise ValueError(f"{name}: it is not a file")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name}: it is too large, allowed is {MAX_BYTES >> 10} KiB")
    try:
        tree = load(data.decode("utf-8-sig"), Words if words else Core)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not YAML: byte {error.start} is not UTF-8") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{name} is not YAML: {reason(error)}") from None
    if tree is not None and not isinstance(tree, dict):
        raise ValueError(f"{name}: allowed are names and values, such as 'num_envs: 64'")
    return tree or {}


def reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    text = f"line {mark.line + 1}: {error.problem}" if mark else str(error)  # type: ignore[attr-defined]
    return printable(text, 200)


def load(text: str, schema: Type[Core] | None = None) -> Any:
    loader = (schema or Core)(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def scalar(text: str) -> Any:
    """The value of a plain scalar."""
    loader = Core("")
    return loader.construct_object(yaml.ScalarNode(loader.resolve(yaml.ScalarNode, text, (True, False)), text))


class Core(yaml.SafeLoader):
    """Plain values as the core schema reads them, and no tags but its own."""

    yaml_implicit_resolvers: Dict[str, Any] = {}
    yaml_constructors: Dict[Any, Callable] = {}
    nodes = depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Counts the nodes so far; an alias counts as all nodes that it stands for."""
        event, before = self.peek_event(), self.nodes
        self.depth += 1
        self.check_size()
        node: Any = super().compose_node(parent, index)
        self.depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self.nodes += 1
            node.size = self.nodes - before
        elif hasattr(node, "size"):
            self.nodes += node.size
        else:
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: *{event.anchor} contains itself")
        self.check_size()
        return node

    def check_size(self) -> None:
        if self.nodes > MAX_NODES or self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"it has more than {MAX_NODES} values, or some nested deeper than {MAX_DEPTH}")

    def compose_mapping_node(self, anchor: Any) -> Any:
        node, lines = super().compose_mapping_node(anchor), {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {line}: a name is one word, not a list or a mapping")
            if key.value in lines:
                raise yaml.YAMLError(f"line {line}: {key.value!r} is in line {lines[key.value]} already")
            lines[key.value] = line
        return node

    def construct_mapping(self, node: Any, deep: bool = True) -> Dict[str, Any]:
        """Merged values come first, so that the mapping's own values win; in a list of mappings the first wins."""
        merged, own = {}, {}
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                own[key.value] = self.construct_object(value, deep=True)
                continue
            others = value.value if isinstance(value, yaml.SequenceNode) else [value]
            if not all(isinstance(other, yaml.MappingNode) for other in others):
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: << takes a mapping or a list of them")
            for other in reversed(others):
                merged.update(self.construct_mapping(other))
        return {**merged, **own}

    def construct_int(self, node: Any) -> Any:
        return int(node.value, {"0o": 8, "0x": 16}.get(node.value[:2], 10))

    def construct_float(self, node: Any) -> Any:
        return float(python_float(node.value))


class Words(Core):
    """Numbers as they are written."""

    def construct_int(self, node: Any) -> Any:
        return node.value

    def construct_float(self, node: Any) -> Any:
        return python_float(node.value)


def python_float(text: str) -> str:
    """.inf -> inf, which YAML writes with a point"""
    return re.sub(r"\.(?=inf|nan)", "", text.lower())


for name, pattern, construct in (
    ("null", "~|null|Null|NULL|", lambda loader, node: None),
    ("bool", "true|True|TRUE|false|False|FALSE", lambda loader, node: node.value.lower() == "true"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", lambda loader, node: loader.construct_int(node)),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        lambda loader, node: loader.construct_float(node),
    ),
    ("merge", "<<", lambda loader, node: loader.construct_scalar(node)),
    ("str", None, lambda loader, node: loader.construct_scalar(node)),
    ("seq", None, lambda loader, node: loader.construct_sequence(node, deep=True)),
    ("map", None, lambda loader, node: loader.construct_mapping(node)),
):
    tag = f"tag:yaml.org,2002:{name}"
    if pattern is not None:
        Core.add_implicit_resolver(tag, re.compile(f"(?:{pattern})\\Z"), None)
    Core.add_constructor(tag, construct)
Core.add_constructor(None, yaml.SafeLoader.construct_undefined)  # type: ignore[arg-type]
