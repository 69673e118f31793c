"""Backgrounds without skin for drawn things: colours, gradients, cloudy textures, stripes, checks."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def grounds(count: int, size: int) -> Tensor:
    """Random backgrounds float [count, 3, size, size], 0 to 1: two or three colours, mixed by a random pattern."""
    colours = torch.rand(3, count, 3, 1, 1)
    # A half are of like colours, so that things on them are not told by clutter alone.
    near = (torch.rand(count, 1, 1, 1) < 0.5).float()
    other = colours[0] + (colours[1] - colours[0]) * (1 - 0.8 * near)
    kinds = (clouds, gradients, stripes, checks)
    share = torch.cat([kinds[int(torch.randint(len(kinds), ()))](1, size) for _ in range(count)])
    mixed = colours[0] + (other - colours[0]) * share
    speckles = clouds(count, size, finest=size // 2)
    strength = 0.3 * torch.rand(count, 1, 1, 1) ** 2
    return (mixed + (speckles - 0.5) * strength + (colours[2] - 0.5) * 0.2 * clouds(count, size)).clamp(0, 1)


def clouds(count: int, size: int, finest: int = 32) -> Tensor:
    """Noise at several scales, enlarged and added: [count, 1, size, size], 0 to 1."""
    found, weights, side = torch.zeros(count, 1, size, size), 0.0, 3
    while side <= finest:
        noise = torch.rand(count, 1, side, side)
        weight = float(torch.rand(())) + 0.1
        found += weight * functional.interpolate(noise, size=(size, size), mode="bicubic", align_corners=False)
        weights, side = weights + weight, side * 2
    return (found / weights).clamp(0, 1)


def _slanted(count: int, size: int) -> Tensor:
    line = torch.linspace(-0.5, 0.5, size)
    angle = 2 * math.pi * torch.rand(count, 1, 1, 1)
    return torch.cos(angle) * line[None, None, :, None] + torch.sin(angle) * line[None, None, None, :]


def gradients(count: int, size: int) -> Tensor:
    """Gradients from one side to the other: [count, 1, size, size], 0 to 1."""
    return (_slanted(count, size) + 0.5).clamp(0, 1)


def stripes(count: int, size: int) -> Tensor:
    """Soft or sharp stripes at any angle: [count, 1, size, size], 0 to 1."""
    waves = torch.sin(_slanted(count, size) * (6 + 60 * torch.rand(count, 1, 1, 1)))
    return torch.sigmoid(waves * (1 + 8 * torch.rand(count, 1, 1, 1)))


def checks(count: int, size: int) -> Tensor:
    """Squares or slanted tiles: [count, 1, size, size], 0 to 1."""
    return (stripes(count, size) - stripes(count, size)).abs()
