"""One-time links and sessions, as Redis keeps them for all replicas.

Only digests are kept: reading Redis lets nobody in. What an issuer gave is sealed with the session's own token,
which Redis does not know. Times are Redis's own, so our clocks do not matter.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import secrets
from dataclasses import asdict, dataclass, replace
from typing import Literal, Self, cast

import redis
from nacl.secret import SecretBox

from dermbatch.ledger.connection import milliseconds, sorted_errors
from dermbatch.records.access import Role

LINK_SECONDS = 15 * 60
"""Seconds within which a link may be used, once."""

_SECRET = "desk:secret"  # noqa: S105 - the name of the key


@dataclass(frozen=True)
class Granted:
    """What an issuer gave when somebody signed on, and since.

    Attributes:
        subject: The subject, as the issuer names it.
        source: Which of its documents has the roles: ``id_token`` or ``userinfo``.
        lasts: Seconds for which it vouched last time.
        ends: When the session ends, however it is used; of Redis's clock, in seconds.
        sealed: Refresh token and ID token.
        sid: What the issuer calls their session there; empty where it does not say.
    """

    subject: str
    source: str
    lasts: float
    ends: float
    sealed: str
    sid: str = ""


@dataclass(frozen=True)
class Session:
    """Somebody who is in.

    Attributes:
        name: Who.
        roles: What they are.
        tenant: Whose they are.
        granted: What an issuer granted, if one vouches for them.
        vouched: Seconds for which it still does; none for others.
    """

    name: str
    roles: frozenset[Role]
    tenant: str | None = None
    granted: Granted | None = None
    vouched: float | None = None

    def as_json(self) -> str:
        """As it is kept."""
        granted = None if self.granted is None else asdict(self.granted)
        return json.dumps(
            {"name": self.name, "roles": sorted(self.roles), "tenant": self.tenant, "granted": granted}
        )

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a stored session; before there were roles, everybody could do everything."""
        stored = json.loads(text)
        granted = stored.get("granted")
        return cls(
            stored["name"],
            frozenset(map(Role, stored.get("roles", Role))),
            stored.get("tenant"),
            None if granted is None else Granted(**granted),
        )


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

    def enter(self, token: str) -> tuple[str, Session] | None:
        """The session that a link's token opens once it is kept, after its own token.

        None if it was used, is too old, or never existed.
        Whoever made the link has the passwords of the system, so they get every role.
        """
        with sorted_errors():
            name = cast("str | None", self.redis.getdel(_key("link", token)))
        if name is None:
            return None
        return secrets.token_urlsafe(32), Session(name, frozenset(Role))

    def keep(self, token: str, session: Session, *, known: bool = False) -> None:
        """Open a session, or update one that is ``known``, unless it has ended meanwhile.

        This does not prolong it.
        """
        lasts = None if known else round(self.seconds)
        with sorted_errors():
            asked = self.redis.pipeline()
            asked.set(_key("session", token), session.as_json(), ex=lasts, keepttl=known, xx=known)
            if session.vouched is not None:
                asked.set(_key("vouched", token), 1, px=max(1, milliseconds(session.vouched)))
            if session.granted is not None and not known:
                for what, value in (("sub", session.granted.subject), ("sid", session.granted.sid)):
                    if value:
                        asked.sadd(_key(what, value), secret_digest(token))
                        asked.expireat(_key(what, value), math.ceil(session.granted.ends))
            asked.execute()

    def who(self, token: str, *, use: bool = True) -> Session | None:
        """Whose session it is; none if it has ended.

        Args:
            token: Its token.
            use: Whether it is used by this, so that it lasts longer.
        """
        key, vouched = _key("session", token), _key("vouched", token)
        with sorted_errors():
            asked = self.redis.pipeline(transaction=False)
            asked.get(key)
            asked.pttl(vouched)
            asked.time()
            if use:
                asked.expire(key, round(self.seconds))
            text, left, (now, _), *_ = asked.execute()
        if text is None:
            return None
        session = Session.read(text)
        if session.granted is None:
            return session
        return None if now >= session.granted.ends else replace(session, vouched=max(0, left) / 1000)

    def leave(self, token: str) -> None:
        """End a session."""
        with sorted_errors():
            self.redis.delete(_key("session", token), _key("vouched", token))

    def end_all(self, what: Literal["sub", "sid"], value: str) -> int:
        """End what an issuer granted to a subject, or within one session there; how many sessions there were."""
        with sorted_errors():
            ended = cast("set[str]", self.redis.smembers(_key(what, value)))
            keys = [f"desk:{kind}:{one}" for one in ended for kind in ("session", "vouched")]
            there = self.redis.exists(*keys[::2]) if keys else 0
            self.redis.delete(_key(what, value), *keys)
        return there

    def now(self) -> float:
        """Redis's clock, in seconds."""
        with sorted_errors():
            seconds, micro = self.redis.time()
        return seconds + micro / 1e6

    def take(self, what: str, token: str, seconds: float) -> bool:
        """Claim something for all replicas, for this long; ``False`` if another has claimed it."""
        with sorted_errors():
            return bool(self.redis.set(_key(what, token), 1, nx=True, px=milliseconds(seconds)))

    def drop(self, what: str, token: str) -> None:
        """Give it up."""
        with sorted_errors():
            self.redis.delete(_key(what, token))

    def put_by(self, what: str, token: str, value: dict[str, str], seconds: float) -> None:
        """Store something that will be fetched once, and soon."""
        with sorted_errors():
            self.redis.set(_key(what, token), json.dumps(value), ex=round(seconds))

    def call_for(self, what: str, token: str) -> dict[str, str] | None:
        """What was stored, which is then gone."""
        with sorted_errors():
            text = cast("str | None", self.redis.getdel(_key(what, token)))
        return None if text is None else cast("dict[str, str]", json.loads(text))

    def csrf(self, of: str) -> str:
        """The token that pages of a session, or of somebody vouched for by a proxy, send: not to be guessed."""
        with sorted_errors():
            asked = self.redis.pipeline(transaction=False)
            asked.set(_SECRET, secrets.token_hex(32), nx=True)
            asked.get(_SECRET)
            secret: str = asked.execute()[1]
        return hmac.new(secret.encode(), of.encode(), hashlib.sha256).hexdigest()


def seal(token: str, value: dict[str, str]) -> str:
    """Something sealed so that only the holder of this token can read it."""
    return base64.b64encode(_box(token).encrypt(json.dumps(value).encode())).decode()


def unseal(token: str, sealed: str) -> dict[str, str]:
    """What was sealed with this token."""
    return cast("dict[str, str]", json.loads(_box(token).decrypt(base64.b64decode(sealed))))


def _box(token: str) -> SecretBox:
    return SecretBox(hmac.digest(token.encode(), b"desk:sealed", "sha256"))


def _key(kind: str, token: str) -> str:
    return f"desk:{kind}:{secret_digest(token)}"


def secret_digest(text: str) -> str:
    """SHA-256 of a secret in hexadecimal: what is kept of it."""
    return hashlib.sha256(text.encode()).hexdigest()
