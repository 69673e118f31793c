"""A YAML document whose values know their lines, so that errors can point at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dermbatch.errors import UsageError
from orchestrator.planning.documents import MOST_BYTES, composed, constructed

Step = str | int
"""A mapping's key or a list's position."""


@dataclass(frozen=True)
class Document:
    """A file's values and where they stand.

    Attributes:
        path: The file.
        values: What is in it: mappings, lists, strings, numbers, booleans.
        root: The tree that ``values`` were made of; none of an empty file.
    """

    path: Path
    values: Any
    root: yaml.Node | None

    def place(self, steps: Sequence[Step]) -> str:
        """File and line of a value, or of the nearest existing one around it.

        Args:
            steps: Keys and list positions that lead to it, as pydantic's ``loc``.
        """
        node, line = self.root, 0
        for step in steps:
            found = _child(node, step)
            if found is None:
                break
            node, line = found
        return f"{self.path}, line {line + 1}"


def read_document(path: Path) -> Document:
    """Read a YAML file by the safe loader.

    Raises:
        UsageError: If it cannot be read, is larger than 1 MiB, is not YAML, expands to many times its size through
            aliases, or has a duplicate key.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path} is larger than {MOST_BYTES} bytes")
    try:
        root = composed(data)
        if root is not None:
            _check_keys(path, root, set())
        values = constructed(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{path}{line}: not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # An impossible date, characters not allowed in YAML, a thousand nested brackets.
        raise UsageError(f"{path}: not YAML that can be read") from error
    return Document(path, values, root)


def _check_keys(path: Path, node: yaml.Node, seen: set[int]) -> None:
    """Refuse duplicate keys, of which YAML's own loader silently takes the last."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(path, item, seen)
    elif isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                raise UsageError(f"{path}, line {key.start_mark.line + 1}: {key.value!r} occurs twice; remove one")
            if isinstance(key, yaml.ScalarNode):
                keys.add(key.value)
            _check_keys(path, value, seen)


def _child(node: yaml.Node | None, step: Step) -> tuple[yaml.Node, int] | None:
    """What a step leads to, and the line where that begins: a mapping's value does with its key."""
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step].start_mark.line
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return value, key.start_mark.line
    return None
