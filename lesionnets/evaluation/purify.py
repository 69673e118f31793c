"""How well purification removes what lies over the skin, where the clean picture is known.

Inside what was drawn the error against the clean picture should vanish; outside nothing should change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dermbatch.errors import UsageError
from dermbatch.phantoms.occlusion import draw_hairs, draw_ink, draw_ruler
from dermbatch.phantoms.phantom import Occlusion, phantom
from lesionnets.data.sources.isic import Image, Sample, read_image, read_pair
from lesionnets.evaluation.figures.intervals import Figure, bootstrap_mean
from lesionnets.occlusions import find_occlusions

Mask = npt.NDArray[np.bool_]

DRAW = {"hair": draw_hairs, "ruler": draw_ruler, "ink": draw_ink}
"""What can be drawn over images, by name."""


@dataclass(frozen=True)
class Case:
    """A covered image and the truth about it.

    Attributes:
        clean: RGB uint8 [H, W, 3].
        covered: The same with something drawn over it.
        mask: Bool [H, W], true where it was.
    """

    clean: Image
    covered: Image
    mask: Mask


@dataclass(frozen=True)
class PurifyFigures:
    """Means over images.

    Attributes:
        before: Mean absolute error inside the occlusion, of 255, as it came.
        after: The same after purification.
        remaining: ``after`` over ``before``, image by image.
        share: Mean ``after`` over mean ``before``: what is faint weighs less.
        outside: Mean absolute change outside the occlusion, of 255.
        outside_share: Share of the pixels outside that changed at all.
    """

    before: Figure
    after: Figure
    remaining: Figure
    share: Figure
    outside: Figure
    outside_share: Figure


def drawn_cases(images: Iterable[Image], kind: str, *, seed: int = 0) -> list[Case]:
    """Draw something over images, the same for the same seed.

    Args:
        images: RGB uint8 [H, W, 3].
        kind: One of ``DRAW``.
        seed: Of all drawings; each image has its own.

    Raises:
        UsageError: Where there is no such kind.
    """
    if kind not in DRAW:
        raise UsageError(f"nothing called {kind!r} can be drawn over images; there are {', '.join(DRAW)}")
    cases = []
    for index, clean in enumerate(images):
        covered, mask = DRAW[kind](clean, np.random.default_rng([seed, index]))
        cases.append(Case(clean, covered, mask))
    return cases


def hair_cases(images: Iterable[Image], *, seed: int = 0) -> list[Case]:
    """Draw hairs over images; see :func:`drawn_cases`."""
    return drawn_cases(images, "hair", seed=seed)


def phantom_cases(count: int, *, height: int = 450, width: int = 600, seed: int = 7000) -> list[Case]:
    """Phantoms with nothing but hair over them."""
    hair: tuple[Occlusion, ...] = ("hair",)
    drawn = (phantom(seed + i, height=height, width=width, occlusions=hair) for i in range(count))
    return [Case(one.clean, one.image, one.occlusion) for one in drawn]


def least_covered(samples: Sequence[Sample], count: int) -> list[Image]:
    """The images on which the classical finder sees least, corrected by the lesion's mask where there is one.

    What covers an image by itself has no known truth.

    Args:
        samples: Images, with masks or without.
        count: How many to take.

    Raises:
        UsageError: Where an image or a mask cannot be decoded, or they do not fit each other.
    """
    shares: list[tuple[float, str, Image]] = []
    for sample in samples:
        image, mask = (read_image(sample.image), None) if sample.mask is None else read_pair(sample)
        found = find_occlusions(image, None if mask is None else mask > 127)
        shares.append((float(found.mean()), sample.image_id, image))
    return [image for _, _, image in sorted(shares, key=lambda share: share[:2])[:count]]


def measure(purify: Callable[[Image], Image], cases: Sequence[Case]) -> PurifyFigures:
    """Purify each case and compare with its clean picture.

    Args:
        purify: From uint8 [H, W, 3] to the same.
        cases: With something drawn on each.
    """
    rows = []
    for case in cases:
        purified = purify(case.covered)
        error = np.abs(purified.astype(np.int16) - case.clean).mean(axis=2)
        drawn = np.abs(case.covered.astype(np.int16) - case.clean).mean(axis=2)
        touched = (purified != case.covered).any(axis=2)
        inside, outside = case.mask, ~case.mask
        before, after = float(drawn[inside].mean()), float(error[inside].mean())
        rows.append((before, after, after / before, float(error[outside].mean()), float(touched[outside].mean())))
    before_, after_, remaining, outside_, touched_ = (list(column) for column in zip(*rows, strict=True))
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
