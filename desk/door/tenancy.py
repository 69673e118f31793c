"""The guard of tenants: before every path and page, checks which batches and places a request names.

A batch's owner follows from its name, so foreign batches and nonexistent ones take the same path to the same
answer: nothing is read.
"""

from __future__ import annotations

from fastapi import Request

from dermbatch import layout
from dermbatch.errors import UsageError
from desk.desk import Desk, Person, TheDesk, ThePerson
from orchestrator.planning.tenants.tenant import Tenant, tenant_of

_PLACES = ("truth", "prefix")
_QUEUES = ("/v1/queues/", "/agreement/")
"""Paths whose ``{name}`` is a queue's; elsewhere it is a batch's, or of something in one."""


def only_own(request: Request, desk: TheDesk, person: ThePerson) -> None:
    """Refuse batches of other tenants, and places of the object store that are not the user's own.

    Raises:
        UsageError: The same as for a batch that does not exist.
    """
    if person.tenant is None:
        return
    for what, name in _named(request):
        check_own(person, name, what)
    if places := [place for name in _PLACES for place in request.query_params.getlist(name)]:
        tenant = own_tenant(desk, person)
        if tenant is None:  # nobody has declared whose they are
            raise UsageError(f"tenant {person.tenant!r} has no prefixes; add some to DERMBATCH_TENANTS__FILE")
        tenant.check_inputs(places)


def own_tenant(desk: Desk, person: Person) -> Tenant | None:
    """The declared tenant of the user; none if they have none, or tenants are not declared.

    Raises:
        UsageError: If it is not among those that are declared.
    """
    return None if person.tenant is None else tenant_of(desk.settings, person.tenant)


def check_own(person: Person, name: str, what: str = "batch") -> None:
    """Refuse a batch of another tenant, or a queue, whose names are like batches'; errors as above."""
    if not person.sees(layout.check_batch_name(name, what)):
        raise UsageError(f"there is no {what} {name!r}")


def _named(request: Request) -> list[tuple[str, str]]:
    """The batches and queues that a request names, in its path or its query: what it is, and its name."""
    path, address = request.path_params, request.url.path
    batches = [path["batch"]] if "batch" in path else []
    queues = [path["name"]] if "name" in path and address.startswith(_QUEUES) else []
    if "name" in path and address.startswith("/v1/batches/") and not batches:
        batches.append(path["name"])
    batches += request.query_params.getlist("batch")
    return [("queue", name) for name in queues] + [("batch", name) for name in batches]
