"""Brings a batch's objects into a folder as plain files, in the layout that they have in the store.

Small files that the store keeps inside records (embeddings, saliency maps, previews, what a stage did) become
files of their own, each in its documented place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from dermbatch import layout
from dermbatch.errors import (
    DermbatchError,
    ObjectNotFound,
    PermanentError,
    RecordDamaged,
    SourceGone,
    StoreRefused,
    StoreUnavailable,
)
from dermbatch.pictures import is_same, read_whole
from dermbatch.records.outcome import ImageInfo, ResultRecord, StageRecord, Written
from dermbatch.store import ObjectInfo, ObjectStore
from dermbatch.stored import damaged, parsed, written_as
from orchestrator.batches.outcomes import in_order
from orchestrator.reporting.folder import Folder
from orchestrator.reporting.table.parts import TableManifest

FileOf = Callable[[str], Path | None]

_AT_A_TIME = 8
_AWAITED = 256  # images looked for while a batch runs: more than are worked on at a time, few of which fail
_MOST_UNAVAILABLE = 16  # objects that a store failed to return; beyond that, the store itself is down
_KEPT, _NAMED = 32, 3  # files named in a message about what could not be brought
_IMAGE_FIELDS = set(ImageInfo.model_fields)


class Incomplete(ObjectNotFound):
    """Some files of a batch could not be brought; all others were."""

    reason = "results_incomplete"


@dataclass
class Brought:
    """What was brought of one object or record.

    Attributes:
        written: Files written.
        missed: Files that could not be.
        bad: Why not, for the first ones; each error names its key.
    """

    written: int = 0
    missed: int = 0
    bad: tuple[DermbatchError, ...] = ()

    @classmethod
    def none(cls, key: str, error: DermbatchError) -> Brought:
        """For a file that could not be brought."""
        named = error if key in str(error) else type(error)(f"{key}: {error}", reason=error.reason)
        return cls(missed=1, bad=(named,))

    def __add__(self, other: Brought) -> Brought:
        bad = (self.bad + other.bad)[:_KEPT]
        return Brought(self.written + other.written, self.missed + other.missed, bad)


def fetch(store: ObjectStore, batch: str, folder: Path, *, file_of: FileOf | None = None) -> int:
    """Write every record and artifact of a batch into ``folder``, and its ``report.html`` beside them.

    Files that the store writes only once (artifacts, result records, the manifest) are left alone if they are
    there and whole; everything else is renewed, so a folder fetched early can be fetched again. Memory does not
    depend on the size of the batch. The cache forgets files that the store has damaged or lost, so that they are
    created again when needed.

    Args:
        store: Where the batch is.
        batch: Its name.
        folder: Created if missing. Nothing is written outside it.
        file_of: For a store on this machine: the file that holds the object with this key. If both are on one file
            system, the file is linked, which takes neither time nor space.

    Returns:
        The number of files written.

    Raises:
        DiskFull: If they do not fit.
        Incomplete: If objects are gone, damaged, not returned, or have names that lead out of the folder;
            everything else is in the folder then.
        StoreUnavailable, StoreRefused: If the store returns hardly anything.
    """
    return Fetching(store, batch, folder, file_of=file_of).finish()


class Fetching:
    """Brings a batch into a folder, as :func:`fetch` does, with some results already while it runs.

    Args:
        store, batch, folder, file_of: As for :func:`fetch`.
    """

    def __init__(self, store: ObjectStore, batch: str, folder: Path, *, file_of: FileOf | None = None) -> None:
        self._store, self._batch, self._file_of = store, batch, file_of
        self._place = Folder(folder)
        self._awaited = deque[int](maxlen=_AWAITED)
        self._begun = 0
        self._brought = bytearray()  # for each image, 1 if all of it is in the folder
        self._early = 0

    def early(self, begun: int) -> None:
        """Bring new results of a store on this machine; anything that goes wrong is left to :meth:`finish`.

        Args:
            begun: Images with a lower index may have a result.
        """
        self._awaited.extend(range(self._begun, begun))
        self._begun = max(self._begun, begun)
        for index in self._arrived():
            self._awaited.remove(index)
            with suppress(DermbatchError):
                key = layout.result(self._batch, index)
                written = _bring(self._store, key, self._place, self._file_of)
                brought = _image(self._store, key, self._place, self._file_of)
                self._early += written + brought.written
                if not brought.missed:
                    self._brought.extend(bytes(max(0, index + 1 - len(self._brought))))
                    self._brought[index] = 1

    def _arrived(self) -> list[int]:
        """The awaited images whose record is a file now."""
        arrived = list[int]()
        for _, indices in groupby(self._awaited, key=lambda index: layout.part_of(index)[0]):
            awaited = {layout.result(self._batch, index).rpartition("/")[2]: index for index in indices}
            file = self._file_of(layout.result(self._batch, min(awaited.values()))) if self._file_of else None
            with suppress(FileNotFoundError):  # nothing of this part exists yet
                names = [path.name for path in file.parent.iterdir()] if file is not None else []
                arrived += [awaited[name] for name in names if name in awaited]
        return arrived

    def _has(self, key: str) -> bool:
        """Whether everything of the image with this result record was brought."""
        index = layout.index_of(key)
        if index is None or key != layout.result(self._batch, index):
            return False
        return index < len(self._brought) and self._brought[index] == 1

    def finish(self) -> int:
        """Bring everything that is missing, as :func:`fetch` does."""
        store, place, file_of = self._store, self._place, self._file_of
        listed = store.list(store.bucket, layout.batch_prefix(self._batch))
        infos = (info for info in listed if not self._has(info.key))
        threads = _AT_A_TIME if file_of is None else 1  # files of this machine need no waiting
        brought = _sum(in_order(lambda info: _object(store, info, place, file_of), infos, threads))
        keys = (path.relative_to(place.path).as_posix() for path in _record_files(place.path, self._batch))
        records = (key for key in keys if not self._has(key))
        brought += _sum(in_order(lambda key: _image(store, key, place, file_of), records, threads))
        _tidy_table(place, self._batch)
        if (report := place.read(layout.report(self._batch))) is not None:  # not before the batch is finished
            _renew(place, "report.html", report)
        if brought.bad:
            raise _incomplete(self._batch, place.path, brought)
        return self._early + brought.written


def fetch_originals(store: ObjectStore, batch: str, folder: Path) -> None:
    """Write the sealed table of a batch's originals into ``folder``, if this store has one.

    Raises:
        DiskFull: If it does not fit.
    """
    place = Folder(folder)
    for info in store.list(store.bucket, layout.originals_prefix(batch)):
        _renew(place, info.key, store.get(store.bucket, info.key))


def _tidy_table(place: Folder, batch: str) -> None:
    """Remove from the folder any parts of a table that do not belong to a complete one."""
    manifest = place.read(layout.table_manifest(batch))
    named = set[str]()
    if manifest is not None:
        parts = parsed(manifest, TableManifest, f"{layout.table_manifest(batch)} is damaged").parts
        named = {f"{layout.table_parts(batch)}{part.name}" for part in parts}
    folder = place.path / layout.table_parts(batch)
    if folder.resolve() != place.path.resolve() / layout.table_parts(batch):  # reached through a link, so not ours
        return
    for path in folder.glob("*part-*"):
        if path.relative_to(place.path).as_posix() not in named:
            path.unlink()


def _record_files(folder: Path, batch: str) -> Iterator[Path]:
    return (folder / layout.batch_prefix(batch) / "results").glob("*/*.json")


def _sum(brought: Iterable[Brought]) -> Brought:
    """Add everything up; raises if the store itself fails, rather than single objects."""
    total, unavailable = Brought(), 0
    for one in brought:
        total += one
        for error in one.bad:
            unavailable += isinstance(error, StoreUnavailable | StoreRefused)
            if unavailable > _MOST_UNAVAILABLE:
                raise error
    return total


def _object(store: ObjectStore, info: ObjectInfo, place: Folder, file_of: FileOf | None) -> Brought:
    """Bring an object of the batch."""
    try:
        with suppress(ObjectNotFound):  # listed, but gone: a retry removes the record of the failure
            there = place.read(info.key) if _written_once(info.key) else None
            if there is None or len(there) != info.size:
                return Brought(int(_bring(store, info.key, place, file_of)))
    except (PermanentError, StoreUnavailable, StoreRefused) as error:
        return Brought.none(info.key, error)
    return Brought()


def _image(store: ObjectStore, key: str, place: Folder, file_of: FileOf | None) -> Brought:
    """Bring all files of the image whose result record is in the folder."""
    try:
        record = _record(store, key, place)
    except (PermanentError, StoreUnavailable, StoreRefused) as error:
        return Brought.none(key, error)
    total = Brought()
    for stage in record.stages.values():
        total += _artifacts(store, stage, place, file_of)
        total += sum((_whole(store, record, stage, name, place) for name in stage.differences), Brought())
    for kind, written in record.dicom_written.items():
        total += _checked(store, record.dicom[kind], written, place, file_of)
    if any(not isinstance(error, SourceGone) for error in total.bad):
        with suppress(DermbatchError):  # otherwise the next run would take what is damaged for done
            store.delete(layout.known_of(record.source.sha256, layout.pool_of(record.preview)))
    return total + _small_files(record, place)


def _record(store: ObjectStore, key: str, place: Folder) -> ResultRecord:
    """A record in the folder; if that is damaged, the store's."""
    where = f"{key} is damaged"
    with suppress(RecordDamaged):
        return parsed(place.read(key) or b"", ResultRecord, where)
    body = store.get(store.bucket, key)
    place.write(key, body)
    return parsed(body, ResultRecord, where)


