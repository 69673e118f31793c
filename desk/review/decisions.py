"""What people decide of an image: read, and added to.

A reader who has not decided yet learns no one else's decisions: two readers are blind to each other.
"""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dermbatch import layout
from dermbatch.errors import LedgerUnavailable, ReviewConflict
from dermbatch.images.lesion import Mask
from dermbatch.records.outcome import ResultRecord
from dermbatch.records.review import Case, Decision, DrawnMask, Feature, Seen, Text, Unblinded
from dermbatch.review.files import mask_of_png
from dermbatch.review.kept import decided, decisions, has_opened, keep, latest, newer_results, note_opened
from dermbatch.review.leases import Leases
from dermbatch.review.masks import checked, runs
from dermbatch.review.terms import FEATURES
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from desk.api.answers import json_of
from desk.api.images import TheRecord
from desk.desk import ThePerson, TheStore
from desk.door.rights import REVIEW, check
from desk.problems import Problem
from desk.review.queues import TheLeases

_log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/batches/{batch}/images/{index}/decisions", tags=["review"])


class SentDecision(BaseModel):
    """A decision as it is sent; who sends it and when is not taken from there."""

    model_config = ConfigDict(extra="forbid")

    version: int = Field(ge=1, description="one more than the reader's last version for this image")
    kind: Literal["read", "adjudicate", "return"] = "read"
    stages: dict[Stage, str] = Field(description="keys of the results that the reader saw")
    shown: bool = Field(description="whether the models' results were shown")
    blank: bool = Field(default=False, description="whether drawing started on an empty picture")
    despite: dict[Stage, str] = Field(
        default={}, description="keys of newer results that the reader was told about"
    )
    diagnosis: list[Text] = []
    unsure: bool = False
    mask: list[int] | str | None = Field(
        default=None,
        description="mask as COCO's run lengths of the whole picture, or as a PNG of its size in Base64",
    )
    features: list[Feature] = []
    comment: str = Field(default="", max_length=10_000)
    to: str | None = None


@router.get("")
def read(
    batch: str,
    index: int,
    request: Request,
    record: TheRecord,
    store: TheStore,
    person: ThePerson,
    leases: TheLeases,
    everything: Annotated[
        bool,
        Query(
            alias="open",
            description="whether to return others' decisions too, before deciding; "
            "the reader is then no longer blind",
        ),
    ] = False,
) -> Response:
    """The decisions of an image that the reader may see, the next version, and what has run again since.

    Who decides between readers is a reviewer: nobody else sees others' decisions before their own.
    """
    if everything:
        check(person, REVIEW)
    found = decisions(store, batch, index)
    mine = latest(found).get(person.name)
    if everything and mine is None and found:
        note_opened(store, Unblinded(batch=batch, index=index, reader=person.name, made=datetime.now(UTC)))
        leases.done(Case(batch=batch, index=index), person.name, "opened")
    open_to = found if everything or mine is not None else [one for one in found if one.reader == person.name]
    stages = {stage: one.key for stage, one in record.stages.items()}
    hidden = len({one.reader for one in found}) - len({one.reader for one in open_to})
    return json_of(
        request,
        {
            "decisions": [one.model_dump(mode="json") for one in open_to],
            # Known cases are those of which somebody has decided: who only reads is not told which they are.
            "hidden": hidden if mine is not None or person.may(*REVIEW) else None,
            "next_version": 1 if mine is None else mine.version + 1,
            "stages": stages,
            "newer": newer_results(store, record.source.sha256, stages, layout.pool_of(record.preview)),
        },
    )


