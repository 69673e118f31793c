"""What all records have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, field_validator

from dermbatch.errors import NewerFormat

FORMAT = 2
"""Of the records and messages that are written; one number for all. Version 0.1.0 wrote none: that is format 1."""


class Record(BaseModel):
    """Base of all records: unknown fields are an error, so that a typing mistake cannot lose data."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    def to_json(self) -> bytes:
        """UTF-8 JSON of this record."""
        return self.model_dump_json().encode()


class Stored(Record):
    """Base of what is stored or sent as a whole. Of an older format, it is made what it would be today.

    Raises:
        NewerFormat: Where it is read and is of a format that is not known here, whatever else is in it.
    """

    format: int = FORMAT

    @field_validator("format")
    @classmethod
    def _known(cls, said: int) -> int:
        if said > FORMAT:
            raise NewerFormat(
                f"this {cls.__name__} is of format {said}, and formats up to {FORMAT} are known here: "
                "install the version of Dermbatch that wrote it, or a later one"
            )
        return FORMAT
