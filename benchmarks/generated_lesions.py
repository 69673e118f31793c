"""Do purified and generated pictures help a classifier (Bisla et al. 2019, section 3.8; S6), beside one without?

``python -m benchmarks.generated_lesions --data DATA --fold 4=DIR,DIR [--fold 3=DIR] [--json FILE]``
``python -m benchmarks.generated_lesions --smoke``: drawn pictures and a few steps, as a test

A ResNet-50 learns from scratch, on whole pictures, and is measured on a source that it has not seen
(:mod:`lesionnets.data.sources.folds`), with the same number of steps, seed and views in each arm:

- ``all``: originals, their purified copies, and of scarce diagnoses generated pictures until each diagnosis is as
  frequent as the others: the paper's;
- ``without_generated``: originals and purified copies as frequent as they are;
- ``without_purified``: originals and generated pictures, balanced likewise;
- ``oversampled``: originals and purified copies, each diagnosis as often as the others: plain oversampling.

``DIR`` is a folder that ``lesionnets generate`` made, of one diagnosis, by a generator that has not seen the
source either (``--leave-out``), else it would tell of the pictures that are measured on. Pictures are purified
once, by the model that serves (``--work`` keeps them), and all are brought to one size: sharpness tells nothing.

Printed are AUCs with 95 % bootstrap intervals over pictures, drawn within source and diagnosis, and of ``all``
less each other arm, image by image; of several folds the mean. One training an arm: what another seed would give
is not in the intervals.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.arguments import read_arguments
from benchmarks.figures import over_folds, ranked, tell
from dermbatch.phantoms.phantom import phantom
from dermbatch.stages import Stage
from lesionnets import checkpoint
from lesionnets.data.batches.lesion_views import Lesion, Views, random_view, stack
from lesionnets.data.prefetch import epoch_random, prefetched
from lesionnets.data.sources.folds import all_samples, fold
from lesionnets.data.sources.isic import DIAGNOSES, Image, Sample, find_samples, read_image
from lesionnets.evaluation.choosing.diagnosis import DiagnosisValidation
from lesionnets.evaluation.figures.intervals import Figure
from lesionnets.evaluation.models.predictors import default_model, load_model
from lesionnets.nets.classify.resnet import ResNet50
from lesionnets.training import TrainingRun, fit

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

ARMS = ("all", "without_generated", "without_purified", "oversampled")
ORIGINAL, PURIFIED, GENERATED = range(3)
WIDTH, RATE, BATCH = 0.25, 1e-3, 32
PURIFIED_AT = 128
"""Side at which pictures are purified, pixels: hair is seen at it, and a picture takes a tenth of a second."""


class ArmPictures:
    """All that an arm may draw from.

    Args:
        lesions: In memory, with empty masks.
        kinds: [N] :data:`ORIGINAL`, :data:`PURIFIED` or :data:`GENERATED`.
    """

    def __init__(self, lesions: Sequence[Lesion], kinds: Sequence[int]) -> None:
        self.lesions = list(lesions)
        self.kinds = torch.tensor(kinds)
        self.labels = torch.tensor([lesion.label for lesion in lesions])

    def chances(self, arm: str) -> Tensor:
        """How often an arm draws each picture, [N]."""
        real = self.kinds != GENERATED
        if arm == "without_purified":
            real = self.kinds == ORIGINAL
        counts = torch.bincount(self.labels[real], minlength=len(DIAGNOSES)).double()
        if arm == "without_generated":
            return real.double()
        chances = real / counts[self.labels].clamp_min(1)
        if arm == "oversampled":
            return chances
        # Originals are as frequent as they are; generated pictures make up what a scarce diagnosis lacks.
        missing = 1 - counts / counts.max()
        made = self.kinds == GENERATED
        there = torch.bincount(self.labels[made], minlength=len(DIAGNOSES)).double()
        missing = torch.where(there > 0, missing, torch.zeros_like(missing))
        return chances * (1 - missing)[self.labels] + made * (missing / there.clamp_min(1))[self.labels]


class DrawnViews:
    """Batches of random views, drawn by chances; one epoch is all of the training."""

    def __init__(self, pictures: ArmPictures, chances: Tensor, size: int, steps: int, batch: int) -> None:
        self.pictures, self.chances, self.size, self.steps, self.batch = pictures, chances, size, steps, batch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Views]:
        random = epoch_random()
        rows = torch.multinomial(self.chances, self.steps * self.batch, replacement=True)
        return prefetched(self._batches(rows.reshape(self.steps, self.batch).tolist(), random))

    def _batches(self, batches: list[list[int]], random: np.random.Generator) -> Iterator[Views]:
        for rows in batches:
            chosen = [self.pictures.lesions[row] for row in rows]
            yield stack([random_view(lesion, self.size, random) for lesion in chosen], chosen)


def main() -> None:
    """Train what is not trained yet, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="in the layout of docs/data.md")
    parser.add_argument("--fold", action="append", default=[], metavar="SOURCE=DIR,DIR")
    parser.add_argument("--size", type=int, default=64, help="side of all pictures, pixels")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--most", type=int, default=1000, help="originals of a diagnosis")
    parser.add_argument("--seed", type=int, default=2017)
    parser.add_argument("--work", type=Path, help="keeps purified pictures and trainings, to go on from")
    parser.add_argument("--json", type=Path, help="figures, to be written")
    asked = read_arguments(parser, folds=True)
    with TemporaryDirectory() as scratch:
        asked.work = asked.work or Path(scratch)
        if asked.smoke:
            asked.size, asked.steps = 32, 2
        parts = [_smoke_fold(asked)] if asked.smoke else [_fold(asked, told) for told in asked.fold]
    tell(measured(parts), asked.json)


