"""Lesion segmentation by a small plain U-Net, trained from scratch on ISIC 2017 (CC0).

Images are squashed to 160 x 160; augmented for other frames, dark corners, hairs and light; BCE + Dice.
Fifteen minutes on two CPU cores with bfloat16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lesionnets.data.isic import find_samples, load_pairs
from lesionnets.data.pairs import Pairs
from lesionnets.evaluation.validation import Validation, calibrate
from lesionnets.losses.overlap import bce_dice_loss
from lesionnets.nets.unet import UNet
from lesionnets.training import RecipeOptions, Run, fit

SIZE = 160
"""Side of the network's input, pixels."""

MINUTES = 15.0


def loss_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """BCE + Dice of a batch of uint8 images and masks."""
    images, masks = batch
    return bce_dice_loss(model(images.float() / 255), masks.float() / 255)


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the best checkpoint.

    Raises:
        UsageError: Where the data folder or its parts are missing.
    """
    data = options.data_folder()
    training = find_samples(data / "train" / "images", data / "train" / "masks")
    held_out = find_samples(data / "val" / "images", data / "val" / "masks")
    size, batch_size = SIZE, 16
    hyper: dict[str, Any] = {"size": size}
    if options.smoke:
        training, held_out = training[:8], held_out[:4]
        size, batch_size = 64, 4
        hyper = {"size": size, "width": 0.25}
    torch.manual_seed(options.seed)
    model = UNet(**hyper)
    images, masks = load_pairs(training, size * 4 // 3)
    validation = Validation(held_out, size)
    outcome = fit(
        model,
        loss_step,
        Pairs(images, masks, size, batch_size),
        validation,
        run=Run("segment_unet", "unet.UNet", hyper, options.out, best_by="jaccard"),
        optimiser=torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2),
        epochs=2 if options.smoke else None,
        minutes=None if options.smoke else options.minutes or MINUTES,
        seed=options.seed,
        resume=options.resume,
        ema_decay=0.995,
    )
    calibrate(outcome.best, validation)
    return outcome.best
