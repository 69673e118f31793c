"""What is asked for, from a command or rule to the message for a worker: order, plan, batch, job."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dermbatch.errors import NewerFormat
from dermbatch.stages import ORDER, Stage

FORMAT = 2
"""Format of all records and messages written; version 0.1.0 did not state one, which counts as format 1."""


class Record(BaseModel):
    """Base of all records: unknown fields are an error, so that a typing error cannot lose data."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    def to_json(self) -> bytes:
        """UTF-8 JSON of this record."""
        return self.model_dump_json().encode()


class Stored(Record):
    """Base of what is stored or sent as a whole. An older format is converted to the current one when read.

    Raises:
        NewerFormat: If what is read has a format that is not known here, whatever else is in it.
    """

    format: int = FORMAT

    @field_validator("format")
    @classmethod
    def _known(cls, number: int) -> int:
        if number > FORMAT:
            raise NewerFormat(
                f"this {cls.__name__} is of format {number}, and formats up to {FORMAT} are known here: "
                "install the version of Dermbatch that wrote it, or a later one"
            )
        return FORMAT


Lane = Literal["live", "bulk"]

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?")
"""Name of a batch or canary: it becomes part of keys, so it may not contain ``..`` either."""


def _name(name: str) -> str:
    if NAME.fullmatch(name) is None or ".." in name:
        raise ValueError("it is not the name of a batch or canary")
    return name


def _object(uri: str) -> str:
    if not _OBJECT.fullmatch(uri):
        raise ValueError("it is neither s3://bucket/key nor file:///path")
    return uri


_OBJECT = re.compile(r"(s3://[^/]+|file://)/.+", re.DOTALL)

Name = Annotated[str, AfterValidator(_name)]
ObjectUri = Annotated[str, AfterValidator(_object)]


class ModelChoice(Record):
    """A model in the Triton model repository; the newest version if none is pinned."""

    name: str
    version: str | None = None

    def __str__(self) -> str:
        """As ``--model`` takes it: ``NAME`` or ``NAME@VERSION``."""
        return self.name if self.version is None else f"{self.name}@{self.version}"


class SupportChoice(Record):
    """The version of a support set that a one-shot segment model is shown."""

    name: Name
    version: int = Field(ge=1)
    sha256: str = Field(description="digest of its pictures and masks; part of stage keys")
    disease: str | None = Field(default=None, description="the disease, in the words of whoever added the support")


class Deidentification(Record):
    """How images were de-identified before anything else saw them: the profile, and the salt of the pseudonyms."""

    profile: str
    dates: Literal["remove", "shift", "keep"]
    uids: Literal["replace", "keep"]
    burned_in_text: Literal["refuse", "flag"]
    reidentification: bool = Field(description="whether a sealed table of the original values was written")
    salt: str = Field(description="fingerprint of the salt; another salt gives other pseudonyms")


class Order(Record):
    """What the user asked to be done; part of plan, batch and job."""

    lane: Lane = "bulk"
    weight: int = Field(default=1, ge=1, le=100, description="share of the lane, relative to other open batches")
    stages: tuple[Stage, ...] = ORDER
    models: dict[Stage, ModelChoice]
    max_failed_share: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="the batch is paused when more than this share of its outcomes are failures",
    )
    compared_with: tuple[str, ...] = Field(default=(), description="earlier batches whose results are compared")
    deidentified: Deidentification | None = Field(
        default=None, description="how the images were de-identified, if they were"
    )
    send_to: str | None = Field(
        default=None, description="PACS to which DICOM objects are sent, by its name in the settings"
    )
    dicom: bool = Field(
        default=False,
        validate_default=True,
        description="whether DICOM objects are written next to the results; always true if they are sent",
    )
    output: str | None = Field(default=None, description="s3://bucket/prefix under which results are also copied")
    tenant: Name = Field(default="default", description="the tenant that is billed")
    support: SupportChoice | None = Field(
        default=None, description="the support that a one-shot segment model is shown"
    )
    shares: Name | None = Field(
        default=None,
        description="the tenant whose known results it shares, if an operator says so; otherwise its own",
    )

    deadline: AwareDatetime | None = Field(
        default=None, description="time by which all images are to have outcomes"
    )
    wait_objective: float | None = Field(
        default=None,
        gt=0,
        description="seconds that 95 of 100 of its images may wait at most, as set for its tenant",
    )

    @property
    def pool(self) -> str | None:
        """Whose known results and pictures it uses and adds to; none: those shared by all without a tenant."""
        whose = self.shares or self.tenant
        return None if whose == "default" else whose

    @field_validator("dicom")
    @classmethod
    def _written_where_sent(cls, dicom: bool, info: ValidationInfo) -> bool:
        return dicom or info.data.get("send_to") is not None


