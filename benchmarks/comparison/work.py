"""What a home-made chain does with one image: the very stages, files and PNG encoder of the product, in one go.

Left out is what makes the product more than that: no ledger, no claim, no lease, no keys, no second look at what
is there, no report. Whatever dies takes its image with it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
from dataclasses import dataclass
from pathlib import Path

from dermbatch.images.imagefile import SourceImage
from dermbatch.models.served import Array
from dermbatch.records.asked import ImageJob, Order
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore
from workers.image import artifacts
from workers.image.pictures import Pictures
from workers.image.preview import preview
from workers.image.steps import plan, run_step
from workers.inference.onnx import OnnxRuntime

PREFIX = "inputs/"


@dataclass(frozen=True)
class Given:
    """What a rival's process is told, in a file that only this benchmark reads.

    Attributes:
        settings: With the store's address and keys.
        repository: The Triton model repository.
    """

    settings: Settings
    repository: Path

    def write(self, path: Path) -> Path:
        """Into a file."""
        path.write_bytes(pickle.dumps(self))
        return path

    @classmethod
    def read(cls, path: Path) -> Given:
        """Out of the file."""
        found = pickle.loads(path.read_bytes())  # of our own making
        assert isinstance(found, cls)
        return found


class Work:
    """A process's models, and its way of processing an image."""

    def __init__(self, given: Given) -> None:
        self._client = OnnxRuntime(given.repository)
        self._pixels = given.settings.worker.max_pixels
        self._order = Order(models=given.settings.models)

    def decoded(self, body: bytes) -> Pictures:
        """The pictures of an image file, its own decoded."""
        pictures = Pictures(lambda: body, self._pixels, None, {})  # type: ignore[arg-type]
        _ = pictures.source
        return pictures

    def made(self, pictures: Pictures) -> dict[str, Array]:
        """Run all stages; every artifact by its name."""
        job = ImageJob(batch="b", index=0, name="", source="s3://b/0", order=self._order)
        found: dict[str, Array] = {}
        source: SourceImage = pictures.source
        for step in plan(job, self._client):
            _, made = run_step(step, pictures, source, self._client, None)  # type: ignore[arg-type]
            found |= made
        return found

    def process(self, store: ObjectStore, key: str) -> None:
        """Read an image, run all stages, write what the product writes."""
        body = store.get(store.incoming_bucket, key)
        name = hashlib.sha256(body).hexdigest()
        pictures = self.decoded(body)
        files = {file: artifacts.encode(file, array) for file, array in self.made(pictures).items()}
        small = {file: files.pop(file) for file in artifacts.INLINE & files.keys()}
        for file, content in files.items():
            store.put(f"chain/{name}/{file}", content, "image/png")
        shown = preview(pictures.source.pixels, pictures.mask, pictures.purified, pictures.enhanced)
        record = {
            file: base64.b64encode(content).decode() for file, content in {**small, "preview": shown}.items()
        }
        store.put(f"chain/{name}/result.json", json.dumps(record).encode(), "application/json")
