"""Who may do what, as settings, keys and the desk say it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from dermbatch.records.asked import Record, Stored


class Role(StrEnum):
    """What somebody is to the system; nobody is any of them unasked, and none holds another."""

    READER = "reader"
    """Looks at results, and says of images what they show."""
    REVIEWER = "reviewer"
    """Also decides where readers disagree, gives images back, and sees how far readers agree."""
    OPERATOR = "operator"
    """Looks at results, submits and steers batches."""
    ADMIN = "admin"
    """May everything, and gives out keys."""


class AccessKey(Stored):
    """A key by which a program asks the desk. What it is told by is not in here.

    Attributes:
        id: Names it; the first part of the key itself.
        name: What it is for; ``key:`` and this name is who asks.
        roles: What it may.
        tenant: Whose it is.
        digest: SHA-256 of the key's secret part, which has 256 random bits: nothing to be guessed.
        made, by: When and by whom.
        expires: From when on it lets nobody in.
    """

    id: str = Field(pattern=r"^[a-z2-7]{12}$")
    name: str = Field(min_length=1, max_length=100)
    roles: tuple[Role, ...] = Field(min_length=1)
    tenant: str | None = None
    digest: str
    made: datetime
    by: str
    expires: datetime


class NameOwner(Record):
    """Whose name it is: an issuer vouches for a subject, and the name is what people call it."""

    name: str
    issuer: str
    subject: str
