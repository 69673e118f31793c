"""The Triton client: requests with a deadline that really ends them, and errors sorted.

One client for each worker process, made after the fork: gRPC channels do not survive one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from dermbatch import metrics
from dermbatch.errors import DermbatchError, InferenceUnavailable, ModelContractError
from dermbatch.records import ModelChoice
from dermbatch.settings import TritonSettings
from dermbatch.stages import Stage
from workers.triton.served import Array, ServedModel, describe
from workers.triton.sharedmemory import SharedMemory
from workers.triton.tensors import Tensors

_FRESH = 30.0  # seconds that a model's description is trusted: so soon a new version is taken up
_METADATA_TIMEOUT = 10.0
_IN_FLIGHT = 4  # requests of one image: enough to keep the server's batcher fed
_ITEMS = 8  # of one image in one request: a batch, yet other images' requests get their turn
_CHANNEL = [
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    # Triton takes more than two pings in five minutes without data as abuse; this finds dead peers all the same.
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # The default grows to two minutes, during which a server that is back is not noticed.
    ("grpc.max_reconnect_backoff_ms", 3_000),
    # Channels to one address share a connection by default, also with other clients of this process.
    ("grpc.use_local_subchannel_pool", 1),
]

_GONE = {"StatusCode.NOT_FOUND"}
_DOWN = {"StatusCode.UNAVAILABLE"}
_WRONG = {"StatusCode.INVALID_ARGUMENT", "StatusCode.UNIMPLEMENTED", "StatusCode.OUT_OF_RANGE"}
_LATE = {"StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED"}

_ABOUT_MEMORY = "shared memory"  # in Triton's words where it lacks a region, or an output is larger than its place


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


class TritonClient:
    """Runs models on a Triton Inference Server over gRPC.

    Safe to share between threads; make one after a fork.

    Args:
        settings: Address and deadline.
    """

    def __init__(self, settings: TritonSettings) -> None:
        self._timeout = settings.timeout
        self._url = settings.url
        self._client = triton.InferenceServerClient(settings.url, channel_args=_CHANNEL)
        # async_infer keeps its call in an attribute between sending and hanging on the callback: one at a time.
        self._sending = threading.Lock()
        self._known: dict[tuple[Stage, ModelChoice], tuple[float, ServedModel]] = {}
        self._shared = SharedMemory(self._client, settings.shared_memory_bytes, settings.shared_memory_prefix)
        self._by_message: set[tuple[str, str]] = set()  # models that answer otherwise than we can foresee

    def close(self) -> None:
        """Give shared memory back and close the channel."""
        self._shared.close()
        self._client.close()

    def model(self, stage: Stage, choice: ModelChoice) -> ServedModel:
        """The model that serves a stage: the pinned version, or the newest that is ready.

        Raises:
            ModelContractError: Where it is not in the repository, or breaks the stage's contract.
            InferenceUnavailable: Where Triton does not answer or the model is not ready.
        """
        known = self._known.get((stage, choice))
        if known is not None and time.monotonic() - known[0] < _FRESH:
            return known[1]
        try:
            version = self._version(choice)
            response = self._client.get_model_config(choice.name, version, client_timeout=_METADATA_TIMEOUT)
        except InferenceServerException as error:
            raise self._sorted(error, choice.name) from error
        model = describe(stage, version, response.config)
        self._known[stage, choice] = time.monotonic(), model
        return model

    def _version(self, choice: ModelChoice) -> str:
        metadata = self._client.get_model_metadata(choice.name, client_timeout=_METADATA_TIMEOUT)
        ready = sorted(metadata.versions, key=int)
        if choice.version is None and ready:
            return str(ready[-1])
        if choice.version in ready:
            return str(choice.version)
        raise ModelContractError(
            f"Triton serves no version {choice.version} of model {choice.name}, but {', '.join(ready) or 'none'}"
        )

    def infer(self, model: ServedModel, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run a model on one item.

        Args:
            model: What :meth:`model` gave.
            inputs: Tensor name to array, without the batch dimension.
            outputs: Names of the tensors wanted.

        Returns:
            Tensor name to array, without the batch dimension; read-only.

        Raises:
            InferenceUnavailable: Where Triton does not answer in time; the request is cancelled there.
            ModelContractError: Where Triton calls the request wrong.
        """
        return self.infer_many(model, [inputs], outputs)[0]

    def infer_many(
        self, model: ServedModel, items: Sequence[Mapping[str, Array]], outputs: Sequence[str]
    ) -> list[dict[str, Array]]:
        """Run a model on several items of equal shapes, in batches, with several requests in flight.

        Args and errors as for :meth:`infer`; answers are in the order of the items.
        """
        size = max(1, min(model.max_batch, _ITEMS))
        waiting: deque[_Answer] = deque()
        answers: list[dict[str, Array]] = []
        try:
            for first in range(0, len(items), size):
                if len(waiting) == _IN_FLIGHT:
                    answers.extend(self._receive(model, waiting, outputs))
                waiting.append(self._send(model, items[first : first + size], outputs))
            while waiting:
                answers.extend(self._receive(model, waiting, outputs))
        finally:
            # Left over only after an error: what nobody waits for any more must not keep the server busy.
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
        tensors = Tensors(model, items, outputs)
        answer = _Answer(tensors)
        if shared and (model.name, model.version) not in self._by_message:
            tensors.share(self._shared)
        try:
            inputs = tensors.inputs()
            with self._sending:
                call = self._client.async_infer(
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
            if error.status() in _GONE:
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
        """Let a request go of which nobody knows what the server still does for it."""
        if answer.cancel is not None:
            answer.cancel()
        if answer.error is not None and answer.error.status() in _WRONG | _GONE:
            answer.tensors.give_back()
        elif answer.tensors.arena is not None:
            self._shared.give_up(answer.tensors.arena, "a request failed or was cancelled")

    def _failed(self, model: ServedModel, error: InferenceServerException) -> DermbatchError:
        """As _sorted; where a version is gone, a newer one may have replaced it, so the next try asks anew."""
        if error.status() in _GONE | _DOWN:
            self._known.clear()
        if error.status() in _GONE:
            metrics.TRITON_ERRORS.labels(model.name, "gone").inc()
            return InferenceUnavailable(f"Triton serves version {model.version} of model {model.name} no longer")
        return self._sorted(error, model.name)

    def _sorted(self, error: InferenceServerException, name: str) -> DermbatchError:
        """The error of our tree that this one of Triton's stands for."""
        status, said = str(error.status()), error.message()
        metrics.TRITON_ERRORS.labels(name, status.removeprefix("StatusCode.").lower()).inc()
        if status in _GONE:
            return ModelContractError(f"Triton at {self._url} serves no model {name}: {said}")
        if status in _WRONG:
            return ModelContractError(f"Triton refuses the request to model {name}: {said}")
        if status in _LATE:
            return InferenceUnavailable(f"model {name} did not answer in {self._timeout:g} s and was cancelled")
        return InferenceUnavailable(f"Triton at {self._url} cannot serve model {name}: {said}")
