"""How fast a batch proceeds and how long it will still take, judged by the work left rather than by images.

An image with a small lesion takes a hundred times as long as one without, a known image hardly any time. So
outcomes are counted by kind, and if they do not tell the mean of what is left, no estimate is given.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from dermbatch.ledger import BatchState
from dermbatch.ledger.batches import Kind, Spent

_RATE_SECONDS = 2.0
_LEAST_SECONDS = 0.5  # two looks in quick succession do not show a speed
_WINDOW = 60.0
_LEAST = 10
"""Outcomes before any estimate is given; also the length of the window that speed is measured over."""

_DEARER = 100.0
"""Time for an enlarged image relative to a plain one, until one has been seen."""

_DOUBT = 0.5
"""Standard error of the mean, relative to the mean, above which no estimate is given."""

_DRIFT = 2.0
"""Ratio of recent to overall mean, or the reverse, from which the images must be sorted in some way."""


_NONE = Spent(0, 0.0)

_Kinds = Mapping[Kind, Spent]


class Rate:
    """Outcomes a second over the last few seconds."""

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
        """Note a count; returns whether a second has passed since this last returned true."""
        self._seen.append((now, outcomes))
        while now - self._seen[0][0] > _RATE_SECONDS and len(self._seen) > 2:
            self._seen.popleft()
        if now - self._told < 1:
            return False
        self._told = now
        return True


class Forecast:
    """How long a batch will still take: the work left, divided by the work lately done a second.

    Work is counted in worker seconds. Copies are known in advance, and take what earlier copies took. The kind of
    all others is unknown, so they are assumed to take the mean of those that are done.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, _Kinds]] = deque()

    def note(self, state: BatchState, now: float) -> None:
        """Note what has been spent so far, at a time in seconds of any clock."""
        seen = self._seen
        seen.append((now, state.spent))
        images = _sum(state.spent).images
        while len(seen) > 2 and now - seen[1][0] >= _WINDOW and images - _sum(seen[1][1]).images >= _LEAST:
            seen.popleft()

    def left(self, images: int, copies: int, *, enlarging: bool) -> float | None:
        """Seconds that the batch will still take; none if unknown.

        Args:
            images: Images without an outcome.
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
    """Seconds that an image of unknown kind takes; none if those seen so far do not tell."""
    mean, recent = _each(_sum(spent)), _sum(lately)
    if not mean:
        return None
    if recent.images >= _LEAST and not 1 / _DRIFT <= _each(recent) / mean <= _DRIFT:
        return None
    if enlarging and "plain" in spent and "enlarged" not in spent:  # as if the next one were to be the first
        spent = {**spent, "enlarged": Spent(1, _DEARER * _each(spent["plain"]))}
    return mean if _doubt(spent) <= _DOUBT else None


def _doubt(spent: _Kinds) -> float:
    """The standard error of a sample's mean, relative to it; each image counts as the mean of its kind."""
    mean, images = _each(_sum(spent)), _sum(spent).images
    square = sum(one.images * _each(one) ** 2 for one in spent.values()) / images
    return math.sqrt(max(0.0, square - mean**2) / images) / mean


def _others(spent: _Kinds) -> _Kinds:
    """The kinds that are known not to be copies."""
    return {kind: one for kind, one in spent.items() if kind != "copy"}


def _less(one: Spent, other: Spent) -> Spent:
    return Spent(one.images - other.images, one.seconds - other.seconds)


def _sum(spent: _Kinds) -> Spent:
    return Spent(sum(one.images for one in spent.values()), sum(one.seconds for one in spent.values()))


def _each(spent: Spent) -> float:
    return spent.seconds / spent.images if spent.images else 0.0
