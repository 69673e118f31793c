"""The manifest: every image that was asked for."""

from __future__ import annotations

from pydantic import Field

from dermbatch.records.record import Record


class Refusal(Record):
    """Why an input never became an image: a zip member with a ``../`` name, an unreadable file ..."""

    reason: str
    message: str


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
