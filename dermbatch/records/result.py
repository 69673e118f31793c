"""What became of an image: its result or its failure, and what is known of its content from then on."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from dermbatch.records.image import ImageInfo, SourceInfo
from dermbatch.records.record import Record, Stored
from dermbatch.records.stage import StageRecord
from dermbatch.stages import Stage

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


class ResultRecord(Stored):
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
    """What is known of one object, by its content: ``images/known/<fingerprint>.json``; an action cache.

    A cache only: where it is lost, stages run again; what is in use is in the result records.
    """

    image: ImageInfo
    stages: dict[str, StageRecord] = Field(description="by stage key")
    previews: dict[str, bytes] = Field(default={}, description="preview.jpg by preview key, Base64")
