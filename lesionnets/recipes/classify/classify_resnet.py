"""Diagnosis of lesions by a ResNet-50 on whole pictures (Bisla et al. 2019, section 3.8).

On ISIC 2017 (CC0) three diagnoses; on a folder of HAM10000's layout its seven, split by lesion. HAM10000 is CC
BY-NC: weights trained on it do not ship, and have a name of their own, ``classify_resnet_ham10000``.

The paper starts from ImageNet weights, which we did not find for this network, and balances classes with generated
pictures. Ours learns from scratch, and class-balanced cross-entropy does the balancing. Pictures are turned,
mirrored, zoomed and seen in other light. The paper's purified copies of the training pictures are not among them.
At the end, a temperature is fitted on the validation images (Guo et al., ICML 2017).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lesionnets import checkpoint
from lesionnets.data.batches.lesion_views import RandomViews, Views, load_pictures
from lesionnets.data.sources import ham10000, isic
from lesionnets.data.sources.isic import Sample
from lesionnets.evaluation.choosing.diagnosis import DiagnosisValidation, calibrate
from lesionnets.losses.balanced import balanced_cross_entropy, class_weights
from lesionnets.nets.classify.resnet import ResNet50
from lesionnets.training import RecipeOptions, TrainingRun, fit

NAME = "classify_resnet"
SIZE = 160
"""Side of the network's input in pixels; the paper's is 224."""

BATCH = 32
RATE = 1e-3
MINUTES = 15.0
WIDTH = 0.25
"""Multiplies the channels on a CPU; 1.0 is the paper's width."""
PATIENCE = 15


def find_data(data: Path) -> tuple[str, tuple[str, ...], list[Sample], list[Sample]]:
    """The model's name, its diagnoses, and the images to train and to choose on, by the folder's layout.

    Raises:
        UsageError: If files are missing or hold an unknown diagnosis.
    """
    if ham10000.is_ham10000(data):
        return f"{NAME}_ham10000", ham10000.DIAGNOSES, *ham10000.split_by_lesion(data)
    return NAME, isic.DIAGNOSES, isic.labelled(data, "train"), isic.labelled(data, "val")


def train(options: RecipeOptions) -> Path:
    """Train on one part of ``DATA``, choose on the other by mean AUC; returns the best checkpoint.

    Raises:
        UsageError: If the data folder or its parts are missing or hold an unknown diagnosis.
    """
    name, diagnoses, training, held_out = find_data(options.data_folder())
    size, batch_size = SIZE, BATCH
    if options.smoke:
        training, held_out, size, batch_size = training[:8], held_out[-4:], 64, 4
    torch.manual_seed(options.seed)
    hyper: dict[str, Any] = {"width": options.width_or(WIDTH), "diagnoses": diagnoses, "size": size}
    model = ResNet50(**hyper)
    # Views are cut at twice the network's size.
    pictures = load_pictures(training, diagnoses, 2 * size)
    validation = DiagnosisValidation(load_pictures(held_out, diagnoses, 2 * size), size, diagnoses)
    weights = class_weights([picture.label for picture in pictures], len(diagnoses))

    def loss_step(model: nn.Module, batch: Views) -> Tensor:
        images, _, labels = batch
        logits, _, _ = model(images.float() / 255)
        return balanced_cross_entropy(logits, labels, weights.to(logits.device), smoothing=0.1)

    trained = fit(
        model,
        loss_step,
        RandomViews(pictures, size, batch_size),
        validation,
        run=TrainingRun(name, checkpoint.name_of(ResNet50), hyper, options.out, best_by="mean_auc"),
        optimiser=torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05),
        **options.limits(MINUTES, PATIENCE, smoke=2),
        ema_decay=0.995,
    )
    calibrate(trained.best, validation)
    return trained.best
