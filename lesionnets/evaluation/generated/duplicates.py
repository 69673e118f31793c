"""Whether generated pictures are copies of training pictures (Bisla et al. 2019, section 3.6).

Each is compared in two ways with all training pictures of its diagnosis. The mean squared error of pixels is the
paper's, but over all eight mirrored and turned forms, because the error alone misses a mirrored copy. The distance
of the served classifier's embeddings finds copies that are shifted, zoomed or in another light. A picture is
refused if, by either, it is nearer to a training picture than nearly all training pictures are to their nearest
other one. (The paper looks at pairs and names no threshold.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from dermbatch.errors import UsageError
from lesionnets.data.sources.isic import Image, Sample, read_image
from lesionnets.evaluation.classify import embedding_of
from lesionnets.evaluation.models.predictors import LoadedModel

QUANTILE = 0.01
"""Share of the training pictures that are nearer to another one than the threshold."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Nearest:
    """The nearest training picture of each picture, by one measure.

    Attributes:
        distances: [N].
        which: [N] indices of the training pictures.
    """

    distances: Floats
    which: npt.NDArray[np.int64]


def embeddings(model: LoadedModel, pictures: Sequence[Image]) -> Floats:
    """The served classifier's embeddings of whole pictures (with empty masks): float [N, D], of length 1."""
    return np.stack([embedding_of(model, one, np.zeros(one.shape[:2], np.uint8)) for one in pictures])


class EmbeddingFile:
    """Embeddings of originals, kept in a file so that each is computed only once.

    Args:
        model: The classifier.
        size: Side to which pictures are squashed first, the same as for the generated ones.
        file: ``.npz`` file; it is read if it exists, whatever models, sizes and pictures it holds, and extended.

    Raises:
        UsageError: If it cannot be read.
    """

    def __init__(self, model: LoadedModel, size: int, file: Path | None = None) -> None:
        self.model, self.size = model, size
        self._file, self._known = file, dict[str, Floats]()
        if file is not None and file.exists():
            try:
                with np.load(file) as held:
                    self._known = dict(
                        zip(held["names"].tolist(), held["vectors"].astype(np.float64), strict=True)
                    )
            except (OSError, ValueError, KeyError) as error:
                raise UsageError(f"{file} holds no embeddings; delete it, and it is created again") from error

    def __call__(self, samples: Sequence[Sample]) -> Floats:
        """Embeddings float [N, D] of images, each of length 1.

        Raises:
            UsageError: If an image cannot be read.
        """
        names = [f"{self.model.name}/{self.size}/{sample.image_id}" for sample in samples]
        missing = [at for at, name in enumerate(names) if name not in self._known]
        if missing:
            found = embeddings(self.model, [read_image(samples[at].image, self.size) for at in missing])
            self._known |= {names[at]: vector for at, vector in zip(missing, found, strict=True)}
            if self._file is not None:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                vectors = np.stack(list(self._known.values())).astype(np.float32)
                np.savez(self._file, names=np.array(list(self._known)), vectors=vectors)
        return np.stack([self._known[name] for name in names])


def forms(picture: Image) -> list[Image]:
    """All eight mirrored and turned forms of a square picture, itself first."""
    turned = [np.rot90(picture, quarter) for quarter in range(4)]
    return [*turned, *(one[:, ::-1] for one in turned)]


def nearest_by_error(pictures: Sequence[Image], originals: Sequence[Image], *, same: bool = False) -> Nearest:
    """The nearest by mean squared error over pixels and colours (0 to 1), taking the best of eight forms.

    Args:
        pictures: Uint8 [S, S, 3] each.
        originals: Originals of the same size.
        same: Whether both are the same pictures; then the nearest other one is found.
    """
    known = _flat(originals)
    best = np.full((len(pictures), len(originals)), np.inf)
    for form in zip(*(forms(picture) for picture in pictures), strict=True):
        rows = _flat(form)
        # As a product of matrices, which is ten times as fast as a difference for each pair.
        squares = (rows**2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2 * rows @ known.T
        best = np.minimum(best, squares.clip(0) / known.shape[1])
    return _nearest(best, same=same)


def nearest_by_embedding(pictures: Floats, originals: Floats, *, same: bool = False) -> Nearest:
    """The nearest by cosine distance of embeddings, 0 to 2; arguments as in :func:`nearest_by_error`."""
    return _nearest(cdist(pictures, originals, "cosine"), same=same)


def threshold(among_originals: Nearest) -> float:
    """The distance below which a picture counts as a copy: see the module."""
    return float(np.quantile(among_originals.distances, QUANTILE))


def write_histogram(path: Path, generated: Floats, originals: Floats, limit: float, title: str) -> None:
    """Write a PNG histogram of distances to the nearest training picture: generated in blue, training in grey.

    Args:
        path: The file.
        generated: [N].
        originals: [M].
        limit: The threshold, a red line.
        title: Title above the histogram.
    """
    top = float(max(generated.max(), np.quantile(originals, 0.98))) * 1.02
    width, height, bins = 480, 200, 40
    canvas = np.full((height + 50, width, 3), 255, np.uint8)
    for values, colour, offset in ((originals, (170, 170, 170), 0), (generated, (200, 110, 30), 5)):
        shares = np.histogram(values, bins, (0, top))[0] / len(values)
        for number, share in enumerate(shares):
            left = round(number * width / bins) + offset
            foot = height + 25
            peak = foot - round(share * height * 4) if share * 4 < 1 else 25
            cv2.rectangle(canvas, (left, peak), (left + 5, foot), colour, -1)
    at = round(limit / top * width)
    cv2.line(canvas, (at, 25), (at, height + 25), (0, 0, 220), 1)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(canvas, title, (6, 17), font, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    ends = ((4, "0"), (width - 60, f"{top:.3f}"), (min(at + 4, width - 130), f"limit {limit:.4f}"))
    for left, text in ends:
        cv2.putText(canvas, text, (left, height + 42), font, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.imwrite(str(path), canvas)


def _flat(pictures: Sequence[Image]) -> Floats:
    flat = np.stack([picture.reshape(-1) for picture in pictures])
    return np.asarray(flat, np.float64) / 255


def _nearest(distances: Floats, *, same: bool) -> Nearest:
    if same:
        np.fill_diagonal(distances, np.inf)
    which = distances.argmin(axis=1)
    return Nearest(distances[np.arange(len(distances)), which], which)
