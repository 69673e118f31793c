"""What the ledger says when Prometheus asks: images in flight, queues, slots, batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dermbatch.errors import LedgerUnavailable
from dermbatch.ledger import Ledger
from dermbatch.ledger.queue import QUEUES
from dermbatch.records import Lane

_LANES: tuple[Lane, ...] = ("live", "bulk")


class LedgerMetrics(Collector):
    """Gauges of the moment; none where Redis does not answer, so that no old value is taken for a new one."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        """Ask the ledger."""
        try:
            gauges = [*self._images(), *self._batches(), self._memory()]
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
        outcomes = GaugeMetricFamily(
            "dermbatch_open_outcomes", "Outcomes of batches that are not closed.", labels=["lane", "outcome"]
        )
        work = GaugeMetricFamily(
            "dermbatch_work_images", "Images that workers are needed for.", labels=["lane", "state"]
        )
        in_flight = self._ledger.states_by_lane()
        for lane in _LANES:
            of_lane = [state for state in states if state.lane == lane]
            outcomes.add_metric([lane, "done"], sum(state.done for state in of_lane))
            outcomes.add_metric([lane, "failed"], sum(state.failed for state in of_lane))
            # What a paused batch has not fed yet needs no workers; what it has in flight is finished.
            backlog = sum(max(0, state.left - state.in_flight) for state in of_lane if state.state == "open")
            work.add_metric([lane, "backlog"], backlog)
            for name in ("queued", "running", "waiting"):
                work.add_metric([lane, name], in_flight[lane][name])
        yield from (batches, left, outcomes, work)

    def _memory(self) -> Metric:
        used, limit = self._ledger.memory()
        memory = GaugeMetricFamily("dermbatch_redis_memory_bytes", "Memory of Redis.", labels=["kind"])
        memory.add_metric(["used"], used)
        memory.add_metric(["limit"], limit)
        return memory
