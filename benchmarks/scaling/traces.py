"""Work as it arrives, and what goes wrong meanwhile. The same seed gives the same trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dermbatch.records.asked import Lane

HOUR = 3600.0

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Arrival:
    """Images that come at one moment (seconds from the start)."""

    time: float
    lane: Lane
    images: int


@dataclass(frozen=True)
class Loss:
    """A node that vanishes, the oldest of its pool, where there is one."""

    time: float
    pool: Literal["gpu", "cpu"]


@dataclass(frozen=True)
class Trace:
    """What happens.

    Attributes:
        name: Of the trace.
        arrivals: In the order of time.
        losses: Likewise.
        until: Seconds for which the cluster is looked at, at least.
    """

    name: str
    arrivals: tuple[Arrival, ...]
    losses: tuple[Loss, ...] = ()
    until: float = 0.0


def morning_dump(seed: int) -> Trace:
    """From 5 o'clock: a PACS sends 3,000 images of the night at 6; then a clinic's day, 60 an hour until 17."""
    noise = np.random.default_rng(seed)
    dump = np.clip(noise.normal(1 * HOUR, 0.2 * HOUR, 3000), 0, None)
    day = 3 * HOUR + _poisson(noise, 60 / HOUR, 9 * HOUR)
    return Trace("morning-dump", _live(np.concatenate([dump, day])), until=13 * HOUR)


def archive(seed: int) -> Trace:
    """Ten million images of an archive at once, and beside it a clinic's 40 live images an hour for two days."""
    live = _live(_poisson(np.random.default_rng(seed), 40 / HOUR, 48 * HOUR))
    return Trace("archive", (Arrival(0.0, "bulk", 10_000_000), *live), until=48 * HOUR)


def node_losses(seed: int) -> Trace:
    """A million images and 60 live ones an hour, while about one node of each kind is taken away each hour."""
    noise = np.random.default_rng(seed)
    live = _live(_poisson(noise, 60 / HOUR, 8 * HOUR))
    losses = [Loss(float(time), "gpu") for time in _poisson(noise, 1 / HOUR, 8 * HOUR)]
    losses += [Loss(float(time), "cpu") for time in _poisson(noise, 1 / HOUR, 8 * HOUR)]
    in_order = tuple(sorted(losses, key=lambda loss: loss.time))
    return Trace("node-losses", (Arrival(0.0, "bulk", 1_000_000), *live), in_order, until=8 * HOUR)


TRACES = {"morning-dump": morning_dump, "archive": archive, "node-losses": node_losses}


def _poisson(noise: np.random.Generator, rate: float, length: float) -> Times:
    """Times of a Poisson process of so many a second."""
    return np.sort(noise.uniform(0, length, noise.poisson(rate * length)))


def _live(times: Times) -> tuple[Arrival, ...]:
    return tuple(Arrival(float(time), "live", 1) for time in np.sort(times))
