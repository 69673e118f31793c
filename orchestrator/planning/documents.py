"""Untrusted YAML: values that are no larger than what is written in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from dermbatch.errors import UsageError

Model = TypeVar("Model", bound=BaseModel)

MOST_BYTES = 1 << 20
"""Size of the largest document that is read."""
_MOST_NODES = 50_000
_LONGEST_NUMBER = 100
_NUMBERS = frozenset({"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"})


def composed(data: bytes) -> yaml.Node | None:
    """The tree of a YAML document, whose aliases may not expand beyond what a document of its size could say.

    Nested aliases and merge keys (``<<``) multiply: a few lines become millions of values. And parsing a long
    number, above all in base 60, takes time quadratic in its digits.

    Args:
        data: The document, at most :data:`MOST_BYTES`.

    Raises:
        yaml.YAMLError: If it is not YAML, or expands to too much.
        ValueError: If a value is invalid.
    """
    loader = yaml.SafeLoader(data)
    try:
        root = loader.get_single_node()
        if root is not None:
            _count(root, {})
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    finally:
        loader.dispose()
    return root


def constructed(root: yaml.Node | None) -> Any:
    """The values of a tree.

    Raises:
        yaml.YAMLError, ValueError: As for :func:`composed`.
    """
    loader = yaml.SafeLoader(b"")
    try:
        return loader.construct_document(root) if root is not None else None
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    finally:
        loader.dispose()


def read_model(path: Path, kind: type[Model], what: str, *, are: str = "is") -> Model:
    """The content of a YAML file, as a model.

    Args:
        path: The file; nothing beyond :data:`MOST_BYTES` is read.
        kind: The model that it must fit.
        what: What sentences call it: ``the profile``.
        are: The verb that goes with that.

    Raises:
        UsageError: If the file cannot be read or does not fit the model; in one sentence.
    """
    try:
        with path.open("rb") as file:
            values: Any = constructed(composed(file.read(MOST_BYTES)))
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{what} {path} {are} not YAML{line}") from error
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in error.errors())
        raise UsageError(f"{what} {path} cannot be used: {wrong}") from error


def _count(node: yaml.Node, counted: dict[int, int]) -> int:
    """How many values a node stands for, including those that its aliases lead to."""
    if (known := counted.get(id(node))) is not None:
        return known
    if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
        problem = f"a number of more than {_LONGEST_NUMBER} characters"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    counted[id(node)] = 1  # an alias to something that contains it is not expanded twice
    inside: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        inside = node.value
    elif isinstance(node, yaml.MappingNode):
        inside = [one for pair in node.value for one in pair]
    count = 1 + sum(_count(one, counted) for one in inside)
    if count > _MOST_NODES:
        problem = f"its values and aliases expand to more than {_MOST_NODES:,}"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    counted[id(node)] = count
    return count
