"""Segmentation: the lesion's mask at the image's own size, and its measures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dermbatch.images.fitting import LONG_SIDE, fit, sent_size
from dermbatch.images.lesion import MIN_FRACTION, MIN_SHARE, MOST, THRESHOLD, Mask, lesion_mask, touches_frame
from dermbatch.models.served import ServedModel
from dermbatch.records.outcome import LesionGeometry, SegmentOutput
from workers.inference.protocol import Inference
from workers.stages.border import border_measures
from workers.stages.colour import colour_statistics
from workers.stages.geometry import measure


@dataclass(frozen=True)
class SegmentParameters:
    """What, besides the model, determines the output of segmentation.

    Attributes:
        threshold: Probability, 0 to 1, from which a pixel is lesion.
        min_share: Specks smaller than this share of the largest lesion are dropped.
        min_fraction: Specks smaller than this share of the image are dropped.
        lesions: That a mask holds at most.
        long_side: Pixels to which the image is reduced for a model that takes any size.
    """

    threshold: float = THRESHOLD
    min_share: float = MIN_SHARE
    min_fraction: float = MIN_FRACTION
    lesions: int = MOST
    long_side: int = LONG_SIDE

    @classmethod
    def of(cls, model: ServedModel) -> SegmentParameters:
        """The parameters in the model's configuration."""
        return cls(
            threshold=model.number("threshold", cls.threshold),
            lesions=max(1, int(model.number("lesions", cls.lesions))),
            long_side=int(model.number("long_side", cls.long_side)),
        )


@dataclass(frozen=True)
class Segmented:
    """What segmentation gives.

    Attributes:
        mask: [H, W] uint8 of the image's size: 255 lesion, 0 skin; without holes and specks.
        output: For the record.
        border: [h, w] uint8 as the model gives it, where it tells borders.
    """

    mask: Mask
    output: SegmentOutput
    border: NDArray[np.uint8] | None = None


def segment(
    image: NDArray[np.uint8],
    client: Inference,
    model: ServedModel,
    parameters: SegmentParameters,
    *,
    spacing_mm: tuple[float, float] | None = None,
    aspect: float = 1.0,
    prototypes: NDArray[np.float32] | None = None,
) -> Segmented:
    """Find the lesion in an image of any size.

    Args:
        image: [H, W, 3] uint8 RGB, purified or not.
        client: What runs the models.
        model: Serves the stage's contract.
        parameters: See there.
        spacing_mm: Distance of rows and of columns, where the image states it.
        aspect: Height over width of a pixel, where it states no more.
        prototypes: Prototypes of what the model is shown, [P], where it is one that has to be.

    Raises:
        InferenceUnavailable: If Triton does not answer.
        ModelContractError: If the model breaks the contract.
    """
    height, width = image.shape[:2]
    size = sent_size(model.image_size, height, width, parameters.long_side)
    shown = {} if prototypes is None else {"PROTOTYPES": prototypes}
    wanted = ("LESION", "BORDER") if "BORDER" in model.shapes else ("LESION",)
    answer = client.infer(model, {"IMAGE": fit(image, size), **shown}, wanted)
    probability = model.checked("LESION", answer["LESION"], size)
    found = lesion_mask(
        probability,
        (height, width),
        threshold=parameters.threshold,
        min_share=parameters.min_share,
        min_fraction=parameters.min_fraction,
        most=parameters.lesions,
    )
    lesion: LesionGeometry | None = None
    mask = found.mask
    if found.outlines:
        colour = colour_statistics(image, mask, found.outlines)
        lesion = measure(mask, found.outlines, colour, spacing_mm, aspect=aspect, components=found.found)
    border = model.checked("BORDER", answer["BORDER"], size) if "BORDER" in answer else None
    return Segmented(
        mask,
        SegmentOutput(
            lesion=lesion,
            touches_frame=touches_frame(mask),
            confidence=confidence(probability, lesion, mask.shape),
            border=None if border is None else border_measures(border, mask),
        ),
        border,
    )


def confidence(probability: NDArray[np.uint8], lesion: LesionGeometry | None, size: tuple[int, ...]) -> float:
    """How decided the network is: mean of ``|2p - 1|``, 0 to 1.

    Args:
        probability: [h, w] uint8, probability x 255.
        lesion: Where to look: its bounding box, widened by a quarter of its sides; everywhere if there is none.
        size: Height and width of the image.
    """
    height, width = probability.shape
    region = probability
    if lesion is not None:
        box = lesion.bounding_box
        tall, wide = (box.bottom - box.top) / 4, (box.right - box.left) / 4
        top, bottom = ((row * height) / size[0] for row in (box.top - tall, box.bottom + tall))
        left, right = ((column * width) / size[1] for column in (box.left - wide, box.right + wide))
        region = probability[max(0, int(top)) : int(bottom) + 1, max(0, int(left)) : int(right) + 1]
    return float(np.mean(np.abs(region.astype(np.float32) / 127.5 - 1)))
