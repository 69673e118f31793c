"""What the ledger says when Prometheus asks: images in flight, queues, slots, batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dermbatch.errors import LedgerUnavailable
from dermbatch.ledger import Ledger, Snapshot
from dermbatch.ledger.queue import QUEUES


class LedgerMetrics(Collector):
    """Current gauges; none if Redis does not answer, so that no old value is mistaken for a new one."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        """Ask the ledger."""
        try:
            moment = self._ledger.snapshot()
        except LedgerUnavailable:
            return
        yield from _of_stack(moment)
        yield from _of_batches(moment)


def _of_stack(moment: Snapshot) -> Iterator[Metric]:
    yield _gauge("dermbatch_in_flight_images", "Images in flight, by state.", ["state"], moment.states)
    yield _gauge("dermbatch_queue_depth", "Messages no worker has taken yet.", ["lane"], moment.queued)
    waits = {lane: moment.waits.get(lane, 0.0) for lane in QUEUES}
    yield _gauge(
        "dermbatch_oldest_waiting_seconds", "How long the oldest image has waited for a worker.", ["lane"], waits
    )
    yield GaugeMetricFamily("dermbatch_worker_slots", "Worker slots heard of lately.", value=moment.slots)
    memory = dict(zip(("used", "limit"), moment.memory, strict=True))
    yield _gauge("dermbatch_redis_memory_bytes", "Memory of Redis.", ["kind"], memory)


def _of_batches(moment: Snapshot) -> Iterator[Metric]:
    counted = Counter(state.state for state in moment.batches)
    by_state = {name: counted[name] for name in ("open", "paused", "cancelled")}
    yield _gauge("dermbatch_open_batches", "Batches not closed, by state.", ["state"], by_state)
    left, outcomes, work = dict[str, int](), dict[tuple[str, ...], int](), dict[tuple[str, ...], int]()
    for lane in QUEUES:
        of_lane = [state for state in moment.batches if state.lane == lane]
        left[lane] = sum(state.left for state in of_lane)
        outcomes[lane, "done"] = sum(state.done for state in of_lane)
        outcomes[lane, "failed"] = sum(state.failed for state in of_lane)
        # A paused batch needs workers only for what it has in flight, which is finished.
        work[lane, "backlog"] = sum(max(0, one.left - one.in_flight) for one in of_lane if one.state == "open")
        work |= {(lane, name): moment.lanes[lane][name] for name in ("queued", "running", "waiting")}
    yield _gauge("dermbatch_images_left", "Images of open batches without an outcome.", ["lane"], left)
    labels = ["lane", "outcome"]
    yield _gauge("dermbatch_open_outcomes", "Outcomes of batches that are not closed.", labels, outcomes)
    yield _gauge("dermbatch_work_images", "Images that workers are needed for.", ["lane", "state"], work)


def _gauge(name: str, text: str, labels: list[str], values: Mapping[Any, float]) -> Metric:
    """Values by label, or by labels."""
    gauge = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        gauge.add_metric([key] if isinstance(key, str) else key, value)
    return gauge
