"""From candidates to manifest entries: what workers cannot read in place is uploaded, in parallel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from dermbatch.errors import PermanentError
from dermbatch.records.asked import ManifestEntry, Refusal
from dermbatch.store import ObjectStore
from orchestrator.batches.outcomes import thread_pool
from orchestrator.planning.intake.candidates import Candidate, Item
from orchestrator.planning.privacy.deidentifier import Copy, Deidentifier, unnamed

_UPLOADS_AT_A_TIME = 8
_AHEAD = 16
"""Items handled together: bounds the memory that uploads take."""


def entered(
    batch: str, first: int, items: Iterator[Item], store: ObjectStore, *, deidentify: Deidentifier | None = None
) -> Generator[tuple[Item, ManifestEntry | None], None, None]:
    """Items in order, candidates with their entries.

    Args:
        batch: Name of the batch.
        first: Index of the first candidate.
        items: What a walk finds.
        store: Uploads go into its incoming bucket.
        deidentify: Makes the copies that are uploaded, and their names, if a profile is asked for. Every candidate
            must then be read: none stays in place.

    Raises:
        StoreUnavailable: If the store fails.
        StoreRefused: If the store may not be written.
    """
    index = first
    last: tuple[Callable[[], bytes], Future[_Upload]] | None = None
    with thread_pool(_UPLOADS_AT_A_TIME) as pool:
        while chunk := list(islice(items, _AHEAD)):
            made: list[tuple[Item, Callable[[], ManifestEntry] | None]] = []
            for item in chunk:
                if not isinstance(item, Candidate):
                    made.append((item, None))
                    continue
                if item.read is None:
                    made.append((item, partial(_there, index, item, deidentify)))
                else:
                    if last is None or item.frame is None or last[0] is not item.read:
                        last = item.read, pool.submit(_uploaded, batch, index, item, store, deidentify)
                    made.append((item, partial(_of_upload, index, item, last[1], deidentify)))
                index += 1
            for item, entry in made:
                yield item, entry() if entry is not None else None


def _of_upload(
    index: int, candidate: Candidate, upload: Future[_Upload], deidentify: Deidentifier | None
) -> ManifestEntry:
    """An image whose file was uploaded for it, or for the frame before."""
    uploaded = upload.result()
    name = candidate.name
    if deidentify is not None:
        name = uploaded.entry.name + ("" if candidate.frame is None else f"#frame={candidate.frame}")
        deidentify.note(index, name, candidate.name, uploaded.copy.made if uploaded.copy else None)
    return uploaded.entry.model_copy(update={"index": index, "name": name, "frame": candidate.frame})


def _there(index: int, candidate: Candidate, deidentify: Deidentifier | None) -> ManifestEntry:
    if deidentify is not None:
        if candidate.refusal is None:
            raise ValueError("a candidate in place cannot be de-identified; walk with in_place=False")
        name, refusal = deidentify.refused_name(candidate.name), unnamed(candidate.refusal)
        deidentify.note(index, name, candidate.name)
        return ManifestEntry(index=index, name=name, size=candidate.size, refusal=refusal)
    return ManifestEntry(
        index=index,
        name=candidate.name,
        source=candidate.uri,
        size=candidate.size,
        etag=candidate.etag,
        sha256=candidate.sha256,
        frame=candidate.frame,
        earlier=candidate.earlier,
        may_have_text=candidate.may_have_text,
        refusal=candidate.refusal,
    )


@dataclass(frozen=True)
class _Upload:
    """What was uploaded: its entry, as if it had one frame, and for a copy, what was copied (no bytes)."""

    entry: ManifestEntry
    copy: Copy | None = None


def _uploaded(
    batch: str, index: int, candidate: Candidate, store: ObjectStore, deidentify: Deidentifier | None
) -> _Upload:
    assert candidate.read is not None  # noqa: S101 - the caller has looked
    name, copy = candidate.name, None
    try:
        data = candidate.read()
        if deidentify is not None:
            copy = deidentify.copy(data)
            name, data = copy.name, copy.made.data
    except PermanentError as error:
        refusal = Refusal(reason=error.reason, message=str(error))
        name = deidentify.refused_name(candidate.name) if deidentify is not None else name
        return _Upload(ManifestEntry(index=index, name=name, size=candidate.size, refusal=refusal))
    # A number instead of the file's name, which may be anything, and often is a patient's name.
    key, etag = f"{batch}/{index}", None
    source = candidate.uri if copy is None else None
    if source is None:
        source = f"s3://{store.incoming_bucket}/{key}"
        etag = store.put(key, data, "application/octet-stream", bucket=store.incoming_bucket)
    text = copy is not None and copy.made.may_have_text
    entry = ManifestEntry(
        index=index,
        name=name,
        source=source,
        size=len(data),
        etag=etag,
        sha256=hashlib.sha256(data).hexdigest(),
        may_have_text=text,
    )
    return _Upload(entry, copy and replace(copy, made=replace(copy.made, data=b"")))
