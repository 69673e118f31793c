"""Which role may do what: all routes of the application, and the roles that each of them serves.

Only what is listed here is served: a missing route serves nobody. A test walks the routes of the
application with every role and compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from re import Pattern

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute

from dermbatch.records.access import Role
from desk.desk import Person
from desk.problems import Problem

LOOK = frozenset(Role)
READ = frozenset({Role.READER, Role.REVIEWER, Role.ADMIN})
REVIEW = frozenset({Role.REVIEWER, Role.ADMIN})
OPERATE = frozenset({Role.OPERATOR, Role.ADMIN})
ADMINISTER = frozenset({Role.ADMIN})

OPEN = (
    "GET /health",
    "GET /enter",
    "GET /sign-in",
    "GET /signed-in",
    "POST /signed-out",
    "GET /static",
)
"""Routes open to anybody, showing nobody's data: the ways in, and the one by which issuers report who left."""

_IMAGE = "/v1/batches/{batch}/images/{index}"
_STUDIES = "/dicom-web/{batch}/studies"
_ONE = f"{_STUDIES}/{{study}}/series/{{one}}/instances/{{instance}}"

TABLE: dict[str, frozenset[Role]] = {
    # Who one is, and the way out.
    "GET /v1/session": LOOK,
    "POST /v1/sign-out": LOOK,
    "GET /openapi.json": LOOK,
    # Pages.
    "GET /": LOOK,
    "GET /batches": LOOK,
    "GET /gallery": LOOK,
    "GET /image/{batch}/{index}": LOOK,
    "GET /image/{batch}/{index}/report": LOOK,
    "GET /similar/{batch}/{index}": LOOK,
    "GET /models": LOOK,
    "GET /comparison/{batch}": LOOK,
    "GET /usage": OPERATE,
    # Batches, and steering them.
    "GET /v1/batches": LOOK,
    "GET /v1/events": LOOK,
    "GET /v1/batches/{name}": LOOK,
    "GET /v1/batches/{name}/events": LOOK,
    "GET /v1/batches/{name}/files/{file}": LOOK,
    "GET /v1/usage": OPERATE,
    "POST /v1/batches": OPERATE,
    "POST /v1/estimates": OPERATE,
    "POST /v1/batches/{name}/pause": OPERATE,
    "POST /v1/batches/{name}/resume": OPERATE,
    "POST /v1/batches/{name}/cancel": OPERATE,
    "POST /v1/batches/{name}/priority": OPERATE,
    "POST /v1/batches/{name}/retry": OPERATE,
    "POST /v1/uploads": OPERATE,
    "HEAD /v1/uploads/{identifier}": OPERATE,
    "PATCH /v1/uploads/{identifier}": OPERATE,
    "DELETE /v1/uploads/{identifier}": OPERATE,
    "POST /v1/rules/trial": OPERATE,
    # Results.
    "GET /v1/results": LOOK,
    "GET /v1/results/order": LOOK,
    "GET /v1/results/rows": LOOK,
    "GET /v1/results/facets": LOOK,
    "GET /v1/exports/{kind}": LOOK,
    "GET /v1/sets": LOOK,
    "PATCH /v1/sets/{name}": LOOK,
    "DELETE /v1/sets/{name}": LOOK,
    # Images.
    f"GET {_IMAGE}": LOOK,
    f"GET {_IMAGE}/record": LOOK,
    f"GET {_IMAGE}/preview.jpg": LOOK,
    f"GET {_IMAGE}/files/{{name}}": LOOK,
    f"GET {_IMAGE}/source": LOOK,
    f"GET {_IMAGE}/dicom/{{kind}}": LOOK,
    f"GET {_IMAGE}/fhir": LOOK,
    f"GET {_IMAGE}/outline": LOOK,
    f"GET {_IMAGE}/truth": LOOK,
    f"GET {_IMAGE}/layers/{{layer}}": LOOK,
    f"GET {_IMAGE}/layers/{{layer}}/{{level}}/{{row}}-{{column}}": LOOK,
    f"GET {_IMAGE}/similar": LOOK,
    f"GET {_IMAGE}/others": LOOK,
    "GET /v1/indexes": LOOK,
    # What people decide about images.
    f"GET {_IMAGE}/decisions": READ,
    f"POST {_IMAGE}/decisions": READ,
    f"GET {_IMAGE}/decisions/{{version}}/mask.png": READ,
    f"GET {_IMAGE}/decisions/{{version}}/mask.json": READ,
    f"GET {_IMAGE}/decisions/{{version}}/segmentation.dcm": READ,
    f"GET {_IMAGE}/decisions/{{version}}/report.dcm": READ,
    f"POST {_IMAGE}/decisions/{{version}}/send": REVIEW,
    f"GET {_IMAGE}/masks/model": READ,
    f"POST {_IMAGE}/masks": READ,
    "GET /v1/queues": READ,
    "POST /v1/queues": REVIEW,
    "POST /v1/queues/{name}/next": READ,
    "POST /v1/queues/{name}/leases": READ,
    "DELETE /v1/queues/{name}/leases/{batch}/{index}": READ,
    "GET /v1/queues/{name}/agreement": REVIEW,
    "GET /review": READ,
    "GET /correct/{batch}/{index}": READ,
    "GET /agreement/{name}": REVIEW,
    # Models.
    "GET /v1/models": LOOK,
    "GET /v1/models/{name}": LOOK,
    "GET /v1/canaries": LOOK,
    "GET /v1/batches/{batch}/comparison": LOOK,
    # DICOMweb.
    f"GET {_STUDIES}": LOOK,
    "GET /dicom-web/{batch}/series": LOOK,
    "GET /dicom-web/{batch}/instances": LOOK,
    f"GET {_STUDIES}/{{study}}": LOOK,
    f"GET {_STUDIES}/{{study}}/metadata": LOOK,
    f"GET {_STUDIES}/{{study}}/series": LOOK,
    f"GET {_STUDIES}/{{study}}/instances": LOOK,
    f"GET {_STUDIES}/{{study}}/series/{{one}}": LOOK,
    f"GET {_STUDIES}/{{study}}/series/{{one}}/metadata": LOOK,
    f"GET {_STUDIES}/{{study}}/series/{{one}}/instances": LOOK,
    f"GET {_ONE}": LOOK,
    f"GET {_ONE}/metadata": LOOK,
    # Keys.
    "GET /v1/keys": ADMINISTER,
    "POST /v1/keys": ADMINISTER,
    "DELETE /v1/keys/{identifier}": ADMINISTER,
}
"""Method and route of the application, to the roles that it serves; ``HEAD`` goes with ``GET``."""


