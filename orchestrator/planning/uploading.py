"""From candidates to manifest entries: what workers cannot read where it lies is uploaded, files side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice

from dermbatch.errors import PermanentError
from dermbatch.records import ManifestEntry, Refusal
from dermbatch.store import ObjectStore
from orchestrator.planning.candidates import Candidate, Item

_UPLOADS_AT_A_TIME = 8
_AHEAD = 16
"""Items looked at together: bounds the memory that uploads take."""


def entered(
    batch: str, first: int, items: Iterator[Item], store: ObjectStore
) -> Iterator[tuple[Item, ManifestEntry | None]]:
    """Items in their order, candidates with their entries.

    Args:
        batch: Name of the batch.
        first: Index of the first candidate.
        items: What a walk finds.
        store: Uploads go into its incoming bucket.

    Raises:
        StoreUnavailable: Where the store fails.
        StoreRefused: Where the store may not be written.
    """
    index = first
    last: tuple[Callable[[], bytes], Future[ManifestEntry]] | None = None
    with ThreadPoolExecutor(_UPLOADS_AT_A_TIME) as pool:
        while chunk := list(islice(items, _AHEAD)):
            made: list[tuple[Item, Callable[[], ManifestEntry] | None]] = []
            for item in chunk:
                if not isinstance(item, Candidate):
                    made.append((item, None))
                    continue
                if item.read is None:
                    made.append((item, partial(_there, index, item)))
                else:
                    if last is None or item.frame is None or last[0] is not item.read:
                        last = item.read, pool.submit(_uploaded, batch, index, item, store)
                    made.append((item, partial(_of_upload, index, item, last[1])))
                index += 1
            for item, entry in made:
                yield item, entry() if entry is not None else None


def _of_upload(index: int, candidate: Candidate, upload: Future[ManifestEntry]) -> ManifestEntry:
    """An image whose file was uploaded for it, or for the frame before."""
    own = {"index": index, "name": candidate.name, "frame": candidate.frame}
    return upload.result().model_copy(update=own)


def _there(index: int, candidate: Candidate) -> ManifestEntry:
    return ManifestEntry(
        index=index,
        name=candidate.name,
        source=candidate.uri,
        size=candidate.size,
        etag=candidate.etag,
        frame=candidate.frame,
        earlier=candidate.earlier,
        refusal=candidate.refusal,
    )


def _uploaded(batch: str, index: int, candidate: Candidate, store: ObjectStore) -> ManifestEntry:
    assert candidate.read is not None  # noqa: S101 - the caller has looked
    try:
        data = candidate.read()
    except PermanentError as error:
        refusal = Refusal(reason=error.reason, message=str(error))
        return ManifestEntry(index=index, name=candidate.name, size=candidate.size, refusal=refusal)
    # A number, not the file's name: names may be anything, and often are patients' names.
    key = f"{batch}/{index}"
    etag = store.put(key, data, "application/octet-stream", bucket=store.incoming_bucket)
    source = f"s3://{store.incoming_bucket}/{key}"
    return ManifestEntry(index=index, name=candidate.name, source=source, size=len(data), etag=etag)
