"""What a running Triton Inference Server serves, as a plain function of images."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from dermbatch.errors import UsageError
from dermbatch.stages import Stage
from lesionnets.evaluation.models.predictors import Image, Model, check_tensors

PORT = 8001
"""Where Triton listens for gRPC if it is not told otherwise."""

_TIMEOUT = 60.0  # seconds of one request: an image of native size on a busy machine
_LIVE_TIMEOUT = 10.0
_CHANNEL = [("grpc.max_send_message_length", 2**31 - 1), ("grpc.max_receive_message_length", 2**31 - 1)]


def connect(address: str, stage: Stage) -> Model:
    """A model that a Triton serves.

    Args:
        address: ``triton://HOST[:PORT]/NAME[@VERSION]``, the port of gRPC; the newest version that is ready where
            none is named.
        stage: Whose contract it must keep.

    Raises:
        UsageError: Where the address is none, nobody answers there, or the model is not served or not the stage's.
    """
    host, name, wanted = _parts(address)
    client = triton.InferenceServerClient(host, channel_args=_CHANNEL)
    try:
        client.is_server_ready(client_timeout=_LIVE_TIMEOUT)
    except InferenceServerException as error:
        raise UsageError(f"no Triton answers gRPC at {host}; is it running, and is that its gRPC port?") from error
    try:
        ready = sorted(client.get_model_metadata(name, client_timeout=_LIVE_TIMEOUT).versions, key=int)
        version = wanted or ready[-1]
        if version not in ready:
            raise UsageError(f"the Triton at {host} serves {name} in version {', '.join(ready)}, not {version}")
        config = client.get_model_config(name, version, client_timeout=_LIVE_TIMEOUT).config
    except InferenceServerException as error:
        raise UsageError(f"the Triton at {host} serves no model {name!r}") from error
    check_tensors(address, stage, {each.name for each in config.input}, {each.name for each in config.output})
    is_batched = config.max_batch_size > 0

    def run(**inputs: Image) -> dict[str, npt.NDArray[Any]]:
        tensors = []
        for tensor, value in inputs.items():
            batch = value[None] if is_batched else value
            tensors.append(triton.InferInput(tensor, list(batch.shape), "UINT8"))
            tensors[-1].set_data_from_numpy(np.ascontiguousarray(batch))
        try:
            result = client.infer(name, tensors, model_version=version, client_timeout=_TIMEOUT)
        except InferenceServerException as error:
            raise UsageError(f"{address} failed: {error.message()}") from error
        found = {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}
        return {key: value[0] if is_batched else value for key, value in found.items()}

    (image,) = (tensor for tensor in config.input if tensor.name == "IMAGE")
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    return Model(address, run, parameters, (image.dims[0], image.dims[1]))


def _parts(address: str) -> tuple[str, str, str]:
    """Host with port, name and version (empty where none is named) of an address."""
    parts = urlsplit(address)
    name, _, version = parts.path.removeprefix("/").partition("@")
    try:
        host, port = parts.hostname, parts.port or PORT
    except ValueError:
        host, port = None, PORT
    if not host or not name or "/" in name or (version and not version.isdecimal()) or address.endswith("@"):
        raise UsageError(
            f"{address!r} is no address of a model: write triton://HOST:PORT/NAME or .../NAME@VERSION"
        )
    return (f"[{host}]" if ":" in host else host) + f":{port}", name, version
