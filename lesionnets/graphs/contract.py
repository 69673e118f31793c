"""What a stage's model takes and gives, as Triton's configuration states it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_type_hints

from torch import nn

from dermbatch.errors import UsageError


def graph_module(network: nn.Module, stage: str, path: Path) -> Any:
    """The module of ``lesionnets.graphs`` that serves a network: its own where it names one, else the stage's.

    Args:
        network: From a checkpoint.
        stage: That it is for.
        path: The checkpoint, for the message.

    Raises:
        UsageError: Where that module takes another kind of network.
    """
    module = import_module(f"lesionnets.graphs.{getattr(network, 'graph', stage)}")
    wanted = get_type_hints(module.contract)["network"]
    if not isinstance(network, wanted):
        raise UsageError(f"{path} holds a {type(network).__name__}; the {stage} graph takes a {wanted.__name__}")
    return module


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


def parameter_lines(parameters: Mapping[str, str]) -> str:
    """Parameters as ``config.pbtxt`` has them, one a line."""
    return "\n".join(
        f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}' for key, value in parameters.items()
    )


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
