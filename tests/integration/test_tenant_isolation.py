"""Two tenants at one desk: neither finds a trace of the other, on any path or page."""

import json
from contextlib import contextmanager
from datetime import UTC, datetime

import httpx
import numpy as np
import pytest
from desk_server import Server, pictured, write_batch

from dermbatch import layout
from dermbatch.records.asked import BatchControl, BatchSummary, Canary
from dermbatch.settings.destinations import DicomwebSettings
from dermbatch.store import ObjectStore
from dermbatch.stored import write
from desk.app import application
from orchestrator.reporting.closing import write_usage
from orchestrator.similar.growing import rebuild
from orchestrator.stack.servers.s3 import create_buckets
from orchestrator.steering.controls import begin
from tests.outcome_samples import CREATED, batch_of, entry_of, failure_of, result_of, write_manifest

TENANTS = """
tenants:
  - name: clinic-a
    prefixes: [s3://clinic-a]
    quota: {open_images: 1000}
  - name: clinic-b
    prefixes: [s3://clinic-b]
    models: {segment: [segment_lite]}
    lanes: [bulk]
    weight: 5
"""
CLOSED, OPEN = "clinic-a.monday", "clinic-a.tuesday"
FILLED = {
    "index": "0",
    "name": "mask.png",
    "version": "1",
    "file": "report.html",
    "kind": "csv",
    "layer": "original",
    "level": "0",
    "row": "0",
    "column": "0",
    "study": "1.2",
    "one": "1.2",
    "instance": "1.2",
}


@pytest.fixture(scope="module")
def buckets(object_store_settings):
    """Buckets of this module's own: an index and canaries are of all that is in one."""
    found = object_store_settings.model_copy(update={"bucket": "apart", "incoming_bucket": "apart-incoming"})
    create_buckets(found)
    return found


@pytest.fixture(scope="module")
def store(buckets):
    return ObjectStore(buckets)


