from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from commands import dermbatch, failures, results

from dermbatch.stages import ORDER, Stage
from tests.corpus import write_corpus, write_unreadable
from tests.needed import program


@pytest.fixture(scope="module")
def ran(samples, tmp_path_factory):
    """The main job on sample images: the folder with the results, and how the command ended."""
    folder = tmp_path_factory.mktemp("run") / "out"
    before = {process.pid for process in psutil.process_iter()}
    ended = dermbatch("run", samples, "--out", folder, "--batch", "first")
    left = [
        p
        for p in psutil.process_iter(["cmdline"])
        if p.pid not in before and str(folder) in str(p.info["cmdline"])
    ]
    return folder, ended, left


def test_all_is_well_and_says_so(ran, samples):
    folder, ended, left = ran
    assert ended.code == 0, ended.err
    assert len(results(folder)) == len(list(samples.iterdir())) == 8
    assert failures(folder) == {}
    assert left == []
    for expected in ("results", "images/s", "segment, mean", str(folder / "report.html")):
        assert expected in ended.out


def test_the_folder_has_the_documented_layout_and_nothing_else(ran):
    folder, _, _ = ran
    assert {path.name for path in folder.iterdir()} == {"images", "batches", "report.html", ".dermbatch"}
    batch = folder / "batches" / "first"
    assert {path.name for path in batch.iterdir()} == {
        "batch.json",
        "manifest",
        "plan.json",
        "report.html",
        "report.sig.json",
        "results",
        "results.parquet",
        "summary.json",
    }
    assert (folder / "report.html").read_bytes() == (batch / "report.html").read_bytes()
    assert list(folder.glob("images/**/*.meta.json")) == []
    for record in results(folder).values():
        assert set(record.stages) == set(ORDER)
        for stage in record.stages.values():
            assert all((folder / key).is_file() for key in stage.artifacts.values())
            assert (folder / f"images/{record.source.sha256}/{stage.stage}/{stage.key}/stage.json").is_file()


def test_masks_lie_on_the_lesions_at_the_images_own_size(ran, truth):
    folder, _, _ = ran
    overlaps = []
    for name, record in results(folder).items():
        mask = cv2.imread(str(folder / record.stages[Stage.SEGMENT].artifacts["mask.png"]), cv2.IMREAD_UNCHANGED)
        true = cv2.imread(str(truth / f"{Path(name).stem}_lesion.png"), cv2.IMREAD_GRAYSCALE) > 0
        assert mask.shape == true.shape == (record.source.height, record.source.width)
        assert set(np.unique(mask)) <= {0, 255}
        overlaps.append((true & (mask > 0)).sum() / (true | (mask > 0)).sum())
    assert np.mean(overlaps) > 0.6


def test_a_record_tells_where_everything_comes_from(ran, samples):
    folder, _, _ = ran
    for record in results(folder).values():
        assert record.attempt == 1
        assert record.source.uri == (samples / Path(record.name).name).resolve().as_uri()
        assert all(len(stage.model.sha256) == 64 for stage in record.stages.values())
        assert abs(sum(record.stages[Stage.CLASSIFY].output.probabilities.values()) - 1) < 1e-3
        assert set(ORDER) <= set(record.seconds)
        assert record.finished > record.started
    dicom = next(record for name, record in results(folder).items() if name.endswith(".dcm"))
    assert dicom.source.media_type == "application/dicom"
    assert dicom.stages[Stage.SEGMENT].output.lesion.area_mm2 > 0


def test_a_second_run_computes_nothing_again(ran, samples, tmp_path):
    folder, _, _ = ran
    ended = dermbatch("run", samples, "--out", folder, "--batch", "second")
    assert ended.code == 0, ended.err
    second = [record for record in results(folder).values() if record.batch == "second"]
    assert len(second) == 8
    assert all(set(record.cached) == set(ORDER) for record in second)
    taken = dermbatch("run", samples, "--out", folder, "--batch", "second")
    assert taken.code == 2
    assert "already" in taken.err


