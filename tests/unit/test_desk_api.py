"""Cursors, ranges, names of uploads, and pyramids of pictures: what needs no server."""

import asyncio

import cv2
import httpx
import numpy as np
import pytest
from fastapi import FastAPI, Request

from desk import problems
from desk.api.answers import cursor_of, next_link, ranged, read_cursor
from desk.api.uploads import clean
from desk.pages import pages
from desk.pictures.layers import files_of, layers_of, made, outline
from desk.pictures.pyramid import TILE, build, opened
from desk.problems import Problem
from tests.outcome_samples import mask_png


def test_a_cursor_leads_on_only_in_its_own_question():
    cursor = cursor_of("question", (2, 17))
    assert read_cursor(cursor, "question") == (2, 17)
    with pytest.raises(Problem) as caught:
        read_cursor(cursor, "another")
    assert (caught.value.status, caught.value.reason) == (400, "other_cursor")
    for nonsense in ("", "x", "%%%", cursor[:-3], "bnVsbA"):
        with pytest.raises(Problem) as caught:
            read_cursor(nonsense, "question")
        assert caught.value.status == 400


@pytest.fixture(scope="module")
def server():
    """Ten bytes by ranges, and errors."""
    app = FastAPI()
    problems.install(app, pages.wrong)

    @app.get("/ten")
    def ten(request: Request):
        return ranged(request, "tag", b"0123456789", "text/plain")

    @app.get("/number")
    def number(n: int, request: Request):
        return {"next": next_link(request, "c")}

    class Server:
        def get(self, path, **more):
            return asyncio.run(_get(app, path, **more))

    return Server()


async def _get(app, path, **more):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        return await client.get(path, **more)


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=2-4", 206, "234"),
        ("bytes=7-", 206, "789"),
        ("bytes=-2", 206, "89"),
        ("bytes=8-99", 206, "89"),
        ("bytes=0-1,3-4", 200, "0123456789"),
        ("lines=1-2", 200, "0123456789"),
    ],
)
def test_files_are_given_by_ranges(server, asked, status, body):
    answer = server.get("/ten", headers={"range": asked})
    assert (answer.status_code, answer.text) == (status, body)
    assert answer.headers["accept-ranges"] == "bytes"


def test_ranges_that_cannot_be_and_files_that_are_known(server):
    for asked in ("bytes=10-", "bytes=5-2", "bytes=x-"):
        answer = server.get("/ten", headers={"range": asked})
        assert answer.status_code == 416
        assert answer.headers["content-range"] == "bytes */10"
    assert server.get("/ten", headers={"if-none-match": '"tag"'}).status_code == 304
    assert server.get("/ten", headers={"range": "bytes=1-1", "if-range": '"old"'}).status_code == 200


def test_a_bad_parameter_is_400_with_its_place(server):
    answer = server.get("/number?n=x")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["at"] == {"in": "query", "parameter": "n"}
    assert server.get("/nothing").json()["status"] == 404
    assert server.get("/number?n=1&cursor=old").json()["next"] == "/number?n=1&cursor=c"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a.jpg", "a.jpg"),
        ("../../etc/passwd", "etc/passwd"),
        ("C:\\scans\\a.jpg", "C:/scans/a.jpg"),
        ("/абв/皮膚.png", "абв/皮膚.png"),
        ("x\u202egpj.exe", "x_gpj.exe"),
        ("a\0b\n.png", "a_b_.png"),
        ("e\u0301.jpg", "é.jpg"),
        ("کتاب\u200cها/क्\u200dष.jpg", "کتاب\u200cها/क्\u200dष.jpg"),
    ],
)
def test_names_of_uploads_lead_nowhere_else(given, kept):
    assert clean(given) == kept


def test_names_that_are_none_are_refused():
    for name in ("..", "/", "", "x" * 800):
        with pytest.raises(Problem, match="a file's path"):
            clean(name)


def test_tiles_of_the_own_size_are_the_pixels_and_smaller_levels_cover_the_picture(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (700, 1301, 3), np.uint8)
    build(pixels, tmp_path)
    pyramid = opened(tmp_path)
    assert pyramid.sizes == ((700, 1301), (350, 651), (175, 326))
    for row, column in ((0, 0), (1, 2)):
        body, media_type = pyramid.tile(0, row, column)
        assert media_type == "image/png"
        shown = cv2.cvtColor(cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        cut = pixels[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        assert np.array_equal(shown, cut)
    for level, row, column in ((3, 0, 0), (0, 2, 0), (0, 0, 3), (-1, 0, 0)):
        with pytest.raises(Problem) as caught:
            pyramid.tile(level, row, column)
        assert caught.value.status == 404


def test_a_pyramid_that_is_not_whole_is_none(tmp_path):
    assert opened(tmp_path) is None
    (tmp_path / "levels.json").write_text("[[")
    assert opened(tmp_path) is None


def test_occlusions_are_where_the_purified_picture_differs():
    original = np.full((40, 50, 3), 90, np.uint8)
    purified = original.copy()
    purified[5:9, 10:20] = 91
    files = {
        name: cv2.imencode(".png", picture)[1].tobytes()
        for name, picture in (("source", original), ("purified.png", purified))
    }
    shown = made("occlusions", files, None, 10_000)
    assert shown.shape == (40, 50, 4)
    assert np.array_equal(shown[..., 3] > 0, (original != purified).any(axis=2))


def test_whatever_picture_a_stage_keeps_is_a_layer():
    there = {
        "source",
        "purified.png",
        "mask.png",
        "saliency.png",
        "embedding.npy",
        "visualbackprop.png",
        "border.png",
    }
    found = layers_of(there)
    assert found == ["original", "purified", "occlusions", "saliency", "border", "visualbackprop"]
    assert files_of("border") == ("border.png",)
    values = np.zeros((20, 30), np.uint8)
    values[5:9] = 200
    heat = made("border", {"border.png": cv2.imencode(".png", values)[1].tobytes()}, None, 10_000)
    assert np.array_equal(heat[..., 3] > 0, values > 0)
    colours = np.dstack([values, values // 2, values // 4])
    shown = made("border", {"border.png": cv2.imencode(".png", colours)[1].tobytes()}, None, 10_000)
    assert np.array_equal(shown, colours[..., ::-1])


def test_an_outline_goes_round_the_mask():
    (line,) = outline(mask_png(12))
    xs, ys = zip(*line, strict=True)
    assert (min(xs), max(xs), min(ys), max(ys)) == (20, 44, 20, 44)
    assert outline(mask_png(0)) == []
