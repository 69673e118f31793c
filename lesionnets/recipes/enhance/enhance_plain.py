"""x4 super-resolution at a seventh of :mod:`enhance_espcn`'s former cost: few channels, trained wider.

Trained on the same pairs of patches, by the same loss and choice as there.
"""

from __future__ import annotations

from pathlib import Path

import torch

from lesionnets.nets.enhance.plain import PlainEnhancer
from lesionnets.nets.sizes import scaled
from lesionnets.recipes.enhance.enhance_espcn import train_on_pool
from lesionnets.training import RecipeOptions, TrainingRun

NAME = "enhance_plain"
CHANNELS, BLOCKS = 16, 4
RATE = 2e-3


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the best checkpoint.

    Raises:
        UsageError: If the data folder or its parts are missing.
    """
    smoke = options.smoke
    hyper = {
        "channels": scaled(CHANNELS, options.width_or(1.0, smoke=0.25)),
        "blocks": 1 if smoke else BLOCKS,
    }
    torch.manual_seed(options.seed)
    run = TrainingRun(NAME, "plain.PlainEnhancer", hyper, options.out, best_by="score")
    return train_on_pool(PlainEnhancer(**hyper), run, options, rate=RATE)
