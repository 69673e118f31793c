"""The figure by which a classifier's checkpoint is chosen, and the temperature that calibrates it afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets import checkpoint
from lesionnets.data.batches.lesion_views import Lesion, plain_view, stack
from lesionnets.data.sources.isic import DIAGNOSES
from lesionnets.evaluation.classify import bootstrap
from lesionnets.evaluation.figures.intervals import flat
from lesionnets.evaluation.figures.ranking import auc_by_class
from lesionnets.training import autocast

TEMPERATURES = torch.logspace(-1, 1, 201)


class DiagnosisValidation:
    """AUC by class on the views that are served.

    Args:
        lesions: The validation images.
        size: Side of the network's input in pixels.
        classes: Names of the diagnoses, in order.
    """

    def __init__(self, lesions: Sequence[Lesion], size: int, classes: Sequence[str] = DIAGNOSES) -> None:
        self.images, self.masks, self.labels = stack([plain_view(lesion, size) for lesion in lesions], lesions)
        self.classes = classes

    def logits(self, model: nn.Module) -> Tensor:
        """Float [N, classes] of all validation images; the network's first output."""
        where = next(model.parameters()).device
        parts = []
        for images, masks in zip(torch.split(self.images, 32), torch.split(self.masks, 32), strict=True):
            parts.append(model(images.to(where).float() / 255, masks.to(where).float() / 255)[0].float().cpu())
        return torch.cat(parts)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """AUC of each class and their mean, accuracy, negative log-likelihood."""
        logits = self.logits(model)
        probabilities = logits.softmax(dim=1)
        accuracy = float((probabilities.argmax(dim=1) == self.labels).float().mean())
        figures = auc_by_class(probabilities.numpy(), self.labels.numpy(), self.classes)
        return figures | {"accuracy": accuracy, "nll": float(functional.cross_entropy(logits, self.labels))}


def calibrate(path: Path, validation: DiagnosisValidation) -> None:
    """Fit the temperature that makes the validation labels most likely; write it and the figures' intervals.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.

    Args:
        path: Checkpoint of a :class:`lesionnets.nets.classify.classifier.Classifier`; overwritten.
        validation: The images to fit it on.
    """
    trained = checkpoint.load(path)
    model = trained.build()
    with torch.inference_mode(), autocast(torch.device("cpu")):
        logits = validation.logits(model)
    losses = torch.stack([functional.cross_entropy(logits / t, validation.labels) for t in TEMPERATURES])
    best = int(losses.argmin())
    probabilities = (logits / TEMPERATURES[best]).softmax(dim=1).numpy()
    measured = bootstrap(probabilities, validation.labels.numpy(), classes=validation.classes)
    checkpoint.save_calibrated(path, trained, TEMPERATURES[best], flat(measured))
