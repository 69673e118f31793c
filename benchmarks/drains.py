"""Graceful ends of Triton under load: a batch goes on while its servers get SIGTERM, one after the other.

Real Redis, object store, orchestrator and worker; real Tritons, with the grace that the Helm chart gives them.
They are reached in each of these ways, which share drains and images evenly; as many images again follow until all
drains are made:

    one        a single server, which comes again at its port
    tcp-1      one server behind HAProxy, by connections as a Service of Kubernetes does it
    tcp-2      two servers behind it
    http-2     two servers behind it, request by request as an Ingress does it; 503 where there is no server
    client-2   two servers that the client itself knows, as by a headless Service

The last line is ``drains=... images=... permanent=...``, and the exit status is 1 where an image failed, for good
or after all its tries, or a batch did not end. Needs HAProxy (Debian: make system-packages).

With ``--away`` a server that was drained stays away for so many seconds before it comes again: images wait for it.

    python -m benchmarks.drains [--drains N] [--images N] [--ways LIST] [--away SECONDS] [--models DIR | --small]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from benchmarks.children import running
from benchmarks.killloop import work
from benchmarks.servers import redis_and_s3
from dermbatch import layout
from dermbatch.ledger import Ledger
from dermbatch.models.repository import default_model_repository
from dermbatch.records.asked import Batch, BatchSummary
from dermbatch.records.outcome import FailureRecord
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore
from orchestrator.stack.environment import base_environment, settings_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.process import Part, python_module, stop_all, wait_all
from orchestrator.stack.servers.triton import TritonPorts, triton_part

console = Console(highlight=False)

WAYS = {"one": 1, "tcp-1": 1, "tcp-2": 2, "http-2": 2, "client-2": 2}
"""How servers are reached, and how many there are."""

_GRACE = 30  # seconds, triton.drainSeconds of the chart
_UP = 4.0  # seconds between a server's return and the next drain
_LONGEST = 20.0  # the same where the batch does not get on
_LOOK = 0.1
_PER_IMAGE = 3.0  # seconds, and
_PER_DRAIN = 90.0  # seconds after which a batch has not ended in time

_LOOKS = "check-proto h1 inter 1s fall 2"
_BALANCER = """\
global
  maxconn 500
defaults
  mode {mode}
  timeout connect 2s
  timeout client 5m
  timeout server 5m
  retries 1
frontend grpc
  bind 127.0.0.1:{port}{proto}
  default_backend tritons
backend tritons
  balance roundrobin
  option httpchk GET /v2/health/ready
"""


@dataclass(frozen=True)
class DrainOutcome:
    """What became of the images of one way.

    Attributes:
        images: How many there were.
        drains: Servers that got SIGTERM while the batch was open.
        done: Images with a result.
        failed: Reasons of the others.
        permanent: Failures reported as permanent: no other try could help.
        seconds: From the first drain to the end of the batch.
    """

    images: int
    drains: int
    done: int
    failed: Counter[str] = field(default_factory=Counter)
    permanent: int = 0
    seconds: float = 0.0

    def and_then(self, other: DrainOutcome) -> DrainOutcome:
        """Both together."""
        return DrainOutcome(
            self.images + other.images,
            self.drains + other.drains,
            self.done + other.done,
            self.failed + other.failed,
            self.permanent + other.permanent,
            self.seconds + other.seconds,
        )


def tritons(folder: Path, count: int, models: Path) -> list[tuple[Part, TritonPorts]]:
    """Servers of one repository, which end as those of the chart do, and ask for no key: a balancer has none."""
    made = []
    for number in range(count):
        ports = TritonPorts(*free_ports(3))
        part, _ = triton_part(
            folder / f"triton-{number}",
            folder / f"triton-{number}.log",
            ports,
            base_environment(os.environ),
            triton=Settings().triton,
            repository=models,
        )
        part.name = f"triton-{number}"
        kept = [text for text in part.argv if "restricted" not in text and "exit-timeout" not in text]
        part.argv = [*kept, f"--exit-timeout-secs={_GRACE}"]
        part.grace = _GRACE + 5
        made.append((part, ports))
    return made


def haproxy() -> str | None:
    """HAProxy's program; none where it is not installed."""
    return shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def balancer(folder: Path, mode: str, servers: list[TritonPorts]) -> tuple[Part, int]:
    """HAProxy before servers, and its port; it learns of their ends as Kubernetes does: by their readiness."""
    program = haproxy()
    if program is None:
        raise SystemExit("haproxy is not installed (Debian: make system-packages)")
    (port,) = free_ports(1)
    proto = " proto h2" if mode == "http" else ""
    lines = [
        f"  server triton-{number} 127.0.0.1:{ports.grpc}{proto} check port {ports.http} {_LOOKS}\n"
        for number, ports in enumerate(servers)
    ]
    config = folder / "haproxy.cfg"
    config.write_text(_BALANCER.format(mode=mode, port=port, proto=proto) + "".join(lines))

    def listens() -> bool:
        with socket.socket() as asked:
            return asked.connect_ex(("127.0.0.1", port)) == 0

    argv = [program, "-db", "-f", str(config)]
    part = Part(
        "haproxy", argv, base_environment(os.environ), folder / "haproxy.log", listens, grace=2, cwd=folder
    )
    return part, port


