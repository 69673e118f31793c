"""How well purification removes what covers the skin, for pictures whose clean version is known.

Inside what was drawn, the error against the clean picture should vanish; outside, nothing should change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.errors import UsageError
from dermbatch.phantoms.occlusion import draw_hairs, draw_ink, draw_ruler
from dermbatch.phantoms.phantom import Occlusion, phantom
from lesionnets.data.layers import Layer, lifted_layer
from lesionnets.data.sources.isic import Image, Sample, read_image, read_pair
from lesionnets.evaluation.figures.intervals import Figure, bootstrap_mean
from lesionnets.evaluation.samples import image_files, read_picture
from lesionnets.occlusions import find_occlusions

Mask = npt.NDArray[np.bool_]

DRAW = {"hair": draw_hairs, "ruler": draw_ruler, "ink": draw_ink}
"""What can be drawn over images, by name."""


@dataclass(frozen=True)
class Covered:
    """A covered image and its truth.

    Attributes:
        clean: RGB uint8 [H, W, 3].
        covered: The same image with something drawn over it.
        mask: Bool [H, W], true where something was drawn.
    """

    clean: Image
    covered: Image
    mask: Mask


HAIR = 25
"""Least difference of any colour, of 255, between a covered picture and its clean one that counts as hair."""

LEAST_HAIR = 0.001
"""Least share of a picture that must be hair for it to be measured."""


@dataclass(frozen=True)
class PurifyFigures:
    """Means over images.

    Attributes:
        before: Mean absolute error inside the occlusion before purification, of 255.
        after: The same error after purification.
        remaining: ``after`` over ``before``, image by image.
        share: Mean ``after`` over mean ``before``, in which faint occlusions weigh less.
        outside: Mean absolute change outside the occlusion, of 255.
        outside_share: Share of the pixels outside that changed at all.
    """

    before: Figure
    after: Figure
    remaining: Figure
    share: Figure
    outside: Figure
    outside_share: Figure


def drawn_kinds(words: Sequence[str]) -> list[str]:
    """What is to be drawn, each once.

    Raises:
        UsageError: If one cannot be drawn, or there is none.
    """
    if unknown := [word for word in words if word not in DRAW]:
        raise UsageError(f"{unknown[0]!r} cannot be drawn over images; choose from {', '.join(DRAW)}")
    if not words:
        raise UsageError(f"name what to draw with --occlusions: {', '.join(DRAW)}")
    return list(dict.fromkeys(words))


def drawn_cases(images: Iterable[Image], kind: str, *, seed: int = 0) -> list[Covered]:
    """Draw something over images, the same for the same seed.

    Args:
        images: RGB uint8 [H, W, 3].
        kind: One of ``DRAW``.
        seed: Seed of all drawings; each image has one derived from it.
    """
    cases = []
    for index, clean in enumerate(images):
        covered, mask = DRAW[kind](clean, np.random.default_rng([seed, index]))
        cases.append(Covered(clean, covered, mask))
    return cases


def pair_case(covered: Image, clean: Image) -> Covered | None:
    """A real pair, with hair where the greatest difference of a colour exceeds ``HAIR``; None without hair.

    Args:
        covered: RGB uint8 [H, W, 3].
        clean: RGB uint8 of the same size.
    """
    mask = np.abs(covered.astype(np.int16) - clean).max(axis=2) > HAIR
    return Covered(clean, covered, mask) if mask.mean() >= LEAST_HAIR else None


def real_pairs(covered: Path, clean: Path) -> tuple[list[tuple[Path, Path]], dict[str, int]]:
    """Pairs of pictures with and without hair, by their file names.

    Args:
        covered: Folder of pictures with hair.
        clean: Folder of pictures of the same names.

    Returns:
        Pairs of files, in order of their names; and the kinds and numbers of files without a counterpart.

    Raises:
        UsageError: If a folder is missing, or no picture is in both.
    """
    with_hair, without = ({path.stem: path for path in image_files(folder)} for folder in (covered, clean))
    pairs = [(path, without[name]) for name, path in sorted(with_hair.items()) if name in without]
    if not pairs:
        raise UsageError(f"no picture of {covered} has one of the same name in {clean}")
    lone = {"covered pictures without a clean one": len(with_hair) - len(pairs)}
    lone["clean pictures without a covered one"] = len(without) - len(pairs)
    return pairs, {what: count for what, count in lone.items() if count}


def read_pairs(pairs: Iterable[tuple[Path, Path]], fit: Callable[[Image], Image]) -> dict[str, Covered]:
    """Read real pairs; those with hardly any hair are left out.

    Args:
        pairs: Pairs from :func:`real_pairs`.
        fit: Resizes a picture to the size that is sent.

    Raises:
        UsageError: If a picture cannot be read, the two of a pair differ in size, or no pair has hair.
    """
    cases = {}
    for with_hair, without in pairs:
        covered, clean = read_image(with_hair), read_image(without)
        if covered.shape != clean.shape:
            raise UsageError(f"{with_hair} and {without} differ in size, so they are not a pair")
        case = pair_case(fit(covered), fit(clean))
        if case is not None:
            cases[with_hair.stem] = case
    if not cases:
        raise UsageError(f"no pair has hair: a difference of more than {HAIR} of 255 on {LEAST_HAIR:.1%} of it")
    return cases


def lifted_cases(hairy: Sequence[Sample], clean: Sequence[Image], *, side: int, seed: int = 0) -> list[Covered]:
    """Lay real hair, lifted by :func:`lesionnets.data.layers.lifted_layer`, over other pictures.

    Args:
        hairy: Pictures whose hair is lifted; a mask keeps the lesion's own structures out.
        clean: Pictures without hair; each gets the hair of the next of the others.
        side: Side in pixels of the squares that are measured.
        seed: Seed of how the hair is turned.
    """
    layers, cases = [_lifted(sample) for sample in hairy], []
    for index, picture in enumerate(clean if layers else ()):
        under = cv2.resize(picture, (512, 512), interpolation=cv2.INTER_AREA)
        layer = layers[index % len(layers)]
        turns = int(np.random.default_rng([seed, index]).integers(4))
        turned = Layer(*(np.ascontiguousarray(np.rot90(part, turns)) for part in (layer.through, layer.own)))
        pair = (turned.over(np.asarray(under, np.uint8)), under)
        covered, below = (
            np.asarray(cv2.resize(one, (side, side), interpolation=cv2.INTER_AREA), np.uint8) for one in pair
        )
        case = pair_case(covered, below)
        if case is not None:
            cases.append(case)
    return cases


def _lifted(sample: Sample) -> Layer:
    image, mask = (read_image(sample.image), None) if sample.mask is None else read_pair(sample)
    image = np.asarray(cv2.resize(image, (512, 512), interpolation=cv2.INTER_AREA), np.uint8)
    lesion = None if mask is None else cv2.resize(mask, (512, 512), interpolation=cv2.INTER_AREA) > 127
    return lifted_layer(image, lesion)


def most_covered(samples: Sequence[Sample], count: int) -> list[Sample]:
    """The pictures in which the classical finder sees most dark, thin things: hair, rulers, ink."""
    shares = []
    for sample in samples:
        image, mask = (read_image(sample.image), None) if sample.mask is None else read_pair(sample)
        found = find_occlusions(image, None if mask is None else mask > 127, threshold=28)
        shares.append((-float(found.mean()), sample.image_id, sample))
    return [sample for _, _, sample in sorted(shares, key=lambda share: share[:2])[:count]]


def hair_cases(images: Iterable[Image], *, seed: int = 0) -> list[Covered]:
    """Draw hairs over images; see :func:`drawn_cases`."""
    return drawn_cases(images, "hair", seed=seed)


def phantom_cases(count: int, *, height: int = 450, width: int = 600, seed: int = 7000) -> list[Covered]:
    """Phantoms with only hair over them."""
    hair: tuple[Occlusion, ...] = ("hair",)
    drawn = (phantom(seed + i, height=height, width=width, occlusions=hair) for i in range(count))
    return [Covered(one.clean, one.image, one.occlusion) for one in drawn]


def least_covered(samples: Sequence[Sample], count: int) -> list[tuple[str, Image]]:
    """The images in which the classical finder sees least, with their ids.

    The lesion's mask corrects the finder if there is one. For hair that an image has itself, the truth is not
    known.

    Args:
        samples: Images, with masks or without.
        count: Number of images to take.

    Raises:
        UsageError: If an image or a mask cannot be decoded, or they do not fit each other.
    """
    shares: list[tuple[float, str, Image]] = []
    for sample in samples:
        image, mask = (read_picture(sample.image), None) if sample.mask is None else read_pair(sample)
        found = find_occlusions(image, None if mask is None else mask > 127)
        shares.append((float(found.mean()), sample.image_id, image))
    return [(name, image) for _, name, image in sorted(shares, key=lambda share: share[:2])[:count]]


MEASURES = ("before", "after", "remaining", "outside", "outside_share")
"""Measures of each image."""


def measure(
    purify: Callable[[Image], Image], cases: Sequence[Covered], *, rows: list[dict[str, object]] | None = None
) -> PurifyFigures:
    """Purify each case and compare it with its clean picture.

    Args:
        purify: Function from uint8 [H, W, 3] to the same.
        cases: The cases.
        rows: Where a row of ``MEASURES`` is added for each case.
    """
    found = []
    for case in cases:
        purified = purify(case.covered)
        error = np.abs(purified.astype(np.int16) - case.clean).mean(axis=2)
        drawn = np.abs(case.covered.astype(np.int16) - case.clean).mean(axis=2)
        touched = (purified != case.covered).any(axis=2)
        inside, outside = case.mask, ~case.mask
        before, after = float(drawn[inside].mean()), float(error[inside].mean())
        found.append((before, after, after / before, float(error[outside].mean()), float(touched[outside].mean())))
    before_, after_, remaining, outside_, touched_ = (list(column) for column in zip(*found, strict=True))
    if rows is not None:
        rows += [dict(zip(MEASURES, row, strict=True)) for row in found]
    return PurifyFigures(
        bootstrap_mean(before_),
        bootstrap_mean(after_),
        bootstrap_mean(remaining),
        bootstrap_ratio(after_, before_),
        bootstrap_mean(outside_),
        bootstrap_mean(touched_),
    )


def bootstrap_ratio(
    parts: Sequence[float], wholes: Sequence[float], *, rounds: int = 2000, seed: int = 0
) -> Figure:
    """Ratio of two means over the same images, with its 95 % percentile bootstrap interval."""
    pairs = np.array([parts, wholes], dtype=np.float64)
    drawn = pairs[:, np.random.default_rng(seed).integers(0, pairs.shape[1], size=(rounds, pairs.shape[1]))].mean(
        axis=2
    )
    low, high = np.percentile(drawn[0] / drawn[1], [2.5, 97.5])
    return Figure(float(pairs[0].sum() / pairs[1].sum()), float(low), float(high))