def measured(parts: Sequence[tuple[Labels, Mapping[str, Floats]]]) -> dict[str, Figure]:
    """Figures of each arm, and of ``all`` less each other one: see :func:`benchmarks.figures.over_folds`.

    Args:
        parts: Of each fold the labels [N] and each arm's probabilities [N, 3].
    """
    folds = [(labels, {arm: ranked(scores[arm], labels) for arm in ARMS}) for labels, scores in parts]
    return over_folds(folds, [("all", arm) for arm in ARMS[1:]])


def _fold(asked: argparse.Namespace, told: str) -> tuple[Labels, dict[str, Floats]]:
    """Train all arms without a source, and what they say of its pictures."""
    source, _, folders = told.partition("=")
    samples = [one for one in all_samples(asked.data, "train") if one.diagnosis]
    outside, inside = fold(samples, int(source))
    outside = _at_most(outside, asked.most)
    generated = [sample for folder in folders.split(",") if folder for sample in _generated(Path(folder))]
    purified = _purified(outside, asked.work / "purified")
    return _arms(asked, outside, purified, generated, inside, f"fold{source}")


def _at_most(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many of a diagnosis, always the same ones."""
    order = np.random.default_rng(0).permutation(len(samples))
    by_class: dict[str, list[Sample]] = {}
    for number in order:
        by_class.setdefault(str(samples[number].diagnosis), []).append(samples[number])
    return [sample for several in by_class.values() for sample in several[:most]]


def _generated(folder: Path) -> list[Sample]:
    diagnosis = json.loads((folder / "manifest.json").read_text())["diagnosis"]
    found = [one for one in find_samples(folder) if one.image_id.startswith("synthetic_")]
    return [Sample(one.image_id, one.image, diagnosis=diagnosis) for one in found]


def _purified(samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """The purified copy of each, made where it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    model = load_model(default_model(Stage.PURIFY), Stage.PURIFY)
    copies = []
    for sample in samples:
        path = folder / f"{sample.image_id}.png"
        if not path.exists():
            cleaned = model(IMAGE=read_image(sample.image, PURIFIED_AT))["PURIFIED"]
            cv2.imwrite(str(path), cleaned[:, :, ::-1])
        copies.append(Sample(sample.image_id, path, diagnosis=sample.diagnosis))
    return copies


def _arms(
    asked: argparse.Namespace,
    originals: Sequence[Sample],
    purified: Sequence[Sample],
    generated: Sequence[Sample],
    held_out: Sequence[Sample],
    name: str,
) -> tuple[Labels, dict[str, Floats]]:
    """Each arm's probabilities of the pictures held out, [N, 3]."""
    size = asked.size
    several = ((ORIGINAL, originals), (PURIFIED, purified), (GENERATED, generated))
    pictures = ArmPictures(
        [_lesion(sample, size) for _, samples in several for sample in samples],
        [kind for kind, samples in several for _ in samples],
    )
    print(f"{name}: {len(originals)} originals, {len(generated)} generated, {len(held_out)} held out", flush=True)
    validation = DiagnosisValidation([_lesion(sample, size) for sample in held_out], size)
    scores = {}
    for arm in ARMS:
        batches = DrawnViews(pictures, pictures.chances(arm), size, asked.steps, 8 if asked.smoke else BATCH)
        best = _train(asked, batches, validation, asked.work / f"{name}_{arm}")
        with torch.inference_mode():
            logits = validation.logits(checkpoint.load(best).build())
        scores[arm] = logits.double().softmax(dim=1).numpy()
    return validation.labels.numpy(), scores


def _train(asked: argparse.Namespace, batches: DrawnViews, validation: DiagnosisValidation, out: Path) -> Path:
    """One training; the last average of its weights counts, so that nothing is chosen by the source held out."""
    torch.manual_seed(asked.seed)
    hyper = {"width": 0.125 if asked.smoke else WIDTH, "diagnoses": DIAGNOSES, "size": asked.size}
    model = ResNet50(**hyper)

    def loss_step(model: nn.Module, batch: Views) -> Tensor:
        images, _, labels = batch
        return functional.cross_entropy(model(images.float() / 255)[0].float(), labels, label_smoothing=0.1)

    return fit(
        model,
        loss_step,
        batches,
        validation,
        run=TrainingRun("classify_resnet", checkpoint.name_of(ResNet50), hyper, out, best_by="mean_auc"),
        optimiser=torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05),
        epochs=1,
        ema_decay=0.97,
        seed=asked.seed,
        resume=True,
    ).best


def _lesion(sample: Sample, size: int) -> Lesion:
    picture: Image = read_image(sample.image, size)
    return Lesion(picture, (np.zeros((size, size), np.uint8),), DIAGNOSES.index(str(sample.diagnosis)))


def _smoke_fold(asked: argparse.Namespace) -> tuple[Labels, dict[str, Floats]]:
    """The same of phantoms; half of them stand for what else an arm draws from."""
    samples = []
    for number in range(18):
        path = asked.work / f"PH_{number}.png"
        cv2.imwrite(str(path), phantom(number, height=48, width=48).image[:, :, ::-1])
        samples.append(Sample(path.stem, path, diagnosis=DIAGNOSES[number % 3]))
    purified = _purified(samples[:3], asked.work / "purified")
    return _arms(asked, samples[:9], purified, samples[9:12], samples[12:], "smoke")


if __name__ == "__main__":
    main()
