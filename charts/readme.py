"""The table of values in the chart's README, made of the comments in ``values.yaml``.

``python charts/readme.py`` rewrites it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "dermbatch"
_BEGIN, _END = "<!-- values: begin -->", "<!-- values: end -->"


@dataclass(frozen=True)
class Value:
    """A key of ``values.yaml``.

    Attributes:
        path: Keys that lead to it.
        comment: What stands above it; empty where nothing does.
        default: What it is.
        group: Whether keys below it have comments of their own.
    """

    path: tuple[str, ...]
    comment: str
    default: Any
    group: bool


def values(text: str) -> list[Value]:
    """All keys of a ``values.yaml``, in its order, down to those without comments below them."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    return list(_walk(root, text.splitlines(), ()))


def _walk(node: yaml.Node | None, lines: Sequence[str], path: tuple[str, ...]) -> Iterator[Value]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, child in node.value:
        here = (*path, key.value)
        below = list(_walk(child, lines, here))
        group = any(value.comment for value in below)
        default = yaml.safe_load(yaml.serialize(child))
        yield Value(here, _comment_above(lines, key.start_mark.line, node.flow_style), default, group)
        if group:
            yield from below


def _comment_above(lines: Sequence[str], line: int, inline: bool | None) -> str:
    """The lines of comment right above a key; none within braces, where the line is another key's."""
    found: list[str] = []
    while not inline and line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        found.insert(0, lines[line].lstrip().removeprefix("#").strip())
    return " ".join(found)


def table(text: str) -> str:
    """A Markdown table; keys that have others below them are bold."""
    parts = ["| Value | Default | Meaning |", "|---|---|---|"]
    for value in values(text):
        name = f"`{'.'.join(value.path)}`"
        default = "" if value.group else f"`{json.dumps(value.default)}`"
        meaning = value.comment.replace("|", "\\|")
        parts.append(f"| {f'**{name}**' if value.group else name} | {default} | {meaning} |")
    return "\n".join(parts)


def readme() -> str:
    """The README as it should be."""
    text = (CHART / "README.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    made = table((CHART / "values.yaml").read_text(encoding="utf-8"))
    return f"{before}{_BEGIN}\n{made}\n{_END}{after}"


if __name__ == "__main__":
    (CHART / "README.md").write_text(readme(), encoding="utf-8")
