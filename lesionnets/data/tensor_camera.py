"""What cameras do to pictures, on whole batches of tensors and on any device: blur, noise, JPEG, reduction.

Everything takes pictures float [N, 3, H, W], 0 to 1, and strengths float [N], one for each picture.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
BLOCK = 16
"""Sides must be multiples of this: two blocks of JPEG, because colour has half the resolution."""


def uniform(count: int, low: float, high: float, where: torch.device) -> Tensor:
    """Evenly drawn numbers, float [count]."""
    return low + (high - low) * torch.rand(count, device=where)


def jpeg(pictures: Tensor, quality: Tensor) -> Tensor:
    """Code and decode as JPEG (ITU-T T.81, annexes A and K; 4:2:0); sides must be multiples of ``BLOCK``.

    Args:
        pictures: See the module.
        quality: Quality float [N], 1 to 100 as in libjpeg.
    """
    where = pictures.device
    mix = torch.tensor(_YCBCR, device=where)
    planes = torch.einsum("ij,njhw->nihw", mix, pictures.float() * 255)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
    bright = _coded(planes[:, :1] - 128, _table(_LUMINANCE, scale)) + 128
    colour = _coded(functional.avg_pool2d(planes[:, 1:], 2), _table(_CHROMINANCE, scale))
    colour = functional.interpolate(colour, scale_factor=2.0, mode="bilinear", align_corners=False)
    back = torch.linalg.inv(mix)
    decoded = torch.einsum("ij,njhw->nihw", back, torch.cat([bright, colour], dim=1))
    return (decoded / 255).clamp(0, 1)


def blurred(pictures: Tensor, sigma: Tensor, *, radius: int = 4) -> Tensor:
    """Blur with a Gaussian; standard deviations ``sigma`` float [N], in pixels."""
    count, channels, height, width = pictures.shape
    taps = torch.arange(-radius, radius + 1, device=pictures.device)
    line = torch.exp(-0.5 * (taps / sigma.clamp(min=0.05)[:, None]) ** 2)
    line = (line / line.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    flat = functional.pad(pictures, (radius,) * 4, mode="reflect").reshape(
        1, count * channels, height + 2 * radius, -1
    )
    flat = functional.conv2d(flat, line[:, None, :, None], groups=count * channels)
    flat = functional.conv2d(flat, line[:, None, None, :], groups=count * channels)
    return flat.reshape(count, channels, height, width)


def noisy(pictures: Tensor, sigma: Tensor) -> Tensor:
    """Add Gaussian noise; standard deviations ``sigma`` float [N], on the scale of 0 to 1."""
    return (pictures + torch.randn_like(pictures) * sigma[:, None, None, None]).clamp(0, 1)


def in_levels(pictures: Tensor) -> Tensor:
    """Round to the 256 levels of a byte."""
    return (pictures.clamp(0, 1) * 255).round() / 255


def _table(values: tuple[tuple[int, ...], ...], scale: Tensor) -> Tensor:
    table = torch.tensor(values, dtype=torch.float32, device=scale.device)
    return (table[None] * scale[:, None, None]).round().clamp(1, 255)


def _cosines(where: torch.device) -> Tensor:
    """The orthonormal 8-point DCT-II, [frequency, place]."""
    place, frequency = torch.arange(8), torch.arange(8)[:, None]
    matrix = torch.cos(math.pi * (2 * place + 1) * frequency / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix.to(where)


def _coded(planes: Tensor, table: Tensor) -> Tensor:
    """Blocks of 8 x 8, transformed, quantised and transformed back; planes [N, C, H, W], table [N, 8, 8]."""
    count, channels, height, width = planes.shape
    cosines = _cosines(planes.device)
    blocks = planes.reshape(count, channels, height // 8, 8, width // 8, 8)
    spectrum = torch.einsum("ui,ncyixj,vj->ncyuxv", cosines, blocks, cosines)
    steps = table[:, None, None, :, None, :]
    spectrum = (spectrum / steps).round() * steps
    blocks = torch.einsum("ui,ncyuxv,vj->ncyixj", cosines, spectrum, cosines)
    return blocks.reshape(count, channels, height, width)
