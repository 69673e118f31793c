"""The report in a real browser: all results in pages, an address that restores them, and on paper."""

import re

import pytest
from browser import PHONE, RULES, chromium

from dermbatch.records.row import row_of, sent
from orchestrator.batches.summary import Tally
from orchestrator.reporting.report import SHOWN, Report
from orchestrator.reporting.table.columns import rows_of
from tests.outcome_samples import batch_of, picture, result_of


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def written(folder, images, *, pictured=True, names=()):
    """The report of so many images, every seventh flagged."""
    records = [
        result_of(
            "b",
            i,
            preview=picture(i) if pictured else b"",
            probabilities=(i / images, 1 - i / images, 0),
            flags=() if i % 7 else ("touches_frame",),
        )
        for i in range(images)
    ]
    for index, name in enumerate(names):
        records[index] = records[index].model_copy(update={"name": name})
    report, tally = Report(batch_of("b", images)), Tally()
    rows = rows_of([sent(row_of(record)) for record in records])
    report.add(rows)
    tally.add(rows)
    path = folder / f"{images}.html"
    path.write_bytes(report.html(tally, "finished", {index: records[index] for index in report.wanted}))
    return path.as_uri()


def test_all_results_are_there_in_pages_that_an_address_restores(browser, tmp_path):
    images = SHOWN + 400
    page = browser.new_page()
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    address = written(tmp_path, images, pictured=False)
    page.goto(address)
    assert page.locator("article").count() == 60
    assert page.locator("#where").inner_text().endswith(f"1 to 60 of {images}")
    page.select_option("#sort", "-melanoma")
    assert page.locator("article").first.get_attribute("id") == f"image-{images - 1}"
    page.get_by_role("button", name="Next").click()
    assert page.locator("article").first.get_attribute("id") == f"image-{images - 61}"
    kept = page.url
    assert "page=2" in kept
    again = browser.new_page()
    again.goto(kept)
    assert again.locator("article").first.get_attribute("id") == f"image-{images - 61}"
    again.select_option("#pick", "touches_frame")
    assert again.locator("#where").inner_text().endswith(f"of {images // 7}")
    again.fill("#search", "nothing like this")
    again.get_by_text("Nothing is like this").wait_for()
    again.goto(f"{address}#image-650")
    assert again.locator("#image-650").is_visible()


def test_names_of_every_direction_stay_by_themselves_and_a_phone_keeps_wcag(browser, tmp_path):
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport={"width": PHONE[0], "height": PHONE[1]})
    page.goto(written(tmp_path, 8, names=["שומה.jpg", "a\u202egpj.exe"]))
    for index, name in enumerate(("שומה.jpg", "a\u202egpj.exe")):
        title = page.locator(f"#image-{index} h3")
        assert title.locator("bdi").inner_text() == name
    assert title.locator("bdi").evaluate("(one) => getComputedStyle(one).unicodeBidi") == "isolate"
    found = Axe().run(page, options=RULES).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_sixty_images_are_printed_on_at_most_twelve_pages(browser, tmp_path):
    page = browser.new_page()
    page.goto(written(tmp_path, 60))
    paper = page.pdf(format="A4")
    assert 6 < len(re.findall(rb"/Type\s*/Page\b", paper)) <= 12
