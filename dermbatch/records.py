"""The records: what was asked (batch, manifest), what travels (job), what came out (result, failure).

All are JSON with these field names, in the object store and in Celery messages alike. Times are UTC, ISO 8601;
durations are seconds; pixel coordinates are (row, column) from the top left of the image as displayed.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from dermbatch.stages import ORDER, Stage


class Record(BaseModel):
    """Base of all records: unknown fields are an error, so that a typing mistake cannot lose data."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    def to_json(self) -> bytes:
        """UTF-8 JSON of this record."""
        return self.model_dump_json().encode()


class ModelChoice(Record):
    """A model of the Triton model repository; the newest version where none is pinned."""

    name: str
    version: str | None = None


class Refusal(Record):
    """Why an input never became an image: a zip member with a ``../`` name, an unreadable file ..."""

    reason: str
    message: str


Lane = Literal["live", "bulk"]


class Earlier(Record):
    """The result of another batch that this image's is compared with."""

    batch: str
    index: int


class ManifestEntry(Record):
    """One image that was asked for; a line of ``manifest/<part>.jsonl``."""

    index: int = Field(ge=0, description="position in the batch, from 0 without gaps")
    name: str = Field(description="what the user calls it: a path relative to the input, or member@archive")
    source: str | None = Field(default=None, description="s3://bucket/key of the object; none if refused")
    size: int | None = Field(default=None, description="bytes of the object")
    etag: str | None = Field(default=None, description="the object's ETag, without quotes: tells contents apart")
    frame: int | None = Field(default=None, ge=1, description="of a DICOM file of several: which, from 1")
    duplicate_of: int | None = Field(default=None, description="index of an earlier entry with the same content")
    earlier: Earlier | None = Field(default=None, description="what the result is compared with, in resegment")
    may_have_text: bool = Field(default=False, description="de-identified, though the picture may have text in it")
    refusal: Refusal | None = None
    origin: str | None = Field(default=None, description="of what watching took in: digest of the object it is of")


class Deidentification(Record):
    """How images were de-identified before anything else saw them: a profile, and the salt of the pseudonyms."""

    profile: str
    dates: Literal["remove", "shift", "keep"]
    uids: Literal["replace", "keep"]
    burned_in_text: Literal["refuse", "flag"]
    reidentification: bool = Field(description="whether a sealed table of the originals was written")
    salt: str = Field(description="fingerprint of the salt: another salt gives other pseudonyms")


class Asked(Record):
    """What the user asked to be done, however far it has come."""

    name: str
    created: datetime
    lane: Lane = "bulk"
    weight: int = Field(default=1, ge=1, le=100, description="share of its lane among batches that are open")
    stages: tuple[Stage, ...] = ORDER
    models: dict[Stage, ModelChoice]
    max_failed_share: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="the batch is paused when more than this share of its outcomes failed",
    )
    compared_with: tuple[str, ...] = Field(default=(), description="batches whose results are compared")
    deidentified: Deidentification | None = Field(default=None, description="how, where images were")
    dicom: bool = Field(default=False, description="whether DICOM objects are written beside the results")
    send_to: str | None = Field(
        default=None, description="the PACS of the settings that DICOM objects are sent to"
    )
    output: str | None = Field(default=None, description="s3://bucket/prefix that results are also copied under")
    software: str


class Batch(Asked):
    """What was asked; ``batch.json``. Written last of a plan, so its presence says that the manifest is whole."""

    images: int
    skipped: int = Field(default=0, description="files passed over because they are no images")
    left_out: int = Field(default=0, description="files that the user's filters leave out")
    duplicates: int = Field(default=0, description="images whose content an earlier one of the batch has")
    rule: str | None = Field(default=None, description="of watching, by which it takes or took images in")
    growing: bool = Field(default=False, description="whether it takes images in: images is how many so far")
    until: datetime | None = Field(default=None, description="when it takes in no more")


