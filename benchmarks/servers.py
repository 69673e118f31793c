"""Redis and an object store for a benchmark alone."""

from __future__ import annotations

import os
from pathlib import Path

from dermbatch.settings import RedisSettings, StoreSettings
from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.process import Part
from orchestrator.stack.servers.redis import redis_part
from orchestrator.stack.servers.s3 import s3_part


def redis_and_s3(folder: Path, store: StoreSettings) -> tuple[list[Part], RedisSettings, StoreSettings]:
    """The stack's own Valkey and object store, on free ports; they are not started yet.

    Args:
        folder: For their data and logs.
        store: Names of buckets, and all else but address and keys.

    Returns:
        Redis and the object store, and the settings that lead to them.
    """
    base = base_environment(os.environ)
    redis_port, s3_port = free_ports(2)
    redis, redis_settings = redis_part(folder / "redis", folder / "redis.log", redis_port, base)
    s3, store_settings, _ = s3_part(folder / "s3", folder / "s3.log", s3_port, base, store)
    return [redis, s3], redis_settings, store_settings
