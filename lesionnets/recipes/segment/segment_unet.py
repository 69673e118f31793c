"""Lesion segmentation by a small plain U-Net, trained from scratch on ISIC 2017 (CC0).

Images are squashed to 160 x 160; augmented for other frames, dark corners, hairs and light; BCE + Dice.
Fifteen minutes on two CPU cores with bfloat16.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lesionnets.losses.overlap import bce_dice_loss
from lesionnets.nets.segment.unet import UNet
from lesionnets.segmenter_training import Plan, train_segmenter
from lesionnets.training import RecipeOptions

SIZE = 160
"""Side of the network's input, pixels."""

BATCH = 16
RATE = 3e-3
MINUTES = 15.0
WIDTH = 1.0
"""On a CPU."""


def loss_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """BCE + Dice of a batch of uint8 images and masks."""
    images, masks = batch
    return bce_dice_loss(model(images.float() / 255), masks.float() / 255)


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the best checkpoint.

    Raises:
        UsageError: Where the data folder or its parts are missing or do not fit.
    """
    plan = Plan(
        recipe="segment_unet",
        network=UNet,
        hyper={"width": options.width_or(WIDTH)},
        size=SIZE,
        batch_size=BATCH,
        minutes=MINUTES,
        optimiser=lambda model: torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-2),
    )
    return train_segmenter(options, plan, loss_step)
