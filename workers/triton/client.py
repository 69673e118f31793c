"""The workers' Triton client: many requests in flight, by shared memory, with a deadline that really ends them.

One client for each worker process, made after the fork: gRPC channels do not survive one.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tritonclient.utils import InferenceServerException

from dermbatch import metrics
from dermbatch.errors import DermbatchError
from dermbatch.models.served import Array, ServedModel
from dermbatch.models.triton import DOWN, FOREIGN, GONE, WRONG, Triton, may_have_taken
from dermbatch.records.asked import ModelChoice
from dermbatch.settings import TritonSettings
from dermbatch.stages import Stage
from workers.triton.sharedmemory import SharedMemory
from workers.triton.tensors import Tensors, kinds

_FRESH = 30.0  # seconds for which a model's description is trusted, after which a new version is noticed
_IN_FLIGHT = 4  # requests of one image: enough to keep the server's batcher fed
_ITEMS = 8  # items of one image in one request: a batch that still leaves other images their turn

_ABOUT_MEMORY = "shared memory"  # Triton's words for a missing region, or an output larger than its place


def _batches(items: Sequence[Mapping[str, Array]], size: int) -> Iterator[Sequence[Mapping[str, Array]]]:
    """Neighbours of equal shapes together, at most ``size``."""
    for _, equal in itertools.groupby(items, kinds):
        alike = list(equal)
        for first in range(0, len(alike), size):
            yield alike[first : first + size]


@dataclass
class _Answer:
    """A request on its way."""

    tensors: Tensors
    started: float = field(default_factory=time.monotonic)
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: InferenceServerException | None = None
    cancel: Any = None

    def __call__(self, result: Any, error: InferenceServerException | None) -> None:
        self.result, self.error = result, error
        self.done.set()


class TritonClient(Triton):
    """Runs models on a Triton Inference Server, and keeps it busy.

    Safe to share between threads; make one after a fork.

    Args:
        settings: Address and deadline.
    """

    def __init__(self, settings: TritonSettings) -> None:
        super().__init__(settings)
        # async_infer keeps its call in an attribute between sending it and adding the callback: one at a time.
        self._sending = threading.Lock()
        self._known: dict[tuple[Stage | None, ModelChoice], tuple[float, ServedModel]] = {}
        self._shared = SharedMemory(settings.shared_memory_bytes, settings.shared_memory_prefix)
        self._sharing: Any = None  # the client that memory was offered to last
        self._by_message: set[tuple[str, str]] = set()  # models whose output sizes we cannot foresee

    def close(self) -> None:
        """Give shared memory back and close the channel."""
        self._shared.close()
        super().close()

    def model(self, stage: Stage | None, choice: ModelChoice) -> ServedModel:
        """As :meth:`Triton.model`, which is not asked again for a while."""
        known = self._known.get((stage, choice))
        if known is not None and time.monotonic() - known[0] < _FRESH:
            return known[1]
        model = super().model(stage, choice)
        self._known[stage, choice] = time.monotonic(), model
        return model

    def infer(self, model: ServedModel, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """As :meth:`Triton.infer`, through shared memory if there is any."""
        return self.infer_many(model, [inputs], outputs)[0]

    def infer_many(
        self, model: ServedModel, items: Sequence[Mapping[str, Array]], outputs: Sequence[str]
    ) -> list[dict[str, Array]]:
        """Run a model on several items, those of equal shapes in batches, with several requests in flight.

        Args and errors as for :meth:`infer`; answers are in the order of the items.
        """
        size = max(1, min(model.max_batch, _ITEMS))
        waiting: deque[_Answer] = deque()
        answers: list[dict[str, Array]] = []
        try:
            for batch in _batches(items, size):
                if len(waiting) == _IN_FLIGHT:
                    answers.extend(self._receive(model, waiting, outputs))
                waiting.append(self._send(model, batch, outputs))
            while waiting:
                answers.extend(self._receive(model, waiting, outputs))
        finally:
            # Left over only after an error: requests that nobody waits for must not keep the server busy.
            for answer in waiting:
                self._abandon(answer)
        return answers

    def _send(
        self,
        model: ServedModel,
        items: Sequence[Mapping[str, Array]],
        outputs: Sequence[str],
        *,
        shared: bool = True,
    ) -> _Answer:
        client, tensors = self._client, Tensors(model, items, outputs)
        if client is not self._sharing:  # memory is shared with its server, or with none
            self._sharing = client
            self._shared.connect(client if self._endpoints.local else None)
        answer = _Answer(tensors)
        if shared and (model.name, model.version) not in self._by_message:
            tensors.share(self._shared)
        try:
            inputs = tensors.inputs()
            with self._sending:
                call = client.async_infer(
                    model.name,
                    inputs,
                    answer,
                    model_version=model.version,
                    outputs=tensors.wanted(),
                    client_timeout=self._timeout,
                )
        except BaseException as error:
            self._abandon(answer)
            if isinstance(error, InferenceServerException):
                raise self._failed(model, error) from error
            raise
        answer.cancel = call.cancel
        return answer

    def _receive(
        self, model: ServedModel, waiting: deque[_Answer], outputs: Sequence[str]
    ) -> list[dict[str, Array]]:
        """Wait for the first of the answers and take it from the queue."""
        answer = waiting[0]
        self._wait(answer)
        arena, error = answer.tensors.arena, answer.error
        if arena is not None and error is not None and _ABOUT_MEMORY in error.message():
            # Not the request's fault, so it is sent again.
            if error.status() in GONE:
                self._shared.give_up(arena, error.message())
            else:
                self._by_message.add((model.name, model.version))
            answer.tensors.give_back()
            answer = waiting[0] = self._send(model, answer.tensors.items, outputs, shared=False)
            self._wait(answer)
        if answer.error is not None:
            raise self._failed(model, answer.error) from answer.error
        metrics.TRITON_REQUEST_SECONDS.labels(model.name, model.version).observe(time.monotonic() - answer.started)
        answers = answer.tensors.answers(answer.result)
        answer.tensors.give_back()
        waiting.popleft()
        return answers

    def _wait(self, answer: _Answer) -> None:
        # gRPC ends the call at its own deadline; the second more is for a channel that hangs.
        if not answer.done.wait(self._timeout + 1):
            answer.error = InferenceServerException("no answer", status="StatusCode.DEADLINE_EXCEEDED")

    def _abandon(self, answer: _Answer) -> None:
        """Abandon a request whose state on the server is unknown."""
        if answer.cancel is not None:
            answer.cancel()
        if answer.error is not None and answer.error.status() in WRONG | GONE | FOREIGN:
            answer.tensors.give_back()
        elif answer.tensors.arena is not None:
            self._shared.give_up(answer.tensors.arena, "a request failed or was cancelled")

    def _failed(self, model: ServedModel, error: InferenceServerException) -> DermbatchError:
        """As _sorted; where a version is gone, a newer one may have replaced it, so the next try asks again."""
        if error.status() in GONE | DOWN | WRONG | FOREIGN:
            self._known.clear()
        if error.status() in GONE:
            metrics.TRITON_ERRORS.labels(model.name, "gone").inc()
            self._leave((model.name, model.version))
            return self._untaken(f"Triton no longer serves version {model.version} of model {model.name}")
        return self._sorted(error, model.name, model.version, taken=may_have_taken(error))

    def _sorted(
        self, error: InferenceServerException, name: str, version: str | None, *, taken: bool = False
    ) -> DermbatchError:
        metrics.TRITON_ERRORS.labels(name, str(error.status()).removeprefix("StatusCode.").lower()).inc()
        return super()._sorted(error, name, version, taken=taken)
