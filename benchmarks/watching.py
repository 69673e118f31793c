"""Watching on servers of its own: Valkey, S3 and a process of ``dermbatch watch`` that gets notifications."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from contextlib import ExitStack
from json import dumps
from pathlib import Path
from typing import Self
from urllib.parse import quote_plus

import redis

from benchmarks.children import of_program, running
from benchmarks.servers import redis_and_s3
from dermbatch import layout
from dermbatch.ledger import Ledger
from dermbatch.ledger.queue import QUEUES
from dermbatch.settings import OrchestratorSettings, Settings, StoreSettings
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import read_batch, read_manifest_part
from orchestrator.dispatch.messages import job_of
from orchestrator.stack.environment import base_environment, settings_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.process import Part, python_module

BUCKET = "exports"
PREFIX = f"s3://{BUCKET}/"


class WatchBench:
    """Servers and a watcher, from ``with`` to the end of its block.

    Args:
        folder: For data and logs.
        every: Seconds between listings.
        orchestrator: Whether one feeds the queue, too.
    """

    def __init__(self, folder: Path, every: float, *, orchestrator: bool = False) -> None:
        self._folder = folder
        self._port = 0
        self._suspended: list[subprocess.Popen[bytes]] = []
        env = base_environment(os.environ)
        self._servers, redis_settings, store_settings = redis_and_s3(folder, StoreSettings())
        quiet = OrchestratorSettings(metrics_port=0)
        self._settings = Settings(redis=redis_settings, store=store_settings, orchestrator=quiet)
        self._env: dict[str, str] = {
            **env,
            **settings_environment(self._settings),
            "DERMBATCH_WATCH__EVERY": str(every),
            "DERMBATCH_WATCH__METRICS_PORT": "0",
            "DERMBATCH_TRITON__URL": "127.0.0.1:1",  # there is none, and models are not looked for
        }
        if orchestrator:
            argv, log = python_module("orchestrator"), folder / "orchestrator.log"
            self._servers.append(Part(name="orchestrator", argv=argv, env=self._env, log=log, probe=lambda: True))
        self._ending = ExitStack()
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start all."""
        self._watch = self._ending.enter_context(running(*self._servers))
        self._queue = self._ending.enter_context(redis.Redis.from_url(self._settings.redis.url))
        self.store = ObjectStore(self._settings.store)
        self.ledger = Ledger(self._settings.redis, self._settings.ledger)
        self.store.create_bucket(BUCKET)
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """End all."""
        self.signal(signal.SIGTERM)
        for process in self._suspended:
            process.kill()
            process.wait()
        self._ending.close()

    def start(self) -> None:
        """Start a watcher on a port of its own (the last one's may be another's by now); wait until it listens."""
        (self._port,) = free_ports(1)
        command = [sys.executable, "-m", "orchestrator.cli", "watch", PREFIX]
        env = {**self._env, "DERMBATCH_WATCH__LISTEN_PORT": str(self._port)}
        log = self._folder / "watch.log"
        with log.open("ab") as file:
            self._watcher = subprocess.Popen(command, env=env, stdout=file, stderr=file)
        self._watch.add(of_program("watcher", self._watcher, log))
        while not self._answers():
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        """Send the watcher a signal that ends it, and wait for its end."""
        if self._watcher is not None:
            self._watch.release("watcher")
            self._watcher.send_signal(number)
            self._watcher.wait(60)
            self._watcher = None

    def suspend(self) -> subprocess.Popen[bytes]:
        """Have the watcher stand still (SIGSTOP)."""
        assert self._watcher is not None
        self._watch.release("watcher")
        process, self._watcher = self._watcher, None
        process.send_signal(signal.SIGSTOP)
        self._suspended.append(process)
        return process

    def wait_for(self, images: int) -> None:
        """Wait until so many images were taken in."""
        deadline = time.monotonic() + 60
        while len(self.taken()) < images:
            if time.monotonic() > deadline:
                raise SystemExit(f"{images} images were not taken in within 60 s")
            time.sleep(0.1)

    def check(self) -> None:
        """End where a server or the watcher has ended unasked: for loops in threads other than the main one."""
        self._watch.check()

    def notify(self, keys: Iterable[str]) -> bool:
        """Tell the watcher of objects, in the form of Amazon S3; whether it took them."""
        records = [
            {
                "eventSource": "aws:s3",
                "eventName": "ObjectCreated:Put",
                "s3": {"bucket": {"name": BUCKET}, "object": {"key": quote_plus(key)}},
            }
            for key in keys
        ]
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/events", dumps({"Records": records}).encode(), method="POST"
        )
        return _succeeds(request)

    def work_off(self) -> int:
        """Take the messages out of the queue, and call their images done; how many."""
        count = 0
        while payload := self._queue.rpop(QUEUES["live"]):
            self.ledger.images.finish(job_of(payload.decode()), "nobody", "done")
            count += 1
        return count

    def taken(self) -> list[str]:
        """Names of all images that were taken in, as often as they were."""
        found: list[str] = []
        for name in self.store.folders(self.store.bucket, layout.BATCHES):
            images = read_batch(self.store, name).images
            for first in range(0, images, layout.PART_SIZE):
                part, _ = layout.part_of(first)
                entries = read_manifest_part(self.store, name, part, images=images, grown=True)
                found += [entry.name for entry in entries]
        return found

    def _answers(self) -> bool:
        return _succeeds(urllib.request.Request(f"http://127.0.0.1:{self._port}/healthz"))


def _succeeds(request: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
