"""Classification: probabilities by diagnosis, guided by the lesion's mask. Triage support, not a diagnosis."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dermbatch.images.fitting import LONG_SIDE, fit, sent_size
from dermbatch.images.lesion import Mask
from dermbatch.models.contracts import DISTANCE, PATTERNS, VISUALBACKPROP
from dermbatch.models.served import ServedModel
from dermbatch.records.outcome import ClassifyOutput
from workers.inference.protocol import Inference

LIMIT = 1.0
"""Distance above which a picture is no dermoscopic image."""


@dataclass(frozen=True)
class ClassifyParameters:
    """What, besides the model, determines the output of classification.

    Attributes:
        labels: Classes, comma separated, in the order of the model's probabilities.
        long_side: Pixels to which the image is reduced for a model that takes any size.
    """

    labels: str
    long_side: int = LONG_SIDE

    @classmethod
    def of(cls, model: ServedModel) -> ClassifyParameters:
        """The parameters in the model's configuration.

        Raises:
            ModelContractError: If it names no classes.
        """
        if not model.labels:
            raise model.broken("names no classes: give its config.pbtxt the parameter 'labels'")
        return cls(
            labels=",".join(model.labels),
            long_side=int(model.number("long_side", cls.long_side)),
        )


@dataclass(frozen=True)
class Classified:
    """What classification gives.

    Attributes:
        embedding: [D] float32: the image's place among others, for retrieval.
        saliency: [h, w] uint8: what the classifier looked at.
        seen: [h, w] uint8: what its convolutions responded to, of models that tell.
        patterns: [h, w, K] float16: local descriptors, each as long as it counts, of models that give them.
        output: For the record.
    """

    embedding: NDArray[np.float32]
    saliency: NDArray[np.uint8]
    seen: NDArray[np.uint8] | None
    patterns: NDArray[np.float16] | None
    output: ClassifyOutput


def classify(
    image: NDArray[np.uint8], mask: Mask, client: Inference, model: ServedModel, parameters: ClassifyParameters
) -> Classified:
    """Classify the lesion of an image of any size, unless the model says that it is no dermoscopic image.

    The model is fed the clean mask, not the segmentation's raw probabilities: so the outcome is the same whether
    segmentation ran just now or its mask was there already.

    Args:
        image: [H, W, 3] uint8 RGB, purified or not.
        mask: [H, W] uint8, 255 where lesion.
        client: What runs the models.
        model: Serves the stage's contract.
        parameters: See there.

    Raises:
        InferenceUnavailable: If Triton does not answer.
        ModelContractError: If the model breaks the contract.
    """
    height, width = image.shape[:2]
    size = sent_size(model.image_size, height, width, parameters.long_side)
    judged = (DISTANCE.name,) if DISTANCE.name in model.shapes else ()
    seen = (VISUALBACKPROP.name,) if VISUALBACKPROP.name in model.shapes else ()
    placed = (PATTERNS.name,) if PATTERNS.name in model.shapes else ()
    answer = client.infer(
        model,
        {"IMAGE": fit(image, size), "LESION": fit(mask, size)},
        ("PROBABILITIES", "EMBEDDING", "SALIENCY", *judged, *seen, *placed),
    )
    labels = parameters.labels.split(",")
    probabilities = model.checked("PROBABILITIES", answer["PROBABILITIES"], (len(labels),))
    if not np.isfinite(probabilities).all():
        raise model.broken("answered PROBABILITIES that are not numbers")
    distance = _distance(model, answer[DISTANCE.name]) if judged else None
    known = distance is None or distance <= LIMIT
    embedding = np.ascontiguousarray(answer["EMBEDDING"], np.float32)
    output = ClassifyOutput(
        probabilities=dict(zip(labels, (round(float(one), 6) for one in probabilities), strict=True))
        if known
        else {},
        label=labels[int(np.argmax(probabilities))] if known else None,
        distance=distance,
        embedding_sha256=hashlib.sha256(embedding.tobytes()).hexdigest(),
    )
    backprop = np.ascontiguousarray(answer[VISUALBACKPROP.name]) if seen else None
    patterns = _patterns(model, answer[PATTERNS.name]) if placed else None
    return Classified(embedding, np.ascontiguousarray(answer["SALIENCY"]), backprop, patterns, output)


def _patterns(model: ServedModel, value: NDArray[np.float32]) -> NDArray[np.float16]:
    """Local descriptors in half the bytes: cosines of them are the same to three digits."""
    patterns = model.checked(PATTERNS.name, value, model.shapes[PATTERNS.name])
    if not (np.abs(patterns) <= 1).all():  # nor does NaN
        raise model.broken(f"answered {PATTERNS.name} of lengths that do not sum to 1")
    return patterns.astype(np.float16)


def _distance(model: ServedModel, value: NDArray[np.float32]) -> float:
    distance = float(model.checked(DISTANCE.name, value, DISTANCE.dims)[0])
    if not math.isfinite(distance):
        raise model.broken(f"answered a {DISTANCE.name} that is not a number")
    return round(distance, 6)
