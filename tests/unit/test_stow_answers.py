"""What a PACS may answer to STOW-RS: each answer is judged once and correctly, and none loses an object unseen."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from dermbatch.errors import PacsRefused, PacsUnavailable
from dermbatch.handover.pacs.judging import judged
from dermbatch.outbound.posting import seconds_of

UIDS = {"segmentation": "1.2.3", "report": "1.2.4"}
TAKEN, FAILED = "00081199", "00081198"


def item(uid, **reasons):
    reference = {"00081155": {"vr": "UI", "Value": [uid]}} if uid else {}
    tags = {"fail": "00081197", "warn": "00081196"}
    return reference | {tags[kind]: {"vr": "US", "Value": [value]} for kind, value in reasons.items()}


def sequence(tag, *items):
    return {tag: {"vr": "SQ", "Value": list(items)}}


def reply(*items, tag=TAKEN):
    return sequence(tag, *(items or map(item, UIDS.values())))


def refused(number, *uids):
    return sequence(FAILED, *(item(uid, fail=number) for uid in uids or UIDS.values()))


def xml(tag, *items):
    inside = "".join(
        f'<Item number="{n}">'
        + "".join(
            f'<DicomAttribute tag="{t}" vr="UI"><Value number="1">{v}</Value></DicomAttribute>' for t, v in one
        )
        + "</Item>"
        for n, one in enumerate(items, 1)
    )
    sequence = f'<DicomAttribute tag="{tag}" vr="SQ">{inside}</DicomAttribute>'
    return f'<?xml version="1.0"?><NativeDicomModel xmlns="http://dicom.nema.org/PS3.19">{sequence}</NativeDicomModel>'


def multipart(body, kind="application/dicom+xml"):
    return f"--b0\r\nContent-Type: {kind}\r\n\r\n{body}\r\n--b0--\r\n"


def body(value):
    return (value if isinstance(value, str) else json.dumps(value)).encode()


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, {}),  # 200 says that all were stored (PS3.18, table 10.5.3-1)
        (200, []),
        (200, [{}]),
        (200, {"00081190": {"vr": "UR", "Value": ["http://x/studies/1"]}}),
        (200, reply(tag="0008114A")),
        (200, [reply()]),
        (200, [reply(item("1.2.3")), reply(item("1.2.4"))]),
        (200, {"ReferencedSOPSequence": [{"ReferencedSOPInstanceUID": uid} for uid in UIDS.values()]}),
        (200, {TAKEN: {"vr": "SQ"}, FAILED: {"vr": "SQ", "Value": []}}),
        (200, xml(TAKEN, *[[("00081155", uid)] for uid in UIDS.values()])),
        (200, multipart(xml(TAKEN, *[[("00081155", uid)] for uid in UIDS.values()]))),
        (200, multipart(json.dumps(reply()), "application/dicom+json")),
        (200, "OK"),
        (200, "\ufeff" + json.dumps(reply())),
        (204, ""),
        (409, refused(0x0111)),  # it has them
        (409, [refused(0x0111)]),
        (202, refused(0x0111, "")),  # it has them, and does not say which
        (202, [reply(item("1.2.3")) | refused("0111H", "1.2.4")]),
    ],
)
def test_what_is_taken(status, answer):
    assert judged("main", status, body(answer), UIDS) == {}


@pytest.mark.parametrize("number", [0xB000, "45056", "B000", "0xB000"])
def test_warnings_are_kept(number):
    answer = [sequence(TAKEN, item("1.2.3"), item("1.2.4", warn=number))]
    assert judged("main", 202, body(answer), UIDS) == {"report": "B000"}


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (409, refused(0xA777), "A777"),  # dcm4chee: no Patient ID
        (200, refused(0xA777), "A777"),
        (202, refused(0xA770), "A770"),
        (409, refused(0x0122), "0122"),
        (409, refused(0xA900), "A900"),
        (409, refused("A900"), "A900"),
        (409, refused(0x0110), "0110"),  # 409: the request's own fault
        (409, [refused(0xA777)], "A777"),
        (200, [refused(0x0122)], "0122"),
        (200, [reply(item("1.2.3")), refused(0x0122, "1.2.4")], "report"),
        (200, reply() | sequence("0008119A", item("", fail=0x0122)), "does not name"),
        (200, refused(0x0122, "9.9.9"), "does not name"),
        (200, refused(0x0122, ""), "0122"),
        (200, {"FailedSOPSequence": [{"ReferencedSOPInstanceUID": "1.2.3", "FailureReason": 290}]}, "0122"),
        (200, {FAILED: {"vr": "SQ", "Value": ["what is this"]}}, "does not name"),
        (200, xml(FAILED, [("00081197", "290")]), "0122"),
        (200, xml(FAILED, [("00081155", "1.2.4"), ("00081197", "290")]), "report"),
        (202, multipart(xml(FAILED, [("00081155", "1.2.4"), ("00081197", "43264")])), "A900"),
        (202, {}, "did not say"),
        (202, "<html>", "did not say|web page"),
        (200, "<!DOCTYPE html><html><form>log in</form></html>", "web page"),
        (200, '{"00081198": {"vr": "SQ", "Value": [{"000811', "damaged"),
        (200, "<NativeDicomModel><DicomAttribute", "damaged"),
        (200, '<!DOCTYPE x [<!ENTITY a "b">]><NativeDicomModel/>', "damaged|web page"),
        (200, "[" * 100_000, "damaged"),
        (409, "<html>Conflict</html>", "409"),
        (409, "{", "409"),
        (400, {}, "400"),
    ],
)
def test_what_is_refused_once_and_for_all(status, answer, words):
    with pytest.raises(PacsRefused, match=words) as caught:
        judged("main", status, body(answer), UIDS)
    assert caught.value.reason == "pacs_refused"
    assert not any(uid in str(caught.value) for uid in ("1.2.3", "1.2.4", "9.9.9"))


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (409, refused(0xA700)),
        (202, [refused(0xA701)]),
        (200, refused(0x0110)),
        (200, reply(item("1.2.3"))),  # and the report?
        (503, "busy"),
    ],
)
def test_what_is_sent_again(status, answer):
    with pytest.raises(PacsUnavailable) as caught:
        judged("main", status, body(answer), UIDS)
    assert caught.value.wait is None


def test_how_long_a_pacs_wants_to_be_let_alone():
    with pytest.raises(PacsUnavailable) as caught:
        judged("main", 503, b"busy", UIDS, "60")
    assert caught.value.wait == 60
    assert 50 < seconds_of(format_datetime(datetime.now(UTC) + timedelta(seconds=60))) <= 60
    assert [seconds_of(text) for text in (None, "", "soon", "-5", "1e9")] == [None] * 5
    assert seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0
