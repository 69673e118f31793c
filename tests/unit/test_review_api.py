"""Decisions over HTTP: kept once, blind to others, and refused with what is wrong."""

import asyncio
import base64

import cv2
import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from outcome_samples import result_of, write_record
from standins import Store

from dermbatch.images import png
from dermbatch.records.access import Role
from dermbatch.review.masks import runs
from dermbatch.stages import Stage
from desk import problems
from desk.api.images import Records
from desk.desk import Person, _person, _store
from desk.pages import pages
from desk.review import decisions, masks, queues

PATH = "/v1/batches/b/images/0/decisions"


class Leases:
    """Of readers whom no queue hands anything."""

    def __init__(self):
        self.opened = set()

    def done(self, case, reader, how="read"):
        self.opened |= {reader} if how == "opened" else set()

    def has_opened(self, case, reader):
        return reader in self.opened

    def has_looked(self, reader, case):
        return False

    def reopen(self, case, reader):
        pass


class Reader:
    """What one person asks of the desk."""

    roles = frozenset({Role.REVIEWER})

    def __init__(self, app, name):
        self._app, self._name = app, name

    def __call__(self, method, path=PATH, **more):
        self._app.dependency_overrides[_person] = lambda: Person(self._name, "token", self.roles)
        return asyncio.run(self._asked(method, path, more))

    async def _asked(self, method, path, more):
        transport = httpx.ASGITransport(app=self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, **more)

    def decides(self, version=1, **fields):
        stages = {stage: one.key for stage, one in result_of("b", 0).stages.items()}
        return self("POST", json={"version": version, "stages": stages, "shown": False, **fields})


@pytest.fixture
def readers():
    store, app = Store(), FastAPI()
    write_record(store, result_of("b", 0))
    problems.install(app, pages.wrong)
    app.state.records = Records()
    app.dependency_overrides[_store] = lambda: store
    leases = Leases()
    app.dependency_overrides[queues._leases] = lambda: leases
    for module in (decisions, masks):
        app.include_router(module.router)
    return Reader(app, "ada"), Reader(app, "bo")


def mask():
    source = result_of("b", 0).source
    drawn = np.zeros((source.height, source.width), np.uint8)
    drawn[0, 0] = drawn[-1, -1] = 255  # at the border
    drawn[5:20, 5:20] = 255
    drawn[8:12, 8:12] = 0  # a hole
    drawn[10, 10] = 255  # with an island
    return drawn


def in_base64(drawn):
    return base64.b64encode(cv2.imencode(".png", drawn)[1].tobytes()).decode()


def test_a_decision_is_kept_and_given_back(readers):
    ada, _ = readers
    sent = ada.decides(diagnosis=["melanoma", "nevus"], unsure=True, comment="ask \u202eagain", mask=runs(mask()))
    assert sent.status_code == 201, sent.text
    found = ada("GET").json()
    assert found["decisions"] == [sent.json()]
    assert (found["next_version"], found["hidden"], found["newer"]) == (2, 0, {})
    assert found["decisions"][0]["reader"] == "ada"


