"""Diagnosis of lesions by a MobileNetV2 with ImageNet weights, guided by the lesion's mask; ISIC 2017 (CC0).

The mask says where to look (a square around the lesion) and what to weight (features pooled over the lesion, next
to those of the whole square). Masks are those of the recipe ``segment_mobilenet``, whose run is next to this one,
cleaned as a worker does it; in training there are the experts' masks, too. The first blocks are frozen, and the
rest is tuned with class-balanced cross-entropy. At the end, a temperature is fitted on the validation images (Guo
et al., ICML 2017).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dermbatch.errors import UsageError
from dermbatch.images.lesion import lesion_mask
from lesionnets.data.batches.lesion_views import RandomViews, Views, load_lesions
from lesionnets.data.sources.isic import DIAGNOSES, labelled
from lesionnets.evaluation.choosing.diagnosis import DiagnosisValidation, calibrate
from lesionnets.losses.balanced import balanced_cross_entropy, class_weights
from lesionnets.nets.classify.mobilenet import LesionClassifier
from lesionnets.nets.tflite import imagenet_weights, load_mobilenet
from lesionnets.segmenter_training import lesion_finder
from lesionnets.training import RecipeOptions, TrainingRun, fit

MINUTES = 20.0
SEGMENTER = "segment_mobilenet"
"""The recipe of the network that finds the lesions."""
FROZEN = 4
"""First layers of the backbone that are frozen: edges and colours are the same everywhere."""

PATIENCE = 15

Image = npt.NDArray[np.uint8]


def train(options: RecipeOptions) -> Path:
    """Train on the ``train`` split of ``DATA/labels.csv``, choose on ``val``; returns the best checkpoint.

    ImageNet weights are looked for in ``DATA/../weights``, the segmentation network beside ``options.out``.

    Raises:
        UsageError: If data, weights or the segmentation network are missing, or another width is asked for.
    """
    if options.width not in (None, 1.0):
        raise UsageError("classify_mobilenet has one width: its ImageNet weights fit no other; leave --width out")
    data = options.data_folder()
    training, held_out = (labelled(data, split) for split in ("train", "val"))
    size, batch_size = 224, 32
    if options.smoke:
        training, held_out, size, batch_size = training[:8], held_out[-4:], 64, 4
    segment = segmenter(options.out.parent / SEGMENTER / "best.pt")
    torch.manual_seed(options.seed)
    hyper = {"classes": len(DIAGNOSES), "size": size}
    model = LesionClassifier(**hyper)
    if not options.smoke:
        load_mobilenet(model.backbone, imagenet_weights(data))
    model.backbone.layers[:FROZEN].requires_grad_(requires_grad=False)
    lesions = load_lesions(training, segment)
    validation = DiagnosisValidation(load_lesions(held_out, segment), size)
    weights = class_weights([lesion.label for lesion in lesions], len(DIAGNOSES))

    def loss_step(model: nn.Module, batch: Views) -> Tensor:
        images, masks, labels = batch
        logits, _, _ = model(images.float() / 255, masks.float() / 255)
        return balanced_cross_entropy(logits, labels, weights.to(logits.device), smoothing=0.1)

    trained = fit(
        model,
        loss_step,
        RandomViews(lesions, size, batch_size),
        validation,
        run=TrainingRun(
            "classify_mobilenet", "mobilenet.LesionClassifier", hyper, options.out, best_by="mean_auc"
        ),
        optimiser=torch.optim.AdamW(
            [
                {"params": [p for p in model.backbone.parameters() if p.requires_grad], "lr": 2e-4},
                {"params": model.head.parameters(), "lr": 2e-3},
            ],
            weight_decay=0.05,
        ),
        **options.limits(MINUTES, PATIENCE, smoke=2),
        ema_decay=0.995,
    )
    calibrate(trained.best, validation)
    return trained.best


def segmenter(path: Path) -> Callable[[Image], Image]:
    """The function from an image to the mask uint8 [H, W] that a worker makes with a segmentation checkpoint.

    Raises:
        UsageError: If the checkpoint is missing or of another recipe.
    """
    if not path.is_file():
        raise UsageError(f"this recipe needs the segmentation network: train {SEGMENTER} into {path.parent} first")
    find = lesion_finder(path, SEGMENTER)
    return lambda image: lesion_mask(find(image), (image.shape[0], image.shape[1])).mask
