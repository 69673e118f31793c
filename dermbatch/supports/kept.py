"""Support sets in the object store: adding to them, finding, listing and removing them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from dermbatch import layout
from dermbatch.errors import ArtifactDamaged, ObjectNotFound, UsageError
from dermbatch.images import png
from dermbatch.images.fitting import LONG_SIDE, sent_size
from dermbatch.images.fitting import fit as fitted
from dermbatch.records.asked import SupportChoice
from dermbatch.store import ObjectStore
from dermbatch.stored import JSON, read, write_once
from dermbatch.supports.record import Shot, SupportSet

Pixels = NDArray[np.uint8]

MOST_SHOTS = 32


def add(store: ObjectStore, name: str, image: Pixels, mask: Pixels, disease: str | None = None) -> SupportSet:
    """Add a picture to a set, which makes its next version; the set is created if it does not exist.

    Pictures are stored without their files' other data, reduced to the size that models are sent.

    Args:
        store: Where sets lie.
        name: Name of the set.
        image: [H, W, 3] RGB.
        mask: [H, W], lesion where it is not 0.
        disease: The disease that the set shows; that of the previous version if not given.

    Raises:
        UsageError: If the name is not usable; where the mask is of another size than the image, empty or full;
            where the set has as many pictures as it may; where somebody else added one meanwhile.
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    layout.check_batch_name(name, "support")
    check_mask(image, mask)
    before = newest(store, name)
    shots = before.shots if before is not None else ()
    if len(shots) >= MOST_SHOTS:
        raise UsageError(
            f"support {name} has {MOST_SHOTS} pictures already, the most that are "
            "allowed; remove one, or add a new support"
        )
    size = sent_size((-1, -1), mask.shape[0], mask.shape[1], LONG_SIDE)
    small = np.where(
        fitted(np.where(mask > 0, np.uint8(255), np.uint8(0)), size) > 127, np.uint8(255), np.uint8(0)
    )
    shot = _put(store, name, fitted(image, size), np.asarray(small, np.uint8))
    made = SupportSet(
        name=name,
        version=before.version + 1 if before is not None else 1,
        disease=disease or (before.disease if before is not None else None),
        created=datetime.now(UTC),
        shots=(*shots, shot),
    )
    if not write_once(store, layout.support(name, made.version), made):
        raise UsageError(f"somebody else has just added to support {name}; try again")
    return made


def check_mask(image: Pixels, mask: Pixels) -> None:
    """Refuse a mask that says nothing about a picture.

    Raises:
        UsageError: If it has another size than the image, or is empty or full.
    """
    (height, width), (rows, columns) = image.shape[:2], mask.shape
    if (height, width) != (rows, columns):
        raise UsageError(
            f"the mask is {columns} x {rows} pixels, the image {width} x {height}: draw it on the image"
        )
    if not mask.any():
        raise UsageError("the mask is empty: the lesion must not be black")
    if mask.all():
        raise UsageError("the mask is full: the skin must be black")


def _put(store: ObjectStore, name: str, image: Pixels, mask: Pixels) -> Shot:
    digests = []
    for pixels in (image, mask):
        body = png.encode(pixels)
        digests.append(hashlib.sha256(body).hexdigest())
        store.put(layout.support_file(name, digests[-1]), body, "image/png")
    return Shot(image=digests[0], mask=digests[1], height=image.shape[0], width=image.shape[1])


def newest(store: ObjectStore, name: str) -> SupportSet | None:
    """The newest version of a set; none if there is no such set."""
    versions = [info.key for info in store.list(store.bucket, layout.support_versions(name))]
    return read(store, max(versions), SupportSet) if versions else None


def named(store: ObjectStore, text: str, tenant: str | None = None) -> SupportSet:
    """The set that ``NAME`` or ``NAME@VERSION`` names.

    Args:
        store: Where sets lie.
        text: The name, with or without the tenant's before it.
        tenant: The tenant it has to belong to; none if tenants are not declared.

    Raises:
        UsageError: If there is none; a tenant learns nothing about others' sets.
    """
    name, _, version = text.partition("@")
    name = owned(name, tenant)
    if version and not version.isdecimal():
        raise UsageError(f"support {text!r}: write NAME or NAME@VERSION")
    try:
        found = read(store, layout.support(name, int(version)), SupportSet) if version else newest(store, name)
    except ObjectNotFound:
        found = None
    if found is None:
        there = ", ".join(sorted(each.name for each in all_newest(store, tenant))) or "none"
        raise UsageError(
            f"there is no support {text}; there are {there}. Add one: dermbatch supports add NAME IMAGE MASK"
        )
    return found


def owned(name: str, tenant: str | None) -> str:
    """What a tenant's set is called: like its batches, with the tenant's name and a dot in front.

    Raises:
        UsageError: If the name is not usable.
    """
    return layout.check_batch_name(name if tenant is None else layout.owned(name, tenant), "support")


def all_newest(store: ObjectStore, tenant: str | None = None) -> Iterator[SupportSet]:
    """The newest version of every set, or of each of a tenant's sets."""
    for folder in store.folders(store.bucket, layout.SUPPORTS):
        name = folder.rstrip("/").rpartition("/")[2]
        if tenant is not None and not layout.is_owned(name, tenant):
            continue
        found = newest(store, name)
        if found is not None:
            yield found


def remove(store: ObjectStore, name: str) -> None:
    """Delete a set with all its versions and pictures.

    Raises:
        UsageError: If there is no such set.
    """
    named(store, name)
    store.delete_prefix(store.bucket, layout.support_prefix(name))


def pictures(store: ObjectStore, name: str, shot: Shot) -> tuple[Pixels, Pixels]:
    """A shot's picture [H, W, 3] and mask [H, W].

    Raises:
        ObjectNotFound: If it was removed.
        ArtifactDamaged: If a file differs from the one that was added.
    """
    found = []
    for digest in (shot.image, shot.mask):
        body = store.get(store.bucket, layout.support_file(name, digest))
        if hashlib.sha256(body).hexdigest() != digest:
            raise ArtifactDamaged(
                f"{layout.support_file(name, digest)} is damaged: its digest differs; add the support again"
            )
        found.append(png.decode(body))
    return found[0], found[1]


@dataclass(frozen=True)
class PackedSupport:
    """A version of a set with its files, to be copied to another store.

    Attributes:
        found: The set.
        files: Its pictures by key.
    """

    found: SupportSet
    files: dict[str, bytes]

    @classmethod
    def of(cls, store: ObjectStore, found: SupportSet) -> PackedSupport:
        """Read from a store."""
        keys = (layout.support_file(found.name, one) for shot in found.shots for one in (shot.image, shot.mask))
        return cls(found, {key: store.get(store.bucket, key) for key in keys})

    @property
    def choice(self) -> SupportChoice:
        """What orders say about it."""
        return self.found.choice

    def put(self, store: ObjectStore) -> None:
        """Write it."""
        for key, body in self.files.items():
            store.put(key, body, "image/png")
        store.put(layout.support(self.found.name, self.found.version), self.found.to_json(), JSON)
