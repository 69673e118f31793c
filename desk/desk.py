"""What the parts of the desk share: settings, and the way to Redis and the object store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

import redis
from fastapi import Depends, Request

from dermbatch import layout
from dermbatch.audit import Audit
from dermbatch.ledger import Ledger
from dermbatch.ledger.connection import Connection
from dermbatch.records.access import Role
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore


@dataclass(frozen=True)
class Person:
    """Who asks.

    Attributes:
        name: As the audit log has it.
        csrf: The token that a page must send with every change; empty if each request brings a key or token, which
            no other site can make a browser send.
        roles: Their roles; the table of ``desk/door/rights.py`` says what these may do.
        tenant: Whose batches they may see; none: all.
        leaves: Whether they have a session that they can end.
    """

    name: str
    csrf: str
    roles: frozenset[Role] = frozenset()
    tenant: str | None = None
    leaves: bool = False

    def may(self, *roles: Role) -> bool:
        """Whether one of these roles is theirs."""
        return not self.roles.isdisjoint(roles)

    @property
    def key(self) -> str:
        """The key for what is theirs: the same name at another tenant is somebody else."""
        return self.name if self.tenant is None else f"{self.tenant}\0{self.name}"

    def sees(self, batch: str) -> bool:
        """Whether they may see a batch, judged by its name."""
        return self.tenant is None or layout.is_owned(batch, self.tenant)


@dataclass(frozen=True)
class Desk:
    """One replica.

    Attributes:
        settings: All settings.
        store: The object store, used on behalf of nobody in particular.
        ledger: How batches stand.
        redis: Sessions, uploads and keys of requests.
    """

    settings: Settings
    store: ObjectStore
    ledger: Ledger
    redis: redis.Redis

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The desk of the system that these settings lead to; nothing is contacted yet."""
        return cls(
            settings,
            ObjectStore(settings.store, Audit(settings.audit, "desk")),
            Ledger(settings.redis, settings.ledger),
            Connection(settings.redis).redis,
        )


def _desk(request: Request) -> Desk:
    found: Desk = request.app.state.desk
    return found


def _person(request: Request) -> Person:
    found: Person = request.state.person
    return found


def _store(desk: Annotated[Desk, Depends(_desk)], person: Annotated[Person, Depends(_person)]) -> ObjectStore:
    return desk.store.of(person.name)


TheDesk = Annotated[Desk, Depends(_desk)]
ThePerson = Annotated[Person, Depends(_person)]
TheStore = Annotated[ObjectStore, Depends(_store)]
"""The object store, with accesses noted as this person's."""
