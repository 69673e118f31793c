"""What FHIR servers answer to a transaction, each judged once."""

import json

import pytest

from dermbatch.errors import FhirRefused, FhirUnavailable
from dermbatch.outbound.posting import HttpAnswer
from orchestrator.fhir.answers import Accepted, judged


def response(*statuses, **more):
    entries = [{"response": {"status": status}} for status in statuses]
    return {"resourceType": "Bundle", "type": "transaction-response", "entry": entries, **more}


def outcome(*types, severity="error"):
    issues = [{"severity": severity, "code": one, "diagnostics": "Patient P-7 is unknown"} for one in types]
    return {"resourceType": "OperationOutcome", "issue": issues}


def judge(status, reply, entries=2, retry_after=None):
    body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    return judged("main", HttpAnswer(status, body, retry_after), entries)


@pytest.mark.parametrize(
    ("status", "reply", "taken"),
    [
        (200, response("201 Created", "201 Created"), Accepted(2, 0)),
        (200, response("200 OK", "200"), Accepted(0, 2)),  # sent before
        (200, response("200 OK", "201 Created"), Accepted(1, 1)),  # a device that is known, a new result
        (201, response("201", "201"), Accepted(2, 0)),
        (200, response("201", "201", total=2, id="x"), Accepted(2, 0)),
    ],
)
def test_what_is_taken(status, reply, taken):
    assert judge(status, reply) == taken


@pytest.mark.parametrize(
    ("status", "reply", "error", "reason"),
    [
        # of the whole
        (400, outcome("invalid"), FhirRefused, "fhir_refused"),
        (400, b"", FhirRefused, "fhir_refused"),
        (401, b"", FhirRefused, "fhir_denied"),
        (403, outcome("forbidden"), FhirRefused, "fhir_denied"),
        (404, outcome("not-found"), FhirRefused, "fhir_refused"),
        (405, b"", FhirRefused, "fhir_refused"),
        (408, b"", FhirUnavailable, "fhir_unavailable"),
        (409, outcome("conflict"), FhirUnavailable, "fhir_unavailable"),
        (410, b"", FhirRefused, "fhir_refused"),
        (412, outcome("multiple-matches"), FhirRefused, "fhir_refused"),
        (413, b"", FhirRefused, "fhir_refused"),
        (415, b"", FhirRefused, "fhir_refused"),
        (422, outcome("business-rule"), FhirRefused, "fhir_refused"),
        (422, outcome("lock-error"), FhirUnavailable, "fhir_unavailable"),
        (429, outcome("throttled"), FhirUnavailable, "fhir_unavailable"),
        (301, b"", FhirRefused, "fhir_refused"),
        (500, outcome("exception"), FhirUnavailable, "fhir_unavailable"),
        (500, response("201", "201"), FhirUnavailable, "fhir_unavailable"),
        (501, b"", FhirRefused, "fhir_refused"),
        (502, b"<html>", FhirUnavailable, "fhir_unavailable"),
        (503, b"", FhirUnavailable, "fhir_unavailable"),
        (504, b"", FhirUnavailable, "fhir_unavailable"),
        (505, b"", FhirRefused, "fhir_refused"),
        # taken, as it seems
        (202, b"", FhirRefused, "fhir_refused"),
        (202, response("201", "201"), FhirRefused, "fhir_refused"),
        (204, b"", FhirRefused, "fhir_refused"),
        (200, b"", FhirRefused, "fhir_refused"),
        (200, b"[]", FhirRefused, "fhir_refused"),
        (200, b"{", FhirRefused, "fhir_refused"),
        (200, b"[" * 100_000, FhirRefused, "fhir_refused"),
        (200, b"<!DOCTYPE html><html>", FhirRefused, "fhir_refused"),
        (200, outcome("informational", severity="information"), FhirRefused, "fhir_refused"),
        (200, {"resourceType": "Bundle", "type": "searchset"}, FhirRefused, "fhir_refused"),
        (200, response("201 Created"), FhirRefused, "fhir_refused"),  # and the other one?
        (200, response(), FhirRefused, "fhir_refused"),
        (200, response("201", ""), FhirRefused, "fhir_refused"),
        (200, response("201", "Created"), FhirRefused, "fhir_refused"),
        (200, response("201", "2011"), FhirRefused, "fhir_refused"),
        (200, {**response(), "entry": [{"response": "201"}, {"response": ["201"]}]}, FhirRefused, "fhir_refused"),
        (200, {**response(), "entry": {"response": {}}}, FhirRefused, "fhir_refused"),
        # of an entry, under an HTTP status of somebody between
        (200, response("201", "409 Conflict"), FhirUnavailable, "fhir_unavailable"),
        (200, response("201", "412 Precondition Failed"), FhirRefused, "fhir_refused"),
        (200, response("422", "201"), FhirRefused, "fhir_refused"),
        (200, response("403", "201"), FhirRefused, "fhir_denied"),
        (200, response("201", "503"), FhirUnavailable, "fhir_unavailable"),
        (200, response("201", "304 Not Modified"), FhirRefused, "fhir_refused"),
        (200, response("201", "202"), FhirRefused, "fhir_refused"),
    ],
)
def test_what_is_not(status, reply, error, reason):
    with pytest.raises(error) as caught:
        judge(status, reply)
    assert caught.value.reason == reason
    assert "main" in str(caught.value)


def test_messages_have_the_status_and_the_type_of_issue_and_nothing_of_a_patient():
    for reply in (
        outcome("business-rule", "P-7 Müller"),
        response("201", "201") | {"entry": [{"response": {"status": "422", "outcome": outcome("business-rule")}}]},
    ):
        with pytest.raises(FhirRefused) as caught:
            judge(422, reply)
        assert "422 (business-rule)" in str(caught.value)
        assert "P-7" not in str(caught.value)


@pytest.mark.parametrize(("header", "wait"), [("7", 7.0), (None, None), ("soon", None)])
def test_a_server_says_how_long_to_wait(header, wait):
    for status in (429, 503):
        with pytest.raises(FhirUnavailable) as caught:
            judge(status, b"", retry_after=header)
        assert caught.value.wait == wait


def test_hints_say_what_to_mend():
    for status, hint in (
        (412, "several resources with one identifier"),
        (404, "URL of DERMBATCH_FHIR"),
        (302, "URL"),
    ):
        with pytest.raises(FhirRefused, match=hint):
            judge(status, b"")
