"""Rules of watch, tried before use: which one takes an object, and why the others do not."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from dermbatch.errors import UsageError
from dermbatch.store import split_uri
from desk.desk import TheDesk
from orchestrator.watching.rules.rules import load_rules

router = APIRouter(prefix="/v1/rules", tags=["rules"])

_MOST = 1 << 20


class Trial(BaseModel):
    """Rules, and the names of objects."""

    model_config = ConfigDict(extra="forbid")

    rules: str = Field(max_length=_MOST, description="the file of rules, YAML")
    objects: list[str] = Field(min_length=1, max_length=100, description="s3://bucket/key of each")


@router.post("/trial")
def trial(asked: Trial, desk: TheDesk) -> dict[str, Any]:
    """What each rule says about each object, and what the one that takes it would do. Nothing is read or written.

    Rules decide by the name alone, so the object need not be there.
    """
    store = desk.settings.store
    with TemporaryDirectory(prefix="rules-") as folder:
        file = Path(folder) / "rules.yaml"
        file.write_text(asked.rules, encoding="utf-8")
        try:
            book = load_rules(file)
        except UsageError as error:
            raise UsageError(str(error).replace(str(file), "rules")) from error
    book.check_apart([store.bucket, store.incoming_bucket])
    objects = []
    for uri in asked.objects:
        try:
            bucket, key = split_uri(uri)
        except ValueError as error:
            raise UsageError(str(error)) from error
        verdicts = book.explain(bucket, key)
        told = [{"rule": one.rule.name, "fires": one.fires, "why": one.why} for one in verdicts]
        fired = next((one.rule for one in verdicts if one.fires), None)
        done = fired.model_dump(mode="json", exclude_none=True) if fired is not None else None
        objects.append({"object": uri, "rules": told, "done": done})
    return {"objects": objects}