class Position(Record):
    """Where a walk through inputs stands: what was taken, to be gone on from."""

    input: int = Field(default=0, description="number of the input, from 0")
    after: str | None = Field(default=None, description="the last item of it (file or object) that was taken")
    taken: int = Field(default=0, description="members taken of that item, an archive; 0: it was taken whole")


class Filters(Record):
    """Which files or objects of folders and prefixes are meant; patterns are shell globs on the path below it."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    since: datetime | None = Field(default=None, description="last modified then or later")
    until: datetime | None = Field(default=None, description="last modified before")


class PlanRecord(Asked):
    """A plan that is being made; ``plan.json``, written after every part, so that a killed planner goes on."""

    inputs: tuple[str, ...]
    filters: Filters = Filters()
    position: Position = Position()
    images: int = 0
    skipped: int = 0
    left_out: int = 0
    duplicates: int = 0


class BatchControl(Record):
    """How an open batch is to be run; ``open/<batch>.json``, there while it is planned and until it closes."""

    lane: Lane = "bulk"
    weight: int = Field(default=1, ge=1, le=100)
    state: Literal["open", "paused", "cancelled"] = "open"
    why: str = Field(default="", description="why it is paused or cancelled, for people")
    tolerant: bool = Field(default=False, description="resumed after too many failures: not paused for them again")


class BatchSummary(Record):
    """What became of a batch; ``summary.json``, written when it closes, after report and table."""

    name: str
    state: Literal["finished", "cancelled"] = "finished"
    images: int
    done: int
    failed: int
    reasons: dict[str, int] = Field(description="failures by reason")
    without_dicom: int = Field(default=0, description="results without DICOM objects, where they were asked for")
    created: datetime
    closed: datetime
    first_started: datetime | None = Field(default=None, description="when the first result's attempt began")
    last_finished: datetime | None = Field(default=None, description="when the last result was there")
    stage_seconds: dict[Stage, float] = Field(description="mean seconds of a stage, where it was run")
    stage_runs: dict[Stage, int] = Field(description="how often a stage was run, not taken from the cache")
    image_seconds: float = Field(
        description="mean seconds that an image took a worker slot, where stages were run"
    )
    slots: int = Field(description="worker slots heard of at the end")
    software: str


class Shadow(Record):
    """Other models that an image is also run with, after its result is written and without touching it."""

    canary: str
    models: dict[Stage, ModelChoice] = Field(description="of all stages; those that differ are what is tried")


class ImageJob(Record):
    """The Celery message's one argument: everything a worker needs to process one image, but no pixels."""

    batch: str
    index: int
    name: str
    source: str
    stages: tuple[Stage, ...]
    models: dict[Stage, ModelChoice]
    size: int | None = None
    etag: str | None = Field(default=None, description="as in the manifest; the cache is asked by it")
    frame: int | None = Field(default=None, ge=1, description="of a DICOM file of several: which, from 1")
    duplicate_of: int | None = Field(default=None, description="wait until that image has its outcome, then reuse")
    may_have_text: bool = Field(default=False, description="as in the manifest")
    dicom: bool = Field(default=False, description="whether DICOM objects are written beside the result")
    send_to: str | None = Field(default=None, description="the PACS of the settings that they are sent to")
    output: str | None = Field(default=None, description="s3://bucket/prefix that the result is also copied under")
    shadow: Shadow | None = Field(default=None, description="models to run beside, for a canary")

    @property
    def member(self) -> str:
        """The name of this image in the ledger."""
        return f"{self.batch}:{self.index}"


class ImageInfo(Record):
    """What decoding an object says of it; equal wherever the object lies."""

    sha256: str = Field(description="digest of the file; of a frame, of '<digest of the file>#frame=<frame>'")
    bytes: int
    media_type: str
    height: int
    width: int
    pixel_spacing_mm: tuple[float, float] | None = Field(default=None, description="(row, column) spacing")
    notes: tuple[str, ...] = Field(default=(), description="conversions: exif_rotated, from_16_bit, from_cmyk ...")
    frame: int | None = Field(default=None, description="of a DICOM file of several: which, from 1")


