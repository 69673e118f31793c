"""What a FHIR server answers to a transaction, sorted into taken, worth trying again, and hopeless.

FHIR R4, 3.1.0.11: a transaction is taken as a whole or not at all; the answer is a Bundle with a status for each
entry. It is read whatever the overall status is, since servers in between may say 200 on their own account.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dermbatch.errors import DermbatchError, FhirRefused, FhirUnavailable
from dermbatch.outbound.posting import HttpAnswer, is_web_page, seconds_of

_OK, _CREATED, _ACCEPTED = 200, 201, 202
_UNAUTHORIZED, _FORBIDDEN, _CONFLICT, _PRECONDITION, _TOO_LARGE = 401, 403, 409, 412, 413
_HINTS = {
    404: "it takes no transactions there; correct the URL of DERMBATCH_FHIR",
    405: "it takes no transactions there; correct the URL of DERMBATCH_FHIR",
    410: "it takes no transactions there; correct the URL of DERMBATCH_FHIR",
    _PRECONDITION: "it has several resources with one identifier; remove all but one of them",
    _TOO_LARGE: "what was sent is more than it takes; raise its limit",
}
_LATER = {408, 425, _CONFLICT, 429}
_NEVER = {501, 505}
_PASSING = {"transient", "lock-error", "no-store", "timeout", "throttled"}
"""Issue types (http://hl7.org/fhir/issue-type) that may be gone at another try."""
_ISSUE_TYPE = re.compile(r"[a-z]+(-[a-z]+)*")
_STATUS = re.compile(r"[1-5]\d\d(?!\d)")


@dataclass(frozen=True)
class Accepted:
    """What a server did with a transaction.

    Attributes:
        created: Resources that it made.
        there: Resources that it had already.
    """

    created: int
    there: int


def judged(name: str, answer: HttpAnswer, entries: int) -> Accepted:
    """What was taken, from an answer that says that everything was.

    Args:
        name: Name of the server in the settings, for messages.
        answer: What was answered.
        entries: How many there were in the Bundle.

    Raises:
        FhirUnavailable: If trying again may help.
        FhirRefused: If it cannot help until something is fixed; ``fhir_denied`` if the server does not let us in.
    """
    body = _read(answer.body)
    issues = list(_issues(body))
    if not 200 <= answer.status < 300:
        raise _of_status(name, answer.status, issues, answer.retry_after)
    if answer.status not in {_OK, _CREATED} or body is None or body.get("type") != "transaction-response":
        raise FhirRefused(f"the FHIR server {name!r} {_unclear(answer, body)}, so that nobody knows what it has")
    statuses = _statuses(body)
    if len(statuses) != entries or 0 in statuses:
        text = f"says what became of {len(statuses)} resources, but {entries} were sent; see its log"
        raise FhirRefused(f"the FHIR server {name!r} {text}")
    worst = max((status for status in statuses if status not in {_OK, _CREATED}), default=0)
    if worst:
        raise _of_status(name, worst, issues, answer.retry_after)
    return Accepted(statuses.count(_CREATED), statuses.count(_OK))


def _read(body: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _items(holder: dict[str, Any] | None, field: str) -> list[dict[str, Any]]:
    held = (holder or {}).get(field)
    return [one for one in held if isinstance(one, dict)] if isinstance(held, list) else []


def _response(entry: dict[str, Any]) -> dict[str, Any]:
    response = entry.get("response")
    return response if isinstance(response, dict) else {}


def _statuses(body: dict[str, Any]) -> list[int]:
    """For each entry, the number at the beginning of its status; 0 if there is none."""
    texts = [str(_response(entry).get("status", "")) for entry in _items(body, "entry")]
    return [int(text[:3]) if _STATUS.match(text) else 0 for text in texts]


def _issues(body: dict[str, Any] | None) -> Iterator[str]:
    """Issue types of an OperationOutcome, alone or in entries. Its texts may quote a patient and are dropped."""
    outcomes = [body, *(_response(entry).get("outcome") for entry in _items(body, "entry"))]
    for outcome in outcomes:
        for issue in _items(outcome if isinstance(outcome, dict) else None, "issue"):
            if _ISSUE_TYPE.fullmatch(str(issue.get("code"))):
                yield str(issue["code"])


def _unclear(answer: HttpAnswer, body: dict[str, Any] | None) -> str:
    if answer.status == _ACCEPTED:
        return "wants to process it later (HTTP 202), which was not requested"
    if is_web_page(answer.body):
        return "answered with a web page; correct the URL of DERMBATCH_FHIR"
    if body is not None and body.get("resourceType") == "OperationOutcome":
        return f"answered HTTP {answer.status} with an OperationOutcome instead of a transaction-response"
    return f"answered HTTP {answer.status} without a transaction-response"


def _of_status(name: str, status: int, issues: list[str], retry_after: str | None) -> DermbatchError:
    told = f" ({', '.join(dict.fromkeys(issues))})" if issues else ""
    answer = f"the FHIR server {name!r} answered HTTP {status}{told}"
    if status in {_UNAUTHORIZED, _FORBIDDEN}:
        text = f"{answer}: it does not let us in; correct user, password or token of DERMBATCH_FHIR, or its rules"
        return FhirRefused(text, reason="fhir_denied")
    if status in _LATER or (status >= 500 and status not in _NEVER) or (status >= 400 and set(issues) & _PASSING):
        return FhirUnavailable(answer, wait=seconds_of(retry_after))
    hint = _HINTS.get(status, "it does not take what was sent; see its log, and its profiles")
    if 300 <= status < 400:
        hint = "its address has changed; correct the URL of DERMBATCH_FHIR"
    return FhirRefused(f"{answer}: {hint}")
