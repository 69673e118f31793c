"""What runs models, as the stages see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from dermbatch.models.served import Array, ServedModel
from dermbatch.records.asked import ModelChoice
from dermbatch.stages import Stage


class Inference(Protocol):
    """Runs the models of a Triton model repository: the same contracts, outputs and keys, whatever the engine."""

    def model(self, stage: Stage | None, choice: ModelChoice) -> ServedModel:
        """The model that serves a stage, or makes a support's prototypes: the pinned version, or the newest.

        Raises:
            ModelContractError: If it is missing, or breaks the stage's contract.
            InferenceUnavailable: If it cannot be determined now.
        """

    def infer(self, model: ServedModel, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run a model on one item.

        Args:
            model: What :meth:`model` gave.
            inputs: Tensor name to array, without the batch dimension.
            outputs: Names of the tensors wanted.

        Returns:
            Tensor name to array, without the batch dimension.

        Raises:
            InferenceUnavailable: If there is no answer now.
            ModelContractError: If the request is wrong for the model.
        """

    def infer_many(
        self, model: ServedModel, items: Sequence[Mapping[str, Array]], outputs: Sequence[str]
    ) -> list[dict[str, Array]]:
        """Run a model on several items; arguments and errors as for :meth:`infer`, answers in the items' order."""

    def close(self) -> None:
        """Give back what it holds."""
