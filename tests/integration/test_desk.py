"""The desk over real servers: batches, results, exports, models; what is wrong."""

import base64
import io
import json
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from desk_server import pictured, write_batch, write_table

from dermbatch import layout
from orchestrator.batches.entries import read_batch
from orchestrator.reporting.closing import write_usage
from orchestrator.reporting.comparison import SCHEMA
from orchestrator.steering.controls import begin
from tests.outcome_samples import (
    batch_of,
    entry_of,
    result_of,
    write_manifest,
    write_record,
)

# Batches.


def test_batches_stand_and_are_steered(server, ada, store):
    batch = batch_of("desk-open", 3)
    write_manifest(store, batch, [entry_of(n) for n in range(3)])
    store.put(layout.control(batch.name), b'{"lane":"bulk","weight":1,"state":"open"}', "application/json")
    begin(store, server.desk.ledger, batch)
    assert "desk-open" in [one["name"] for one in ada.get("/v1/batches").json()["batches"]]
    found = ada.get("/v1/batches/desk-open")
    assert found.json()["order"]["stages"] == ["purify", "segment", "enhance", "classify"]
    assert ada.get("/v1/batches/desk-open", headers={"if-none-match": found.headers["etag"]}).status_code == 304
    assert ada.post("/v1/batches/desk-open/pause").json()["state"] == "paused"
    assert ada.post("/v1/batches/desk-open/priority", json={"weight": 7}).json()["weight"] == 7
    assert ada.post("/v1/batches/desk-open/priority", json={"weight": 0}).status_code == 400
    with ada.stream("GET", "/v1/batches/desk-open/events") as events:
        lines = events.iter_lines()
        assert next(lines) == "event: standing"
        assert json.loads(next(lines).removeprefix("data: "))["state"] == "paused"
        ada.post("/v1/batches/desk-open/cancel")
        event = next(line for line in lines if line.startswith("data: "))
        assert json.loads(event.removeprefix("data: "))["state"] == "cancelled"
    assert ada.post("/v1/batches/desk-open/resume").status_code == 400
    server.desk.ledger.batches.forget("desk-open")
    store.delete(layout.control("desk-open"))


def test_a_batch_that_is_not_there_is_one_clear_answer(ada):
    for path in (
        "/v1/batches/never",
        "/v1/batches/never/events",
        "/v1/results?batch=never",
        "/v1/batches/never/images/0",
        "/gallery?batch=never",
        "/v1/batches/never/files/report.html",
    ):
        answer = ada.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json"), path
        assert "never" in answer.json()["detail"]


# Results.


def all_of(client, path):
    found, more = [], path
    while more:
        page = client.get(more).json()
        found += page["results"]
        more = page["next"]
    return found


def test_results_come_in_pages_that_go_on(ada, monday):
    path = f"/v1/results?batch={monday}&sort=-probability_melanoma&limit=4"
    found = all_of(ada, path)
    assert [one["index"] for one in found] == [7, 6, 5, 4, 3, 2, 1, 0, 8]
    first = ada.get(path)
    assert ada.get(path, headers={"if-none-match": first.headers["etag"]}).status_code == 304
    cursor = first.json()["cursor"]
    answer = ada.get(f"/v1/results?batch={monday}&cursor={cursor}")
    assert (answer.status_code, answer.json()["reason"]) == (400, "other_cursor")
    forged = base64.urlsafe_b64encode(b'["x", Infinity, 0]').decode()
    answer = ada.get(f"/v1/results?batch={monday}&cursor={forged}")
    assert (answer.status_code, answer.json()["reason"]) == (400, "bad_cursor")
    wrong = ada.get("/v1/results", params={"batch": monday, "q": "probability:[0.1 TO"})
    assert (wrong.status_code, wrong.json()["at"]["position"]) == (400, 19)
    assert ada.get("/v1/results").status_code == 400


