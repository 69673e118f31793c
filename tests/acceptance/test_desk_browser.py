"""The desk in a real browser on a real stack: upload, gallery, image, export; by keyboard; golden pixels.

``make desk-check`` looks at all pages at phone and laptop width, light and dark (DESK_PICTURES names a folder).
"""

import base64
import io
import json
import os
import re
from datetime import datetime, timedelta
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from browser import LAPTOP, PHONE, Seat, chromium
from commands import dermbatch
from PIL import Image

from dermbatch.images.imagefile import read_image
from dermbatch.images.pixels import adobe_rgb
from dermbatch.phantoms.samples import write_samples
from tests.waiting import patience

THOROUGH = pytest.mark.skipif(not os.environ.get("DESK_CHECK"), reason="takes minutes: make desk-check")


@pytest.fixture(scope="module")
def stack(tmp_path_factory, small_models):
    """A stack with a desk: its home."""
    home = tmp_path_factory.mktemp("desk") / "home"
    ended = dermbatch("up", "--home", home, "--desk", "--model-repository", small_models)
    assert ended.code == 0, ended.err
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/enter\?link=[\w-]+", ended.out.strip().splitlines()[-1])
    yield home
    assert dermbatch("down", "--home", home).code == 0


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def link(stack):
    def link():
        ended = dermbatch("desk", "--home", stack)
        assert ended.code == 0, ended.err
        return ended.out.strip()

    return link


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures whose pixels are easily shown wrong, with DICOM of YBR among them."""
    folder = tmp_path_factory.mktemp("golden")
    write_samples(folder / "samples", 10, seed=3)
    rgb = np.ascontiguousarray(np.random.default_rng(2).integers(0, 256, (260, 340, 3), np.uint8))
    rgb[:, :170] = (200, 120, 90)
    image = Image.fromarray(rgb)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif, quality=95)
    image.save(folder / "adobe.jpg", icc_profile=adobe_rgb(), quality=95)
    cv2.imwrite(str(folder / "deep.png"), rgb.astype(np.uint16) * 257)
    for path in sorted((folder / "samples").iterdir()):
        if path.suffix == ".dcm":
            path.rename(folder / path.name)
    for path in (folder / "samples").iterdir():
        path.unlink()
    (folder / "samples").rmdir()
    (folder / "no picture.jpg").write_bytes(b"MZ this is none")
    return folder


@pytest.fixture(scope="module")
def uploaded(browser, link, pictures):
    """A batch that was uploaded, submitted and followed in the browser: its name."""
    seat = Seat(browser, link())
    page = seat.page
    page.locator("#new summary").click()
    page.set_input_files("#files", sorted(pictures.iterdir()))
    page.fill("#name", "golden")
    page.get_by_label("DICOM objects too").check()
    page.get_by_label("To be done by").fill(f"{datetime.now() + timedelta(days=2):%Y-%m-%dT%H:%M}")
    page.get_by_role("button", name="What would it come to?").click()
    page.get_by_text("duplicates").wait_for(timeout=1000 * patience(30))
    page.get_by_text("it is not known yet whether it can be met").wait_for()
    page.get_by_role("button", name="Submit").click()
    row = page.locator("[data-batch=golden]")
    row.get_by_text("finished", exact=True).wait_for(timeout=1000 * patience(60))
    assert row.get_by_role("link", name="Report").is_visible()
    assert seat.faults == []
    seat.close()
    return "golden"


def shown(seat):
    """What the canvas shows at 1:1 around the image's middle: uint8 [h, w, 3], and its left top in the image."""
    page = seat.page
    page.evaluate("viewer.spacing = null; viewer.bare = true")  # no scale bar, no layers
    page.evaluate("viewer.look({x: viewer.size[0] / 2, y: viewer.size[1] / 2, zoom: 1})")
    seat.until("viewer.idle && viewer.tiles.size && ![...viewer.tiles.values()].includes('loading')")
    page.wait_for_timeout(100)
    drawn = page.evaluate(
        """() => {
        const {canvas, context, size, view} = viewer;
        const left = Math.round(canvas.width / 2 - view.x), top = Math.round(canvas.height / 2 - view.y);
        const x = Math.max(0, left), y = Math.max(0, top);
        const width = Math.min(canvas.width, left + size[0]) - x;
        const height = Math.min(canvas.height, top + size[1]) - y;
        const data = Array.from(context.getImageData(x, y, width, height).data, (v) => String.fromCharCode(v));
        return {width, height, x: x - left, y: y - top, data: btoa(data.join(""))};
        }"""
    )
    pixels = np.frombuffer(base64.b64decode(drawn["data"]), np.uint8)
    return pixels.reshape(drawn["height"], drawn["width"], 4)[..., :3], drawn["x"], drawn["y"]


