"""Models: what is served, their cards, canaries, and batches that compare models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from dermbatch import layout
from dermbatch.errors import InferenceUnavailable, NewerFormat, PermanentError, StackError, UsageError
from dermbatch.models.cards import card_of
from dermbatch.models.repository import default_model_repository
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore
from desk.api.answers import json_of
from desk.desk import Person, TheDesk, ThePerson, TheStore
from desk.problems import Problem
from desk.results.comparisons import Order, compared
from orchestrator.batches.entries import named, read_batch
from orchestrator.planning.models import served
from orchestrator.steering import canary

router = APIRouter(prefix="/v1", tags=["models"])

_MOST = 50
_TIMEOUT = 5
_NAME = re.compile(r"\w[\w.-]{0,200}")


@dataclass(frozen=True)
class ListedModel:
    """A model.

    Attributes:
        name: Its name.
        versions: Served now, oldest first; empty where it is not served.
        stages: Stages that it serves by default.
        card: Its card, in Markdown, if it came with this installation.
        card_version: Version that the card describes; none if there is no card, or it does not say.
        figures: What the card says was measured, by name: calibration error, sensitivity and specificity by class
            and, where a threshold is moved so that a share of a class is found, the specificity there.
    """

    name: str
    versions: tuple[str, ...]
    stages: tuple[str, ...]
    card: str | None
    card_version: str | None
    figures: Mapping[str, str]


@router.get("/models")
def models(request: Request, desk: TheDesk) -> Response:
    """The models that are served, and those that are used by default."""
    found, problem = all_models(desk.settings)
    return json_of(request, {"models": [vars(one) for one in found], "problem": problem})


@router.get("/models/{name}")
def model(name: str, request: Request) -> Response:
    """What is known about a model, served or not: its card and the figures in it.

    Models that did not come with this installation have no card.
    """
    if not _NAME.fullmatch(name):
        raise Problem(404, "no_model", "there is no model of this name")
    return json_of(request, {"name": name, **_of_card(name)})


@router.get("/batches/{batch}/comparison")
def comparison(
    batch: str,
    request: Request,
    store: TheStore,
    order: Order = "dice",
    start: Annotated[int, Query(ge=0)] = 0,
    truth: Annotated[
        str | None, Query(description="s3://bucket/prefix of true masks, named like the images")
    ] = None,
) -> Response:
    """A page of the comparison of a resegmented batch with the earlier one, and with true masks."""
    named(store, batch)
    found = compared(store, batch, order, start, truth)
    return json_of(request, {"total": found.total, "start": found.start, "rows": found.rows})


@router.get("/canaries")
def canaries(request: Request, store: TheStore, person: ThePerson) -> Response:
    """Canaries, and what each has shown."""
    return json_of(request, [report.model_dump(mode="json") for report in canaries_of(store, person)])


def all_models(settings: Settings) -> tuple[list[ListedModel], str | None]:
    """All models, and, if it is unknown which are served, why."""
    try:
        there, problem = dict(served(settings.triton, timeout=_TIMEOUT)), None
    except InferenceUnavailable as error:
        there, problem = {}, str(error)
    used: dict[str, list[str]] = {}
    for stage, choice in settings.models.items():
        used.setdefault(choice.name, []).append(stage.value)
    names = [*used, *sorted(set(there) - set(used))]
    return [
        ListedModel(name, tuple(there.get(name, ())), tuple(used.get(name, ())), **_of_card(name))
        for name in names
    ], problem


def _of_card(name: str) -> dict[str, Any]:
    try:
        card = card_of(default_model_repository(), name)
    except StackError:
        card = None
    if card is None:
        return {"card": None, "card_version": None, "figures": {}}
    return {"card": card.text, "card_version": card.version, "figures": card.figures}


def canaries_of(store: ObjectStore, person: Person) -> list[canary.CanaryReport]:
    """Reports of canaries, newest first; none for a tenant, since they cover the images of all."""
    if person.tenant is not None:
        return []
    found = []
    for name in store.folders(store.bucket, layout.CANARIES):
        try:
            found.append(canary.report(store, name))
        except (UsageError, PermanentError, NewerFormat):
            continue
    return sorted(found, key=lambda one: one.canary.created, reverse=True)[:_MOST]


def comparisons(store: ObjectStore, names: list[str]) -> list[dict[str, Any]]:
    """Of these batches, those that compare models with earlier batches."""
    found = []
    for name in names:
        try:
            batch = read_batch(store, name)
        except (PermanentError, NewerFormat):
            continue
        if batch.order.compared_with:
            found.append({"name": name, "with": batch.order.compared_with, "models": batch.order.models})
    return found
