"""Model cards: what a shipped model was made for, and how it measured."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_TITLE = re.compile(r"^# .+, version (\S+)$", re.MULTILINE)
_FIGURE = re.compile(r"^\| ([a-zA-Z][^|]*?) \| ([^|]+?) \|$", re.MULTILINE)
_FIGURES, _OPERATING, _NEXT = "\n## Figures\n", "\n## Operating points\n", "\n## "


@dataclass(frozen=True)
class ModelCard:
    """A ``MODEL_CARD.md``.

    Attributes:
        text: Markdown.
        version: Version of the model described; none if the card does not say.
        does: What the model does, in a sentence.
        figures: Measured figures by name, as written: a value, with its interval if there is one.
        operating: Operating points and thresholds of possible labels, with what they reached.
    """

    text: str
    version: str | None
    does: str
    figures: dict[str, str]
    operating: dict[str, str] = field(default_factory=dict)


def card_of(repository: Path, model: str) -> ModelCard | None:
    """The card of a model in a repository; none if it has no readable one."""
    try:
        text = (repository / model / "MODEL_CARD.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    title = _TITLE.search(text)
    does = next((line for line in text.splitlines()[1:] if line.strip()), "")
    return ModelCard(text, title and title[1], does, _table(text, _FIGURES), _table(text, _OPERATING))


def _table(text: str, heading: str) -> dict[str, str]:
    """The rows of the table below a heading."""
    rows = _FIGURE.findall(text.partition(heading)[2].partition(_NEXT)[0])
    return {name: value for name, value in rows if name not in {"Figure", "Point"}}
