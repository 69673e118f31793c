"""compose.yaml as it runs for the check: its containers, what is done to them, the store as seen from outside."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import SecretStr

from benchmarks.containers.engine import ROOT, EngineFailed, inspect, logs, podman, run
from dermbatch.errors import DermbatchError
from dermbatch.settings import Settings, StoreSettings
from dermbatch.store import ObjectStore

PROJECT = "dermbatch-check"
SERVERS = ("redis", "minio", "triton")
PROGRAMS = ("orchestrator", "worker", "worker-live", "watch", "desk", "prometheus")

_DEPLOY = ROOT / "deploy"
_USER = "X-Forwarded-User"  # in which a proxy would say who asks the desk
_READY = 180.0  # seconds
_LOOK = 0.3
_CHECKED = {"prometheus": "http://127.0.0.1:9090/-/ready"}  # compose.yaml has no health check of it


class Town:
    """The containers of one run.

    Args:
        folder: For the environment file; images that commands see as ``/images`` lie in ``images`` below it.
    """

    def __init__(self, folder: Path) -> None:
        self.images = folder / "images"
        self.images.mkdir(parents=True)
        folder.chmod(0o755)  # the containers' user is nobody here
        self._folder = folder
        self._env = folder / "env"
        key, secret = "dermbatch", secrets.token_hex(16)
        lines = {
            "REDIS_PASSWORD": secrets.token_hex(16),
            "SIGNING_KEY": secrets.token_hex(24),
            "S3_ACCESS_KEY_ID": key,
            "S3_SECRET_ACCESS_KEY": secret,
            "GRAFANA_PASSWORD": secrets.token_hex(16),
            "IMAGES": str(self.images),
            "DESK_USER_HEADER": _USER,
            "DESK_PROXY_NETWORK": "10.0.0.0/8",  # podman's networks, of which this machine is the gateway
            "DESK_HOST": "localhost",
        }
        self._env.touch(mode=0o600)
        self._env.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        self.store_settings: StoreSettings = Settings().store.model_copy(
            update={
                "endpoint_url": "http://127.0.0.1:9000",
                "region": "us-east-1",
                "access_key_id": key,
                "secret_access_key": SecretStr(secret),
            }
        )

    def compose(self, *words: str) -> str:
        """Run podman-compose on compose.yaml.

        Raises:
            EngineFailed: Where it fails.
        """
        program = Path(sys.executable).with_name("podman-compose")
        options = ("--project-name", PROJECT, "--env-file", self._env, "--file", _DEPLOY / "compose.yaml")
        return run(program, *options, *words, cwd=_DEPLOY)

    def up(self) -> None:
        """Start all but Grafana, servers first: podman starts nothing by the health of something else."""
        for services in (SERVERS, PROGRAMS):
            self.compose("--profile", "desk", "up", "--detach", "--no-build", "--no-deps", *services)
            for service in services:
                self.wait(container(service))

    def command(self, *words: str) -> str:
        """A command beside the running programs, as compose.yaml says it is to be run."""
        return self.compose("--profile", "by-hand", "run", "--rm", "-T", "--no-deps", "commands", *words)

    def wait(self, name: str) -> float:
        """Seconds until a container is there and healthy.

        Raises:
            EngineFailed: Where it never is.
        """
        started = time.monotonic()
        while not _healthy(name):
            if time.monotonic() - started > _READY:
                raise EngineFailed(f"{name} is not healthy after {_READY:.0f} s; it says:\n{logs(name)}")
            time.sleep(_LOOK)
        return time.monotonic() - started

    def kill(self, service: str) -> None:
        """SIGKILL a container's first process: its restart policy has to bring it back."""
        found = inspect("container", container(service))
        before = found["RestartCount"]
        os.kill(found["State"]["Pid"], signal.SIGKILL)
        self._until(
            lambda: inspect("container", container(service))["RestartCount"] > before, f"{service} started again"
        )
        self.wait(container(service))

    def stop(self, service: str) -> None:
        """End a container as an operator does, in the time that compose.yaml gives it, and start it again."""
        podman("stop", container(service))
        podman("start", container(service))
        self.wait(container(service))

    def store(self) -> ObjectStore:
        """The store, as seen from this machine."""
        return ObjectStore(self.store_settings)

    def written(self) -> Path:
        """A copy of the lines about records that the store has written (``benchmarks.killloop.proxy.Written``)."""
        path = self._folder / "written.jsonl"
        path.write_text(podman("exec", container("minio"), "cat", "/data/.server/written.jsonl") + "\n")
        return path

    def shown(self) -> set[str]:
        """Names of the batches that the desk shows to whom a proxy has let in."""
        asked = urllib.request.Request("http://localhost:8080/v1/batches?all=true", headers={_USER: "somebody"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return {batch["name"] for batch in json.loads(answer.read())["batches"]}

    def targets(self) -> dict[str, list[str]]:
        """Health of Prometheus' targets by job, once all are up, or after a minute."""
        with suppress(EngineFailed):
            self._until(
                lambda: all(health == "up" for job in _targets().values() for health in job), "targets", 60
            )
        return _targets()

    def down(self) -> None:
        """End and remove everything, volumes and network too."""
        for kind, words in (("ps", ("--all",)), ("volume", ("ls",)), ("network", ("ls",))):
            own = ("--quiet", "--filter", f"label=io.podman.compose.project={PROJECT}")
            names = podman(kind, *words, *own, check=False).split()
            remove = ("rm", "--force") if kind == "ps" else (kind, "rm", "--force")
            if names:
                podman(*remove, *(("--time", "1") if kind == "ps" else ()), *names, check=False)

    @staticmethod
    def _until(true: Callable[[], bool], what: str, seconds: float = _READY) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(OSError, EngineFailed):
                if true():
                    return
            time.sleep(_LOOK)
        raise EngineFailed(f"after {seconds:.0f} s still not: {what}")


def container(service: str, number: int = 1) -> str:
    """Name of a service's container."""
    return f"{PROJECT}_{service}_{number}"


def _healthy(name: str) -> bool:
    """Whether the health check of compose.yaml passes; without systemd podman runs it only when it is asked to."""
    url = next((url for service, url in _CHECKED.items() if name == container(service)), None)
    if url is None:
        try:
            podman("healthcheck", "run", name)
        except EngineFailed:
            return False
        return True
    with suppress(OSError):
        return bool(urllib.request.urlopen(url, timeout=2).status == 200)
    return False


def _targets() -> dict[str, list[str]]:
    with urllib.request.urlopen("http://127.0.0.1:9090/api/v1/targets", timeout=5) as answer:
        active = json.loads(answer.read())["data"]["activeTargets"]
    found: dict[str, list[str]] = {}
    for target in active:
        found.setdefault(target["labels"]["job"], []).append(target["health"])
    return found


@contextmanager
def sources(folder: Path) -> Iterator[Path]:
    """A copy of what builds see, to be changed.

    Args:
        folder: Where it is made; it is gone afterwards.
    """
    copy = folder / "sources"
    named = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    try:
        for name in [line[1:] for line in named if line.startswith("!")] + [
            "deploy/Dockerfile",
            "deploy/triton.Dockerfile",
        ]:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / name, copy / name)
        shutil.copy2(ROOT / ".dockerignore", copy)
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def there(store: ObjectStore, prefix: str) -> int:
    """How many objects there are below a prefix; 0 while the store cannot be reached."""
    with suppress(DermbatchError, OSError):
        return sum(1 for _ in store.list(store.bucket, prefix))
    return 0
