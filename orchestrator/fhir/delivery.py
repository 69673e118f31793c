"""Delivers a whole batch as FHIR, into a folder or to a server, image by image in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from dermbatch import layout
from dermbatch.errors import ArtifactDamaged, FhirRefused, FhirUnavailable, ObjectNotFound
from dermbatch.records.asked import Batch
from dermbatch.records.outcome import FailureRecord, ResultRecord
from dermbatch.store import ObjectStore
from orchestrator.batches.outcomes import outcomes
from orchestrator.fhir.answers import Accepted
from orchestrator.fhir.elements import Json
from orchestrator.fhir.identity import read_identity
from orchestrator.fhir.resources import as_json, bundle
from orchestrator.fhir.server import FhirServer
from orchestrator.reporting.folder import Folder

_TRIES = 5
_LONGEST_WAIT = 60.0  # seconds between two tries, whatever the server asks for: people wait for the command
_REFUSED_AT_FIRST = 8
"""If a server refuses this many images without having taken any, its address must be wrong."""

Tell = Callable[[str], None]


@dataclass
class Told:
    """What became of the images of a batch.

    Attributes:
        sent: Taken, or written.
        created: Resources that a server made for them.
        there: Resources that it had.
        nobody: How many of those sent name no patient.
        failed: Without result.
        silent: With a result that FHIR has no resources for.
        bad: Refused, or with files that are gone or damaged.
    """

    sent: int = 0
    created: int = 0
    there: int = 0
    nobody: int = 0
    failed: int = 0
    silent: int = 0
    bad: int = 0

    def add(self, taken: Accepted) -> None:
        """Count an image that a server has."""
        self.created += taken.created
        self.there += taken.there


def write_bundles(store: ObjectStore, batch: Batch, folder: Path, tell: Tell) -> Told:
    """Write the Bundle of every result into ``folder``, under :func:`dermbatch.layout.fhir`.

    Raises:
        DiskFull: If they do not fit.
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    told, place = Told(), Folder(folder)
    for record, made in _bundles(store, batch, told, tell):
        place.write(layout.fhir(batch.name, record.index), as_json(made))
        _count(told, made)
    return told


def send_bundles(
    store: ObjectStore,
    batch: Batch,
    server: FhirServer,
    tell: Tell,
    sleep: Callable[[float], None] = time.sleep,
) -> Told:
    """Send the Bundle of every result; what the server has already it does not make again.

    Args:
        store: Where the batch is. Each sending is a line of its audit log.
        batch: Its results are sent, by now.
        server: Where to.
        tell: Called with the reason for each image that is not sent.
        sleep: Waits between tries.

    Raises:
        FhirUnavailable: If the server is away; calling this again resumes, as nothing is created twice.
        FhirRefused: If it does not let us in, or refuses all of the first images.
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    told = Told()
    for record, made in _bundles(store, batch, told, tell):
        key = layout.result(batch.name, record.index)
        store.audit.note("send", f"s3://{store.bucket}/{key}", to=f"fhir:{server.name}")
        try:
            told.add(_patiently(server, made, sleep))
        except FhirRefused as error:
            told.bad += 1
            if error.reason != "fhir_refused" or (not told.sent and told.bad >= _REFUSED_AT_FIRST):
                raise
            tell(f"image {record.index}: {error}")
        else:
            _count(told, made)
    return told


def _count(told: Told, made: Json) -> None:
    told.sent += 1
    told.nobody += "subject" not in made["entry"][-1]["resource"]


def _bundles(store: ObjectStore, batch: Batch, told: Told, tell: Tell) -> Iterator[tuple[ResultRecord, Json]]:
    for outcome in outcomes(store, batch):
        record = outcome.record
        if isinstance(record, FailureRecord):
            told.failed += 1
            continue
        try:
            made = bundle(record, batch, read_identity(store, batch, record))
        except (ObjectNotFound, ArtifactDamaged) as error:
            told.bad += 1
            tell(f"image {record.index}: {error}")
            continue
        if made is None:
            told.silent += 1
        else:
            yield record, made


def _patiently(server: FhirServer, made: Json, sleep: Callable[[float], None]) -> Accepted:
    again = Retrying(
        stop=stop_after_attempt(_TRIES),
        wait=_wait,
        retry=retry_if_exception_type(FhirUnavailable),
        sleep=sleep,
        reraise=True,
    )
    return again(server.send, made)


def _wait(state: RetryCallState) -> float:
    """As long as the server asks for; else 1, 2, 4, 8 s."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.wait if isinstance(error, FhirUnavailable) else None
    return min(_LONGEST_WAIT, asked if asked is not None else 2.0 ** (state.attempt_number - 1))
