"""Models run by ONNX Runtime in this very process, behind the interface of the worker's Triton client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime

from dermbatch.models.served import Array, ServedModel
from dermbatch.stages import Stage


class InProcess:
    """Sessions of one thread each, as their configurations ask for.

    Args:
        repository: The Triton model repository.
        models: The model of each stage, as Triton describes it.
    """

    def __init__(self, repository: Path, models: Mapping[Stage, ServedModel]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._models = models
        self._sessions = {
            model.name: onnxruntime.InferenceSession(
                str(repository / model.name / model.version / "model.onnx"),
                options,
                providers=["CPUExecutionProvider"],
            )
            for model in models.values()
        }

    def model(self, stage: Stage, choice: object) -> ServedModel:
        """The model of a stage, whatever is asked for."""
        return self._models[stage]

    def infer(self, model: ServedModel, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """As ``TritonClient.infer``."""
        rows = {name: array[None] if model.max_batch else array for name, array in inputs.items()}
        answers = self._sessions[model.name].run(list(outputs), rows)
        return {name: a[0] if model.max_batch else a for name, a in zip(outputs, answers, strict=True)}

    def infer_many(
        self, model: ServedModel, items: Sequence[Mapping[str, Array]], outputs: Sequence[str]
    ) -> list[dict[str, Array]]:
        """As ``TritonClient.infer_many``; one after the other, which no batch outruns on a processor."""
        return [self.infer(model, item, outputs) for item in items]
