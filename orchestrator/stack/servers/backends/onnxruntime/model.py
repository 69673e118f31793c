"""ONNX Runtime for Triton where its C++ backend is not available: a python-based backend named ``onnxruntime``.

Triton runs this file in one process ("stub") per model instance, and a model repository written for the C++
backend serves here unchanged. For the interface see "Python-based backends" in Triton's documentation. As the C++
backend does, it understands the model parameters ``intra_op_thread_count`` and ``inter_op_thread_count``, and
completes the tensors of a configuration that leaves them out.

It is made for throughput on CPUs, which differs from a GPU's in two ways:

- The requests of a batch, and the rows of a request, are run one by one. Four rows in one run never were faster,
  and up to a quarter slower (x4 super-resolution of 160 x 160 px: 25 ms a row against 20).
- A machine with many cores runs several requests of a model at a time, on threads that share one session, instead
  of several instances that each hold the model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore
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

Array = np.ndarray[Any, Any]


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
        threads = _threads(_parameter(config, "intra_op_thread_count"), len(os.sched_getaffinity(0)))
        self._free = BoundedSemaphore(threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="infer")

    def execute(self, requests: Sequence[Any]) -> None:
        """Take requests, each for a thread as soon as one is free; their answers are sent when they are ready."""
        for request in requests:
            self._free.acquire()
            self._pool.submit(self._answer, request)

    def finalize(self) -> None:
        """Finish what was begun."""
        self._pool.shutdown()

    def _answer(self, request: Any) -> None:
        try:
            response = self._infer(request)
        except Exception as error:  # whatever it is, it is this request's own
            failure = pb_utils.TritonError(str(error) or repr(error))
            response = pb_utils.InferenceResponse(output_tensors=[], error=failure)
        finally:
            self._free.release()
        try:
            request.get_response_sender().send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception as error:  # in a thread it would go unseen
            pb_utils.Logger.log_error(f"an answer could not be sent: {error}")

    def _infer(self, request: Any) -> Any:
        if request.is_cancelled():
            cancelled = pb_utils.TritonError("nobody waits for it any more", pb_utils.TritonError.CANCELLED)
            return pb_utils.InferenceResponse(output_tensors=[], error=cancelled)
        feed = {}
        for name in self._inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                feed[name] = tensor.as_numpy()  # a view of the shared memory, not a copy
        names = list(request.requested_output_names())
        outputs = [pb_utils.Tensor(*pair) for pair in zip(names, self._run(names, feed), strict=True)]
        return pb_utils.InferenceResponse(output_tensors=outputs)

    def _run(self, names: list[str], feed: dict[str, Array]) -> Sequence[Array]:
        rows = {array.shape[0] for array in feed.values()} if self._batching else {1}
        # Inputs that disagree on their rows are left to the model, which may refuse them or not.
        if len(rows) != 1 or rows == {1}:
            outputs: Sequence[Array] = self._session.run(names, feed)
            return outputs
        runs = [
            self._session.run(names, {name: array[row : row + 1] for name, array in feed.items()})
            for row in range(rows.pop())
        ]
        return [np.concatenate(pieces) for pieces in zip(*runs, strict=True)]


def _session(config: dict[str, Any]) -> Any:
    import onnxruntime  # noqa: PLC0415 - Triton starts a process for auto_complete_config alone, mostly for nothing

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _parameter(config, "intra_op_thread_count")
    options.inter_op_num_threads = _parameter(config, "inter_op_thread_count")
    options.log_severity_level = 3  # errors; its warnings are for those who make models
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


def _threads(threads_in_a_run: int, cores: int) -> int:
    """Requests to run at a time: as many as the cores hold, since images come to the same stage together."""
    return max(1, cores // (threads_in_a_run or cores))


def _described(tensor: Any, batching: bool) -> dict[str, Any]:
    dims = [size if isinstance(size, int) else -1 for size in tensor.shape]
    return {"name": tensor.name, "data_type": _TYPES[tensor.type], "dims": dims[1:] if batching else dims}
