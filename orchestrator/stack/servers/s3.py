"""The stack's object store: ministack's S3, objects as plain files in a folder of this machine.

ministack keeps an object ``key`` of ``bucket`` as the file ``<folder>/<account>/<bucket>/<key>`` with a sidecar
``<key>.meta.json``; keys that cannot be such a path lie under an encoded name in ``.ministack-keys``. Only this
module knows that.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from dermbatch.errors import DermbatchError, StackError
from dermbatch.settings import StackSettings, StoreSettings
from dermbatch.store import ObjectStore
from orchestrator.stack.process import Part, http_ok, python_module
from orchestrator.stack.servers import s3door

_ACCOUNT = "000000000000"
_REGION = "us-east-1"
_SIDECAR = ".meta.json"
_ENCODED = ".ministack-keys"
_LONGEST_NAME = 200
_NOT_WRITTEN = b"Failed to persist S3 object"


NEW_KEYS = StackSettings()


@dataclass(frozen=True)
class ObjectFiles:
    """The plain files of a ministack data folder.

    Args:
        folder: What ministack was given as its data folder.
    """

    folder: Path

    def bucket(self, bucket: str) -> Path:
        """The folder of a bucket's files."""
        return self.folder / _ACCOUNT / bucket

    def path_of(self, bucket: str, key: str) -> Path:
        """The plain file of an object.

        If it does not exist yet, the path that it will have, unless another key is in its way by then.
        """
        root = self.bucket(bucket)
        encoded = root / _ENCODED / _encoded_name(key)
        if not _can_be_path(key):
            return encoded
        plain = root / key
        if plain.is_file() or not encoded.is_file():
            return plain
        return encoded

    def objects(self, bucket: str, prefix: str = "") -> Iterator[tuple[str, Path]]:
        """Every object of a bucket: its key and plain file, without sidecars, in no particular order.

        Args:
            bucket: Name of the bucket; one that is not there has no objects.
            prefix: Only keys that start so.
        """
        root = self.bucket(bucket)
        # The folder part of the prefix is a folder here too, so other batches need not be walked.
        start = root / prefix.rpartition("/")[0] if _can_be_path(prefix.rpartition("/")[0]) else root
        for folder in {start, root / _ENCODED}:
            for sidecar in folder.rglob("*" + _SIDECAR):
                path = sidecar.with_name(sidecar.name.removesuffix(_SIDECAR))
                if folder != root / _ENCODED and _ENCODED in path.relative_to(root).parts[:1]:
                    continue
                key = _key_in(sidecar) if folder == root / _ENCODED else str(path.relative_to(root))
                if key is not None and key.startswith(prefix) and path.is_file():
                    yield key, path


@dataclass
class DiskWatch:
    """Notices that ministack could not write an object to the disk.

    It answers 200 anyway and keeps the object only in memory, so a full disk would lose results silently.

    Args:
        log: ministack's log, which shows such a failure.
    """

    log: Path
    _read: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._read = self.log.stat().st_size if self.log.exists() else 0

    def look(self) -> None:
        """Read what is new in the log.

        Raises:
            StackError: If an object was not written.
        """
        with suppress(FileNotFoundError), self.log.open("rb") as log:
            if log.seek(0, os.SEEK_END) < self._read:  # it was rotated
                self._read = 0
            log.seek(self._read)
            new = log.read()
            self._read += len(new)
            for line in new.splitlines():
                if _NOT_WRITTEN in line:
                    message = line[line.index(_NOT_WRITTEN) :].decode(errors="replace")
                    raise StackError(
                        f"the object store could not write to the disk; free some space if it is full. It says: "
                        f"{message} ({self.log})"
                    )


def s3_part(
    folder: Path,
    log: Path,
    port: int,
    env: Mapping[str, str],
    store: StoreSettings,
    stack: StackSettings = NEW_KEYS,
) -> tuple[Part, StoreSettings, ObjectFiles]:
    """Prepare ministack on 127.0.0.1 with its data under ``folder``; makes the two buckets when ready.

    Only holders of the credentials in the settings are let in (``s3door.py``), because other users of the machine,
    and pages in a browser, can reach the loopback address too. The credentials are new at every start, unless the
    settings of the stack have a pair.

    Args:
        folder: For its data; made where missing.
        log: Its log file.
        port: A free port.
        env: Environment to run in.
        store: Settings whose buckets, connections and time-outs are kept.
        stack: Settings that may have a key pair.

    Returns:
        The part, not started, the settings that clients need, and its files.

    Raises:
        StackError: If the ``ministack`` package is missing.
    """
    folder = folder.resolve()
    for made in (folder / "objects", folder / "state", folder / "tmp"):
        made.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings = store.model_copy(
        update={
            "endpoint_url": f"http://127.0.0.1:{port}",
            "region": store.region or _REGION,
            "access_key_id": stack.store_access_key_id or f"dermbatch{secrets.token_hex(8)}",
            "secret_access_key": stack.store_secret_access_key or SecretStr(secrets.token_urlsafe(32)),
        }
    )
    secret = settings.secret_access_key.get_secret_value() if settings.secret_access_key else ""
    own: dict[str, str] = {
        s3door.KEY: settings.access_key_id or "",
        s3door.SECRET: secret,
        "SERVICES": "s3",
        "IOT_MTLS_ENABLED": "0",  # otherwise it also runs brokers and file servers open to all networks
        "SFTP_ENABLED": "0",
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "USE_SSL": "0",
        "AUTH": "false",
        "LOG_LEVEL": "WARNING",
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(folder / "objects"),
        "PERSIST_STATE": "1",
        "STATE_DIR": str(folder / "state"),
        "MINISTACK_REGION": settings.region or _REGION,
        "TMPDIR": str(folder / "tmp"),  # its pid file
        # At its start it removes the Docker containers of any other ministack on the machine: keep it from Docker.
        "DOCKER_HOST": f"unix://{folder}/no-docker.sock",
    }
    part = Part(
        name="s3",
        argv=python_module(s3door.__name__),
        env={**env, **own},
        log=log,
        probe=lambda: http_ok(port, s3door.HEALTH),
        ready_timeout=60,
        grace=10,
        cwd=folder,
        on_ready=lambda: create_buckets(settings),
    )
    return part, settings, ObjectFiles(folder / "objects")


def create_buckets(store: StoreSettings) -> None:
    """Create the two buckets of the settings if they do not exist yet.

    Raises:
        StackError: If the store refuses.
    """
    try:
        client = ObjectStore(store)
        for bucket in (store.bucket, store.incoming_bucket):
            client.create_bucket(bucket)
    except DermbatchError as error:
        raise StackError(
            f"the buckets {store.bucket} and {store.incoming_bucket} could not be created: {error}"
        ) from error


def _can_be_path(key: str) -> bool:
    # ministack's own rule (services/s3.py, _plain_path_key).
    parts = key.split("/")
    return (
        bool(key)
        and "\x00" not in key
        and parts[0] != _ENCODED
        and all(
            part not in ("", ".", "..")
            and len(part.encode()) <= _LONGEST_NAME
            and not part.endswith((_SIDECAR, ".tmp"))
            for part in parts
        )
    )


def _encoded_name(key: str) -> str:
    name = quote(key, safe="").replace(".", "%2E")
    return name if len(name) <= _LONGEST_NAME else "sha256-" + hashlib.sha256(key.encode()).hexdigest()


def _key_in(sidecar: Path) -> str | None:
    with suppress(OSError, ValueError):
        key = json.loads(sidecar.read_text(encoding="utf-8")).get("key")
        return key if isinstance(key, str) else None
    return None
