"""Lesion segmentation by a U-Net on MobileNetV2 with ImageNet's weights; ISIC 2017 (CC0).

Images are squashed to 192 x 192 and augmented for other frames, dark corners, hairs and light; the loss is BCE +
Dice. The encoder's first blocks are frozen; the rest learns a tenth as fast as the decoder, which starts from
nothing. At the end, a temperature is fitted on the validation masks. Forty minutes on two CPU cores with bfloat16.
"""

from __future__ import annotations

from pathlib import Path

import torch

from lesionnets.nets.classify.mobilenet import MobileNetV2
from lesionnets.nets.segment.unet_mobilenet import UNetMobileNet
from lesionnets.nets.tflite import imagenet_weights, load_mobilenet
from lesionnets.segmenter_training import SegmenterRecipe, overlap_step, train_segmenter
from lesionnets.training import RecipeOptions

SIZE = 192
"""Side of the network's input in pixels."""

MINUTES = 40.0
FROZEN = 4
"""First layers of the encoder that are frozen: edges and colours are the same everywhere, and cost most."""

RATE = 3e-3
"""Peak learning rate of the decoder."""
WIDTH = 1.0
"""Width of the decoder on a CPU."""


def optimiser(model: UNetMobileNet) -> torch.optim.Optimizer:
    """AdamW with two rates."""
    return torch.optim.AdamW(
        [
            {"params": model.encoder[FROZEN:].parameters(), "lr": RATE / 10},
            {"params": [*model.decoder.parameters(), *model.head.parameters()], "lr": RATE},
        ],
        weight_decay=1e-2,
    )


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the best checkpoint.

    ImageNet weights are looked for in ``DATA/../weights``.

    Raises:
        UsageError: If the data folder, its parts or the weights are missing, or images and masks do not fit.
    """

    def load_imagenet(model: UNetMobileNet) -> None:
        backbone = MobileNetV2()
        load_mobilenet(backbone, imagenet_weights(options.data_folder()))
        model.load_encoder(backbone)
        model.encoder[:FROZEN].requires_grad_(requires_grad=False)

    recipe = SegmenterRecipe(
        name="segment_mobilenet",
        network=UNetMobileNet,
        hyper={"width": options.width_or(WIDTH, smoke=0.25)},
        size=SIZE,
        minutes=MINUTES,
        optimiser=optimiser,
    )
    return train_segmenter(options, recipe, overlap_step, prepare=load_imagenet)
