"""Lesion segmentation by VGG-16 with deep side layers (US 2018/0130203 A1, 0055 to 0061); ISIC 2017 (CC0).

As in the patent: class-balanced cross-entropy (eq. 1) of each side output, which gives every layer the objective
itself (0057), of the border map and the lesion feature map (0059), and of the final score, which combines them
(0061). The patent's convolutions come from ImageNet; we found no such weights, so ours learn from scratch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lesionnets.losses.balanced import balanced_pixel_loss
from lesionnets.nets.segment.side_layers import Scores, SideLayersVgg
from lesionnets.segmenter_training import SegmenterRecipe, train_segmenter
from lesionnets.training import RecipeOptions

SIZE = 128
"""Side of the network's input in pixels; the patent's is 224."""

RATE = 1e-3
WIDTH = 0.25
"""Multiplies the channels on a CPU; 1.0 is the patent's width."""
SCALES = (1.0,)
"""Scales at which the network looks; the patent's are 0.5, 1.0 and 1.5."""


def loss_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Sum of class-balanced cross-entropies: of the final score, of both maps, and the side outputs' mean."""
    images, masks = batch
    truth = masks.float() / 255
    scores: Scores = model(images.float() / 255)
    return torch.stack([balanced_pixel_loss(logits, truth) for logits in scores]).sum()


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the best checkpoint.

    Raises:
        UsageError: If the data folder or its parts are missing or do not fit.
    """
    recipe = SegmenterRecipe(
        name="segment_side_layers",
        network=SideLayersVgg,
        hyper={"width": options.width_or(WIDTH), "scales": SCALES},
        size=SIZE,
        optimiser=lambda model: torch.optim.Adam(model.parameters(), lr=RATE),
    )
    return train_segmenter(options, recipe, loss_step)
