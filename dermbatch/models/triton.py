"""What a Triton Inference Server serves, by gRPC, and its errors sorted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from dermbatch.errors import DermbatchError, InferenceUnavailable, ModelContractError
from dermbatch.models.served import Array, ServedModel, describe
from dermbatch.records.asked import ModelChoice
from dermbatch.settings import TritonSettings
from dermbatch.stages import Stage

METADATA_TIMEOUT = 10.0
"""Seconds in which it has to say what it serves."""

KEY_HEADER = "triton-grpc-protocol-dermbatch"
"""With ``--grpc-restricted-protocol=...:dermbatch=KEY``, Triton asks for the key in the header of this name."""

GONE = {"StatusCode.NOT_FOUND"}
DOWN = {"StatusCode.UNAVAILABLE"}
WRONG = {"StatusCode.INVALID_ARGUMENT", "StatusCode.UNIMPLEMENTED", "StatusCode.OUT_OF_RANGE"}
LATE = {"StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED"}

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


class _Key(triton.InferenceServerClientPlugin):  # type: ignore[misc]
    """Adds the key to every request, of which a Triton with restricted protocols answers no other."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: Any) -> None:
        request.headers[KEY_HEADER] = self._key


class Triton:
    """A Triton Inference Server: what it has, and one model on one item at a time.

    Safe to share between threads; make one after a fork, which gRPC channels do not survive.

    Args:
        settings: Address and deadline.
    """

    def __init__(self, settings: TritonSettings) -> None:
        self._url, self._timeout = settings.url, settings.timeout
        self._client = triton.InferenceServerClient(settings.url, channel_args=_CHANNEL)
        if settings.key is not None:
            self._client.register_plugin(_Key(settings.key.get_secret_value()))

    def close(self) -> None:
        """Close the channel."""
        self._client.close()

    def index(self, timeout: float) -> dict[str, list[str]]:
        """The models that are loaded right now, with their versions, oldest first.

        Raises:
            InferenceUnavailable: Where there is no answer within the time-out, in seconds.
        """
        try:
            index = self._client.get_model_repository_index(client_timeout=timeout)
        except InferenceServerException as error:
            text = f"Triton at {self._url} does not say which models it has: {error.message()}"
            raise InferenceUnavailable(text) from error
        versions: dict[str, list[str]] = defaultdict(list)
        for model in index.models:
            if model.state == "READY" and model.version:
                versions[model.name].append(model.version)
        return {name: sorted(versions[name], key=int) for name in sorted(versions)}

    def versions(self, name: str) -> list[str]:
        """The versions of a model that are ready, oldest first.

        Raises:
            ModelContractError: Where it is not in the repository.
            InferenceUnavailable: Where Triton does not answer or the model is not ready.
        """
        try:
            return sorted(self._client.get_model_metadata(name, client_timeout=METADATA_TIMEOUT).versions, key=int)
        except InferenceServerException as error:
            raise self._sorted(error, name) from error

    def model(self, stage: Stage, choice: ModelChoice) -> ServedModel:
        """The model that serves a stage: the pinned version, or the newest that is ready.

        Raises:
            ModelContractError: Where it is not in the repository, or breaks the stage's contract.
            InferenceUnavailable: Where Triton does not answer or the model is not ready.
        """
        ready = self.versions(choice.name)
        version = choice.version or next(reversed(ready), None)
        if version not in ready:
            there = ", ".join(ready) or "none"
            raise ModelContractError(f"Triton serves no version {version} of model {choice.name}, but {there}")
        try:
            answer = self._client.get_model_config(choice.name, version, client_timeout=METADATA_TIMEOUT)
        except InferenceServerException as error:
            raise self._sorted(error, choice.name) from error
        return describe(stage, version, answer.config)

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
        tensors = []
        for name, value in inputs.items():
            whole = value[None] if model.max_batch else value
            tensors.append(triton.InferInput(name, list(whole.shape), np_to_triton_dtype(whole.dtype)))
            tensors[-1].set_data_from_numpy(whole)
        try:
            answer = self._client.infer(
                model.name, tensors, model_version=model.version, client_timeout=self._timeout
            )
        except InferenceServerException as error:
            raise self._sorted(error, model.name) from error
        arrays = {name: answer.as_numpy(name) for name in outputs}
        return {name: value[0] if model.max_batch else value for name, value in arrays.items()}

    def _sorted(self, error: InferenceServerException, name: str) -> DermbatchError:
        """The error of our tree that this one of Triton's stands for."""
        status, said = str(error.status()), error.message()
        if status in GONE:
            return ModelContractError(f"Triton at {self._url} serves no model {name}: {said}")
        if status in WRONG:
            return ModelContractError(f"Triton refuses the request to model {name}: {said}")
        if status in LATE:
            return InferenceUnavailable(f"model {name} did not answer in {self._timeout:g} s and was cancelled")
        return InferenceUnavailable(f"Triton at {self._url} cannot serve model {name}: {said}")
