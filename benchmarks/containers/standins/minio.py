"""Stands in for MinIO: ministack's S3 behind the local stack's door, with a bucket for each folder of one folder.

    python -m minio FOLDER PORT

Who has ``MINIO_ROOT_USER`` and ``MINIO_ROOT_PASSWORD`` is let in. It notes which records of outcomes it has
written, a line of ``FOLDER/.server/written.jsonl`` each, so that "written twice" is seen, not inferred.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import s3door  # type: ignore[import-not-found]

OWN = ".server"


class Noting:
    """An ASGI application around another one that notes each record of an outcome that the other one has written.

    Args:
        app: What is behind it.
        log: Where lines are added: key with bucket, digest of the body, whether the PUT was conditional.
    """

    def __init__(self, app: s3door.App, log: Path) -> None:
        self._app, self._log = app, log

    async def __call__(self, scope: s3door.Scope, receive: s3door.Receive, send: s3door.Send) -> None:
        """Hand on, and note."""
        path = str(scope.get("path", ""))
        if scope["type"] != "http" or scope["method"] != "PUT" or not ("/results/" in path or "/failed/" in path):
            await self._app(scope, receive, send)
            return
        digest = hashlib.sha256()
        conditional = any(name == b"if-none-match" for name, _ in scope["headers"])

        async def reading() -> MutableMapping[str, Any]:
            message: MutableMapping[str, Any] = await receive()
            digest.update(message.get("body", b""))
            return message

        async def answering(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] // 100 == 2:
                self._note({"key": path.lstrip("/"), "sha256": digest.hexdigest(), "conditional": conditional})
            await send(message)

        await self._app(scope, reading, answering)

    def _note(self, line: dict[str, object]) -> None:
        with self._log.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")


def make_buckets(folder: Path, port: int, key: str, secret: str) -> None:
    """Make a bucket for each folder, as soon as the server answers."""
    import boto3  # noqa: PLC0415 - slow, and of this thread alone

    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )
    for bucket in sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name != OWN):
        while True:
            try:
                client.create_bucket(Bucket=bucket)
                break
            except client.exceptions.BucketAlreadyOwnedByYou:
                break
            except Exception:  # not there yet
                time.sleep(0.1)


def main(folder: Path, port: int) -> None:
    """Serve until SIGTERM."""
    own = folder / OWN
    for name in ("objects", "state"):
        (own / name).mkdir(parents=True, exist_ok=True)
    key, secret = os.environ["MINIO_ROOT_USER"], os.environ["MINIO_ROOT_PASSWORD"]
    os.environ |= {
        "SERVICES": "s3",
        "BIND_HOST": "0.0.0.0",
        "GATEWAY_PORT": str(port),
        "USE_SSL": "0",
        "AUTH": "false",
        "LOG_LEVEL": "WARNING",
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(own / "objects"),
        "PERSIST_STATE": "1",
        "STATE_DIR": str(own / "state"),
        "MINISTACK_REGION": "us-east-1",
        "DOCKER_HOST": "unix:///nowhere.sock",
    }
    from ministack import app as ministack  # noqa: PLC0415 - it reads the environment

    s3door._HOSTS.add("minio")  # its name in compose.yaml
    threading.Thread(target=make_buckets, args=(folder, port, key, secret), daemon=True).start()
    ministack.app = s3door.S3Door(Noting(ministack.app, own / "written.jsonl"), key, secret)
    ministack.main()


if __name__ == "__main__":
    _, place, listening = sys.argv
    del sys.argv[1:]  # ministack reads them, too
    main(Path(place), int(listening))
