"""Correcting in a browser while a session ends, an image is run again, a second window is open, a desk is away."""

import os
from pathlib import Path

import numpy as np
import pytest
from desk_server import pictured, write_batch
from drawing import HEIGHT, WIDTH, disc, drag, drawn, kept, lesion, on_screen, opened, run_again, write_lesions

from dermbatch import layout
from dermbatch.records.outcome import ResultRecord
from dermbatch.review.masks import runs
from dermbatch.stages import Stage
from dermbatch.stored import read
from tests.acceptance.browser import Seat


@pytest.fixture(scope="module")
def batch(store, tmp_path_factory):
    return write_lesions(store, "rk", tmp_path_factory.mktemp("rk"), first=20)


def test_a_blind_reader_sees_no_newer_outline_and_what_is_drawn_while_it_is_kept_stays(
    browser, server, store, tmp_path_factory
):
    record = pictured(store, "rl", 0, lesion(11))
    write_batch(store, "rl", [record], tmp_path_factory.mktemp("rl"))
    with server.client("chief") as chief:
        asked = {"name": "rl", "batches": ["rl"], "blind": True}
        assert chief.post("/v1/queues", json=asked).status_code == 201
    seat = Seat(browser, server.link("vi"))
    page = opened(seat, "/correct/rl/0?queue=rl")
    drag(page, (60, 60), (80, 60))
    first = drawn(page)
    run_again(store, record, np.full((HEIGHT, WIDTH), 255, np.uint8))
    page.keyboard.press("Control+Enter")
    page.get_by_text("Run again since this image was shown: segment.").wait_for()
    assert page.get_by_role("button", name="Begin from the newer mask").count() == 0
    assert page.evaluate("viewer.overs.size") == 0

    def late(route):
        drag(page, (200, 200), (220, 200))
        route.continue_()

    page.route("**/decisions", late, times=1)
    page.get_by_role("button", name="Keep my drawing anyway").click()
    page.get_by_text("what you drew since is not kept yet").wait_for()
    both = drawn(page)
    assert np.array_equal(kept(seat, 0, 1, "rl")[1], first)
    assert both.sum() > first.sum()
    opened(seat, "/correct/rl/0?queue=rl")
    assert np.array_equal(drawn(page), both)
    assert page.get_by_text("in another window").count() == 0
    seat.faults.clear()  # the browser says that it was refused
    seat.close()


def test_an_expired_session_and_a_new_run_lose_nothing(browser, server, store, batch):
    seat = Seat(browser, server.link("lee"))
    page = opened(seat, f"/correct/{batch}/6")
    page.mouse.move(*on_screen(page, 40, 40))
    page.mouse.down()
    page.mouse.move(*on_screen(page, 80, 40), steps=3)
    seat.context.clear_cookies()  # the session ends in mid-stroke
    page.mouse.move(*on_screen(page, 120, 60), steps=3)
    page.mouse.up()
    mask = drawn(page)
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("Your session has ended").wait_for()
    seat.faults.clear()  # the browser says that it was refused
    page.close()  # and the window is closed
    seat.page = page = seat.context.new_page()
    page.on("pageerror", lambda error: seat.faults.append(str(error)))
    page.goto(server.link("lee"))
    opened(seat, f"/correct/{batch}/6")  # where the drawing is, and is sent
    page.get_by_text("Kept as version 1").first.wait_for()
    assert np.array_equal(kept(seat, 6, batch=batch)[1], mask)
    record = read(store, layout.result(batch, 6), ResultRecord)
    newer = np.zeros((HEIGHT, WIDTH), np.uint8)
    newer[:50, :50] = 255
    drag(page, (200, 200), (220, 200))
    mask = drawn(page)
    run_again(store, record, newer)
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("Run again since this image was shown: segment (segment_net@2").wait_for()
    assert (
        len(seat.context.request.get(f"{seat.base}/v1/batches/{batch}/images/6/decisions").json()["decisions"])
        == 1
    )
    page.get_by_role("button", name="Keep my drawing anyway").click()
    page.get_by_text("Kept as version 2").first.wait_for()
    decision, found = kept(seat, 6, 2, batch)
    assert np.array_equal(found, mask)
    assert decision.despite == {Stage.SEGMENT: "f" * 32}
    page.reload()
    seat.until("window.ready && viewer.idle")
    page.get_by_role("button", name="Begin from the newer mask").click()
    assert np.array_equal(drawn(page), newer > 0)
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("Kept as version 3").first.wait_for()
    decision, found = kept(seat, 6, 3, batch)
    assert (decision.seen.stages[Stage.SEGMENT], decision.despite) == ("f" * 32, {})
    assert np.array_equal(found, newer > 0)
    seat.close()


