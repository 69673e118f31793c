"""A Triton Inference Server over gRPC: what it serves, and which of our errors its errors are."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from dermbatch.errors import DermbatchError, InferenceAway, InferenceUnavailable, ModelContractError
from dermbatch.models.endpoints import Endpoints
from dermbatch.models.served import Array, ServedModel, describe
from dermbatch.records.asked import ModelChoice
from dermbatch.settings import TritonSettings
from dermbatch.stages import Stage

METADATA_TIMEOUT = 10.0
"""Seconds within which a server has to say what it serves."""

KEY_HEADER = "triton-grpc-protocol-dermbatch"
"""With ``--grpc-restricted-protocol=...:dermbatch=KEY``, Triton expects the key in the header of this name."""

GONE = {"StatusCode.NOT_FOUND"}
DOWN = {"StatusCode.UNAVAILABLE"}
WRONG = {"StatusCode.INVALID_ARGUMENT", "StatusCode.OUT_OF_RANGE"}
FOREIGN = {"StatusCode.UNIMPLEMENTED"}
"""What a proxy without a server answers; Triton says it only of streaming models, which are refused."""
LATE = {"StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED"}

_CHANNEL = [
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    # Triton treats more than two pings in five minutes without data as abuse; this still finds dead peers.
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # The default grows to two minutes, during which a returning server is not noticed.
    ("grpc.max_reconnect_backoff_ms", 3_000),
    # By default, channels to one address share a connection, even with other clients in this process.
    ("grpc.use_local_subchannel_pool", 1),
    # Requests go to all servers of the target in turn; by default gRPC stays with the first one that answers.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
]

_LOOK = 2.0  # seconds within which a server has to report its state
_LOOKS = 20  # connections through one address: behind a balancer each leads to some server by chance
_SEARCH = 1.0  # seconds of looking for a connection that leads to a server with the model
_CHANGING = {"LOADING", "UNLOADING"}
_ENDING = re.compile(r"exiting|not ready|not at ready state")  # Triton's own words when it is unavailable
# In gRPC's words, where a request has not left this machine. One that was under way when its server died is not
# among them: it may be what has killed it.
_UNSENT = re.compile(r"connections to all backends failing|failed to connect to|errors resolving")


Wanted = tuple[str, str | None]
"""Name and version of a model; no version: any."""


class _Elsewhere(InferenceUnavailable):
    """A server cannot serve what another one can, so the next request goes to the other one."""


class _Key(triton.InferenceServerClientPlugin):  # type: ignore[misc]
    """Adds the key to every request: a Triton with restricted protocols answers no others."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: Any) -> None:
        request.headers[KEY_HEADER] = self._key


