"""Forms in a real browser, and the way of a new user from an empty installation to an image in a real Glance."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from publisher.devcloud.cloud import DevCloud
from publisher.store.fleet import Member
from tests import disks
from tests.browser.conftest import WAIT_MILLISECONDS, LookAt, Site
from tests.clouds import Glance
from tests.proxy import Proxy
from tests.stack import PASSWORD, Stack, until

pytestmark = pytest.mark.real

MIB = 1 << 20

expect.set_options(timeout=WAIT_MILLISECONDS)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("disks") / "my first.raw"
    file.write_bytes(disks.raw(os.urandom(8 * MIB)))
    return file


@pytest.fixture
def image(stack: Stack, disk: Path) -> None:
    """Add an image. The test that begins without one must run before."""
    stack.add_image(disk)


@pytest.fixture
def slowly(stack: Stack) -> Iterator[Proxy]:
    """Return a slow proxy to the intake. It is requested before the browser, so it ends after it."""
    with Proxy(f"http://127.0.0.1:{stack.settings.intake_port}") as proxy:
        yield proxy


def value(page: Page) -> float:
    return float(page.get_by_label("Uploaded").get_attribute("value") or 0)


def sign_in_by(proxy: Proxy, page: Page) -> None:
    page.goto(f"{proxy.url}/console/sign-in")
    page.get_by_label("Login").fill("root")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/publications")


def test_a_new_user_publishes_a_first_image(
    slowly: Proxy, site: Site, devcloud: DevCloud, disk: Path, look_at: LookAt
) -> None:
    page = site.open()
    sign_in_by(slowly, page)
    expect(page.get_by_text("Publish your first image in three steps")).to_be_visible()
    look_at(page)

    page.get_by_role("link", name="Add account").click()
    page.get_by_label("Name", exact=True).fill("the lab")
    page.get_by_label("Keystone URL").fill(devcloud.keystone_url)
    page.get_by_label("Login optional", exact=True).fill("uploader")
    page.get_by_label("Password optional", exact=True).fill(devcloud.password("uploader"))
    page.get_by_role("button", name="Add account").click()
    expect(page.get_by_text("Account the lab added.")).to_be_visible()
    assert devcloud.password("uploader") not in page.content()

    page.get_by_role("link", name="Tickets", exact=True).click()
    expect(page.get_by_role("heading", name=re.compile("Cloud account .* done"))).to_be_visible()
    page.get_by_role("link", name="Add image").click()
    page.get_by_label("File", exact=True).set_input_files(disk)
    slowly.bytes_per_second = 2 * MIB
    page.get_by_role("button", name="Upload").click()
    until(lambda: 0 < value(page) < 8 * MIB, 20, every=0.02)
    seen = value(page)
    until(lambda: value(page) > seen, 20)
    expect(page.get_by_text(re.compile(r"of 8\.0 MiB, .* left"))).to_be_visible()
    look_at(page)
    slowly.bytes_per_second = None
    page.wait_for_url("**/images/1")
    expect(page.get_by_role("heading", name="my first", exact=True)).to_be_visible()
    look_at(page)

    page.get_by_role("link", name="Publish", exact=True).click()
    expect(page.get_by_label("Image", exact=True)).to_have_value("1")
    page.get_by_label("Display name").fill("My first image")
    project = devcloud.env("uploader")
    page.get_by_label("Keystone domain").fill(project["OS_PROJECT_DOMAIN_NAME"])
    page.get_by_label("Keystone project").fill(project["OS_PROJECT_NAME"])
    page.get_by_role("button", name="Publish").click()
    page.wait_for_url("**/publications/1")
    expect(page.locator("#summary .state")).to_have_text("published")
    (arrived,) = [each for each in Glance(devcloud).images() if each["name"] == "My first image"]
    assert Glance(devcloud).data(arrived["id"]) == disk.read_bytes()
    look_at(page)


def test_a_cancelled_upload_leaves_nothing(slowly: Proxy, site: Site, stack: Stack, disk: Path) -> None:
    page = site.open()
    sign_in_by(slowly, page)
    before = stack.store.images.list()
    page.goto(f"{slowly.url}/console/images/new")
    page.get_by_label("File", exact=True).set_input_files(disk)
    slowly.bytes_per_second = MIB
    page.get_by_role("button", name="Upload").click()
    until(lambda: value(page) > 0, 20, every=0.02)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Cancelled. Nothing was stored.")).to_be_visible()
    expect(page.get_by_role("button", name="Upload")).to_be_enabled()
    assert stack.store.images.list() == before
    until(lambda: list((stack.settings.images / ".incoming").iterdir()) == [], 20)


def test_an_error_in_an_upload_is_shown(page: Page, site: Site, disk: Path) -> None:
    page.goto(f"{site.url}/images/new")
    page.get_by_label("File", exact=True).set_input_files(disk)
    page.get_by_label("Format").first.select_option("openstackqcow2")
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_text("'openstackqcow2' means a qcow2 file, but the file is raw")).to_be_visible()


@pytest.mark.usefixtures("image")
def test_without_scripts_other_ways_to_upload_are_shown(site: Site) -> None:
    page = site.sign_in(site.open(java_script_enabled=False))
    page.goto(f"{site.url}/images/new")
    page.get_by_text("Uploads from the browser need JavaScript").wait_for()
    assert not page.get_by_label("File", exact=True).is_visible()
    page.goto(f"{site.url}/publications/new?account=other")
    page.get_by_label("Platform").select_option("memory")
    page.get_by_label("Display name").fill("Kept")
    page.get_by_role("button", name="Update fields").click()
    assert page.get_by_label("Keystone URL").count() == 0
    assert page.get_by_label("Display name").input_value() == "Kept"
    page.get_by_role("button", name="Publish").click()
    page.get_by_text(re.compile("Ticket .* accepted")).wait_for()


@pytest.mark.usefixtures("image")
def test_the_curl_command_follows_the_form(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/publications/new?account=other")
    page.get_by_label("Display name").fill("it's mine")
    page.get_by_label("Keystone URL").fill("https://cloud.example.com:5000")
    page.get_by_label("Password optional", exact=True).fill("n0t-to-be-seen")
    command = page.locator("#command")
    expect(command).to_contain_text("cloud.example.com")
    arguments = shlex.split(command.inner_text())
    assert '"displayName": "it\'s mine"' in arguments[arguments.index("-d") + 1]
    assert "n0t-to-be-seen" not in page.content()
    page.get_by_label("Platform").select_option("memory")
    expect(page.get_by_label("Keystone URL")).to_have_count(0)
    expect(page.get_by_label("Display name")).to_have_value("it's mine")
    expect(command).to_contain_text("CredAccountMemory")


def test_an_error_is_shown_at_its_field(page: Page, site: Site, look_at: LookAt) -> None:
    page.goto(f"{site.url}/accounts/new")
    page.get_by_label("Name", exact=True).fill("wrong")
    page.get_by_label("Keystone URL").fill("cloud.example.com")
    page.get_by_label("Login optional", exact=True).fill("demo")
    page.get_by_label("Password optional", exact=True).fill("x")
    page.get_by_role("button", name="Add account").click()
    field = page.get_by_label("Keystone URL")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description(re.compile("must be an address"))
    page.get_by_role("alert").get_by_role("link").click()
    look_at(page)


def test_secret_key_is_shown_only_once(page: Page, site: Site, look_at: LookAt) -> None:
    page.goto(f"{site.url}/keys")
    page.get_by_label("Name", exact=True).fill("ci")
    page.get_by_role("button", name="Create key").click()
    secret = page.locator("#secret").inner_text()
    assert re.fullmatch("[0-9a-f]{64}", secret)
    look_at(page)
    page.get_by_role("link", name="Done").click()
    expect(page.get_by_role("cell", name="ci", exact=True)).to_be_visible()
    assert secret not in page.content()


def test_the_fleet_updates_itself(page: Page, site: Site, stack: Stack, look_at: LookAt) -> None:
    page.goto(f"{site.url}/fleet")
    page.evaluate("window.stayed = true")
    mine = stack.store.fleet.workers()[0].member.name
    row = page.get_by_role("row", name=mine)
    expect(row.get_by_text("alive")).to_be_visible()
    other = Member("another:1", "elsewhere", 1, "celery@elsewhere", "0.1.0", 2)
    stack.store.fleet.join(other)
    expect(page.get_by_role("row", name="another:1")).to_be_visible()
    stack.store.fleet.stopped("another:1")
    expect(page.get_by_text("Stopped in the last day: another:1")).to_be_visible()
    assert page.evaluate("window.stayed")
    look_at(page)

    row.get_by_role("link", name="Drain").click()
    page.get_by_role("button", name="Drain worker").click()
    page.evaluate("window.stayed = true")
    expect(page.get_by_text(f"{mine} will begin to drain")).to_be_visible()
    until(lambda: stack.workers[0].process.poll() is not None, 60)
    expect(page.get_by_text("Stopped in the last day")).to_contain_text(mine)
    assert page.evaluate("window.stayed")
