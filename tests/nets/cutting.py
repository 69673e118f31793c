"""Squares cut out of pictures by sampling: what the graphs' matrix products are held to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def cut_square(values: Tensor, square: Tensor, height: int, width: int, size: int) -> Tensor:
    """As :func:`lesionnets.graphs.crop.reduce_square`; each new pixel is the mean of four points."""
    points = (torch.arange(2 * size) + 0.5) / (2 * size) - 0.5
    rows = 2 * (square[:, 0:1] + points * square[:, 2:3] / height) - 1
    columns = 2 * (square[:, 1:2] + points * square[:, 2:3] / width) - 1
    shape = len(square), 2 * size, 2 * size
    grid = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=3)
    cut = functional.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return functional.avg_pool2d(cut, 2)