@router.post("", status_code=201)
def decide(
    batch: str,
    index: int,
    sent: Annotated[SentDecision, Body()],
    request: Request,
    record: TheRecord,
    store: TheStore,
    person: ThePerson,
    leases: TheLeases,
) -> Response:
    """Keep a decision; sent once more it is the same one (200). 409 where it is not of what is there now.

    Who decides between readers, or gives an image back, is a reviewer.
    """
    if sent.kind != "read":
        check(person, REVIEW)
    _check_sent(sent, record)
    case = Case(batch=batch, index=index)
    shown = sent.shown
    if not shown and leases.has_looked(person.name, case):
        before = decided(store, batch, index, person.name, sent.version)  # sent once more, it is the same one
        shown = before is None or before.seen.shown
    seen = Seen(sha256=record.source.sha256, stages=sent.stages, shown=shown, blank=sent.blank)
    asked = sent.model_dump(include={"version", "kind", "despite", "diagnosis", "unsure", "comment", "to"})
    try:
        made = Decision(
            **asked,
            batch=batch,
            index=index,
            reader=person.name,
            made=datetime.now(UTC),
            seen=seen,
            mask=_drawn(sent.mask, record),
            features=tuple(sent.features),
        )
    except ValidationError as error:
        raise Problem(400, "usage", str(error.errors()[0]["msg"]), at={"in": "body"}) from error
    _check_order(made, leases, store)
    kept = keep(store, made)
    _tell(leases, case, kept)
    answer = json_of(request, kept.model_dump(mode="json"))
    answer.status_code = 201 if kept is made else 200
    return answer


def _check_sent(sent: SentDecision, record: ResultRecord) -> None:
    """What only fits the image can be told: all its stages, for else no conflict with a later run shows; its size.

    Raises:
        Problem: 400 where it does not.
    """
    if set(sent.stages) != set(record.stages):
        text = f"name all stages that the image has, as GET gives them: {', '.join(sorted(record.stages))}"
        raise Problem(400, "usage", text, at={"in": "body", "parameter": "stages"})
    size = (record.source.height, record.source.width)
    for one in sent.features:
        if one.term not in FEATURES:
            text = f"{one.term!r} is no feature that is known here: {', '.join(FEATURES)}"
            raise Problem(400, "usage", text, at={"in": "body", "parameter": "features"})
        if one.region is not None and (one.region.height, one.region.width) != size:
            text = f"the region of {one.term} is of another size than the picture"
            raise Problem(400, "bad_mask", text, at={"in": "body", "parameter": "features"})


def _check_order(made: Decision, leases: Leases, store: ObjectStore) -> None:
    """Whoever has seen what others decided decides between them, and does not read any more.

    What is returned is the reading of somebody.
    """
    found = decisions(store, made.batch, made.index)
    read = {one.reader for one in found if one.kind != "return"}
    if made.kind == "return" and made.to not in read:
        raise Problem(400, "usage", f"{made.to} has not decided on this image", at={"in": "body"})
    if made.kind != "read" or any(one.kind == "read" and one.reader == made.reader for one in found):
        return
    case = Case(batch=made.batch, index=made.index)
    if (
        any(one.reader == made.reader for one in found)
        or leases.has_opened(case, made.reader)
        or has_opened(store, made.batch, made.index, made.reader)
    ):
        text = "you have seen what others decided of this image: adjudicate, or return it"
        raise ReviewConflict(text, reason="not_blind")


def _tell(leases: Leases, case: Case, kept: Decision) -> None:
    """Have queues know; they find out by themselves where Redis cannot be told, and the decision is kept."""
    try:
        if kept.to is not None:
            leases.reopen(case, kept.to)
        if kept.kind != "return":
            leases.done(case, kept.reader)
    except LedgerUnavailable:
        _log.warning("a queue was not told about a decision", batch=case.batch, index=case.index)


def _drawn(mask: list[int] | str | None, record: ResultRecord) -> DrawnMask | None:
    """What was sent as a mask of this picture.

    Raises:
        Problem: 400 where it is none, or of another size.
    """
    height, width = record.source.height, record.source.width
    if mask is None:
        return None
    try:
        counts = mask if isinstance(mask, list) else runs(_picture(mask, height, width))
        checked(counts, height, width)
    except ValueError as error:
        raise Problem(400, "bad_mask", f"{error}", at={"in": "body", "parameter": "mask"}) from error
    return DrawnMask(height=height, width=width, counts=tuple(counts))


def _picture(text: str, height: int, width: int) -> Mask:
    try:
        return mask_of_png(base64.b64decode(text, validate=True), height, width)
    except binascii.Error as error:
        raise ValueError("the mask is not Base64") from error
