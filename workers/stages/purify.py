"""Purification: hair, rulers and ink are replaced by what the skin may look like beneath (Bisla 3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dermbatch.images.fitting import COVERED, DIFFERENCE, LONG_SIDE, brought_back, fit, sent_size
from dermbatch.models.served import ServedModel
from dermbatch.records.outcome import PurifyOutput
from workers.inference.protocol import Inference

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class PurifyParameters:
    """What, besides the model, determines the output of purification.

    Attributes:
        threshold: Probability, 0 to 1, from which a pixel counts as occluded.
        difference: Where the image is larger than what the model saw: least difference of green, of 255, between a
            pixel and its replacement. At full resolution a hair is thinner than its trace in the small map.
        long_side: Pixels to which the image is reduced for a model that takes any size.
    """

    threshold: float = COVERED
    difference: int = DIFFERENCE
    long_side: int = LONG_SIDE

    @classmethod
    def of(cls, model: ServedModel) -> PurifyParameters:
        """The parameters in the model's configuration."""
        return cls(
            threshold=model.number("threshold", cls.threshold),
            long_side=int(model.number("long_side", cls.long_side)),
        )


@dataclass(frozen=True)
class Purified:
    """What purification gives.

    Attributes:
        image: [H, W, 3] uint8 RGB; the very pixels of the original wherever nothing was found.
        output: For the record.
    """

    image: Image
    output: PurifyOutput


def purify(image: Image, client: Inference, model: ServedModel, parameters: PurifyParameters) -> Purified:
    """Remove occlusions from an image of any size.

    Args:
        image: [H, W, 3] uint8 RGB.
        client: What runs the models.
        model: Serves the stage's contract.
        parameters: See there.

    Raises:
        InferenceUnavailable: If Triton does not answer.
        ModelContractError: If the model breaks the contract.
    """
    height, width = image.shape[:2]
    size = sent_size(model.image_size, height, width, parameters.long_side)
    answer = client.infer(model, {"IMAGE": fit(image, size)}, ("PURIFIED", "OCCLUSION"))
    clean = model.checked("PURIFIED", answer["PURIFIED"], (*size, 3))
    occlusion = model.checked("OCCLUSION", answer["OCCLUSION"], size)
    level = max(1, math.ceil(parameters.threshold * 255))
    found = occlusion >= level
    if not found.any():
        return Purified(image, PurifyOutput(occluded_fraction=0.0))
    if size == (height, width):
        return Purified(clean, PurifyOutput(occluded_fraction=float(found.mean())))
    purified, pixels = brought_back(image, clean, occlusion, level=level, difference=parameters.difference)
    return Purified(purified, PurifyOutput(occluded_fraction=pixels / (height * width)))
