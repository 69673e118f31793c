"""The real servers, started once for all integration tests, by the very code that starts them for users."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
import redis
from botocore.config import Config
from digests import copy_with_digests
from orchestra import Orchestra
from tiny_models import write_repository

from dermbatch.settings import RedisSettings, StoreSettings, TritonSettings
from dermbatch.store import ObjectStore
from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.process import Part, stop_all
from orchestrator.stack.servers.redis import redis_part
from orchestrator.stack.servers.s3 import ObjectFiles, s3_part
from orchestrator.stack.servers.triton import TritonPorts, triton_part
from tests.outcome_samples import failure_of, result_of
from workers.triton.client import TritonClient

if TYPE_CHECKING:
    import httpx
    from desk_server import Server
    from playwright.sync_api import Browser
    from watched import Watched

    from dermbatch.ledger import Ledger


@dataclass(frozen=True)
class RedisServer:
    part: Part
    settings: RedisSettings


@dataclass(frozen=True)
class S3Server:
    part: Part
    settings: StoreSettings
    files: ObjectFiles


@dataclass(frozen=True)
class TritonServer:
    part: Part
    settings: TritonSettings
    ports: TritonPorts


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real Valkey with its append-only file."""
    folder = tmp_path_factory.mktemp("valkey")
    part, settings = redis_part(folder, folder / "redis.log", free_ports(1)[0], base_environment(os.environ))
    part.start()
    try:
        part.wait()
        yield RedisServer(part, settings)
    finally:
        part.stop()


@pytest.fixture(scope="session")
def redis_settings(valkey: RedisServer) -> RedisSettings:
    """Settings that lead to the real Valkey; what is in it is shared by all tests, so use names of your own.

    With the key that a stack signs its messages with.
    """
    return valkey.settings


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with the buckets of the default settings; ``files`` are its objects as plain files."""
    folder = tmp_path_factory.mktemp("s3")
    env = base_environment(os.environ)
    part, settings, files = s3_part(folder, folder / "s3.log", free_ports(1)[0], env, StoreSettings())
    part.start()
    try:
        part.wait()
        yield S3Server(part, settings, files)
    finally:
        part.stop()


@pytest.fixture(scope="session")
def object_store_settings(s3: S3Server) -> StoreSettings:
    """Settings that lead to the real S3 server; its buckets are shared, so use prefixes of your own."""
    return s3.settings


@pytest.fixture(scope="session")
def s3_client(object_store_settings: StoreSettings):
    """A plain boto3 client of the real S3 server."""
    client = boto3.client(
        "s3",
        endpoint_url=object_store_settings.endpoint_url,
        region_name=object_store_settings.region,
        aws_access_key_id=object_store_settings.access_key_id,
        aws_secret_access_key=object_store_settings.secret_access_key.get_secret_value(),
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=16, proxies={}),
    )
    yield client
    client.close()


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository of tiny models: see ``tiny_models.write_repository``."""
    repository = tmp_path_factory.mktemp("model_repository")
    write_repository(repository)
    return repository


@pytest.fixture(scope="session")
def start_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], TritonServer]]:
    """Starts a real Triton for a model repository; one for each repository, all stopped in the end."""
    served: dict[Path, TritonServer] = {}

    def start(repository: Path) -> TritonServer:
        if repository not in served:
            folder = tmp_path_factory.mktemp("triton")
            ports = TritonPorts(*free_ports(3))
            part, settings = triton_part(
                folder,
                folder / "triton.log",
                ports,
                base_environment(os.environ),
                triton=TritonSettings(),
                repository=repository,
            )
            part.grace = 10  # as long as an orderly end takes, in which the backend's coverage is written
            served[repository] = TritonServer(part, settings, ports)
            part.start()
            part.wait()
        return served[repository]

    try:
        yield start
    finally:
        stop_all([server.part for server in served.values()])


@pytest.fixture(scope="session")
def triton(start_triton: Callable[[Path], TritonServer], tiny_repository: Path) -> TritonServer:
    """A real Triton that serves the tiny models."""
    return start_triton(tiny_repository)


