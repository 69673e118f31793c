"""Which pictures are flagged ``not_dermoscopic`` and get no diagnosis: lesions, changed ones, and other things.

``python -m benchmarks.strange --data DATA [--out rows.csv] [--repository DIR] [--purify NAME] [--unpurified]``
``python -m benchmarks.strange --smoke``: a fortieth of what is drawn, as a test

Every picture is purified, segmented and classified by the stages of the worker, in this process. ``DATA`` holds
the folders ``isic2017``, ``isic2018_extra``, ``isic_native``, ``ham10000``, ``dicom_isic2020``,
``dicom_testfiles`` and ``openclipart``. Drawings and choices have fixed seeds, so that two runs are of the same
pictures: other models (``--repository``, ``--purify``), and pictures that are not purified, can be compared row
by row.

Printed is a row a kind: how many pictures it has, how many of them are flagged with a 95 % interval of the share
(Wilson), and the median and the largest distance, 1 being the limit.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from benchmarks.arguments import read_arguments
from benchmarks.strange.drawings import Image
from benchmarks.strange.kinds import Kind, drawn_kinds, real_kinds
from dermbatch.models.repository import default_model_repository
from dermbatch.records.asked import ModelChoice
from dermbatch.settings import DEFAULT_MODELS
from dermbatch.stages import Stage
from workers.image.quality import quality_flags
from workers.inference.onnx import OnnxRuntime
from workers.stages.classify import ClassifyParameters, classify
from workers.stages.purify import PurifyParameters, purify
from workers.stages.segment import SegmentParameters, segment

FLAG = "not_dermoscopic"


@dataclass(frozen=True)
class Row:
    """What became of a picture.

    Attributes:
        kind: Its kind's name.
        picture: Its own.
        distance: From dermoscopic images, 1 being the limit.
        flagged: Whether it gets no diagnosis.
        occluded: Share of its pixels that purification replaced.
    """

    kind: str
    picture: str
    distance: float
    flagged: bool
    occluded: float


def main() -> None:
    """Print the table, kind by kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds the real pictures' folders")
    parser.add_argument("--repository", type=Path, help="models; by default those that ship")
    parser.add_argument("--purify", help="name of another purifier in the repository")
    parser.add_argument("--unpurified", action="store_true", help="leave purification out")
    parser.add_argument("--only", default="", help="kinds whose names hold this")
    parser.add_argument("--out", type=Path, help="CSV file of a row a picture, to be written")
    asked = read_arguments(parser)
    kinds = ([] if asked.smoke else real_kinds(asked.data)) + drawn_kinds(40 if asked.smoke else 1)
    chosen = {**DEFAULT_MODELS, Stage.PURIFY: ModelChoice(name=asked.purify)} if asked.purify else DEFAULT_MODELS
    judge = Judge(asked.repository or default_model_repository(), chosen, purified=not asked.unpurified)
    rows: list[Row] = []
    print(
        "| Kind | Group | Pictures | Flagged | Median distance | Largest |\n|---|---|---|---|---|---|", flush=True
    )
    for kind in kinds:
        if asked.only in kind.name and (found := judge.rows(kind)):
            print(line(kind, found), flush=True)
            rows += found
    if asked.out:
        with asked.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(Row.__annotations__))
            writer.writeheader()
            writer.writerows(map(asdict, rows))


def line(kind: Kind, rows: Sequence[Row]) -> str:
    """A kind's row of the table."""
    flagged = sum(row.flagged for row in rows)
    share = binomtest(flagged, len(rows)).proportion_ci(method="wilson")
    told = f"{flagged} ({100 * flagged / len(rows):.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}])"
    distances = [row.distance for row in rows]
    median, largest = statistics.median(distances), max(distances)
    return f"| {kind.name} | {kind.group} | {len(rows)} | {told} | {median:.3f} | {largest:.3f} |"


class Judge:
    """The stages as a worker runs them, without a store.

    Args:
        repository: Of models.
        chosen: The model of each stage.
        purified: Whether pictures are purified before all else.
    """

    def __init__(self, repository: Path, chosen: Mapping[Stage, ModelChoice], *, purified: bool) -> None:
        self._client, self._chosen, self._purified = OnnxRuntime(repository), chosen, purified

    def rows(self, kind: Kind) -> list[Row]:
        """What becomes of a kind's pictures."""
        return [self._row(kind, name, image) for name, image in kind.pictures()]

    def _row(self, kind: Kind, name: str, image: Image) -> Row:
        purifier, segmenter, classifier = (
            self._client.model(stage, self._chosen[stage])
            for stage in (Stage.PURIFY, Stage.SEGMENT, Stage.CLASSIFY)
        )
        occluded = 0.0
        if self._purified:
            clean = purify(image, self._client, purifier, PurifyParameters.of(purifier))
            image, occluded = clean.image, clean.output.occluded_fraction
        mask = np.zeros(image.shape[:2], np.uint8)
        if kind.masked:
            mask = segment(image, self._client, segmenter, SegmentParameters.of(segmenter)).mask
        output = classify(image, mask, self._client, classifier, ClassifyParameters.of(classifier)).output
        if output.distance is None:
            raise SystemExit(f"{classifier.name} tells no distance from dermoscopic images")
        return Row(kind.name, name, output.distance, FLAG in quality_flags([output]), occluded)


if __name__ == "__main__":
    main()
