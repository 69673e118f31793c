"""Similar cases on a real object store: the commands, and the desk's API and page."""

import json

import cv2
import numpy as np
import pytest
from desk_server import Server, write_table
from typer.testing import CliRunner

from dermbatch import layout
from dermbatch.records.asked import BatchSummary
from dermbatch.review.plans import plan_names
from dermbatch.store import ObjectStore
from orchestrator.cli.program import application
from tests.outcome_samples import CREATED, batch_of, entry_of, mask_png, result_of, write_manifest, write_record

NEAREST = [(1.0, 0.0), (0.9, 0.435), (0.8, 0.6), (-1.0, 0.0)]


def spotted(seed):
    strip = np.random.default_rng(seed).integers(100, 200, (224, 896, 3), np.uint8)
    return cv2.imencode(".jpg", strip)[1].tobytes()


@pytest.fixture(scope="module")
def store(object_store_settings):
    """A closed batch of three pictures that look alike and one that does not."""
    store = ObjectStore(object_store_settings)
    batch = batch_of("similar-cases", images=len(NEAREST))
    write_manifest(store, batch, [entry_of(index) for index in range(batch.images)])
    for index, vector in enumerate(NEAREST):
        record = result_of(batch.name, index, vector=np.array(vector, np.float32), preview=spotted(index))
        write_record(store, record)
        store.put(record.stages["segment"].artifacts["mask.png"], mask_png(20), "image/png")
    write_table(store, batch)
    times = {"created": CREATED, "closed": CREATED, "first_started": CREATED, "last_finished": CREATED}
    counts = {"images": 4, "done": 4, "failed": 0, "reasons": {}, "stage_seconds": {}, "stage_runs": {}}
    summary = BatchSummary(
        name=batch.name, state="finished", image_seconds=1, slots=1, software="0", **times, **counts
    )
    store.put(layout.summary(batch.name), summary.to_json(), "application/json")
    return store


@pytest.fixture
def run(store, object_store_settings, monkeypatch, tmp_path):
    """A command as it is typed, where the environment names the object store."""
    secret = object_store_settings.secret_access_key.get_secret_value()
    for name, value in (object_store_settings.model_dump() | {"secret_access_key": secret}).items():
        if value is not None:
            monkeypatch.setenv(f"DERMBATCH_STORE__{name.upper()}", str(value))

    def run(*typed):
        command = [*map(str, typed), "--home", str(tmp_path / "none")]
        return CliRunner().invoke(application(command), command)

    return run


def test_the_commands_make_an_index_answer_and_forbid(run, store, tmp_path):
    assert "there is no index" in run("cases", "status").output
    assert "version 1, 4 cases, compared one by one; not held yet: 0 images" in run("cases", "rebuild").output
    assert "not held yet: 0 images" in run("cases", "update").output
    ended = run("similar", "similar-cases/0", "--count", 2)
    assert ended.exit_code == 0, ended.output
    assert "similar-cases/1" in ended.output
    assert "whole lesion" in ended.output
    run("cases", "forbid", "similar-cases/1", "--why", "withdrawn")
    told = json.loads(run("similar", "similar-cases/0", "--json").output)
    assert [case["index"] for case in told["cases"]] == [2, 3]
    run("cases", "allow", "similar-cases/1")
    known = tmp_path / "known.csv"
    known.write_text("image,diagnosis\n000002,melanoma\n")
    assert run("cases", "facts", known).exit_code == 0
    assert "melanoma (known)" in run("similar", "similar-cases/0", "--diagnosis", "melanoma").output


def test_what_is_to_be_read_is_planned_by_a_command(run, store):
    before = plan_names(store)
    told = run("review", "plan", "similar-cases", "--count", 3, "--name", "next")
    assert told.exit_code == 0, told.output
    assert "plan next: 3 of 4 images (2 cluster, 1 random)" in told.output
    rest = json.loads(
        run("review", "plan", "similar-cases", "--strategy", "random", "--name", "rest", "--json").output
    )
    assert (rest["among"], rest["left_out"]) == (1, {"planned": 3})
    assert {one["batch"] for one in rest["images"]} == {"similar-cases"}
    refused = run("review", "plan", "--name", "next")
    assert "there is a plan 'next' already" in str(refused.exception)
    assert sorted(plan_names(store)) == sorted([*before, "next", "rest"])


def test_the_desk_answers_with_regions_of_both_pictures(
    run, store, redis_settings, object_store_settings, tmp_path
):
    run("cases", "rebuild")
    server = Server(redis_settings, object_store_settings, tmp_path)
    with server as desk, desk.client() as ada:
        path = "/v1/batches/similar-cases/images/0/similar"
        answer = ada.get(path, params={"count": 1})
        assert answer.status_code == 200, answer.text
        (case,) = answer.json()["cases"]
        assert (case["batch"], case["index"], case["size"]) == ("similar-cases", 1, [64, 64])
        assert {"region", "box", "other", "likeness", "counted"} == case["matches"][0].keys()
        assert answer.json()["index"]["not_held_yet"] == 0
        refused = ada.get(path, params={"region": 99})
        assert (refused.status_code, refused.json()["reason"]) == (400, "usage")
        assert ada.get(path, params={"since": "yesterday"}).status_code == 400
        (index,) = ada.get("/v1/indexes").json()
        assert (index["cases"], index["not_held_yet"]) == (4, 0)
        page = ada.get("/similar/similar-cases/0")
        assert page.status_code == 200
        assert "no probability and no diagnosis" in page.text
        assert ada.get("/similar/similar-cases/9").status_code == 404
    assert "batches/similar-cases/results/000000/1.json" in desk.looks()