@pytest.fixture(scope="session")
def digested_repository(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models with what the worker needs to know of them: their files' digests."""
    return copy_with_digests(tiny_repository, tmp_path_factory.mktemp("models") / "repository")


@pytest.fixture(scope="session")
def digested_triton(start_triton: Callable[[Path], TritonServer], digested_repository: Path) -> TritonServer:
    """A real Triton that serves the tiny models with their digests."""
    return start_triton(digested_repository)


@pytest.fixture(scope="module")
def client(digested_triton: TritonServer) -> Iterator[TritonClient]:
    """What runs the tiny models on that Triton."""
    client = TritonClient(digested_triton.settings)
    yield client
    client.close()


@pytest.fixture(scope="session")
def triton_settings(triton: TritonServer) -> TritonSettings:
    """Settings that lead to the Triton with the tiny models."""
    return triton.settings


@pytest.fixture(scope="module")
def store(object_store_settings: StoreSettings) -> ObjectStore:
    """The real S3 server's store, with whatever other modules have left there."""
    return ObjectStore(object_store_settings)


@pytest.fixture(scope="module")
def server(
    redis_settings: RedisSettings, object_store_settings: StoreSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["Server"]:
    """The desk as it serves those who come by a link, one a module."""
    from desk_server import Server  # not above: what it needs costs other modules seconds

    with Server(redis_settings, object_store_settings, tmp_path_factory.mktemp("desk")) as server:
        yield server


@pytest.fixture(scope="module")
def ada(server: "Server") -> Iterator["httpx.Client"]:
    """Somebody who is signed in there."""
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def monday(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a closed batch: eight results and a failure."""
    from desk_server import write_batch

    records = [
        result_of("desk-monday", n, probabilities=(n / 10, 0.9 - n / 10, 0.1), flags=("no_lesion",) * (n % 2))
        for n in range(8)
    ]
    write_batch(store, "desk-monday", [*records, failure_of("desk-monday", 8)], tmp_path_factory.mktemp("t"))
    return "desk-monday"


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests have parts of four images."""
    monkeypatch.setattr("dermbatch.layout.PART_SIZE", 4)


@pytest.fixture
def nothing_refused_yet(redis_settings: RedisSettings) -> None:
    """Nobody has asked a desk too much."""
    with redis.Redis.from_url(redis_settings.url) as client:
        for key in client.scan_iter("desk:rate:*"):
            client.delete(key)


@pytest.fixture
def empty_redis(redis_settings: RedisSettings) -> RedisSettings:
    """Settings that lead to the real Valkey with nothing in it."""
    with redis.Redis.from_url(redis_settings.url) as client:
        client.flushall()
    return redis_settings


@pytest.fixture
def empty_store(object_store_settings: StoreSettings) -> StoreSettings:
    """Settings that lead to the real S3 server with nothing in its two buckets."""
    store = ObjectStore(object_store_settings)
    for bucket in (store.bucket, store.incoming_bucket):
        store.delete_prefix(bucket, "")
    return object_store_settings


@pytest.fixture
def orchestra(empty_redis: RedisSettings, empty_store: StoreSettings) -> Iterator[Orchestra]:
    """An orchestrator without its loop, on empty servers, and workers that process nothing."""
    orchestra = Orchestra(empty_redis, empty_store)
    try:
        yield orchestra
    finally:
        orchestra.end()


@pytest.fixture
def redis_client(empty_redis: RedisSettings) -> Iterator[redis.Redis]:
    """What looks into the real Valkey, with nothing in it at first."""
    with redis.Redis.from_url(empty_redis.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def ledger(empty_redis: RedisSettings) -> "Ledger":
    """An empty ledger whose leases are short."""
    from in_flight import SETTINGS

    from dermbatch.ledger import Ledger

    return Ledger(empty_redis, SETTINGS)


@pytest.fixture
def watched(empty_redis: RedisSettings, empty_store: StoreSettings) -> "Watched":
    """A bucket that is watched, on empty servers."""
    from watched import Watched

    return Watched(empty_redis, empty_store)


@pytest.fixture
def quiet(empty_redis: RedisSettings, empty_store: StoreSettings) -> "Watched":
    """The same, listed once only: all else is by notifications."""
    from watched import Watched

    return Watched(empty_redis, empty_store, every=3600)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """A real browser."""
    from tests.acceptance.browser import chromium

    with chromium() as browser:
        yield browser
