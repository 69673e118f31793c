"""The page that compares a batch with earlier ones: one HTML file that needs no network and no other file.

Gathered image by image; only as many worst cases and changed diagnoses are kept as the page shows.
"""

from __future__ import annotations

import base64
import heapq
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.errors import PermanentError
from dermbatch.images.fitting import tile_size
from dermbatch.images.lesion import Mask
from dermbatch.records.asked import Batch
from dermbatch.records.outcome import ResultRecord
from dermbatch.stages import ORDER, Stage
from dermbatch.store import ObjectStore
from orchestrator.batches.outcomes import read_artifact
from orchestrator.reporting.comparison import Compared, model_name, read_mask
from orchestrator.reporting.report import Distribution, environment

WORST = 24
"""Images whose masks agree least, shown with pictures."""

CHANGES = 200
"""Changed diagnoses in the page's table, those whose probabilities changed most."""

_SIDE = 320
_OLD_RGB, _NEW_RGB = (255, 145, 0), (0, 230, 118)

Image = npt.NDArray[np.uint8]
_T = TypeVar("_T")


@dataclass(frozen=True)
class DiagnosisChange:
    """A diagnosis that has changed."""

    name: str
    earlier: str
    old: str
    new: str
    probability_change: float
    dice: float | None


class Differences:
    """Gathers what the page shows.

    Args:
        batch: The new batch.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._how = Counter[str]()
        self._dice = Distribution("Dice of old and new mask, where segmentation ran again")
        self._dice_total = 0.0
        self._labels = Counter[tuple[str, str]]()
        self._models = Counter[tuple[Stage, str, str]]()
        self._changes: list[tuple[float, int, DiagnosisChange]] = []
        self._worst: list[tuple[float, int, Compared]] = []

    def add(self, compared: Compared) -> None:
        """Take in one image."""
        self._how[compared.how] += 1
        for stage in ORDER:
            before, now = map(model_name, compared.models(stage))
            if before and now:
                self._models[stage, before, now] += 1
        self._add_dice(compared)
        self._add_label(compared)

    def _add_dice(self, compared: Compared) -> None:
        if compared.dice is None or compared.how == "identical" or _same_mask(compared):
            return
        self._dice.add(compared.dice)
        self._dice_total += compared.dice
        if compared.dice < 1:
            _keep(self._worst, WORST, (-compared.dice, -compared.index, compared))

    def _add_label(self, compared: Compared) -> None:
        old, new = compared.labels
        if old is None or new is None:
            return
        self._labels[old, new] += 1
        if old != new:
            by = compared.probability_change or 0.0
            earlier = f"{compared.earlier.batch} #{compared.earlier.index}"
            change = DiagnosisChange(compared.name, earlier, old, new, by, compared.dice)
            _keep(self._changes, CHANGES, (by, -compared.index, change))

    def html(self, store: ObjectStore) -> bytes:
        """The page as UTF-8; reads the pictures of the worst cases.

        Raises:
            StoreUnavailable, StoreRefused: If the store fails.
        """
        worst = [compared for _, _, compared in sorted(self._worst, key=lambda one: one[:2], reverse=True)]
        page = environment().get_template("comparison.html")
        return page.render(
            batch=self._batch,
            how=self._how,
            images=self._how.total(),
            changed=sum(number for (old, new), number in self._labels.items() if old != new),
            dice=self._dice,
            mean_dice=self._dice_total / self._dice.count if self._dice.count else None,
            labels=sorted(self._labels.items(), key=lambda pair: (pair[0][0] == pair[0][1], -pair[1], pair[0])),
            models=sorted(self._models.items(), key=lambda pair: (ORDER.index(pair[0][0]), -pair[1], pair[0][1:])),
            changes=[one for _, _, one in sorted(self._changes, key=lambda one: one[:2], reverse=True)],
            worst=[(compared, _picture(store, compared)) for compared in worst],
        ).encode()


def _keep(heap: list[tuple[float, int, _T]], most: int, item: tuple[float, int, _T]) -> None:
    """Keep the ``most`` largest items; ties are told apart by the second field, which no two share."""
    if len(heap) < most:
        heapq.heappush(heap, item)
    else:
        heapq.heappushpop(heap, item)


def _same_mask(compared: Compared) -> bool:
    """Whether segmentation was not run again, so that its Dice says nothing about the models."""
    old, new = (record.stages.get(Stage.SEGMENT) if record else None for record in (compared.old, compared.new))
    return old is not None and new is not None and old.key == new.key


def _picture(store: ObjectStore, compared: Compared) -> str:
    """JPEG in Base64: the image with the outlines of the old and the new lesion; empty if it cannot be made."""
    if compared.old is None or compared.new is None:
        return ""
    image = _read_image(store, compared.new)
    if image is None:
        return ""
    for record, colour in ((compared.old, _OLD_RGB), (compared.new, _NEW_RGB)):
        mask = read_mask(store, record)
        if mask is not None:
            _outline(image, mask, colour)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    return base64.b64encode(encoded.tobytes()).decode()


def _outline(image: Image, mask: Mask, colour: tuple[int, int, int]) -> None:
    small = cv2.resize(mask, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_AREA)
    outlines, _ = cv2.findContours((small >= 128).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, outlines, -1, colour, 2, cv2.LINE_AA)


def _read_image(store: ObjectStore, record: ResultRecord) -> Image | None:
    """The purified image, else the original in the record's preview; its long side scaled to ``_SIDE``."""
    image = None
    with suppress(PermanentError):
        image = _decoded(read_artifact(store, record, "purified.png"))
    if image is None:
        image = _first_tile(record)
    if image is None:
        return None
    scale = _SIDE / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _first_tile(record: ResultRecord) -> Image | None:
    """The original as the preview shows it: the first of its square tiles, without blank margins."""
    strip = _decoded(record.preview_jpeg or b"")
    if strip is None:
        return None
    side = strip.shape[0]
    rows, columns = tile_size(record.source.height, record.source.width, side)
    top, left = (side - rows) // 2, (side - columns) // 2
    return np.ascontiguousarray(strip[top : top + rows, left : left + columns])


def _decoded(body: bytes) -> Image | None:
    picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR) if body else None
    return None if picture is None else np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
