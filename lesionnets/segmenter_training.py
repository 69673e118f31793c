"""What the recipes of segmentation networks share: pairs, validation, calibration. Each adds network and loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lesionnets import checkpoint
from lesionnets.data.batches.pairs import Pairs
from lesionnets.data.sources.isic import Image, find_samples, load_pairs
from lesionnets.evaluation.choosing.validation import MaskValidation, calibrate
from lesionnets.graphs.segment import SegmentGraph
from lesionnets.losses.overlap import bce_dice_loss
from lesionnets.nets.segment.segmenter import Segmenter
from lesionnets.training import RecipeOptions, TrainingRun, fit

MARGIN = 4 / 3
"""Side of pictures in memory as a multiple of the network's input, so that zooming in stays sharp."""

SMOKE_SIZE = 64


@dataclass(frozen=True)
class SegmenterRecipe:
    """A recipe of a segmenter: its choices.

    Attributes:
        name: Its name.
        network: Built from ``hyper`` and ``size``.
        optimiser: Makes the network's optimiser; its learning rates are the peaks.
        hyper: The network's keyword arguments, except ``size``.
        size: Side of the network's input in pixels.
        batch_size: Images in a step.
        minutes: Minutes of training, if the caller names none.
        patience: Number of validations without a better Jaccard after which training ends; each epoch is
            validated.
    """

    name: str
    network: type[Segmenter]
    optimiser: Callable[[Any], torch.optim.Optimizer]
    hyper: dict[str, Any]
    size: int = 160
    batch_size: int = 16
    minutes: float = 15.0
    patience: int = 12


def lesion_finder(path: Path, recipe: str) -> Callable[[Image], Image]:
    """A function from an image uint8 [H, W, 3] to its lesion probability x 255, uint8 [H, W], from a checkpoint.

    Raises:
        UsageError: If the checkpoint is missing or of another recipe.
    """
    network = checkpoint.load(path, recipe=recipe).build()
    assert isinstance(network, Segmenter)  # noqa: S101 - such a recipe makes no other
    graph = SegmentGraph(network)

    def segment(image: Image) -> Image:
        with torch.inference_mode():
            found = graph(torch.from_numpy(image)[None])
            return np.asarray((found[0] if isinstance(found, tuple) else found)[0].numpy())

    return segment


def overlap_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """BCE + Dice of a batch of uint8 images and masks."""
    images, masks = batch
    return bce_dice_loss(model(images.float() / 255), masks.float() / 255)


def train_segmenter(
    options: RecipeOptions,
    recipe: SegmenterRecipe,
    loss_step: Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor],
    *,
    prepare: Callable[[Any], None] | None = None,
) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val`` by mean Jaccard, and fit the temperature there.

    Images are squashed to the network's size and augmented for other frames, dark corners, hairs and light.

    Args:
        options: Options of the command.
        recipe: What is trained, and how.
        loss_step: Loss of a batch of uint8 images [B, 3, size, size] and masks [B, 1, size, size], 0 to 255.
        prepare: Called with the network before training, to load weights into it; not in a smoke test.

    Returns:
        The best checkpoint.

    Raises:
        UsageError: If the data folder or its parts are missing or an image and its mask do not fit.
    """
    data = options.data_folder()
    training = find_samples(data / "train" / "images", data / "train" / "masks")
    held_out = find_samples(data / "val" / "images", data / "val" / "masks")
    size, batch_size = recipe.size, recipe.batch_size
    if options.smoke:
        training, held_out, size, batch_size = training[:8], held_out[:4], SMOKE_SIZE, 4
    torch.manual_seed(options.seed)
    hyper = {**recipe.hyper, "size": size}
    model = recipe.network(**hyper)
    if prepare is not None and not options.smoke:
        prepare(model)
    images, masks = load_pairs(training, round(size * MARGIN))
    validation = MaskValidation(held_out, size)
    trained = fit(
        model,
        loss_step,
        Pairs(images, masks, size, batch_size),
        validation,
        run=TrainingRun(recipe.name, checkpoint.name_of(recipe.network), hyper, options.out, best_by="jaccard"),
        optimiser=recipe.optimiser(model),
        **options.limits(recipe.minutes, recipe.patience, smoke=2),
        ema_decay=0.995,
    )
    calibrate(trained.best, validation)
    return trained.best
