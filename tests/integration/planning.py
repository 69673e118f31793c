"""Plans on a real store, for tests of the planner."""

import io
import zipfile

from dermbatch import layout
from dermbatch.records.asked import BatchControl, ModelChoice, Order
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import read_batch, read_manifest_part
from orchestrator.planning.intake.candidates import Candidate

MODELS = {Stage.SEGMENT: ModelChoice(name="m")}
PNG = b"\x89PNG\r\n\x1a\n"


class Killed(BaseException):
    """As SIGKILL: nothing of the planner's runs afterwards."""


class Mortal(ObjectStore):
    """A store whose client is killed at a write: before it took effect, or after."""

    def __init__(self, settings, writes=None, *, before=True):
        super().__init__(settings)
        self.left, self.before = writes, before

    def _put(self, bucket, key, body, content_type, conditions):
        if self.left is None:
            return super()._put(bucket, key, body, content_type, conditions)
        if self.left <= 0 and self.before:
            raise Killed
        answer = super()._put(bucket, key, body, content_type, conditions)
        if self.left <= 0:
            raise Killed
        self.left -= 1
        return answer


def order(**more):
    return Order(models=MODELS, stages=(Stage.SEGMENT,), **more)


def there(count):
    return [Candidate(f"x{n}", uri=f"s3://bucket/x{n}", size=1, etag=f"{n:032x}") for n in range(count)]


def packed(*members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, body in members:
            archive.writestr(name, body)
    return file.getvalue()


def entries(store, batch):
    record = read_batch(store, batch)
    parts = [layout.part_of(first)[0] for first in range(0, record.images, layout.PART_SIZE)]
    return [e for part in parts for e in read_manifest_part(store, batch, part, images=record.images)]


def control(store, batch):
    return BatchControl.model_validate_json(store.get(store.bucket, layout.control(batch)))
