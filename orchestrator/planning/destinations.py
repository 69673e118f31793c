"""Where results are to go, checked before anything is planned."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from dermbatch.errors import PermanentError, UsageError
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore, split_uri


def check_destination(name: str | None, settings: Settings) -> None:
    """Refuse a PACS that the settings do not have; naming none is always fine.

    Raises:
        UsageError: In one sentence.
    """
    if name is not None and name not in settings.dicomweb:
        known = ", ".join(sorted(settings.dicomweb)) or "none"
        raise UsageError(
            f"the settings have no PACS {name!r} (they have: {known}); set DERMBATCH_DICOMWEB__<NAME>__URL"
        )


def check_output(output: str | None, inputs: Sequence[str], store: ObjectStore) -> None:
    """Refuse an unusable place for copies; naming none is always fine.

    Args:
        output: ``s3://bucket/prefix``.
        inputs: The inputs of the batch, as the user named them.
        store: The store of the output.

    Raises:
        UsageError: In one sentence.
    """
    if output is None:
        return
    try:
        bucket, prefix = split_uri(output)
    except ValueError as error:
        raise UsageError(f"--output: {error}") from error
    if bucket in {store.bucket, store.incoming_bucket}:
        raise UsageError(f"the output must lie outside of the system's own bucket {bucket}")
    folder = f"s3://{bucket}/{prefix.rstrip('/')}/"
    if any(given.startswith("s3://") and folder.startswith(given) for given in inputs):
        raise UsageError(
            "the output lies below an input, so results would be taken for inputs; choose another prefix"
        )
    local = [Path(given).resolve().name for given in inputs if not given.startswith("s3://")]
    if len(set(local)) < len(local):
        raise UsageError(
            "two inputs have the same name, so their results would share one folder of the output; rename one"
        )
    try:
        list(islice(store.list(bucket, prefix), 1))
    except PermanentError as error:
        raise UsageError(f"the output cannot be used: {error}") from error
