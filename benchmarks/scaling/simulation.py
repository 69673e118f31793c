"""The cluster, event by event: pods and nodes come and go as scaling says, and as they are lost.

Answers of Prometheus come late; pods and nodes take their time; what is scaled away drains, and what it has in
hand then goes back. Nothing is drawn by chance here: all that is random is in the trace.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from benchmarks.scaling.autoscaler import Autoscaler
from benchmarks.scaling.floor import TRITON, WORKERS, Floor
from benchmarks.scaling.nodes import NodePool
from benchmarks.scaling.options import Options
from benchmarks.scaling.outcome import Moment, SimulationOutcome
from benchmarks.scaling.traces import Loss, Trace
from benchmarks.scaling.work import EventQueue, Pod

_JOBS = 200_000  # of a trace, at most: bulk images are taken several at a time where there are more
_WINDOW = 60.0  # seconds over which the rules take rates and means
_AFTERWARDS = 4 * 3600.0  # within which all is given back that will be
_TOO_LONG = 90 * 86400.0

Answers = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class _Sums:
    """Triton's counters at one moment."""

    time: float
    queued: float
    requests: int
    busy: float
    servers: float


class Simulation:
    """One trace under one set of options.

    Args:
        trace: What happens.
        options: Under which rules, and how fast.
    """

    def __init__(self, trace: Trace, options: Options) -> None:
        self._trace, self._options = trace, options
        self._events, self._outcome = EventQueue(), SimulationOutcome(trace.name)
        bulk = sum(arrival.images for arrival in trace.arrivals if arrival.lane == "bulk")
        at_once = max(1, -(-bulk // _JOBS))
        self._floor = Floor(self._events, options.speed, options.bulk_share, at_once, self._outcome, self._end)
        times, prices = options.times, options.prices
        self._pools = {
            "cpu": NodePool(times.cpu_node, times.node_idle, prices.workers_on_a_node),
            "gpu": NodePool(times.gpu_node, times.node_idle, 1),
        }
        targets = options.rules.targets
        if set(targets) != {*WORKERS, TRITON}:
            raise ValueError(f"the rules scale {sorted(targets)}, not {sorted({*WORKERS, TRITON})}")
        self._scalers = {name: Autoscaler(target) for name, target in targets.items()}
        self._pods: dict[str, list[Pod]] = {name: [] for name in targets}
        self._held: list[Pod] = []  # workers that would have started
        self._answers: deque[tuple[float, Answers]] = deque()
        self._sums: deque[_Sums] = deque()
        self._last_event = max(
            [trace.until, *(arrival.time for arrival in trace.arrivals), *(loss.time for loss in trace.losses)]
        )

    def run(self) -> SimulationOutcome:
        """From the start until everything is done and given back."""
        for name, scaler in self._scalers.items():
            for _ in range(scaler.replicas):  # they have been there for long
                self._start(name, already=True)
        self._answers.append((0.0, self._look()))  # what was known before the first image came
        for arrival in self._trace.arrivals:
            self._events.at(arrival.time, lambda arrival=arrival: self._floor.arrive(arrival))  # type: ignore[misc]
        for loss in self._trace.losses:
            self._events.at(loss.time, lambda loss=loss: self._lose(loss))  # type: ignore[misc]
        self._events.at(0.0, self._poll)
        self._events.run()
        now, outcome = self._events.now, self._outcome
        outcome.gpu_hours, outcome.cpu_hours = self._pools["gpu"].hours(now), self._pools["cpu"].hours(now)
        outcome.busy_hours = self._floor.busy.total(now) / 3600
        outcome.image_seconds = self._floor.inside.total(now)
        return outcome

    def _poll(self) -> None:
        """Look, as KEDA and the autoscaler do, and do what follows."""
        now = self._events.now
        self._answers.append((now, self._look()))
        while len(self._answers) > 1 and self._answers[1][0] <= now - self._options.times.seen_late:
            self._answers.popleft()
        for name, scaler in self._scalers.items():
            ready = sum(pod.ready for pod in self._pods[name])
            self._have(name, scaler.poll(now, self._answers[0][1][name], ready))
        for pool in self._pools.values():
            pool.tidy(now)
        self._note()
        if not self._is_over():
            self._events.at(now + self._options.rules.polling, self._poll)

    def _look(self) -> Answers:
        """What the queries of scaling would answer, of the rules' last window."""
        floor, now = self._floor, self._events.now
        live, bulk = floor.work["live"], floor.work["bulk"]
        self._sums.append(
            _Sums(now, floor.queued, floor.requests, floor.busy.total(now), floor.servers.total(now))
        )
        while self._sums[0].time < now - _WINDOW:
            self._sums.popleft()
        first, last = self._sums[0], self._sums[-1]
        nobody = None if live + bulk else 0.0
        requests, seconds = last.requests - first.requests, last.servers - first.servers
        waited = (last.queued - first.queued) / requests if requests else 0.0
        there = bool(floor.servers.level)
        return {
            "worker-live": {"work": float(live)},
            "worker-bulk": {"work": float(live + bulk)},
            TRITON: {
                "needed": float(live + bulk > 0),
                "queue": waited if there else nobody,
                "gpu": (last.busy - first.busy) / seconds if there and seconds else nobody,
            },
        }

    def _have(self, fleet: str, wanted: int) -> None:
        """Start pods, or end them: the youngest first, as Kubernetes does."""
        pods = [pod for pod in self._pods[fleet] if not pod.leaving]
        for _ in range(wanted - len(pods)):
            self._start(fleet)
        for pod in reversed(pods[wanted:]):
            self._floor.close(pod)
            if not pod.gone and fleet in WORKERS:
                after = self._events.now + self._options.times.grace
                self._events.at(after, lambda pod=pod: self._cut_off(pod))  # type: ignore[misc]

    def _start(self, fleet: str, *, already: bool = False) -> None:
        times, now = self._options.times, self._events.now
        node = self._pools["gpu" if fleet == TRITON else "cpu"].place(now)
        pod = Pod(fleet, node)
        self._pods[fleet].append(pod)
        if already:
            node.ready = now
            self._floor.open(pod)
            return
        up = max(now, node.ready) + (times.triton if fleet == TRITON else times.pod)
        self._events.at(up, lambda: self._open(pod))

    def _open(self, pod: Pod) -> None:
        """A pod has started; a worker waits for the first server."""
        if pod.gone or pod.leaving:
            return
        if pod.fleet in WORKERS and self._options.workers_wait and not self._floor.servers.level:
            self._held.append(pod)
            return
        self._floor.open(pod)
        if pod.fleet == TRITON:
            held, self._held = self._held, []
            for worker in held:
                self._open(worker)

    def _cut_off(self, worker: Pod) -> None:
        """A worker's grace is over."""
        if not worker.gone:
            self._floor.give_back(worker, 0.0)
            self._end(worker)

    def _end(self, pod: Pod) -> None:
        if not pod.gone:
            pod.gone = True
            self._pods[pod.fleet].remove(pod)
            self._pools["gpu" if pod.fleet == TRITON else "cpu"].leave(pod.node, self._events.now)

    def _lose(self, loss: Loss) -> None:
        """A node vanishes with its pods; others are started in their place."""
        pool = self._pools[loss.pool]
        if not pool.nodes:
            return
        node = pool.nodes[0]
        for fleet, pods in self._pods.items():
            for pod in [pod for pod in pods if pod.node is node]:
                if fleet == TRITON:
                    self._floor.lose_requests(pod)
                else:
                    self._floor.give_back(pod, self._options.times.lease)
                self._floor.close(pod)
        pool.lose(node, self._events.now)
        for fleet, scaler in self._scalers.items():
            self._have(fleet, scaler.replicas)

    def _note(self) -> None:
        self._outcome.moments.append(
            Moment(
                self._events.now,
                {"live": self._floor.waiting("live"), "bulk": self._floor.waiting("bulk")},
                {name: sum(pod.ready for pod in pods) for name, pods in self._pods.items()},
                {name: len(pool.nodes) for name, pool in self._pools.items()},
            )
        )

    def _is_over(self) -> bool:
        now = self._events.now
        if now > _TOO_LONG:
            raise ValueError(f"{self._trace.name} is not done within {_TOO_LONG / 86400:.0f} days: more is needed")
        if now < self._last_event or any(self._floor.work.values()):
            return False
        empty = any(node.pods == 0 for pool in self._pools.values() for node in pool.nodes)
        least = all(
            scaler.replicas == self._options.rules.targets[name].min_replicas
            for name, scaler in self._scalers.items()
        )
        return (least and not empty) or now > max(self._last_event, *self._outcome.last.values()) + _AFTERWARDS
