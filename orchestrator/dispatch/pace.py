"""How fast a batch goes, and how long it still takes, told from the work that is left and not from its images.

An image whose lesion is small takes a hundred times what one without takes, one that is known hardly anything. So
outcomes are counted by kind, and where the mean of what is left cannot be told from them, nobody pretends to know.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from dermbatch.ledger import BatchState
from dermbatch.ledger.batches import Kind, Spent

_RATE_SECONDS = 2.0
_LEAST_SECONDS = 0.5  # two looks in quick succession tell no speed
_WINDOW = 60.0
_LEAST = 10
"""Outcomes before anything is told, and in the window that speed is told from, however long that is then."""

_DEARER = 100.0
"""What an enlarged image takes, by what a plain one does, where none was seen yet."""

_DOUBT = 0.5
"""Standard error of the mean, by the mean, above which it is not known."""

_DRIFT = 2.0
"""The last ones take so many times what all did, or the reverse: the images are in an order of their own."""


_NONE = Spent(0, 0.0)

_Kinds = Mapping[Kind, Spent]


class Rate:
    """Outcomes a second over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._told = -math.inf

    @property
    def lately(self) -> float:
        """Outcomes a second."""
        if len(self._seen) < 2:
            return 0.0
        (start, before), (end, now) = self._seen[0], self._seen[-1]
        return max(0, now - before) / max(_LEAST_SECONDS, end - start)

    def note(self, outcomes: int, now: float) -> bool:
        """Take down a count; whether a second has passed since it was last true."""
        self._seen.append((now, outcomes))
        while now - self._seen[0][0] > _RATE_SECONDS and len(self._seen) > 2:
            self._seen.popleft()
        if now - self._told < 1:
            return False
        self._told = now
        return True


class Forecast:
    """How long a batch still takes: the work that is left, over how much of it was done a second lately.

    The work is that of workers, in their seconds. Copies are known beforehand, and take what copies took. Of the
    others nobody knows the kind, so they take the mean of those that are through.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, _Kinds]] = deque()

    def note(self, state: BatchState, now: float) -> None:
        """Take down what was spent by now, in seconds of any clock."""
        seen = self._seen
        seen.append((now, state.spent))
        images = _sum(state.spent).images
        while len(seen) > 2 and now - seen[1][0] >= _WINDOW and images - _sum(seen[1][1]).images >= _LEAST:
            seen.popleft()

    def left(self, images: int, copies: int, *, enlarging: bool) -> float | None:
        """Seconds that the batch still takes; none where nobody can tell.

        Args:
            images: Without an outcome.
            copies: How many images of the whole batch are copies of others.
            enlarging: Whether small lesions are enlarged.
        """
        (start, before), (end, spent) = self._seen[0], self._seen[-1]
        lately = {kind: _less(one, before.get(kind, _NONE)) for kind, one in spent.items()}
        done = _sum(lately).seconds
        if done <= 0 or _sum(spent).images < _LEAST:
            return None
        copied = spent.get("copy", _NONE)
        waiting = min(images, max(0, copies - copied.images))
        mean = _mean(_others(spent), _others(lately), enlarging=enlarging)
        if mean is None and waiting < images:
            return None
        work = waiting * _each(copied) + (images - waiting) * (mean or 0.0)
        return work * (end - start) / done


def _mean(spent: _Kinds, lately: _Kinds, *, enlarging: bool) -> float | None:
    """Seconds that an image of unknown kind takes; none where those that were seen do not tell."""
    mean, recent = _each(_sum(spent)), _sum(lately)
    if not mean:
        return None
    if recent.images >= _LEAST and not 1 / _DRIFT <= _each(recent) / mean <= _DRIFT:
        return None
    if enlarging and "plain" in spent and "enlarged" not in spent:  # as if the next one were the first
        spent = {**spent, "enlarged": Spent(1, _DEARER * _each(spent["plain"]))}
    return mean if _doubt(spent) <= _DOUBT else None


def _doubt(spent: _Kinds) -> float:
    """The standard error of the mean of a drawn sample, by the mean; each image is taken for its kind's mean."""
    mean, images = _each(_sum(spent)), _sum(spent).images
    square = sum(one.images * _each(one) ** 2 for one in spent.values()) / images
    return math.sqrt(max(0.0, square - mean**2) / images) / mean


def _others(spent: _Kinds) -> _Kinds:
    """What is known not to be a copy."""
    return {kind: one for kind, one in spent.items() if kind != "copy"}


def _less(one: Spent, other: Spent) -> Spent:
    return Spent(one.images - other.images, one.seconds - other.seconds)


def _sum(spent: _Kinds) -> Spent:
    return Spent(sum(one.images for one in spent.values()), sum(one.seconds for one in spent.values()))


def _each(spent: Spent) -> float:
    return spent.seconds / spent.images if spent.images else 0.0
