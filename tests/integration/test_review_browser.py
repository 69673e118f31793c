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

from benchmarks.desk_gallery import tasks_of
from dermbatch import layout
from dermbatch.images import png
from dermbatch.records.outcome import KnownImage, ResultRecord
from dermbatch.records.review import Decision
from dermbatch.review.masks import of_runs, runs
from dermbatch.stages import Stage
from dermbatch.stored import read, write
from tests.acceptance.browser import LAPTOP, PHONE, Seat, chromium

THOROUGH = pytest.mark.skipif(not os.environ.get("DESK_CHECK"), reason="takes minutes: make desk-check")
HEIGHT, WIDTH = 240, 320


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def lesion(seed, height=HEIGHT, width=WIDTH):
    """Skin with a darker lesion, and noise."""
    rows, columns = np.mgrid[:height, :width]
    inside = ((rows - height / 2) / (height / 4)) ** 2 + ((columns - width / 2) / (width / 4)) ** 2 < 1
    pixels = np.where(inside[..., None], (120, 70, 60), (210, 160, 140)).astype(np.int16)
    noise = np.random.default_rng(seed).integers(-12, 13, (height, width, 1))
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def batch(store, tmp_path_factory):
    records = [pictured(store, "rb", n, lesion(n)) for n in range(8)]
    write_batch(store, "rb", records, tmp_path_factory.mktemp("rb"))
    return "rb"


def opened(seat, path):
    page = seat.go(path)
    seat.until("window.ready && viewer.idle")
    return page


def on_screen(page, x, y):
    """Where a place in the picture is in the window."""
    return page.evaluate(
        """([x, y]) => {
        const box = editor.canvas.getBoundingClientRect(), {view, ratio} = viewer, scale = view.zoom * ratio;
        const left = Math.round(editor.canvas.width / 2 - view.x * scale);
        const top = Math.round(editor.canvas.height / 2 - view.y * scale);
        return [box.left + (left + x * scale) / ratio, box.top + (top + y * scale) / ratio];
        }""",
        [x, y],
    )


def drag(page, *places):
    for n, place in enumerate(places):
        page.mouse.move(*on_screen(page, *place), steps=1 if n == 0 else 4)
        if n == 0:
            page.mouse.down()
    page.mouse.up()


def drawn(page):
    """The mask as the page has it: bool [H, W]."""
    counts = page.evaluate("editor.mask.counts()")
    height, width = page.evaluate("[editor.mask.height, editor.mask.width]")
    return of_runs(counts, height, width) > 0


def kept(seat, index, version=1, batch="rb"):
    """A decision as the store has it, and its mask."""
    found = seat.context.request.get(f"{seat.base}/v1/batches/{batch}/images/{index}/decisions").json()
    one = Decision.model_validate_json(
        json.dumps(next(one for one in found["decisions"] if one["version"] == version))
    )
    return one, of_runs(one.mask.counts, one.mask.height, one.mask.width) > 0


def disc(x, y, radius, height=HEIGHT, width=WIDTH):
    rows, columns = np.mgrid[:height, :width]
    return (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2


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
    run_anew(store, record, np.full((HEIGHT, WIDTH), 255, np.uint8))
    page.keyboard.press("Control+Enter")
    page.get_by_text("Run anew since this image was shown: segment.").wait_for()
    assert page.get_by_role("button", name="Begin from the newer mask").count() == 0
    assert page.evaluate("viewer.overs.size") == 0

    def late(route):
        drag(page, (200, 200), (220, 200))
        route.continue_()

    page.route("**/decisions", late, times=1)
    page.get_by_role("button", name="Keep my drawing all the same").click()
    page.get_by_text("what you drew since is not kept yet").wait_for()
    both = drawn(page)
    assert np.array_equal(kept(seat, 0, 1, "rl")[1], first)
    assert both.sum() > first.sum()
    opened(seat, "/correct/rl/0?queue=rl")
    assert np.array_equal(drawn(page), both)
    assert page.get_by_text("in another window").count() == 0
    seat.faults.clear()  # the browser says that it was refused
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


def run_anew(store, record, mask):
    """Have an image be segmented by another model since, in another batch."""
    segment = record.stages[Stage.SEGMENT]
    model = segment.model.model_copy(update={"version": "2"})
    changes = {"key": "f" * 32, "model": model, "inline": {"mask.png": png.encode(mask)}, "artifacts": {}}
    anew = segment.model_copy(update={**changes, "written": {}})
    image = {name: getattr(record.source, name) for name in type(record.source).__base__.model_fields}
    stages = {one.key: one for one in (*record.stages.values(), anew)}
    write(store, layout.known_of(record.source.sha256), KnownImage(image=image, stages=stages, previews={}))


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
    assert np.array_equal(kept(seat, 6)[1], mask)
    record = read(store, layout.result(batch, 6), ResultRecord)
    newer = np.zeros((HEIGHT, WIDTH), np.uint8)
    newer[:50, :50] = 255
    drag(page, (200, 200), (220, 200))
    mask = drawn(page)
    run_anew(store, record, newer)
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("Run anew since this image was shown: segment (segment_net@2").wait_for()
    assert (
        len(seat.context.request.get(f"{seat.base}/v1/batches/{batch}/images/6/decisions").json()["decisions"])
        == 1
    )
    page.get_by_role("button", name="Keep my drawing all the same").click()
    page.get_by_text("Kept as version 2").first.wait_for()
    decision, found = kept(seat, 6, 2)
    assert np.array_equal(found, mask)
    assert decision.despite == {Stage.SEGMENT: "f" * 32}
    page.reload()
    seat.until("window.ready && viewer.idle")
    page.get_by_role("button", name="Begin from the newer mask").click()
    assert np.array_equal(drawn(page), newer > 0)
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("Kept as version 3").first.wait_for()
    decision, found = kept(seat, 6, 3)
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
    assert np.array_equal(kept(seat, 7, 2)[1], mask)
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
    seat.until("window.kept")  # what was decided is listed anew before
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
                page.wait_for_timeout(150)
                page.screenshot(path=folder / f"{name}-{size[0]}-{scheme}.png")
                assert seat.judged() == [], (name, size, scheme)
                assert seat.overflow() <= 0, (name, size, scheme)
            assert seat.faults == []
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
    assert kept(seat, first)[0].version == 1
    seat.close()
