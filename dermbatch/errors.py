"""The error tree: permanent errors are recorded at once, transient ones are tried again.

Every error carries a ``reason``: a short, stable code (lower case, underscores) that records and metrics
use, and a sentence for people that says what is wrong and, where possible, what to do.
Messages never hold patient data: no tag values of a DICOM header, no pixel values.
"""

from __future__ import annotations


class DermbatchError(Exception):
    """Root of the tree.

    Args:
        message: One sentence for people.
        reason: Stable code; the class's own where not given.
    """

    reason = "error"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class UsageError(DermbatchError):
    """The command or its settings are wrong; nothing was started (exit code 2)."""

    reason = "usage"


class StackError(DermbatchError):
    """A part of the local stack did not start or died; the message names its log."""

    reason = "stack"


class HomeInUse(UsageError, StackError):
    """Another command has the local stack's folder; nothing was started."""


class HomeUnusable(UsageError, StackError):
    """The local stack's folder cannot be made, or its servers cannot be told its name; nothing was started."""


class PermanentError(DermbatchError):
    """Trying again cannot help: recorded in ``failed/`` at once."""

    reason = "permanent"


class BadInput(PermanentError):
    """The input is not an image that the system takes: broken, too large, of the wrong kind."""

    reason = "bad_input"


class TooExpensive(BadInput):
    """Reading the file takes more memory or time than its limits allow; the message names the limit."""

    reason = "too_expensive"


class ModelContractError(PermanentError):
    """A served model does not keep its stage's tensor contract, or is not in the repository."""

    reason = "model_contract"


class TransientError(DermbatchError):
    """Trying again may help: held in the ledger with growing pauses, up to a limit."""

    reason = "transient"


class StoreUnavailable(TransientError):
    """The object store did not answer, or answered 5xx."""

    reason = "store_unavailable"


class ObjectBrokeOff(StoreUnavailable):
    """An object ended before its announced length: the connection broke, or the stored object is cut off."""


class StoreRefused(TransientError):
    """The object store refuses what the system needs: credentials that expired, or no permission to write.

    This is not the fault of the image and can be mended from outside, so it is tried again.
    """

    reason = "access_denied"


class InferenceUnavailable(TransientError):
    """Triton did not answer in time, or is not ready."""

    reason = "inference_unavailable"


class InferenceAway(InferenceUnavailable):
    """No Triton has taken a request, and none takes any now. The image is not at fault, and waits."""


class ReaderKilled(TransientError):
    """The process that reads untrusted files was killed from outside, twice for the same file."""

    reason = "reader_killed"


class DestinationUnavailable(TransientError):
    """An external system did not answer in time, or cannot take anything for now.

    Args:
        message: One sentence for people.
        wait: Seconds for which it asks to be left alone; none if it does not say.
    """

    def __init__(self, message: str, *, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class PacsUnavailable(DestinationUnavailable):
    """A PACS did not answer in time, or cannot take anything for now."""

    reason = "pacs_unavailable"


class PacsRefused(PermanentError):
    """A PACS does not take what was sent, or not from us."""

    reason = "pacs_refused"


class FhirUnavailable(DestinationUnavailable):
    """A FHIR server did not answer in time, or cannot take anything for now."""

    reason = "fhir_unavailable"


class FhirRefused(PermanentError):
    """A FHIR server does not take what was sent, or not from us."""

    reason = "fhir_refused"


class AuditUnavailable(TransientError):
    """An access cannot be noted in the audit log, so it does not happen."""

    reason = "audit_unavailable"


class LedgerUnavailable(TransientError):
    """Redis did not answer."""

    reason = "ledger_unavailable"


class RecordDamaged(PermanentError):
    """A stored record cannot be read as one: something other than Dermbatch has changed it."""

    reason = "record_damaged"


class MessageDamaged(PermanentError):
    """A message in the queue is no job: something other than Dermbatch has written or changed it."""

    reason = "message_damaged"


class MessageRefused(PermanentError):
    """A message in the queue is not signed with this system's key."""

    reason = "message_refused"


class NewerFormat(TransientError):
    """A record or message has the format of a later version: it is left untouched for that version."""

    reason = "newer_format"


class ArtifactDamaged(PermanentError):
    """A file of a result is not what was written: it is cut off, changed or exchanged."""

    reason = "artifact_damaged"


class ReviewConflict(PermanentError):
    """A decision was made on something other than what is there now; it is not kept, and nothing is lost."""

    reason = "review_conflict"


class SourceGone(PermanentError):
    """The source of a picture that is kept as its differences from it is gone, or another object lies there."""

    reason = "source_gone"


class SupportGone(PermanentError):
    """The support of a one-shot model was removed, or changed since the batch was submitted."""

    reason = "support_gone"


class ObjectNotFound(PermanentError):
    """The object, or its bucket, is not there."""

    reason = "object_not_found"
