"""What claims say about somebody: a name, roles, a tenant.

A missing claim is not an empty list (OpenID Connect Core 1.0, 5.3.2: what is not returned is left out): it says
nothing, so it takes nothing away. See docs/decisions/0041-sign-on.md.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dermbatch.records.access import Role
from dermbatch.settings.desk import OidcSettings


@dataclass(frozen=True)
class Claimed:
    """What claims say about somebody.

    Attributes:
        name: What they are called; the subject if that claim is missing.
        roles: Their roles; none if no claim says, empty if one says that they have none.
        tenant: Their tenant; none if no claim says.
        is_whole: Whether all claims that are asked for were there.
    """

    name: str
    roles: frozenset[Role] | None
    tenant: str | None
    is_whole: bool


def claimed(claims: Mapping[str, Any], settings: OidcSettings) -> Claimed:
    """What claims say."""
    name, roles = _text(claims, settings.name_claim), roles_of(_at(claims, settings.roles_claim), settings)
    tenant = _text(claims, settings.tenant_claim)
    asked = [name, roles] if settings.tenant_claim is None else [name, roles, tenant]
    return Claimed(name or str(claims.get("sub", "")), roles, tenant, None not in asked)


def roles_of(value: Any, settings: OidcSettings) -> frozenset[Role] | None:
    """The roles that a claim's value means: a list of names, one name, or an object by names."""
    if isinstance(value, str):
        value = [value] if value else []
    if not isinstance(value, list | dict):
        return None
    by_name = settings.roles or {role.value: role for role in Role}
    return frozenset(by_name[name] for name in value if isinstance(name, str) and name in by_name)


def is_name(name: str) -> bool:
    """Whether this is a usable name: not like those of keys, and without invisible characters."""
    letters = all(unicodedata.category(letter)[0] not in "CZ" or letter == " " for letter in name)
    return 1 <= len(name) <= 200 and name == name.strip() and letters and not name.startswith("key:")


def _text(claims: Mapping[str, Any], path: str | None) -> str | None:
    value = None if path is None else _at(claims, path)
    return value if isinstance(value, str) and value else None


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of this name, which may have dots; otherwise the one that the name leads to as a dotted path."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found
