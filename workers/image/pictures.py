"""The pictures of one image that stages pass on: newly made, or read back, and only on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dermbatch.errors import ArtifactDamaged, ObjectBrokeOff, ObjectNotFound
from dermbatch.images import png
from dermbatch.images.imagefile import Decode, SourceImage, read_image
from dermbatch.images.lesion import Mask
from dermbatch.pictures import whole
from dermbatch.records.marks import HEAD_BYTES, is_marked, own_result
from dermbatch.records.outcome import StageRecord
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from workers.image import artifacts

Image = NDArray[np.uint8]

SEEN, PATTERNS = "visualbackprop.png", "patterns.npy"
PURIFIED, MASK, BORDER, ENHANCED = "purified.png", "mask.png", "border.png", "enhanced.png"


class StaleArtifact(Exception):
    """An artifact that a record names is gone or unreadable: the stage must run again."""


def read_back(
    store: ObjectStore, record: StageRecord | None, name: str, source: Callable[[], Image] | None = None
) -> Image | None:
    """A picture that a stage made earlier; none if the stage is not asked for, or made none.

    Args:
        store: Has it.
        record: The stage's.
        name: Name of its file.
        source: Returns the source's pixels, for a picture that may be kept as a difference from them.

    Raises:
        StaleArtifact: If it is gone or unreadable.
    """
    if record is None or name not in record.artifacts:
        return None
    try:
        if source is not None and name in record.differences:
            return whole(store, record.differences[name], source)
        return png.decode(artifacts.load(store, record, name))
    except (ArtifactDamaged, ObjectBrokeOff, ObjectNotFound, ValueError) as error:
        raise StaleArtifact(record.artifacts[name]) from error


class Pictures:
    """The pictures of one image.

    A stage that runs sets what it made; anything else is read from the artifacts of earlier runs.

    Args:
        read: Returns the source object; called once, and only if its pixels are needed.
        max_pixels: Larger pictures are refused.
        store: Where earlier results lie.
        found: Records of the stages done earlier.
        frame: Which frame of the source object, from 1; none where it is one image.
        decode: Decodes the source.
    """

    def __init__(
        self,
        read: Callable[[], bytes],
        max_pixels: int,
        store: ObjectStore,
        found: Mapping[Stage, StageRecord],
        *,
        frame: int | None = None,
        decode: Decode = read_image,
    ) -> None:
        self._decode = decode
        self._read_source = read
        self._max_pixels = max_pixels
        self._store = store
        self._found = found
        self._frame = frame

    @cached_property
    def source(self) -> SourceImage:
        """The source image, decoded.

        Raises:
            BadInput: If it is no supported image, or takes too much to read.
        """
        body = self._read_source()
        if is_marked(body[:HEAD_BYTES]):
            raise own_result()
        return self._decode(body, max_pixels=self._max_pixels, frame=self._frame)

    @cached_property
    def purified(self) -> Image | None:
        """[H, W, 3] RGB; none where purification is not asked for."""
        return read_back(self._store, self._found.get(Stage.PURIFY), PURIFIED, lambda: self.source.pixels)

    @cached_property
    def mask(self) -> Mask | None:
        """[H, W], 255 where lesion; none where segmentation is not asked for."""
        return read_back(self._store, self._found.get(Stage.SEGMENT), MASK)

    @cached_property
    def enhanced(self) -> Image | None:
        """[h, w, 3] RGB; none where enhancement is not asked for, or there is no lesion."""
        return read_back(self._store, self._found.get(Stage.ENHANCE), ENHANCED)

    @cached_property
    def border(self) -> Image | None:
        """[h, w], probability x 255 by what tells borders; none where the model gives no such map."""
        return read_back(self._store, self._found.get(Stage.SEGMENT), BORDER)

    @property
    def clean(self) -> Image:
        """What later stages work on: the purified image if there is one, else the source."""
        return self.source.pixels if self.purified is None else self.purified

    @property
    def lesion(self) -> Mask:
        """The mask, for stages that require segmentation."""
        if self.mask is None:
            raise ValueError("segmentation must come first")
        return self.mask
