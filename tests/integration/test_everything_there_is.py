"""A client generated from the API's schema reads every document and every error of a full installation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from lxml import etree
from sqlalchemy import update

from publisher.core.image import DISK_FORMATS, ImageState, formats
from publisher.core.ticket import State
from publisher.core.vault import Vault
from publisher.files.hashing import digest
from publisher.platforms.platform import Field, Kind, Platform, installed, known_platforms, platform_of
from publisher.store import Store
from publisher.store.database import db_now, images, tickets, writing
from publisher.store.new_tickets import NewTicket
from publisher.store.users import ENTITLEMENTS
from publisher.web import auth
from tests.records import create_ticket, remove_image
from tests.servers.redis import RedisServer
from tests.stack import PASSWORD, Stack
from tests.strict_client import FORMATS, SECRET, UFORGE, XML, StrictClient
from tests.strict_client import PLATFORMS as API_PLATFORMS

pytestmark = pytest.mark.real

READY, EMPTY, SMALL, OF_BOB = 4, 5, 6, 24
"""Appliances: one with so many publications that it does not name them, one without, one with two, and one of another
user."""
PIMAGES = f"users/root/appliances/{READY}/pimages"
ENDED = {State.PUBLISHED, State.FAILED, State.CANCELLED}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[Stack]:
    """A full installation without a worker, so that nothing changes."""
    with Stack.in_directory(
        tmp_path_factory.mktemp("everything") / "data", redis.url, workers=0, request_bytes_max=1 << 16
    ) as running:
        fill(running)
        yield running


@pytest.fixture
def client(stack: Stack, bound: ModuleType) -> StrictClient:
    return StrictClient(stack, bound)


# The installation ---------------------------------------------------------------------------------------------------


def fill(stack: Stack) -> None:
    store = stack.store
    vault = Vault.from_file(stack.settings.key_file)
    store.users.add("bob", PASSWORD, entitlements=frozenset(ENTITLEMENTS))
    store.users.add("carol", PASSWORD, entitlements=frozenset())
    publishes = frozenset(["image_publish", "appliance_create"])
    store.roles.add("publishers", description="Publish images", entitlements=publishes)
    store.roles.add("nobodies", entitlements=frozenset(["api_key_access"]))
    store.users.change_roles("root", add=frozenset(["publishers", "nobodies"]))
    auth.new_api_key(store, vault, "root", "ci", "For the build")
    store.users.set_notify("root", "https://hooks.example.com/publications", vault.seal({"secret": SECRET}))
    store.appliances.add("root", id=READY, name="nginx", description="Ünïcode & <markup>", distribution="Debian")
    store.appliances.add("root", id=EMPTY)
    ready = [add_image(stack, READY, format) for format in [*formats(), *DISK_FORMATS]]
    add_image(stack, READY, "raw", name="a #1 é?&.raw")
    for state in ImageState:
        for wanted in (None, "qcow2", "ISO"):
            add_image_in(stack, state, wanted)
    add_image(stack, OF_BOB, "openstackqcow2", owner="bob")
    for platform in known_platforms():
        stored = add_accounts(store, vault, platform)
        for number, ticket_state in enumerate(State):
            # Alternate between an account in the request and a stored one.
            add_ticket(store, platform, ready[number], ticket_state, stored if number % 2 else None)
    openstack = known_platforms()[0]
    small = add_image(stack, SMALL, "raw")
    add_ticket(store, openstack, small, State.QUEUED, None)
    add_ticket(store, platform_of("memory"), small, State.QUEUED, None)
    add_ticket(store, openstack, add_image(stack, OF_BOB, "raw", owner="bob"), State.FAILED, None, owner="bob")
    gone = add_image(stack, READY, "openstackvmdk")
    add_ticket(store, openstack, gone, State.CANCELLED, None)
    remove_image(store, gone)


def add_image(stack: Stack, appliance: int, format: str, *, owner: str = "root", name: str = "disk.img") -> int:
    directory = hashlib.sha256(f"{owner} {appliance} {format} {name}".encode()).hexdigest()[:12]
    file = stack.settings.images / directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(format.encode() * 100)
    return stack.store.images.add(
        owner=owner,
        appliance_id=appliance,
        name=f"{format} image",
        format=format,
        disk_format="raw",
        virtual_size=1 << 30,
        digests=digest(file),
        location=f"{directory}/{name}",
    ).id


def add_image_in(stack: Stack, state: ImageState, wanted: str | None) -> None:
    """Add an image in `state`, as it is during or after its registration."""
    id = add_image(stack, READY, "raw")
    if state is ImageState.READY:
        return
    values: dict[str, Any] = dict.fromkeys(("md5", "sha256", "sha512", "location", "format"), "")
    values |= dict.fromkeys(("size", "virtual_size", "sent", "total"), 0)
    error = "the file ended too early" if state is ImageState.FAILED else None
    change(stack.store, images, id, state=state, wanted_format=wanted, registered=None, error=error, **values)


def add_accounts(store: Store, vault: Vault, platform: Platform) -> int:
    """Add an account with secrets and one without. Return the number of the first."""
    secrets = {field.name: SECRET for field in platform.account_fields if field.secret and field.item is None}
    made = [
        store.accounts.add(
            owner="root",
            name=f"{platform.name} {number}",
            platform=platform.name,
            fields=values(platform.account_fields),
            sealed_secrets=vault.seal(each),
        ).id
        for number, each in enumerate((secrets, {}))
    ]
    return made[0]


def values(fields: tuple[Field, ...]) -> dict[str, Any]:
    """Return a value for every field that is not secret."""
    kinds: dict[Kind, Any] = {
        Kind.STRING: "é & <x>", Kind.URI: "https://cloud.example.com:5000/v3", Kind.BOOLEAN: True, Kind.INTEGER: 443,
    }  # fmt: skip
    return {each.name: kinds[each.kind] for each in fields if not each.secret and each.kind in kinds}


def add_ticket(
    store: Store, platform: Platform, image: int, state: State, account: int | None, *, owner: str = "root"
) -> None:
    found = store.images.get(image)
    assert found is not None
    made = create_ticket(
        store,
        NewTicket(
            owner=owner,
            appliance_id=found.appliance_id,
            image_id=image,
            image_size=found.size,
            platform=platform.name,
            account=values(platform.account_fields) | ({"name": f"{platform.name} 0"} if account else {}),
            sealed_secrets=b"",
            target=values(platform.target_fields),
            name=f"{platform.name} é",
            account_id=account,
        ),
    )
    change(store, tickets, made.id, state=state, lease_until=db_now() + 3600)
    if state in ENDED:
        change(store, tickets, made.id, finished=db_now())
    if state is State.PUBLISHED:
        change(store, tickets, made.id, sent=found.size, cloud_id="c0ffee", location="RegionOne")
    if state is State.FAILED:
        change(store, tickets, made.id, error="the quota is used up", error_detail="413: <full> & more")


def change(store: Store, table: Any, id: int, **values: Any) -> None:
    with writing(store.engine) as connection:
        assert connection.execute(update(table).where(table.c.id == id).values(values)).rowcount == 1


# The walk -------------------------------------------------------------------------------------------------------------


class Walk:
    """Requests a URI, and then every URI in its answer. `gone` has the URIs of deleted resources."""

    def __init__(self, client: StrictClient, gone: set[str]) -> None:
        self.client = client
        self.gone = gone
        self.seen: set[str] = set()
        self.answers: dict[str, list[etree._Element]] = {}
        self.files = 0

    def follow(self, uri: str) -> None:
        path = uri.partition("?")[0] if "/downloads" in uri else uri
        if path in self.seen:
            return
        self.seen.add(path)
        if uri in self.gone:
            self.client.refused("GET", uri, 404)
            return
        answer = self.client.stack.call("GET", uri, accept=XML, login=None if "/downloads" in uri else "root")
        assert answer.status == 200, (uri, answer.status, answer.body[:500])
        assert SECRET.encode() not in answer.body
        if "/downloads" in uri:
            self.files += 1
            return
        assert answer.headers["Content-Type"] == XML
        root = etree.fromstring(answer.body)
        name = etree.QName(root).localname
        self.client.parse(answer.body, name[0].upper() + name[1:])
        self.answers.setdefault(name, []).append(root)
        if (total := root.findtext("total")) is not None:
            (wrapper,) = (each for each in root if each.tag != "total")
            assert int(total) == len(wrapper), uri
        for element in root.iter():
            own = not element.text or element.text.startswith("users/")
            if etree.QName(element).localname.lower().endswith("uri") and element.text and own:
                self.follow(element.text)


def told(walk: Walk, root: str, path: str) -> set[str]:
    return {str(each.text) for answer in walk.answers[root] for each in answer.iterfind(path)}


def test_every_list_and_uri_gives_a_valid_complete_document(client: StrictClient) -> None:
    """Each answer is valid and complete, and uses only names of the API. Each total is the number of items shown."""
    store = client.stack.store
    of_tickets_only = {each.image_id for each in store.tickets.list(owner="root")} - {
        each.id for each in store.images.list(owner="root")
    }
    assert of_tickets_only, "a publication outlives its image"
    walk = Walk(client, {f"users/root/appliances/{READY}/images/{id}" for id in of_tickets_only})
    for start in ("users/root", "users/root/pimages/status", "users/bob", "status"):
        walk.follow(start)
    assert set(walk.answers) == {
        "user", "roles", "apiKeyPairs", "apiKeyPair", "appliances", "appliance", "images", "image", "statuses",
        "status", "publishImages", "publishImage", "credAccounts", "credAccount", "targetPlatforms", "targetPlatform",
        "targetFormats", "targetFormat", "serviceStatus",
    }  # fmt: skip
    assert walk.files > len(formats())
    # The walk has seen everything except the platform that the API does not know.
    assert "memory" in installed()
    platform = "targetPlatforms/targetPlatform/type"
    assert told(walk, "targetPlatforms", platform) == set(installed()) - {"memory"}
    of_accounts = "credAccounts/credAccount/targetPlatform/type"
    assert told(walk, "credAccounts", of_accounts) == API_PLATFORMS
    of_tickets = "publishImages/publishImage/credAccount/targetPlatform/type"
    assert told(walk, "publishImages", of_tickets) == API_PLATFORMS
    assert told(walk, "targetFormats", "targetFormats/targetFormat/format/name") <= FORMATS
    assert told(walk, "images", "images/image/format/name") == set(formats())
    for state in ("complete", "error", "cancelled"):
        for root, path in (("images", f"images/image/status/{state}"), ("statuses", f"statuses/status/{state}")):
            assert told(walk, root, path) == {"true", "false"}
    assert {"Queued", "Fetching", "Ready", "Failed", "Cancelled"} <= told(walk, "images", "images/image/status/message")


def test_extensions_parameter_adds_the_omitted_items(client: StrictClient) -> None:
    for path, wrapper in (
        ("users/root/pimages", "publishImages"),
        (PIMAGES, "publishImages"),
        (f"{PIMAGES}/statuses", "statuses"),
        ("users/root/pimages/status", "statuses"),
        ("users/root/accounts", "credAccounts"),
        ("users/root/targetplatforms", "targetPlatforms"),
        ("users/root/targetformats", "targetFormats"),
    ):
        shown = int(etree.fromstring(client.stack.call("GET", path, accept=XML).body).findtext("total") or -1)
        asked = etree.fromstring(client.stack.call("GET", f"{path}?extensions=true", accept=XML).body)
        in_json = client.stack.call("GET", path).json
        assert shown < int(asked.findtext("total") or -1) == in_json["total"], path
        assert len(asked.findall(f"{wrapper}/*")) == in_json["total"]
    appliance = f"users/root/appliances/{SMALL}"
    uris = client.stack.call("GET", appliance).json["publishImageUris"]["uri"]
    shown_uris = etree.fromstring(client.stack.call("GET", appliance, accept=XML).body).findall("publishImageUris/uri")
    assert (len(uris), len(shown_uris)) == (2, 1)
    assert "publishImageUris" not in client.stack.call("GET", f"users/root/appliances/{READY}").json, "too many"


def test_resource_of_an_unknown_platform_requires_the_parameter(client: StrictClient) -> None:
    """Lists omit it. A request for it alone is answered with an error that names the parameter `extensions`."""
    listed = client.stack.call("GET", PIMAGES).json["publishImages"]["publishImage"]
    ours = [each for each in listed if each["@type"] == "PublishImageMemory"]
    assert len(ours) == len(State)
    stored = next(each for each in ours if "uri" in each["credAccount"])
    failed = next(each for each in ours if each["status"]["error"])
    for method, uri in (
        ("GET", stored["uri"]),
        ("GET", stored["credAccount"]["uri"]),
        ("GET", f"users/root/accounts/{stored['credAccount']['dbId']}"),
        ("POST", f"{failed['uri']}/retry"),
    ):
        assert "extensions=true" in client.refused(method, uri, 406).localized_error_msg.message
    # Its status names no platform.
    assert client.get(stored["statusUri"], "Status").message
    assert client.stack.status(failed)["error"], "what was refused was not done"


@pytest.mark.parametrize(
    ("method", "path", "status", "options"),
    [
        ("POST", PIMAGES, 400, {"body": b"<"}),
        ("POST", PIMAGES, 400, {"body": f'<n:publishImage xmlns:n="{UFORGE}"/>'.encode()}),
        ("POST", PIMAGES, 400, {"body": f'<n:status xmlns:n="{UFORGE}"/>'.encode()}),
        ("GET", "users/root/accounts?query=%28", 400, {}),
        ("GET", "users/root/images?img=x", 400, {}),
        ("GET", "users/root/targetplatforms?extensions=maybe", 400, {}),
        ("GET", PIMAGES, 401, {"login": None}),
        ("GET", PIMAGES, 401, {"password": "wrong"}),
        ("GET", "users/carol/targetformats", 403, {"login": "carol"}),
        ("POST", "users/carol/accounts", 403, {"login": "carol", "body": b"<x/>"}),
        ("GET", "nowhere", 404, {}),
        ("GET", "users/root/appliances/99", 404, {}),
        ("GET", f"users/root/appliances/{READY}/images/999999", 404, {}),
        ("GET", "users/bob", 404, {"login": "carol"}),
        ("GET", "users/root/targetplatforms/nimbus", 404, {}),
        ("PUT", PIMAGES, 405, {}),
        ("GET", PIMAGES, 406, {"accept": "text/html"}),
        ("DELETE", PIMAGES, 409, {}),
        ("POST", PIMAGES, 413, {"body": b" " * (1 << 17)}),
        ("POST", PIMAGES, 415, {"body": b"x", "content_type": "text/plain"}),
    ],
)
def test_every_error_is_a_document(
    client: StrictClient, method: str, path: str, status: int, options: dict[str, Any]
) -> None:
    client.refused(method, path, status, **options)


def test_error_for_a_range_beyond_the_end_is_a_document(client: StrictClient) -> None:
    (image,) = client.get(f"users/root/appliances/{READY}/images?count=1", "Images").images.image
    client.refused("GET", f"{image.uri}/downloads", 416, headers={"Range": f"bytes={1 << 40}-"})