@pytest.mark.parametrize(
    "how",
    [runs, in_base64, lambda drawn: in_base64((drawn // 255).astype(np.uint16) * 256)],
    ids=["runs", "png", "16 bits"],
)
def test_a_mask_comes_back_pixel_by_pixel(readers, how):
    ada, _ = readers
    assert ada.decides(mask=how(mask())).status_code == 201
    answer = ada("GET", f"{PATH}/1/mask.png")
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(png.decode(answer.content), mask())
    assert ada("GET", f"{PATH}/2/mask.png").status_code == 404


def test_readers_are_blind_to_each_other_until_they_have_decided(readers):
    ada, bo = readers
    ada.decides(diagnosis=["melanoma"], mask=runs(mask()))
    found = bo("GET").json()
    assert (found["decisions"], found["hidden"], found["next_version"]) == ([], 1, 1)
    assert bo("GET", f"{PATH}/1/mask.png").status_code == 404
    bo.decides(diagnosis=["nevus"])
    assert {one["reader"] for one in bo("GET").json()["decisions"]} == {"ada", "bo"}


def test_whoever_has_seen_others_decisions_reads_no_more_and_adjudicates(readers):
    ada, bo = readers
    ada.decides(diagnosis=["melanoma"])
    assert [one["reader"] for one in bo("GET", f"{PATH}?open=true").json()["decisions"]] == ["ada"]
    refused = bo.decides(diagnosis=["melanoma"])
    assert (refused.status_code, refused.json()["reason"]) == (409, "not_blind")
    assert bo.decides(kind="adjudicate", diagnosis=["nevus"]).status_code == 201


def test_to_return_something_is_no_way_to_see_it_and_read(readers):
    ada, bo = readers
    ada.decides(diagnosis=["melanoma"])
    assert bo.decides(kind="return", to="ada").status_code == 201
    assert bo.decides(2, diagnosis=["melanoma"]).json()["reason"] == "not_blind"


def test_what_was_sent_twice_is_there_once(readers):
    ada, _ = readers
    first, again = ada.decides(comment="once"), ada.decides(comment="once")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert len(ada("GET").json()["decisions"]) == 1


def test_another_window_is_told_and_changes_nothing(readers):
    ada, _ = readers
    ada.decides(comment="one window")
    answer = ada.decides(comment="another window")
    assert answer.status_code == 409
    assert answer.json()["reason"] == "decided_meanwhile"
    assert [one["comment"] for one in ada("GET").json()["decisions"]] == ["one window"]


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"mask": [1, 2, 3]}, 400, "bad_mask"),
        ({"mask": "no Base64!"}, 400, "bad_mask"),
        ({"mask": base64.b64encode(b"no PNG").decode()}, 400, "bad_mask"),
        ({"mask": base64.b64encode(png.encode(np.zeros((2, 2), np.uint8))).decode()}, 400, "bad_mask"),
        ({"mask": in_base64(np.full((64, 64), 127, np.uint8) + np.eye(64, dtype=np.uint8))}, 400, "bad_mask"),
        ({"mask": [2**70]}, 400, "bad_mask"),
        ({"mask": [2**62, 2**62, 2**62, 2**62 + 64 * 64]}, 400, "bad_mask"),
        ({"kind": "return"}, 400, "usage"),
        ({"kind": "return", "to": "nobody"}, 400, "usage"),
        ({"stages": {}}, 400, "usage"),
        ({"features": [{"term": "nonsense"}]}, 400, "usage"),
        ({"features": [{"term": "streaks", "region": {"height": 1, "width": 1, "counts": [1]}}]}, 400, "bad_mask"),
        ({"kind": "praise"}, 400, "usage"),
        ({"diagnosis": [""]}, 400, "usage"),
        ({"comment": "x" * 10_001}, 400, "usage"),
        ({"reader": "somebody else"}, 400, "usage"),
        ({"version": 0}, 400, "usage"),
        ({"version": 5}, 409, "decided_meanwhile"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_kept(readers, fields, status, reason):
    ada, _ = readers
    answer = ada.decides(**fields)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert ada("GET").json()["decisions"] == []


def test_who_decides_between_readers_or_gives_back_is_a_reviewer(readers):
    ada, bo = readers
    ada.roles = frozenset({Role.READER})
    for kind in ("adjudicate", "return"):
        answer = ada.decides(kind=kind, to="bo", comment="the border")
        assert (answer.status_code, answer.json()["reason"]) == (403, "role_missing")
    assert ada.decides().status_code == 201
    assert bo.decides(kind="return", to="ada", comment="the border").status_code == 201


def test_an_image_that_is_not_there_is_named(readers):
    ada, _ = readers
    assert ada("GET", "/v1/batches/b/images/9/decisions").status_code == 404


def test_whoever_has_adjudicated_reads_no_more(readers):
    ada, bo = readers
    ada.decides(diagnosis=["melanoma"])
    assert bo.decides(kind="adjudicate", diagnosis=["nevus"]).status_code == 201
    assert bo.decides(2, diagnosis=["melanoma"]).json()["reason"] == "not_blind"
    assert bo.decides(2, kind="adjudicate", diagnosis=["melanoma"]).status_code == 201


def test_what_was_opened_stays_so_when_redis_has_lost_it(readers):
    ada, bo = readers
    ada.decides(diagnosis=["melanoma"])
    bo("GET", f"{PATH}?open=true")
    bo._app.dependency_overrides[queues._leases] = Leases
    assert bo.decides(diagnosis=["melanoma"]).json()["reason"] == "not_blind"


def test_who_only_reads_opens_nothing_and_is_not_told_how_many_have_decided(readers):
    ada, bo = readers
    bo.decides(kind="adjudicate", diagnosis=["melanoma"])
    ada.roles = frozenset({Role.READER})
    assert ada("GET", f"{PATH}?open=true").status_code == 403
    found = ada("GET").json()
    assert (found["decisions"], found["hidden"]) == ([], None)
    assert ada.decides().status_code == 201
    assert ada("GET").json()["hidden"] == 0


def test_newer_masks_are_looked_for_where_the_result_is(readers, monkeypatch):
    """Of a tenant's image, among that tenant's: another's would be shown, or none."""
    record = result_of("b", 0)
    record = record.model_copy(update={"preview": "tenants/clinic/images/p/preview.jpg"})
    asked = []
    monkeypatch.setattr(masks, "newer_results", lambda *_: {Stage.SEGMENT: "f" * 32})
    monkeypatch.setattr(masks, "read_if_any", lambda _, key, kind: asked.append(key))
    masks.last_of(None, record)
    assert [key.startswith("tenants/clinic/images/known/") for key in asked] == [True]