def test_two_windows_of_one_reader_keep_both(browser, server, batch):
    seat = Seat(browser, server.link("win"))
    page = opened(seat, f"/correct/{batch}/7")
    second = seat.context.new_page()
    second.goto(page.url)
    seat.page = second
    seat.until("window.ready && viewer.idle")
    drag(second, (20, 20))
    second.get_by_role("button", name="Keep").click()
    second.get_by_text("Kept as version 1").first.wait_for()
    drag(page, (60, 60))
    mask = drawn(page)
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("You have kept version 1 in another window").wait_for()
    page.get_by_role("button", name="Keep this one, too").click()
    page.get_by_text("Kept as version 2").first.wait_for()
    assert np.array_equal(kept(seat, 7, 2, batch)[1], mask)
    seat.close()


def test_a_third_adjudicates_between_two_and_returns(browser, server, store, tmp_path_factory):
    write_batch(store, "rj", [pictured(store, "rj", 0, lesion(9))], tmp_path_factory.mktemp("rj"))
    path = "/v1/batches/rj/images/0/decisions"
    masks = {name: disc(160 + shift, 120, 30) for name, shift in (("ada", 0), ("bo", 20))}
    for name, mask in masks.items():
        with server.client(name) as client:
            stages = client.get(path).json()["stages"]
            decision = {"version": 1, "stages": stages, "shown": False, "diagnosis": ["nevus"], "mask": runs(mask)}
            assert client.post(path, json=decision).status_code == 201
    seat = Seat(browser, server.link("chief"))
    page = opened(seat, "/correct/rj/0?adjudicate")
    assert page.locator(".decided li").count() == 2
    page.get_by_label("outline").first.check()
    page.get_by_role("button", name="Return").nth(1).click()
    page.get_by_text("Say in the comment what is to be corrected").wait_for()
    page.get_by_label("Comment").fill("too far to the right")
    page.get_by_role("button", name="Return").nth(1).click()
    page.get_by_text("Returned to bo").wait_for()
    page.get_by_role("button", name="Begin from this").first.click()
    assert np.array_equal(drawn(page), masks["ada"])
    page.keyboard.press("g")
    mask = drawn(page)
    assert mask.sum() > masks["ada"].sum()
    page.screenshot(path=Path(os.environ.get("DESK_PICTURES", tmp_path_factory.mktemp("p"))) / "adjudicate.png")
    page.get_by_role("button", name="Keep", exact=True).click()
    page.get_by_text("Kept as version 2").first.wait_for()
    decision, found = kept(seat, 0, 2, "rj")
    assert (decision.kind, decision.diagnosis) == ("adjudicate", ("nevus",))
    assert np.array_equal(found, mask)
    assert seat.faults == []
    seat.close()
    with server.client("bo") as bo:
        returned = bo.get(path).json()["decisions"]
    assert ("chief", "return", "bo", "too far to the right") in {
        (one["reader"], one["kind"], one["to"], one["comment"]) for one in returned
    }


def test_a_desk_that_is_away_for_the_next_image_is_asked_again(browser, server, batch):
    seat = Seat(browser, server.link("ned"))
    with server.client("ned") as ned:
        ned.post("/v1/queues", json={"name": "away", "batches": [batch], "most": 2, "readers": 9})
        first = ned.post("/v1/queues/away/next", json={}).json()["case"]["index"]
    page = opened(seat, f"/correct/{batch}/{first}?queue=away")
    asked = []

    def away(route):
        asked.append(route.abort() if len(asked) < 1 else route.continue_())

    page.route("**/v1/queues/away/next", away)
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("The desk does not answer").wait_for()
    seat.until(f"location.pathname.startsWith('/correct/') && !location.pathname.endsWith('/{first}')", 60)
    assert len(asked) == 2
    assert kept(seat, first, batch=batch)[0].version == 1
    seat.close()