@pytest.fixture(scope="module")
def server(redis_settings, buckets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    (folder / "tenants.yaml").write_text(TENANTS)
    proxy = {"user_header": "X-User", "tenant_header": "X-Tenant", "proxies": ("127.0.0.0/8",)}
    with Server(redis_settings, buckets, folder, tenants=folder / "tenants.yaml", **proxy) as server:
        server.settings.dicomweb["main"] = DicomwebSettings(url="http://127.0.0.1:9/dicom-web")
        yield server


@contextmanager
def signed_in(server, tenant, name="ada"):
    headers = {"x-user": name, "x-tenant": tenant}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        client.headers["x-csrf-token"] = client.get("/v1/session").json()["csrf"]
        yield client


@pytest.fixture(scope="module")
def at_a(server):
    with signed_in(server, "clinic-a") as client:
        yield client


@pytest.fixture(scope="module")
def at_b(server):
    with signed_in(server, "clinic-b") as client:
        yield client


def everything_without_ids(client):
    """All answers that name no batch: bodies and ETags, except for the token of the session."""
    paths = (
        "/v1/batches?all=true",
        "/v1/usage",
        "/v1/sets",
        "/v1/canaries",
        "/v1/indexes",
        "/v1/models",
        "/v1/queues",
        "/review",
        "/batches?all=true",
        "/gallery",
        "/models",
        "/usage",
    )
    found = {}
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 200, path
        found[path] = answer.text.replace(client.headers["x-csrf-token"], ""), answer.headers.get("etag")
    with client.stream("GET", "/v1/events") as events:
        lines = events.iter_lines()
        found["/v1/events"] = next(lines), next(lines)
    return found


@pytest.fixture(scope="module")
def seen_before(at_b):
    """What the other tenant is shown while the first one has nothing."""
    return everything_without_ids(at_b)


def summarise(store, name, done):
    times = {"created": CREATED, "closed": CREATED, "first_started": CREATED, "last_finished": CREATED}
    counts = {"images": done, "done": done, "failed": 0, "reasons": {}, "stage_seconds": {}, "stage_runs": {}}
    summary = BatchSummary(name=name, image_seconds=1, slots=1, software="0", **times, **counts)
    write(store, layout.summary(name), summary)


@pytest.fixture(scope="module")
def busy(seen_before, store, server, at_a, tmp_path_factory):
    """All that the first tenant has: batches closed and open, usage, index, sets, uploads, decisions, a canary."""
    pixels = np.full((224, 300, 3), 120, np.uint8)
    first = pictured(store, CLOSED, 0, pixels)
    records = [first, *(result_of(CLOSED, n) for n in (1, 2)), failure_of(CLOSED, 3)]
    closed = write_batch(store, CLOSED, records, tmp_path_factory.mktemp("t"), tenant="clinic-a")
    write_usage(store, closed)
    summarise(store, CLOSED, 3)
    store.put(layout.report(CLOSED), b"<html>report</html>", "text/html")
    batch = batch_of(OPEN, 3, tenant="clinic-a")
    write_manifest(store, batch, [entry_of(n) for n in range(3)])
    write(store, layout.control(OPEN), BatchControl(lane="live"))
    begin(store, server.desk.ledger, batch)
    rebuild(store)
    write(store, layout.canary("c"), Canary(name="c", models={}, share=1, created=datetime.now(UTC)))
    assert at_a.patch("/v1/sets/doubtful", json={"add": {CLOSED: [0]}}).status_code == 200
    assert at_a.post("/v1/queues", json={"name": "ward", "batches": [CLOSED]}).status_code == 201
    yield
    server.desk.ledger.batches.forget(OPEN)
    store.delete(layout.control(OPEN))


def requests_of(server, batch):
    """Every path that names a batch, with a request that its owner may make of it."""
    routers = [one.original_router for one in application(server.desk).routes if hasattr(one, "original_router")]
    for route in (route for router in routers for route in router.routes):
        name = "batch" if "{batch}" in route.path else "name"
        inside = f"{{{name}}}" in route.path and ("batch" in route.path or "dicom-web" in route.path)
        listed = route.path.startswith(("/v1/results", "/v1/exports", "/gallery"))
        if not inside and not listed:
            continue
        path = route.path.format(**FILLED | {name: batch}) if inside else route.path.format(kind="csv")
        for method in route.methods:
            yield method, f"{path}?batch={batch}&ids=0:0" if listed else path


def answered(client, method, path, batch):
    if path.endswith("/events"):
        with client.stream(method, path) as answer:
            return answer.status_code, "" if answer.status_code == 200 else answer.read().decode().replace(
                batch, "BATCH"
            )
    answer = client.request(method, path)
    return answer.status_code, answer.text.replace(batch, "BATCH")


@pytest.mark.usefixtures("busy")
def test_every_path_answers_for_a_batch_of_others_as_for_none(server, at_a, at_b):
    asked = list(requests_of(server, CLOSED))
    own = {
        f"{method} {path}": answered(at_a, method, path, CLOSED)[0] for method, path in asked if method == "GET"
    }
    assert own[f"GET /v1/batches/{CLOSED}/images/0/files/mask.png"] == 200
    shown = [path for path, status in own.items() if status == 200]
    assert len(asked) > 45
    assert len(shown) > 20, own
    nothing = dict(zip(asked, requests_of(server, "clinic-a.nothing"), strict=True))
    not_mine = dict(zip(asked, requests_of(server, "clinic-b.nothing"), strict=True))
    for one in asked:
        found = answered(at_b, *one, CLOSED)
        assert found[0] == 404, (one, found)
        assert found == answered(at_b, *nothing[one], "clinic-a.nothing"), one
        if one[0] == "GET":
            assert answered(at_b, *not_mine[one], "clinic-b.nothing")[0] == 404, one
    assert at_a.get(f"/v1/batches/{OPEN}").json()["state"] == "open"  # nobody else has steered it


@pytest.mark.usefixtures("busy")
def test_what_one_has_changes_nothing_of_what_the_other_is_shown(seen_before, at_a, at_b):
    assert everything_without_ids(at_b) == seen_before
    mine = everything_without_ids(at_a)
    for path in ("/v1/batches?all=true", "/v1/usage", "/v1/sets", "/v1/indexes", "/v1/events", "/usage"):
        assert mine[path][0] != seen_before[path][0] or mine[path] != seen_before[path], path
    assert CLOSED in mine["/v1/batches?all=true"][0]
    assert json.loads(mine["/v1/indexes"][0])[0]["cases"] == 3


@pytest.mark.usefixtures("busy")
def test_queues_are_a_tenants_own_like_batches(at_a, at_b):
    (queue,) = at_a.get("/v1/queues").json()
    assert queue["name"] == "clinic-a.ward"
    case = {"batch": CLOSED, "index": 0}
    for name in ("clinic-a.ward", "clinic-a.nothing"):
        for method, path, body in (
            ("GET", f"/v1/queues?name={name}", None),
            ("POST", f"/v1/queues/{name}/next", {}),
            ("POST", f"/v1/queues/{name}/leases", case),
            ("GET", f"/v1/queues/{name}/agreement", None),
            ("GET", f"/agreement/{name}", None),
        ):
            answer = at_b.request(method, path, json=body)
            assert (answer.status_code, answer.json()["detail"]) == (404, f"there is no queue '{name}'"), path
        own = name.replace("clinic-a", "clinic-b")
        never = at_b.post(f"/v1/queues/{own}/next", json={})
        assert (never.status_code, never.json()["detail"]) == (404, f"there is no queue '{own}'")
    assert at_b.post("/v1/queues", json={"name": "ward", "batches": [CLOSED]}).status_code == 404
    assert at_a.post("/v1/queues/clinic-a.ward/next", json={}).json()["case"] == case


@pytest.mark.usefixtures("busy")
def test_the_same_image_at_another_tenant_has_no_neighbours_there(store, at_a, at_b, tmp_path):
    again = pictured(store, "clinic-b.mine", 0, np.full((224, 300, 3), 120, np.uint8))
    write_batch(store, "clinic-b.mine", [again], tmp_path, tenant="clinic-b")
    own, asked = f"/v1/batches/{CLOSED}/images/0/similar", "/v1/batches/clinic-b.mine/images/0/similar"
    nothing = at_b.get(asked)
    assert (nothing.status_code, nothing.json()["reason"]) == (409, "no_index")
    summarise(store, "clinic-b.mine", 1)
    rebuild(store)
    theirs, mine = (one.get(path, params={"same": True}).json() for one, path in ((at_a, own), (at_b, asked)))
    assert theirs["index"]["cases"] == 3
    assert {case["batch"] for case in theirs["cases"]} <= {CLOSED}
    assert (mine["index"]["cases"], mine["index"]["not_held_yet"], mine["cases"]) == (1, 0, [])
    assert mine["index"]["version"] is None
    (index,) = at_b.get("/v1/indexes").json()
    assert (index["cases"], "version" in index, "made" in index) == (1, False, False)
    others = at_b.get("/v1/batches/clinic-b.mine/images/0/decisions").json()
    assert (others["decisions"], others["hidden"], others["newer"]) == ([], 0, {})


@pytest.mark.usefixtures("busy")
def test_the_same_name_at_another_tenant_is_somebody_else(server, at_a, at_b):
    assert at_b.get("/v1/sets").json() == []
    upload = at_a.post("/v1/uploads", json={"name": "a.png", "size": 4}).json()
    assert at_b.head(f"/v1/uploads/{upload['id']}").status_code == 404
    assert at_b.delete(f"/v1/uploads/{upload['id']}").status_code == 404
    into = at_b.post("/v1/estimates", json={"inputs": [f"upload:{upload['into']}"]})
    assert (into.status_code, into.json()["reason"]) == (404, "no_upload")
    assert at_a.get("/v1/session").json()["csrf"] != at_b.get("/v1/session").json()["csrf"]


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"inputs": ["s3://clinic-a/x/"]}, "s3://clinic-a/x/ is not below a prefix of tenant 'clinic-b'"),
        ({"inputs": ["s3://apart-incoming/desk/"]}, "s3://apart-incoming/desk/ is not below a prefix"),
        ({"inputs": [f"s3://apart/batches/{CLOSED}/"]}, "is not below a prefix"),
        ({"inputs": ["s3://clinic-b/"], "output": "s3://clinic-a/x"}, "is not below an output"),
        ({"inputs": ["s3://clinic-b/"], "tenant": "clinic-a"}, "there is no tenant 'clinic-a'"),
        ({"inputs": ["s3://clinic-b/"], "tenant": "clinic-x"}, "there is no tenant 'clinic-x'"),
        ({"inputs": ["s3://clinic-b/"], "models": {"segment": "other"}}, "may not use other for segment"),
        ({"inputs": ["s3://clinic-b/"], "send_to": "main"}, "may not send to 'main'"),
    ],
)
def test_nothing_is_submitted_or_reckoned_beyond_what_a_tenant_may(at_b, asked, complaint):
    for path in ("/v1/batches", "/v1/estimates"):
        answer = at_b.post(path, json=asked)
        assert (answer.status_code, answer.json()["reason"]) == (400, "usage")
        assert complaint in answer.json()["detail"]


