"""The local stack as a whole: the same parts as on a cluster, as processes of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psutil
from pydantic import SecretStr

from dermbatch.errors import StackError
from dermbatch.settings import Engine, Settings, TritonSettings
from orchestrator.metering.signature import kept_key
from orchestrator.stack.environment import (
    audited,
    base_environment,
    plain,
    settings_environment,
    without_credentials,
    without_report_key,
    without_salt,
)
from orchestrator.stack.logs import rotate
from orchestrator.stack.ports import free_ports, taken
from orchestrator.stack.process import GUARD, Part, http_ok, python_module, stop_all, wait_all
from orchestrator.stack.servers.redis import redis_part
from orchestrator.stack.servers.s3 import DiskWatch, s3_part
from orchestrator.stack.servers.triton import TritonPorts, triton_part
from orchestrator.stack.state import (
    Holder,
    Lock,
    PartState,
    StackState,
    logs_path,
    make_home,
    process_alive,
    read_state,
    state_path,
    wait_gone,
    write_state,
)
from orchestrator.stack.supervision import Supervised

_LOOPBACK = "127.0.0.1"
_ORPHANS_TIMEOUT = 20.0  # seconds that the parts of a killed stack may take to go
_LIVE_WORKER = "worker-live"
_DESK = "desk"
_GRACE = 15.0  # seconds that the orchestrator gets to end
_AFTER_GRACE = 5.0  # seconds that a worker gets beyond its own grace, to give back what it has not finished
_TRITON = ("triton-grpc", "triton-http", "triton-metrics")


class Stack:
    """Redis, S3, orchestrator service and workers, and Triton where it is the engine; a context manager.

    Everything listens on 127.0.0.1, on ports that were free. Data, logs and state lie under the home.

    Args:
        home: The stack's own folder; made where missing. One stack at a time.
        settings: What the user set; the addresses of the parts are filled in.
        workers: Worker processes, each with ``settings.worker.concurrency`` images at a time.
        live_slots: Images at a time in an additional worker that takes only live ones, which then need not wait
            for a bulk image to end.
        model_repository: The Triton model repository to serve.
        desk: Whether the desk is served, too.
        keep_queue: Whether Redis continues with what an earlier stack left in this home.
        holder: What starts it, to tell others that want the home.
        service_command: The orchestrator service; configured by its environment only.
        worker_command: A worker; likewise.
    """

    def __init__(
        self,
        home: Path,
        settings: Settings,
        *,
        workers: int = 1,
        live_slots: int = 0,
        model_repository: Path,
        desk: bool = False,
        keep_queue: bool = True,
        holder: Holder = "up",
        service_command: Sequence[str] | None = None,
        worker_command: Sequence[str] | None = None,
    ) -> None:
        self.home = home.resolve()
        self._asked = audited(without_salt(without_report_key(settings)), self.home)
        self._metering = settings.metering
        self._workers = workers
        self._live_slots = live_slots
        self._repository = model_repository
        self._desk = desk
        self._keep_queue, self._holder = keep_queue, holder
        self._service_command = list(service_command or python_module("orchestrator"))
        self._worker_command = list(worker_command or python_module("workers"))
        self._lock: Lock | None = None
        self._ports: dict[str, int] = {}
        self._servers: list[Part] = []
        self._programs: list[Part] = []
        self._supervised: list[Supervised] = []

    @property
    def logs(self) -> Path:
        """The folder with ``<part>.log`` of every part."""
        return logs_path(self.home)

    @property
    def ports(self) -> dict[str, int]:
        """The port of every part, by its name."""
        return dict(self._ports)

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts, servers first."""
        return (*self._servers, *self._programs)

    def start(self) -> None:
        """Start all parts and wait until all are ready; if that fails, nothing is left running.

        Raises:
            HomeInUse: If another stack or command has the home.
            HomeUnusable: If the home cannot be made.
            StackError: If the home cannot be written, or a part does not come up; names its log.
        """
        try:
            make_home(self.home)
            self._lock = Lock(self.home, self._holder)
            self._wait_for_orphans()
            self._prepare()
            self._bring_up(self._servers)
            self._bring_up(self._programs)
            self._supervised = [Supervised(part) for part in self.parts]
            self._write_state("running")
        except OSError as error:
            self.stop()
            raise StackError(f"the stack's folder {self.home} cannot be used: {error}") from error
        except BaseException:
            self.stop()
            raise

    def check(self) -> list[str]:
        """Look after the parts: call this about once a second. Restarts parts that died, with growing pauses.

        Returns:
            Sentences about parts that died or came back since the last call, for the log.

        Raises:
            StackError: If a part died more than 5 times within 10 minutes, or the disk is full.
        """
        self._disk.look()
        for part in self.parts:
            rotate(part.log)
        if shutil.disk_usage(self.home).free < self._asked.stack.least_free:
            raise StackError(
                f"the disk of {self.home} is full; what was recorded is kept: free some space and run the "
                f"command again"
            )
        complaints = [sentence for supervised in self._supervised for sentence in supervised.look()]
        if complaints:
            self._write_state("running")
        return complaints

    def file_of(self, key: str) -> Path:
        """The plain file that holds an object of the result bucket."""
        return self.object_files.path_of(self.settings.store.bucket, key)

    def stop(self) -> None:
        """Stop all parts, workers first; returns when no process is left. Harmless if nothing is running."""
        stop_all(self._programs)
        stop_all(self._servers)
        self._supervised = []
        if self._lock is not None:
            state_path(self.home).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _prepare(self) -> None:
        """Choose ports, and make the parts and the settings that lead to them."""
        has_triton = self._asked.inference.engine is Engine.TRITON
        desk = [_DESK, f"{_DESK}-metrics"] if self._desk else []
        names = ["redis", "s3", *(_TRITON if has_triton else ()), "orchestrator", *self._worker_names(), *desk]
        self._ports = dict(zip(names, free_ports(len(names)), strict=True)) | self._asked_ports()
        base = base_environment(os.environ)
        if not self._keep_queue:
            shutil.rmtree(self.home / "redis", ignore_errors=True)
        redis, redis_settings = redis_part(self.home / "redis", self._log("redis"), self._ports["redis"], base)
        s3, store_settings, self.object_files = s3_part(
            self.home / "s3", self._log("s3"), self._ports["s3"], base, self._asked.store, self._asked.stack
        )
        self._servers, triton_settings = [redis, s3], self._asked.triton
        if has_triton:
            triton, triton_settings = self._triton(base)
            self._servers.append(triton)
        self._disk = DiskWatch(self._log("s3"))
        orchestrator = {"metrics_port": self._ports["orchestrator"], "metrics_address": _LOOPBACK}
        self.settings = self._asked.model_copy(
            update={
                "redis": redis_settings,
                "store": store_settings,
                "triton": triton_settings,
                "inference": self._asked.inference.model_copy(update={"repository": self._repository.resolve()}),
                "orchestrator": self._asked.orchestrator.model_copy(update=orchestrator),
                **self._worker_settings(next(iter(self._worker_names()), None)),
                **self._desk_settings(),
            }
        )
        self.environment = settings_environment(self.settings)
        signing = {"metering": self._metering.model_copy(update={"signing_key": self._report_key()})}
        service = self.settings.model_copy(update=signing)
        self._programs = [self._program("orchestrator", self._service_command, base, service, _GRACE)]
        grace = self._asked.worker.grace + _AFTER_GRACE
        for name in self._worker_names():
            settings = self.settings.model_copy(update=self._worker_settings(name))
            self._programs.append(self._program(name, self._worker_command, base, settings, grace))
        if self._desk:
            self._programs.append(self._desk_part(base))

    def _asked_ports(self) -> dict[str, int]:
        port = self._asked.stack.store_port if self._holder == "up" else 0  # nobody looks for what runs only once
        if port and taken(port):
            raise StackError(
                f"port {port} is in use or not allowed; set DERMBATCH_STACK__STORE_PORT to another one"
            )
        return {"s3": port} if port else {}

    def _report_key(self) -> SecretStr:
        """The key that the orchestrator signs reports with; if none is set, one that is kept in the home."""
        return self._metering.signing_key or kept_key(self.home)

    def _desk_settings(self) -> dict[str, object]:
        if not self._desk:
            return {}
        own = {
            "listen_address": _LOOPBACK,
            "listen_port": self._ports[_DESK],
            "metrics_port": self._ports[f"{_DESK}-metrics"],
            "metrics_address": _LOOPBACK,
        }
        return {"desk": self._asked.desk.model_copy(update=own)}

    def _desk_part(self, base: dict[str, str]) -> Part:
        """The desk; decoded pictures lie in a folder of the home that is emptied at each start."""
        scratch = self.home / _DESK
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        port = self._ports[_DESK]
        return Part(
            name=_DESK,
            argv=python_module("desk"),
            env={**base, **settings_environment(self.settings), "TMPDIR": str(scratch), "MALLOC_ARENA_MAX": "2"},
            log=self._log(_DESK),
            probe=lambda: http_ok(port, "/health"),
            ready_timeout=60,
            grace=_GRACE,
            cwd=self.home,
        )

    def _program(
        self, name: str, command: list[str], base: dict[str, str], settings: Settings, grace: float
    ) -> Part:
        port = self._ports[name]
        return Part(
            name=name,
            argv=command,
            env={**base, **settings_environment(settings)},
            log=self._log(name),
            probe=lambda: http_ok(port, "/metrics"),
            ready_timeout=60,
            grace=grace,
            cwd=self.home,
        )

    def _worker_names(self) -> list[str]:
        names = ["worker"] if self._workers == 1 else [f"worker-{n}" for n in range(1, self._workers + 1)]
        return [*names, _LIVE_WORKER] if self._live_slots else names

    def _worker_settings(self, name: str | None) -> dict[str, object]:
        own: dict[str, object] = {"metrics_port": self._ports.get(name or "", 0), "metrics_address": _LOOPBACK}
        if name == _LIVE_WORKER:
            own.update(lanes=("live",), concurrency=self._live_slots)
        return {"worker": self._asked.worker.model_copy(update=own)}

    def _triton(self, base: dict[str, str]) -> tuple[Part, TritonSettings]:
        return triton_part(
            self.home / "triton",
            self._log("triton"),
            TritonPorts(*(self._ports[name] for name in _TRITON)),
            base,
            triton=self._asked.triton,
            repository=self._repository,
        )

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _bring_up(self, parts: Sequence[Part]) -> None:
        for part in parts:
            part.start()
        self._write_state("starting")
        wait_all(parts)

    def _write_state(self, status: Literal["starting", "running"]) -> None:
        parts = {
            part.name: PartState(pid=part.pid, program_pid=part.program_pid, log=str(part.log))
            for part in self.parts
        }
        me = psutil.Process()
        state = StackState(
            pid=me.pid,
            created=me.create_time(),
            status=status,
            ports=self._ports,
            parts=parts,
            settings=plain(without_credentials(self.settings)),
        )
        write_state(self.home, state)

    def _wait_for_orphans(self) -> None:
        """If the last stack here was killed, its parts may still be ending, with the same data files open."""
        last = read_state(self.home)
        pids = [] if last is None else [part.pid for part in last.parts.values() if part.pid is not None]
        ours = [pid for pid in pids if process_alive(pid) and GUARD in _command_line(pid)]
        if left := wait_gone(ours, _ORPHANS_TIMEOUT):
            raise StackError(f"processes of an earlier stack in {self.home} do not end: {left}; kill them")


def _command_line(pid: int) -> list[str]:
    try:
        return list(psutil.Process(pid).cmdline())
    except psutil.Error:
        return []
