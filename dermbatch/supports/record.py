"""A support set as it is kept: one or more pictures of a disease, each with its lesion drawn by a person."""

from __future__ import annotations

import hashlib
from datetime import datetime

from pydantic import Field

from dermbatch.records.asked import Name, Record, Stored, SupportChoice


class Shot(Record):
    """One picture with its mask; both are kept as PNG files, called by their digests, of one size."""

    image: str = Field(description="SHA-256 of image.png")
    mask: str = Field(description="SHA-256 of mask.png")
    height: int
    width: int


class SupportSet(Stored):
    """``supports/<name>/<version>.json``: written once; another picture makes another version."""

    name: Name
    version: int = Field(ge=1)
    disease: str | None = None
    created: datetime
    shots: tuple[Shot, ...] = Field(min_length=1)

    @property
    def sha256(self) -> str:
        """Digest of all that a model is shown: the same for the same pictures and masks in the same order."""
        told = "\n".join(f"{shot.image} {shot.mask}" for shot in self.shots)
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def choice(self) -> SupportChoice:
        """What orders and records say of it."""
        return SupportChoice(name=self.name, version=self.version, sha256=self.sha256, disease=self.disease)
