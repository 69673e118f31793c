"""Brings a batch's objects into a folder as plain files, in the layout that they have in the store."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

from dermbatch import layout
from dermbatch.errors import DermbatchError
from dermbatch.records import ResultRecord
from dermbatch.store import ObjectStore

_AT_A_TIME = 8
_CHUNK = 256


class DiskFull(DermbatchError):
    """The results do not fit into the folder; the store still has them."""

    reason = "disk_full"


def fetch(
    store: ObjectStore, batch: str, folder: Path, *, file_of: Callable[[str], Path | None] | None = None
) -> int:
    """Write every record and artifact of a batch into ``folder``, and ``report.html`` beside them.

    Files that are there already are left: artifacts are content-addressed, records are written once.

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
    """
    folder.mkdir(parents=True, exist_ok=True)

    def bring(key: str) -> bool:
        return _bring(store, key, folder, file_of)

    records = (info.key for info in store.list(store.bucket, layout.batch_prefix(batch)))
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        written = _bring_all(pool, bring, records)
        artifacts = chain.from_iterable(map(_artifacts, folder_results(folder, batch)))
        written += _bring_all(pool, bring, artifacts)
    _replace(folder / "report.html", (folder / layout.report(batch)).read_bytes())
    return written


def folder_results(folder: Path, batch: str) -> Iterator[ResultRecord]:
    """Result records of a batch that was fetched into a folder."""
    for path in (folder / layout.batch_prefix(batch) / "results").glob("*/*.json"):
        yield ResultRecord.model_validate_json(path.read_bytes())


def _bring_all(pool: ThreadPoolExecutor, bring: Callable[[str], bool], keys: Iterator[str]) -> int:
    written = 0
    while chunk := list(islice(keys, _CHUNK)):
        written += sum(pool.map(bring, chunk))
    return written


def _artifacts(record: ResultRecord) -> Iterator[str]:
    for stage in record.stages.values():
        yield from stage.artifacts.values()
        yield layout.artifact(record.source.sha256, stage.stage, stage.key, "stage.json")
    if record.preview is not None:
        yield record.preview


def _bring(store: ObjectStore, key: str, folder: Path, file_of: Callable[[str], Path | None] | None) -> bool:
    target = folder / key
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    local = file_of(key) if file_of is not None else None
    if local is not None:
        with suppress(OSError):  # another file system, or one without links
            os.link(local, target)
            return True
    _replace(target, store.get(store.bucket, key))
    return True


def _replace(target: Path, body: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as file:
            file.write(body)
        Path(file.name).chmod(0o644)
        shutil.move(file.name, target)
    except OSError as error:
        with suppress(OSError, UnboundLocalError):
            Path(file.name).unlink()
        raise DiskFull(f"{target} could not be written: {error.strerror}; the store still has it") from error
