"""What people decide of an image: their mask, diagnosis and features, and what they had seen when they did."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dermbatch.records.asked import Record, Stored
from dermbatch.stages import Stage

Text = Annotated[str, Field(min_length=1, max_length=200)]


class DrawnMask(Record):
    """A mask: COCO's run lengths down the columns, background first. Every pixel comes back as it was drawn."""

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    counts: tuple[int, ...]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if any(count < 0 for count in self.counts[:1]) or any(count < 1 for count in self.counts[1:]):
            raise ValueError("a run is of at least one pixel, but the first")
        if sum(self.counts) != self.height * self.width:
            raise ValueError("the runs are of another number of pixels")
        return self


class Feature(Record):
    """A dermoscopic feature that was seen, in ISIC's terms; of all of the lesion where no region is drawn."""

    term: Text
    region: DrawnMask | None = None


class Seen(Record):
    """What lay before the reader.

    Attributes:
        sha256: Of the image.
        stages: The key of each stage's result, which names model, version and parameters.
        shown: Whether the models' results were shown.
        blank: Whether drawing began on an empty picture.
    """

    sha256: str
    stages: dict[Stage, str]
    shown: bool
    blank: bool


class Case(Record):
    """An image of a queue."""

    batch: str
    index: int = Field(ge=0)


class Queue(Stored):
    """Images that readers are to look at, in this order; never changed afterwards.

    Attributes:
        name: Of it.
        made, by: When and by whom it was made.
        how: What chose the images: the query and order, or the plan.
        cases: The images, known ones among them.
        readers: By how many each is to be read.
        blind: Whether the models' results are not shown before the reader has decided.
        blank_share: Of the cases, that a reader begins on an empty picture: a mask that is there anchors.
        known: Those of the cases whose answer is known, by adjudication; each reader is handed them once.
    """

    name: str
    made: datetime
    by: Text
    how: str = Field(default="", max_length=4000)
    cases: tuple[Case, ...] = Field(min_length=1, max_length=10_000)
    readers: int = Field(default=1, ge=1, le=10)
    blind: bool = False
    blank_share: float = Field(default=0.0, ge=0, le=1)
    known: tuple[Case, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len({(case.batch, case.index) for case in self.cases}) != len(self.cases):
            raise ValueError("an image is in a queue once")
        return self


class Unblinded(Stored):
    """That a reader saw what others decided of an image before they had decided: they are not blind any more."""

    batch: str
    index: int = Field(ge=0)
    reader: Text
    made: datetime


class Decision(Stored):
    """What one reader decided of one image, in one version; never changed afterwards.

    Attributes:
        batch, index: The image.
        reader: Whoever signed on.
        version: Of this reader's decisions of this image, from 1.
        kind: ``read``; ``adjudicate``, between others' readings; ``return``, for the reader to correct.
        made: When.
        seen: What lay before the reader.
        despite: The keys of newer results that the reader was told of and decided all the same.
        diagnosis: Labels; several where several are possible.
        unsure: Whether the reader is not sure.
        mask: Of the lesion; none where the reader said nothing of it.
        features: Seen in the lesion.
        comment: In the reader's words.
        to: Whose decision is returned.
    """

    batch: str
    index: int = Field(ge=0)
    reader: Text
    version: int = Field(ge=1)
    kind: Literal["read", "adjudicate", "return"] = "read"
    made: datetime
    seen: Seen
    despite: dict[Stage, str] = Field(default_factory=dict)
    diagnosis: tuple[Text, ...] = ()
    unsure: bool = False
    mask: DrawnMask | None = None
    features: tuple[Feature, ...] = ()
    comment: str = Field(default="", max_length=10_000)
    to: str | None = None

    @model_validator(mode="after")
    def _returned(self) -> Self:
        if (self.kind == "return") != (self.to is not None):
            raise ValueError("what is returned names whose decision it is, and nothing else does")
        return self