def test_the_gallery_is_told_the_order_and_rows_and_facets(ada, monday):
    asked = {"batch": monday, "q": "flag:no_lesion"}
    pairs = ada.get("/v1/results/order", params=asked).content
    assert list(struct.iter_unpack("<II", pairs)) == [(0, 1), (0, 3), (0, 5), (0, 7)]
    rows = ada.get("/v1/results/rows", params=asked | {"ids": "0:3,0:99,0:8"}).json()
    assert [row and row["index"] for row in rows] == [3, None, 8]
    assert ada.get("/v1/results/rows", params=asked | {"ids": "a"}).status_code == 400
    facets = ada.get("/v1/results/facets", params=asked).json()
    assert facets["total"] == 4
    assert facets["labels"] == ["melanoma", "nevus", "seborrheic_keratosis"]


def test_results_of_a_batch_that_runs_come_as_they_are_there(ada, store, tmp_path):
    batch = write_batch(
        store, "desk-running", [result_of("desk-running", n) for n in (0, 2)], tmp_path, closed=False
    )
    assert [one["index"] for one in all_of(ada, "/v1/results?batch=desk-running&limit=1")] == [0, 2]
    cursor = ada.get("/v1/results?batch=desk-running&limit=1").json()["cursor"]
    write_record(store, result_of("desk-running", 1))
    write_table(store, batch)
    page = ada.get(f"/v1/results?batch=desk-running&limit=1&cursor={cursor}").json()
    assert [one["index"] for one in page["results"]] == [1]
    store.delete_prefix(store.bucket, layout.batch_prefix("desk-running"))
    assert ada.get("/v1/results?batch=desk-running").status_code == 404


def test_sets_keep_all_of_many_changes_at_a_time_and_are_ones_own(server, ada, monday):
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda n: ada.patch("/v1/sets/tag-1", json={"add": {monday: [n]}}), range(6))
        assert {answer.status_code for answer in answers} == {200}
    assert ada.patch("/v1/sets/tag-1", json={"remove": {monday: [0]}}).json()["images"] == {
        monday: [1, 2, 3, 4, 5]
    }
    asked = {"batch": monday, "q": "tag:1 AND flag:no_lesion"}
    assert [one["index"] for one in ada.get("/v1/results", params=asked).json()["results"]] == [1, 3, 5]
    with server.client("bob") as bob:
        assert bob.get("/v1/sets").json() == []
        assert bob.get("/v1/results", params=asked).json()["total"] == 0
    many = ada.patch("/v1/sets/tag-1", json={"add": {monday: list(range(100_001))}})
    assert (many.status_code, many.json()["reason"]) == (413, "too_large")
    assert ada.patch("/v1/sets/tag-1", json={"add": {monday: [-1]}}).status_code == 400
    assert ada.get("/v1/sets").json()[0]["images"] == {monday: [1, 2, 3, 4, 5]}
    assert ada.delete("/v1/sets/tag-1").status_code == 204


def test_a_view_is_exported(ada, store, monday, tmp_path):
    asked = {"batch": monday, "q": "flag:no_lesion"}
    lines = ada.get("/v1/exports/csv", params=asked).text.splitlines()
    assert len(lines) == 5
    assert len(ada.get("/v1/exports/csv", params=asked | {"ids": "0:3,0:4"}).text.splitlines()) == 2
    found = pq.read_table(io.BytesIO(ada.get("/v1/exports/parquet", params={"batch": monday}).content))
    assert found.column("index").to_pylist() == list(range(9))
    assert found.column("embedding").to_pylist()[0] == [0, 1, 2, 3]
    assert ada.get("/v1/exports/dicom", params=asked).json()["reason"] == "no_dicom"
    assert ada.get("/v1/exports/csv", params=asked | {"q": "no_such_name"}).json()["reason"] == "nothing"
    pixels = np.full((40, 60, 3), 120, np.uint8)
    write_batch(
        store, "desk-coco", [pictured(store, "desk-coco", 0, pixels), result_of("desk-coco", 21)], tmp_path
    )
    exported = ada.get("/v1/exports/coco?batch=desk-coco").json()
    (one,) = exported["annotations"]
    assert (one["area"], one["bbox"]) == (150, [15, 10, 15, 10])
    with zipfile.ZipFile(io.BytesIO(ada.get("/v1/exports/fiftyone?batch=desk-coco").content)) as archive:
        names = [image["file_name"] for image in json.loads(archive.read("labels.json"))["images"]]
        assert [f"data/{name}" for name in names] == archive.namelist()[:1]


