"""Keys by which programs ask the desk: made, listed, revoked, and asked for at each request.

They lie in the object store, which outlives Redis, and are read at each request, so a revoked one stops working at
once. Only Redis knows when each was used last.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import redis

from dermbatch import layout
from dermbatch.errors import UsageError
from dermbatch.ledger.connection import sorted_errors
from dermbatch.records.access import AccessKey, Role
from dermbatch.store import ObjectStore
from dermbatch.stored import read_if_any, write_once
from desk.problems import Problem

PREFIX = "dbk_"
"""The prefix of all keys, by which leaked ones can be found."""

MOST_DAYS = 366
_KEY = re.compile(r"dbk_([a-z2-7]{12})_([\w-]{43})", re.ASCII)


@dataclass(frozen=True)
class Keys:
    """The keys of one system.

    Args:
        store: Where they lie.
        redis: Where it is written when they were used.
    """

    store: ObjectStore
    redis: redis.Redis

    def add(
        self, name: str, roles: tuple[Role, ...], by: str, days: int, tenant: str | None
    ) -> tuple[str, AccessKey]:
        """Create a key; it is returned here, and never again.

        Args:
            name: What it is for.
            roles: What it may.
            by: Who makes it.
            days: Days for which it is valid, 1 to 366.
            tenant: Whose it is.

        Raises:
            UsageError: If that is not possible.
        """
        if not roles or not 1 <= days <= MOST_DAYS or not re.fullmatch(r"[\w][\w .@-]{0,99}", name):
            raise UsageError(
                f"a key needs a name (letters, digits, ' .@_-'), at least one role, and 1 to {MOST_DAYS} days of "
                f"validity"
            )
        identifier = base64.b32encode(secrets.token_bytes(8))[:12].decode().lower()
        secret = secrets.token_urlsafe(32)
        now = datetime.now(UTC).replace(microsecond=0)
        made = AccessKey(
            id=identifier,
            name=name,
            roles=tuple(sorted(set(roles))),
            tenant=tenant,
            digest=hashlib.sha256(secret.encode()).hexdigest(),
            made=now,
            by=by,
            expires=now + timedelta(days=days),
        )
        self.store.audit.of(by).note(
            "grant", f"key:{identifier}", to=f"{' '.join(made.roles)} {made.expires:%Y-%m-%d}"
        )
        write_once(self.store, layout.access_key(identifier), made)
        return f"{PREFIX}{identifier}_{secret}", made

    def all(self) -> list[dict[str, Any]]:
        """All keys, newest first, without their secrets, with the time when each was last ``used``."""
        infos = self.store.list(self.store.bucket, layout.KEYS)
        found = [read_if_any(self.store, info.key, AccessKey) for info in infos]
        keys = sorted((one for one in found if one is not None), key=lambda one: one.made, reverse=True)
        return [shown(one) | {"used": self._used(one.id)} for one in keys]

    def revoke(self, identifier: str, by: str, tenant: str | None = None) -> None:
        """Revoke a key.

        Args:
            identifier: Names it.
            by: Who does so.
            tenant: Whose it has to be; none for any.

        Raises:
            Problem: 404 if there is none.
        """
        found = self._read(identifier) if re.fullmatch(r"[a-z2-7]{12}", identifier) else None
        if found is None or tenant not in {None, found.tenant}:
            raise Problem(404, "no_key", "there is no such key")
        self.store.audit.of(by).note("revoke", f"key:{identifier}")
        self.store.delete(layout.access_key(identifier))
        with sorted_errors():
            self.redis.delete(_used(identifier))

    def find(self, key: str) -> AccessKey:
        """The key that was presented; this counts as using it.

        Raises:
            Problem: 401 if it is not a key, was revoked, or has expired.
        """
        parts = _KEY.fullmatch(key)
        found = None if parts is None else self._read(parts[1])
        given = "" if parts is None else hashlib.sha256(parts[2].encode()).hexdigest()
        if found is None or not hmac.compare_digest(found.digest, given):
            raise Problem(401, "bad_key", "there is no such key, or it was revoked")
        if datetime.now(UTC) >= found.expires:
            raise Problem(401, "key_expired", f"this key expired on {found.expires:%Y-%m-%d}: ask for another")
        with sorted_errors():
            self.redis.set(_used(found.id), f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        return found

    def _read(self, identifier: str) -> AccessKey | None:
        return read_if_any(self.store, layout.access_key(identifier), AccessKey)

    def _used(self, identifier: str) -> str | None:
        with sorted_errors():
            return cast("str | None", self.redis.get(_used(identifier)))


def shown(key: AccessKey) -> dict[str, Any]:
    """The part of a key that may be shown."""
    return key.model_dump(mode="json", exclude={"digest", "format"})


def _used(identifier: str) -> str:
    return f"desk:key-used:{identifier}"
