"""Which images are worth reading next: by clusters, entropy, diversity or disagreement, and always some by chance.

Published strategies do badly on rare classes: guided by the model's doubt alone, they ask for look-alikes and
outliers, and never for what the model is wrongly sure of. So the first images are chosen over clusters of
embeddings, doubt is mixed with noise and drawn evenly from each class, and a share is chosen by chance. Only that
share's figures say anything about all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.errors import UsageError
from dermbatch.records.plan import PlanReason, Strategy

Floats = npt.NDArray[np.float32]

BY_CHANCE = 0.2
"""Share of a plan that is chosen by chance, whatever the strategy."""

START = 50
"""Images that have to be known or planned, chosen over clusters, before any is chosen by doubt."""

_ROUNDS, _TRIES = 30, 3  # of k-means


@dataclass(frozen=True)
class Candidates:
    """Images that can be chosen.

    Attributes:
        embeddings: [N, D], of unit length.
        probabilities: [N, C].
        disagreement: [N], nats; NaN if only one model has seen an image.
        known: [K, D]: embeddings of what was chosen before.
    """

    embeddings: Floats
    probabilities: Floats
    disagreement: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    known: Floats = field(default_factory=lambda: np.zeros((0, 1), np.float32))

    def __len__(self) -> int:
        return len(self.embeddings)


@dataclass(frozen=True)
class Chosen:
    """A chosen image: its number, the reason, and the score; the record of a plan says more about the last two."""

    number: int
    reason: PlanReason
    score: float | None = None


def choose(among: Candidates, strategy: Strategy, count: int, random: np.random.Generator) -> list[Chosen]:
    """This many of the candidates, or all if there are fewer, in an order that does not reveal the reasons.

    Raises:
        UsageError: For ``disagreement``, if no image was seen by two models.
    """
    by_chance = count if strategy == "random" else max(1, round(BY_CHANCE * count))
    found: list[Chosen] = []
    if strategy != "random" and count > by_chance:
        found = _by_strategy(among, strategy, min(count, len(among)) - by_chance, random)
    taken = {one.number for one in found}
    left = np.array([number for number in range(len(among)) if number not in taken], np.int64)
    drawn = random.permutation(left)[: count - len(found)]
    found += [Chosen(number, "random") for number in drawn.tolist()]
    return [found[at] for at in random.permutation(len(found))]


def _by_strategy(among: Candidates, strategy: Strategy, count: int, random: np.random.Generator) -> list[Chosen]:
    if count <= 0:
        return []
    if strategy == "diversity":
        return _farthest(among, count, random)
    if strategy == "disagreement":
        return _disagreed(among, count)
    start = min(count, max(0, START - len(among.known)))
    found = [Chosen(number, "cluster") for number in middles(among.embeddings, start, random)]
    taken = {one.number for one in found}
    left = [number for number in range(len(among)) if number not in taken]
    return found + _doubted(among.probabilities, left, count - len(found), random)


def middles(embeddings: Floats, count: int, random: np.random.Generator) -> list[int]:
    """The numbers of the images nearest to the centres of this many clusters of embeddings [N, D] (k-means++)."""
    if count <= 0:
        return []
    if count >= len(embeddings):
        return list(range(len(embeddings)))
    cv2.setRNGSeed(int(random.integers(2**31)))
    ends = (cv2.TERM_CRITERIA_MAX_ITER + cv2.TERM_CRITERIA_EPS, _ROUNDS, 1e-4)
    start = np.zeros((len(embeddings), 1), np.int32)
    _, labels, centres = cv2.kmeans(embeddings, count, start, ends, _TRIES, cv2.KMEANS_PP_CENTERS)
    near = np.linalg.norm(embeddings - centres[labels.ravel()], axis=1)
    order = np.argsort(near, kind="stable")
    _, first = np.unique(labels.ravel()[order], return_index=True)
    return [int(number) for number in np.sort(order[first])]


def entropy(probabilities: Floats) -> npt.NDArray[np.float64]:
    """Entropy of each row of probabilities [N, C], in nats."""
    shares = np.clip(probabilities.astype(np.float64), 1e-12, 1)
    return np.asarray(-(shares * np.log(shares)).sum(axis=1))


def divergence(several: Sequence[Floats]) -> float:
    """How far apart several models' probabilities [C] for one image are: Jensen-Shannon divergence, nats."""
    shares = np.stack(several)
    apart = entropy(shares.mean(axis=0, keepdims=True))[0] - entropy(shares).mean()
    return max(0.0, float(apart))


def _doubted(probabilities: Floats, left: list[int], count: int, random: np.random.Generator) -> list[Chosen]:
    """Chosen by entropy with noise, from each class in turn; an image's class is its most probable one.

    The noise is that of Kirsch et al., "Stochastic Batch Acquisition" (TMLR 2023), section 4, with a power of one:
    the logarithm of the score plus a number from Gumbel's distribution.
    """
    numbers = np.array(left, np.int64)
    doubt = entropy(probabilities[numbers])
    order = np.argsort(-(np.log(doubt + 1e-12) + random.gumbel(size=len(numbers))), kind="stable")
    likeliest = probabilities[numbers].argmax(axis=1)
    lines = [[at for at in order.tolist() if likeliest[at] == label] for label in range(probabilities.shape[1])]
    turns = ((turn, label, at) for label, line in enumerate(lines) for turn, at in enumerate(line))
    chosen = [at for _, _, at in sorted(turns)][:count]
    return [Chosen(int(numbers[at]), "entropy", round(float(doubt[at]), 4)) for at in chosen]


def _farthest(among: Candidates, count: int, random: np.random.Generator) -> list[Chosen]:
    """Each image is the farthest from all chosen before it (Sener and Savarese, ICLR 2018, algorithm 1)."""
    found: list[Chosen] = []
    if len(among.known):
        nearest = (among.embeddings @ among.known.T).max(axis=1)
    else:
        first = middles(among.embeddings, 1, random)[0]
        found.append(Chosen(first, "diversity"))
        nearest = among.embeddings @ among.embeddings[first]
        nearest[first] = np.inf
    while len(found) < count:
        number = int(nearest.argmin())
        found.append(Chosen(number, "diversity", round(1 - float(nearest[number]), 4)))
        nearest = np.maximum(nearest, among.embeddings @ among.embeddings[number])
        nearest[number] = np.inf  # not again, even if all that are left are as near, such as copies
    return found


def _disagreed(among: Candidates, count: int) -> list[Chosen]:
    seen = np.flatnonzero(~np.isnan(among.disagreement))
    if not len(seen):
        raise UsageError(
            "no remaining image was classified by two models, so there is nothing "
            "to disagree on; choose another --strategy"
        )
    order = seen[np.argsort(-among.disagreement[seen], kind="stable")][:count]
    return [
        Chosen(number, "disagreement", round(float(among.disagreement[number]), 4)) for number in order.tolist()
    ]
