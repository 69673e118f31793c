"""Lesion segmentation by a U-Net with dilated convolutions (Bisla et al. 2019, section 3.4); ISIC 2017 (CC0).

As in the paper: binary cross-entropy, Adam, pictures squashed to a square, holes filled after the threshold (which
``dermbatch.images.lesion`` does for every network). Input size and learning rate are missing in its text. Ours are
a rate that rises and falls, averaged weights, pictures augmented for other frames, dark corners, hairs and light,
and a share of the paper's width if there is no GPU.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.segment.dilated_unet import DilatedUNet
from lesionnets.segmenter_training import SegmenterRecipe, train_segmenter
from lesionnets.training import RecipeOptions

RATE = 1e-3
WIDTH = 0.25
"""Multiplies the channels on a CPU; 1.0 is the paper's width."""


def loss_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Binary cross-entropy of a batch of uint8 images and masks."""
    images, masks = batch
    logits = model(images.float() / 255)
    return functional.binary_cross_entropy_with_logits(logits.float(), masks.float() / 255)


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the best checkpoint.

    Raises:
        UsageError: If the data folder or its parts are missing or do not fit.
    """
    recipe = SegmenterRecipe(
        name="segment_dilated",
        network=DilatedUNet,
        hyper={"width": options.width_or(WIDTH)},
        optimiser=lambda model: torch.optim.Adam(model.parameters(), lr=RATE),
    )
    return train_segmenter(options, recipe, loss_step)
