"""How long planning a prefix takes: the real intake and planner, on a listing that a stand-in gives.

    python -m benchmarks.planning [--images N]

What the object store takes for its pages, 1,000 objects each, comes on top.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from rich.console import Console

from dermbatch.audit import NO_AUDIT
from dermbatch.errors import ObjectNotFound
from dermbatch.records.asked import Order
from dermbatch.settings import DEFAULT_MODELS, Settings
from dermbatch.store import ObjectInfo
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.planner import plan

_PREFIX = "export/"
_MIB = 1024
_THEN = datetime(2026, 1, 1, tzinfo=UTC)

console = Console(highlight=False)


class PhotographBucket:
    """What intake and planner ask of the object store, of a bucket with so many photographs."""

    bucket, incoming_bucket = "results", "incoming"
    audit = NO_AUDIT

    def __init__(self, images: int) -> None:
        self._images = images
        self._kept: dict[str, bytes] = {}

    def under(self, pseudonym: object) -> PhotographBucket:
        """The same store."""
        return self

    def get(self, bucket: str, key: str, **_: object) -> bytes:
        """An object that was written."""
        if key not in self._kept:
            raise ObjectNotFound(f"no such object: {key}")
        return self._kept[key]

    def list(self, bucket: str, prefix: str, **_: object) -> Iterator[ObjectInfo]:
        """The photographs; of another bucket, nothing."""
        for index in range(self._images if bucket == "archive" else 0):
            etag = hashlib.md5(index.to_bytes(8, "big"), usedforsecurity=False).hexdigest()
            yield ObjectInfo(f"{_PREFIX}{index // 1000:06d}/IMG_{index:09d}.jpg", 500_000 + index, etag, _THEN)

    def put(self, key: str, body: bytes, content_type: str, **_: object) -> None:
        """Keep an object; of the manifest, nothing."""
        self._kept[key] = b"" if "/manifest/" in key else body

    def put_if_absent(self, key: str, body: bytes, content_type: str) -> bool:
        """Keep an object where none is kept."""
        return self._kept.setdefault(key, body) is body


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    asked = parser.parse_args()
    store = PhotographBucket(asked.images)
    walk = Intake(Settings(), store, in_place=True).walk([f"s3://archive/{_PREFIX}"])  # type: ignore[arg-type]
    before, start, cpu = _resident(), time.monotonic(), time.process_time()
    batch = plan("planned", Order(models=DEFAULT_MODELS), walk, store)  # type: ignore[arg-type]
    seconds, spent = time.monotonic() - start, time.process_time() - cpu
    console.print(
        f"{batch.images:,} images planned in {seconds:.1f} s: {batch.images / seconds:,.0f} images/s, "
        f"{1e6 * spent / batch.images:.1f} us of CPU each; memory {before} MiB, then at most {_resident()} MiB"
    )


def _resident() -> int:
    """The most memory that this process ever had resident, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // _MIB


if __name__ == "__main__":
    main()
