"""x2 super-resolution of lesion regions, at half resolution: for those that are enlarged at most twice.

Trained as :mod:`enhance_espcn` is, on pairs of patches of which the small ones are reduced by two. It serves
beside a model that enlarges four times, whose configuration names it (:data:`dermbatch.models.contracts.DOUBLER`).
It learns in float32 first, which takes half of the time a step, and to be computed in bytes at the end.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from lesionnets.data.degradations import Degradation
from lesionnets.nets.byte_conv import learn_bytes
from lesionnets.nets.enhance.doubler import DOUBLE, Doubler
from lesionnets.nets.sizes import scaled
from lesionnets.recipes.enhance.enhance_espcn import MINUTES, drawn, fit_on
from lesionnets.training import RecipeOptions, TrainingRun

NAME = "enhance_double"
CHANNELS, BLOCKS = 48, 2
PATCH = 24  # pixels of the small pictures: many short steps go further than few long ones
RATE, BYTES_RATE = 1e-3, 5e-4
"""Peak learning rates: in float32, and in bytes."""
IN_FLOAT = 0.75
"""Share of the budget."""
VALIDATE_EVERY = 100
"""Epochs, and at the end: a validation takes as long as four."""
SHARES = {Degradation.PLAIN: 0.2, Degradation.AREA: 0.1, Degradation.CLINICAL: 0.55, Degradation.PAPER: 0.15}
"""How patches are degraded. Faint noise is what takes longest to learn."""


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the best checkpoint.

    From weights that are given, it learns bytes from the beginning.

    Raises:
        UsageError: If the data folder or its parts are missing.
    """
    smoke, width = options.smoke, options.width_or(1.0, smoke=0.25)
    hyper = {"channels": scaled(CHANNELS, width), "blocks": 1 if smoke else BLOCKS}
    torch.manual_seed(options.seed)
    model = Doubler(**hyper)
    patches = drawn(options, patch=PATCH, scale=DOUBLE, shares=SHARES)

    def learned(part: RecipeOptions, rate: float) -> Path:
        run = TrainingRun(NAME, "doubler.Doubler", hyper, part.out, best_by="score")
        return fit_on(patches, model, run, part, rate=rate, scale=DOUBLE, validate_every=VALIDATE_EVERY)

    if options.init is None:
        first, options = _parted(options)
        options = replace(options, init=learned(first, RATE))
    learn_bytes(model)
    return learned(options, BYTES_RATE)


def _parted(options: RecipeOptions) -> tuple[RecipeOptions, RecipeOptions]:
    """The part in float32, in a folder of its own, and the part in bytes."""
    minutes = options.minutes or (None if options.epochs else MINUTES)
    first, second = (
        replace(
            options,
            minutes=minutes and share * minutes,
            epochs=options.epochs and max(1, round(share * options.epochs)),
        )
        for share in (IN_FLOAT, 1 - IN_FLOAT)
    )
    return replace(first, out=options.out / "float"), second