def test_pixels_hold_from_file_to_screen(browser, link, uploaded, pictures):
    seat = Seat(browser, link())
    api = seat.context.request
    rows = api.get(f"{seat.base}/v1/results?batch=golden").json()["results"]
    done = {Path(row["name"]).name: row["index"] for row in rows if row["outcome"] == "done"}
    files = [path for path in pictures.iterdir() if path.name != "no picture.jpg"]
    assert set(done) == {path.name for path in files}
    assert any(path.suffix == ".dcm" for path in files)
    for path in files:
        seat.go(f"/image/golden/{done[path.name]}")
        seat.until("window.viewer?.bases?.size > 0 && viewer.idle")
        wanted = read_image(path.read_bytes(), max_pixels=10**8).pixels
        found, x, y = shown(seat)
        assert min(found.shape[:2]) > 100
        assert np.array_equal(found, wanted[y : y + found.shape[0], x : x + found.shape[1]]), path.name
    assert seat.faults == []
    seat.close()


def test_a_page_whose_scripts_did_not_come_says_so(browser, link, uploaded):
    seat = Seat(browser, link())
    page, words = seat.page, "This page did not load completely"
    for path, script in (("/gallery?batch=golden", "gallery.js"), ("/correct/golden/0", "review/mask.js")):
        page.route(f"**/static/{script}*", lambda route: route.abort(), times=1)
        seat.go(path)
        page.get_by_text(words).wait_for(timeout=1000 * patience(20))
        page.get_by_role("link", name="Load it again").click()
        seat.until("!document.querySelector('.late')")
        assert page.url.endswith(path)
    seat.close()


def test_layers_that_come_late_leave_the_view_as_a_person_set_it(browser, link, uploaded):
    seat = Seat(browser, link())
    row = seat.context.request.get(f"{seat.base}/v1/results?batch=golden&outcome=done").json()["results"][0]
    held = []

    def hold(route):  # Playwright marks what it calls, which a list's own method does not bear
        held.append(route)

    seat.page.route("**/outline", hold)
    seat.go(f"/image/golden/{row['index']}")
    seat.until("window.viewer?.bases?.size > 0 && viewer.idle && viewer.overs.has('outline')")
    seat.page.keyboard.press("l")  # all layers off
    view = seat.page.evaluate("viewer.look({x: 20, y: 30, zoom: 3}); viewer.view")
    with seat.page.expect_response("**/outline"):
        held[0].continue_()
    seat.until("viewer.overs.get('outline').on && viewer.idle")
    assert seat.page.evaluate("viewer.view") == view == {"x": 20, "y": 30, "zoom": 3}
    assert seat.page.evaluate("viewer.bare")
    assert not seat.page.get_by_role("checkbox", name="outline").is_checked()
    seat.close()


def test_where_a_session_ends_unsent_work_goes_on_with_the_next_one(browser, link, uploaded, pictures):
    seat = Seat(browser, link())
    page, gallery = seat.page, seat.context.new_page()
    gallery.goto(f"{seat.base}/gallery?batch=golden&q=outcome:done")
    gallery.wait_for_selector(".cell img[src]")
    page.locator("#new summary").click()
    page.set_input_files("#files", pictures / "turned.jpg")
    page.fill("#name", "unsent")
    page.get_by_text("there", exact=True).wait_for()
    seat.context.clear_cookies()
    page.get_by_role("button", name="Submit").click()
    page.locator("#estimated").get_by_text("Your session has ended").wait_for()
    gallery.locator("#grid").focus()
    gallery.keyboard.press("1")
    gallery.get_by_text("Your session has ended").wait_for()
    gallery.locator("#export summary").click()
    gallery.get_by_text("CSV").click()  # no download that fails without a word
    elsewhere = seat.context.new_page()
    elsewhere.goto(f"{seat.base}/image/golden/1?base=purified")
    assert "/enter?next=" in elsewhere.url
    seat.context.new_page().goto(link())
    elsewhere.get_by_role("link", name="Go on").click()
    elsewhere.wait_for_url("**/image/golden/1?base=purified*")
    gallery.keyboard.press("Escape")
    gallery.locator("#grid").focus()
    gallery.keyboard.press("2")
    gallery.get_by_text("1 tagged 2").wait_for()
    assert gallery.get_by_text("Your session has ended").count() == 0
    page.get_by_role("button", name="Submit").click()
    page.locator("[data-batch=unsent]").wait_for(timeout=1000 * patience(20))
    seat.close()
    other = Seat(browser, link())
    token = other.context.request.get(f"{other.base}/v1/session").json()["csrf"]
    other.context.request.delete(f"{other.base}/v1/sets/tag-2", headers={"x-csrf-token": token})
    other.close()


