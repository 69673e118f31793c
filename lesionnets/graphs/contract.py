"""What a stage's model takes and gives, as Triton's configuration states it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model, without its batch dimension; -1 stands for any size."""

    name: str
    dims: tuple[int, ...]
    data_type: Literal["TYPE_UINT8", "TYPE_FP32"] = "TYPE_UINT8"

    @property
    def text(self) -> str:
        """As ``config.pbtxt`` has it, without the braces."""
        return f'name: "{self.name}" data_type: {self.data_type} dims: [ {", ".join(map(str, self.dims))} ]'


@dataclass(frozen=True)
class Contract:
    """Inputs and outputs of a stage's model, and what its worker must know.

    Attributes:
        inputs: All with height and width first; -1, or fixed.
        outputs: Of any shape.
        parameters: What the worker reads from the model's configuration, such as ``threshold``.
        labels: Of a classifier, in the order of its probabilities.
        warmup: Height and width of the zero image that the model is warmed up with.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: dict[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    warmup: tuple[int, int] = (480, 640)


IMAGE = Tensor("IMAGE", (-1, -1, 3))
"""The picture, RGB, 0 to 255: every stage's first input."""
