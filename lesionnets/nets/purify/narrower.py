"""A narrower network that starts from the strongest channels of a wider one.

A channel's strength is its scale (that of its batch norm, or of its own weights without one) times the weights of
the layers that read it. What the channels left out did is missing at first; training makes up for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dermbatch.errors import UsageError
from lesionnets.nets.purify.folded import FoldedUNet


def widths_of(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Channels of each level of the network with these weights, finest first; empty for another network's."""
    found: list[int] = []
    while (weight := state.get(f"down.{len(found)}.0.weight")) is not None:
        found.append(weight.shape[0])
    return tuple(found)


@torch.no_grad()
def narrow(wide: FoldedUNet, model: FoldedUNet) -> None:
    """Copy the strongest channels of a network into a narrower one with as many levels.

    Args:
        wide: The trained network.
        model: The network to fill; none of its levels may be wider.

    Raises:
        UsageError: If the levels or outputs differ, or a level is wider.
    """
    trained: Any = wide  # torch's module lists do not say of what
    own: Any = model
    had, wanted = widths_of(wide.state_dict()), widths_of(model.state_dict())
    same = len(had) == len(wanted) and wide.head.out_channels == model.head.out_channels
    if not same or any(a < b for a, b in zip(had, wanted, strict=True)):
        raise UsageError(f"a network of widths {list(wanted)} cannot start from one of {list(had)}")
    last = len(wanted) - 1
    kept_down: list[Tensor] = []
    before = torch.arange(trained.stem[0].in_channels)
    for level, (width, down) in enumerate(zip(wanted, trained.down, strict=True)):
        entry, own_entry = ((net.stem if level == 0 else net.widen[level - 1]) for net in (trained, own))
        inner = _strongest(_loud(entry), [_read(down[0].weight)], width)
        _give(entry, own_entry, inner, before)
        readers = (
            [_read(trained.widen[level][0].weight), _read(trained.merge[level][0].weight)[had[level] :]]
            if level < last
            else [_fed(trained.up[level - 1].weight)]
        )
        before = _strongest(_loud(down), readers, width)
        _give(down, own.down[level], before, inner)
        kept_down.append(before)
    for level in reversed(range(last)):
        up, merge = trained.up[level], trained.merge[level]
        loud = up.weight.abs().sum(dim=(0, 2, 3))
        raised = _strongest(loud, [_read(merge[0].weight)[: had[level]]], wanted[level])
        own.up[level].weight.copy_(up.weight[before][:, raised])
        own.up[level].bias.copy_(up.bias[raised])
        reader = _fed(trained.up[level - 1].weight) if level else _read(trained.head.weight)
        before = _strongest(_loud(merge), [reader], wanted[level])
        _give(merge, own.merge[level], before, torch.cat([raised, had[level] + kept_down[level]]))
    own.head.weight.copy_(trained.head.weight[:, before])
    own.head.bias.copy_(trained.head.bias)


def _strongest(loud: Tensor, readers: Sequence[Tensor], count: int) -> Tensor:
    """Indices of the ``count`` strongest channels, in their order."""
    return (loud * torch.stack([*readers]).sum(dim=0)).topk(count).indices.sort().values


def _loud(block: Any) -> Tensor:
    norm: Tensor = block[1].weight
    return norm.abs()


def _read(weight: Tensor) -> Tensor:
    """How strongly a convolution [out, in, h, w] reads each input channel."""
    return weight.abs().sum(dim=(0, 2, 3))


def _fed(weight: Tensor) -> Tensor:
    """How strongly a transposed convolution [in, out, h, w] reads each input channel."""
    return weight.abs().sum(dim=(1, 2, 3))


def _give(block: Any, own: Any, outputs: Tensor, inputs: Tensor) -> None:
    own[0].weight.copy_(block[0].weight[outputs][:, inputs])
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(own[1], name).copy_(getattr(block[1], name)[outputs])
