"""What travels to a worker."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from dermbatch.records.canary import Shadow
from dermbatch.records.order import Order, embedded
from dermbatch.records.record import Stored


class ImageJob(Stored):
    """The Celery message's one argument: everything a worker needs to process one image, but no pixels."""

    batch: str
    index: int
    name: str
    source: str
    order: Order
    size: int | None = None
    etag: str | None = Field(default=None, description="as in the manifest; the cache is asked by it")
    frame: int | None = Field(default=None, ge=1, description="of a DICOM file of several: which, from 1")
    duplicate_of: int | None = Field(default=None, description="wait until that image has its outcome, then reuse")
    may_have_text: bool = Field(default=False, description="as in the manifest")
    shadow: Shadow | None = Field(default=None, description="models to run beside, for a canary")

    _upgraded = model_validator(mode="before")(embedded)

    @property
    def member(self) -> str:
        """The name of this image in the ledger."""
        return f"{self.batch}:{self.index}"

    def to_message(self) -> dict[str, Any]:
        """As it is sent: its format, and of the other fields those that say something."""
        return {"format": self.format, **self.model_dump(mode="json", exclude_defaults=True)}
