"""What images that were chosen bring, against images by chance: reviewing is simulated, labels are the reader.

``python -m benchmarks.active_learning --data DATA [--seeds 60] [--embeddings FILE.npz] [--json FILE]``
``python -m benchmarks.active_learning --smoke``: drawn pictures and two seeds, as a test

The encoder is ImageNet's and stays as it is (EfficientNet-Lite0, on the view of the lesion and that of the
picture, with experts' masks): it has seen no label of these images, as the encoder that ships has. So an image is
a vector once and for all, and a classifier is a logistic regression, which is cheap to refit after each plan.

A seed halves the labelled images at random: one half may be chosen from, the other one, and all of val, is
measured on. Plans are made as ``dermbatch review plan`` makes them, 25 images at a time, each with the classifier
of what was read before; the first ones without any. Disagreement is that of five regressions on resamplings of
what was read.

Printed are means over the seeds and, in brackets, the 95 % percentile interval of their mean by a bootstrap over
seeds; ``against`` is the difference to chance in the same seed. Seeds share the same images, so intervals say
what the strategy does on this archive, and less of what it would do on another.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from benchmarks.arguments import read_arguments
from dermbatch.phantoms.phantom import phantom
from dermbatch.records.plan import Strategy
from dermbatch.review.choosing import Candidates, Floats, choose, divergence
from lesionnets.data.batches.in_memory import load_album
from lesionnets.data.batches.looked_at import plain_views
from lesionnets.data.sources.folds import all_samples
from lesionnets.data.sources.isic import DIAGNOSES, Sample
from lesionnets.evaluation.figures.intervals import bootstrap_mean
from lesionnets.evaluation.figures.ranking import auc_by_class
from lesionnets.nets.classify.lite import LiteClassifier
from lesionnets.nets.efficient_lite import load_imagenet

Labels = npt.NDArray[np.int64]

STRATEGIES: tuple[Strategy, ...] = ("entropy", "diversity", "disagreement", "random")
A_PLAN = 25
TOLD = (50, 100, 200)
DIMENSIONS = 128
STRENGTH = 10.0
"""Inverse of the regression's regularisation, on dimensions of variance one in the mean."""
COMMITTEE = 5
SIDE, MARGIN = 224, 9 / 7
MELANOMA = DIAGNOSES.index("melanoma")
FIGURES = ("auc_melanoma", "mean_auc", "melanomas")


