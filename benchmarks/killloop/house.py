"""The parts of one loop: real servers and programs of this machine, each under its guard, restarted when dead."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import psutil
import redis
from pydantic import SecretStr

from benchmarks.children import ChildDied, complaint_of
from benchmarks.killloop.clock import SteppedClock, library
from benchmarks.killloop.proxy import CONTROL, Mood
from benchmarks.killloop.worker import HANDS
from dermbatch.errors import StackError
from dermbatch.ledger import ImageRef
from dermbatch.models.repository import default_model_repository
from dermbatch.settings import LedgerSettings, RedisSettings, Settings
from orchestrator.stack.environment import base_environment, settings_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.process import Part, http_ok, python_module, stop_all, wait_all
from orchestrator.stack.servers.redis import redis_part
from orchestrator.stack.servers.s3 import s3_part
from orchestrator.stack.servers.triton import TritonPorts, triton_part

_MOST_OWN_DEATHS = 3  # of one part: what dies unasked more often is broken, and no batch would ever end


class House:
    """Redis, the S3 server with the chaos proxy before it, and what works there.

    Args:
        folder: For data and logs; empty.
        programs: Command of each program by its name (``orchestrator...`` and ``worker...``); of several shards,
            those of the second are named ``orchestrator-1@2``.
        slots: Images at a time of each worker.
        ledger: Leases; the defaults are those of production.
        real: With Triton, which serves the models that ship.
        clocks: Whether Redis runs with a clock that can be stepped.
        shards: Redis servers that share the batches.
    """

    def __init__(
        self,
        folder: Path,
        programs: Mapping[str, Sequence[str]],
        *,
        slots: int,
        ledger: LedgerSettings,
        real: bool = False,
        clocks: bool = True,
        shards: int = 1,
    ) -> None:
        self._folder = folder
        self.log = folder / "written.jsonl"
        self.hands = folder / "hands"
        self.hands.mkdir(parents=True)
        self.log.touch()
        base = base_environment(os.environ)
        ports = free_ports(6 + shards)
        self._proxy_port = ports[2]
        start = Settings(ledger=ledger)
        queues, redis_settings = self._queues(ports[6:], base)
        preload = library() if clocks else None
        self.clock = SteppedClock(queues, folder / "clock", preload) if preload else None
        s3, self.straight, _ = s3_part(folder / "s3", self._logs("s3"), ports[1], base, start.store)
        through = self.straight.model_copy(update={"endpoint_url": f"http://127.0.0.1:{ports[2]}"})
        proxy = Part(
            name="proxy",
            argv=python_module("benchmarks.killloop.proxy", str(ports[2]), str(ports[1]), str(self.log)),
            env=base,
            log=self._logs("proxy"),
            probe=lambda: http_ok(ports[2], CONTROL),
            grace=1,
        )
        servers = [*queues, s3, proxy]
        changes: dict[str, object] = {
            "redis": redis_settings[0],
            "store": through,
            "worker": start.worker.model_copy(update={"metrics_port": 0, "concurrency": slots}),
            "orchestrator": start.orchestrator.model_copy(update={"metrics_port": 0, "look_for_batches": 3.0}),
        }
        if real:
            triton, changes["triton"] = triton_part(
                folder / "triton",
                self._logs("triton"),
                TritonPorts(*ports[3:6]),
                base,
                triton=start.triton,
                repository=default_model_repository(),
            )
            servers.append(triton)
        self.settings = start.model_copy(update=changes)
        self.shards = [self.settings.model_copy(update={"redis": one}) for one in redis_settings]
        envs = [{**base, **settings_environment(one), HANDS: str(self.hands)} for one in self.shards]
        self._servers = {part.name: part for part in servers}
        self._programs = {
            name: Part(
                name=name,
                argv=argv,
                env=envs[int(name.partition("@")[2] or 1) - 1],
                log=self._logs(name),
                probe=lambda: True,
                grace=12,
                cwd=folder,
            )
            for name, argv in programs.items()
        }
        self._killed: set[str] = set()
        self.own_deaths: Counter[str] = Counter()
        self._hit: Counter[ImageRef] = Counter()

    def _queues(self, ports: Sequence[int], base: Mapping[str, str]) -> tuple[list[Part], list[RedisSettings]]:
        """Redis of each shard, and the settings of who works for it; one key signs the messages of all."""
        made = []
        for number, port in enumerate(ports, 1):
            name = "redis" if number == 1 else f"redis@{number}"
            part, settings = redis_part(self._folder / name, self._logs(name), port, base)
            part.name = name
            made.append((part, settings))
        urls = tuple(SecretStr(settings.url) for _, settings in made) if len(made) > 1 else ()
        key = made[0][1].signing_key
        return [part for part, _ in made], [
            settings.model_copy(update={"shards": urls, "signing_key": key}) for _, settings in made
        ]

    def hits(self, batch: str) -> Counter[int]:
        """SIGKILLs by the image of a batch that the process had."""
        return Counter({member.index: count for member, count in self._hit.items() if member.batch == batch})

    @property
    def parts(self) -> dict[str, Part]:
        """All parts by name."""
        return {**self._servers, **self._programs}

    def start_servers(self) -> None:
        """Start what stores, and wait for it."""
        for part in self._servers.values():
            part.start()
        try:
            wait_all(list(self._servers.values()))
        except StackError as error:
            raise ChildDied(str(error)) from error

    def start_programs(self) -> None:
        """Start what works."""
        for part in self._programs.values():
            part.start()

    def stop(self) -> None:
        """Stop everything; returns when no process is left."""
        stop_all(list(self._programs.values()))
        stop_all(list(self._servers.values()))

    def mend(self) -> None:
        """Start again what is dead; what nobody killed is counted, and not started for ever.

        Raises:
            ChildDied: If a part has died unasked too often; gives its last words.
        """
        for name, part in self.parts.items():
            if not part.running:
                if name not in self._killed:
                    self.own_deaths[name] += 1
                    if self.own_deaths[name] > _MOST_OWN_DEATHS:
                        raise ChildDied(complaint_of(part))
                self._killed.discard(name)
                part.start()

    def kill(self, name: str) -> bool:
        """SIGKILL the program of a part; whether there was one."""
        pid = self.parts[name].program_pid
        if pid is None or name in self._killed:
            return False
        pools = _pool(pid) if name.startswith("worker") else []
        if not _kill(pid):
            return False
        self._killed.add(name)
        for process in pools:  # they end with it
            self._note_hit(process.pid)
        return True

    def kill_one_of(self, kind: str, rng: random.Random) -> bool:
        """SIGKILL one of the programs whose name starts so."""
        return self.kill(rng.choice([name for name in self._programs if name.startswith(kind)]))

    def kill_pool_process(self, rng: random.Random) -> bool:
        """SIGKILL one process of a worker's pool."""
        pools = [process for main in self._mains() for process in _pool(main)]
        if not pools:
            return False
        pid = rng.choice(sorted(process.pid for process in pools))
        self._note_hit(pid)
        return _kill(pid)

    def kill_reader(self, rng: random.Random, *, nursery: bool) -> bool:
        """SIGKILL one of the processes that read files for workers, or one that these come from."""
        found = [process for main in self._mains() for process in _nurseries(main)]
        if not nursery:
            found = [child for process in found for child in _children(process.pid)]
        return bool(found) and _kill(rng.choice(sorted(process.pid for process in found)))

    def _mains(self) -> list[int]:
        """The main processes of workers."""
        pids = [part.program_pid for name, part in self._programs.items() if name.startswith("worker")]
        return [pid for pid in pids if pid is not None]

    def kill_redis(self, rng: random.Random, *, data_too: bool) -> bool:
        """SIGKILL one Redis; it comes again with its append-only file, or without."""
        name = rng.choice([name for name in self._servers if name.startswith("redis")])
        killed = self.kill(name)
        if killed and data_too:
            self._servers[name].stop()
            shutil.rmtree(self._folder / name / "appendonlydir", ignore_errors=True)
        return killed

    def fill_redis(self, full: bool) -> None:
        """Let every Redis refuse what needs memory, or take that back."""
        for one in self.shards:
            with suppress(redis.RedisError), redis.Redis.from_url(one.redis.url, socket_timeout=2) as client:
                client.config_set("maxmemory", 1 if full else 0)

    def chaos(self, mood: Mood) -> None:
        """Tell the proxy how to treat requests."""
        self._ask("POST", json.dumps(asdict(mood)))

    def recorded(self) -> int:
        """How many records of outcomes the S3 server has written so far."""
        return int(self._ask("GET", "")["records"])

    def _ask(self, method: str, body: str) -> dict[str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._proxy_port, timeout=10)
        try:
            connection.request(method, CONTROL, body)
            answer: dict[str, str] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()

    def _note_hit(self, pid: int) -> None:
        with suppress(OSError, ValueError):
            self._hit[ImageRef.named((self.hands / str(pid)).read_text())] += 1

    def _logs(self, name: str) -> Path:
        return self._folder / "logs" / f"{name}.log"


def _children(pid: int) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return list(psutil.Process(pid).children())
    return []


def _pool(main: int) -> list[psutil.Process]:
    """The processes of a worker's pool."""
    return [process for process in _children(main) if not _reads(process)]


def _nurseries(main: int) -> list[psutil.Process]:
    """What reading processes come from: the worker's, and those of pool processes that have lost it."""
    owners = [main, *(process.pid for process in _pool(main))]
    return [child for owner in owners for child in _children(owner) if _reads(child)]


def _reads(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "dermbatch.bounded" in process.cmdline()
    return False


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