def test_keys_are_made_listed_and_revoked_by_command(stack, link):
    made = dermbatch("desk", "keys", "add", "nightly", "--role", "operator", "--days", "3", "--home", stack)
    assert made.code == 0, made.err
    base, headers = link().partition("/enter")[0], {"authorization": f"Bearer {made.out.strip()}"}
    assert "is not shown again" in made.err
    assert httpx.get(f"{base}/v1/session", headers=headers).json()["roles"] == ["operator"]
    listed = dermbatch("desk", "keys", "list", "--json", "--home", stack)
    (one,) = json.loads(listed.out)
    assert (one["name"], one["roles"]) == ("nightly", ["operator"])
    assert made.out.strip().rpartition("_")[2] not in listed.out
    assert "nightly" in dermbatch("desk", "keys", "list", "--home", stack).out
    assert dermbatch("desk", "keys", "revoke", one["id"], "--home", stack).code == 0
    assert httpx.get(f"{base}/v1/session", headers=headers).status_code == 401
    assert dermbatch("desk", "keys", "revoke", one["id"], "--home", stack).code == 2
    assert dermbatch("desk", "keys", "add", "x/y", "--role", "reader", "--home", stack).code == 2


def test_a_phone_selects_and_tags_by_touch(browser, link, uploaded):
    seat = Seat(browser, link(), PHONE)
    page = seat.go("/gallery?batch=golden&q=outcome:done")
    page.wait_for_selector(".cell img[src]")
    page.get_by_role("button", name="Select", exact=True).click()
    for cell in page.locator(".cell").all()[:2]:
        cell.click()
    page.get_by_text("2 selected", exact=True).wait_for()
    page.locator("#tag-chosen").select_option("9")
    page.get_by_text("2 tagged 9").wait_for()
    assert seat.judged() == []
    assert seat.overflow() <= 0
    page.locator("#tag-chosen").select_option("9")
    page.get_by_text("Tag 9 taken away from 2").wait_for()
    assert seat.faults == []
    seat.close()


