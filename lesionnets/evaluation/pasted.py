"""Pairs to measure purification with: real hair of one picture laid over another without hair.

No free set shows one lesion with and without hair. So the classical finder, corrected by the lesion's mask, finds
hair in one picture; it is lifted with its colours and share of cover, and laid over another. What the finder
misses is not in the pair, and what it takes for hair (ruler marks, ink) is. So look at the pictures to lift from,
and name them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dermbatch.errors import UsageError
from lesionnets.data.layers import Layer, lifted_layer
from lesionnets.data.sources.isic import Image, Sample, read_image, read_pair
from lesionnets.evaluation.purify import LEAST_HAIR, least_covered, most_covered, pair_case

TURNS = 8
"""Turns by a quarter, each mirrored or not."""


@dataclass(frozen=True)
class Pasted:
    """A pair: the same picture with and without hair.

    Attributes:
        image_id: Id of the picture beneath.
        hair_of: Id of the picture with the hair.
        covered: RGB uint8 [H, W, 3].
        clean: The same without that hair.
    """

    image_id: str
    hair_of: str
    covered: Image
    clean: Image


def pasted_pairs(
    samples: Sequence[Sample], *, hair: Sequence[str] = (), hairy: int = 12, count: int = 40, seed: int = 0
) -> Iterator[Pasted]:
    """Lay the hair of some pictures over those with least hair of their own.

    Args:
        samples: Pictures, with masks if there are any.
        hair: Ids of the pictures whose hair is lifted; None for the ``hairy`` pictures with most hair.
        hairy: Number of pictures to lift hair from, if none are named.
        count: Largest number of pictures beneath; each gets the hair of the next of the others.
        seed: Seed of how hair is turned and mirrored.

    Yields:
        Pairs, the barest picture first; pairs with hardly any hair are left out.

    Raises:
        UsageError: If a picture that is named does not exist or has hardly any hair, or a file cannot be read.
    """
    given = {sample.image_id: sample for sample in samples}
    if unknown := [name for name in hair if name not in given]:
        raise UsageError(
            f"there is no picture {', '.join(unknown)} to lift hair from; --hair takes ids of pictures in --images"
        )
    taken = [given[name] for name in hair] if hair else most_covered(samples, hairy)
    layers = [(sample.image_id, _lifted(sample, named=bool(hair))) for sample in taken]
    if not (lifted := [(name, layer) for name, layer in layers if layer is not None]):
        return
    rest = [sample for sample in samples if sample.image_id not in dict(lifted)]
    for index, (name, under) in enumerate(least_covered(rest, count)):
        hair_of, layer = lifted[index % len(lifted)]
        turn = int(np.random.default_rng([seed, index]).integers(TURNS))
        covered = _turned(layer, turn, under.shape[0], under.shape[1]).over(under)
        if pair_case(covered, under) is not None:
            yield Pasted(name, hair_of, covered, under)


def _lifted(sample: Sample, *, named: bool) -> Layer | None:
    """Lift the hair of a picture; None if it has hardly any.

    Raises:
        UsageError: If it has hardly any although it was named.
    """
    image, mask = (read_image(sample.image), None) if sample.mask is None else read_pair(sample)
    layer = lifted_layer(image, None if mask is None else mask > 127)
    if (layer.through < 255).any(axis=2).mean() < LEAST_HAIR:
        if not named:
            return None
        raise UsageError(
            f"{sample.image} has hardly any hair that the finder sees; name another picture with --hair"
        )
    return layer


def _turned(layer: Layer, turn: int, height: int, width: int) -> Layer:
    """A layer, turned by quarters, mirrored and resized."""

    def changed(values: Image) -> Image:
        turned = np.rot90(values[:, ::-1] if turn >= TURNS // 2 else values, turn % (TURNS // 2))
        sized = cv2.resize(np.ascontiguousarray(turned), (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(sized, np.uint8)

    return Layer(changed(layer.through), changed(layer.own))
