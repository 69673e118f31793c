"""Correcting in a real browser: what is drawn is kept pixel by pixel, by mouse, pen, touch and keys alone.

``make desk-check`` does all of it; DESK_PICTURES names a folder for pictures of the pages.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from desk_server import Server, pictured, write_batch

from dermbatch.images import png
from dermbatch.records.review import Decision
from dermbatch.review.masks import of_runs
from dermbatch.store import ObjectStore
from tests.acceptance.browser import LAPTOP, PHONE, Seat, chromium

THOROUGH = pytest.mark.skipif(not os.environ.get("DESK_CHECK"), reason="takes minutes: make desk-check")
HEIGHT, WIDTH = 240, 320


@pytest.fixture(scope="module")
def store(object_store_settings):
    return ObjectStore(object_store_settings)


@pytest.fixture(scope="module")
def server(redis_settings, object_store_settings, tmp_path_factory):
    with Server(redis_settings, object_store_settings, tmp_path_factory.mktemp("desk")) as server:
        yield server


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
    page.get_by_label("Comment").fill("borders ‮ and more")
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("Kept as version 1").first.wait_for()
    decision, found = kept(seat, 0)
    assert np.array_equal(found, mask)
    assert (decision.diagnosis, decision.unsure) == (("melanoma", "nevus"), True)
    assert decision.comment == "borders ‮ and more"
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