class Triton:
    """A Triton Inference Server: which models it has, and running one of them on one item at a time.

    Safe to share between threads; make one after a fork, which gRPC channels do not survive.

    Args:
        settings: Address and deadline.
    """

    def __init__(self, settings: TritonSettings) -> None:
        self._url, self._timeout = settings.url, settings.timeout
        self._plugin = None if settings.key is None else _Key(settings.key.get_secret_value())
        self._endpoints = Endpoints(settings.url, lambda address: self._serves(address, None))
        self._opening = threading.Lock()
        self._open: tuple[str, Any] | None = None  # target, and the client of its channel
        self._left: list[tuple[float, Any]] = []  # clients whose last requests still run, and since when

    def close(self) -> None:
        """Close the channel."""
        with self._opening:
            clients = [client for _, client in self._left] + ([] if self._open is None else [self._open[1]])
            self._open, self._left = None, []
        for client in clients:
            client.close()

    @property
    def _client(self) -> Any:
        """The client for the servers that exist now and are not being avoided."""
        target = self._endpoints.target()
        with self._opening:
            if self._open is None or self._open[0] != target:
                return self._go_on_with(target, self._connected(target))
            return self._open[1]

    def _go_on_with(self, target: str, client: Any) -> Any:
        """Send later requests over another channel; those under way finish on the old one, then it closes."""
        now = time.monotonic()
        if self._open is not None:
            self._left.append((now, self._open[1]))
        while self._left and now - self._left[0][0] > self._timeout + 1:
            self._left.pop(0)[1].close()
        self._open = target, client
        return client

    def _connected(self, target: str) -> Any:
        authority = self._endpoints.authority
        options = _CHANNEL if authority is None else [*_CHANNEL, ("grpc.default_authority", authority)]
        client = triton.InferenceServerClient(target, channel_args=options)
        if self._plugin is not None:
            client.register_plugin(self._plugin)
        return client

    def ready(self) -> bool:
        """Whether a server takes requests now: it has loaded its models and is not shutting down."""
        self._endpoints.target()  # looks names up
        # A single server is addressed by its name: a proxy may route by that.
        asked = self._endpoints.addresses if self._endpoints.several else (self._url,)
        return any(self._serves(address, None) for address in asked)

    def index(self, timeout: float) -> dict[str, list[str]]:
        """The models that are loaded right now, with their versions, oldest first.

        Raises:
            InferenceUnavailable: If there is no answer within the time-out, in seconds.
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
            ModelContractError: If it is not in the repository.
            InferenceUnavailable: If Triton does not answer or the model is not ready.
        """
        try:
            return sorted(self._client.get_model_metadata(name, client_timeout=METADATA_TIMEOUT).versions, key=int)
        except InferenceServerException as error:
            raise self._sorted(error, name, None) from error

    def model(self, stage: Stage | None, choice: ModelChoice) -> ServedModel:
        """The model that serves a stage: the pinned version, or the newest that is ready.

        Raises:
            ModelContractError: If it is not in the repository, or breaks the stage's contract.
            InferenceUnavailable: If Triton does not answer or the model is not ready.
            InferenceAway: If no Triton takes requests.
        """
        try:
            return self._described(stage, choice)
        except _Elsewhere:
            return self._described(stage, choice)

    def _described(self, stage: Stage | None, choice: ModelChoice) -> ServedModel:
        version = choice.version or self._newest(choice.name)
        try:
            answer = self._client.get_model_config(choice.name, version, client_timeout=METADATA_TIMEOUT)
        except InferenceServerException as error:
            if str(error.status()) not in GONE:
                raise self._sorted(error, choice.name, version) from error
            there = ", ".join(self.versions(choice.name)) or "none"
            text = f"Triton serves no version {version} of model {choice.name}, but {there}"
            raise (self._for_now(choice.name, version) or ModelContractError(text)) from error
        return describe(stage, version, answer.config)

    def _newest(self, name: str) -> str:
        if ready := self.versions(name):
            return ready[-1]
        text = f"Triton serves no version of model {name}"
        raise self._for_now(name, None) or ModelContractError(text)

    def infer(self, model: ServedModel, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run a model on one item.

        Args:
            model: What :meth:`model` gave.
            inputs: Tensor name to array, without the batch dimension.
            outputs: Names of the tensors wanted.

        Returns:
            Tensor name to array, without the batch dimension; read-only.

        Raises:
            InferenceUnavailable: If Triton does not answer in time; the request is cancelled there.
            InferenceAway: If no Triton has taken the request, and none takes any now.
            ModelContractError: If Triton rejects the request as wrong.
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
            raise self._sorted(error, model.name, model.version, taken=may_have_taken(error)) from error
        arrays = {name: answer.as_numpy(name) for name in outputs}
        return {name: value[0] if model.max_batch else value for name, value in arrays.items()}

    def _sorted(
        self, error: InferenceServerException, name: str, version: str | None, *, taken: bool = False
    ) -> DermbatchError:
        """The error in our tree that corresponds to one of Triton's; a permanent one only if all is settled there.

        Args:
            error: What the client library raised.
            name: Name of the model.
            version: Version of the model, if one was asked for.
            taken: Whether a server may have had an image's request, and not merely a question about a model.
        """
        status, message = str(error.status()), error.message()
        if status in GONE:
            none = ModelContractError(f"Triton at {self._url} serves no model {name}: {message}")
            return self._for_now(name, version) or none
        if status in WRONG:
            wrong = ModelContractError(f"Triton refuses the request to model {name}: {message}")
            return self._for_now(name, version, missing=False) or wrong
        if status in DOWN and _ENDING.search(message):
            self._leave((name, version))
        late = f"model {name} did not answer in {self._timeout:g} s and was cancelled"
        told = late if status in LATE else f"Triton at {self._url} cannot serve model {name}: {message}"
        return InferenceUnavailable(told) if taken else self._untaken(told)

    def _untaken(self, told: str) -> InferenceUnavailable:
        """What to raise for a request that no server took: if none is ready, the image is not to blame."""
        return InferenceUnavailable(told) if self.ready() else InferenceAway(told)

    def _for_now(self, name: str, version: str | None, *, missing: bool = True) -> InferenceUnavailable | None:
        """What to raise if another try may help, as servers differ or are not settled; none if it will not."""
        if (why := self._unsettled((name, version) if missing else None)) is None:
            return None
        told = f"Triton at {self._url} cannot serve model {name} for now: {why}"
        return _Elsewhere(told) if self._leave((name, version)) else self._untaken(told)

    def _unsettled(self, missing: Wanted | None) -> str | None:
        """Why the same question may get another answer in a while; none if it will not.

        The server that answered is asked first, on its own connection; then all other known servers, or as many as
        chance leads to behind the one address.

        Args:
            missing: The model that one server lacks.
        """
        if (why := _standing(self._client, missing)) is not None:
            return why
        several = self._endpoints.several
        others = self._endpoints.addresses if several else [self._url] * (_LOOKS if missing else 1)
        for address in others:
            with closing(self._connected(address)) as client:
                if not several and random.random() < 0.5:  # noqa: S311 - where requests go to servers in turn
                    _can_serve(client, None)
                if (why := _standing(client, missing)) is not None:
                    return why
        return None

    def _leave(self, wanted: Wanted) -> bool:
        """Send no more requests to servers that cannot serve a model; returns whether another one can."""
        if self._endpoints.several:
            serving = {address: self._serves(address, wanted) for address in self._endpoints.addresses}
            self._endpoints.leave(address for address, serves in serving.items() if not serves)
            return any(serving.values())
        # There may be more servers behind the one address: another connection may lead to one that is ready.
        until = time.monotonic() + _SEARCH
        for _ in range(_LOOKS):
            client = self._connected(self._url)
            if _can_serve(client, wanted):
                with self._opening:
                    self._go_on_with(self._url, client)
                return True
            client.close()
            if time.monotonic() > until:
                break
        return False

    def _serves(self, address: str, wanted: Wanted | None) -> bool:
        with closing(self._connected(address)) as client:
            return _can_serve(client, wanted)


def may_have_taken(error: InferenceServerException) -> bool:
    """Whether a server may have begun work on a request that failed like this: it was sent and not refused."""
    status, message = str(error.status()), error.message()
    if status in DOWN:
        return not (_UNSENT.search(message) or _ENDING.search(message))
    return status not in GONE | WRONG | FOREIGN


def _can_serve(client: Any, wanted: Wanted | None) -> bool:
    """Whether a server takes requests, for the named model if there is one."""
    try:
        if not client.is_server_ready(client_timeout=_LOOK):
            return False
        if wanted is None:
            return True
        return bool(client.is_model_ready(wanted[0], wanted[1] or "", client_timeout=_LOOK))
    except InferenceServerException:
        return False


def _standing(client: Any, missing: Wanted | None) -> str | None:
    """What is unsettled about a server, as a clause; none if nothing is and the model is unknown to it."""
    try:
        if not client.is_server_ready(client_timeout=_LOOK):
            return "a server is not ready"
        models = client.get_model_repository_index(client_timeout=_LOOK).models
    except InferenceServerException as error:
        return f"a server is not ready ({error.message()})"
    if any(model.state in _CHANGING for model in models):
        return "a server loads or unloads models"
    # In a repository but without a state: nobody ever asked to load it.
    there = {(model.name, model.version) for model in models if model.state}
    if missing is not None and any(
        name == missing[0] and missing[1] in (None, version) for name, version in there
    ):
        return "a server has it, has just had it, or could not load it"
    return None
