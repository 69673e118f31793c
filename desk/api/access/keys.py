"""Keys for programs: created, listed and revoked by those who give them out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from dermbatch.records.access import Role
from desk.desk import ThePerson
from desk.door.keys import MOST_DAYS, Keys, shown

router = APIRouter(prefix="/v1/keys", tags=["keys"])


class KeyRequest(BaseModel):
    """A key to be created."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="what the key is for; its requests appear as key:NAME")
    roles: Annotated[list[Role], Field(min_length=1)]
    days: int = Field(default=90, ge=1, le=MOST_DAYS, description="days for which the key is valid")
    tenant: str | None = Field(default=None, description="tenant of the key; by default that of its maker")


@router.get("")
def keys(request: Request, person: ThePerson) -> list[dict[str, Any]]:
    """All keys, newest first, without their secrets, with the time of last use."""
    found = _keys(request).all()
    return [one for one in found if person.tenant in {None, one["tenant"]}]


@router.post("", status_code=201)
def add(wanted: KeyRequest, request: Request, person: ThePerson) -> dict[str, Any]:
    """Create a key: ``key`` is shown here, and never again."""
    tenant = wanted.tenant if person.tenant is None else person.tenant
    key, made = _keys(request).add(wanted.name, tuple(wanted.roles), person.name, wanted.days, tenant)
    return {"key": key, **shown(made)}


@router.delete("/{identifier}", status_code=204)
def revoke(identifier: str, request: Request, person: ThePerson) -> None:
    """Revoke a key: it no longer lets anybody in."""
    _keys(request).revoke(identifier, person.name, person.tenant)


def _keys(request: Request) -> Keys:
    found: Keys = request.app.state.keys
    return found
