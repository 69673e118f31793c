"""Resizing inside the served graph, with operators that every ONNX Runtime has, on CPU and GPU.

A resize with antialiasing would first make a float copy of the whole picture: 288 MB for 6000 x 4000 pixels. Here
a grid of bytes is gathered first and only these are averaged, so the cost hardly depends on the picture's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.graphs.assembly import to_onnx

MIRRORS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
"""Axes of [N, C, H, W] to flip for the picture itself and its three mirror images."""


def _centres(count: int, length: Tensor | int, where: torch.device) -> Tensor:
    """Indices of ``count`` evenly spread pixels of a side of ``length`` pixels; some repeat if it is short."""
    return (2 * torch.arange(count, device=where) + 1) * length // (2 * count)


def area_sample(image: Tensor, size: int, samples: int) -> Tensor:
    """Squash pictures to ``size`` x ``size``: each new pixel is the mean of ``samples`` x ``samples`` points.

    Args:
        image: uint8 [N, H, W, C], of any height and width.
        size: Side of the result in pixels.
        samples: Points along each side of a new pixel's area; 4 comes close to the mean of the whole area.

    Returns:
        float [N, C, size, size], 0 to 1.
    """
    rows = _centres(size * samples, image.shape[1], image.device)
    columns = _centres(size * samples, image.shape[2], image.device)
    # Columns are gathered once they lie apart, as rows do: whole columns are copied, not pixel by pixel.
    apart = image.index_select(1, rows).permute(0, 2, 3, 1)
    values = apart.index_select(1, columns).permute(0, 2, 3, 1).float()
    return functional.avg_pool2d(values, samples) / 255


def to_bytes(share: Tensor) -> Tensor:
    """Convert shares from 0 to 1 to bytes: round(255 x share)."""
    return (share.float() * 255).round().clamp(0, 255).to(torch.uint8)


def export_graph(
    graph: nn.Module, inputs: Mapping[str, tuple[int, ...]], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Export a whole graph as ONNX, for any batch size, height and width.

    Args:
        graph: The graph; it takes uint8 tensors [N, H, W, ...].
        inputs: Name of each input, with the rest of its shape after height and width.
        outputs: Names of the outputs.
    """
    axes = {0: "N", 1: "H", 2: "W"}
    example = [torch.zeros(2, 97, 131, *after, dtype=torch.uint8) for after in inputs.values()]
    return to_onnx(graph, example, inputs=list(inputs), outputs=outputs, free=[axes for _ in example])
