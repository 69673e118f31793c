"""Correcting in a real browser: what is drawn is kept pixel by pixel, by mouse, pen, touch and keys alone.

``make desk-check`` does all of it; DESK_PICTURES names a folder for pictures of the pages.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from desk_server import pictured, write_batch
from drawing import HEIGHT, WIDTH, disc, drag, drawn, kept, lesion, on_screen, opened, write_lesions

from benchmarks.desk_gallery import tasks_of
from dermbatch.images import png
from dermbatch.review.masks import of_runs
from tests.acceptance.browser import LAPTOP, PHONE, Seat

THOROUGH = pytest.mark.skipif(not os.environ.get("DESK_CHECK"), reason="takes minutes: make desk-check")


@pytest.fixture(scope="module")
def batch(store, tmp_path_factory):
    return write_lesions(store, "rb", tmp_path_factory.mktemp("rb"))


def test_a_reader_corrects_a_mask_and_says_what_is_seen(browser, server, batch, tmp_path):
    seat = Seat(browser, server.link("ada"))
    page = opened(seat, f"/correct/{batch}/0")
    model = drawn(page)
    assert model.sum() == (HEIGHT // 4) * (WIDTH // 4)  # begun from the model's
    page.evaluate("editor.resize(20)")
    drag(page, (20, 20))
    assert np.array_equal(drawn(page), model | disc(20, 20, 10))
    page.keyboard.press("e")
    drag(page, (100, 80), (100, 100))
    assert not drawn(page)[80:100, 95:105].any()
    page.keyboard.press("z")
    page.keyboard.press("z")
    assert np.array_equal(drawn(page), model)
    page.keyboard.press("y")
    page.keyboard.press("y")
    page.keyboard.press("p")
    for place in ((200, 150), (260, 150), (260, 200)):
        page.mouse.click(*on_screen(page, *place))
    page.keyboard.press("Enter")
    mask = drawn(page)
    assert mask[160, 250]
    assert not mask[190, 210]
    page.get_by_label("melanoma").check()
    page.get_by_label("nevus").check()
    page.get_by_label("Not sure").check()
    page.get_by_role("radio", name="Streaks").check()
    page.keyboard.press("b")
    drag(page, (60, 200), (90, 200))
    streaks = drawn(page)
    page.get_by_label("Ulceration: seen").check()
    page.get_by_label("Comment").fill("borders \u202e and more")
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("Kept as version 1").first.wait_for()
    decision, found = kept(seat, 0)
    assert np.array_equal(found, mask)
    assert (decision.diagnosis, decision.unsure) == (("melanoma", "nevus"), True)
    assert decision.comment == "borders \u202e and more"
    assert decision.seen.shown
    assert not decision.seen.blank
    regions = {one.term: one.region for one in decision.features}
    assert set(regions) == {"streaks", "ulceration"}
    assert regions["ulceration"] is None
    assert np.array_equal(of_runs(regions["streaks"].counts, HEIGHT, WIDTH) > 0, streaks)
    file = tmp_path / "mask.png"
    file.write_bytes(png.encode(np.eye(HEIGHT, WIDTH, dtype=np.uint8) * 255))
    page.get_by_role("radio", name="Lesion").check()
    page.set_input_files("#file", file)
    seat.until("editor.mask.area === 240")
    assert np.array_equal(drawn(page), np.eye(HEIGHT, WIDTH, dtype=bool))
    assert seat.faults == []
    seat.close()


def tab_to(page, what, most=80):
    """Tab until an element has the focus."""
    for _ in range(most):
        if page.evaluate(f"document.activeElement.matches({what!r})"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{what} was not reached by Tab")


def test_a_queue_by_keyboard_alone_until_none_is_left(browser, server, batch):
    seat = Seat(browser, server.link("kay"))
    token = seat.context.request.get(f"{seat.base}/v1/session").json()["csrf"]
    asked = {"name": "by-keys", "batches": [batch], "q": "set:keys", "blank_share": 1}
    api = seat.context.request
    api.patch(f"{seat.base}/v1/sets/keys", headers={"x-csrf-token": token}, data={"add": {batch: [2, 3]}})
    assert api.post(f"{seat.base}/v1/queues", headers={"x-csrf-token": token}, data=asked).status == 201
    page = seat.go("/review")
    tab_to(page, "[data-begin=by-keys]")
    page.keyboard.press("Enter")
    for index in (2, 3):
        seat.until(f"location.pathname === '/correct/rb/{index}' && window.ready && viewer.idle", 60)
        assert not drawn(page).any()  # it begins blank
        page.keyboard.press("Space")  # the pen is down in the middle
        for _ in range(6):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Space")
        page.keyboard.press("ArrowDown")  # moves, and draws nothing
        stroke = drawn(page)
        page.keyboard.press("g")
        assert drawn(page).sum() > stroke.sum() > 0
        page.keyboard.press("z")
        assert np.array_equal(drawn(page), stroke)
        page.keyboard.press("x")
        for key in ("ArrowLeft", "ArrowUp", "ArrowUp", "ArrowUp"):
            page.keyboard.press("Space")
            page.keyboard.press(key)
        page.keyboard.press("Enter")  # a cut of corners that were set by keys
        mask = drawn(page)
        tab_to(page, "input[name=diagnosis][value=nevus]")
        page.keyboard.press("Space")
        page.keyboard.press("Control+Enter")
        seat.until(f"location.pathname === '{'/correct/rb/3' if index == 2 else '/review'}'", 60)
        decision, found = kept(seat, index)
        assert np.array_equal(found, mask)
        assert (decision.diagnosis, decision.seen.blank) == (("nevus",), True)
    page.get_by_text("None left in by-keys for you").wait_for()
    assert seat.faults == []
    seat.close()


def test_a_pen_draws_and_its_other_end_erases_while_fingers_move_the_picture(browser, server, batch):
    seat = Seat(browser, server.link("pen"))
    page = opened(seat, f"/correct/{batch}/4?blank")
    cdp = seat.context.new_cdp_session(page)

    def pen(kind, place, buttons, force=0.5):
        x, y = on_screen(page, *place)
        event = {"type": kind, "x": x, "y": y, "pointerType": "pen", "buttons": buttons, "force": force}
        button = "none" if kind == "mouseMoved" else "left"
        cdp.send("Input.dispatchMouseEvent", event | {"button": button, "clickCount": 1})

    def fingers(kind, *places):
        cdp.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(places)]},
        )

    page.evaluate("editor.resize(10)")
    page.evaluate(
        "window.types = []; editor.canvas.addEventListener('pointerdown', (e) => types.push(e.pointerType))"
    )
    for force in (0.05, 1.0):  # pressure changes nothing
        pen("mousePressed", (50, 100 + 40 * (force > 0.5)), 1, force)
        pen("mouseMoved", (90, 100 + 40 * (force > 0.5)), 1, force)
        pen("mouseReleased", (90, 100 + 40 * (force > 0.5)), 0)
    mask = drawn(page)
    assert np.array_equal(mask[90:110, :], mask[130:150, :])
    assert mask[100, 50:90].all()
    assert page.evaluate("types") == ["pen", "pen"]
    view = page.evaluate("viewer.view.zoom")
    one, other = on_screen(page, 100, 100), on_screen(page, 200, 100)
    fingers("touchStart", one)
    fingers("touchMove", (one[0] + 30, one[1]))  # a hand that rests draws nothing
    fingers("touchEnd")
    fingers("touchStart", one, other)
    fingers("touchMove", (one[0] - 40, one[1]), (other[0] + 40, other[1]))
    fingers("touchEnd")
    assert page.evaluate("viewer.view.zoom") > view
    assert np.array_equal(drawn(page), mask)
    page.evaluate(
        """() => {
        const [x, y] = [innerWidth / 3, innerHeight / 2];
        for (const kind of ['pointerdown', 'pointerup']) editor.canvas.dispatchEvent(new PointerEvent(kind,
          {pointerType: 'pen', pointerId: 9, clientX: x, clientY: y, buttons: kind === 'pointerdown' ? 32 : 0}));
        }"""
    )
    assert seat.faults == []
    seat.close()


def test_a_hand_that_rests_takes_nothing_from_the_pen(browser, server, batch):
    seat = Seat(browser, server.link("palm"))
    page = opened(seat, f"/correct/{batch}/4?blank")

    def pointer(kind, what, place, buttons=1):
        x, y = on_screen(page, *place)
        event = {"pointerType": what, "pointerId": len(what), "clientX": x, "clientY": y, "buttons": buttons}
        page.evaluate("([kind, it]) => editor.canvas.dispatchEvent(new PointerEvent(kind, it))", [kind, event])

    page.evaluate("editor.resize(10)")
    before = page.evaluate("({...viewer.view})")
    pointer("pointerdown", "touch", (200, 200))  # the hand comes first
    pointer("pointerdown", "pen", (50, 100))
    pointer("pointermove", "touch", (210, 205))
    pointer("pointermove", "pen", (70, 100))
    pointer("pointerup", "touch", (210, 205), 0)
    pointer("pointerdown", "touch", (200, 200))  # and again, in mid-stroke
    pointer("pointermove", "touch", (190, 200))
    pointer("pointermove", "pen", (90, 100))
    pointer("pointerup", "pen", (90, 100), 0)
    mask = drawn(page)
    assert mask[100, 50:90].all()
    assert not mask[150:].any()
    assert page.evaluate("({...viewer.view})") == before
    page.evaluate("editor.canvas.focus()")
    page.keyboard.press("Space")  # what keys began is a step of its own, whatever comes next
    pointer("pointerdown", "mouse", (20, 20))
    pointer("pointerup", "mouse", (20, 20), 0)
    page.keyboard.press("z")
    page.keyboard.press("z")
    assert np.array_equal(drawn(page), mask)
    assert seat.faults == []
    seat.close()


def test_a_finger_draws_where_no_pen_is_and_two_draw_nothing(browser, server, batch):
    seat = Seat(browser, server.link("tess"), PHONE)
    page = opened(seat, f"/correct/{batch}/5?blank")
    cdp = seat.context.new_cdp_session(page)

    def fingers(kind, *places):
        points = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(places)]
        cdp.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    one, other = on_screen(page, 100, 100), on_screen(page, 200, 140)
    fingers("touchStart", one)
    fingers("touchMove", other)
    fingers("touchEnd")
    mask = drawn(page)
    assert mask[100, 100]
    assert mask[140, 200]
    fingers("touchStart", one)
    fingers("touchMove", (one[0] + 9, one[1]))
    fingers("touchStart", (one[0] + 9, one[1]), other)  # what the first began is taken away
    fingers("touchEnd")
    assert np.array_equal(drawn(page), mask)
    assert seat.judged() == []
    assert seat.overflow() <= 0
    assert seat.faults == []
    seat.close()


@THOROUGH
def test_two_hundred_strokes_on_a_large_picture(browser, server, store, tmp_path_factory, capsys):
    """4,000 x 3,000 pixels: time between frames while 200 strokes are drawn, and until the decision is kept."""
    record = pictured(store, "rl", 0, lesion(1, 3000, 4000))
    write_batch(store, "rl", [record], tmp_path_factory.mktemp("rl"))
    seat = Seat(browser, server.link("max"))
    page = opened(seat, "/correct/rl/0")
    page.evaluate(FRAMES)
    random = np.random.default_rng(200)
    lines, worst = [f"load {os.getloadavg()[0]:.0f}"], 0.0
    for name, zoom in (("whole picture", None), ("1:1", 1)):
        if zoom:
            page.evaluate("viewer.look({x: 2000, y: 1500, zoom: 1})")
            seat.until("viewer.idle")
        page.evaluate("frames_.length = 0; editor.resize(80)")
        browser.start_tracing(page=page, categories=["toplevel", "devtools.timeline"])
        for stroke in range(100):
            page.keyboard.press("e" if stroke % 4 == 3 else "b")
            scribble(page, random)
        tasks = tasks_of(json.loads(browser.stop_tracing()))
        frames = page.evaluate("frames_")
        worst = max(worst, np.percentile(frames, 95))
        by_clock = ", ".join(f"p{share} {np.percentile(frames, share):.1f}" for share in (50, 95, 99))
        lines.append(f"{name}: {len(frames)} frames, ms by the clock: {by_clock}, longest {max(frames):.0f}")
        by_processor = f"{sum(tasks) / len(frames):.1f} a frame, p99 of tasks {np.percentile(tasks, 99):.1f}"
        lines.append(f"{name}: the page's thread, ms of processor: {by_processor}, longest task {max(tasks):.0f}")
    mask = drawn(page)
    began = time.process_time()
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("Kept as version 1").first.wait_for()
    seat.until("window.kept")  # what was decided is listed again before
    seconds = page.evaluate("window.kept") / 1000
    lines.append(f"kept after {seconds:.2f} s; desk: {time.process_time() - began:.2f} s of processor")
    with capsys.disabled():
        print("", *lines, sep="\n")
    assert np.array_equal(kept(seat, 0, batch="rl")[1], mask)
    assert page.evaluate("editor.done.length") > 150
    assert seat.faults == []
    assert worst < 33
    assert seconds < 1
    seat.close()


FRAMES = """() => { window.frames_ = []; let before = performance.now();
  const tick = (now) => { frames_.push(now - before); before = now; requestAnimationFrame(tick); };
  requestAnimationFrame(tick); }"""


def scribble(page, random):
    """A stroke of twelve moves somewhere in the middle."""
    box = page.locator("#drawing").bounding_box()
    x = box["x"] + box["width"] * random.uniform(0.2, 0.8)
    y = box["y"] + box["height"] * random.uniform(0.2, 0.8)
    page.mouse.move(x, y)
    page.mouse.down()
    for _ in range(12):
        x, y = x + random.uniform(-25, 25), y + random.uniform(-25, 25)
        page.mouse.move(x, y)
    page.mouse.up()


@THOROUGH
def test_pages_of_review_keep_wcag_22_aa_and_fit_a_phone(browser, server, batch, tmp_path):
    folder = Path(os.environ.get("DESK_PICTURES", tmp_path))
    folder.mkdir(exist_ok=True, parents=True)
    for size in (PHONE, LAPTOP):
        for scheme in ("light", "dark"):
            seat = Seat(browser, server.link("wanda"), size, scheme)
            for name, path in (("review", "/review"), ("correct", f"/correct/{batch}/1")):
                page = opened(seat, path) if name == "correct" else seat.go(path)
                if name == "review" and not page.locator("#new").is_visible():
                    page.get_by_text("New queue").click()
                seat.judge(folder / f"{name}-{size[0]}-{scheme}.png")
            assert seat.faults == []
            seat.close()
