"""Lesion segmentation by a small plain U-Net, trained from scratch on ISIC 2017 (CC0).

Images are squashed to 160 x 160; augmented for other frames, dark corners, hairs and light; BCE + Dice.
Fifteen minutes on two CPU cores with bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lesionnets.data.augment import augment_pair
from lesionnets.data.isic import Sample, find_samples, load_pairs, read_mask
from lesionnets.evaluation.intervals import bootstrap_mean
from lesionnets.evaluation.overlap import dice, jaccard
from lesionnets.losses.overlap import bce_dice_loss
from lesionnets.model_card import flat
from lesionnets.nets.unet import UNet
from lesionnets.training import RecipeOptions, Run, fit, shuffled

SIZE = 160
"""Side of the network's input, pixels."""

MINUTES = 15.0


class Pairs:
    """Augmented batches: images uint8 [B, 3, SIZE, SIZE] and masks uint8 [B, 1, SIZE, SIZE]."""

    def __init__(
        self, images: npt.NDArray[np.uint8], masks: npt.NDArray[np.uint8], size: int, batch_size: int
    ) -> None:
        self.images, self.masks = images, masks
        self.size, self.batch_size = size, batch_size

    def __len__(self) -> int:
        return max(len(self.images) // self.batch_size, 1)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in shuffled(len(self.images), self.batch_size):
            random = np.random.default_rng(int(torch.randint(2**62, ())))
            pairs = [augment_pair(self.images[i], self.masks[i], self.size, random) for i in indices]
            images = np.stack([image for image, _ in pairs])
            masks = np.stack([mask for _, mask in pairs])
            yield torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)[:, None]


class Validation:
    """Mean Jaccard and Dice at the masks' own resolution, thresholded at one half."""

    def __init__(self, samples: list[Sample], size: int) -> None:
        self.images, _ = load_pairs(samples, size)
        self.truths = [read_mask(sample.mask) > 0 for sample in samples if sample.mask]

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Means over the images, with their intervals' ends as ``_low`` and ``_high``."""
        where = next(model.parameters()).device
        scores = []
        for start in range(0, len(self.images), 16):
            images = torch.from_numpy(self.images[start : start + 16]).permute(0, 3, 1, 2).to(where)
            probabilities = model(images.float() / 255).float().sigmoid()[:, 0].cpu().numpy()
            for probability, truth in zip(probabilities, self.truths[start : start + 16], strict=True):
                height, width = truth.shape
                mask = cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR) >= 0.5
                scores.append((jaccard(mask, truth), dice(mask, truth)))
        jaccards, dices = zip(*scores, strict=True)
        return flat({"jaccard": bootstrap_mean(jaccards), "dice": bootstrap_mean(dices)})


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
    outcome = fit(
        model,
        loss_step,
        Pairs(images, masks, size, batch_size),
        Validation(held_out, size),
        run=Run("segment_unet", "unet.UNet", hyper, options.out, best_by="jaccard"),
        optimiser=torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2),
        epochs=2 if options.smoke else None,
        minutes=None if options.smoke else options.minutes or MINUTES,
        seed=options.seed,
        resume=options.resume,
        ema_decay=0.995,
    )
    return outcome.best
