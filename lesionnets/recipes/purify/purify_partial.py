"""Purification by partial convolutions: Bisla et al. 2019, section 3.3; Liu et al., ECCV 2018; ISIC 2017 (CC0).

Pairs are made as in the paper: the classical finder, corrected by the lesion mask, removes hairs and rulers from
the training images, and then hairs, rulers and ink are drawn over them. For the paper's "random masking" each
picture also gets the holes of another picture of its batch. The painter learns from Liu et al.'s five terms, with
features of MobileNetV2 instead of VGG-16's; the finder of holes learns from the same pairs at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lesionnets.data.batches.occluded import OccludedPairs, Planes, load_backgrounds, phantom_backgrounds
from lesionnets.data.sources.isic import find_samples
from lesionnets.evaluation.purify import least_covered
from lesionnets.losses.inpainting import inpainting_terms
from lesionnets.losses.perceptual import PerceptualFeatures, imagenet_features
from lesionnets.nets.classify.mobilenet import MobileNetV2
from lesionnets.nets.purify.partial_purifier import PartialPurifier, grown
from lesionnets.nets.tflite import imagenet_weights
from lesionnets.recipes.purify.purify_unet import HairValidation, map_loss
from lesionnets.training import RecipeOptions, TrainingRun, device, fit

NAME = "purify_partial"
MINUTES = 25.0
PATIENCE = 8
WIDTH = 0.25
"""Width of the painter on a CPU; 1.0 is the paper's."""
RATE = 2e-3
"""Peak rate. Bisla et al. use Adam, then SGD for a week on GPUs; one cycle of AdamW suits half an hour."""

FEATURE_SCALE = 0.1
"""Liu et al.'s weights are for VGG's features. Those of MobileNetV2 are larger: unscaled, the style of a picture
that is filled plainly costs 8.0 and its holes 0.02; scaled, 0.08."""


def loss_with(features: nn.Module) -> Callable[[nn.Module, Planes], Tensor]:
    """The loss of a batch, which also compares pictures by the given features."""

    def scaled(picture: Tensor) -> list[Tensor]:
        return [values.float() * FEATURE_SCALE for values in features(picture)]

    def loss_step(model: nn.Module, batch: Planes) -> Tensor:
        assert isinstance(model, PartialPurifier)  # noqa: S101 - for the type checker
        covered, clean, mask, unknown = batch
        hole = grown((mask > 0).float())
        # Holes of another picture: there the truth is known whatever it shows.
        valid = 1 - torch.maximum(hole, hole.roll(1, dims=0))
        painted = model.painter(covered, valid).float()
        terms = inpainting_terms(painted, clean, valid, scaled)
        return map_loss(model.maps(covered), mask, unknown) + terms.total()

    return loss_step


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the best checkpoint.

    ImageNet weights are looked for in ``DATA/../weights``; ``--smoke`` does without.

    Raises:
        UsageError: If the data folder, its parts or the weights are missing.
    """
    data, smoke = options.data_folder(), options.smoke
    training = find_samples(data / "train" / "images", data / "train" / "masks")
    held_out = find_samples(data / "val" / "images", data / "val" / "masks")
    # Every third image: a picture and its cleaned twin are both kept, and half an hour does not see more.
    training, held_out = (training[:4], held_out[:2]) if smoke else (training[::3], held_out)
    features = (PerceptualFeatures(MobileNetV2()) if smoke else imagenet_features(imagenet_weights(data))).to(
        device()
    )
    backgrounds = load_backgrounds(training, cleaned=True) + phantom_backgrounds(1 if smoke else 50, seed=100_000)
    width = options.width_or(WIDTH, smoke=0.0625)
    hyper: dict[str, Any] = {"width": width, "widths": [8, 8] if smoke else [24, 32, 48, 64]}
    if smoke:
        hyper["levels"] = 3
    torch.manual_seed(options.seed)
    model = PartialPurifier(**hyper)
    trained = fit(
        model,
        loss_with(features),
        OccludedPairs(
            backgrounds, crop=64 if smoke else 192, batch_size=4 if smoke else 8, steps=2 if smoke else 100
        ),
        HairValidation([image for _, image in least_covered(held_out, 24)], phantoms=1 if smoke else 16),
        run=TrainingRun(NAME, "partial_purifier.PartialPurifier", hyper, options.out, best_by="score"),
        optimiser=torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-3),
        **options.limits(MINUTES, PATIENCE),
        validate_every=4,
        ema_decay=0.99,
    )
    return trained.best
