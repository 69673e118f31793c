"""Profiles: what de-identification removes, and what it keeps.

The base is the Basic Application Level Confidentiality Profile of DICOM PS3.15 Annex E. A profile can keep more by
those options of the same annex that keep no free text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dermbatch.errors import UsageError
from dermbatch.layout import check_batch_name
from orchestrator.planning.documents import read_model


class Profile(BaseModel):
    """One way to de-identify; written in YAML, see docs/privacy.md."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="the name that batches and rules use: 1 to 100 of a-z, 0-9, '.', '_' and '-'")
    dates: Literal["remove", "shift", "keep"] = Field(
        default="remove",
        description="shift: Retain Longitudinal Temporal Information with Modified Dates, all dates of a patient "
        "by the same days; keep: with Full Dates",
    )
    uids: Literal["replace", "keep"] = Field(default="replace", description="keep: Retain UIDs")
    burned_in_text: Literal["refuse", "flag"] = Field(
        default="refuse", description="what becomes of images that have, or may have, text in their pixels"
    )
    reidentification: bool = Field(default=False, description="whether a sealed table of the originals is written")

    @field_validator("name")
    @classmethod
    def _usable(cls, name: str) -> str:
        try:
            return check_batch_name(name, "profile")
        except UsageError as error:
            raise ValueError(str(error)) from error


def load_profile(path: Path) -> Profile:
    """The profile of a YAML file.

    Raises:
        UsageError: If the file cannot be read or is no profile, in one sentence.
    """
    return read_model(path, Profile, "the profile")
