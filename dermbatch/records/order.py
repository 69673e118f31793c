"""An order: what is to be done with images, from the command or rule that says so to the worker that does it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from dermbatch.records.record import Record
from dermbatch.stages import ORDER, Stage

Lane = Literal["live", "bulk"]


class ModelChoice(Record):
    """A model of the Triton model repository; the newest version where none is pinned."""

    name: str
    version: str | None = None


class Deidentification(Record):
    """How images were de-identified before anything else saw them: a profile, and the salt of the pseudonyms."""

    profile: str
    dates: Literal["remove", "shift", "keep"]
    uids: Literal["replace", "keep"]
    burned_in_text: Literal["refuse", "flag"]
    reidentification: bool = Field(description="whether a sealed table of the originals was written")
    salt: str = Field(description="fingerprint of the salt: another salt gives other pseudonyms")


class Order(Record):
    """What the user asked to be done; part of plan, batch and job."""

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
    send_to: str | None = Field(
        default=None, description="the PACS of the settings that DICOM objects are sent to"
    )
    dicom: bool = Field(
        default=False,
        validate_default=True,
        description="whether DICOM objects are written beside the results; always where they are sent",
    )
    output: str | None = Field(default=None, description="s3://bucket/prefix that results are also copied under")

    @field_validator("dicom")
    @classmethod
    def _written_where_sent(cls, dicom: bool, info: ValidationInfo) -> bool:
        return dicom or info.data.get("send_to") is not None


def embedded(said: Any) -> Any:
    """A record's fields, with those of its order in ``order``: version 0.1.0 wrote them beside the others."""
    if not isinstance(said, dict) or "order" in said:
        return said
    order = {field: value for field, value in said.items() if field in Order.model_fields}
    return {field: value for field, value in said.items() if field not in order} | {"order": order}
