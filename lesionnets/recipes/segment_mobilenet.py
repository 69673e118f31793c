"""Lesion segmentation by a U-Net on MobileNetV2, which ImageNet taught to see; ISIC 2017 (CC0).

Images are squashed to 192 x 192; augmented for other frames, dark corners, hairs and light; BCE + Dice. The
encoder's first blocks stay as ImageNet made them, its rest learns a tenth as fast as the decoder, which begins
from nothing. Last, one temperature is fitted on the validation masks. Forty minutes on two CPU cores with
bfloat16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lesionnets.data.isic import find_samples, load_pairs
from lesionnets.data.pairs import Pairs
from lesionnets.data.tflite import imagenet_weights, load_mobilenet
from lesionnets.evaluation.validation import Validation, calibrate
from lesionnets.losses.overlap import bce_dice_loss
from lesionnets.nets.mobilenet import MobileNetV2
from lesionnets.nets.unet_mobilenet import UNetMobileNet
from lesionnets.training import RecipeOptions, Run, fit

SIZE = 192
"""Side of the network's input, pixels."""

MINUTES = 40.0
FROZEN = 4
"""First layers of the encoder that are not trained: edges and colours are the same everywhere, and cost most."""

RATE = 3e-3
"""Of the decoder, at its peak."""


def loss_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """BCE + Dice of a batch of uint8 images and masks."""
    images, masks = batch
    return bce_dice_loss(model(images.float() / 255), masks.float() / 255)


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the best checkpoint.

    ImageNet weights are looked for in ``DATA/../weights``.

    Raises:
        UsageError: Where the data folder, its parts or the weights are missing.
    """
    data = options.data_folder()
    training = find_samples(data / "train" / "images", data / "train" / "masks")
    held_out = find_samples(data / "val" / "images", data / "val" / "masks")
    size, batch_size, hyper = SIZE, 16, dict[str, Any](size=SIZE)
    if options.smoke:
        training, held_out = training[:8], held_out[:4]
        size, batch_size, hyper = 64, 4, {"size": 64, "width": 0.25}
    torch.manual_seed(options.seed)
    model = UNetMobileNet(**hyper)
    if not options.smoke:
        backbone = MobileNetV2()
        load_mobilenet(backbone, imagenet_weights(data))
        model.load_encoder(backbone)
    model.encoder[:FROZEN].requires_grad_(requires_grad=False)
    images, masks = load_pairs(training, size * 4 // 3)
    validation = Validation(held_out, size)
    outcome = fit(
        model,
        loss_step,
        Pairs(images, masks, size, batch_size),
        validation,
        run=Run("segment_mobilenet", "unet_mobilenet.UNetMobileNet", hyper, options.out, best_by="jaccard"),
        optimiser=torch.optim.AdamW(
            [
                {"params": model.encoder[FROZEN:].parameters(), "lr": RATE / 10},
                {"params": [*model.decoder.parameters(), *model.head.parameters()], "lr": RATE},
            ],
            weight_decay=1e-2,
        ),
        epochs=2 if options.smoke else None,
        minutes=None if options.smoke else options.minutes or MINUTES,
        seed=options.seed,
        resume=options.resume,
        ema_decay=0.995,
    )
    calibrate(outcome.best, validation)
    return outcome.best