class Drains:
    """One batch whose servers are drained in turn, evenly over its images.

    Args:
        servers: Which are drained.
        settings: Of store and ledger.
        batch: The batch.
        count: Drains.
        away: Seconds for which a drained server stays away.
    """

    def __init__(
        self, servers: list[Part], settings: Settings, batch: Batch, count: int, away: float = 0.0
    ) -> None:
        self._servers, self._batch, self._count, self._away = servers, batch, count, away
        self._store, self._ledger = ObjectStore(settings.store), Ledger(settings.redis, settings.ledger)
        self._made = 0
        self._ended = 0.0
        self._deadline = time.monotonic() + _PER_IMAGE * batch.images + (_PER_DRAIN + away) * count

    def run(self) -> DrainOutcome:
        """Drain until all drains are made, and wait for the end of the batch."""
        started = time.monotonic()
        while self._done() == 0 and time.monotonic() < self._deadline:
            time.sleep(_LOOK)
        while not self._closed() and time.monotonic() < self._deadline:
            if self._made < self._count and self._is_time():
                self._drain(self._servers[self._made % len(self._servers)])
            time.sleep(_LOOK)
        return self._outcome(time.monotonic() - started)

    def _is_time(self) -> bool:
        """Evenly over the images, and not before all servers have been there for a while."""
        waited = time.monotonic() - self._ended
        due = self._made * self._batch.images / (self._count + 1)
        return waited > _LONGEST or (waited > _UP and self._done() >= due)

    def _drain(self, server: Part) -> None:
        pid = server.program_pid
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        self._made += 1
        while server.running:
            time.sleep(_LOOK)
        time.sleep(self._away)
        server.start()
        server.wait()
        self._ended = time.monotonic()

    def _done(self) -> int:
        state = self._ledger.batches.get(self._batch.name)
        return 0 if state is None else state.images - state.left

    def _closed(self) -> bool:
        return work.closed(self._store, self._batch.name)

    def _outcome(self, seconds: float) -> DrainOutcome:
        if not self._closed():
            return DrainOutcome(self._batch.images, self._made, self._done(), Counter(not_in_time=1), 0, seconds)
        key = layout.summary(self._batch.name)
        summary = BatchSummary.model_validate_json(self._store.get(self._store.bucket, key))
        permanent = sum(record.permanent for record in _failures(self._store, self._batch))
        return DrainOutcome(
            self._batch.images, self._made, summary.done, Counter(summary.reasons), permanent, seconds
        )


def _failures(store: ObjectStore, batch: Batch) -> Iterator[FailureRecord]:
    for item in store.list(store.bucket, f"{layout.batch_prefix(batch.name)}failed/"):
        yield FailureRecord.model_validate_json(store.get(store.bucket, item.key))


