"""Who may do what, as settings, keys and the desk name it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from dermbatch.records.asked import Record, Stored


class Role(StrEnum):
    """What somebody is to the system; nobody has a role by default, and no role includes another."""

    READER = "reader"
    """Looks at results, and says what images show."""
    REVIEWER = "reviewer"
    """Also decides where readers disagree, returns images to readers, and sees how far readers agree."""
    OPERATOR = "operator"
    """Looks at results, submits and steers batches."""
    ADMIN = "admin"
    """May do everything, and issues keys."""


class AccessKey(Stored):
    """A key with which a program uses the desk. The secret itself is not in here.

    Attributes:
        id: Identifies it; the first part of the key itself.
        name: What it is for; its user appears as ``key:`` and this name.
        roles: What it may do.
        tenant: Whose it is.
        digest: SHA-256 of the key's secret part, which has 256 random bits and so cannot be guessed.
        made, by: When and by whom.
        expires: When it stops letting anybody in.
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
    """Whom a name belongs to: an issuer vouches for a subject, and the name is what people call that subject."""

    name: str
    issuer: str
    subject: str
