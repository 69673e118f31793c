"""What a network costs: its trained values, and the multiply-adds of its convolutions and products, not run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(network: nn.Module, shapes: Sequence[Sequence[int]]) -> int:
    """Multiply-adds of one forward pass.

    Convolutions, transposed convolutions and matrix products count; sums, activations and interpolations, a few
    per cent, do not, as is the custom.

    Args:
        network: On any device; on ``torch.device("meta")`` nothing is computed or stored.
        shapes: Of its inputs, such as ``[(1, 3, 224, 224)]``.

    Returns:
        The number for the whole batch.
    """
    where = next(network.parameters()).device
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*(torch.zeros(*shape, device=where) for shape in shapes))
    # Two floating-point operations each.
    return int(counter.get_total_flops()) // 2


def count_parameters(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters())
