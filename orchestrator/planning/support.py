"""Supports as commands name them: read from files, found in the store, pinned in an order."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dermbatch.bounded.reader import Reader
from dermbatch.errors import BadInput, UsageError
from dermbatch.images import imagefile
from dermbatch.records.asked import Order
from dermbatch.settings import Settings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.supports.kept import Pixels, check_mask, named
from orchestrator.planning.models import Offer
from orchestrator.planning.tenants.tenant import tenant_of


def read_drawn(image: Path, mask: Path, settings: Settings) -> tuple[Pixels, Pixels]:
    """A picture [H, W, 3] and the mask [H, W] that was drawn on it, of their files.

    Raises:
        UsageError: Where a file is not there or no image that the system takes, or the mask is of another size,
            empty or full.
    """
    reader = Reader(settings.reading.limits, (imagefile.__name__,))
    picture, drawn = (_read(path, reader, settings) for path in (image, mask))
    filled = np.where(drawn.max(axis=2) > 127, np.uint8(255), np.uint8(0))
    check_mask(picture, filled)
    return picture, filled


def _read(path: Path, reader: Reader, settings: Settings) -> Pixels:
    try:
        body = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    try:
        found = reader.run(imagefile.read_image, body, max_pixels=settings.worker.max_pixels)
    except BadInput as error:
        raise UsageError(f"{path} is no image that is taken: {error}") from error
    return found.pixels


def whose(tenant: str, settings: Settings) -> str | None:
    """The tenant that a support has to be of; none where tenants are not declared, and all are of everybody.

    Raises:
        UsageError: Where there is no such tenant.
    """
    return None if tenant_of(settings, tenant) is None else tenant


def pinned(
    order: Order, text: str | None, store: ObjectStore, settings: Settings, tenant: str | None = None
) -> Order:
    """The order with the support that ``NAME`` or ``NAME@VERSION`` names; itself where none is named.

    Args:
        order: Of a batch.
        text: The name, if any.
        store: Where supports lie.
        settings: For the tenants.
        tenant: Whose the batch will be; the order's own if none is given.

    Raises:
        UsageError: Where the batch's tenant has no such support.
    """
    if text is None:
        return order
    found = named(store, text, whose(tenant or order.tenant, settings))
    return order.model_copy(update={"support": found.choice})


def fits(order: Order, offer: Offer) -> None:
    """Refuse a model that has to be shown a support and is not, or the other way round, as far as that is known.

    Raises:
        UsageError: Where that is so.
    """
    model = order.models.get(Stage.SEGMENT)
    if model is None and order.support is not None:
        raise UsageError("a support is for the segment stage, which is not asked for")
    if model is None or offer.shown is None:
        return
    if model.name in offer.shown and order.support is None:
        raise UsageError(f"model {model.name} has to be shown a support: name one with --support NAME")
    if model.name not in offer.shown and order.support is not None:
        those = ", ".join(sorted(offer.shown)) or "none"
        raise UsageError(f"model {model.name} takes no support; those that do: {those} (--model segment=NAME)")