class SourceInfo(ImageInfo):
    """The object that was read."""

    uri: str


class ModelUsed(Record):
    """The model that really ran."""

    name: str
    version: str
    sha256: str = Field(description="digest of the served model file")


class StageRecord(Record):
    """What one stage did to one image; ``stage.json`` beside its artifacts in a folder of results."""

    stage: Stage
    key: str = Field(description="the stage key: what this stage's output depends on, digested")
    model: ModelUsed
    parameters: dict[str, float | int | str | bool]
    fed_by: dict[Stage, str] = Field(description="stage keys of the artifacts that it was fed")
    artifacts: dict[str, str] = Field(description="file name to object key")
    inline: dict[str, bytes] = Field(
        default={}, description="small files by name, Base64: kept here instead of under their keys in the store"
    )
    seconds: float = Field(description="time of the run that made the artifacts")
    image: ImageInfo | None = Field(default=None, description="the source image, in stage.json only")
    output: StageOutput


class PurifyOutput(Record):
    """What purification found."""

    kind: Literal["purify"] = "purify"
    occluded_fraction: float = Field(description="share of pixels taken for hair, ruler or ink, 0 to 1")


class BoundingBox(Record):
    """Half-open pixel box: rows ``top <= r < bottom``, columns ``left <= c < right``."""

    top: int
    left: int
    bottom: int
    right: int


class ColourStatistics(Record):
    """Colour of the lesion in sRGB, 0 to 255, and how many of the six ABCD-rule colours it shows."""

    mean_rgb: tuple[float, float, float]
    std_rgb: tuple[float, float, float]
    skin_mean_rgb: tuple[float, float, float] | None = Field(default=None, description="outside the lesion")
    colours: int = Field(description="white, red, light brown, dark brown, blue-grey, black: count present")


class LesionGeometry(Record):
    """Measures of the lesion mask. The _mm fields are there only where the image states its pixel spacing."""

    area_px: int
    perimeter_px: float
    bounding_box: BoundingBox
    centroid: tuple[float, float]
    diameter_px: float = Field(description="largest distance between two points of the outline (Feret)")
    equivalent_diameter_px: float
    asymmetry: float = Field(description="0 symmetric to 1: mean non-overlap when folded over both main axes")
    border_irregularity: float = Field(description="perimeter^2 / (4 pi area); 1 for a disc")
    area_mm2: float | None = None
    perimeter_mm: float | None = None
    diameter_mm: float | None = None
    area_fraction: float = Field(description="share of the image, 0 to 1")
    components: int = Field(description="separate lesions found; the mask holds the one that the picture is of")
    colour: ColourStatistics


class SegmentOutput(Record):
    """What segmentation found; no geometry where there is no lesion."""

    kind: Literal["segment"] = "segment"
    lesion: LesionGeometry | None
    touches_frame: bool
    confidence: float = Field(description="mean of |2p - 1| over the lesion and its near surroundings")


class EnhanceOutput(Record):
    """What enhancement made of the lesion's surroundings."""

    kind: Literal["enhance"] = "enhance"
    method: Literal["super_resolution", "native", "none"] = Field(
        description="native: the crop was large enough; none: no lesion to enhance"
    )
    box: BoundingBox | None = Field(default=None, description="the crop in the source image")
    scale: float | None = Field(default=None, description="enhanced over source resolution; 1 for native")
    height: int | None = None
    width: int | None = None


class ClassifyOutput(Record):
    """Diagnosis probabilities: research and triage support, not a diagnosis."""

    kind: Literal["classify"] = "classify"
    probabilities: dict[str, float]
    label: str = Field(description="the most probable")
    embedding_sha256: str = Field(description="digest of embedding.npy's float32 bytes")


