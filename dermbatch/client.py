"""The Python API: submit images to a running stack, follow their batch, read the results.

.. code-block:: python

    client = Client.local(".dermbatch")  # the stack that `dermbatch up` started
    batch = client.submit("scans", models={"segment": "my_unet@4"})
    client.wait(batch)
    for outcome in client.results(batch):
        if isinstance(outcome, ResultRecord):
            mask = client.array(outcome, "mask.png")

A facade over the orchestrator's planning and reporting, and the only module of this package that imports them. No
other module may import this one, because workers are installed without the orchestrator.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.audit import Audit
from dermbatch.errors import ObjectNotFound
from dermbatch.ledger import BatchState, Ledger
from dermbatch.records.asked import Filters
from dermbatch.records.outcome import FailureRecord, ResultRecord
from dermbatch.records.row import read_array
from dermbatch.settings import Settings, load
from dermbatch.stages import ORDER
from dermbatch.store import ObjectStore
from orchestrator.batches import entries, outcomes
from orchestrator.planning import models as served
from orchestrator.planning import submission
from orchestrator.planning.support import pinned
from orchestrator.reporting import progress
from orchestrator.reporting.overview import Standing, of_summary, standing
from orchestrator.stack import host
from orchestrator.steering.controls import begin, begin_if_open


class Client:
    """A connection to one running stack.

    Every method raises ``StoreUnavailable``, ``StoreRefused`` or ``LedgerUnavailable`` (all in
    :mod:`dermbatch.errors`) if the object store or Redis fails, and ``NewerFormat`` if a record was written by a
    later version.

    Args:
        settings: Addresses and credentials of its Redis, object store and Triton; :func:`dermbatch.settings.load`
            reads them from the environment.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = ObjectStore(settings.store, Audit(settings.audit, "dermbatch-client", command=True))
        self._ledger = Ledger(settings.redis, settings.ledger)

    @classmethod
    def local(cls, home: str | Path = ".dermbatch") -> Client:
        """A client of the stack that ``dermbatch up`` started in this folder.

        The settings of de-identification (``DERMBATCH_PRIVACY__*``) are read from the environment.

        Raises:
            StackError: If no stack is running there.
        """
        return cls(host.attach(Path(home)).model_copy(update={"privacy": load().privacy}))

    def submit(
        self,
        *inputs: str | Path,
        batch: str | None = None,
        stages: Iterable[str] = ORDER,
        models: Mapping[str, str] | None = None,
        filters: Filters | None = None,
        deidentify: str | Path | None = None,
        support: str | None = None,
        **asked: Any,
    ) -> str:
        """Submit images as a batch; returns once they are planned, without waiting for results.

        If Triton does not answer, the models are not checked, and a ``UserWarning`` says so.

        Args:
            *inputs: Files, folders, archives, ``s3://bucket/prefix``.
            batch: Name of the batch; made from the time by default. If the call is interrupted while it reads the
                inputs, the same call with the same name resumes; once the batch is planned, it finds that batch.
            stages: Stages to run, of ``purify``, ``segment``, ``enhance``, ``classify``; required ones are added.
            models: ``NAME`` or ``NAME@VERSION`` by stage; the settings' own by default.
            filters: Which files and objects to take; all by default.
            deidentify: File of the profile to de-identify by.
            support: ``NAME`` or ``NAME@VERSION`` of what a one-shot segment model is shown.
            **asked: Other fields of :class:`~dermbatch.records.asked.Order`, by their names: ``lane``, ``weight``,
                ``max_failed_share``, ``dicom``, ``send_to``, ``output``, ``tenant``, ``deadline``.

        Returns:
            The name of the batch.

        Raises:
            UsageError: If an input, a stage, a model or another argument is wrong, if the name is taken, or if
                there is no image. No batch is made then.
        """
        order = submission.order(
            self._settings,
            [stages] if isinstance(stages, str) else stages,
            served.named(f"{stage}={model}" for stage, model in (models or {}).items()),
            **asked,
        )
        order = pinned(order, support, self._store, self._settings)
        many = batch or f"{submission.new_name(None)}-{token_hex(3)}"  # in a second
        name = submission.name_for(many, order.tenant, self._settings)
        named = [str(given) for given in inputs]
        chosen, profile = filters or Filters(), Path(deidentify) if deidentify is not None else None
        there = submission.before(name, order, named, self._settings, self._store, filters=chosen, profile=profile)
        if there is not None:
            begin_if_open(self._store, self._ledger, there)
            return name
        submitted = submission.prepare(
            order,
            named,
            self._settings,
            self._store,
            served.Offer.of(self._settings, lambda warning: warnings.warn(warning, stacklevel=4)),
            filters=chosen,
            profile=profile,
            audit=self._store.audit,
        )
        begun = submitted.plan(name, self._store)
        begin(self._store, self._ledger, begun)
        return begun.name

    def status(self, batch: str) -> Standing:
        """The state of a batch: images, done, failed, reasons, images a second, seconds left and so on.

        Raises:
            UsageError: If there is no such batch.
        """
        return standing(self._store, self._ledger, batch).batches[0]

    def wait(self, batch: str, timeout: float | None = None) -> Standing:
        """Wait until a batch is closed: every image has its outcome, and table and report are written.

        Args:
            batch: Its name.
            timeout: The most seconds to wait; no limit by default.

        Returns:
            Its state then.

        Raises:
            TimeoutError: If it is not closed in time. The batch goes on anyway.
            UsageError: If there is no such batch.
            StackError: If Redis has not answered for a minute.
        """
        entries.named(self._store, batch)
        began = time.monotonic()

        def look(state: BatchState | None) -> None:
            if timeout is not None and time.monotonic() - began > timeout:
                raise TimeoutError(f"batch {batch!r} is not closed after {timeout:g} s")

        # By the summary: it is there a moment before the ledger forgets the batch, which is open by it until then.
        return of_summary(progress.wait(self._ledger, self._store, batch, look))

    def results(self, batch: str) -> Iterator[ResultRecord | FailureRecord]:
        """The outcomes of a batch so far, in the order of its images.

        Memory use does not depend on the batch, except for one byte an image.

        Raises:
            UsageError: If there is no such batch.
        """
        found = outcomes.outcomes(self._store, entries.named(self._store, batch))
        return (outcome.record for outcome in found)

    def artifact(self, result: ResultRecord, name: str) -> bytes:
        """One of an image's artifacts, byte for byte as in a folder of results.

        Args:
            result: The image's result.
            name: ``purified.png``, ``mask.png``, ``enhanced.png``, ``saliency.png`` or ``embedding.npy``.

        Raises:
            ObjectNotFound: If the image has no such file (``enhanced.png`` needs a lesion), or it was deleted.
        """
        return outcomes.read_artifact(self._store, result, name)

    def array(self, result: ResultRecord, name: str) -> npt.NDArray[Any]:
        """One of an image's artifacts as an array.

        Returns:
            Pictures as uint8 RGB [H, W, 3]; mask (255 lesion, 0 skin) and saliency as uint8 [H, W]; the embedding
            as float32 [D].

        Raises:
            ObjectNotFound: As for :meth:`artifact`, and if the file is damaged.
        """
        body = self.artifact(result, name)
        picture: npt.NDArray[Any] | None = None
        with suppress(ValueError, cv2.error):
            if name.endswith(".npy"):
                return read_array(body)
            picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
        if picture is None:
            raise ObjectNotFound(
                f"{name} of image {result.index} of batch {result.batch!r} is damaged; "
                "submit the image again to create it again"
            )
        return picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
