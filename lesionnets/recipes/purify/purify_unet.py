"""Purification: a small U-Net learns to find and paint over what was laid over images (ISIC 2017, CC0).

Hair of many kinds, rulers and ink are drawn, and real hair is lifted from the hairiest training images. These
layers are laid over images and phantoms with hardly any hair. For hair that those images have themselves the truth
is not known: the classical finder, corrected by the lesion mask, takes it out of the loss, so that dark structures
of a lesion remain examples of what to keep (after Bisla et al. 2019, section 3.3).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image as PillowImage
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dermbatch.images.fitting import DIFFERENCE
from lesionnets.data.batches.laid_over import LaidOver, lift, make_bank
from lesionnets.data.batches.occluded import Planes, load_backgrounds, phantom_backgrounds
from lesionnets.data.sources.isic import Image, Sample, find_samples
from lesionnets.evaluation.purify import (
    hair_cases,
    least_covered,
    lifted_cases,
    measure,
    most_covered,
    phantom_cases,
)
from lesionnets.graphs.purify import ENLARGED, LONG_SIDE, THRESHOLD
from lesionnets.nets.purify.folded import FoldedUNet
from lesionnets.nets.purify.purifier import Purifier
from lesionnets.nets.sizes import scaled
from lesionnets.training import RecipeOptions, TrainingRun, device, fit

NAME = "purify_unet"
MINUTES = 40.0
PATIENCE = 40
WIDTHS = (16, 32, 64, 96)
"""Channels of the levels at width 1.0, which two CPU cores can train."""
RATE, FINE_RATE = 3e-3, 2e-3
"""Peak learning rates, from scratch and from given weights, which are usually those of a wider network."""
OUTSIDE_WEIGHT = 0.3
"""Weight of one level of change outside hair, relative to the share of error left inside, when choosing."""
HOLE_WEIGHT = 6.0
"""Weight of the error in the holes relative to that elsewhere, as in Liu et al. 2018."""


def map_loss(logits: Tensor, mask: Tensor, unknown: Tensor) -> Tensor:
    """Cross-entropy and Dice of the occlusion map where the truth is known; float [N, 1, H, W] -> scalar."""
    logits, known = logits.float(), 1 - unknown
    entropy = (F.binary_cross_entropy_with_logits(logits, mask, reduction="none") * known).mean()
    found = logits.sigmoid() * known
    dice = 1 - (2 * (found * mask).sum() + 1) / (found.sum() + mask.sum() + 1)
    return 3 * entropy + 0.5 * dice


def loss_step(model: nn.Module, batch: Planes) -> Tensor:
    """Loss of the map, plus mean absolute error of the picture inside and outside the holes."""
    covered, clean, mask, unknown = batch
    logits, picture = model(covered)
    error = (picture.float() - clean).abs().mean(dim=1, keepdim=True)
    # What is painted shows a pixel or two beyond the hole, so the hole is taken wider.
    hole = F.max_pool2d((mask > 0).float(), 5, stride=1, padding=2)
    valid = (1 - hole) * (1 - unknown)
    in_hole = (error * hole).sum() / (hole.sum() + 1)
    elsewhere = (error * valid).sum() / (valid.sum() + 1)
    loss: Tensor = map_loss(logits, mask, unknown) + HOLE_WEIGHT * in_hole + elsewhere
    return loss


def purify(model: nn.Module, image: Image) -> Image:
    """Run the network as :mod:`lesionnets.graphs.purify` serves it; uint8 [H, W, 3] -> the same."""
    height, width = image.shape[:2]
    stride = model.stride if isinstance(model, FoldedUNet) else 16
    factor = min(ENLARGED, LONG_SIDE / max(height, width))
    columns, rows = (stride * max(round(side * factor / stride), 1) for side in (width, height))
    small = np.array(PillowImage.fromarray(image).resize((columns, rows), PillowImage.Resampling.BILINEAR))
    where = next(model.parameters()).device
    batch = torch.from_numpy(small).permute(2, 0, 1)[None].float().to(where) / 255
    with torch.inference_mode():
        logits, picture = model(batch)
    probability = cv2.resize(logits.float().sigmoid()[0, 0].cpu().numpy(), (width, height))
    values = (picture.float().clamp(0, 1) * 255).round().to(torch.uint8)[0].permute(1, 2, 0)
    fill = cv2.resize(values.cpu().numpy(), (width, height))
    differs = np.abs(image[..., 1].astype(np.int16) - fill[..., 1]) >= DIFFERENCE
    return np.where(((probability >= THRESHOLD) & differs)[..., None], fill, image).astype(np.uint8)


class HairValidation:
    """Error inside hair and change outside: of hair drawn on the barest images and on phantoms, and of real hair.

    Args:
        images: Images with least hair of their own.
        hairy: Pictures whose hair is lifted and laid over those, at two sizes.
        phantoms: Number of phantoms.
    """

    def __init__(self, images: Sequence[Image], hairy: Sequence[Sample] = (), *, phantoms: int) -> None:
        cases = {
            "isic": hair_cases(images),
            "phantom": phantom_cases(phantoms),
            "lifted": lifted_cases(hairy, images, side=512),
            "lifted_256": lifted_cases(hairy, images, side=256),
        }
        self._cases = {name: found for name, found in cases.items() if found}

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """The figures of a network; see :meth:`of`."""
        return self.of(lambda image: purify(model, image))

    def of(self, purifier: Callable[[Image], Image]) -> dict[str, float]:
        """The figures of any purifier, such as a served graph; ``score`` is 1 for a perfect one.

        Args:
            purifier: Function from uint8 [H, W, 3] to the same.
        """
        figures = {}
        for name, cases in self._cases.items():
            found = measure(purifier, cases)
            for figure in ("before", "after", "remaining", "outside", "outside_share"):
                value = getattr(found, figure)
                figures[f"{name}_{figure}"] = value.mean
                figures[f"{name}_{figure}_low"], figures[f"{name}_{figure}_high"] = value.low, value.high
        left = [figures[f"{name}_remaining"] + OUTSIDE_WEIGHT * figures[f"{name}_outside"] for name in self._cases]
        figures["score"] = 1 - sum(left) / len(left)
        return figures


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the best checkpoint.

    Raises:
        UsageError: If the data folder or its parts are missing.
    """
    data, smoke, where = options.data_folder(), options.smoke, device()
    training = find_samples(data / "train" / "images", data / "train" / "masks")
    held_out = find_samples(data / "val" / "images", data / "val" / "masks")
    if smoke:
        training, held_out = training[:4], held_out[:2]
    processes = 1 if smoke else os.cpu_count() or 1
    hairy = most_covered(training, 2 if smoke else max(len(training) // 18, 80))
    layers = 3 if smoke else 2500 if where.type == "cuda" else 300
    bank = make_bank(layers, lift(hairy, processes=processes), seed=options.seed, processes=processes)
    backgrounds = load_backgrounds(training, most_covered=1.0 if smoke else 0.03)
    backgrounds += phantom_backgrounds(1 if smoke else 40, seed=100_000)
    validation = HairValidation(
        [image for _, image in least_covered(held_out, 24)],
        most_covered(held_out, 1 if smoke else 16),
        phantoms=1 if smoke else 8,
    )
    width = options.width_or(1.0)
    widths = [scaled(count, width) for count in ((64, 64) if smoke else WIDTHS)]
    crop, batch_size = (32, 2) if smoke else (224, 48 if where.type == "cuda" else 8)
    torch.manual_seed(options.seed)
    model = Purifier(widths)
    trained = fit(
        model,
        loss_step,
        LaidOver(backgrounds, bank, where, crop=crop, batch_size=batch_size, steps=2 if smoke else 100),
        validation,
        run=TrainingRun(NAME, "purifier.Purifier", {"widths": widths}, options.out, best_by="score"),
        optimiser=torch.optim.AdamW(
            model.parameters(), lr=RATE if options.init is None else FINE_RATE, weight_decay=1e-3
        ),
        **options.limits(MINUTES, PATIENCE),
        validate_every=6,
        ema_decay=0.99 if where.type == "cpu" else 0.998,
    )
    return trained.best
