"""A version's ONNX file: whether it is the one that its configuration describes, and a session that runs it.

The worker and the commands load it in the same way: what could not be run is refused before a batch is planned.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from dermbatch.errors import ModelContractError
from dermbatch.models.served import ServedModel, listed, type_name

TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}
"""Triton's names of ONNX Runtime's types."""

_ERRORS = 3  # ONNX Runtime's severity; its warnings are for those who make models


def path_of(repository: Path, model: ServedModel, config: Any) -> Path:
    """Where the file of a version lies."""
    return repository / model.name / model.version / (config.default_model_filename or "model.onnx")


def whole_file(path: Path, model: ServedModel) -> bytes:
    """The content of a version's file.

    Raises:
        ModelContractError: If it cannot be read, or its digest is not the one that the configuration states.
    """
    try:
        body = path.read_bytes()
    except OSError as error:
        raise ModelContractError(f"{path} cannot be read: {error.strerror}") from error
    if (digest := hashlib.sha256(body).hexdigest()) != model.sha256:
        key = f"sha256.{model.version}"
        raise model.broken(f"has a file whose digest differs from its parameter {key!r}: {path} has {digest}")
    return body


def session(body: bytes, model: ServedModel, config: Any, options: Any = None) -> Any:
    """An ``onnxruntime.InferenceSession`` of a version's file.

    Args:
        body: Content of the file.
        model: As its configuration describes it.
        config: The configuration, Triton's ``ModelConfig``.
        options: ``SessionOptions``; by default those that load it fastest, to look at it.

    Raises:
        ModelContractError: If it is no ONNX model, or its tensors are not those of the configuration.
    """
    import onnxruntime  # noqa: PLC0415 - installed only where models are run; the commands do without

    if options is None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
    options.log_severity_level = _ERRORS
    try:
        made = onnxruntime.InferenceSession(body, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base
        raise model.broken(f"cannot be loaded: {error}") from error
    _check_tensors(model, config, made)
    return made


def _check_tensors(model: ServedModel, config: Any, made: Any) -> None:
    takes, gives = (
        {f"{tensor.name} {TYPES.get(tensor.type, tensor.type)}" for tensor in tensors}
        for tensors in (made.get_inputs(), made.get_outputs())
    )
    wanted, promised = (
        {f"{tensor.name} {type_name(tensor)}" for tensor in tensors} for tensors in (config.input, config.output)
    )
    if takes != wanted or not promised <= gives:
        raise model.broken(
            f"has other tensors in its file than in its config.pbtxt: the file takes {listed(takes)} and gives "
            f"{listed(gives)}; config.pbtxt says {listed(wanted)} and {listed(promised)}"
        )
