"""Where the ledger's data lie in Redis."""

from __future__ import annotations

PREFIX = "dermbatch:"
INFLIGHT, STATES, JOBS, COUNTS = PREFIX + "inflight", PREFIX + "states", PREFIX + "jobs", PREFIX + "counts"
FLIGHT = (INFLIGHT, STATES, JOBS, COUNTS)
"""The images in flight: their times, what is kept of each, their messages, how many a batch has."""

OPEN, SLOTS, CLOCK = PREFIX + "open", PREFIX + "slots", PREFIX + "clock"
LEADER, WAKE, WATCH_LOOK = PREFIX + "leader", PREFIX + "wake", PREFIX + "watch:look"

BATCH = PREFIX + "batch:"
"""A batch's keys begin with it; ``standing`` of ``scripts/prelude.lua`` names them too."""


def batch_of(name: str) -> str:
    """Hash with what is known of a batch."""
    return BATCH + name


def reasons_of(name: str) -> str:
    """Hash of its failures by reason."""
    return f"{BATCH}{name}:reasons"


def bitmaps_of(name: str) -> tuple[str, str]:
    """Its bitmaps: done, failed."""
    return f"{BATCH}{name}:done", f"{BATCH}{name}:failed"
