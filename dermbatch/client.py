"""The Python API: give images to a running stack, see how their batch stands, read what became of them.

.. code-block:: python

    client = Client.local(".dermbatch")  # the stack that `dermbatch up` started
    batch = client.submit("scans", models={"segment": "my_unet@4"})
    client.wait(batch)
    for outcome in client.results(batch):
        if isinstance(outcome, ResultRecord):
            mask = client.array(outcome, "mask.png")

A facade over what the orchestrator plans and reports with: the one module of this package that imports it. Nothing
else of the package may import this one, since workers are installed without the orchestrator.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
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
from dermbatch.settings import Settings, load
from dermbatch.stages import ORDER
from dermbatch.store import ObjectStore
from orchestrator.batches import entries, outcomes
from orchestrator.planning import models as served
from orchestrator.planning import submission
from orchestrator.planning.support import pinned
from orchestrator.reporting import progress
from orchestrator.reporting.overview import Standing, standing
from orchestrator.stack import host
from orchestrator.steering.controls import begin, begin_if_open


class Client:
    """Speaks to one running stack.

    Every method raises ``StoreUnavailable``, ``StoreRefused`` or ``LedgerUnavailable`` (all in
    :mod:`dermbatch.errors`) where the object store or Redis fails, and ``NewerFormat`` where a later version has
    written what is to be read.

    Args:
        settings: That lead to its Redis, object store and Triton; :func:`dermbatch.settings.load` gives those of
            the environment.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = ObjectStore(settings.store, Audit(settings.audit, "dermbatch-client", command=True))
        self._ledger = Ledger(settings.redis, settings.ledger)

    @classmethod
    def local(cls, home: str | Path = ".dermbatch") -> Client:
        """The client of the stack that ``dermbatch up`` started in this folder.

        What de-identification needs (``DERMBATCH_PRIVACY__*``) is taken from the environment.

        Raises:
            StackError: Where none is running there.
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
        """Give images to the stack; returns as soon as they are planned, and does not wait for results.

        Where Triton does not answer, models are not checked, and a ``UserWarning`` says so.

        Args:
            *inputs: Files, folders, archives, ``s3://bucket/prefix``.
            batch: Name of the batch; made from the time where none is given. Cut off while it reads the inputs,
                the same call with the same name goes on; once more after that, it finds its batch.
            stages: What to run, of ``purify``, ``segment``, ``enhance``, ``classify``; what a stage requires is
                added.
            models: ``NAME`` or ``NAME@VERSION`` by stage, where they are to differ from the settings.
            filters: Which files and objects are meant.
            deidentify: File of the profile to de-identify by.
            support: ``NAME`` or ``NAME@VERSION`` of what a one-shot segment model is shown.
            **asked: The other fields of :class:`~dermbatch.records.asked.Order`, by their names: ``lane``,
                ``weight``, ``max_failed_share``, ``dicom``, ``send_to``, ``output``, ``tenant``,
                ``deadline``.

        Returns:
            The name of the batch.

        Raises:
            UsageError: For an input, a stage, a model or anything else that cannot be, a name that is taken, or
                where there is no image; there is no batch then.
        """
        order = submission.order(
            self._settings,
            [stages] if isinstance(stages, str) else stages,
            served.named(f"{stage}={model}" for stage, model in (models or {}).items()),
            **asked,
        )
        order = pinned(order, support, self._store)
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
        """How a batch stands: its state, images, done, failed, reasons, images a second, seconds left and so on.

        Raises:
            UsageError: Where there is no such batch.
        """
        return standing(self._store, self._ledger, batch).batches[0]

    def wait(self, batch: str, timeout: float | None = None) -> Standing:
        """Wait until a batch is closed: every image has its outcome, and table and report are written.

        Args:
            batch: Its name.
            timeout: Seconds to wait at most; as long as it takes where none is given.

        Returns:
            How it stands then.

        Raises:
            TimeoutError: Where it is not closed in time; it goes on all the same.
            UsageError: Where there is no such batch.
            StackError: Where Redis has not answered for a minute.
        """
        entries.named(self._store, batch)
        began = time.monotonic()

        def look(state: BatchState | None) -> None:
            if timeout is not None and time.monotonic() - began > timeout:
                raise TimeoutError(f"batch {batch!r} is not closed after {timeout:g} s")

        progress.wait(self._ledger, self._store, batch, look)
        return self.status(batch)

    def results(self, batch: str) -> Iterator[ResultRecord | FailureRecord]:
        """What became of the images of a batch, in their order: of those that have an outcome by now.

        Memory does not grow with the batch but for a byte an image.

        Raises:
            UsageError: Where there is no such batch.
        """
        found = outcomes.outcomes(self._store, entries.named(self._store, batch))
        return (outcome.record for outcome in found)

    def artifact(self, result: ResultRecord, name: str) -> bytes:
        """A file that a stage made of an image, as it lies in a folder of results.

        Args:
            result: The image's result.
            name: ``purified.png``, ``mask.png``, ``enhanced.png``, ``saliency.png`` or ``embedding.npy``.

        Raises:
            ObjectNotFound: Where the image has none (``enhanced.png`` needs a lesion), or it was deleted.
        """
        return outcomes.read_artifact(self._store, result, name)

    def array(self, result: ResultRecord, name: str) -> npt.NDArray[Any]:
        """The same, decoded.

        Returns:
            Pictures as uint8 RGB [H, W, 3]; mask (255 lesion, 0 skin) and saliency as uint8 [H, W]; the embedding
            as float32 [D].

        Raises:
            ObjectNotFound: As :meth:`artifact`; also where the file was damaged.
        """
        body = self.artifact(result, name)
        picture: npt.NDArray[Any] | None = None
        with suppress(ValueError, EOFError, cv2.error):
            if name.endswith(".npy"):
                return np.asarray(np.load(BytesIO(body), allow_pickle=False))
            picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
        if picture is None:
            raise ObjectNotFound(f"{name} of image {result.index} of batch {result.batch!r} is damaged")
        return picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
