"""The floor on which work is done: lines, worker slots, Triton servers.

Work goes as in Dermbatch: an image waits for a worker slot (live before bulk, bulk with its share), is read and
decoded there, then waits for a Triton server, which serves one image at a time, first come first served; the slot
is held until it is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from benchmarks.scaling.options import Speed
from benchmarks.scaling.outcome import SimulationOutcome
from benchmarks.scaling.traces import Arrival
from benchmarks.scaling.work import EventQueue, Integral, Job, Pod, WaitingLine
from dermbatch.ledger.queue import QUEUES, LaneOrder
from dermbatch.records.asked import Lane

WORKERS: dict[str, tuple[Lane, ...]] = {"worker-live": ("live",), "worker-bulk": ("live", "bulk")}
TRITON = "triton"

_SENT_AGAIN = 1.0  # seconds until a request that lost its server is sent to another one


class Floor:
    """Who does what.

    Args:
        events: Time.
        speed: How long an image takes.
        bulk_share: Share of bulk in what workers begin while both lanes wait.
        at_once: Bulk images that a slot takes as one, to save time here.
        outcome: Is told what becomes of images.
        ended: Told about a pod that was to leave and has nothing in hand any more.

    Attributes:
        slots, servers: Open ones: worker slots, Triton servers.
        busy: Servers that compute.
        inside: Images that have come and have no outcome.
        queued: Seconds that requests have waited for a server, all together.
        requests: How many.
    """

    def __init__(
        self,
        events: EventQueue,
        speed: Speed,
        bulk_share: float,
        at_once: int,
        outcome: SimulationOutcome,
        ended: Callable[[Pod], None],
    ) -> None:
        self._events, self._speed, self._outcome, self._ended = events, speed, outcome, ended
        self._at_once: dict[Lane, int] = {"live": 1, "bulk": at_once}
        self._lines: dict[Lane, WaitingLine] = {"live": WaitingLine("live"), "bulk": WaitingLine("bulk")}
        self._order = LaneOrder(bulk_share)
        self._order.update(QUEUES.values())
        self._free: dict[str, deque[Pod]] = {name: deque() for name in WORKERS}  # a pod once for each free slot
        self._idle: deque[Pod] = deque()
        self._asking: deque[Job] = deque()
        self._dark: float | None = None
        self.work: dict[Lane, int] = {"live": 0, "bulk": 0}
        self.servers, self.busy, self.inside = Integral(), Integral(), Integral()
        self.queued, self.requests = 0.0, 0

    def waiting(self, lane: Lane) -> int:
        """Images of a lane that no worker has."""
        return self._lines[lane].waiting

    def arrive(self, arrival: Arrival) -> None:
        """Images come."""
        self.work[arrival.lane] += arrival.images
        self.inside.add(arrival.images, self._events.now)
        self._lines[arrival.lane].add(arrival.time, arrival.images)
        self._assign()

    def open(self, pod: Pod) -> None:
        """A pod has started."""
        pod.ready = True
        if pod.fleet == TRITON:
            self.servers.add(1, self._events.now)
            self._idle.append(pod)
            self._serve()
        else:
            self._free[pod.fleet].extend([pod] * self._speed.slots)
            self._assign()

    def close(self, pod: Pod) -> None:
        """A pod is to leave: it takes nothing more, and ends when it has nothing in hand."""
        if not pod.leaving and pod.ready and pod.fleet == TRITON:
            self.servers.add(-1, self._events.now)
        pod.leaving = True
        self._look_for_darkness()
        if not pod.jobs:
            self._ended(pod)

    def give_back(self, worker: Pod, after: float) -> None:
        """What a worker has in hand goes to others, some seconds later, except for what it has finished."""
        now, each = self._events.now, self._speed.worker + self._speed.triton
        for job in list(worker.jobs):
            left = job.left(now, each)
            self._let_go(job)
            self._count(job.lane, job.images - left)
            self._events.at(now + after, lambda job=job, left=left: self._again(job, left))  # type: ignore[misc]

    def lose_requests(self, server: Pod) -> None:
        """A server is gone; its request is sent to another one."""
        for job in server.jobs:
            self.busy.add(-1, self._events.now)
            self._events.at(self._events.now + _SENT_AGAIN, lambda job=job: self._ask(job))  # type: ignore[misc]
        server.jobs.clear()

    def _assign(self) -> None:
        """Give what waits to free slots; those for live images alone come first."""
        for name, lanes in WORKERS.items():
            free = self._free[name]
            while free and any(self._lines[lane].waiting for lane in lanes):
                pod = free.popleft()
                if not pod.leaving:
                    self._begin(pod, self._next(lanes))

    def _next(self, lanes: tuple[Lane, ...]) -> Lane:
        """The lane that a worker would choose; what is owed to bulk counts only while both wait."""
        waiting = [lane for lane in lanes if self._lines[lane].waiting]
        if len(waiting) == 1:
            return waiting[0]
        queue = self._order.rotate(self._order.consume(1)[0])
        return "live" if queue == QUEUES["live"] else "bulk"

    def _begin(self, pod: Pod, lane: Lane) -> None:
        now = self._events.now
        job, first = self._lines[lane].take(self._at_once[lane], pod, now)
        if first:
            self._outcome.waited(lane, now - job.arrived)
        pod.jobs.append(job)
        self._events.at(now + self._speed.worker * job.images, lambda: self._ask(job))

    def _ask(self, job: Job) -> None:
        if not job.held:
            return
        job.asked = self._events.now
        if job.lane == "live" and self._at_once["bulk"] > 1 and self.servers.level:
            self._squeeze_in(job)
            return
        self._asking.append(job)
        self._serve()

    def _squeeze_in(self, job: Job) -> None:
        """A live image among jobs of several, which ask for one image at a time: it waits for one of each ahead.

        What little it takes of the servers is not counted.
        """
        ahead = (len(self._asking) + self.busy.level) / self.servers.level
        after = self._events.now + (ahead + 1) * self._speed.triton
        self._events.at(after, lambda: self._finish(job) if job.held else None)

    def _serve(self) -> None:
        while self._idle and self._asking:
            server = self._idle.popleft()
            if server.leaving:
                continue
            job = self._asking.popleft()
            if job.held:
                self._compute(server, job)
            else:
                self._idle.appendleft(server)
        self._look_for_darkness()

    def _compute(self, server: Pod, job: Job) -> None:
        now = self._events.now
        server.jobs.append(job)
        self.queued += now - job.asked  # of a job of several, each image has waited for its part of it
        self.requests += job.images
        self.busy.add(1, now)
        self._events.at(now + self._speed.triton * job.images, lambda: self._answer(server, job))

    def _answer(self, server: Pod, job: Job) -> None:
        if server.gone:
            return
        server.jobs.remove(job)
        self.busy.add(-1, self._events.now)
        if job.held:
            self._finish(job)
        if server.leaving:
            self._ended(server)
        else:
            self._idle.append(server)
            self._serve()

    def _finish(self, job: Job) -> None:
        self._let_go(job)
        self._count(job.lane, job.images)
        if job.lane == "live":
            self._outcome.took.append(self._events.now - job.arrived)
        if not job.worker.leaving:
            self._free[job.worker.fleet].append(job.worker)
            self._assign()
        elif not job.worker.jobs:
            self._ended(job.worker)

    def _let_go(self, job: Job) -> None:
        job.held = False
        job.worker.jobs.remove(job)

    def _count(self, lane: Lane, images: int) -> None:
        if images:
            self.work[lane] -= images
            self.inside.add(-images, self._events.now)
            self._outcome.finish(lane, images, self._events.now)

    def _again(self, job: Job, left: int) -> None:
        self._lines[job.lane].put_back(job.arrived, left)
        self._assign()

    def _look_for_darkness(self) -> None:
        """For how long requests have been waiting with no server at all: their tries are used up meanwhile."""
        dark = bool(self._asking) and not self.servers.level
        if dark and self._dark is None:
            self._dark = self._events.now
        elif not dark and self._dark is not None:
            self._outcome.dark = max(self._outcome.dark, self._events.now - self._dark)
            self._dark = None