def embedded(record: Any) -> Any:
    """A record's fields, with those of its order in ``order``; version 0.1.0 wrote them beside the others."""
    if not isinstance(record, dict) or "order" in record:
        return record
    order = {field: value for field, value in record.items() if field in Order.model_fields}
    return {field: value for field, value in record.items() if field not in order} | {"order": order}


class Refusal(Record):
    """Why an input never became an image: a zip member with a ``../`` name, an unreadable file ..."""

    reason: str
    message: str


class Earlier(Record):
    """The result in another batch that this image's result is compared with."""

    batch: str
    index: int


class ManifestEntry(Record):
    """One image that was asked for; a line of ``manifest/<part>.jsonl``."""

    index: int = Field(ge=0, description="position in the batch, from 0 without gaps")
    name: str = Field(description="the user's name for it: a path relative to the input, or member@archive")
    source: str | None = Field(
        default=None, description="s3://bucket/key, or file:///path in run; none if refused"
    )
    size: int | None = Field(default=None, description="bytes of the object")
    etag: str | None = Field(
        default=None, description="the object's ETag without quotes; a hint, not proof, of what it contains"
    )
    sha256: str | None = Field(default=None, description="SHA-256 of the bytes, if planning read them")
    frame: int | None = Field(
        default=None, ge=1, description="number of the frame in a DICOM file with several frames, from 1"
    )
    duplicate_of: int | None = Field(
        default=None, description="index of an earlier image with the same ETag and size"
    )
    earlier: Earlier | None = Field(default=None, description="the earlier result to compare with, in resegment")
    may_have_text: bool = Field(default=False, description="de-identified, but the picture may contain text")
    refusal: Refusal | None = None
    origin: str | None = Field(default=None, description="digest of the object that watching took it from")
    modified: datetime | None = Field(default=None, description="time when that object was last modified")


class Asked(Stored):
    """What was asked for and under which name, however far it has come."""

    name: str
    created: datetime
    order: Order
    software: str

    _upgraded = model_validator(mode="before")(embedded)


class Batch(Asked):
    """What was asked for; ``batch.json``. Planning writes it last, so its presence means a complete manifest."""

    images: int
    bytes: int = Field(default=0, description="bytes of the images' files, as far as planning knew them")
    skipped: int = Field(default=0, description="files that were skipped because they are not images")
    sidecars: int = Field(default=0, description="how many of the skipped ones are hidden or belong to systems")
    own_results: int = Field(
        default=0, description="how many of the skipped ones are results that Dermbatch wrote"
    )
    left_out: int = Field(default=0, description="files left out by the user's filters")
    known: bool = Field(
        default=True, description="whether the store knew any image at all when the batch was planned"
    )
    duplicates: int = Field(
        default=0, description="images with the same ETag and size as an earlier one of the batch"
    )
    rule: str | None = Field(default=None, description="the rule by which watching takes or took images in")
    growing: bool = Field(
        default=False, description="whether it still takes images in; then `images` is the number so far"
    )
    until: datetime | None = Field(default=None, description="time after which it takes no more images in")


class BatchControl(Stored):
    """How an open batch is to be run; ``open/<batch>.json`` exists from planning until the batch closes."""

    lane: Lane = "bulk"
    weight: int = Field(default=1, ge=1, le=100)
    state: Literal["open", "paused", "cancelled"] = "open"
    why: str = Field(default="", description="reason why it is paused or cancelled, for people")
    tolerant: bool = Field(
        default=False, description="resumed after too many failures, so not paused for them again"
    )

    @classmethod
    def of(cls, order: Order) -> Self:
        """As the order asked for it."""
        return cls(lane=order.lane, weight=order.weight)


