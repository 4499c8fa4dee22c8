"""Pages that show images arriving in a real Glance."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from publisher.devcloud.cloud import DevCloud
from tests.browser.conftest import WAIT_MILLISECONDS, LookAt, Site
from tests.clouds import Glance, publish_body
from tests.proxy import Proxy
from tests.records import sign_out
from tests.stack import Stack, until

pytestmark = pytest.mark.real

MIB = 1 << 20
URI = "users/root/appliances/4/images/7"

expect.set_options(timeout=WAIT_MILLISECONDS)


@pytest.fixture(scope="module", autouse=True)
def image(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("images") / "large.raw"
    with file.open("wb") as into:
        for _ in range(32):
            into.write(os.urandom(MIB))
    stack.add_image(Path(file), id=7, name="large")


def stay(page: Page) -> None:
    """Mark the page, so that a reload can be noticed."""
    page.evaluate("window.stayed = true")


def stayed(page: Page) -> bool:
    return bool(page.evaluate("window.stayed === true"))


def far(page: Page) -> int:
    return int(page.locator("progress").first.get_attribute("value") or 0)


def test_a_ticket_is_watched_cancelled_and_retried(
    page: Page, site: Site, stack: Stack, devcloud: DevCloud, look_at: LookAt
) -> None:
    page.get_by_text("Publish your first image in three steps").wait_for()
    look_at(page)
    glance = Glance(devcloud)
    with Proxy(devcloud.glance_url, bytes_per_second=2 * MIB) as slow:
        ticket = stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url, displayName="The first"))
        page.goto(f"{site.url}/publications")
        stay(page)
        row = page.get_by_role("row", name="The first")
        expect(row.get_by_text("Uploading")).to_be_visible()
        seen = far(page)
        until(lambda: far(page) > seen, 20)
        seen = far(page)
        until(lambda: far(page) > seen, 20)
        expect(page.get_by_text("Live", exact=True)).to_be_visible()

        # Another publication appears above the first one.
        stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url, displayName="The second"))
        expect(page.locator("tbody tr").first).to_contain_text("The second")
        assert stayed(page)
        look_at(page)

        row.get_by_role("link", name="The first").click()
        page.wait_for_url("**/publications/1")
        stay(page)
        expect(page.get_by_text("Claimed by")).to_be_visible()
        seen = far(page)
        until(lambda: far(page) > seen, 20)

        page.get_by_role("link", name="Cancel…").click()
        expect(page.get_by_text("what was uploaded is deleted from the cloud")).to_be_visible()
        page.get_by_role("button", name="Cancel ticket").click()
        expect(page.get_by_text("what was uploaded is being deleted")).to_be_visible()
        expect(page.locator("#summary .state")).to_have_text("cancelled")
        expect(page.locator("#timeline")).to_contain_text("nothing is left in the cloud")
        assert glance.images(ticket) == []

        slow.bytes_per_second = None
        page.get_by_role("link", name="Retry…").click()
        page.get_by_role("button", name="Retry ticket").click()
        stay(page)
        expect(page.locator("#summary .state")).to_have_text("published")
        assert stayed(page)
        (arrived,) = glance.images(ticket)
        expect(page.locator("#cloud")).to_contain_text(arrived["id"])
        for words in ("Cancel requested", "Queued again at its owner's request", "Uploading", "Published"):
            expect(page.locator("#timeline")).to_contain_text(words)
        expect(page.get_by_role("link", name="Delete…")).to_be_visible()
        look_at(page)


def test_the_focus_stays_while_the_page_changes(page: Page, site: Site, stack: Stack, devcloud: DevCloud) -> None:
    with Proxy(devcloud.glance_url, bytes_per_second=2 * MIB) as slow:
        stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url, displayName="Watched"))
        page.goto(f"{site.url}/publications?q=Watched")
        page.get_by_role("link", name="Watched").focus()
        seen = far(page)
        until(lambda: far(page) > seen, 20)
        assert page.evaluate("document.activeElement.textContent") == "Watched"
        page.keyboard.press("Enter")
        page.wait_for_url("**/publications/*")
        page.get_by_role("link", name="Cancel…").press("Enter")
        page.get_by_role("button", name="Cancel ticket").press("Enter")
        expect(page.locator("#summary .state")).to_have_text("cancelled")


def test_updates_end_after_signing_out_elsewhere(page: Page, site: Site, stack: Stack, devcloud: DevCloud) -> None:
    ticket = stack.publish(publish_body(devcloud, URI))
    page.goto(f"{site.url}/publications/{ticket['dbId']}")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    sign_out(stack.store, "root")
    page.wait_for_url("**/sign-in?*")
    site.sign_in(page)