def test_models_are_shown_also_where_triton_is_away(ada):
    page = ada.get("/models")
    assert page.status_code == 200
    assert "Which models are served is not known" in page.text
    assert "Intended use" in page.text
    assert ada.get("/v1/models").json()["models"][0]["name"] == "purify_unet_int8"
    assert ada.get("/v1/canaries").json() == []


def test_usage_is_a_page_and_its_numbers_are_texts(ada, store, monday):
    write_usage(store, read_batch(store, monday))
    assert "What was used" in ada.get("/usage").text
    lines = ada.get("/v1/usage").json()["lines"]
    assert {"images", "purify_seconds"} <= {line["item"] for line in lines}
    assert all(isinstance(line["quantity"], str) for line in lines)


def test_what_the_card_says_of_probabilities_stands_beside_them(ada):
    model = ada.get("/v1/models/classify_lite").json()
    assert model["card_version"] == "1"
    assert {"expected calibration error", "specificity at 95 melanoma"} <= set(model["figures"])
    assert ada.get("/v1/models/my_own").json() == {
        "name": "my_own",
        "card": None,
        "card_version": None,
        "figures": {},
    }
    assert ada.get("/v1/models/..%2Fclassify_lite").status_code == 404


def test_a_comparison_is_a_page_in_pages(ada, store):
    write_manifest(store, batch_of("desk-new", 30, compared_with=("desk-old",)), map(entry_of, range(30)))
    row = {"earlier_batch": "desk-old", "how": "compared", "old_label": "nevus", "new_label": "nevus"}
    rows = [row | {"index": n, "name": f"א/{n}.jpg", "earlier_index": n, "dice": n / 30} for n in range(30)]
    body = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), body)
    store.put(layout.comparison_table("desk-new"), body.getvalue(), "application/vnd.apache.parquet")
    compared = ada.get("/v1/batches/desk-new/comparison?order=-dice&start=28").json()
    assert ([one["index"] for one in compared["rows"]], compared["total"]) == ([1, 0], 30)
    page = ada.get("/comparison/desk-new", params={"truth": f"s3://{store.bucket}/none/"}).text
    assert page.count('alt="Outline now"') == 25
    assert "Dice with the truth" in page
    assert "start=25" in page
    assert ada.get("/comparison/desk-new?truth=nowhere").status_code == 400
    assert ada.get("/comparison/never").status_code == 404


RULES = """
rules:
  - {name: clinic, prefix: s3://exports/clinic-a/, include: ["*.dcm"], lane: live}
  - {name: rest, prefix: s3://exports/, exclude: ["*.txt"]}
"""


def test_rules_are_tried_with_files_as_they_would_be_called(ada):
    objects = ["s3://exports/clinic-a/1.dcm", "s3://exports/clinic-a/صورة.png", "s3://exports/a.txt"]
    tried = ada.post("/v1/rules/trial", json={"rules": RULES, "objects": objects}).json()["objects"]
    assert [one["done"] and one["done"]["name"] for one in tried] == ["clinic", "rest", None]
    assert tried[0]["done"]["lane"] == "live"
    assert "no pattern of include" in tried[1]["rules"][0]["why"]
    for rules, asked, what in (
        ("rules: [", objects, "line 1"),
        (RULES.replace("lane: live", "lane: fast"), objects, "line 3"),
        (RULES, ["/etc/passwd"], "s3://"),
    ):
        answer = ada.post("/v1/rules/trial", json={"rules": rules, "objects": asked})
        assert (answer.status_code, answer.json()["reason"]) == (400, "usage")
        assert what in answer.json()["detail"]
        assert "/tmp" not in answer.json()["detail"]


def test_the_api_describes_itself(ada):
    schema = ada.get("/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    assert "/v1/batches/{batch}/images/{index}/layers/{layer}" in schema["paths"]
