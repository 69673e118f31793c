"""One-time links and sessions, as Redis keeps them for all replicas.

Only digests are kept: who reads Redis can enter nowhere. Times are Redis's own, so that no clock of ours matters.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from typing import cast

import redis

from dermbatch.ledger.connection import sorted_errors

LINK_SECONDS = 15 * 60
"""That a link may be used in, once."""

_SECRET = "desk:secret"  # noqa: S105 - the name of the key


@dataclass(frozen=True)
class Sessions:
    """Sessions of one system.

    Every method raises ``LedgerUnavailable`` where Redis does not answer.

    Args:
        redis: The client.
        seconds: That a session lasts after it was last used.
    """

    redis: redis.Redis
    seconds: float

    def link(self, name: str) -> str:
        """A token by which somebody may enter, once and soon."""
        token = secrets.token_urlsafe(32)
        with sorted_errors():
            self.redis.set(_key("link", token), name, ex=LINK_SECONDS)
        return token

    def enter(self, token: str) -> str | None:
        """The session that a link's token opens; none where it was used, is too old, or never was."""
        with sorted_errors():
            name = cast("str | None", self.redis.getdel(_key("link", token)))
            if name is None:
                return None
            session = secrets.token_urlsafe(32)
            self.redis.set(_key("session", session), json.dumps({"name": name}), ex=round(self.seconds))
        return session

    def who(self, session: str) -> str | None:
        """Whose session it is, which is then used; none where it has ended."""
        with sorted_errors():
            said = cast("str | None", self.redis.getex(_key("session", session), ex=round(self.seconds)))
        return None if said is None else str(json.loads(said)["name"])

    def holds(self, session: str) -> bool:
        """Whether a session goes on; it is not used by this."""
        with sorted_errors():
            return bool(self.redis.exists(_key("session", session)))

    def leave(self, session: str) -> None:
        """End a session."""
        with sorted_errors():
            self.redis.delete(_key("session", session))

    def csrf(self, of: str) -> str:
        """What pages of a session, or of a person that a proxy vouches for, bring along: not to be guessed."""
        with sorted_errors():
            self.redis.set(_SECRET, secrets.token_hex(32), nx=True)
            secret = cast(str, self.redis.get(_SECRET))
        return hmac.new(secret.encode(), of.encode(), hashlib.sha256).hexdigest()


def _key(kind: str, token: str) -> str:
    return f"desk:{kind}:{hashlib.sha256(token.encode()).hexdigest()}"
