"""An image in an in-memory store, and all that is needed to process it."""

import hashlib

import cv2
from standins import Store, skin_with_lesion, whole_triton

from dermbatch.images import png
from dermbatch.pictures import read_whole
from dermbatch.records.asked import ImageJob, ModelChoice, Order
from dermbatch.records.outcome import KnownImage
from dermbatch.settings import WorkerSettings
from dermbatch.stages import ORDER, Stage
from workers.process.journey import process

IMAGE = skin_with_lesion(300, 400, radius=80, hair=True)
BODY = bytes(cv2.imencode(".png", cv2.cvtColor(IMAGE, cv2.COLOR_RGB2BGR))[1])
SHA256 = hashlib.sha256(BODY).hexdigest()
CHOICES = {stage: ModelChoice(name=stage.value) for stage in Stage}


class Place:
    """A store with one image, and all that processing it takes."""

    def __init__(self, triton=None, body=BODY, limits=None):
        self.limits = limits or WorkerSettings()
        self.store = Store()
        self.store.objects["incoming", "a.png"] = body
        self.triton = triton or whole_triton()
        self.looked = 0

    def alive(self):
        self.looked += 1

    def job(
        self, stages=ORDER, *, models=CHOICES, uri="s3://incoming/a.png", batch="b", listed=True, uploaded=True
    ):
        """A job as planning makes it, of an object that it uploaded, or that it listed, or that nobody listed."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        there = listed and (bucket, key) in self.store.objects
        return ImageJob(
            batch=batch,
            index=7,
            name="a.png",
            source=uri,
            order=Order(stages=stages, models=models),
            size=len(self.store.objects[bucket, key]) if there else None,
            etag=self.store.etag(bucket, key) if there else None,
            sha256=hashlib.sha256(self.store.objects[bucket, key]).hexdigest() if there and uploaded else None,
        )

    def run(self, stages=ORDER, *, job=None, alive=None, limits=None, attempt=1, **asked):
        job = job or self.job(stages, **asked)
        self.store.requests.clear()
        self.triton.asked.clear()
        return process(
            job,
            store=self.store,
            client=self.triton,
            limits=limits or self.limits,
            attempt=attempt,
            worker="w",
            alive=alive or self.alive,
        )

    def read(self):
        return KnownImage.model_validate_json(self.store.objects["results", self.known()])

    def known(self):
        (key,) = self.store.keys("^images/known/")
        return key

    def asked(self):
        return list(dict.fromkeys(name for name, _ in self.triton.asked))

    def picture(self, record, stage, name):
        if name in record.stages[stage].differences:
            return png.decode(read_whole(self.store, record.source, record.stages[stage], name))
        return png.decode(self.store.objects["results", record.stages[stage].artifacts[name]])
