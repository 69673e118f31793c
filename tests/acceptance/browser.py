"""A real browser, and a judge of accessibility."""

import time
from contextlib import contextmanager

from tests.needed import program
from tests.waiting import patience

LAPTOP, PHONE = (1366, 800), (390, 844)
RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}


@contextmanager
def chromium():
    """Debian's Chromium; skips where there is none, and fails in CI."""
    from playwright.sync_api import sync_playwright

    path = program("chromium", "chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Seat:
    """A person's browser window; what goes wrong in its pages is kept in ``faults``."""

    def __init__(self, browser, link, size=LAPTOP, scheme="light"):
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, accept_downloads=True
        )
        self.page = self.context.new_page()
        self.faults = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.faults.append(message.text))
        self.base = link.partition("/enter")[0]
        self.page.goto(link)

    def go(self, path):
        self.page.goto(self.base + path)
        return self.page

    def until(self, condition, seconds=20):
        """Wait until an expression holds in the page; Playwright's own way needs what the policy forbids."""
        ends = time.monotonic() + patience(seconds)
        while not self._holds(condition):
            assert time.monotonic() < ends, f"{condition}: {self.faults}, {self.page.url}"
            self.page.wait_for_timeout(40)

    def _holds(self, condition):
        try:
            return self.page.evaluate(f"() => Boolean({condition})")
        except Exception as error:
            if "context was destroyed" not in str(error):
                raise
            return False  # it goes to another page just now

    def judged(self):
        """Violations of WCAG 2.2 AA of the page as it is."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page, options=RULES).response["violations"]
        return [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found]

    def overflow(self):
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")

    def judge(self, picture):
        """Keep a picture of the page in a file; the page has to keep WCAG and to fit the window."""
        self.page.wait_for_timeout(150)
        self.page.screenshot(path=picture)
        assert self.judged() == [], picture.stem
        assert self.overflow() <= 0, picture.stem

    def close(self):
        self.context.close()