@pytest.mark.usefixtures("busy")
def test_true_masks_are_looked_for_below_own_prefixes_alone(at_a):
    for path in (f"/v1/batches/{CLOSED}/images/0/truth?prefix=", f"/v1/batches/{CLOSED}/comparison?truth="):
        answer = at_a.get(f"{path}s3://clinic-b/masks/")
        assert (answer.status_code, answer.json()["detail"].partition(" (")[0]) == (
            400,
            "s3://clinic-b/masks/ is not below a prefix of tenant 'clinic-a'",
        )


@pytest.mark.usefixtures("busy")
def test_known_cases_of_a_queue_are_ones_own_whatever_a_set_names(store, at_a, at_b, tmp_path):
    record = pictured(store, "clinic-b.theirs", 0, np.full((224, 300, 3), 90, np.uint8))
    write_batch(store, "clinic-b.theirs", [record], tmp_path, tenant="clinic-b")
    stages = at_a.get(f"/v1/batches/{CLOSED}/images/0/decisions").json()["stages"]
    decision = {"version": 1, "kind": "adjudicate", "stages": stages, "shown": True, "diagnosis": ["nevus"]}
    assert at_a.post(f"/v1/batches/{CLOSED}/images/0/decisions", json=decision).status_code == 201
    assert at_b.patch("/v1/sets/known", json={"add": {CLOSED: [0], "clinic-a.none": [0]}}).status_code == 200
    asked = {"name": "spy", "batches": ["clinic-b.theirs"], "known": "known"}
    answer = at_b.post("/v1/queues", json=asked)
    assert (answer.status_code, answer.json()["reason"]) == (400, "nothing_known")
    assert at_a.patch("/v1/sets/known", json={"add": {CLOSED: [0]}}).status_code == 200
    asked = {"name": "known", "batches": [CLOSED], "known": "known"}
    assert at_a.post("/v1/queues", json=asked).status_code == 201


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [({"lane": "live"}, "has no lane live (it has: bulk)"), ({"weight": 6}, "may have a weight of 5 at most")],
)
def test_no_batch_is_put_before_others_by_more_than_its_tenant_may(server, at_b, asked, complaint):
    answer = at_b.post("/v1/batches/clinic-b.any/priority", json=asked)
    assert (answer.status_code, answer.json()["reason"]) == (400, "usage")
    assert complaint in answer.json()["detail"]
    assert "there is no batch" in at_b.post("/v1/batches/clinic-b.any/priority", json={"weight": 5}).text


