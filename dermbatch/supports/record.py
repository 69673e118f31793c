"""A support set as stored: one or more pictures of a disease, each with its lesion outlined by a person."""

from __future__ import annotations

import hashlib
from datetime import datetime

from pydantic import Field

from dermbatch.records.asked import Name, Record, Stored, SupportChoice


class Shot(Record):
    """One picture with its mask, both stored as PNG files of one size, named by their digests."""

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
        """Digest of everything a model is shown: the same for the same pictures and masks in the same order."""
        told = "\n".join(f"{shot.image} {shot.mask}" for shot in self.shots)
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def choice(self) -> SupportChoice:
        """What orders and records say about it."""
        return SupportChoice(name=self.name, version=self.version, sha256=self.sha256, disease=self.disease)
