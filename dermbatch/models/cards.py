"""Model cards: what a model that comes along was made for, and what was measured of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_TITLE = re.compile(r"^# .+, version (\S+)$", re.MULTILINE)
_FIGURE = re.compile(r"^\| ([a-zA-Z][^|]*?) \| ([^|]+?) \|$", re.MULTILINE)
_FIGURES, _NEXT = "\n## Figures\n", "\n## "


@dataclass(frozen=True)
class Card:
    """A ``MODEL_CARD.md``.

    Attributes:
        text: Markdown.
        version: Of the model that it is of; none where it does not say.
        does: What the model does, in a sentence.
        figures: What was measured, by name, as it is written: a value, and its interval where there is one.
    """

    text: str
    version: str | None
    does: str
    figures: dict[str, str]


def card_of(repository: Path, model: str) -> Card | None:
    """The card of a model in a repository; none where it has none that can be read."""
    try:
        text = (repository / model / "MODEL_CARD.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    title = _TITLE.search(text)
    does = next((line for line in text.splitlines()[1:] if line.strip()), "")
    figures = text.partition(_FIGURES)[2].partition(_NEXT)[0]
    measured = {name: value for name, value in _FIGURE.findall(figures) if name != "Figure"}
    return Card(text, title and title[1], does, measured)