def _artifacts(store: ObjectStore, stage: StageRecord, place: Folder, file_of: FileOf | None) -> Brought:
    elsewhere = stage.inline.keys() | stage.differences.keys()
    under_keys = {name: key for name, key in stage.artifacts.items() if name not in elsewhere}
    checked = (_checked(store, key, stage.written.get(name), place, file_of) for name, key in under_keys.items())
    return sum(checked, Brought())


def _whole(store: ObjectStore, record: ResultRecord, stage: StageRecord, name: str, place: Folder) -> Brought:
    """Bring a picture that the store has as differences from the source, unless it is there."""
    key = stage.artifacts[name]
    try:
        there = place.read(key)
        if there is not None and is_same(there, stage.differences[name]):
            return Brought()
        place.write(key, read_whole(store, record.source, stage, name))
        return Brought(1)
    except (PermanentError, StoreUnavailable, StoreRefused) as error:
        return Brought.none(key, error)


def _checked(
    store: ObjectStore, key: str, written: Written | None, place: Folder, file_of: FileOf | None
) -> Brought:
    """Bring a file that must be as it was written, unless it is there already."""
    try:
        there = place.read(key)
        if there is not None and (written is None or written_as(there) == written):
            return Brought()
        return Brought(int(_bring(store, key, place, file_of, written)))
    except (PermanentError, StoreUnavailable, StoreRefused) as error:
        return Brought.none(key, error)


