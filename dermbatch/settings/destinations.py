"""Settings of the systems that results are sent to: PACS and FHIR servers."""

from __future__ import annotations

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from dermbatch.settings.section import Seconds, Section


class DestinationSettings(Section):
    """Somebody else's system, to which results are sent over HTTP."""

    url: str
    user: str | None = Field(default=None, description="user for basic authentication")
    password: SecretStr | None = Field(default=None, description="password for basic authentication")
    token: SecretStr | None = Field(default=None, description="bearer token, instead of user and password")
    ca_file: Path | None = Field(
        default=None, description="PEM file of certificates to trust; if unset, the system's"
    )
    connect_timeout: Seconds = Field(default=5, description="seconds to connect")
    timeout: Seconds = Field(
        default=60, description="seconds to send what belongs to an image, and again for the answer"
    )

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("it must be http://HOST/PATH or https://HOST/PATH")
        if parts.username is not None:
            raise ValueError("it must not hold a user or password; set __USER and __PASSWORD")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if self.token is not None and (self.user is not None or self.password is not None):
            raise ValueError("give a token, or user and password, not both")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together")
        return self


class DicomwebSettings(DestinationSettings):
    """A PACS that DICOM objects are sent to, by DICOMweb STOW-RS (PS3.18, section 10.5)."""

    url: str = Field(description="address of the DICOMweb service, without /studies")


class FhirSettings(DestinationSettings):
    """A FHIR server that results are sent to, as transactions (FHIR R4, section 3.1.0.11)."""

    url: str = Field(description="base address of the FHIR service")