class BatchSummary(Stored):
    """What became of a batch; ``summary.json``, written when it closes, after report and table."""

    name: str
    state: Literal["finished", "cancelled"] = "finished"
    images: int
    done: int
    failed: int
    reasons: dict[str, int] = Field(description="number of failures by reason")
    without_dicom: int = Field(
        default=0, description="results without DICOM objects although these were asked for"
    )
    created: datetime
    closed: datetime
    first_started: datetime | None = Field(default=None, description="time when the first result's attempt began")
    last_finished: datetime | None = Field(default=None, description="time of the last result")
    stage_seconds: dict[Stage, float] = Field(description="mean seconds of each stage that was run")
    stage_runs: dict[Stage, int] = Field(
        description="how often each stage was run instead of taken from the cache"
    )
    image_seconds: float = Field(
        description="mean seconds in a worker slot of the images for which stages were run"
    )
    slots: int = Field(description="worker slots at the end")
    deadline: datetime | None = Field(default=None, description="the deadline that was asked for")
    waited_p95: float | None = Field(
        default=None, description="seconds that 95 of 100 results waited at most for a worker, within 9 %"
    )
    late: int | None = Field(
        default=None, description="results that waited longer than the objective, if any is set"
    )
    software: str

    @property
    def met(self) -> bool | None:
        """Whether the deadline was met; none if there was none."""
        ended = self.last_finished or self.closed
        return None if self.deadline is None else self.state == "finished" and ended <= self.deadline


class Position(Record):
    """Where a walk through inputs stands: what was taken last, from which it continues."""

    input: int = Field(default=0, description="index of the input, from 0")
    after: str | None = Field(default=None, description="the input's last file or object that was taken")
    taken: int = Field(
        default=0, description="members taken from that item if it is an archive; 0: all of it was taken"
    )


class Filters(Record):
    """Which files or objects below a folder or prefix are meant; patterns are shell globs on the path below it."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    since: datetime | None = Field(default=None, description="only files last modified then or later")
    until: datetime | None = Field(default=None, description="only files last modified before then")


class PlanRecord(Asked):
    """A plan in progress; ``plan.json``, written after every part, so that a killed planner can go on."""

    inputs: tuple[str, ...]
    filters: Filters = Filters()
    position: Position = Position()
    images: int = 0
    bytes: int = 0
    skipped: int = 0
    sidecars: int = 0
    own_results: int = 0
    left_out: int = 0
    duplicates: int = 0
    known: bool = True


class Canary(Stored):
    """New models that are also run on a share of live images; ``canaries/<name>/canary.json``."""

    name: str
    models: dict[Stage, ModelChoice] = Field(description="models of the stages that differ")
    share: float = Field(gt=0, le=1, description="share of live images")
    created: datetime
    stopped: datetime | None = None


class Shadow(Record):
    """Other models that are also run on an image, after its result is written and without changing it."""

    canary: Name
    models: dict[Stage, ModelChoice] = Field(description="models of all stages; those that differ are tried")


def event_id(batch: str, created: datetime | None, index: int) -> str:
    """The id of an image's usage event: the same each time, but different for a later batch of that name.

    Args:
        batch: Name of the batch.
        created: When the batch was asked for, by its record; none in messages from versions that did not say.
        index: Index of the image.
    """
    moment = "-" if created is None else f"{created.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}"
    return f"{batch}/{moment}/{index}"


class ImageJob(Stored):
    """The only argument of the Celery message: everything a worker needs to process one image, except pixels."""

    batch: Name
    index: int = Field(ge=0)
    name: str
    source: ObjectUri
    order: Order
    size: int | None = None
    etag: str | None = Field(default=None, description="as in the manifest")
    sha256: str | None = Field(default=None, description="as in the manifest; the cache is searched by it")
    frame: int | None = Field(
        default=None, ge=1, description="number of the frame in a DICOM file with several frames, from 1"
    )
    duplicate_of: int | None = Field(
        default=None, description="index of an image whose outcome to wait for and reuse"
    )
    may_have_text: bool = Field(default=False, description="as in the manifest")
    known: bool = Field(
        default=True, description="whether anything may be known of the image; if not, the cache is not searched"
    )
    shadow: Shadow | None = Field(default=None, description="models to run alongside, for a canary")
    created: datetime | None = Field(
        default=None, description="time when the batch was asked for; part of the event's id"
    )

    _upgraded = model_validator(mode="before")(embedded)

    @property
    def event(self) -> str:
        """The id of the usage event that bills this image."""
        return event_id(self.batch, self.created, self.index)

    @property
    def member(self) -> str:
        """The name of this image in the ledger."""
        return f"{self.batch}:{self.index}"

    def to_message(self) -> dict[str, Any]:
        """As sent: its format, and those of the other fields that differ from their defaults."""
        return {"format": self.format, **self.model_dump(mode="json", exclude_defaults=True)}