@contextmanager
def house(folder: Path, way: str, models: Path, slots: int) -> Iterator[tuple[list[Part], Settings]]:
    """Everything that one way needs, running: the Tritons, which may end, and the settings."""
    folder.mkdir(parents=True)
    base, start = base_environment(os.environ), Settings()
    parts, queue_settings, store = redis_and_s3(folder, start.store)
    servers = tritons(folder, WAYS[way], models)
    url = ",".join(f"127.0.0.1:{its.grpc}" for _, its in servers)
    if way.startswith("client"):
        url = f"ipv4:{url}"
    elif way != "one":
        part, port = balancer(folder, way.partition("-")[0], [its for _, its in servers])
        parts, url = [*parts, part], f"127.0.0.1:{port}"
    settings = start.model_copy(
        update={
            "redis": queue_settings,
            "store": store,
            "triton": start.triton.model_copy(update={"url": url}),
            "worker": start.worker.model_copy(update={"metrics_port": 0, "concurrency": slots}),
            "orchestrator": start.orchestrator.model_copy(update={"metrics_port": 0, "look_for_batches": 1.0}),
        }
    )
    env = {**base, **settings_environment(settings)}
    programs = [
        Part(name, python_module(module), env, folder / f"{name}.log", lambda: True, grace=15, cwd=folder)
        for name, module in (("orchestrator", "orchestrator"), ("worker", "workers"))
    ]
    try:
        for server, _ in servers:
            server.start()
        with running(*parts):
            wait_all([server for server, _ in servers])
            with running(*programs):
                yield [server for server, _ in servers], settings
    finally:
        stop_all([server for server, _ in servers])


def run(
    folder: Path, way: str, models: Path, *, drains: int, images: int, slots: int, away: float = 0.0
) -> DrainOutcome:
    """One way: batches of ``images``, until all drains are made."""
    with house(folder, way, models, slots) as (servers, settings):
        whole = DrainOutcome(0, 0, 0)
        while whole.drains < drains and whole.done == whole.images:
            name = f"drains-{way}-{whole.images}"
            batch = work.submit_phantoms(ObjectStore(settings.store), name, images, height=96, width=128)
            whole = whole.and_then(Drains(servers, settings, batch, drains - whole.drains, away).run())
        return whole


def small(folder: Path) -> Path:
    """The models of a few bytes that the tests serve."""
    from tests.integration.named_models import write_named  # noqa: PLC0415 - of the tests' own packages

    return Path(write_named(folder))


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drains", type=int, default=20, help="of all ways together")
    parser.add_argument("--images", type=int, default=500, help="of all ways together")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"of {', '.join(WAYS)}")
    parser.add_argument("--away", type=float, default=0.0, help="seconds before a drained server comes again")
    parser.add_argument("--slots", type=int, default=6, help="images at a time")
    parser.add_argument("--models", type=Path, default=default_model_repository(), help="model repository")
    parser.add_argument("--small", action="store_true", help="the tests' models of a few bytes")
    parser.add_argument("--keep", type=Path, help="keep data and logs in this folder, which must be new")
    options = parser.parse_args(arguments)
    options.ways = options.ways.split(",")
    if unknown := set(options.ways) - set(WAYS):
        parser.error(f"--ways: {', '.join(sorted(unknown))} is none of {', '.join(WAYS)}")
    return options


def main(arguments: list[str]) -> int:
    """Run all ways, print what became of them, and return the exit status."""
    options = parse(arguments)
    share = {"drains": -(-options.drains // len(options.ways)), "images": -(-options.images // len(options.ways))}
    outcomes: dict[str, DrainOutcome] = {}
    with tempfile.TemporaryDirectory(prefix="dermbatch-drains-") as place:
        folder = options.keep or Path(place)
        models = small(folder / "models") if options.small else options.models
        for way in options.ways:
            outcomes[way] = found = run(folder / way, way, models, slots=options.slots, away=options.away, **share)
            told = dict(found.failed) or "none failed"
            console.print(
                f"{way}: {found.drains} drains, {found.images} images, {found.done} done, {told}, "
                f"permanent {found.permanent}, {found.seconds:.0f} s"
            )
    print(json.dumps({way: {**vars(found), "failed": dict(found.failed)} for way, found in outcomes.items()}))
    total = {
        name: sum(getattr(found, name) for found in outcomes.values())
        for name in ("drains", "images", "permanent")
    }
    print(" ".join(f"{name}={count}" for name, count in total.items()))
    return 1 if any(found.failed or found.done < found.images for found in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
