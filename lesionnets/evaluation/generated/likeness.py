"""How similar to originals, and how varied, generated pictures are in the served classifier's embeddings.

The Frechet distance (Heusel et al. 2017), and precision and recall by manifolds of nearest neighbours
(Kynkaanniemi et al. 2019). All depend on the number of pictures, so sets of the same size are compared. For
reference there is what originals themselves reach: one half of the training pictures against the other, and
against validation pictures.
"""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from dermbatch.errors import UsageError
from lesionnets.evaluation.figures.frechet import Features, frechet_distance, precision_and_recall
from lesionnets.evaluation.figures.intervals import Figure, interval

DIMENSIONS = 32
"""Principal directions of the embeddings that are kept; hundreds of pictures give no covariance of 1,280."""
DRAWS = 50


def evaluate(training: Features, held_out: Features, generated: Features, *, seed: int = 0) -> dict[str, Figure]:
    """Means over random draws of subsets, each with the range of 95 % of the draws.

    Args:
        training: Embeddings of the diagnosis's training pictures, [N, D].
        held_out: Embeddings of its pictures that nothing was trained on.
        generated: Embeddings of generated pictures.
        seed: Seed of the draws.

    Returns:
        ``frechet_train``: generated against training pictures; ``frechet_train_halves``: the same number of
        training pictures against others; ``frechet_val``, ``frechet_val_of_train``: generated, and training
        pictures, against as many held out ones; ``precision``, ``recall``, and ``_of_train`` of both: a half of
        the training pictures taken for generated ones.

    Raises:
        UsageError: If there are too few pictures for a covariance.
    """
    if min(len(training) // 2, len(held_out), len(generated)) < 2:
        raise UsageError(
            f"{len(training)} training, {len(held_out)} validation, {len(generated)} generated pictures are too "
            "few to compare"
        )
    directions = PCA(min(DIMENSIONS, *training.shape), random_state=0).fit(training)
    training, held_out, generated = (directions.transform(part) for part in (training, held_out, generated))
    random = np.random.default_rng(seed)
    count = min(len(training) // 2, len(generated))
    few = min(len(held_out), count)
    drawn: dict[str, list[float]] = {}
    for _ in range(DRAWS):
        order = random.permutation(len(training))
        one, other = training[order[:count]], training[order[count : 2 * count]]
        made = generated[random.choice(len(generated), count, replace=False)]
        apart = held_out[random.choice(len(held_out), few, replace=False)]
        precision, recall = precision_and_recall(one, made)
        of_train = precision_and_recall(one, other)
        found = {
            "frechet_train": frechet_distance(one, made),
            "frechet_train_halves": frechet_distance(one, other),
            "frechet_val": frechet_distance(apart, made[:few]),
            "frechet_val_of_train": frechet_distance(apart, one[:few]),
            "precision": precision,
            "recall": recall,
            "precision_of_train": of_train[0],
            "recall_of_train": of_train[1],
        }
        for name, value in found.items():
            drawn.setdefault(name, []).append(value)
    return {name: interval(float(np.mean(values)), values) for name, values in drawn.items()}
