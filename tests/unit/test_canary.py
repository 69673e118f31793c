from collections import Counter

import pytest
from rich.console import Console
from standins import Store

from dermbatch import layout
from dermbatch.errors import UsageError
from dermbatch.records.asked import ImageJob, ModelChoice, Order
from dermbatch.records.outcome import CanaryRecord
from dermbatch.stages import ORDER, Stage
from orchestrator.cli.tables.canary import render
from orchestrator.steering import canary

OLD = {stage: ModelChoice(name=stage.value) for stage in Stage}
NEW = {Stage.SEGMENT: ModelChoice(name="segment", version="2")}


@pytest.fixture
def store():
    return Store()


def job(index=0, *, stages=ORDER, batch="b", models=OLD, source=None, etag=None):
    source = source or f"s3://incoming/{index}"
    return ImageJob(
        batch=batch,
        index=index,
        name=str(index),
        source=source,
        order=Order(stages=stages, models=models),
        etag=etag,
    )


def saw(store, index, *, name="try", image=None, **fields):
    image = image or f"{index}.jpg"
    record = CanaryRecord(canary=name, batch="b", index=index, name=image, models={}, seconds=2, **fields)
    store.put(layout.canary_result(name, "b", index), record.to_json(), "application/json")


def test_one_runs_at_a_time(store):
    assert canary.running(store) is None
    first = canary.start(store, "try", NEW, 0.1)
    assert canary.running(store) == first
    with pytest.raises(UsageError, match="canary try is already running"):
        canary.start(store, "other", NEW, 0.1)
    assert store.keys("other") == []
    stopped = canary.stop(store, "try")
    assert stopped.stopped >= stopped.created
    assert canary.running(store) is None
    canary.start(store, "other", NEW, 0.1)
    assert canary.stop(store, "try") == stopped  # and the other one goes on
    assert canary.running(store).name == "other"


def test_a_name_is_used_once(store):
    canary.start(store, "try", NEW, 0.1)
    canary.stop(store, "try")
    with pytest.raises(UsageError, match="there was a canary try already"):
        canary.start(store, "try", NEW, 0.1)


@pytest.mark.parametrize(
    ("name", "models", "share", "complaint"),
    [
        ("Try this", NEW, 0.1, "canary name 'Try this' cannot be used"),
        ("_running.json", NEW, 0.1, "cannot be used"),
        ("try", {}, 0.1, "needs a model"),
        ("try", NEW, 0, "more than 0"),
        ("try", NEW, 1.5, "at most 1"),
        ("try", NEW, float("nan"), "more than 0"),
    ],
)
def test_what_cannot_be_is_told(store, name, models, share, complaint):
    with pytest.raises(UsageError, match=complaint):
        canary.start(store, name, models, share)
    assert store.objects == {}


def test_a_start_that_was_killed_half_way_can_be_stopped(store):
    canary.start(store, "try", NEW, 0.1)
    store.delete(layout.canary("try"))
    assert canary.stop(store, "try").stopped is not None
    assert canary.running(store) is None
    assert canary.report(store, "try").images == 0


def test_a_broken_record_does_not_stop_live_images(store):
    canary.start(store, "try", NEW, 0.1)
    store.put(layout.RUNNING_CANARY, b"torn", "application/json")
    assert canary.running(store) is None
    with pytest.raises(UsageError, match="is already running"):
        canary.start(store, "other", NEW, 0.1)
    canary.stop(store, "try")
    assert store.keys("_running") == []


def test_there_is_nothing_to_say_of_a_canary_that_never_was(store):
    for ask in (canary.stop, canary.report):
        with pytest.raises(UsageError, match="no canary nope"):
            ask(store, "nope")


def test_the_share_is_a_sample_of_images_that_stays(store):
    tried = canary.start(store, "try", NEW, 0.2)
    jobs = [job(n) for n in range(2000)]
    chosen = {one.index for one in jobs if canary.choose(tried, one).shadow}
    assert 320 <= len(chosen) <= 480  # 0.2 of them, give or take 4.5 standard deviations
    elsewhere = {
        one.index for one in (job(n, batch="other") for n in range(2000)) if canary.choose(tried, one).shadow
    }
    assert elsewhere == chosen
    other = tried.model_copy(update={"name": "again"})
    assert {one.index for one in jobs if canary.choose(other, one).shadow} != chosen
    copies = {canary.choose(tried, job(source=f"s3://x/{n}", etag="ab" * 16)).shadow is None for n in range(50)}
    assert len(copies) == 1  # one content, one lot


def test_all_and_a_canary_of_everything(store):
    tried = canary.start(store, "try", NEW, 1)
    assert all(canary.choose(tried, job(n)).shadow for n in range(100))