def check(person: Person, roles: frozenset[Role]) -> None:
    """Let through a person with one of these roles; also for what a request's body demands beyond the table.

    Raises:
        Problem: 403 where none of them is theirs.
    """
    if not person.may(*roles):
        needed = f"this needs the role {' or '.join(sorted(roles))}: ask whoever gives them out"
        raise Problem(403, "role_missing", needed if roles else "no role may do this")


@dataclass(frozen=True)
class Right:
    """Who may make a request.

    Attributes:
        roles: The roles that may make it.
        is_open: Whether anybody may make it.
    """

    roles: frozenset[Role]
    is_open: bool = False


class Rights:
    """The table, by the routes of an application.

    The route of a request is found by the application's own patterns, in their order, so it is always the one that
    answers.

    Args:
        routes: Routes of the application.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self.routes: list[tuple[Pattern[str], frozenset[str], str]] = []
        for one in iter_route_contexts(routes):
            methods = frozenset(one.methods or {"GET", "HEAD"})  # none are stated of a mount, which serves files
            self.routes.append((one.path_regex, methods, str(one.path)))

    def of(self, method: str, path: str) -> Right | None:
        """Who may make a request; ``None`` if there is no such route, as the application's own answer will say."""
        for pattern, methods, route in self.routes:
            if method in methods and pattern.match(path):
                return _right(method, route)
        return None


def _right(method: str, route: str) -> Right:
    names = [f"{method} {route}"] + ([f"GET {route}"] if method == "HEAD" else [])
    if any(name in OPEN for name in names):
        return Right(LOOK, is_open=True)
    return Right(next((TABLE[name] for name in names if name in TABLE), frozenset()))
