import cv2
import numpy as np
import pytest
from prometheus_client import REGISTRY
from standins import Store, classify_by_area, skin_with_lesion, whole_triton

from dermbatch import layout
from dermbatch.errors import InferenceUnavailable, StoreUnavailable
from dermbatch.images.lesion import dice
from dermbatch.records.asked import ImageJob, ModelChoice, Order, Shadow
from dermbatch.records.measures import probability_change
from dermbatch.records.outcome import CanaryRecord, ClassifyOutput
from dermbatch.settings import WorkerSettings
from dermbatch.stages import ORDER, Stage
from workers.process.journey import process
from workers.process.shadow import run_shadow

IMAGE = skin_with_lesion(120, 160, radius=40)
BODY = bytes(cv2.imencode(".png", cv2.cvtColor(IMAGE, cv2.COLOR_RGB2BGR))[1])
OLD = {stage: ModelChoice(name=stage.value) for stage in Stage}
KEY = layout.canary_result("try", "b", 3)


class Versions:
    """A stand-in for Triton that serves models by name, so that two runs may ask for different ones."""

    def __init__(self):
        self.old = whole_triton()
        self.new = {}
        self.asked = self.old.asked
        self.functions = self.old.functions

    def model(self, stage, choice):
        return self.new.get(choice.name) or self.old.model(stage, choice)

    def infer(self, *asked):
        return self.old.infer(*asked)

    def infer_many(self, *asked):
        return self.old.infer_many(*asked)

    def serve(self, name, stage, function):
        """Serve another model for a stage."""
        model = whole_triton(**{stage.value: "ef" * 32}).models[stage]
        self.new[name] = type(model)(name, "7", "ef" * 32, model.max_batch, model.shapes, model.parameters)
        self.functions[name] = function


class Place:
    """A committed image, and what its side run takes."""

    def __init__(self, stages=ORDER):
        self.store, self.triton = Store(), Versions()
        self.store.objects["incoming", "a.png"] = BODY
        etag = self.store.etag("incoming", "a.png")
        self.job = ImageJob(
            batch="b",
            index=3,
            name="a.png",
            source="s3://incoming/a.png",
            order=Order(stages=stages, models=OLD),
            size=len(BODY),
            etag=etag,
        )
        self.record = process(self.job, **self.servers(), attempt=2, worker="w", alive=lambda: None)
        self.triton.asked.clear()

    def servers(self):
        return {"store": self.store, "client": self.triton, "limits": WorkerSettings()}

    def shadow(self, alive=lambda: None, **models):
        others = OLD | {Stage(stage): ModelChoice(name=name) for stage, name in models.items()}
        job = self.job.model_copy(update={"shadow": Shadow(canary="try", models=others)})
        run_shadow(job, self.record, **self.servers(), alive=alive)

    def comparison(self):
        return CanaryRecord.model_validate_json(self.store.objects["results", KEY])

    def asked(self):
        return {name for name, _ in self.triton.asked}


@pytest.fixture
def place():
    return Place()


def counted(outcome):
    return REGISTRY.get_sample_value("dermbatch_canary_images_total", {"outcome": outcome}) or 0.0


