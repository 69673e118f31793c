"""What the ledger says when Prometheus asks: images in flight, queues, slots, batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dermbatch.errors import LedgerUnavailable
from dermbatch.ledger import Ledger
from dermbatch.queue import QUEUES
from dermbatch.records import Lane

_LANES: tuple[Lane, ...] = ("live", "bulk")


class LedgerMetrics(Collector):
    """Gauges of the moment; none where Redis does not answer, so that no old value is taken for a new one."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        """Ask the ledger."""
        try:
            gauges = [*self._images(), *self._batches()]
        except LedgerUnavailable:
            return
        yield from gauges

    def _images(self) -> Iterator[Metric]:
        in_flight = GaugeMetricFamily(
            "dermbatch_in_flight_images", "Images in flight, by state.", labels=["state"]
        )
        for state, count in self._ledger.states().items():
            in_flight.add_metric([state], count)
        depth = GaugeMetricFamily("dermbatch_queue_depth", "Messages no worker has taken yet.", labels=["lane"])
        waiting = GaugeMetricFamily(
            "dermbatch_oldest_waiting_seconds",
            "How long the oldest image has waited for a worker.",
            labels=["lane"],
        )
        for lane in _LANES:
            depth.add_metric([lane], self._ledger.queue_length(QUEUES[lane]))
            waiting.add_metric([lane], self._ledger.waiting(lane) or 0)
        slots = GaugeMetricFamily(
            "dermbatch_worker_slots", "Worker slots heard of lately.", value=self._ledger.live_slots()
        )
        yield from (in_flight, depth, waiting, slots)

    def _batches(self) -> Iterator[Metric]:
        states = self._ledger.batches()
        counted = Counter(state.state for state in states)
        batches = GaugeMetricFamily("dermbatch_open_batches", "Batches not closed, by state.", labels=["state"])
        for name in ("open", "paused", "cancelled"):
            batches.add_metric([name], counted[name])
        left = GaugeMetricFamily(
            "dermbatch_images_left", "Images of open batches without an outcome.", labels=["lane"]
        )
        for lane in _LANES:
            left.add_metric([lane], sum(state.left for state in states if state.lane == lane))
        yield from (batches, left)