def test_a_stage_alone_brings_what_it_needs(samples, tmp_path):
    image = sorted(samples.iterdir())[0]
    ended = dermbatch("run", image, "--out", tmp_path / "out", "--stages", "enhance", "--workers", "1")
    assert ended.code == 0, ended.err
    (record,) = results(tmp_path / "out").values()
    assert list(record.stages) == [Stage.SEGMENT, Stage.ENHANCE]


def test_every_bad_input_gets_its_reason_and_the_rest_its_result(small_models, tmp_path):
    corpus = tmp_path / "an odd' \"näme"
    expected = write_corpus(corpus) | write_unreadable(corpus)
    ended = dermbatch("run", corpus, "--out", tmp_path / "out", "--model-repository", small_models)
    assert ended.code == 1
    got = {name.removeprefix(f"{corpus.name}/"): "ok" for name in results(tmp_path / "out")}
    assert set(got) & set(failures(tmp_path / "out")) == set()
    got |= {n.removeprefix(f"{corpus.name}/"): f.reason for n, f in failures(tmp_path / "out").items()}
    assert got == expected
    for failure in failures(tmp_path / "out").values():
        assert failure.message
        assert failure.reason in ended.out
    report = (tmp_path / "out" / "report.html").read_text()
    assert all(failure.reason in report for failure in failures(tmp_path / "out").values())


def test_wrong_commands_end_with_code_2_and_one_sentence(samples, tmp_path):
    image = sorted(samples.iterdir())[0]
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for args, sentence in (
        ((image,), "--out"),
        ((tmp_path / "nothing", "--out", tmp_path / "o"), "no such file or folder"),
        ((image, "--out", tmp_path / "o", "--stages", "polish"), "no such stage"),
        ((image, "--out", tmp_path / "o", "--stages", ","), "no stage"),
        ((image, "--out", tmp_path / "o", "--model", "segment"), "STAGE=NAME"),
        ((image, "--out", tmp_path / "o", "--model", "segment=nope"), "no model 'nope'"),
        ((image, "--out", tmp_path / "o", "--model", "segment=segment_lite@99"), "not '99'"),
        ((image, "--out", tmp_path / "o", "--batch", "../up"), "batch name"),
        ((image, "--out", tmp_path / "file"), "cannot be created"),
        ((image, "--out", tmp_path / "o", "--model-repository", tmp_path / "no"), "no model repository"),
    ):
        ended = dermbatch("run", *args)
        assert ended.code == 2, (args, ended)
        assert sentence in ended.err
        assert "Traceback" not in ended.err
    assert not (tmp_path / "o" / ".dermbatch" / "s3").exists()


def test_a_folder_without_images_is_a_usage_error_after_a_clean_end(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("x")
    ended = dermbatch("run", tmp_path / "in", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "no image among the inputs" in ended.err


def test_the_report_opens_in_a_browser_without_a_network(ran, tmp_path):
    from playwright.sync_api import sync_playwright

    browser = program("chromium", "chromium")
    folder, _, _ = ran
    wanted = []
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page()
        page.on("request", lambda request: wanted.append(request.url))
        page.on("pageerror", lambda error: pytest.fail(str(error)))
        page.goto((folder / "report.html").as_uri())
        assert page.locator("article:visible").count() == 8
        page.fill("#search", "phantom_0003")
        assert page.locator("article:visible").count() == 1
        # The page's own policy forbids the test's questions too; and tiles below the fold load when asked for.
        page = chromium.new_context(bypass_csp=True).new_page()
        page.goto((folder / "report.html").as_uri())
        page.wait_for_function(
            "[...document.images].every(i => (i.loading = 'eager', i.complete && i.naturalWidth === 896))"
        )
        assert page.locator("article img").count() == 8
        chromium.close()
    assert [url for url in wanted if not url.startswith(("file:", "data:"))] == []
