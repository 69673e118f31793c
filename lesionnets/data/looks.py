"""Change pictures as other cameras would show them, for whole batches, on any device.

Pictures are float [N, 3, S, S], 0 to 1. Random numbers come from torch's generators, which training seeds.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def _uniform(like: Tensor, *shape: int) -> Tensor:
    return torch.rand(*shape, device=like.device)


def _normal(like: Tensor, spread: float, *shape: int) -> Tensor:
    return spread * torch.randn(*shape, device=like.device)


def relit(images: Tensor) -> Tensor:
    """Change light, white balance, saturation, contrast and gamma; now and then balance by shades of grey.

    Finlayson and Trezzi, "Shades of Gray and Colour Constancy", CIC 2004, with the norm p = 6.
    """
    count = len(images)
    norm = images.clamp_min(1e-3).pow(6).mean(dim=(2, 3)).pow(1 / 6)
    strength = (_uniform(images, count, 1) < 0.4) * _uniform(images, count, 1)
    balanced = images / (1 + (norm / norm.mean(dim=1, keepdim=True) - 1) * strength)[:, :, None, None]
    gains = torch.exp(_normal(images, 0.12, count, 1, 1, 1) + _normal(images, 0.07, count, 3, 1, 1))
    values = balanced * gains
    grey = values.mean(dim=1, keepdim=True)
    values = grey + (values - grey) * torch.exp(_normal(images, 0.2, count, 1, 1, 1))
    mean = values.mean(dim=(1, 2, 3), keepdim=True)
    values = mean + (values - mean) * torch.exp(_normal(images, 0.15, count, 1, 1, 1))
    return values.clamp(0, 1) ** torch.exp(_normal(images, 0.15, count, 1, 1, 1))


def paled(images: Tensor, share: float = 0.3) -> Tensor:
    """Reduce the contrast of a share of the pictures, to a third at least, as in faint lesions."""
    count = len(images)
    mean = images.mean(dim=(2, 3), keepdim=True)
    chosen = _uniform(images, count, 1, 1, 1) < share
    factor = torch.where(chosen, 0.3 + 0.7 * _uniform(images, count, 1, 1, 1), images.new_ones(()))
    return mean + (images - mean) * factor


def greyed(images: Tensor, share: float = 0.1) -> Tensor:
    """Remove the colours of a share of the pictures."""
    chosen = _uniform(images, len(images), 1, 1, 1) < share
    return torch.where(chosen, images.mean(dim=1, keepdim=True), images)


def exposed(images: Tensor, share: float = 0.2) -> Tensor:
    """Multiply the light of a share of the pictures by a third to three halves."""
    chosen = _uniform(images, len(images), 1, 1, 1) < share
    light = (1 / 3) * 4.5 ** _uniform(images, len(images), 1, 1, 1)
    return torch.where(chosen, images * light, images).clamp(0, 1)


def coarsened(images: Tensor, share: float = 0.5) -> Tensor:
    """Reduce the resolution of a share of the pictures to between a quarter and all of it, with some noise."""
    side, parts = images.shape[-1], images.chunk(4)
    found = []
    for part in parts:
        if torch.rand(()) > share:
            found.append(part)
            continue
        small = max(int(side * (0.3 + 0.7 * float(torch.rand(())))), 8)
        reduced = functional.interpolate(part, size=(small, small), mode="bilinear", antialias=True)
        noisy = reduced + _normal(images, 0.02, len(part), 1, 1, 1).abs() * torch.randn_like(reduced)
        found.append(functional.interpolate(noisy, size=(side, side), mode="bilinear"))
    return torch.cat(found).clamp(0, 1)


def dark_corners(images: Tensor, share: float = 0.2) -> tuple[Tensor, Tensor]:
    """Add the dark surround of a tube to a share of the pictures; also returns the light left, [N, 1, S, S]."""
    count, side = len(images), images.shape[-1]
    line = torch.linspace(-0.5, 0.5, side, device=images.device)
    rows = line[None, :, None] + _normal(images, 0.04, count, 1, 1)
    columns = line[None, None, :] + _normal(images, 0.04, count, 1, 1)
    radius, edge = 0.4 + 0.22 * _uniform(images, count, 1, 1), 0.01 + 0.03 * _uniform(images, count, 1, 1)
    light = torch.sigmoid((radius - torch.hypot(rows, columns)) / edge)
    chosen = _uniform(images, count, 1, 1) < share
    light = torch.where(chosen, light, torch.ones_like(light))[:, None]
    return images * light, light


def overlaid(images: Tensor, layers: Tensor, share: float = 0.35) -> Tensor:
    """Lay hairs, a ruler, ink or bubbles over a share of the pictures.

    Args:
        images: Float [N, 3, S, S].
        layers: Uint8 [K, 4, S, S]; each picture gets one of them.
        share: Share of the pictures.
    """
    count = len(images)
    chosen = layers[torch.randint(len(layers), (count,), device=layers.device)].float() / 255
    axes = [axis for axis in (2, 3) if torch.rand(()) < 0.5]
    chosen = chosen.flip(axes) if axes else chosen
    chosen = chosen.transpose(2, 3) if torch.rand(()) < 0.5 else chosen
    opaque = chosen[:, 3:] * (_uniform(images, count, 1, 1, 1) < share)
    return images + opaque * (chosen[:, :3] - images)
