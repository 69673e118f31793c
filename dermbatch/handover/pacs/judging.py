"""What a PACS answers to STOW-RS, sorted into what was taken, what may be tried again and what may not.

PS3.18, section 10.5.3 and annex I.2: the body says what became of each instance. It counts, not the status:
servers answer 200 with failures in it, and 202 with none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dermbatch.errors import DermbatchError, PacsRefused, PacsUnavailable
from dermbatch.handover.pacs.answer_body import AnswerBody, Unreadable, parse
from dermbatch.outbound.posting import is_web_page, seconds_of
from dermbatch.records.outcome import DicomKind

_ACCEPTED, _BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _CONFLICT, _TOO_LARGE = 202, 400, 401, 403, 409, 413
_LATER = {408, 425, 429}
_NEVER = {501, 505}

_DUPLICATE = 0x0111  # "Duplicate SOP Instance": the PACS has it already, and our objects never change
_PROCESSING_FAILURE = 0x0110
_NOT_AUTHORIZED = 0x0124
# PS3.4, table B.2-1 has A7xx for "out of resources", but servers use most of them for other things: dcm4chee's
# A777 is "no Patient ID", which trying again cannot fix.
_OUT_OF_RESOURCES = {0xA700, 0xA701, 0xA702}


def judged(
    name: str, status: int, body: bytes, uids: Mapping[DicomKind, str], retry_after: str | None = None
) -> dict[DicomKind, str]:
    """The warnings, by kind of object, of an answer that says that everything was taken.

    Args:
        name: Name of the PACS in the settings, for messages.
        status: Status of the answer.
        body: Body of the answer.
        uids: SOP Instance UIDs of what was sent.
        retry_after: The answer's header of that name (RFC 9110, 10.2.3).

    Raises:
        PacsUnavailable: If trying again may help.
        PacsRefused: If it cannot help until something is fixed; ``pacs_denied`` if the PACS does not let us in.
    """
    answered = 200 <= status < 300
    reply = _read(name, status, body) if answered or status in {_BAD_REQUEST, _CONFLICT} else None
    if not answered and (reply is None or not (reply.failed or reply.nameless)):
        raise _of_status(name, status, retry_after)
    if reply is None or reply.silent:
        if status != _ACCEPTED:  # as PS3.18 defines it: all of them were taken
            return {}
        raise PacsRefused(f"the PACS {name!r} did not say in DICOM JSON what it has not taken (HTTP {status})")
    return _of_reply(name, reply, {uid: kind for kind, uid in uids.items()}, status)


def _read(name: str, status: int, body: bytes) -> AnswerBody | None:
    if is_web_page(body) and 200 <= status < 300:
        text = "answered with a web page instead of what it has taken; correct the URL of DERMBATCH_DICOMWEB"
        raise PacsRefused(f"the PACS {name!r} {text}")
    try:
        return parse(body)
    except Unreadable as error:
        if 200 <= status < 300:
            text = "answered in damaged JSON or XML, so nobody knows what it has taken; see its log"
            raise PacsRefused(f"the PACS {name!r} {text}") from error
        return None


def _of_reply(name: str, reply: AnswerBody, kinds: Mapping[str, DicomKind], status: int) -> dict[DicomKind, str]:
    failed = {kinds[uid]: reason for uid, reason in reply.failed.items() if uid in kinds and reason != _DUPLICATE}
    there = {uid for uid, reason in reply.failed.items() if reason == _DUPLICATE}
    # The instance is not stated (OtherFailuresSequence), or is one that we never sent: it is one of ours anyway.
    others = [reason for uid, reason in reply.failed.items() if uid not in kinds]
    others += reply.nameless
    others = [reason for reason in others if reason != _DUPLICATE]
    if failed or others:
        raise _of_failures(name, failed, others, status)
    if missing := [kind for uid, kind in kinds.items() if uid not in reply.stored | there]:
        if _DUPLICATE in reply.nameless and not reply.stored - set(kinds):
            missing = []  # it does not say which ones it has already: those that it did not list
        if missing:
            raise PacsUnavailable(f"the PACS {name!r} does not say what became of: {', '.join(missing)}")
    return {kinds[uid]: _hex(reason) for uid, reason in reply.warnings.items() if uid in kinds}


def _of_status(name: str, status: int, retry_after: str | None) -> DermbatchError:
    sentence = f"the PACS {name!r} answered HTTP {status}"
    if status in {_UNAUTHORIZED, _FORBIDDEN}:
        text = f"{sentence}: it does not let us in; correct user, password or token of DERMBATCH_DICOMWEB"
        return PacsRefused(text, reason="pacs_denied")
    if status in _LATER or (status >= 500 and status not in _NEVER):
        return PacsUnavailable(sentence, wait=seconds_of(retry_after))
    if 300 <= status < 400:
        return PacsRefused(f"{sentence}: its address has changed; correct the URL of DERMBATCH_DICOMWEB")
    if status == _TOO_LARGE:
        return PacsRefused(f"{sentence}: what was sent is more than it takes; raise its limit")
    return PacsRefused(
        f"{sentence}: it does not take what was sent; see its log, and the URL of DERMBATCH_DICOMWEB"
    )


def _of_failures(
    name: str, failed: Mapping[DicomKind, int | None], others: Iterable[int | None], status: int
) -> DermbatchError:
    parts = [f"{kind} (Failure Reason {_hex(reason)})" for kind, reason in sorted(failed.items())]
    parts += [f"an object that it does not name (Failure Reason {_hex(reason)})" for reason in others]
    sentence = f"the PACS {name!r} did not take: {', '.join(parts)}"
    reasons = {*failed.values(), *others}
    if _NOT_AUTHORIZED in reasons:
        return PacsRefused(f"{sentence}; it must allow us to store", reason="pacs_denied")
    later = set(_OUT_OF_RESOURCES)
    if status != _CONFLICT:  # the request itself is at fault (PS3.18, table 10.5.3-1)
        later.add(_PROCESSING_FAILURE)
    if reasons <= later:
        return PacsUnavailable(sentence)
    return PacsRefused(f"{sentence}; see its log")


def _hex(reason: int | None) -> str:
    return "none" if reason is None else f"{reason:04X}"