StageOutput = PurifyOutput | SegmentOutput | EnhanceOutput | ClassifyOutput

QualityFlag = Literal[
    "no_lesion", "touches_frame", "several_lesions", "low_confidence", "heavily_occluded", "burned_in_text"
]

DicomKind = Literal["segmentation", "report", "enhanced"]
"""The DICOM objects that are written of an image."""

NoDicom = Literal["not_dicom", "header_unusable", "nothing_to_say"]
"""Why none are: the source is no DICOM file; its header cannot be used; no stage made anything for them."""


class Sent(Record):
    """What a PACS has taken of an image."""

    to: str = Field(description="its name in the settings")
    kinds: tuple[DicomKind, ...]
    warnings: dict[DicomKind, str] = Field(
        default={}, description="Warning Reason (PS3.18, table I.2-2) by kind, four hexadecimal digits"
    )
    at: datetime = Field(description="when it had taken all of them")


class ResultRecord(Record):
    """The outcome of one image; ``results/<part>/<n>.json``, written last and once."""

    batch: str
    index: int
    name: str
    source: SourceInfo
    stages: dict[Stage, StageRecord]
    cached: tuple[Stage, ...] = Field(default=(), description="stages that were not run: artifacts were there")
    flags: tuple[QualityFlag, ...] = ()
    preview: str | None = Field(default=None, description="key of preview.jpg in a folder of results")
    preview_jpeg: bytes | None = Field(default=None, description="preview.jpg itself, Base64: what reports show")
    dicom: dict[DicomKind, str] = Field(default={}, description="keys of the DICOM objects, where asked for")
    no_dicom: NoDicom | None = Field(default=None, description="why there are none, though they were asked for")
    sent: Sent | None = Field(
        default=None, description="what was sent to a PACS, where asked for and there is any"
    )
    output: str | None = Field(
        default=None, description="s3://bucket/key of the folder of copies, where asked for"
    )
    attempt: int
    worker: str
    started: datetime
    finished: datetime
    seconds: dict[str, float] = Field(description="this attempt's time: read, decode, each stage, write")
    software: str


class KnownImage(Record):
    """What is known of one object, by its content: ``images/known/<fingerprint>.json``; an action cache.

    A cache only: where it is lost, stages run again; what is in use is in the result records.
    """

    image: ImageInfo
    stages: dict[str, StageRecord] = Field(description="by stage key")
    previews: dict[str, bytes] = Field(default={}, description="preview.jpg by preview key, Base64")


class Canary(Record):
    """New models that a share of live images is also run with; ``canaries/<name>/canary.json``."""

    name: str
    models: dict[Stage, ModelChoice] = Field(description="the stages that differ")
    share: float = Field(gt=0, le=1, description="of live images")
    created: datetime
    stopped: datetime | None = None


class CanaryRecord(Record):
    """How old and new models agree on one image; ``canaries/<name>/results/<batch>/<index>.json``."""

    canary: str
    batch: str
    index: int
    name: str
    models: dict[Stage, ModelUsed]
    dice: float | None = Field(default=None, description="of the two masks, 0 to 1; 1 where both are empty")
    old_label: str | None = None
    new_label: str | None = None
    probability_change: float | None = Field(default=None, description="largest of all classes, 0 to 1")
    seconds: float = Field(description="time of the new models' run")
    failure: str | None = Field(default=None, description="reason code, where the new models failed")


class FailureRecord(Record):
    """Why an image has no result; ``failed/<part>/<n>.json``."""

    batch: str
    index: int
    name: str
    source: str | None
    reason: str
    message: str
    permanent: bool
    attempts: int
    failed: datetime
    software: str


ImageJob.model_rebuild()
StageRecord.model_rebuild()
ResultRecord.model_rebuild()
KnownImage.model_rebuild()