def _small_files(record: ResultRecord, place: Folder) -> Brought:
    """Write the files that the record itself carries, each in its place."""
    image = ImageInfo(**record.source.model_dump(include=_IMAGE_FIELDS))
    files: dict[str, bytes] = {}
    pool = layout.pool_of(record.preview)
    for stage in record.stages.values():
        files |= {stage.artifacts[name]: body for name, body in stage.inline.items()}
        alone = layout.artifact(image.sha256, stage.stage, stage.key, "stage.json", pool)
        files[alone] = _alone(stage, image)
    if record.preview is not None and record.preview_jpeg is not None:
        files[record.preview] = record.preview_jpeg
    total = Brought()
    for key, body in files.items():
        try:
            total.written += _kept(place, key, body)
        except PermanentError as error:
            total += Brought.none(key, error)
    return total


def _kept(place: Folder, key: str, body: bytes) -> bool:
    """Write a small file unless it is there and whole; the ``stage.json`` of another batch may differ in time."""
    there = place.read(key)
    if there == body or (there is not None and key.endswith(".json") and there.endswith(b"}")):
        return False
    place.write(key, body)
    return True


def _alone(stage: StageRecord, image: ImageInfo) -> bytes:
    """``stage.json``: the record with its image, and without the small files that lie beside it."""
    return stage.model_copy(update={"image": image, "inline": {}}).to_json()


def _bring(
    store: ObjectStore, key: str, place: Folder, file_of: FileOf | None, written: Written | None = None
) -> bool:
    """Write an object into the folder; returns whether it was not there already."""
    if not _written_once(key):
        return _renew(place, key, store.get(store.bucket, key))
    local = file_of(key) if file_of is not None else None
    if local is not None:
        with suppress(OSError):  # another file system, or one without links
            _check(key, written_as(local.read_bytes()), written)
            store.audit.note("read", f"s3://{store.bucket}/{key}")  # when it is linked, the store is not asked
            place.link(key, local)
            return True
    body = store.get(store.bucket, key)
    _check(key, written_as(body), written)
    place.write(key, body)
    return True


def _check(key: str, found: Written, written: Written | None) -> None:
    if written is not None and found != written:
        raise damaged(key, found.bytes, written)


def _incomplete(batch: str, folder: Path, brought: Brought) -> Incomplete:
    problems = "; ".join(str(error) for error in brought.bad[:_NAMED])
    more = f"; and {brought.missed - _NAMED} more" if brought.missed > _NAMED else ""
    return Incomplete(
        f"{brought.missed} files of batch {batch} could not be brought: {problems}{more}. Everything else is in "
        f"{folder}. The cached results of images whose files are damaged or gone (images/known/) are dropped: "
        f"submit these images again to create the files again"
    )


def _written_once(key: str) -> bool:
    return (
        key.startswith("images/")
        or key.split("/")[2] in {"images", "results", "manifest", "dicom"}
        or _is_part(key)
    )


def _is_part(key: str) -> bool:
    """Whether it is a part of a table, which is named by its content."""
    return key.split("/")[2:3] == ["results.parquet"] and key.endswith(".parquet") and "/part-" in key


def _renew(place: Folder, key: str, body: bytes) -> bool:
    """Write a file, replacing any other; returns whether it was different."""
    if place.read(key) == body:
        return False
    place.write(key, body)
    return True