def half(IMAGE):  # noqa: N803 - the tensor's name
    """The upper half of what is dark."""
    dark = (IMAGE[..., 0] < 140).astype(np.uint8) * 255
    dark[len(dark) // 2 :] = 0
    return {"LESION": dark}


def test_a_job_without_a_shadow_costs_nothing(place):
    place.store.requests.clear()
    run_shadow(place.job, place.record, **place.servers(), alive=lambda: None)
    assert (place.store.requests, place.asked()) == ([], set())


def test_another_segmentation_is_run_with_what_depends_on_it_and_compared(place):
    place.triton.serve("halving", Stage.SEGMENT, half)
    differ = counted("differ")
    place.shadow(segment="halving")
    comparison = place.comparison()
    assert place.asked() == {"halving", "enhance", "classify"}  # the purified picture is the old one
    assert (comparison.canary, comparison.batch, comparison.index, comparison.name, comparison.failure) == (
        "try",
        "b",
        3,
        "a.png",
        None,
    )
    assert comparison.dice == pytest.approx(2 / 3, abs=0.03)  # half of it: 2 * 1/2 / (1 + 1/2)
    assert comparison.models[Stage.SEGMENT].name == "halving"
    assert comparison.models[Stage.PURIFY] == place.record.stages[Stage.PURIFY].model
    assert comparison.seconds > 0
    assert counted("differ") == differ + 1


def test_another_classifier_has_the_same_mask_and_other_probabilities(place):
    def sure(**inputs):
        return classify_by_area(**inputs) | {"PROBABILITIES": np.array([0.9, 0.06, 0.04], np.float32)}

    place.triton.serve("sure", Stage.CLASSIFY, sure)
    place.shadow(classify="sure")
    comparison = place.comparison()
    assert place.asked() == {"sure"}
    old = place.record.stages[Stage.CLASSIFY].output
    assert (comparison.dice, comparison.old_label, comparison.new_label) == (1.0, old.label, "melanoma")
    assert comparison.probability_change == pytest.approx(0.9 - old.probabilities["melanoma"], abs=1e-6)


def test_a_model_is_not_compared_with_itself(place):
    agree = counted("agree")
    place.shadow(segment=OLD[Stage.SEGMENT].name)
    assert ("results", KEY) not in place.store.objects
    assert counted("agree") == agree


def test_models_that_agree_are_counted_so(place):
    place.triton.serve("twin", Stage.SEGMENT, place.triton.functions["segment"])
    agree = counted("agree")
    place.shadow(segment="twin")
    assert (place.comparison().dice, place.comparison().probability_change) == (1.0, 0.0)
    assert counted("agree") == agree + 1


def test_without_mask_and_diagnosis_there_is_nothing_to_compare():
    place = Place(stages=(Stage.PURIFY,))
    place.triton.serve("twin", Stage.PURIFY, place.triton.functions["purify"])
    place.shadow(purify="twin")
    comparison = place.comparison()
    assert (comparison.dice, comparison.old_label, comparison.new_label, comparison.probability_change) == (
        None,
        None,
        None,
        None,
    )


def test_results_are_not_touched(place):
    before = dict(place.store.objects)
    place.triton.serve("halving", Stage.SEGMENT, half)
    place.shadow(segment="halving")
    changed = {key for key in before if place.store.objects[key] != before[key]}
    assert {key for _, key in changed} == set(place.store.keys("^images/known/"))
    again = process(place.job, **place.servers(), attempt=1, worker="w", alive=lambda: None)
    assert (again.cached, again.stages) == (ORDER, place.record.stages)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(InferenceUnavailable("gone"), "inference_unavailable"), (ValueError("a defect"), "internal_error")],
)
def test_models_that_fail_are_an_outcome(place, error, reason):
    def broken(**_):
        raise error

    place.triton.serve("broken", Stage.SEGMENT, broken)
    failed = counted("failed")
    place.shadow(segment="broken")
    comparison = place.comparison()
    assert (comparison.failure, comparison.dice, comparison.new_label) == (reason, None, None)
    assert counted("failed") == failed + 1


def test_a_mask_deleted_meanwhile_is_an_outcome(place):
    del place.store.objects["results", place.record.stages[Stage.SEGMENT].artifacts["mask.png"]]
    place.triton.serve("halving", Stage.SEGMENT, half)
    place.shadow(segment="halving")
    assert place.comparison().failure == "object_not_found"


def test_a_worker_that_stops_leaves_it_at_that(place):
    def stop():
        raise TimeoutError

    place.triton.serve("halving", Stage.SEGMENT, half)
    failed = counted("failed")
    place.shadow(alive=stop, segment="halving")
    assert place.store.keys("^canaries/") == []
    assert place.asked() == set()
    assert counted("failed") == failed


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), RuntimeError("a defect")])
def test_a_record_that_cannot_be_written_is_no_failure_of_the_worker(place, error):
    def refuse(key, body, content_type, *, bucket=None):
        raise error

    place.triton.serve("twin", Stage.SEGMENT, place.triton.functions["segment"])
    agree = counted("agree")
    place.store.put = refuse
    place.shadow(segment="twin")
    assert place.store.keys("^canaries/") == []
    assert counted("agree") == agree


def test_dice():
    none, all_of_it, part = (np.zeros((4, 4), np.uint8) for _ in range(3))
    all_of_it[:] = 255
    part[0] = 255
    assert (dice(none, none), dice(none, part), dice(part, part)) == (1, 0, 1)
    assert dice(part, all_of_it) == pytest.approx(2 * 4 / (4 + 16))


def test_classes_that_only_one_model_knows_count_whole():
    old = ClassifyOutput(probabilities={"a": 0.9, "b": 0.1}, label="a", embedding_sha256="")
    new = ClassifyOutput(probabilities={"a": 0.8, "c": 0.2}, label="a", embedding_sha256="")
    assert probability_change(old, new) == pytest.approx(0.2)
    assert probability_change(old, None) is None
