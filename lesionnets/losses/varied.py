"""Differentiable variations of originals and generated pictures alike (Zhao et al., NeurIPS 2020).

A discriminator that sees only a few hundred originals memorises them. It cannot if it sees all pictures varied,
both originals and the generator's, and then the generator does not learn to make the variations either (section
3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SHIFT = 1 / 8
"""Largest shift, as a share of the side."""
HOLE = 0.25
"""Side of the square that is blanked, as a share of the picture's side; one half in the paper."""
STRENGTH = 0.5
"""Strength of the changes of light, saturation and contrast, as a share of the paper's."""


def varied(pictures: Tensor) -> Tensor:
    """Vary each picture's light, place and a hole: float [N, 3, S, S], 0 to 1 -> the same, also beyond 0 to 1."""
    return _hidden(_shifted(_coloured(pictures)))


def _numbers(pictures: Tensor, count: int) -> Tensor:
    return torch.rand(count, len(pictures), 1, 1, 1, device=pictures.device).to(pictures.dtype)


def _coloured(pictures: Tensor) -> Tensor:
    light, saturation, contrast = _numbers(pictures, 3)
    pictures = pictures + STRENGTH * (light - 0.5)
    grey = pictures.mean(dim=1, keepdim=True)
    pictures = grey + (pictures - grey) * (1 + STRENGTH * (2 * saturation - 1))
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    seen: Tensor = mean + (pictures - mean) * (1 + STRENGTH * (contrast - 0.5))
    return seen


def _shifted(pictures: Tensor) -> Tensor:
    count, side = len(pictures), pictures.shape[-1]
    most = max(round(side * SHIFT), 1)
    shifts = torch.randint(0, 2 * most + 1, (2, count), device=pictures.device)
    along = torch.arange(side, device=pictures.device)
    rows, columns = (along + shift[:, None] for shift in shifts)
    padded = functional.pad(pictures, (most,) * 4).permute(0, 2, 3, 1)
    which = torch.arange(count, device=pictures.device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _hidden(pictures: Tensor) -> Tensor:
    count, side = len(pictures), pictures.shape[-1]
    middles = torch.randint(0, side, (2, count, 1), device=pictures.device)
    along = torch.arange(side, device=pictures.device)
    down, across = ((along - middle).abs() <= HOLE * side / 2 for middle in middles)
    seen = ~(down[:, :, None] & across[:, None, :])
    kept: Tensor = pictures * seen[:, None].to(pictures.dtype)
    return kept
