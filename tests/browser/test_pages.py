"""Every page works with a screen reader, without a mouse, on a phone, and in the dark theme."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.conftest import PHONE, LookAt, Site
from tests.browser.pages import PAGES, fill
from tests.servers.redis import RedisServer
from tests.stack import Stack

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[Stack]:
    """Return a site without workers, so that nothing changes."""
    with Stack.in_directory(tmp_path_factory.mktemp("pages") / "data", redis.url, workers=0) as running:
        fill(running.store)
        yield running


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible(site: Site, look_at: LookAt, scheme: str) -> None:
    page = site.open(color_scheme=scheme)
    page.goto(f"{site.url}/sign-in")
    look_at(page)
    site.sign_in(page)
    for path in PAGES:
        page.goto(site.url + path)
        look_at(page)


def test_no_page_is_wider_than_a_phone(site: Site, look_at: LookAt) -> None:
    page = site.sign_in(site.open(viewport=PHONE, has_touch=True))
    for path in PAGES:
        page.goto(site.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
        look_at(page)
    assert not page.get_by_role("link", name="Flower").is_visible()
    page.locator("summary", has_text="Menu").click()
    assert page.get_by_role("link", name="Flower").is_visible()
    look_at(page)


_FOCUS = "document.activeElement.closest('a, button, input, select, textarea, summary, [tabindex]')?.number"
_NUMBER = """() => {
    const all = [...document.querySelectorAll('a[href], button, input, select, textarea, summary')];
    const shown = all.filter((each) => each.checkVisibility({visibilityProperty: true}) && each.type !== 'hidden');
    shown.forEach((each, number) => (each.number = number));
    return shown.length;
}"""


def test_every_control_can_be_reached_by_keyboard(site: Site) -> None:
    page = site.sign_in(site.open())
    for path in PAGES:
        page.goto(site.url + path)
        count = page.evaluate(_NUMBER)
        reached = set()
        for _ in range(count + 2):
            page.keyboard.press("Tab")
            reached.add(page.evaluate(_FOCUS))
        assert set(range(count)) <= reached, path


def test_the_content_can_be_skipped_to(site: Site) -> None:
    page = site.sign_in(site.open())
    page.goto(f"{site.url}/publications")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_the_theme_can_be_chosen_and_is_kept(site: Site) -> None:
    page = site.sign_in(site.open(color_scheme="light"))
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Theme").click()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark
    page.get_by_role("button", name="Theme").click()
    assert page.evaluate(ground) == light


def test_everything_works_without_scripts(site: Site) -> None:
    page = site.sign_in(site.open(java_script_enabled=False))
    page.get_by_label("Search by name or number").fill("payments")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("link", name="payments-api").click()
    page.get_by_role("link", name="Retry…").click()
    page.get_by_text("The ticket is queued again").wait_for()
    page.get_by_role("button", name="Retry ticket").click()
    page.get_by_text("Ticket queued again.").wait_for()
    page.get_by_role("link", name="Cancel…").click()
    page.get_by_role("button", name="Cancel ticket").click()
    page.get_by_text("Ticket cancelled.").wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_text("You are signed out.").wait_for()
