"""Keys by which programs ask: made, listed and revoked by who gives them out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from dermbatch.records.access import Role
from desk.desk import ThePerson
from desk.door.keys import MOST_DAYS, Keys, shown

router = APIRouter(prefix="/v1/keys", tags=["keys"])


class Wanted(BaseModel):
    """A key that is to be made."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="what it is for; who asks by it is called key: and this")
    roles: Annotated[list[Role], Field(min_length=1)]
    days: int = Field(default=90, ge=1, le=MOST_DAYS, description="that it lets in")
    tenant: str | None = Field(default=None, description="whose it is; that of who makes it where none is given")


@router.get("")
def keys(request: Request, person: ThePerson) -> list[dict[str, Any]]:
    """All keys, the newest first, without what lets in, and when each was used last."""
    found = _keys(request).all()
    return [one for one in found if person.tenant in {None, one["tenant"]}]


@router.post("", status_code=201)
def add(wanted: Wanted, request: Request, person: ThePerson) -> dict[str, Any]:
    """Make a key: ``key`` is told here, and never again."""
    tenant = wanted.tenant if person.tenant is None else person.tenant
    key, made = _keys(request).add(wanted.name, tuple(wanted.roles), person.name, wanted.days, tenant)
    return {"key": key, **shown(made)}


@router.delete("/{identifier}", status_code=204)
def revoke(identifier: str, request: Request, person: ThePerson) -> None:
    """Have a key let nobody in any more, from now on."""
    _keys(request).revoke(identifier, person.name, person.tenant)


def _keys(request: Request) -> Keys:
    found: Keys = request.app.state.keys
    return found
