"""Sets of images that people put together; a tag is the set ``tag-<digit>``. Each person has their own."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, StoreUnavailable
from dermbatch.records.asked import Record
from dermbatch.store import ObjectStore
from dermbatch.stored import JSON, parsed, read
from desk.api.answers import json_of
from desk.desk import Person, ThePerson, TheStore
from desk.problems import Problem

router = APIRouter(prefix="/v1/sets", tags=["sets"])

_MOST = 100_000
_TRIES = 10

SetName = Annotated[str, Path(pattern=r"^[\w-]{1,60}$", description="letters, digits, - and _")]


class ImageSet(Record):
    """Images by batch; ``desk/sets/<person>/<name>.json``."""

    name: str
    images: dict[str, tuple[int, ...]] = Field(default={}, description="indices, ascending, by batch")


Index = Annotated[int, Field(ge=0, lt=1 << 32)]


class SetChange(BaseModel):
    """What goes in and out: indices by batch."""

    add: dict[str, list[Index]] = {}
    remove: dict[str, list[Index]] = {}


def sets_of(store: ObjectStore, person: Person) -> dict[str, set[tuple[str, int]]]:
    """All of a person's sets by name."""
    return {one.name: {(b, n) for b, ns in one.images.items() for n in ns} for one in _all(store, person)}


@router.get("", response_model=list[ImageSet])
def sets(request: Request, store: TheStore, person: ThePerson) -> Response:
    """Your own sets."""
    return json_of(request, [one.model_dump() for one in _all(store, person)])


@router.patch("/{name}", response_model=ImageSet)
def change(name: SetName, changed: SetChange, request: Request, store: TheStore, person: ThePerson) -> Response:
    """Put images in and take images out; simultaneous changes are never lost."""
    for _ in range(_TRIES):
        try:
            body, etag = store.read(store.bucket, layout.image_set(person.key, name))
            found = parsed(body, ImageSet, "a set is damaged")
        except ObjectNotFound:
            found, etag = ImageSet(name=name), None
        made = _changed(found, changed)
        if store.put_if_match(layout.image_set(person.key, name), made.to_json(), JSON, etag) is not None:
            return json_of(request, made.model_dump())
    raise StoreUnavailable("the set is being changed too fast; try again")


@router.delete("/{name}", status_code=204)
def delete(name: SetName, store: TheStore, person: ThePerson) -> None:
    """Drop a set; the images stay."""
    store.delete(layout.image_set(person.key, name))


def _changed(found: ImageSet, changed: SetChange) -> ImageSet:
    images = {batch: set(indices) for batch, indices in found.images.items()}
    for batch, indices in changed.add.items():
        images.setdefault(batch, set()).update(indices)
    for batch, indices in changed.remove.items():
        images.get(batch, set()).difference_update(indices)
    if sum(map(len, images.values())) > _MOST:
        raise Problem(413, "too_large", f"a set has at most {_MOST:,} images: nothing was added; use another set")
    kept = {batch: tuple(sorted(indices)) for batch, indices in images.items() if indices}
    return found.model_copy(update={"images": kept})


def _all(store: ObjectStore, person: Person) -> list[ImageSet]:
    infos = store.list(store.bucket, layout.image_sets(person.key))
    return [read(store, info.key, ImageSet) for info in infos]
