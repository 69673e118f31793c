"""An image's outcome: what each stage found, the result or failure, and what has been learnt since."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from dermbatch.records.asked import Record, Stored
from dermbatch.stages import Stage


class ImageInfo(Record):
    """What decoding an object tells about it; the same wherever the object lies."""

    sha256: str = Field(
        description="digest of the file; for a frame, of the text '<digest of the file>#frame=<frame>'"
    )
    bytes: int
    media_type: str
    height: int
    width: int
    pixel_spacing_mm: tuple[float, float] | None = Field(
        default=None, description="spacing of rows and columns in millimetres"
    )
    pixel_aspect: float | None = Field(
        default=None, description="height over width of a pixel, if only that is known and it is not 1"
    )
    notes: tuple[str, ...] = Field(default=(), description="conversions: exif_rotated, from_16_bit, from_cmyk ...")
    frame: int | None = Field(
        default=None, description="number of the frame in a DICOM file with several frames, from 1"
    )


class SourceInfo(ImageInfo):
    """The object that was read."""

    uri: str


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
    """The lesion's colour in sRGB, 0 to 255, and how many of the six ABCD-rule colours it shows."""

    mean_rgb: tuple[float, float, float]
    std_rgb: tuple[float, float, float]
    skin_mean_rgb: tuple[float, float, float] | None = Field(
        default=None, description="colours of the skin outside the lesion"
    )
    colours: int = Field(
        description="how many of white, red, light brown, dark brown, blue-grey and black are present"
    )


class LesionGeometry(Record):
    """Measures of the lesion mask. The _mm fields are present only if the image states its pixel spacing."""

    area_px: int
    perimeter_px: float
    bounding_box: BoundingBox
    centroid: tuple[float, float]
    diameter_px: float = Field(description="largest distance between two points of the outline (Feret diameter)")
    equivalent_diameter_px: float
    asymmetry: float = Field(
        description="0 (symmetric) to 1: mean share that does not overlap when folded along both main axes"
    )
    border_irregularity: float = Field(description="perimeter^2 / (4 pi area); 1 for a disc")
    area_mm2: float | None = None
    perimeter_mm: float | None = None
    diameter_mm: float | None = None
    area_fraction: float = Field(description="share of the image, 0 to 1")
    components: int = Field(
        description="separate lesions that were found; the mask holds the one that the picture shows"
    )
    colour: ColourStatistics


class BorderMeasures(Record):
    """A border map around the lesion, in sectors of 45 degrees, clockwise; the first is centred on the top."""

    sharpness: tuple[float, ...] = Field(
        description="mean of the map just inside the outline minus that just outside, 0 to 1"
    )
    irregularity: tuple[float, ...] = Field(
        description="standard deviation of the outline's radius, as a share of the mean radius"
    )


class SegmentOutput(Record):
    """What segmentation found; no geometry if there is no lesion."""

    kind: Literal["segment"] = "segment"
    lesion: LesionGeometry | None
    touches_frame: bool
    confidence: float = Field(description="mean of |2p - 1| over the lesion and its near surroundings")
    border: BorderMeasures | None = Field(
        default=None, description="measures of the border map, if the model gives one"
    )


class EnhanceOutput(Record):
    """What enhancement made of the lesion's surroundings."""

    kind: Literal["enhance"] = "enhance"
    method: Literal["super_resolution", "resampled", "native", "none"] = Field(
        description="native: the crop was large enough; resampled: it nearly was; "
        "none: there is no lesion to enhance"
    )
    box: BoundingBox | None = Field(default=None, description="box of the crop in the source image")
    scale: float | None = Field(
        default=None, description="enhanced resolution as a multiple of the source's; 1 for native"
    )
    height: int | None = None
    width: int | None = None


class ClassifyOutput(Record):
    """Diagnosis probabilities: research and triage support, not a diagnosis."""

    kind: Literal["classify"] = "classify"
    probabilities: dict[str, float] = Field(
        description="probability by label; empty if the picture is not dermoscopic"
    )
    label: str | None = Field(description="the most probable label; none if the picture is not dermoscopic")
    distance: float | None = Field(
        default=None, description="distance from dermoscopic images; above 1 the picture is not one"
    )
    embedding_sha256: str = Field(description="digest of the float32 bytes in embedding.npy")


StageOutput = PurifyOutput | SegmentOutput | EnhanceOutput | ClassifyOutput


class ModelUsed(Record):
    """The model that really ran."""

    name: str
    version: str
    sha256: str = Field(description="digest of the served model file")


class Written(Record):
    """A file as it was written, so that a damaged one can be recognised."""

    bytes: int
    sha256: str


class Difference(Record):
    """A picture at the source's size, stored as its difference: see :mod:`dermbatch.images.difference`."""

    pixels: str = Field(description="digest of the whole picture's pixels, RGB row by row")
    body: bytes | None = Field(default=None, description="the differences as Base64, if they are small")
    key: str | None = Field(
        default=None, description="key of the object with the differences, if they are not small"
    )
    written: Written = Field(description="size and digest of the differences")


Device = Literal["cpu", "gpu", "unknown"]


class StageRecord(Record):
    """What one stage did to one image; ``stage.json`` beside its artifacts in a folder of results."""

    stage: Stage
    key: str = Field(description="the stage key, a digest of everything that this stage's output depends on")
    model: ModelUsed
    parameters: dict[str, float | int | str | bool]
    fed_by: dict[Stage, str] = Field(description="stage keys of the artifacts that are its inputs")
    artifacts: dict[str, str] = Field(description="object key by file name")
    inline: dict[str, bytes] = Field(
        default={},
        description="small files as Base64 by name, which are kept here instead of under their keys in the store",
    )
    written: dict[str, Written] = Field(
        default={}, description="size and digest of the artifacts that are under their keys, by file name"
    )
    differences: dict[str, Difference] = Field(
        default={}, description="pictures, by file name, that are stored only as differences from the source"
    )
    seconds: float = Field(description="seconds of the run that made the artifacts")
    model_seconds: float = Field(default=0, description="seconds of that run until the model had answered")
    device: Device = Field(default="unknown", description="device that the model ran on")
    billed_by: str | None = Field(
        default=None, description="id of the usage event that bills this run; no other does"
    )
    image: ImageInfo | None = Field(default=None, description="the source image, in stage.json only")
    output: StageOutput


