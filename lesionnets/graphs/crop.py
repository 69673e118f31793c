"""The square around a lesion, found and cut out inside the served graph, for a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

MARGIN = 1.4
"""Side of the square as a multiple of the lesion's longer side: some skin belongs to the picture."""

LEAST = 0.3
"""Least side of the square as a multiple of the picture's shorter side: a smaller one has no more detail."""

_BLOCKS = 8
"""In which rows of a square are computed: 4 to 8 take the same time, 1 takes four times as long."""


def lesion_square(
    mask: Tensor,
    height: int,
    width: int,
    *,
    margin: float = MARGIN,
    least: float = LEAST,
    inside: bool = False,
) -> Tensor:
    """Centre and side of the square around a lesion, for every picture of a batch.

    The lesion extends from the 1 % to the 99 % quantile of its pixels along each axis, so specks of the mask do
    not count. Without a lesion the square spans the picture's longer side.

    Args:
        mask: Float [N, 1, S, S], 0 to 1: masks squashed to a square.
        height: Height of the pictures, in pixels.
        width: Width of the pictures, in pixels.
        margin: Side of the square as a multiple of the lesion's longer side.
        least: Least side of the square as a multiple of the picture's shorter side.
        inside: Move the square into the picture as far as it fits.

    Returns:
        Float [N, 3]: centre row / height, centre column / width, side in pixels.
    """
    lesion = (mask[:, 0] >= 0.5).float()
    top, bottom = _extent(lesion.sum(dim=2))
    left, right = _extent(lesion.sum(dim=1))
    longer = torch.maximum((bottom - top) * height, (right - left) * width)
    # Numbers that follow the picture's size stay tensors, so that the exported graph follows it too.
    sides = torch.stack([longer.new_ones(()) * height, longer.new_ones(()) * width])
    side = torch.minimum(torch.maximum(margin * longer, least * sides.min()), sides.max())
    row, column = (top + bottom) / 2, (left + right) / 2
    if inside:
        row, column = _within(row, side / sides[0]), _within(column, side / sides[1])
    return torch.stack([row, column, side], dim=1)


def _within(centre: Tensor, side: Tensor) -> Tensor:
    """Move the centres of squares so that they stay within 0 to 1; the middle if a square is larger."""
    half = (side / 2).clamp(max=0.5)
    return torch.minimum(torch.maximum(centre, half), 1 - half)


def _extent(profile: Tensor) -> tuple[Tensor, Tensor]:
    """Where a profile [N, S] reaches 1 % and 99 % of its sum, as shares [N] of its length; 0 and 1 if empty."""
    length = profile.shape[1]
    reached = profile.cumsum(dim=1)
    total = reached[:, -1:]
    start = (reached < 0.01 * total).float().sum(dim=1) / length
    end = ((reached < 0.99 * total).float().sum(dim=1) + 1) / length
    empty = total[:, 0] == 0
    return torch.where(empty, torch.zeros_like(start), start), torch.where(empty, torch.ones_like(end), end)


def reduce_square(values: Tensor, square: Tensor, height: int, width: int, size: int) -> Tensor:
    """Cut squares out of pictures by two matrix products, in a fraction of the time that sampling takes.

    A new pixel is a mean of those around it that falls off linearly, over one pixel of the coarser of both grids.
    The border continues outside.

    Args:
        values: Float [N, C, S, S]: pictures squashed to a square.
        square: Of :func:`lesion_square`.
        height: Height of the pictures before they were squashed, in pixels.
        width: Likewise.
        size: Side of the result in pixels, a multiple of 8.

    Returns:
        Float [N, C, size, size].
    """
    longer = torch.sym_max(height, width)  # type: ignore[no-untyped-call]
    across = _reduced(values.transpose(2, 3), square[:, 1:2], square[:, 2:3], width, longer, size)
    return _reduced(across.transpose(2, 3), square[:, 0:1], square[:, 2:3], height, longer, size)


def _reduced(values: Tensor, centre: Tensor, side: Tensor, extent: int, longer: int, size: int) -> Tensor:
    """The rows of a square, [N, C, size, w], of those of pictures, [N, C, S, w].

    Neighbouring new rows see few rows, the same: blocks of them are multiplied with a window that all fit in, a
    quarter of the products with whole pictures or less. It is as long as the largest square asks for.

    Args:
        values: Rows to take means of.
        centre: Centre of the squares, [N, 1], 0 to 1.
        side: Side of the squares, [N, 1], pixels; at most ``longer``.
        extent: Extent of the pictures in that direction, pixels.
        longer: The longer of the pictures' sides, pixels.
        size: Number of new rows.
    """
    count, channels, length, across = values.shape
    block = size // _BLOCKS
    points = (torch.arange(size, device=values.device) + 0.5) / size - 0.5
    reach = (side / extent * length / size).clamp(min=1)
    places = ((centre + points * side / extent) * length - 0.5).clamp(0, length - 1).reshape(-1, _BLOCKS, block)
    # From the first place less its reach to the last one and its reach; five are what rounding may take.
    window = torch.sym_min(length, (block + 1) * length * longer // (size * extent) + 5)  # type: ignore[no-untyped-call]
    last = places.new_zeros(()) + (length - window)
    first = torch.minimum(((places[:, :, 0] - reach).floor() + 1).clamp(min=0), last)
    seen = first[:, :, None] + torch.arange(window, device=values.device)
    distance = (places[:, :, :, None] - seen[:, :, None, :]).abs()
    shares = (1 - distance / reach[:, :, None, None]).clamp(min=0)
    shares = shares / shares.sum(dim=3, keepdim=True)
    planes = torch.arange(count * channels, device=values.device).reshape(count, channels, 1, 1) * length
    rows = (planes + seen.long()[:, None]).reshape(-1)
    taken = values.reshape(-1, across).index_select(0, rows).reshape(count, channels, _BLOCKS, window, across)
    return (shares[:, None] @ taken).reshape(count, channels, size, across)


def paste_square(values: Tensor, square: Tensor, height: int, width: int, size: int) -> Tensor:
    """Lay maps of squares back onto the whole picture, squashed to ``size`` x ``size``; 0 outside the squares.

    Args:
        values: Float [N, C, h, w]: maps over the squares.
        square: Of :func:`lesion_square`.
        height: Height of the pictures, in pixels.
        width: Likewise.
        size: Side of the result in pixels.

    Returns:
        Float [N, C, size, size].
    """
    points = (torch.arange(size, device=values.device) + 0.5) / size
    rows = 2 * (points - square[:, 0:1]) * height / square[:, 2:3]
    columns = 2 * (points - square[:, 1:2]) * width / square[:, 2:3]
    inside = (rows.abs() <= 1).float()[:, None, :, None] * (columns.abs() <= 1).float()[:, None, None, :]
    pasted = functional.grid_sample(
        values, _grid(rows, columns), mode="bilinear", padding_mode="border", align_corners=False
    )
    return pasted * inside


def _grid(rows: Tensor, columns: Tensor) -> Tensor:
    """Sampling points [N, R, C, 2] from rows [N, R] and columns [N, C], both -1 to 1 over the picture."""
    ones = torch.ones_like(rows[:, :, None] * columns[:, None, :])
    return torch.stack([ones * columns[:, None, :], ones * rows[:, :, None]], dim=3)
