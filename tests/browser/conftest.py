"""A real Chromium in front of a real intake.

`page` is a page of a signed-in user, and `look_at` checks a page for accessibility.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from tests.servers import missing
from tests.servers.redis import RedisServer
from tests.stack import PASSWORD, Stack

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
DESK, PHONE = {"width": 1360, "height": 860}, {"width": 360, "height": 740}
WAIT_MILLISECONDS = 20_000


def executable() -> str | None:
    """Return the path of the installed Chromium."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Run Chromium for one module. While it runs, the tests' thread cannot use asyncio."""
    path = executable()
    if path is None:
        missing("Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Site:
    """The console of a stack, as a browser sees it."""

    browser: Browser
    stack: Stack
    problems: list[str]
    """Complaints of browsers: failed scripts, and what the page's policy forbids."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.stack.settings.intake_port}/console"

    def open(self, **options: Any) -> Page:
        """Open a page in a new browser context, not signed in. `options` are those of Playwright's `new_context`."""
        context: BrowserContext = self.browser.new_context(**({"viewport": DESK} | options))
        context.set_default_timeout(WAIT_MILLISECONDS)
        page = context.new_page()
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._note)
        return page

    def sign_in(self, page: Page, login: str = "root", password: str = PASSWORD) -> Page:
        page.goto(f"{self.url}/sign-in")
        page.get_by_label("Login").fill(login)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{self.url}/publications")
        return page

    def _note(self, message: ConsoleMessage) -> None:
        # An answer with 404 is not a fault of the page.
        if message.type in ("error", "warning") and "the server responded with a status of 4" not in message.text:
            self.problems.append(message.text)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[Stack]:
    """Run the stack that the tests of a module share. A module can override it with a fixture of this name."""
    with Stack.in_directory(tmp_path_factory.mktemp("browser") / "data", redis.url) as running:
        yield running


@pytest.fixture
def site(chromium: Browser, stack: Stack) -> Iterator[Site]:
    """Yield the console, and check at the end that no page has complained."""
    made = Site(chromium, stack, [])
    yield made
    for context in chromium.contexts:
        context.close()
    assert made.problems == []


@pytest.fixture
def page(site: Site) -> Page:
    """Return a page of a signed-in administrator."""
    return site.sign_in(site.open())


LookAt = Callable[[Page], None]


@pytest.fixture(scope="session")
def look_at() -> LookAt:
    """Return a function that checks a page for accessibility with axe-core."""
    axe = Axe()

    def check(page: Page) -> None:
        results = axe.run(page)
        assert results.violations_count == 0, f"{page.url}\n{results.generate_report()}"

    return check
