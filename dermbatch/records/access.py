"""Who may do what, as settings, keys and the desk say it."""

from __future__ import annotations

from enum import StrEnum


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
