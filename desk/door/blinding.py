"""The guard of blind reading: checks before every path whether the user may see what models found.

Whoever holds an image of a blind queue gets only its picture, and no tables of its batch, until they have decided
it or given it back. Reviewers and admins are let through. It is recorded when anybody looks at what models found
in an image of a blind queue: their decision then says that results were shown.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import Request

from dermbatch.records.review import Case
from dermbatch.review.leases import Leases
from desk.desk import TheDesk, ThePerson
from desk.door.rights import REVIEW
from desk.problems import Problem

_PAGES = ("/image/", "/similar/")
_PICTURE = ("/decisions", "/source", "/layers/original")
"""Parts of an image that come only from readers and the camera."""

_TABLES = ("/v1/results", "/v1/exports/", "/comparison/", "/dicom-web/")
"""Of whole batches."""


def only_unseen(request: Request, desk: TheDesk, person: ThePerson) -> None:
    """Refuse what models found in an image that the user reads blind; otherwise record that they have looked.

    ``request.state.hidden`` says whether an image's record must be answered without it.

    Raises:
        Problem: 403, ``reading_blind``.
        LedgerUnavailable: If Redis does not answer.
    """
    request.state.hidden = False
    batches, case = _of_batches(request), _case(request)
    if not batches and case is None:
        return
    leases = Leases(desk.redis)
    hidden = set() if person.may(*REVIEW) else leases.hidden(person.name)
    if case is not None and request.url.path == _address(case):
        request.state.hidden = case in hidden or request.query_params.get("findings") == "false"
    elif case in hidden or any(one.batch in batches for one in hidden):
        which = ", ".join(f"{one.batch}/{one.index}" for one in sorted(hidden, key=lambda one: one.index)[:3])
        text = f"you are reading {which} without what models found: decide it, or give it back, before you look"
        raise Problem(403, "reading_blind", text)
    if case is not None and not request.state.hidden:
        leases.look(person.name, [case])
    leases.look_at(person.name, [batch for batch in batches if not _by_row(request)])


def note_rows(desk: TheDesk, person: ThePerson, cases: Iterable[tuple[str, int]]) -> None:
    """Record that somebody was shown rows of these images."""
    Leases(desk.redis).look(person.name, [Case(batch=batch, index=index) for batch, index in cases])


def _address(case: Case) -> str:
    return f"/v1/batches/{case.batch}/images/{case.index}"


def _case(request: Request) -> Case | None:
    """The image whose findings a request asks for."""
    path, named = request.url.path, request.path_params
    if "batch" not in named or not str(named.get("index", "")).isdecimal():
        return None
    case = Case(batch=named["batch"], index=int(named["index"]))
    if path.startswith(_PAGES):
        return case
    if not path.startswith(_address(case)) or request.method not in {"GET", "HEAD"}:
        return None
    return None if path.removeprefix(_address(case)).startswith(_PICTURE) else case


def _of_batches(request: Request) -> set[str]:
    """The batches whose findings a request asks for as a whole."""
    path, named = request.url.path, request.path_params
    files = path.startswith("/v1/batches/") and ("file" in named or path.endswith("/comparison"))
    if not files and not path.startswith(_TABLES):
        return set()
    found = {named[name] for name in ("batch", "name") if name in named}
    return found | set(request.query_params.getlist("batch"))


def _by_row(request: Request) -> bool:
    """Whether a path itself notes which rows it has shown, or shows none of single images."""
    return request.url.path.startswith("/v1/results")
