"""An image processed with its DICOM objects, and files that it may come from."""

import hashlib
import re
from functools import cache
from io import BytesIO

from highdicom.sr import srread
from pydicom import dcmread
from standins import Store, whole_triton

from dermbatch.images import png
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import dicom
from dermbatch.records.asked import ImageJob, ModelChoice, Order
from dermbatch.settings import WorkerSettings
from dermbatch.stages import ORDER, Stage
from workers.process.journey import process

MODELS = {stage: ModelChoice(name=stage.value) for stage in Stage}
UID = re.compile(r"2\.25\.(0|[1-9]\d{0,38})")


class Made:
    """An image processed with its objects."""

    def __init__(
        self, body, *, stages=ORDER, asked=True, store=None, batch="b", frame=None, text=False, client=None
    ):
        self.store = store or Store()
        self.store.put("x", body, "", bucket="incoming")
        self.store.requests.clear()
        job = ImageJob(
            batch=batch,
            index=1002,
            name="a",
            source="s3://incoming/x",
            order=Order(stages=stages, models=MODELS, dicom=asked),
            frame=frame,
            size=len(body),
            etag=self.store.etag("incoming", "x"),
            sha256=hashlib.sha256(body).hexdigest(),
            may_have_text=text,
        )
        servers = {"store": self.store, "client": client or whole_triton(), "limits": WorkerSettings()}
        self.record = process(job, **servers, attempt=1, worker="w", alive=lambda: None)

    @property
    def files(self):
        return {kind: self.store.objects["results", key] for kind, key in self.record.dicom.items()}

    def read(self, kind):
        return dcmread(BytesIO(self.files[kind]))

    def picture(self, stage, name):
        return png.decode(self.store.objects["results", self.record.stages[stage].artifacts[name]])


DRAWN = dicom(phantom(3, height=120, width=160), identity=3)


def source(**changes):
    """A phantom's DICOM file; attributes changed, or taken out where None."""
    dataset = dcmread(BytesIO(DRAWN))
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=False)
    return file.getvalue()


@cache
def looked_at(**changes):
    """The image of a source with these changes, processed once for all tests that only look at it."""
    return Made(source(**changes))


def values(made):
    """Of every group of the report: name of a measurement to (value, unit); of an evaluation to its code."""
    (report,) = [srread(BytesIO(made.files["report"]))]
    content = report.content
    found = {}
    for group in (*content.get_planar_roi_measurement_groups(), *content.get_image_measurement_groups()):
        for measurement in group.get_measurements():
            found[measurement.name.value] = (float(measurement.value), measurement.unit.value)
        for evaluation in group.get_qualitative_evaluations():
            found[evaluation.name.value] = evaluation.value.value
    return found


def flags_of(made):
    """Codes of the quality flags of a report."""
    found = []
    for element in made.read("report").iterall():
        if element.keyword == "ConceptCodeSequence":
            found += [item.CodeValue for item in element.value if item.CodeValue.startswith("Q-")]
    return found
