"""Precision of similar cases by diagnosis, on a batch whose diagnoses are known: each image is asked about.

``python -m benchmarks.similar_cases --home .dermbatch --batch val --labels labels.csv``

Each image is compared with all others of the batch as an answer compares candidates. Beside that stand chance (the
share of the diagnosis among the others), and the whole lesion's cosine and the regions alone. In brackets: 95 %
percentile intervals of a bootstrap over images.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dermbatch.errors import PermanentError
from dermbatch.records.outcome import ResultRecord
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import named
from orchestrator.batches.outcomes import outcomes
from orchestrator.cli import options
from orchestrator.similar.answer import LOCAL, NEAR, embedding_of
from orchestrator.similar.patterns import Patterns, matches
from orchestrator.similar.picture import look_of

DRAWS = 2000

Shares = npt.NDArray[np.float64]
Names = npt.NDArray[np.str_]
Floats = npt.NDArray[np.float32]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--batch", required=True)
    parser.add_argument("--labels", type=Path, required=True, help="CSV with image_id and diagnosis")
    parser.add_argument("--count", type=int, default=5)
    asked = parser.parse_args()
    with asked.labels.open() as file:
        known = {row["image_id"]: row["diagnosis"] for row in csv.DictReader(file)}
    with options.results(asked.home) as store:
        names, embeddings, looks = _read(store, asked.batch)
    diagnoses = np.array([known[name] for name in names])
    cosine = embeddings @ embeddings.T
    local = _local(looks)
    near = (1 - LOCAL) * cosine + LOCAL * local
    shares = {name: _right(one, diagnoses, asked.count) for name, one in _named(near, cosine, local)}
    _print(diagnoses, shares)
    _print_sure(near, shares["given"])


def _named(near: Floats, cosine: Floats, local: Floats) -> list[tuple[str, Floats]]:
    return [("given", near), ("cosine", cosine), ("regions", local)]


def _read(store: ObjectStore, batch: str) -> tuple[list[str], Floats, list[Patterns]]:
    """Names, embeddings and local patterns of the images that can be asked about."""
    found, refused = [], 0
    for record in (outcome.record for outcome in outcomes(store, named(store, batch), done=True)):
        try:
            assert isinstance(record, ResultRecord)
            look = look_of(store, record)
            found.append((Path(record.name).stem, embedding_of(record)[1], look))
        except PermanentError:
            refused += 1
    print(f"images={len(found)} without_embedding_or_lesion={refused}")
    names, embeddings, looks = zip(*(one for one in found if one[2] is not None), strict=True)
    return list(names), np.stack(embeddings), list(looks)


def _local(looks: list[Patterns]) -> Floats:
    """[N, N]: how alike the regions of each are to those of each other."""
    return np.array(
        [[sum(m.counted for m in matches(one, other)) for other in looks] for one in looks], np.float32
    )


def _right(near: Floats, diagnoses: Names, count: int) -> Shares:
    """Of each image, the share of the nearest others that have its diagnosis."""
    order = near - 9 * np.eye(len(near), dtype=np.float32)
    top = np.argsort(-order, axis=1)[:, :count]
    return np.asarray((diagnoses[top] == diagnoses[:, None]).mean(axis=1))


def _print(diagnoses: Names, shares: dict[str, Shares]) -> None:
    others = len(diagnoses) - 1
    for diagnosis in [*np.unique(diagnoses).tolist(), "all"]:
        mine = np.ones(len(diagnoses), bool) if diagnosis == "all" else diagnoses == diagnosis
        chance = np.mean([((diagnoses == one).sum() - 1) / others for one in diagnoses[mine]])
        figures = " ".join(f"{name}={_with_interval(one[mine])}" for name, one in shares.items())
        less = _with_interval((shares["given"] - shares["cosine"])[mine])
        print(f"{diagnosis}: images={mine.sum()} {figures} chance={chance:.3f} given_minus_cosine={less}")


def _print_sure(near: Floats, given: Shares) -> None:
    best = (near - 9 * np.eye(len(near), dtype=np.float32)).max(axis=1)
    least, low, median = np.quantile(best, (0.01, 0.05, 0.5))
    sure = best >= NEAR
    print(f"best_similarity: 1 % {least:.2f}, 5 % {low:.2f}, median {median:.2f}")
    print(f"sure={sure.mean():.3f} right_sure={given[sure].mean():.3f} right_not_sure={given[~sure].mean():.3f}")


def _with_interval(shares: Shares) -> str:
    random = np.random.default_rng(0)
    drawn = shares[random.integers(0, len(shares), (DRAWS, len(shares)))].mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{shares.mean():.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
