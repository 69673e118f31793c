"""The desk over real servers: who may, batches, results, images, uploads; what is wrong, and what is gone."""

import base64
import io
import json
import socket
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import quote

import cv2
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from desk_server import Server, pictured, write_batch, write_table
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dermbatch import layout, metrics
from dermbatch.errors import ObjectNotFound, StackError, UsageError
from dermbatch.records.asked import Deidentification
from dermbatch.store import ObjectStore
from desk.remote import DeskClient
from desk.results.view import View
from orchestrator.batches.entries import read_batch
from orchestrator.reporting.closing import write_usage
from orchestrator.reporting.comparison import SCHEMA
from orchestrator.steering.controls import begin
from tests.outcome_samples import (
    batch_of,
    entry_of,
    failure_of,
    mask_png,
    result_of,
    write_manifest,
    write_record,
)


@pytest.fixture(scope="module")
def store(object_store_settings):
    return ObjectStore(object_store_settings)


@pytest.fixture(scope="module")
def server(redis_settings, object_store_settings, tmp_path_factory):
    with Server(redis_settings, object_store_settings, tmp_path_factory.mktemp("desk")) as server:
        yield server


@pytest.fixture(scope="module")
def ada(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def monday(store, tmp_path_factory):
    """A closed batch: eight results and a failure."""
    records = [
        result_of("desk-monday", n, probabilities=(n / 10, 0.9 - n / 10, 0.1), flags=("no_lesion",) * (n % 2))
        for n in range(8)
    ]
    write_batch(store, "desk-monday", [*records, failure_of("desk-monday", 8)], tmp_path_factory.mktemp("t"))
    return "desk-monday"


# Who may.


def test_only_health_and_the_entrance_answer_whom_nobody_knows(server):
    with httpx.Client(base_url=server.url) as nobody:
        assert nobody.get("/health").status_code == 200
        for path in ("/v1/batches", "/openapi.json", "/v1/nothing", "/dicom-web/studies"):
            answer = nobody.get(path)
            assert (answer.status_code, answer.json()["reason"]) == (401, "unauthorized")
        for path in ("/", "/batches", "/image/x/1"):
            answer = nobody.get(path)
            assert answer.status_code == 303
            assert answer.headers["location"] in {"/enter", f"/enter?next={quote(path, safe='')}"}
        assert nobody.get("/enter").status_code == 200


def test_a_link_opens_the_desk_once(server):
    link = server.link()
    with httpx.Client() as first, httpx.Client() as second:
        answer = first.get(link)
        assert (answer.status_code, answer.headers["location"]) == (303, "/batches")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert first.get(f"{server.url}/v1/batches").status_code == 200
        again = second.get(link)
        assert again.status_code == 403
        assert "was used, or is too old" in again.text
        assert second.get(f"{server.url}/v1/batches").status_code == 401


def test_a_session_holds_at_another_replica_and_ends_when_it_was_not_used(
    server, ada, redis_settings, object_store_settings, tmp_path
):
    with Server(redis_settings, object_store_settings, tmp_path) as other:
        session = next(iter(ada.cookies.values()))
        cookie = {f"dermbatch-desk-{other.port}": session}
        assert httpx.get(f"{other.url}/v1/batches", cookies=cookie).status_code == 200
    with server.client("eve") as eve:
        for key in server.desk.redis.scan_iter("desk:session:*"):
            if "eve" in server.desk.redis.get(key):
                server.desk.redis.delete(key)
        assert eve.get("/v1/batches").status_code == 401


def test_who_signs_in_comes_to_the_page_that_was_asked_for(server):
    wanted = "/gallery?batch=a&q=name:%22%D8%AE%D8%A7%D9%84%22"
    with httpx.Client(base_url=server.url) as nobody:
        entrance = nobody.get(wanted, follow_redirects=True)
        assert "/gallery?batch=a&amp;q=name:%22%D8%AE%D8%A7%D9%84%22" in entrance.text
        for elsewhere in ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"):
            assert "Go on" not in nobody.get("/enter", params={"next": elsewhere}).text


def test_people_are_told_on_a_page_what_is_wrong_and_programs_in_json(server, ada):
    browser = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for path, status in (
        ("/gallery?batch=never", 404),
        ("/nothing", 404),
        ("/image/never/x", 400),
        ("/v1/batches/never/files/report.html", 404),
        ("/v1/results/order", 400),
    ):
        page = ada.get(path, headers=browser)
        assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (status, "text/html"), path
        assert "To the batches" in page.text
        assert ada.get(path).headers["content-type"] == "application/problem+json"
    with httpx.Client(base_url=server.url) as nobody:
        page = nobody.get("/v1/exports/csv?batch=a", headers=browser)
        assert (page.status_code, "Sign in" in page.text) == (401, True)


def test_what_fails_by_our_own_fault_is_counted_and_bound_as_all_else(ada, monday, monkeypatch):
    def fails(self):
        raise RuntimeError("by a fault of ours")

    monkeypatch.setattr(View, "facets", fails)
    counted = metrics.DESK_REQUESTS.labels("api", "5xx")._value
    before = counted.get()
    answer = ada.get("/v1/results/facets", params={"batch": monday})
    assert (answer.status_code, answer.json()["reason"]) == (500, "internal")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert counted.get() == before + 1
    assert "fault of ours" not in answer.text


def test_progress_ends_with_the_session_and_prolongs_none(server, monkeypatch):
    monkeypatch.setattr("desk.api.batches._LOOK_EVERY", 0.02)
    with server.client("fay") as fay, fay.stream("GET", "/v1/events") as events:
        lines = events.iter_lines()
        next(lines)
        for key in server.desk.redis.scan_iter("desk:session:*"):
            if "fay" in server.desk.redis.get(key):
                server.desk.redis.delete(key)
        list(lines)  # comes to an end


def test_other_hosts_other_sites_and_requests_without_the_token_are_refused(server, ada):
    assert ada.get("/batches", headers={"host": "evil.example"}).status_code == 421
    assert ada.get("/batches", headers={"host": f"localhost:{server.port}"}).status_code == 200
    path = "/v1/sets/mine"
    for headers in ({"x-csrf-token": ""}, {"x-csrf-token": "wrong"}, {"sec-fetch-site": "cross-site"}):
        answer = ada.patch(path, json={}, headers=headers)
        assert (answer.status_code, answer.json()["reason"]) == (403, "csrf")


def test_every_answer_binds_the_browser_to_this_server(ada):
    for path in ("/batches", "/v1/batches", "/static/style.css", "/nothing"):
        headers = ada.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_a_proxy_says_who_asks_and_nobody_else(redis_settings, object_store_settings, tmp_path):
    header = {"x-user": "grace"}
    changes = {"user_header": "X-User", "proxies": ("10.0.0.0/8",)}
    with Server(redis_settings, object_store_settings, tmp_path, **changes) as strict:
        assert httpx.get(f"{strict.url}/v1/batches", headers=header).status_code == 401
    changes["proxies"] = ("127.0.0.0/8",)
    with Server(redis_settings, object_store_settings, tmp_path, **changes) as trusting:
        assert httpx.get(f"{trusting.url}/v1/batches").status_code == 401
        twice = [("x-user", "eve"), ("x-user", "grace")]
        assert httpx.get(f"{trusting.url}/v1/batches", headers=twice).status_code == 401
        assert httpx.get(f"{trusting.url}/v1/batches", headers={"x-user": ""}).status_code == 401
        named = {"x-user": "Zoë 山田".encode()}
        assert httpx.get(f"{trusting.url}/v1/session", headers=named).json()["name"] == "Zoë 山田"
        page = httpx.get(f"{trusting.url}/batches", headers=header)
        assert "grace" in page.text
        token = page.text.partition('name="csrf-token" content="')[2].partition('"')[0]
        path = f"{trusting.url}/v1/sets/hers"
        assert httpx.patch(path, json={}, headers=header).status_code == 403
        assert httpx.patch(path, json={}, headers=header | {"x-csrf-token": token}).status_code == 200


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


# An image.


def test_an_image_has_its_record_files_layers_and_each_look_is_noted(server, ada, store, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (600, 900, 3), np.uint8)
    write_batch(store, "desk-pictures", [pictured(store, "desk-pictures", 0, pixels)], tmp_path)
    here = "/v1/batches/desk-pictures/images/0"
    image = ada.get(here).json()
    assert image["layers"] == ["original", "purified", "enhanced", "occlusions"]
    assert "preview_jpeg" not in image["result"]
    assert ada.get(f"{here}/preview.jpg").content[:2] == b"\xff\xd8"
    mask = ada.get(f"{here}/files/mask.png")
    part = ada.get(f"{here}/files/mask.png", headers={"range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, mask.content[1:4])
    assert ada.get(f"{here}/files/saliency.png").status_code == 404
    assert ada.get(f"{here}/outline").json() == [[[225, 150], [225, 299], [449, 299], [449, 150]]]
    layer = ada.get(f"{here}/layers/original").json()
    assert (layer["levels"], layer["box"]) == ([[900, 600], [450, 300]], [0, 0, 900, 600])
    tile = ada.get(f"{here}/layers/original/0/1-1")
    shown = cv2.cvtColor(cv2.imdecode(np.frombuffer(tile.content, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.array_equal(shown, pixels[512:, 512:])
    covered = cv2.imdecode(
        np.frombuffer(ada.get(f"{here}/layers/occlusions/0/0-0").content, np.uint8), cv2.IMREAD_UNCHANGED
    )
    assert np.array_equal(covered[..., 3] > 0, np.arange(512)[:, None].repeat(512, 1) < 5)
    assert ada.get(f"{here}/layers/original/0/7-7").status_code == 404
    nonsense = ada.get(f"{here}/layers/nonsense")
    assert (nonsense.status_code, nonsense.json()["reason"]) == (404, "no_layer")
    looks = [json.loads(line) for line in server.looks().splitlines()]
    assert ("s3://incoming/desk-pictures/0", "ada") in [(look["object"], look["user"]) for look in looks]
    assert ada.get("/image/desk-pictures/0").status_code == 200


def test_an_image_that_vanished_or_is_none_says_so(ada, store, tmp_path):
    pixels = np.full((300, 300, 3), 77, np.uint8)
    records = [pictured(store, "desk-gone", n, pixels + np.uint8(n)) for n in range(3)]
    torn = pictured(store, "desk-gone", 3, pixels, body=b"\xff\xd8\xff\xe0 no picture at all")
    write_batch(store, "desk-gone", [*records, torn, failure_of("desk-gone", 4)], tmp_path)
    store.delete("desk-gone/0", bucket=store.incoming_bucket)
    store.put("desk-gone/1", b"another file", "image/png", bucket=store.incoming_bucket)
    store.delete(records[2].stages["purify"].artifacts["purified.png"])
    answers = {
        n: ada.get(f"/v1/batches/desk-gone/images/{n}/layers/{layer}")
        for n, layer in ((0, "original"), (1, "original"), (2, "purified"), (3, "original"), (4, "original"))
    }
    assert {n: (answer.status_code, answer.json()["reason"]) for n, answer in answers.items()} == {
        0: (410, "source_gone"),
        1: (410, "source_replaced"),
        2: (404, "object_not_found"),
        3: (422, "truncated"),
        4: (404, "no_result"),
    }
    assert ada.get("/v1/batches/desk-gone/images/4").json()["failure"]["reason"] == "truncated"
    store.delete(layout.result("desk-gone", 2))
    assert ada.get("/v1/batches/desk-gone/images/2").status_code == 404


def test_an_image_that_was_processed_anew_meanwhile_is_shown_as_it_is_now(ada, store, tmp_path):
    record = result_of("desk-again", 0)
    store.put(record.stages["segment"].artifacts["mask.png"], mask_png(9), "image/png")
    write_batch(store, "desk-again", [record], tmp_path)
    here = "/v1/batches/desk-again/images/0"
    first, etag = ada.get(f"{here}/outline"), ada.get(here).headers["etag"]
    anew = result_of("desk-again", 0, versions={"segment": "2"}, probabilities=(0.8, 0.1, 0.1))
    store.put(anew.stages["segment"].artifacts["mask.png"], mask_png(20), "image/png")
    write_batch(store, "desk-again", [anew], tmp_path)
    second = ada.get(f"{here}/outline", headers={"if-none-match": first.headers["etag"]})
    assert second.status_code == 200
    assert second.json() != first.json()
    assert (
        ada.get(here, headers={"if-none-match": etag}).json()["result"]["stages"]["segment"]["model"]["version"]
        == "2"
    )
    asked = {"batch": "desk-again", "q": "class:melanoma"}
    assert ada.get("/v1/results", params=asked).json()["total"] == 1


def test_a_batch_that_was_deleted_while_somebody_looks_is_one_clear_answer(ada, store, tmp_path):
    pixels = np.full((40, 60, 3), 120, np.uint8)
    write_batch(store, "desk-deleted", [pictured(store, "desk-deleted", 0, pixels)], tmp_path)
    asked = [
        "/v1/results?batch=desk-deleted",
        "/v1/results/order?batch=desk-deleted",
        "/v1/results/rows?batch=desk-deleted&ids=0:0",
        "/v1/results/facets?batch=desk-deleted",
        "/v1/exports/csv?batch=desk-deleted",
        "/v1/batches/desk-deleted/images/0",
        "/v1/batches/desk-deleted/images/0/preview.jpg",
        "/v1/batches/desk-deleted/images/0/others",
        "/v1/batches/desk-deleted/comparison",
        "/gallery?batch=desk-deleted",
    ]
    assert {ada.get(path).status_code for path in asked if "comparison" not in path} == {200}
    store.delete_prefix(store.bucket, layout.batch_prefix("desk-deleted"))
    for path in asked:
        answer = ada.get(path)
        assert answer.status_code == 404, path
        assert "desk-deleted" in answer.json()["detail"]


def test_times_of_a_clock_that_stepped_back_are_shown_as_they_are(ada, store, tmp_path):
    record = result_of("desk-clock", 0)
    record = record.model_copy(update={"finished": record.started - timedelta(days=1)})
    write_batch(store, "desk-clock", [record], tmp_path)
    assert ada.get("/v1/batches/desk-clock/images/0").json()["result"]["finished"].startswith("2026-03-01")
    asked = {"batch": "desk-clock", "q": "finished:[2026-03-01 TO 2026-03-02]", "sort": "-finished"}
    assert ada.get("/v1/results", params=asked).json()["total"] == 1
    assert ada.get("/image/desk-clock/0").status_code == 200


def test_names_of_every_script_and_direction_are_found_and_shown(ada, store, tmp_path):
    names = [
        "皮膚/母斑 1.jpg",
        "صورة/٣.jpg",
        "שומה.jpg",
        "a\u202egpj.exe.jpg",
        "कोशिका é ́.jpg",
        "<b>\"'&.jpg",
        "😀.jpg",
    ]
    records = [result_of("desk-names", n).model_copy(update={"name": name}) for n, name in enumerate(names)]
    write_batch(store, "desk-names", records, tmp_path)
    rows = ada.get("/v1/results?batch=desk-names").json()["results"]
    assert [row["name"] for row in rows] == names
    for n, part in enumerate(["母斑", "٣", "שומה", "gpj", "कोशिका", "<b>", "😀"]):
        found = ada.get("/v1/results", params={"batch": "desk-names", "q": f'"{part}"'}).json()["results"]
        assert [row["index"] for row in found] == [n], part
    assert "<b>" not in ada.get("/image/desk-names/5").text
    assert ada.get("/v1/exports/csv?batch=desk-names").content.decode().count("母斑") == 1


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
    assert ada.get("/v1/models").json()["models"][0]["name"] == "purify_unet"
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
    write_manifest(store, batch_of("desk-anew", 30, compared_with=("desk-old",)), map(entry_of, range(30)))
    row = {"earlier_batch": "desk-old", "how": "compared", "old_label": "nevus", "new_label": "nevus"}
    rows = [row | {"index": n, "name": f"א/{n}.jpg", "earlier_index": n, "dice": n / 30} for n in range(30)]
    body = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), body)
    store.put(layout.comparison_table("desk-anew"), body.getvalue(), "application/vnd.apache.parquet")
    compared = ada.get("/v1/batches/desk-anew/comparison?order=-dice&start=28").json()
    assert ([one["index"] for one in compared["rows"]], compared["total"]) == ([1, 0], 30)
    page = ada.get("/comparison/desk-anew", params={"truth": f"s3://{store.bucket}/none/"}).text
    assert page.count('alt="Outline now"') == 25
    assert "Dice with the truth" in page
    assert "start=25" in page
    assert ada.get("/comparison/desk-anew?truth=nowhere").status_code == 400
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


PERSON, OTHER = f"P-{'0a' * 10}", f"P-{'0b' * 10}"


def photographed(day):
    """The beginning of a DICOM file of a picture that was taken on this day."""
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.4", "2.25.9"
    header.StudyDate, header.file_meta = day, FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    body = io.BytesIO()
    pydicom.dcmwrite(body, header, enforce_file_format=True)
    return body.getvalue()


def deidentified_batch(store, name, images, salt):
    """Results of these images: whose they are, and when they were taken; none where the header does not say."""
    profile = Deidentification(
        profile="p", dates="shift", uids="replace", burned_in_text="flag", reidentification=False, salt=salt
    )
    batch = batch_of(name, len(images), deidentified=profile)
    write_manifest(store, batch, [entry_of(index) for index in range(batch.images)])
    for index, (whose, day) in enumerate(images):
        record = result_of(name, index).model_copy(update={"name": f"{whose}/{index}.dcm"})
        uri = f"s3://{store.incoming_bucket}/{name}/{index}"
        source = record.source.model_copy(update={"uri": uri})
        store.put(f"{name}/{index}", photographed(day), "application/dicom", bucket=store.incoming_bucket)
        write_record(store, record.model_copy(update={"source": source}))
    write_table(store, batch)


def test_the_same_pseudonyms_other_pictures_come_by_time(ada, store):
    days = ("20260105", "20250301", "", "20260301")
    deidentified_batch(store, "desk-people", [*((PERSON, day) for day in days), (OTHER, "20250101")], "one")
    deidentified_batch(store, "desk-people-2", [(PERSON, "20250901")], "one")
    deidentified_batch(store, "desk-people-3", [(PERSON, "20250902")], "another")
    others = ada.get("/v1/batches/desk-people/images/0/others").json()
    assert others["pseudonym"] == PERSON
    assert [(one["batch"], one["index"], one["taken"]) for one in others["pictures"]] == [
        ("desk-people", 1, "2025-03-01"),
        ("desk-people-2", 0, "2025-09-01"),
        ("desk-people", 3, "2026-03-01"),
        ("desk-people", 2, None),
    ]
    facets = ada.get("/v1/results/facets?batch=desk-people").json()
    assert facets["values"]["pseudonym"] == {PERSON: 4, OTHER: 1}
    page = ada.get("/v1/results", params={"batch": "desk-people", "q": f'pseudonym:"{OTHER}"'}).json()
    assert [one["index"] for one in page["results"]] == [4]
    store.delete("desk-people/1", bucket=store.incoming_bucket)
    gone = ada.get("/v1/batches/desk-people/images/0/others").json()["pictures"]
    assert {one["index"]: one["taken"] for one in gone if one["batch"] == "desk-people"}[1] is None


def test_images_that_say_not_whose_they_are_have_no_others(ada, monday):
    others = ada.get(f"/v1/batches/{monday}/images/0/others").json()
    assert others == {"pseudonym": None, "pictures": []}
    assert "pseudonym" not in ada.get(f"/v1/results/facets?batch={monday}").json()["columns"]


def dicom_report():
    """A small structured report."""
    meaning = Dataset()
    meaning.CodeValue, meaning.CodingSchemeDesignator, meaning.CodeMeaning = "1", "99TEST", "Diameter"
    unit = Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "mm", "UCUM", "millimeter"
    measured = Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = "5.5", [unit]
    item = Dataset()
    item.ValueType, item.ConceptNameCodeSequence, item.MeasuredValueSequence = "NUM", [meaning], [measured]
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.34", "2.25.3"
    report.StudyInstanceUID, report.SeriesInstanceUID, report.Modality = "2.25.1", "2.25.2", "SR"
    report.PatientID, report.ValueType, report.ContentSequence = "P-1", "CONTAINER", [item]
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    body = io.BytesIO()
    pydicom.dcmwrite(body, report, enforce_file_format=True)
    return body.getvalue()


def test_dicom_objects_are_found_and_retrieved_and_a_report_is_read(ada, store, tmp_path):
    key, body = layout.dicom("desk-dicom", 0, "report"), dicom_report()
    store.put(key, body, "application/dicom")
    record = result_of("desk-dicom", 0).model_copy(update={"dicom": {"report": key}})
    write_batch(store, "desk-dicom", [record], tmp_path)
    root = "/dicom-web/desk-dicom"
    (study,) = ada.get(f"{root}/studies", params={"PatientID": "P-1"}).json()
    assert study["0020000D"]["Value"] == ["2.25.1"]
    assert ada.get(f"{root}/studies?00100020=P-2").status_code == 204
    assert ada.get(f"{root}/studies?limit=x").status_code == 400
    assert ada.get(f"{root}/studies?no_attribute=x").json()["at"]["parameter"] == "no_attribute"
    assert ada.get(f"{root}/studies/2.25.1/series").json()[0]["00080060"]["Value"] == ["SR"]
    (found,) = ada.get(f"{root}/instances").json()
    assert found["00080018"]["Value"] == ["2.25.3"]
    one = f"{root}/studies/2.25.1/series/2.25.2/instances/2.25.3"
    assert ada.get(one, headers={"accept": "application/dicom"}).content == body
    many = ada.get(f"{root}/studies/2.25.1")
    assert body in many.content
    assert many.headers["content-type"].startswith('multipart/related; type="application/dicom"')
    assert ada.get(f"{one}/metadata").json()[0]["00100020"]["Value"] == ["P-1"]
    assert ada.get(f"{root}/studies/2.25.9").status_code == 404
    assert ada.get("/v1/batches/desk-dicom/images/0/dicom/report").content == body
    page = ada.get("/image/desk-dicom/0/report").text
    assert "Diameter" in page
    assert "5.5 mm" in page
    archive = zipfile.ZipFile(io.BytesIO(ada.get("/v1/exports/dicom?batch=desk-dicom").content))
    assert archive.read("desk-dicom/0-report.dcm") == body
    assert archive.namelist() == ["desk-dicom/0-report.dcm"]
    store.delete(key)
    archive = zipfile.ZipFile(io.BytesIO(ada.get("/v1/exports/dicom?batch=desk-dicom").content))
    assert archive.read("left-out.txt").startswith(b"desk-dicom/0-report.dcm: not in the object store")


# Uploads and new batches.

PIECE = 8 << 20


def send(client, upload, offset, body, kind="application/offset+octet-stream"):
    headers = {"upload-offset": str(offset), "content-type": kind}
    return client.patch(f"/v1/uploads/{upload['id']}", content=body, headers=headers)


def test_an_upload_goes_on_where_it_broke_off_also_at_another_replica(
    server, ada, store, redis_settings, object_store_settings, tmp_path
):
    body = np.random.default_rng(5).integers(0, 256, PIECE + 7000, np.uint8).tobytes()
    upload = ada.post("/v1/uploads", json={"name": "folder/皮膚 1.jpg", "size": len(body)}).json()
    assert send(ada, upload, 0, body[:PIECE]).headers["upload-offset"] == str(PIECE)
    wrong = send(ada, upload, 0, body[:PIECE])
    assert (wrong.status_code, wrong.headers["upload-offset"]) == (409, str(PIECE))
    assert send(ada, upload, PIECE, body[PIECE:] + b"more").status_code == 413
    assert send(ada, upload, PIECE, b"x", kind="image/jpeg").status_code == 415
    asked = {"inputs": [f"upload:{upload['into']}"]}
    assert ada.post("/v1/estimates", json=asked).json()["reason"] == "upload_incomplete"
    with Server(redis_settings, object_store_settings, tmp_path) as other, other.client("ada") as there:
        assert there.head(f"/v1/uploads/{upload['id']}").headers["upload-offset"] == str(PIECE)
        assert send(there, upload, PIECE, body[PIECE:]).status_code == 204
    key = f"desk/{upload['into']}/folder/皮膚 1.jpg"
    assert store.get(store.incoming_bucket, key) == body
    taken = ada.post("/v1/uploads", json={"name": "folder/皮膚 1.jpg", "size": 1, "into": upload["into"]})
    assert (taken.status_code, taken.json()["reason"]) == (409, "name_taken")
    with server.client("bob") as bob:
        assert bob.head(f"/v1/uploads/{upload['id']}").status_code == 404
        assert bob.post("/v1/estimates", json=asked).status_code == 404


def test_of_a_piece_that_breaks_off_nothing_is_taken_and_the_file_goes_on(server, ada):
    body = np.random.default_rng(6).integers(0, 256, PIECE + 9, np.uint8).tobytes()
    upload = ada.post("/v1/uploads", json={"name": "a.jpg", "size": len(body)}).json()
    headers = {
        "Host": f"127.0.0.1:{server.port}",
        "Cookie": "; ".join(f"{one.name}={one.value}" for one in ada.cookies.jar),
        "X-CSRF-Token": ada.headers["x-csrf-token"],
        "Upload-Offset": "0",
        "Content-Type": "application/offset+octet-stream",
        "Content-Length": str(PIECE),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(f"PATCH /v1/uploads/{upload['id']} HTTP/1.1\r\n{head}\r\n".encode() + body[: PIECE // 2])
    assert ada.head(f"/v1/uploads/{upload['id']}").headers["upload-offset"] == "0"
    assert send(ada, upload, 0, body[:PIECE]).status_code == 204
    assert send(ada, upload, PIECE, body[PIECE:]).headers["upload-offset"] == str(len(body))
    ada.delete(f"/v1/uploads/{upload['id']}")


def test_a_file_that_never_became_whole_gives_way_to_one_of_its_path(ada, store):
    first = ada.post("/v1/uploads", json={"name": "a.png", "size": 2 * PIECE}).json()
    asked = {"name": "a.png", "size": 3, "into": first["into"]}
    second = ada.post("/v1/uploads", json=asked)  # the first one's answer was lost, or another file is meant
    assert (second.status_code, send(ada, second.json(), 0, b"two").status_code) == (201, 204)
    assert send(ada, first, 0, b"x" * PIECE).json()["reason"] == "no_upload"
    assert store.get(store.incoming_bucket, f"desk/{first['into']}/a.png") == b"two"
    assert ada.post("/v1/uploads", json=asked).json()["reason"] == "name_taken"


def test_a_replica_that_dies_before_it_notes_the_last_piece_loses_nothing(ada, store, monkeypatch):
    body = np.random.default_rng(7).integers(0, 256, PIECE + 5, np.uint8).tobytes()
    upload = ada.post("/v1/uploads", json={"name": "a.png", "size": len(body)}).json()
    assert send(ada, upload, 0, body[:PIECE]).status_code == 204
    with monkeypatch.context() as dying:
        dying.setattr("desk.api.uploads._keep", lambda *_: 1 / 0)
        assert send(ada, upload, PIECE, body[PIECE:]).status_code == 500
    again = send(ada, upload, PIECE, body[PIECE:])
    assert (again.status_code, again.headers["upload-offset"]) == (204, str(len(body)))
    assert store.get(store.incoming_bucket, f"desk/{upload['into']}/a.png") == body


def test_what_was_uploaded_becomes_one_batch_however_often_it_is_asked(ada, store, server):
    picture = cv2.imencode(".png", np.full((64, 64, 3), 99, np.uint8))[1].tobytes()
    first = ada.post("/v1/uploads", json={"name": "a.png", "size": len(picture)}).json()
    assert send(ada, first, 0, picture).status_code == 204
    liar = ada.post("/v1/uploads", json={"name": "b.png", "size": 4, "into": first["into"]}).json()
    assert send(ada, liar, 0, b"MZ\x90\x00").status_code == 204
    asked = {"inputs": [f"upload:{first['into']}"], "stages": ["segment"]}
    estimate = ada.post("/v1/estimates", json=asked).json()
    assert estimate["images"] + estimate["skipped"] == 2
    headers = {"idempotency-key": "once"}
    made = [ada.post("/v1/batches", json=asked, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in made] == [201, 201]
    assert made[0].json()["name"] == made[1].json()["name"]
    other = ada.post("/v1/batches", json=asked | {"weight": 2}, headers=headers)
    assert (other.status_code, other.json()["reason"]) == (422, "key_used")
    ada.post(f"/v1/batches/{made[0].json()['name']}/cancel")
    server.desk.ledger.batches.forget(made[0].json()["name"])
    store.delete(layout.control(made[0].json()["name"]))


def test_python_speaks_to_the_desk_as_to_a_stack(server, store, monday, tmp_path):
    (tmp_path / "scans" / ".hidden").mkdir(parents=True)
    (tmp_path / "scans" / ".hidden" / "x.png").write_bytes(b"x")
    picture = cv2.imencode(".png", np.full((64, 64, 3), 9, np.uint8))[1].tobytes()
    (tmp_path / "scans" / "a.png").write_bytes(picture)
    with DeskClient(server.link()) as client:
        name = client.submit(tmp_path / "scans", stages=["segment"])
        assert client.status(name)["images"] == 1
        with pytest.raises(TimeoutError):
            client.wait(name, timeout=0)
        server.desk.ledger.batches.forget(name)
        store.delete(layout.control(name))
        records = list(client.results(monday, query="index:>=7"))
        assert [(type(one).__name__, one.index) for one in records] == [("ResultRecord", 7), ("FailureRecord", 8)]
        assert client.artifact(records[0], "embedding.npy").startswith(b"\x93NUMPY")
        with pytest.raises(ObjectNotFound):
            client.artifact(records[0], "nothing.png")
        with pytest.raises(UsageError, match="there is no batch"):
            client.status("never")
        with pytest.raises(UsageError, match="no file"):
            client.submit(tmp_path / "nowhere")
    with pytest.raises(StackError, match="open the link"):
        DeskClient(server.url)


def test_files_of_the_servers_machine_are_nobodys_input(ada, tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    for given in (str(tmp_path), "/etc/passwd", "file:///etc"):
        answer = ada.post("/v1/batches", json={"inputs": [given]})
        assert (answer.status_code, answer.json()["reason"]) == (400, "usage")
    assert ada.post("/v1/batches", json={"inputs": [], "nonsense": 1}).status_code == 400


def test_uploads_are_bounded_and_can_be_dropped(ada):
    assert ada.post("/v1/uploads", json={"name": "a", "size": 1 << 60}).status_code == 413
    upload = ada.post("/v1/uploads", json={"name": "a.png", "size": 2 * PIECE}).json()
    assert send(ada, upload, 0, b"too little").json()["reason"] == "too_small"
    assert ada.delete(f"/v1/uploads/{upload['id']}").status_code == 204
    assert ada.head(f"/v1/uploads/{upload['id']}").status_code == 404


def test_the_api_describes_itself(ada):
    schema = ada.get("/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    assert "/v1/batches/{batch}/images/{index}/layers/{layer}" in schema["paths"]
