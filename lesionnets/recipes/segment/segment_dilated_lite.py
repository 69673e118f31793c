"""Bisla's dilated U-Net (S3) on an EfficientNet-Lite0 with ImageNet's weights; ISIC 2017 (CC0).

Everything is as in ``segment_dilated``, the paper's recipe (binary cross-entropy, Adam), except the encoder: its
first blocks are frozen, and the rest learns a tenth as fast as what starts from scratch.
"""

from __future__ import annotations

from pathlib import Path

import torch

from lesionnets.nets.efficient_lite import EfficientLite, load_imagenet
from lesionnets.nets.segment.dilated_unet_lite import DilatedUNetLite
from lesionnets.recipes.segment.segment_dilated import RATE, WIDTH, loss_step
from lesionnets.segmenter_training import SegmenterRecipe, train_segmenter
from lesionnets.training import RecipeOptions

FROZEN = 3
"""First blocks of the encoder that are frozen: edges and colours are the same everywhere, and cost most."""


def optimiser(model: DilatedUNetLite) -> torch.optim.Optimizer:
    """Adam with two rates, for what is not frozen."""
    encoder = model.encoder.freeze(FROZEN)
    own = [value for name, value in model.named_parameters() if not name.startswith("encoder.")]
    return torch.optim.Adam([{"params": encoder, "lr": RATE / 10}, {"params": own, "lr": RATE}])


def load_imagenet_encoder(model: DilatedUNetLite) -> None:
    """Load ImageNet's weights into the encoder, which lacks the deepest layers."""
    whole = EfficientLite(0)
    load_imagenet(whole, 0)
    model.load_encoder(whole)


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the best checkpoint.

    Raises:
        UsageError: If the data folder, its parts or the weights are missing, or images and masks do not fit.
    """
    recipe = SegmenterRecipe(
        name="segment_dilated_lite",
        network=DilatedUNetLite,
        hyper={"width": options.width_or(WIDTH)},
        optimiser=optimiser,
    )
    return train_segmenter(options, recipe, loss_step, prepare=load_imagenet_encoder)
