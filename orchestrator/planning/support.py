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
    """A picture [H, W, 3] and the mask [H, W] drawn on it, read from their files.

    Raises:
        UsageError: If a file is missing or no supported image, or the mask has another size, or is empty or full.
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
        raise UsageError(f"{path} is not a supported image: {error}") from error
    return found.pixels


def whose(tenant: str, settings: Settings) -> str | None:
    """The tenant that must own a support; none if tenants are not declared, and supports are shared by all.

    Raises:
        UsageError: If there is no such tenant.
    """
    return None if tenant_of(settings, tenant) is None else tenant


def pinned(
    order: Order, text: str | None, store: ObjectStore, settings: Settings, tenant: str | None = None
) -> Order:
    """The order with the support that ``NAME`` or ``NAME@VERSION`` names; unchanged if none is named.

    Args:
        order: The order of a batch.
        text: The name, if any.
        store: Where supports lie.
        settings: Name the tenants.
        tenant: Whose the batch will be; by default the order's own.

    Raises:
        UsageError: If the batch's tenant has no such support.
    """
    if text is None:
        return order
    found = named(store, text, whose(tenant or order.tenant, settings))
    return order.model_copy(update={"support": found.choice})


def fits(order: Order, offer: Offer) -> None:
    """Refuse a model that needs a support and gets none, or the reverse, as far as that is known.

    Raises:
        UsageError: If that is the case.
    """
    model = order.models.get(Stage.SEGMENT)
    if model is None and order.support is not None:
        raise UsageError(
            "a support is for the segment stage, which is not among the stages; add segment, or "
            "leave out --support"
        )
    if model is None or offer.shown is None:
        return
    if model.name in offer.shown and order.support is None:
        raise UsageError(f"model {model.name} needs a support: name one with --support NAME")
    if model.name not in offer.shown and order.support is not None:
        those = ", ".join(sorted(offer.shown)) or "none"
        raise UsageError(f"model {model.name} takes no support; those that do: {those} (--model segment=NAME)")
