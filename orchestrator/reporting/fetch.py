"""Brings a batch's objects into a folder as plain files, in the layout that they have in the store.

Small files that the store keeps inside records (embeddings, saliency maps, previews, what a stage did) become
files of their own, each in its documented place.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from dermbatch import layout
from dermbatch.errors import DermbatchError, ObjectNotFound
from dermbatch.records import ImageInfo, ResultRecord, StageRecord
from dermbatch.records.stored import parsed
from dermbatch.store import ObjectStore

Item = TypeVar("Item")
FileOf = Callable[[str], Path | None]

_AT_A_TIME = 8
_CHUNK = 256
_IMAGE_FIELDS = set(ImageInfo.model_fields)


class DiskFull(DermbatchError):
    """The results do not fit into the folder; the store still has them."""

    reason = "disk_full"


@dataclass
class Brought:
    """What was brought of one object or record.

    Attributes:
        written: Files written.
        missing: Keys of artifacts that the store no longer has.
    """

    written: int = 0
    missing: tuple[str, ...] = ()


def fetch(store: ObjectStore, batch: str, folder: Path, *, file_of: FileOf | None = None) -> int:
    """Write every record and artifact of a batch into ``folder``, and its ``report.html`` beside them.

    What is written once in the store (artifacts, result records, the manifest) is left where it is there already;
    everything else is renewed, so a folder fetched early can be fetched again. The batch's size does not matter
    to memory.

    Args:
        store: Where the batch is.
        batch: Its name.
        folder: Made where missing.
        file_of: For a store on this machine: the file that holds the object with this key. It is linked, which
            takes no time and no space, where both are on one file system.

    Returns:
        The number of files written.

    Raises:
        DiskFull: Where they do not fit.
        ObjectNotFound: Where artifacts were deleted from the store; all else is in the folder then.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def bring(key: str) -> Brought:
        with suppress(ObjectNotFound):  # listed, and gone: a retry takes away the record of the failure
            return _bring(store, key, folder, file_of)
        return Brought()

    def unpack(record: ResultRecord) -> Brought:
        return _unpack(store, record, folder, file_of)

    keys = (info.key for info in store.list(store.bucket, layout.batch_prefix(batch)))
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        objects = _sum(_each(pool, bring, keys))
        unpacked = _sum(_each(pool, unpack, folder_results(folder, batch)))
    report = folder / layout.report(batch)
    if report.exists():  # not before the batch is finished
        _renew(folder / "report.html", report.read_bytes())
    if unpacked.missing:
        raise ObjectNotFound(
            f"results of batch {batch} were deleted from the object store and could not be fetched, such as "
            f"{unpacked.missing[0]}; everything else is in {folder}. To make them again, delete images/known/ "
            f"from the bucket {store.bucket} and submit the images once more"
        )
    return objects.written + unpacked.written


def fetch_originals(store: ObjectStore, batch: str, folder: Path) -> None:
    """Write the sealed table of what a batch's images were into ``folder``, where there is one in this store.

    Raises:
        DiskFull: Where it does not fit.
    """
    for info in store.list(store.bucket, layout.originals_prefix(batch)):
        _renew(folder / info.key, store.get(store.bucket, info.key))


def folder_results(folder: Path, batch: str) -> Iterator[ResultRecord]:
    """Result records of a batch that was fetched into a folder."""
    for path in (folder / layout.batch_prefix(batch) / "results").glob("*/*.json"):
        yield parsed(path.read_bytes(), ResultRecord, f"{path} is damaged")


def _each(pool: ThreadPoolExecutor, bring: Callable[[Item], Brought], items: Iterator[Item]) -> Iterator[Brought]:
    while chunk := list(islice(items, _CHUNK)):
        yield from pool.map(bring, chunk)


def _sum(brought: Iterable[Brought]) -> Brought:
    """All together; of what is missing, the first."""
    total = Brought()
    for one in brought:
        total = Brought(total.written + one.written, total.missing or one.missing)
    return total


def _unpack(store: ObjectStore, record: ResultRecord, folder: Path, file_of: FileOf | None) -> Brought:
    """Write all files of one image."""
    total = Brought()
    image = ImageInfo(**record.source.model_dump(include=_IMAGE_FIELDS))
    for stage in record.stages.values():
        for name, key in stage.artifacts.items():
            if name in stage.inline:
                total.written += _write(folder / key, stage.inline[name])
                continue
            try:
                total.written += _bring(store, key, folder, file_of).written
            except ObjectNotFound:
                total.missing += (key,)
        place = layout.artifact(image.sha256, stage.stage, stage.key, "stage.json")
        total.written += _write(folder / place, _alone(stage, image))
    if record.preview is not None and record.preview_jpeg is not None:
        total.written += _write(folder / record.preview, record.preview_jpeg)
    return total


def _alone(stage: StageRecord, image: ImageInfo) -> bytes:
    """``stage.json``: the record with its image, and without the small files that lie beside it."""
    return stage.model_copy(update={"image": image, "inline": {}}).to_json()


def _bring(store: ObjectStore, key: str, folder: Path, file_of: FileOf | None) -> Brought:
    target = folder / key
    if not _written_once(key):
        return Brought(int(_renew(target, store.get(store.bucket, key))))
    if target.exists():
        return Brought()
    local = file_of(key) if file_of is not None else None
    if local is not None:
        with suppress(OSError):  # another file system, or one without links
            target.parent.mkdir(parents=True, exist_ok=True)
            store.audit.note("read", f"s3://{store.bucket}/{key}")  # as it is linked, nobody asks the store
            os.link(local, target)
            return Brought(1)
    return Brought(int(_write(target, store.get(store.bucket, key))))


def _written_once(key: str) -> bool:
    return key.startswith("images/") or key.split("/")[2] in {"results", "manifest", "dicom"}


def _renew(target: Path, body: bytes) -> bool:
    """Write a file, over what may be there; whether that was something else."""
    if target.exists() and target.read_bytes() == body:
        return False
    _replace(target, body)
    return True


def _write(target: Path, body: bytes) -> bool:
    """Write a file where there is none; whether it did."""
    if target.exists():
        return False
    _replace(target, body)
    return True


def _replace(target: Path, body: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as file:
            file.write(body)
        Path(file.name).chmod(0o644)
        shutil.move(file.name, target)
    except OSError as error:
        with suppress(OSError, UnboundLocalError):
            Path(file.name).unlink()
        raise DiskFull(f"{target} could not be written: {error.strerror}; the store still has it") from error
