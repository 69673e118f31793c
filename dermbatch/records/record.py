"""What all records have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of all records: unknown fields are an error, so that a typing mistake cannot lose data."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    def to_json(self) -> bytes:
        """UTF-8 JSON of this record."""
        return self.model_dump_json().encode()
