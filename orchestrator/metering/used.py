"""Quantities of what was used, as whole numbers, so that sums do not depend on the order of addition."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from dermbatch.records.outcome import Device
from dermbatch.stages import ORDER

DEVICES: tuple[Device, ...] = get_args(Device)

UNITS = {
    "images": 1,
    **{f"{stage}_seconds": 1_000_000 for stage in ORDER},
    **{f"{device}_seconds": 1_000_000 for device in DEVICES},
    "gigabytes_read": 1_000_000_000,
    "gigabytes_stored": 1_000_000_000,
}
"""What is counted, and how many parts make a unit: seconds are counted in microseconds, gigabytes in bytes."""

Used = Counter[str]
"""How much was used, by the names in :data:`UNITS`, in their parts."""
