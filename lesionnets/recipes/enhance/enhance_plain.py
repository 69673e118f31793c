"""x4 super-resolution at a tenth of :mod:`enhance_espcn`'s cost: a plain network of few channels, trained wider.

The same truth, ways of degrading, loss and choice as there; patches are cut from whole pictures and degraded on
the training device, and pictures are reduced by up to a half before: other dermatoscopes show more detail a pixel.
"""

from __future__ import annotations

from pathlib import Path

import torch

from lesionnets.data.batches.lesion_crops import load_lesion_crops
from lesionnets.data.batches.shot_patches import ShotPatches
from lesionnets.data.sources.isic import find_samples, read_image
from lesionnets.nets.enhance.plain import PlainEnhancer
from lesionnets.nets.sizes import scaled
from lesionnets.recipes.enhance.enhance_espcn import Validation, loss_step
from lesionnets.training import RecipeOptions, Run, device, fit

NAME = "enhance_plain"
MINUTES = 60.0
PATIENCE = 40
CHANNELS, BLOCKS = 16, 4
SIDE = 512
PATCH = 48
MOST_IMAGES = 900
"""In memory: 0.7 GB."""


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the best checkpoint.

    Raises:
        UsageError: Where the data folder or its parts are missing.
    """
    data, smoke, where = options.data_folder(), options.smoke, device()
    training = find_samples(data / "train" / "images", data / "train" / "masks")
    held_out = find_samples(data / "val" / "images", data / "val" / "masks")
    chosen = training[:4] if smoke else training[:: max(len(training) // MOST_IMAGES, 1)]
    images = [read_image(sample.image, size=SIDE) for sample in chosen]
    crops = load_lesion_crops(held_out, limit=4 if smoke else None, least=16 if smoke else 64)
    hyper = {
        "channels": scaled(CHANNELS, options.width_or(1.0, smoke=0.25)),
        "blocks": 1 if smoke else BLOCKS,
    }
    batch_size = 4 if smoke else 64 if where.type == "cuda" else 16
    torch.manual_seed(options.seed)
    model = PlainEnhancer(**hyper)
    outcome = fit(
        model,
        loss_step,
        ShotPatches(images, where, patch=16 if smoke else PATCH, batch_size=batch_size, steps=2 if smoke else 150),
        Validation(crops),
        run=Run(NAME, "plain.PlainEnhancer", hyper, options.out, best_by="score"),
        optimiser=torch.optim.Adam(model.parameters(), lr=2e-3),
        **options.limits(MINUTES, PATIENCE),
        validate_every=10,
        ema_decay=0.998,
        clip_norm=30.0,
    )
    return outcome.best
