"""How well one-shot segmentation agrees with experts' masks, over random draws of what it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dermbatch.errors import UsageError
from lesionnets.data.sources.isic import Sample
from lesionnets.evaluation.figures.intervals import Figure, bootstrap_mean
from lesionnets.evaluation.figures.overlap import agreement
from lesionnets.evaluation.models.shown import Shown
from lesionnets.evaluation.segment import Rows, Watched, read_pair, worker_mask


@dataclass(frozen=True)
class SupportDraws:
    """How supports are drawn.

    Attributes:
        shots: Number of supports in a draw.
        draws: Number of draws for each diagnosis.
        seed: Seed of the draws.
    """

    shots: int = 1
    draws: int = 5
    seed: int = 0

    def of(self, diagnosis: str, count: int) -> list[list[int]]:
        """Indices of the supports among the images of a diagnosis, draw by draw.

        Raises:
            UsageError: If there are not more images than supports.
        """
        if count <= self.shots:
            raise UsageError(
                f"there are {count} images of {diagnosis}, and more than {self.shots} "
                "are needed; give more, or fewer --shots"
            )
        random = np.random.default_rng([self.seed, *diagnosis.encode()])
        return [random.choice(count, self.shots, replace=False).tolist() for _ in range(self.draws)]


def evaluate(
    model: Shown,
    samples: Sequence[Sample],
    how: SupportDraws,
    *,
    watched: Watched = iter,
    rows: Rows | None = None,
) -> dict[str, Figure]:
    """Means over images and draws, with 95 % bootstrap intervals over images.

    Args:
        model: The model; it is shown supports of the same diagnosis as the picture.
        samples: Images with masks and diagnoses.
        how: How supports are drawn; a picture is not measured by a draw of which it is a support.
        watched: Iterates over the samples, and may show progress.
        rows: If given, a row of figures is added to it for each image.

    Returns:
        The figures of :func:`~lesionnets.evaluation.figures.overlap.agreement`; of several diagnoses also ``dice``
        of each; and ``dice_worst_draw`` and ``dice_best_draw``, of the draws' own means.

    Raises:
        UsageError: If a diagnosis has too few images, or a file cannot be read.
    """
    kinds = sorted({str(one.diagnosis) for one in samples})
    shown = {
        kind: _supports(model, [one for one in samples if one.diagnosis == kind], kind, how) for kind in kinds
    }
    scores: list[dict[str, float]] = []
    by_draw: list[list[float]] = [[] for _ in range(how.draws)]
    of_kind: list[str] = []
    for sample in watched(samples):
        image, truth = read_pair(sample)
        each = []
        for number, (known, used) in enumerate(shown[str(sample.diagnosis)]):
            if sample.image_id not in used:
                found = worker_mask(model.query, model.probability(image, known), truth.shape)
                each.append(agreement(found, truth))
                by_draw[number].append(each[-1]["dice"])
        if not each:
            continue
        scores.append({name: float(np.mean([one[name] for one in each])) for name in each[0]})
        of_kind.append(str(sample.diagnosis))
        if rows is not None:
            rows.append({"image_id": sample.image_id, "diagnosis": sample.diagnosis, **scores[-1]})
    figures = {name: bootstrap_mean([one[name] for one in scores]) for name in scores[0]}
    if len(kinds) > 1:
        for kind in kinds:
            own = [one["dice"] for one, its in zip(scores, of_kind, strict=True) if its == kind]
            figures[f"dice_{kind}"] = bootstrap_mean(own)
    draws = sorted((bootstrap_mean(part) for part in by_draw), key=lambda one: one.mean)
    return figures | {"dice_worst_draw": draws[0], "dice_best_draw": draws[-1]}


def _supports(
    model: Shown, samples: Sequence[Sample], kind: str, how: SupportDraws
) -> list[tuple[np.ndarray[tuple[int], np.dtype[np.float32]], set[str]]]:
    """The mean prototypes of each draw, and the images that they are of."""
    found = []
    for chosen in how.of(kind, len(samples)):
        each = [model.prototypes(*read_pair(samples[index])) for index in chosen]
        mean = np.mean(each, axis=0, dtype=np.float32)
        found.append((mean, {samples[index].image_id for index in chosen}))
    return found
