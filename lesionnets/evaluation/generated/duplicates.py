"""Whether generated pictures are copies of training pictures (Bisla et al. 2019, section 3.6).

Each is compared with all training pictures of its diagnosis, twice. By the mean squared error of pixels, as the
paper does, but over all eight mirrored and turned forms, as the error alone misses a mirrored copy. And by the
distance of the served classifier's embeddings of the whole pictures, which sees copies that are shifted, zoomed or
in another light. Refused is what is nearer to a training picture, by either, than nearly all training pictures are
to the nearest other one: the paper looks at pairs and names no threshold.
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
from lesionnets.evaluation.models.predictors import Model

QUANTILE = 0.01
"""Share of the training pictures that are nearer than the threshold to another one."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Nearest:
    """The nearest training picture of each, by one measure.

    Attributes:
        distances: [N].
        which: [N] index of the training picture.
    """

    distances: Floats
    which: npt.NDArray[np.int64]


def embeddings(model: Model, pictures: Sequence[Image]) -> Floats:
    """Float [N, D], of length one: the served classifier's, of whole pictures (with empty masks)."""
    return np.stack([embedding_of(model, one, np.zeros(one.shape[:2], np.uint8)) for one in pictures])


class EmbeddingFile:
    """Embeddings of originals, which a file keeps: each is computed once.

    Args:
        model: The classifier.
        size: Side to which pictures are squashed first, that of the generated ones.
        file: ``.npz``; read where it is there, of whatever model, size and pictures, and added to.

    Raises:
        UsageError: If it cannot be read.
    """

    def __init__(self, model: Model, size: int, file: Path | None = None) -> None:
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
        """Float [N, D] of images, each of length one.

        Raises:
            UsageError: If one cannot be read.
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
    """A square picture mirrored and turned by right angles: all eight, itself first."""
    turned = [np.rot90(picture, quarter) for quarter in range(4)]
    return [*turned, *(one[:, ::-1] for one in turned)]


def nearest_by_error(pictures: Sequence[Image], originals: Sequence[Image], *, same: bool = False) -> Nearest:
    """By the mean squared error over pixels and colours, each 0 to 1, of the best of eight forms.

    Args:
        pictures: Uint8 [S, S, 3] each.
        originals: Of the same size.
        same: They are the same pictures: the nearest other one.
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
    """By the cosine distance of embeddings, 0 to 2; arguments as :func:`nearest_by_error`'s."""
    return _nearest(cdist(pictures, originals, "cosine"), same=same)


def threshold(among_originals: Nearest) -> float:
    """Below it a picture is a copy: see the module."""
    return float(np.quantile(among_originals.distances, QUANTILE))


def write_histogram(path: Path, generated: Floats, originals: Floats, limit: float, title: str) -> None:
    """Distances to the nearest training picture, of generated pictures (blue) and training ones (grey), as PNG.

    Args:
        path: The file.
        generated: [N].
        originals: [M].
        limit: The threshold, a red line.
        title: Above it.
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
