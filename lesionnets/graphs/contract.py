"""Inputs and outputs of a stage's model, as Triton's configuration states them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from torch import nn

from dermbatch.errors import UsageError
from dermbatch.models.contracts import DATA_TYPES, Tensor


def graph_module(network: nn.Module, stage: str, path: Path) -> Any:
    """The module of ``lesionnets.graphs`` that serves a network: the one it names, otherwise the stage's.

    Args:
        network: From a checkpoint.
        stage: The stage that it is for.
        path: The checkpoint, for the message.

    Raises:
        UsageError: If that module is for another kind of network.
    """
    module = import_module(f"lesionnets.graphs.{getattr(network, 'graph', stage)}")
    wanted = get_type_hints(module.contract)["network"]
    if not isinstance(network, wanted):
        raise UsageError(f"{path} holds a {type(network).__name__}; the {stage} graph takes a {wanted.__name__}")
    return module


def tensor_text(tensor: Tensor) -> str:
    """A tensor as ``config.pbtxt`` has it, without the braces."""
    dims = ", ".join(map(str, tensor.dims))
    return f'name: "{tensor.name}" data_type: {DATA_TYPES[tensor.dtype]} dims: [ {dims} ]'


def parameter_lines(parameters: Mapping[str, str]) -> str:
    """Parameters as ``config.pbtxt`` has them, one on each line."""
    return "\n".join(
        f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}' for key, value in parameters.items()
    )