def test_the_shadow_has_the_models_of_all_stages_that_the_job_runs(store):
    tried = canary.start(store, "try", NEW, 1)
    chosen = canary.choose(tried, job())
    assert chosen.shadow.canary == "try"
    assert chosen.shadow.models == OLD | NEW
    assert chosen.model_copy(update={"shadow": None}) == job()
    brought = canary.choose(tried, job(stages=(Stage.CLASSIFY,)))  # which requires segment
    assert set(brought.shadow.models) == {Stage.SEGMENT, Stage.CLASSIFY}


def test_where_nothing_differs_nothing_is_tried(store):
    tried = canary.start(store, "try", NEW, 1)
    assert canary.choose(tried, job(stages=(Stage.PURIFY,))).shadow is None
    assert canary.choose(tried, job(models=OLD | NEW)).shadow is None


def test_a_report_counts_agreement_failures_and_changes(store):
    canary.start(store, "try", NEW, 0.5)
    saw(store, 0, dice=1.0, old_label="nevus", new_label="nevus", probability_change=0.0)
    saw(store, 1, dice=0.9, old_label="nevus", new_label="nevus", probability_change=0.1)
    saw(store, 2, dice=0.2, old_label="nevus", new_label="melanoma", probability_change=0.6)
    saw(store, 3, dice=0.9, old_label="nevus", new_label="melanoma", probability_change=0.3)
    saw(store, 4, failure="model_contract")
    saw(store, 5)  # nothing to compare
    saw(store, 0, name="another", dice=0.0)
    report = canary.report(store, "try")
    assert (report.images, report.failures) == (6, {"model_contract": 1})
    assert (report.mean_dice, report.median_dice) == (pytest.approx(0.75), pytest.approx(0.9))
    assert {one.lower: one.images for one in report.histogram if one.images} == {0.0: 1, 0.9: 2, 0.98: 1}
    assert (report.diagnosed, report.same_label, report.label_agreement) == (4, 2, 0.5)
    assert report.changed_labels == {"nevus -> melanoma": 2}
    assert report.mean_seconds == 2
    assert [one.index for one in report.worst] == [
        2,
        3,
        1,
    ]  # by Dice, then by change; those that agree are left out
    assert canary.CanaryReport.model_validate_json(report.to_json()) == report


def test_the_histogram_has_every_image_once(store):
    canary.start(store, "try", NEW, 0.5)
    values = [0.0, 0.499, 0.5, 0.849, 0.85, 0.95, 0.979, 0.98, 0.9999, 1.0]
    for index, dice in enumerate(values):
        saw(store, index, dice=dice)
    report = canary.report(store, "try")
    expected = Counter(next(e for e in reversed(canary.EDGES[:-1]) if e <= value) for value in values)
    assert {one.lower: one.images for one in report.histogram} == {e: expected[e] for e in canary.EDGES[:-1]}
    assert [one.upper for one in report.histogram] == list(canary.EDGES[1:])


def test_of_many_images_the_worst_are_named(store):
    canary.start(store, "try", NEW, 0.5)
    for n in range(300):
        saw(store, n, dice=((n * 37) % 300) / 300)
    report = canary.report(store, "try")
    assert [one.dice for one in report.worst] == [n / 300 for n in range(10)]


@pytest.mark.parametrize("filled", [True, False])
def test_a_report_can_be_read_at_a_terminal(store, filled):
    canary.start(store, "try", NEW, 0.004)
    if filled:
        saw(store, 2, dice=0.25, old_label="nevus", new_label="melanoma", probability_change=0.6)
        saw(store, 3, failure="model_contract")
    console = Console(record=True, width=120)
    console.print(render(canary.report(store, "try")))
    text = console.export_text()
    assert "segment segment@2" in text
    assert "0.40%" in text
    assert ("nevus -> melanoma" in text) is filled
    assert ("2.jpg" in text) is filled
    assert ("model_contract 1" in text) is filled
    canary.stop(store, "try")
    console.print(render(canary.report(store, "try")))
    assert "stopped 20" in console.export_text()


def test_a_report_cuts_no_name_off_at_80_columns(store):
    name = "exports/clinic-a/2026/11/" + "a-long-name-of-a-study-" * 4 + "1.dcm"
    canary.start(store, "try", NEW, 0.5)
    saw(store, 7, dice=0.2, image=name, old_label="seborrheic_keratosis", new_label="actinic_keratosis")
    console = Console(record=True, width=80)
    console.print(render(canary.report(store, "try")))
    text = console.export_text()
    assert name in "".join(text.split())
    assert "#7" in text
    assert "seborrheic_keratosis" in text
