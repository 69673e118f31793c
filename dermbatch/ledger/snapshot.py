"""How everything stands at one moment, from one round trip to Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from dermbatch.ledger.batches import BatchState, batch_states
from dermbatch.ledger.connection import BATCH, COUNTS, OPEN, SLOTS, STATES, Connection
from dermbatch.ledger.queue import LANES, QUEUES
from dermbatch.ledger.slots import SILENCE_MS
from dermbatch.records.asked import Lane


def _none_in_flight() -> dict[Lane, dict[str, int]]:
    return {lane: dict.fromkeys(("queued", "running", "waiting", "poison"), 0) for lane in QUEUES}


@dataclass(frozen=True)
class Snapshot:
    """What the ledger knows; the defaults describe an idle stack.

    Attributes:
        batches: Those that are not closed, oldest first.
        lanes: In-flight images of each lane by state: queued, running, waiting, poison.
        waits: Seconds that the oldest image of a lane has been waiting for a worker, where one waits.
        queued: Messages of each lane that no worker has taken yet.
        slots: Worker slots heard from recently.
        memory: Bytes that Redis uses, and the most that it may use; 0 if it has no limit of its own.
    """

    batches: list[BatchState] = field(default_factory=list)
    lanes: dict[Lane, dict[str, int]] = field(default_factory=_none_in_flight)
    waits: dict[Lane, float] = field(default_factory=dict)
    queued: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(QUEUES, 0))
    slots: int = 0
    memory: tuple[int, int] = (0, 0)

    @property
    def states(self) -> dict[str, int]:
        """In-flight images of all lanes by state."""
        return {state: sum(lane[state] for lane in self.lanes.values()) for state in self.lanes["live"]}


def take_snapshot(connection: Connection) -> Snapshot:
    """Ask once.

    Raises:
        LedgerUnavailable: If Redis does not answer.
    """
    names = [OPEN, COUNTS, STATES, SLOTS, *QUEUES.values()]
    now, batches, images, lengths, slots, used, limit = cast(
        list[Any], connection.run("snapshot", names, [BATCH, SILENCE_MS])
    )
    lanes, waits = _none_in_flight(), dict[Lane, float]()
    for image in images:  # as ``prelude.lua`` keeps them
        state, *_, since, queue = image.split("|")
        lane = LANES[queue]
        lanes[lane][state] += 1
        if state == "queued":
            waits[lane] = max(waits.get(lane, 0.0), (now - int(since)) / 1000)
    queued = dict(zip(QUEUES, lengths, strict=True))
    return Snapshot(batch_states(batches), lanes, waits, queued, slots, (used, limit))


def merged(snapshots: Sequence[Snapshot]) -> Snapshot:
    """The snapshots of several shards as one."""
    lanes = _none_in_flight()
    for lane, states in lanes.items():
        for state in states:
            states[state] = sum(one.lanes[lane][state] for one in snapshots)
    waits = {lane: [one.waits[lane] for one in snapshots if lane in one.waits] for lane in lanes}
    return Snapshot(
        batches=sorted((state for one in snapshots for state in one.batches), key=lambda state: state.opened),
        lanes=lanes,
        waits={lane: max(seconds) for lane, seconds in waits.items() if seconds},
        queued={lane: sum(one.queued[lane] for one in snapshots) for lane in lanes},
        slots=sum(one.slots for one in snapshots),
        memory=(sum(one.memory[0] for one in snapshots), sum(one.memory[1] for one in snapshots)),
    )