@pytest.mark.usefixtures("busy")
def test_decisions_are_sent_where_a_tenant_may_and_of_other_places_nothing_is_told(at_a):
    place = f"/v1/batches/{CLOSED}/images/0/decisions"
    stages = at_a.get(place).json()["stages"]
    decision = {"version": 1, "stages": stages, "shown": True, "diagnosis": ["nevus"]}
    assert at_a.post(place, json=decision).status_code in {201, 409}  # it may be there
    there, not_there = (at_a.post(f"{place}/1/send", json={"to": name}) for name in ("main", "nowhere"))
    assert (there.status_code, there.json()["detail"]) == (400, "tenant 'clinic-a' may not send to 'main'")
    assert there.text.replace("main", "nowhere") == not_there.text
    assert "main" not in at_a.get(f"/correct/{CLOSED}/0").text.split("data-pacs=")[1].split(">")[0]


def test_how_much_somebody_asks_is_not_counted_for_a_namesake(server):
    counted = []
    for tenant in ("clinic-a", "clinic-b", "clinic-a"):
        with signed_in(server, tenant, "eve"):
            counted.append(set(server.desk.redis.keys("desk:rate:asked:*")))
    assert len(counted[1] - counted[0]) == 1
    assert counted[2] == counted[1]


def test_a_batch_is_called_by_its_tenant_whatever_name_is_given(at_b, store, s3_client):
    s3_client.create_bucket(Bucket="clinic-b")
    s3_client.put_object(Bucket="clinic-b", Key="in/1.png", Body=b"png")
    answer = at_b.post("/v1/batches", json={"inputs": ["s3://clinic-b/in/"], "batch": CLOSED})
    assert answer.json()["name"] == f"clinic-b.{CLOSED}"
    assert answer.headers["location"] == f"/v1/batches/clinic-b.{CLOSED}"
    order = at_b.get(answer.headers["location"]).json()["order"]
    assert (order["tenant"], order["shares"]) == ("clinic-b", None)
    assert at_b.post("/v1/estimates", json={"inputs": ["s3://clinic-b/in/"]}).json()["batches"] is None
    assert at_b.post(f"{answer.headers['location']}/cancel").status_code == 200


def test_who_is_of_no_tenant_or_of_two_sees_nothing(server):
    for headers in (
        {"x-user": "ada"},
        {"x-user": "ada", "x-tenant": ""},
        {"x-user": "ada", "x-tenant": "../x"},
        [("x-user", "ada"), ("x-tenant", "clinic-a"), ("x-tenant", "clinic-b")],
    ):
        answer = httpx.get(f"{server.url}/v1/batches", headers=headers)
        assert (answer.status_code, answer.json()["reason"]) == (403, "no_tenant")
