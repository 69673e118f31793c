"""ONNX Runtime in the worker's own process: without a GPU, sending pictures to a server gains nothing.

It reads a Triton model repository and follows its configurations. Answers equal those of the embedded Triton's
backend bit for bit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from dermbatch.errors import InferenceUnavailable, ModelContractError
from dermbatch.models.configuration import read_config
from dermbatch.models.modelfile import path_of, session, whole_file
from dermbatch.models.repository import served_models
from dermbatch.models.served import Array, ServedModel, describe
from dermbatch.records.asked import ModelChoice
from dermbatch.stages import Stage

_FRESH = 30.0  # seconds for which a model's description is trusted, after which a new version is noticed
_BACKENDS = {"onnxruntime", "onnxruntime_onnx"}  # as `backend` and as `platform`


class OnnxRuntime:
    """Runs the models of a repository here, each on as many threads as its configuration asks for.

    Safe to share between threads; make one after a fork.

    Args:
        repository: The Triton model repository.
    """

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._loading = threading.Lock()
        self._known: dict[tuple[Stage | None, ModelChoice], tuple[float, ServedModel]] = {}
        self._sessions: dict[tuple[str, str], Any] = {}

    def close(self) -> None:
        """Release the models."""
        self._sessions.clear()

    def model(self, stage: Stage | None, choice: ModelChoice) -> ServedModel:
        """As :meth:`workers.inference.protocol.Inference.model`; its files are not checked again for a while."""
        known = self._known.get((stage, choice))
        if known is not None and time.monotonic() - known[0] < _FRESH:
            return known[1]
        name = choice.name
        versions = served_models(self._repository).get(name)
        if not versions or (choice.version is not None and choice.version not in versions):
            version = "" if choice.version is None else f" version {choice.version} of"
            raise ModelContractError(f"there is no{version} model {name} in {self._repository}")
        version = choice.version or versions[-1]
        config = self._config(name)
        model = replace(describe(stage, version, config), device="cpu")
        with self._loading:
            if (name, version) not in self._sessions:
                self._sessions[name, version] = self._loaded(model, config)
        self._known[stage, choice] = time.monotonic(), model
        return model

    def infer(self, model: ServedModel, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """As :meth:`workers.inference.protocol.Inference.infer`."""
        rows = {name: array[None] if model.max_batch else array for name, array in inputs.items()}
        try:
            answers = self._sessions[model.name, model.version].run(list(outputs), rows)
        except (InvalidArgument, ValueError) as error:
            raise model.broken(f"cannot be asked in this way: {error}") from error
        except Exception as error:  # its errors have no common base; lack of memory is among them
            raise InferenceUnavailable(f"model {model.name} did not run: {error}") from error
        return {name: a[0] if model.max_batch else a for name, a in zip(outputs, answers, strict=True)}

    def infer_many(
        self, model: ServedModel, items: Sequence[Mapping[str, Array]], outputs: Sequence[str]
    ) -> list[dict[str, Array]]:
        """As :meth:`infer`, one after the other: on a processor, batches are no faster."""
        return [self.infer(model, item, outputs) for item in items]

    def _config(self, name: str) -> Any:
        config = read_config(self._repository / name)
        if (config.backend or config.platform) not in _BACKENDS:
            kind = config.backend or config.platform or "no backend that it names"
            raise ModelContractError(f"model {name} is for {kind}: use the engine triton for it")
        return config

    def _loaded(self, model: ServedModel, config: Any) -> Any:
        body = whole_file(path_of(self._repository, model, config), model)
        return session(body, model, config, _options(model))


def _options(model: ServedModel) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(model.number("intra_op_thread_count", 0))
    options.inter_op_num_threads = int(model.number("inter_op_thread_count", 0))
    # Threads that spin while waiting take the processors from other images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options
