"""What people decide about an image: mask, diagnosis and features, and what they had seen when they did."""

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
            raise ValueError("every run except the first has at least one pixel")
        if sum(self.counts) != self.height * self.width:
            raise ValueError("the runs do not add up to the number of pixels")
        return self


class Feature(Record):
    """A dermoscopic feature that was seen, in ISIC's terms; in the whole lesion if no region is drawn."""

    term: Text
    region: DrawnMask | None = None


class Seen(Record):
    """What the reader was shown.

    Attributes:
        sha256: SHA-256 of the image.
        stages: The key of each stage's result, which names model, version and parameters.
        shown: Whether the models' results were shown.
        blank: Whether drawing began on an empty picture.
    """

    sha256: str
    stages: dict[Stage, str]
    shown: bool
    blank: bool


class Case(Record):
    """An image in a queue."""

    batch: str
    index: int = Field(ge=0)


class Queue(Stored):
    """Images that readers are to look at, in this order; never changed afterwards.

    Attributes:
        name: Name of the queue.
        made, by: When and by whom it was made.
        how: What chose the images: the query and order, or the plan.
        cases: The images, known ones among them.
        readers: How many readers are to read each image.
        blind: Whether the models' results are hidden until the reader has decided.
        blank_share: Share of cases in which a reader starts without a mask, since an existing one anchors.
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
            raise ValueError("an image can be in a queue only once")
        return self


class Unblinded(Stored):
    """A note that a reader saw others' decisions about an image before deciding, and so is no longer blind."""

    batch: str
    index: int = Field(ge=0)
    reader: Text
    made: datetime


class Decision(Stored):
    """What one reader decided about one image, in one version; never changed afterwards.

    Attributes:
        batch, index: The image.
        reader: Whoever signed on.
        version: Number among this reader's decisions about this image, from 1.
        kind: ``read``; ``adjudicate``, between others' readings; ``return``, for the reader to correct.
        made: When.
        seen: What the reader was shown.
        despite: The keys of newer results that the reader was told about before deciding anyway.
        diagnosis: Labels; several where several are possible.
        unsure: Whether the reader is not sure.
        mask: Mask of the lesion; none if the reader said nothing about it.
        features: Seen in the lesion.
        comment: In the reader's words.
        to: The reader whose decision is returned.
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
            raise ValueError("a returned decision must name whose decision it is, and no other may")
        return self
