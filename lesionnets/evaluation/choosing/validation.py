"""The figure by which a segmenter's checkpoint is chosen, and the temperature that calibrates it afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from dermbatch.images.lesion import dice
from lesionnets import checkpoint
from lesionnets.data.sources.isic import Sample, load_pairs, read_mask
from lesionnets.evaluation.figures.intervals import bootstrap_mean, flat
from lesionnets.evaluation.figures.overlap import jaccard
from lesionnets.nets.segment.segmenter import Segmenter
from lesionnets.training import autocast

TEMPERATURES = torch.logspace(-0.7, 0.7, 57)
"""Temperatures that are tried: from a fifth to five, in steps of six per cent."""


class MaskValidation:
    """Mean Jaccard and Dice at the masks' own resolution, thresholded at one half.

    Args:
        samples: Images with masks.
        size: Side in pixels of the square to which pictures are squashed.
    """

    def __init__(self, samples: Sequence[Sample], size: int) -> None:
        self.images, self.masks = load_pairs(samples, size)
        self.truths = [read_mask(sample.mask) > 0 for sample in samples if sample.mask]

    def logits(self, model: nn.Module) -> Tensor:
        """Float [N, 1, size, size] of all images."""
        assert isinstance(model, Segmenter)  # noqa: S101 - for the type checker: nothing else segments
        where = next(model.parameters()).device
        images = torch.from_numpy(self.images).permute(0, 3, 1, 2)
        parts = torch.split(images, 16)
        return torch.cat([model.logits(part.to(where).float() / 255).float().cpu() for part in parts])

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Means over the images, with their intervals' ends as ``_low`` and ``_high``."""
        maps: npt.NDArray[np.float32] = self.logits(model).sigmoid()[:, 0].numpy()
        scores = []
        for probability, truth in zip(maps, self.truths, strict=True):
            height, width = truth.shape
            mask = cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR) >= 0.5
            scores.append((jaccard(mask, truth), dice(mask, truth)))
        jaccards, dices = zip(*scores, strict=True)
        return flat({"jaccard": bootstrap_mean(jaccards), "dice": bootstrap_mean(dices)})


def calibrate(path: Path, validation: MaskValidation) -> None:
    """Fit the temperature that makes the validation masks most likely, pixel by pixel, and write it.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2. Masks do not change, because
    one half stays one half.

    Args:
        path: Checkpoint of a :class:`lesionnets.nets.segment.segmenter.Segmenter`; overwritten.
        validation: The images to fit it on.
    """
    trained = checkpoint.load(path)
    with torch.inference_mode(), autocast(torch.device("cpu")):
        logits = validation.logits(trained.build())
    truth = torch.from_numpy(validation.masks)[:, None].float() / 255
    losses = torch.stack([functional.binary_cross_entropy_with_logits(logits / t, truth) for t in TEMPERATURES])
    best = int(losses.argmin())
    figures = trained.figures | {"entropy": float(losses[best])}
    checkpoint.save_calibrated(path, trained, TEMPERATURES[best], figures)