QualityFlag = Literal[
    "no_lesion",
    "touches_frame",
    "several_lesions",
    "low_confidence",
    "heavily_occluded",
    "burned_in_text",
    "not_dermoscopic",
]


DicomKind = Literal["segmentation", "report", "enhanced"]
"""The DICOM objects that are written for an image."""


NoDicom = Literal["not_dicom", "header_unusable", "nothing_to_say"]
"""Why none are written: the source is not DICOM; its header is unusable; no stage made anything for them."""


class Sent(Record):
    """What a PACS has accepted for an image."""

    to: str = Field(description="name of the PACS in the settings")
    kinds: tuple[DicomKind, ...]
    warnings: dict[DicomKind, str] = Field(
        default={}, description="Warning Reason (PS3.18, table I.2-2) by kind, four hexadecimal digits"
    )
    at: datetime = Field(description="time when it had taken all of them")


class Usage(Record):
    """What a result says about its usage event; the stages say the rest."""

    event: str = Field(description="id of the event, which bills the stages that name it in `billed_by`")
    bytes_read: int = Field(description="bytes of the source, read by the recorded attempt")


RiskLevel = Literal["high", "raised", "low", "unclear"]
"""Called at all operating points; at the more sensitive ones; at none; at none, but not to be called low."""

Sign = Literal["asymmetry", "border", "colours", "diameter"]
"""Signs in a lesion's measures that most nevi do not show."""


class Risk(Record):
    """What a label's probability meant at its model's operating points at the time; not a diagnosis."""

    of: str = Field(description="the label, such as melanoma")
    level: RiskLevel
    reached: tuple[float, ...] = Field(
        description="sensitivities of the operating points at which the label is called"
    )
    signs: tuple[Sign, ...] = Field(default=(), description="signs; two of them keep the level from being low")
    cautions: tuple[QualityFlag, ...] = Field(default=(), description="flags that keep the level from being low")


class Possible(Record):
    """The labels that cannot be ruled out (a conformal set); empty if the image resembles no label's images."""

    labels: tuple[str, ...] = Field(description="labels that cannot be ruled out, the most probable first")
    coverage: float = Field(description="share of each label's images whose set should hold it, 0 to 1")


class ResultRecord(Stored):
    """The outcome of one image; ``results/<part>/<n>.json``, written last and once."""

    batch: str
    index: int
    name: str
    source: SourceInfo
    stages: dict[Stage, StageRecord]
    cached: tuple[Stage, ...] = Field(
        default=(), description="stages that were not run because their artifacts existed"
    )
    flags: tuple[QualityFlag, ...] = ()
    risk: Risk | None = Field(default=None, description="level of risk, if the classifier has operating points")
    possible: Possible | None = Field(
        default=None, description="labels that cannot be ruled out, if the classifier has thresholds for them"
    )
    preview: str | None = Field(default=None, description="key of preview.jpg in a folder of results")
    preview_jpeg: bytes | None = Field(default=None, description="preview.jpg itself as Base64, shown in reports")
    dicom: dict[DicomKind, str] = Field(
        default={}, description="keys of the DICOM objects, if they were asked for"
    )
    dicom_written: dict[DicomKind, Written] = Field(
        default={}, description="sizes and digests of the DICOM objects"
    )
    no_dicom: NoDicom | None = Field(
        default=None, description="reason why there are no DICOM objects although they were asked for"
    )
    dicom_notes: tuple[str, ...] = Field(
        default=(), description="what they cannot repeat from the source: left_out_accession_number ..."
    )
    sent: Sent | None = Field(
        default=None, description="what was sent to a PACS, if it was asked for and there is any"
    )
    output: str | None = Field(
        default=None, description="s3://bucket/key of the folder of copies, if they were asked for"
    )
    attempt: int
    waited: float | None = Field(default=None, description="seconds in the queue before this attempt began")
    worker: str
    started: datetime
    finished: datetime
    seconds: dict[str, float] = Field(description="seconds of this attempt: read, decode, each stage, write")
    usage: Usage | None = Field(default=None, description="none in records of versions that did not count usage")
    software: str


class FailureRecord(Stored):
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


class KnownImage(Stored):
    """What is known about one image, by its content: ``images/known/<content>.json``; an action cache.

    A cache only: if it is lost, stages run again; whatever is in use is named in the result records.
    """

    image: ImageInfo
    stages: dict[str, StageRecord] = Field(description="known stages by stage key")
    previews: dict[str, bytes] = Field(default={}, description="preview.jpg as Base64, by preview key")


class CanaryRecord(Stored):
    """How old and new models agree on one image; ``canaries/<name>/results/<batch>/<index>.json``."""

    canary: str
    batch: str
    index: int
    name: str
    models: dict[Stage, ModelUsed]
    dice: float | None = Field(default=None, description="agreement of the two masks, 0 to 1; 1 if both are empty")
    old_label: str | None = None
    new_label: str | None = None
    probability_change: float | None = Field(
        default=None, description="largest change of a class's probability, 0 to 1"
    )
    seconds: float = Field(description="seconds of the new models' run")
    failure: str | None = Field(default=None, description="reason code, if the new models failed")
