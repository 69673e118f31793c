"""ONNX Runtime for Triton where its C++ backend is not to be had: a python-based backend named ``onnxruntime``.

Triton runs this file in one process ("stub") per model instance, and a model repository written for the C++
backend serves here unchanged. For the interface see "Python-based backends" in Triton's documentation.

It understands, as the C++ backend does, the model parameters ``intra_op_thread_count`` and
``inter_op_thread_count``, and completes the tensors of a configuration that leaves them out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}

Feed = dict[str, np.ndarray[Any, Any]]


class TritonPythonModel:
    """What Triton calls: one object for each instance of a model."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in the tensors that ``config.pbtxt`` leaves out, from the ONNX file; a whole one is left alone."""
        config = auto_complete_model_config.as_dict()
        if config["input"] and config["output"]:
            return auto_complete_model_config
        session = _session(config)
        batching = config["max_batch_size"] > 0
        for kind, tensors, add in (
            ("input", session.get_inputs(), auto_complete_model_config.add_input),
            ("output", session.get_outputs(), auto_complete_model_config.add_output),
        ):
            if not config[kind]:
                for tensor in tensors:
                    add(_described(tensor, batching))
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's model file; an error here fails the load of the model."""
        config = json.loads(args["model_config"])
        self._batching = config["max_batch_size"] > 0
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._session = _session(config)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests: those of equal shape in one run, a failing one without harm to the others."""
        responses: list[Any] = [None] * len(requests)
        feeds: dict[int, Feed] = {}
        for index, request in enumerate(requests):
            try:
                feeds[index] = self._read(request)
            except Exception as error:  # whatever it is, it is this request's own
                responses[index] = _failed(error)
        for group in self._groups(feeds):
            wanted = {name for index in group for name in requests[index].requested_output_names()}
            for index, outcome in self._run(group, feeds, sorted(wanted)):
                if isinstance(outcome, Exception):
                    responses[index] = _failed(outcome)
                else:
                    names = requests[index].requested_output_names()
                    tensors = [pb_utils.Tensor(name, outcome[name]) for name in names]
                    responses[index] = pb_utils.InferenceResponse(output_tensors=tensors)
        return responses

    def _read(self, request: Any) -> Feed:
        feed = {}
        for name in self._inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                feed[name] = tensor.as_numpy()  # a view of the shared memory, not a copy
        return feed

    def _groups(self, feeds: dict[int, Feed]) -> Iterator[list[int]]:
        """Split the requests into those that can be run together."""
        groups: dict[Any, list[int]] = {}
        for index, feed in feeds.items():
            rows = {array.shape[0] for array in feed.values()} if self._batching else set()
            alike = tuple((name, array.shape[1:], array.dtype.str) for name, array in feed.items())
            # Requests without a batch axis, or with an inconsistent one, stay alone.
            groups.setdefault(alike if len(rows) == 1 else index, []).append(index)
        yield from groups.values()

    def _run(
        self, group: Sequence[int], feeds: dict[int, Feed], wanted: Sequence[str]
    ) -> Iterator[tuple[int, Feed | Exception]]:
        if len(group) == 1:
            index = group[0]
            try:
                yield index, dict(zip(wanted, self._session.run(wanted, feeds[index]), strict=True))
            except Exception as error:  # ONNX Runtime's errors have no common base
                yield index, error
            return
        names = feeds[group[0]].keys()
        joined = {name: np.concatenate([feeds[index][name] for index in group]) for name in names}
        ends = np.cumsum([next(iter(feeds[index].values())).shape[0] for index in group])
        try:
            pieces = [_split(output, ends) for output in self._session.run(wanted, joined)]
        except Exception:  # one of them spoils the run: find out which
            for index in group:
                yield from self._run([index], feeds, wanted)
            return
        for place, index in enumerate(group):
            yield index, {name: piece[place] for name, piece in zip(wanted, pieces, strict=True)}


def _split(output: np.ndarray[Any, Any], ends: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Each request's rows of an output, as views."""
    if output.ndim == 0 or output.shape[0] != ends[-1]:
        raise ValueError(
            f"an output of shape {output.shape} has not one row for each of the {ends[-1]} rows put in"
        )
    return np.split(output, ends[:-1])


def _session(config: dict[str, Any]) -> Any:
    import onnxruntime  # noqa: PLC0415 - Triton starts a process for auto_complete_config alone; most do not need it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _parameter(config, "intra_op_thread_count")
    options.inter_op_num_threads = _parameter(config, "inter_op_thread_count")
    # Threads that wait by spinning take the cores from the other models' processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    path = Path(pb_utils.get_model_dir()) / (config.get("default_model_filename") or "model.onnx")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _parameter(config: dict[str, Any], name: str) -> int:
    """A thread count of the model's configuration; 0, ONNX Runtime's own choice, where it is not there."""
    value = config.get("parameters", {}).get(name, {})
    text = value.get("string_value", "0") if isinstance(value, dict) else value
    return int(text)


def _described(tensor: Any, batching: bool) -> dict[str, Any]:
    dims = [size if isinstance(size, int) else -1 for size in tensor.shape]
    return {"name": tensor.name, "data_type": _TYPES[tensor.type], "dims": dims[1:] if batching else dims}


def _failed(error: Exception) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error) or repr(error)))