def test_files_of_one_name_are_both_taken_and_any_is_left_out_again(browser, link, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").write_bytes(folder.encode() * 9)
    seat = Seat(browser, link())
    page = seat.page
    page.locator("#new summary").click()
    for folder in ("one", "two", "two"):
        page.set_input_files("#files", tmp_path / folder / "a.jpg")
    page.get_by_text("there", exact=True).nth(1).wait_for(timeout=1000 * patience(20))
    names = page.locator("#uploads li > span:first-child")
    assert names.all_inner_texts() == ["a.jpg", "a (2).jpg"]
    page.get_by_role("button", name="Leave out a.jpg").click()
    assert names.all_inner_texts() == ["a (2).jpg"]
    leaving = "dispatchEvent(new Event('beforeunload', {cancelable: true}))"  # false: the browser asks first
    assert page.evaluate(leaving) is False
    page.get_by_role("button", name="Leave out a (2).jpg").click()
    assert page.evaluate(leaving) is True
    assert seat.faults == []
    seat.close()


@THOROUGH
def test_gallery_image_and_export_by_keyboard_alone(browser, link, uploaded):
    seat = Seat(browser, link())
    page = seat.go("/gallery?batch=golden")
    page.wait_for_selector(".cell img[src]")
    page.keyboard.press("/")
    page.keyboard.type("outcome:done AND NOT probability:[2 TO")
    page.keyboard.press("Enter")
    page.get_by_text("ends too early").wait_for()
    seat.faults.clear()  # the browser says that it was refused
    page.fill("#q", "")
    page.keyboard.type("outcome:done")
    page.keyboard.press("Enter")
    seat.until("!document.querySelector('#wrong').textContent && location.search.includes('outcome')")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Shift+ArrowRight")
    page.get_by_text("2 selected", exact=True).wait_for()
    page.keyboard.press("3")
    page.get_by_text("2 tagged 3").wait_for()
    page.keyboard.press("v")
    assert "tile=1" in page.url
    page.keyboard.press("Enter")
    seat.until("window.viewer?.bases?.size > 0 && viewer.idle")
    for key, expected in (("o", "base=purified"), ("l", "layers=none"), ("+", "z="), ("c", "other=")):
        page.keyboard.press(key)
        seat.until(f"location.search.includes('{expected}')")
    kept = page.url
    page.reload()
    seat.until("window.viewer?.other && viewer.base === 'purified' && viewer.bare !== null")
    assert page.url.partition("?")[0] == kept.partition("?")[0]
    page.keyboard.press("k")
    page.wait_for_url(re.compile(r"/image/golden/\d+"))
    page.keyboard.press("Escape")
    page.wait_for_url(re.compile("/gallery"))
    page.wait_for_selector(".cell .tag")
    page.keyboard.press("?")
    page.get_by_role("heading", name="Keys").wait_for()
    page.keyboard.press("Escape")
    page.locator("#export summary").focus()
    page.keyboard.press("Enter")
    with page.expect_download() as download:
        page.get_by_text("COCO").focus()
        page.keyboard.press("Enter")
    exported = json.loads(Path(download.value.path()).read_text())
    assert exported["annotations"]
    assert all(one["segmentation"]["counts"] for one in exported["annotations"])
    assert seat.faults == []
    seat.close()


def test_pages_keep_wcag_22_aa_and_fit_a_phone(browser, link, uploaded, tmp_path):
    """All pages at one size and scheme each; ``make desk-check`` has all combinations."""
    thorough = bool(os.environ.get("DESK_CHECK"))
    folder = Path(os.environ.get("DESK_PICTURES", tmp_path))
    folder.mkdir(exist_ok=True, parents=True)
    sizes = [(size, scheme) for size in (PHONE, LAPTOP) for scheme in ("light", "dark")]
    for size, scheme in sizes if thorough else (sizes[1], sizes[2]):
        seat = Seat(browser, link(), size, scheme)
        rows = seat.context.request.get(f"{seat.base}/v1/results?batch=golden").json()["results"]
        failed, dicom = (
            next(row["index"] for row in rows if row["name"].endswith(end)) for end in ("no picture.jpg", ".dcm")
        )
        for name, path in (
            ("batches", "/batches"),
            ("gallery", "/gallery?batch=golden"),
            ("image", f"/image/golden/{dicom}"),
            ("failed", f"/image/golden/{failed}"),
            ("report", f"/image/golden/{dicom}/report"),
            ("models", "/models"),
            ("usage", "/usage"),
            ("enter", "/enter"),
        ):
            page = seat.go(path)
            if name == "gallery":
                page.wait_for_selector(".cell img[src]")
            if name == "image":
                seat.until("window.viewer?.bases?.size > 0 && viewer.idle")
            if name == "batches":
                page.locator("#new summary").click()
            seat.judge(folder / f"{name}-{size[0]}-{scheme}.png")
        assert seat.faults == []
        seat.close()


@THOROUGH
def test_a_replica_that_is_killed_in_mid_view_loses_nothing(browser, link, uploaded, stack):
    import psutil

    from orchestrator.stack import host

    seat = Seat(browser, link())
    page = seat.go("/gallery?batch=golden&q=outcome:done")
    page.wait_for_selector(".cell img[src]")
    psutil.Process(host.running(stack).parts["desk"].program_pid).kill()
    page.keyboard.press("1")
    page.get_by_text("does not answer").wait_for()
    for _ in range(200):
        page.keyboard.press("2")
        if page.get_by_text("1 tagged 2").count() or page.get_by_text("Tag 2 taken").count():
            break
        page.wait_for_timeout(300)
    page.reload()
    page.wait_for_selector(".cell img[src]")
    assert page.locator("#found").inner_text().startswith(str(len(page.query_selector_all(".cell"))))
    seat.close()


@THOROUGH
def test_deep_zoom_of_a_large_picture_and_its_memory(browser, link, stack, tmp_path):
    """6,000 x 4,000 pixels: the first look, and native pixels."""
    large = np.random.default_rng(1).integers(0, 256, (400, 600, 3), np.uint8)
    large = cv2.resize(large, (6000, 4000), interpolation=cv2.INTER_CUBIC)
    (tmp_path / "large").mkdir()
    body = io.BytesIO()
    Image.fromarray(large).save(body, "JPEG", quality=92)
    (tmp_path / "large" / "large.jpg").write_bytes(body.getvalue())
    assert dermbatch("submit", tmp_path / "large", "--home", stack, "--batch", "large").code == 0
    assert dermbatch("status", "large", "--home", stack, "--watch").code == 0
    seat = Seat(browser, link())
    page = seat.go("/image/large/0")
    seat.until("window.viewer?.bases?.size > 0 && viewer.idle")
    wanted = read_image(body.getvalue(), max_pixels=10**8).pixels
    page.evaluate("viewer.bare = true; viewer.look({x: 3000, y: 2000, zoom: 1})")
    seat.until("viewer.idle && ![...viewer.tiles.values()].includes('loading')")
    page.wait_for_timeout(200)
    pixel = page.evaluate(
        "Array.from(viewer.context.getImageData(viewer.canvas.width >> 1, viewer.canvas.height >> 1, 1, 1).data)"
    )
    assert pixel[:3] in wanted[1998:2003, 2998:3003].reshape(-1, 3).tolist()
    seat.close()
