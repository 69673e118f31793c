"""What a PACS answers to STOW-RS, sorted into what was taken, what may be tried again and what may not.

PS3.18, section 10.5.3 and annex I.2: the body says what became of each instance. It counts, not the status:
servers answer 200 with failures in it, and 202 with none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dermbatch.errors import DermbatchError, PacsRefused, PacsUnavailable
from dermbatch.images.quiet import quiet
from dermbatch.records.outcome import DicomKind

_ACCEPTED, _BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _CONFLICT, _TOO_LARGE = 202, 400, 401, 403, 409, 413
_LATER = {408, 425, 429}
_NEVER = {501, 505}

_DUPLICATE = 0x0111  # "Duplicate SOP Instance": it has this one already, and ours never change
_PROCESSING_FAILURE = 0x0110
_NOT_AUTHORIZED = 0x0124
_OUT_OF_RESOURCES = range(0xA700, 0xA800)


@dataclass(frozen=True)
class Reply:
    """The body of an answer.

    Attributes:
        stored: SOP Instance UIDs that were taken.
        warnings: Warning Reason of some of them; none where the server gave no number.
        failed: Failure Reason of those that were not taken; likewise.
    """

    stored: frozenset[str]
    warnings: Mapping[str, int | None]
    failed: Mapping[str, int | None]


def parse(body: bytes) -> Reply | None:
    """The body as DICOM JSON; none where it is nothing of the kind."""
    try:
        with quiet():  # pydicom warns of odd values, and quotes them
            said = Dataset.from_json(json.loads(body))
            stored = {item.ReferencedSOPInstanceUID: item for item in said.get("ReferencedSOPSequence") or []}
            failed = {item.ReferencedSOPInstanceUID: item for item in said.get("FailedSOPSequence") or []}
            warnings = {uid: item.get("WarningReason") for uid, item in stored.items() if "WarningReason" in item}
            reasons = {uid: item.get("FailureReason") for uid, item in failed.items()}
            return Reply(frozenset(map(str, stored)), _numbers(warnings), _numbers(reasons))
    except Exception:  # whatever else a server may say, from HTML to numbers for names
        return None


def _numbers(reasons: Mapping[str, object]) -> dict[str, int | None]:
    return {str(uid): reason if isinstance(reason, int) else None for uid, reason in reasons.items()}


def judged(name: str, status: int, body: bytes, uids: Mapping[DicomKind, str]) -> dict[DicomKind, str]:
    """Warnings by kind, of an answer that says that all was taken.

    Args:
        name: Of the PACS in the settings, for messages.
        status: Of the answer.
        body: Of the answer.
        uids: SOP Instance UIDs of what was sent.

    Raises:
        PacsUnavailable: Where trying again may help.
        PacsRefused: Where it cannot, before something is mended; ``pacs_denied`` where we are not let in.
    """
    answered = 200 <= status < 300
    reply = parse(body) if answered or status in {_BAD_REQUEST, _CONFLICT} else None
    if reply is None or not (answered or reply.failed):
        if not answered:
            raise _of_status(name, status)
        if status != _ACCEPTED:  # as PS3.18 defines it: all of them were taken
            return {}
        raise PacsRefused(f"the PACS {name!r} did not say in DICOM JSON what it has not taken (HTTP {status})")
    kinds = {uid: kind for kind, uid in uids.items()}
    failed = {kinds[uid]: reason for uid, reason in reply.failed.items() if uid in kinds and reason != _DUPLICATE}
    there = {uid for uid, reason in reply.failed.items() if reason == _DUPLICATE}
    if failed:
        raise _of_failures(name, failed)
    if missing := [kind for uid, kind in kinds.items() if uid not in reply.stored | there]:
        raise PacsUnavailable(f"the PACS {name!r} does not say what became of: {', '.join(missing)}")
    return {kinds[uid]: _hex(reason) for uid, reason in reply.warnings.items() if uid in kinds}


def _of_status(name: str, status: int) -> DermbatchError:
    said = f"the PACS {name!r} answered HTTP {status}"
    if status in {_UNAUTHORIZED, _FORBIDDEN}:
        text = f"{said}: it does not let us in; correct user, password or token of DERMBATCH_DICOMWEB"
        return PacsRefused(text, reason="pacs_denied")
    if status in _LATER or (status >= 500 and status not in _NEVER):
        return PacsUnavailable(said)
    if 300 <= status < 400:
        return PacsRefused(f"{said}: its address has changed; correct the URL of DERMBATCH_DICOMWEB")
    if status == _TOO_LARGE:
        return PacsRefused(f"{said}: what was sent is more than it takes; raise its limit")
    return PacsRefused(f"{said}: it does not take what was sent; see its log, and the URL of DERMBATCH_DICOMWEB")


def _of_failures(name: str, failed: Mapping[DicomKind, int | None]) -> DermbatchError:
    listed = ", ".join(f"{kind} (Failure Reason {_hex(reason)})" for kind, reason in sorted(failed.items()))
    said = f"the PACS {name!r} did not take: {listed}"
    reasons = set(failed.values())
    if _NOT_AUTHORIZED in reasons:
        return PacsRefused(f"{said}; it must allow us to store", reason="pacs_denied")
    if all(reason == _PROCESSING_FAILURE or reason in _OUT_OF_RESOURCES for reason in reasons):
        return PacsUnavailable(said)
    return PacsRefused(f"{said}; see its log")


def _hex(reason: int | None) -> str:
    return "none" if reason is None else f"{reason:04X}"
