"""What people decide of an image: read, added to, and out as a picture of the mask.

A reader who has not decided yet is told of no one else's decisions: two readers are blind to each other.
"""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dermbatch import layout
from dermbatch.images import png
from dermbatch.images.lesion import Mask
from dermbatch.records.outcome import ResultRecord
from dermbatch.records.review import Decision, Drawn, Feature, Seen, Text
from dermbatch.review.kept import decided, decisions, keep, latest, newer_results
from dermbatch.review.masks import of_runs, runs
from dermbatch.stages import Stage
from desk.api.answers import digest, json_of, tagged
from desk.api.images import TheRecord
from desk.desk import ThePerson, TheStore
from desk.door.rights import REVIEW, check
from desk.problems import Problem

router = APIRouter(prefix="/v1/batches/{batch}/images/{index}/decisions", tags=["review"])


class Said(BaseModel):
    """A decision as it is sent; who sends it and when is not taken from there."""

    model_config = ConfigDict(extra="forbid")

    version: int = Field(ge=1, description="one more than the reader's last of this image")
    kind: Literal["read", "adjudicate", "return"] = "read"
    stages: dict[Stage, str] = Field(description="keys of the results that lay before the reader")
    shown: bool = Field(description="whether the models' results were shown")
    blank: bool = Field(default=False, description="whether drawing began on an empty picture")
    despite: dict[Stage, str] = Field(default={}, description="keys of newer results that the reader was told of")
    diagnosis: list[Text] = []
    unsure: bool = False
    mask: list[int] | str | None = Field(
        default=None, description="COCO's run lengths of all of the picture, or a PNG of its size in Base64"
    )
    features: list[Feature] = []
    comment: str = Field(default="", max_length=10_000)
    to: str | None = None


@router.get("")
def read(
    batch: str, index: int, request: Request, record: TheRecord, store: TheStore, person: ThePerson
) -> Response:
    """The decisions of an image that the reader may see, the version that comes next, and what was run anew."""
    found = decisions(store, batch, index)
    mine = latest(found).get(person.name)
    open_to = found if mine is not None else [one for one in found if one.reader == person.name]
    stages = {stage: one.key for stage, one in record.stages.items()}
    return json_of(
        request,
        {
            "decisions": [one.model_dump(mode="json") for one in open_to],
            "hidden": len({one.reader for one in found}) - len({one.reader for one in open_to}),
            "next_version": 1 if mine is None else mine.version + 1,
            "stages": stages,
            "newer": newer_results(store, record.source.sha256, stages),
        },
    )


@router.post("", status_code=201)
def decide(
    batch: str,
    index: int,
    said: Annotated[Said, Body()],
    request: Request,
    record: TheRecord,
    store: TheStore,
    person: ThePerson,
) -> Response:
    """Keep a decision; sent once more it is the same one. 409 where it is not of what is there now.

    Who decides between readers, or gives an image back, is a reviewer.
    """
    if said.kind != "read":
        check(person, REVIEW)
    seen = Seen(sha256=record.source.sha256, stages=said.stages, shown=said.shown, blank=said.blank)
    before = decided(store, batch, index, person.name, said.version)
    asked = said.model_dump(include={"version", "kind", "despite", "diagnosis", "unsure", "comment", "to"})
    try:
        made = Decision(
            **asked,
            batch=batch,
            index=index,
            reader=person.name,
            made=datetime.now(UTC) if before is None else before.made,
            seen=seen,
            mask=_drawn(said.mask, record),
            features=tuple(said.features),
        )
    except ValidationError as error:
        raise Problem(400, "usage", str(error.errors()[0]["msg"]), at={"in": "body"}) from error
    keep(store, made)
    answer = json_of(request, made.model_dump(mode="json"))
    answer.status_code = 201
    return answer


@router.get("/{version}/mask.png")
def mask(batch: str, index: int, version: int, request: Request, store: TheStore, person: ThePerson) -> Response:
    """The mask of one of the reader's own decisions, 255 where lesion, pixel by pixel as it was drawn."""
    layout.check_batch_name(batch)
    found = decided(store, batch, index, person.name, version)
    if found is None or found.mask is None:
        raise Problem(404, "not_found", "there is no such decision, or no mask in it")
    drawn = of_runs(found.mask.counts, found.mask.height, found.mask.width)
    return tagged(request, digest(batch, index, version), png.encode(drawn), "image/png")


def _drawn(mask: list[int] | str | None, record: ResultRecord) -> Drawn | None:
    """What was sent as a mask of this picture.

    Raises:
        Problem: 400 where it is none, or of another size.
    """
    height, width = record.source.height, record.source.width
    if mask is None:
        return None
    try:
        counts = mask if isinstance(mask, list) else runs(_picture(mask, height, width))
        of_runs(counts, height, width)
    except ValueError as error:
        raise Problem(400, "bad_mask", f"{error}", at={"in": "body", "parameter": "mask"}) from error
    return Drawn(height=height, width=width, counts=tuple(counts))


def _picture(text: str, height: int, width: int) -> Mask:
    try:
        picture = png.decode(base64.b64decode(text, validate=True))
    except binascii.Error as error:
        raise ValueError("the mask is no Base64") from error
    if picture.shape != (height, width):
        raise ValueError(f"the mask is no PNG of one channel and {height} x {width} pixels")
    return picture
