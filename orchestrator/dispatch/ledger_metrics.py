"""What the ledger says when Prometheus asks: images in flight, queues, slots, batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dermbatch.errors import LedgerUnavailable
from dermbatch.ledger import Ledger, Snapshot
from dermbatch.ledger.queue import QUEUES


class LedgerMetrics(Collector):
    """Gauges of the moment; none where Redis does not answer, so that no old value is taken for a new one."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        """Ask the ledger."""
        try:
            moment = self._ledger.snapshot()
        except LedgerUnavailable:
            return
        yield from _images(moment)
        yield from _batches(moment)
        yield _memory(moment)


def _images(moment: Snapshot) -> Iterator[Metric]:
    in_flight = GaugeMetricFamily("dermbatch_in_flight_images", "Images in flight, by state.", labels=["state"])
    for state, count in moment.states.items():
        in_flight.add_metric([state], count)
    depth = GaugeMetricFamily("dermbatch_queue_depth", "Messages no worker has taken yet.", labels=["lane"])
    waiting = GaugeMetricFamily(
        "dermbatch_oldest_waiting_seconds",
        "How long the oldest image has waited for a worker.",
        labels=["lane"],
    )
    for lane in QUEUES:
        depth.add_metric([lane], moment.queued[lane])
        waiting.add_metric([lane], moment.waits.get(lane, 0))
    slots = GaugeMetricFamily("dermbatch_worker_slots", "Worker slots heard of lately.", value=moment.slots)
    yield from (in_flight, depth, waiting, slots)


def _batches(moment: Snapshot) -> Iterator[Metric]:
    states = moment.batches
    counted = Counter(state.state for state in states)
    batches = GaugeMetricFamily("dermbatch_open_batches", "Batches not closed, by state.", labels=["state"])
    for name in ("open", "paused", "cancelled"):
        batches.add_metric([name], counted[name])
    left = GaugeMetricFamily(
        "dermbatch_images_left", "Images of open batches without an outcome.", labels=["lane"]
    )
    for lane in QUEUES:
        left.add_metric([lane], sum(state.left for state in states if state.lane == lane))
    outcomes = GaugeMetricFamily(
        "dermbatch_open_outcomes", "Outcomes of batches that are not closed.", labels=["lane", "outcome"]
    )
    work = GaugeMetricFamily(
        "dermbatch_work_images", "Images that workers are needed for.", labels=["lane", "state"]
    )
    for lane in QUEUES:
        of_lane = [state for state in states if state.lane == lane]
        outcomes.add_metric([lane, "done"], sum(state.done for state in of_lane))
        outcomes.add_metric([lane, "failed"], sum(state.failed for state in of_lane))
        # What a paused batch has not fed yet needs no workers; what it has in flight is finished.
        backlog = sum(max(0, state.left - state.in_flight) for state in of_lane if state.state == "open")
        work.add_metric([lane, "backlog"], backlog)
        for name in ("queued", "running", "waiting"):
            work.add_metric([lane, name], moment.lanes[lane][name])
    yield from (batches, left, outcomes, work)


def _memory(moment: Snapshot) -> Metric:
    used, limit = moment.memory
    memory = GaugeMetricFamily("dermbatch_redis_memory_bytes", "Memory of Redis.", labels=["kind"])
    memory.add_metric(["used"], used)
    memory.add_metric(["limit"], limit)
    return memory