def main() -> None:
    """Print the curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="in the layout of docs/data.md")
    parser.add_argument("--embeddings", type=Path, help="written where it is not there, else read")
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--json", type=Path, help="figures, to be written")
    asked = read_arguments(parser)
    plan, sizes = (4, (4, 8)) if asked.smoke else (A_PLAN, (25, *TOLD))
    vectors, labels, held_out = _embedded(asked)
    seeds = 2 if asked.smoke else asked.seeds
    runs = {
        strategy: np.array(
            [list(_run(vectors, labels, held_out, strategy, seed, plan, sizes)) for seed in range(seeds)]
        )
        for strategy in STRATEGIES
    }
    figures = list(_figures(runs, sizes))
    for line in figures:
        print(" ".join(f"{name}={value}" for name, value in line.items()))
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2))


def _figures(runs: dict[Strategy, npt.NDArray[np.float64]], sizes: tuple[int, ...]) -> Iterator[dict[str, str]]:
    """A line for each strategy and number of images; runs are [seeds, sizes, figures]."""
    for strategy, found in runs.items():
        for at, size in enumerate(sizes):
            line = {"strategy": str(strategy), "images": str(size)}
            for number, name in enumerate(FIGURES):
                line[name] = _told(found[:, at, number])
                if strategy != "random":
                    line[f"{name}_against"] = _told(found[:, at, number] - runs["random"][:, at, number])
            yield line


def _told(values: npt.NDArray[np.float64]) -> str:
    return str(bootstrap_mean(values.tolist())).replace(" ", "")


# A seed


def _run(
    vectors: Floats,
    labels: Labels,
    held_out: npt.NDArray[np.bool_],
    strategy: Strategy,
    seed: int,
    plan: int,
    sizes: tuple[int, ...],
) -> Iterator[tuple[float, float, float]]:
    """Read plan by plan; at each size the AUC of melanoma, the mean AUC, and how many melanomas were read."""
    halves = np.random.default_rng(seed)  # the same for all strategies
    inside = halves.permutation(np.flatnonzero(~held_out))
    pool, measured = inside[: len(inside) // 2], np.append(inside[len(inside) // 2 :], np.flatnonzero(held_out))
    random = np.random.default_rng([seed, 1])
    read: list[int] = []
    while len(read) < max(sizes):
        read += _planned(vectors, labels, pool, read, strategy, plan, random)
        if len(read) in sizes:
            model = _fitted(vectors[read], labels[read])
            shares = _shares(model, vectors[measured]).astype(np.float32)
            found = auc_by_class(shares, labels[measured])
            yield found["auc_melanoma"], found["mean_auc"], float((labels[read] == MELANOMA).sum())


def _planned(
    vectors: Floats,
    labels: Labels,
    pool: Labels,
    read: list[int],
    strategy: Strategy,
    plan: int,
    random: np.random.Generator,
) -> list[int]:
    left = np.setdiff1d(pool, read)
    among = Candidates(_directions(vectors[left]), np.full((len(left), len(DIAGNOSES)), 1 / 3, np.float32))
    if read:
        shares = _shares(_fitted(vectors[read], labels[read]), vectors[left])
        among = replace(among, probabilities=shares, known=_directions(vectors[read]))
    if read and strategy == "disagreement":
        among = replace(among, disagreement=_disagreement(vectors[read], labels[read], vectors[left], random))
    how: Strategy = "entropy" if strategy == "disagreement" and not read else strategy
    return [int(left[one.number]) for one in choose(among, how, plan, random)]


def _disagreement(
    read: Floats, labels: Labels, left: Floats, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    drawn = (random.integers(0, len(read), len(read)) for _ in range(COMMITTEE))
    divergences = [_shares(_fitted(read[chosen], labels[chosen]), left) for chosen in drawn]
    return np.array([divergence(several) for several in zip(*divergences, strict=True)])


def _fitted(vectors: Floats, labels: Labels) -> LogisticRegression | int:
    """The classifier of what was read; where that is all of one class, the class."""
    if len(np.unique(labels)) == 1:
        return int(labels[0])
    return LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=200).fit(vectors, labels)


def _shares(model: LogisticRegression | int, vectors: Floats) -> Floats:
    """Probabilities [N, 3]; 0 of classes that were not read."""
    found = np.zeros((len(vectors), len(DIAGNOSES)), np.float32)
    if isinstance(model, int):
        found[:, model] = 1
    else:
        found[:, model.classes_] = model.predict_proba(vectors)
    return found


def _directions(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


# Embeddings


def _embedded(asked: argparse.Namespace) -> tuple[Floats, Labels, npt.NDArray[np.bool_]]:
    """Vectors [N, DIMENSIONS or fewer], labels [N], and which are of val."""
    if asked.embeddings and asked.embeddings.exists():
        held = np.load(asked.embeddings)
        return _reduced(held["vectors"]), held["labels"], held["held_out"]
    with TemporaryDirectory() as folder:
        parts = (
            _drawn(Path(folder)) if asked.smoke else [all_samples(asked.data, part) for part in ("train", "val")]
        )
        parts = [[one for one in part if one.diagnosis] for part in parts]
        samples = [one for part in parts for one in part]
        vectors = np.concatenate(list(_vectors(samples, smoke=asked.smoke)))
    labels = np.array([DIAGNOSES.index(str(one.diagnosis)) for one in samples])
    held_out = np.arange(len(samples)) >= len(parts[0])
    print(f"images={len(samples)} held_out={held_out.sum()} melanomas={(labels == MELANOMA).sum()}")
    if asked.embeddings:
        np.savez(asked.embeddings, vectors=vectors, labels=labels, held_out=held_out)
    return _reduced(vectors), labels, held_out


@torch.no_grad()
def _vectors(samples: list[Sample], *, smoke: bool) -> Iterator[Floats]:
    """[n, 4 x 1280] a block: pooled over lesion and view, of both views."""
    model, side = LiteClassifier(0, len(DIAGNOSES), SIDE).eval(), 64 if smoke else SIDE
    if not smoke:
        load_imagenet(model.encoder, 0)
    pooled: list[torch.Tensor] = []
    model.dropout.register_forward_hook(lambda _, inputs, __: pooled.append(inputs[0]))
    for start in range(0, len(samples), 32):
        album = load_album(samples[start : start + 32], round(side * MARGIN))
        for share in (0.0, 1.0):
            model(*plain_views(album, side, share))
        yield torch.cat(pooled, dim=1).numpy()
        pooled.clear()


def _reduced(vectors: Floats) -> Floats:
    """The first principal directions of all images, without labels; of variance 1 in the mean."""
    least = min(DIMENSIONS, len(vectors))
    found = PCA(least, svd_solver="randomized", random_state=0).fit_transform(_directions(vectors))
    return np.asarray(found / found.std(), np.float32)


def _drawn(folder: Path) -> list[list[Sample]]:
    """Phantoms with diagnoses in turn: 30 to read, 9 to measure on."""
    samples = []
    for number in range(39):
        drawn, path = phantom(number, height=64, width=64), folder / f"PH_{number}.png"
        cv2.imwrite(str(path), drawn.image[:, :, ::-1])
        mask = path.with_name(f"PH_{number}_segmentation.png")
        cv2.imwrite(str(mask), drawn.lesion.astype(np.uint8) * 255)
        samples.append(Sample(path.stem, path, mask, DIAGNOSES[number % 3]))
    return [samples[:30], samples[30:]]


if __name__ == "__main__":
    main()
