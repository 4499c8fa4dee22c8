"""A test intake: the app over a temporary store, with users, images and a waker that records its calls."""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from lxml import etree

from publisher.app import Intake, create_app
from publisher.core.cloud_check import CheckResult
from publisher.core.errors import QueueUnavailable
from publisher.core.image import Digests, Image
from publisher.core.settings import Settings
from publisher.core.ticket import Ticket
from publisher.store import Store, users
from publisher.store.leases import Claim
from tests.in_process import InProcess
from tests.patience import PATIENCE
from tests.servers.process import Server, free_port, listens

UFORGE = "http://www.usharesoft.com/uforge"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
XSI_TYPE = f"{{{XSI}}}type"
SCHEMA_TAG = "{http://www.w3.org/2001/XMLSchema}schema"
XML, JSON = "application/xml", "application/json"
DATA = Path(__file__).parent / "data"

SECRET = "s3cr3t-0f-the-cl0ud"
"""The password of the cloud account in every request here. It must never be shown."""

PASSWORDS = {name: f"pass-w0rd-0f-{name}" for name in ("root", "alice", "bob", "carol", "åsa")}
"""`root` is an administrator. `carol` has no entitlements."""

IMAGES = {7: ("root", 4), 21: ("alice", 14), 22: ("alice", 15), 23: ("alice", 14), 31: ("bob", 24), 41: ("åsa", 34)}
"""Maps an image id to its owner and appliance."""

IMAGE_SIZE = 2048 << 20


@dataclass(frozen=True)
class Answer:
    """The answer to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def xml(self) -> etree._Element:
        return etree.fromstring(self.body)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def text(self, path: str) -> str | None:
        """Return the text of one element of an XML answer, or None if the element is missing."""
        return self.xml.findtext(path)

    def problem(self) -> str:
        """Check that the answer is a complete `uforgeError`, in either format, and return its message."""
        if self.headers["content-type"] == JSON:
            error = self.json
            assert list(error) == ["localizedErrorMsg", "requestMethod", "requestUri", "statusCode", "timestamp"]
            assert error["statusCode"] == self.status
            return str(error["localizedErrorMsg"]["message"])
        assert self.headers["content-type"] == XML
        root = self.xml
        assert root.tag == f"{{{UFORGE}}}uforgeError"
        assert [child.tag for child in root] == [
            "localizedErrorMsg", "requestMethod", "requestUri", "statusCode", "timestamp",
        ]  # fmt: skip
        assert root.findtext("statusCode") == str(self.status)
        assert root.findtext("requestMethod")
        assert root.findtext("requestUri")
        message = root.findtext("localizedErrorMsg/message")
        assert message
        for leak in ("Traceback", 'File "', "site-packages", "sqlalchemy", "sqlite", "/tmp/", SECRET):
            assert leak not in message
        return message


@dataclass
class Wakings:
    """A waker that records each wake, and whether the store already had the ticket at that time."""

    store: Store | None = None
    ids: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    checks: list[int] = field(default_factory=list)
    on_check: Callable[[int], object] | None = None
    """Called with each check, in place of a worker. By default, each check passes."""
    committed: list[bool] = field(default_factory=list)
    fails_with: Exception | None = None

    def send(self, *ticket_ids: int) -> None:
        self.ids.extend(ticket_ids)
        if self.store is not None:
            self.committed.extend(self.store.tickets.get(each) is not None for each in ticket_ids)
        if self.fails_with is not None:
            raise self.fails_with

    def send_image(self, *image_ids: int) -> None:
        self.images.extend(image_ids)
        if self.fails_with is not None:
            raise self.fails_with

    def send_check(self, *check_ids: int) -> None:
        self.checks.extend(check_ids)
        if self.fails_with is not None:
            raise self.fails_with
        for each in check_ids:
            (self.on_check or self._pass)(each)

    def _pass(self, check_id: int) -> None:
        if self.store is not None and (claimed := self.store.checks.claim(check_id)):
            self.store.checks.finish(claimed, CheckResult(True, "works"))

    def break_down(self) -> None:
        self.fails_with = QueueUnavailable("the message broker cannot be reached: Connection refused")


class Service:
    """A running intake, and methods that send requests to it."""

    def __init__(self, app: Intake, client: InProcess, settings: Settings, store: Store, waker: Wakings) -> None:
        self.app = app
        self.settings = settings
        self.store = store
        self.waker = waker
        self.client = client

    def call(
        self,
        method: str,
        path: str,
        *,
        login: str | None = "root",
        password: str | None = None,
        accept: str | None = None,
        content_type: str | None = None,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request. `path` is relative to /api unless it begins with a slash. Without `accept`, there is no
        Accept header."""
        sent = dict(headers or {})
        if login is not None:
            sent["Authorization"] = basic(login, PASSWORDS.get(login, "none") if password is None else password)
        if accept is not None:
            sent["Accept"] = accept
        if content_type is not None:
            sent["Content-Type"] = content_type
        raw = {name: value.encode("latin-1") for name, value in sent.items()}
        request = self.client.build_request(
            method, path if path.startswith("/") else f"/api/{path}", content=body, headers=raw
        )
        for name in ("accept", "content-type"):
            if name.title() not in sent:
                request.headers.pop(name, None)
        response = self.client.exchange(request)
        return Answer(response.status_code, response.headers, response.content)

    def get(self, path: str, **options: Any) -> Answer:
        return self.call("GET", path, **options)

    def post(self, path: str, body: str | bytes, *, content_type: str | None = XML, **options: Any) -> Answer:
        raw = body if isinstance(body, bytes) else body.encode()
        return self.call("POST", path, body=raw, content_type=content_type, **options)

    def publish(self, body: str | bytes | None = None, *, login: str = "alice", image: int = 21) -> Ticket:
        """Publish that image over the API and return the ticket."""
        owner, appliance = IMAGES[image]
        answer = self.post(
            f"users/{owner}/appliances/{appliance}/images/{image}/pimages",
            xml_body(image=None) if body is None else body,
            login=login,
            accept=JSON,
        )
        assert answer.status == 201, answer.body
        return self.ticket(answer.json["dbId"])

    def ticket(self, id: int) -> Ticket:
        ticket = self.store.tickets.get(id)
        assert ticket is not None
        return ticket

    def claim(self, ticket: Ticket) -> Claim:
        """Claim the ticket for a worker."""
        claim = self.store.leases.claim(ticket.id, "worker", 60.0)
        assert claim is not None
        return claim


def basic(login: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode()


def ticket_path(ticket: Ticket) -> str:
    return f"users/{ticket.owner}/appliances/{ticket.appliance_id}/images/{ticket.image_id}/pimages/{ticket.id}"


# Requests ---------------------------------------------------------------------------------------------------------

ACCOUNT: dict[str, Any] = {
    "targetPlatform": {"name": "openstack"},
    "glanceUrl": "http://127.0.0.1:9292",
    "keystoneUrl": "http://127.0.0.1:5000",
    "login": "demo",
    "password": SECRET,
    "keystoneVersion": "v3",
}
TARGET: dict[str, Any] = {
    "keystoneDomain": "Default",
    "keystoneProject": "demo",
    "displayName": "A machine image",
    "publicImage": False,
}


def image_uri(image: int) -> str:
    owner, appliance = IMAGES[image]
    return f"users/{owner}/appliances/{appliance}/images/{image}"


def document(image: int | None = 7, **changes: Any) -> dict[str, Any]:
    """A publish request for OpenStack, as a JSON object. A change to None removes the element. `account__login` changes
    the account's `login`."""
    made = {**TARGET, "credAccount": dict(ACCOUNT)}
    if image is not None:
        made["imageUri"] = image_uri(image)
    for name, value in changes.items():
        inner, _, key = name.partition("__")
        place = made["credAccount"] if inner == "account" and key else made
        name = key or name
        if value is None:
            place.pop(name, None)
        else:
            place[name] = value
    return made


def json_body(image: int | None = 7, **changes: Any) -> str:
    return json.dumps(document(image, **changes))


def xml_body(image: int | None = 7, *, attributes: str = "", **changes: Any) -> str:
    """The same request in XML. A value of type bytes is inserted as markup."""
    return f'<n:publishImage xmlns:n="{UFORGE}"{attributes}>{_markup(document(image, **changes))}</n:publishImage>'


def _markup(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(f"<{name}>{_markup(each)}</{name}>" for name, each in value.items())
    if isinstance(value, bytes):
        return value.decode()
    return escape(str(value).lower() if isinstance(value, bool) else str(value))


# Services ---------------------------------------------------------------------------------------------------------


def fill(store: Store) -> None:
    for login, password in PASSWORDS.items():
        entitlements = frozenset[str]() if login == "carol" else frozenset(users.ENTITLEMENTS)
        store.users.add(login, password, administrator=login == "root", entitlements=entitlements)
    for id, (owner, appliance) in IMAGES.items():
        add_image(store, id, owner, appliance)


def add_image(store: Store, id: int, owner: str, appliance: int) -> Image:
    return store.images.add(
        id=id,
        owner=owner,
        appliance_id=appliance,
        name=f"image {id}",
        format="qcow2",
        disk_format="qcow2",
        virtual_size=IMAGE_SIZE,
        digests=Digests(IMAGE_SIZE, "5" * 32, "2" * 64, "f" * 128),
        location=f"{id}/disk.qcow2",
    )


@contextmanager
def serving(directory: Path, *, real_queue: bool = False, **settings: Any) -> Iterator[Service]:
    # Tests claim many tickets of one account and try hundreds of wrong passwords.
    unlimited = dict.fromkeys(("account_uploads_max", "sign_in_failures_max", "address_sign_in_failures_max"), 0)
    made = Settings(data_dir=directory, **(unlimited | settings))
    waker = Wakings()
    app = create_app(made, waker=None if real_queue else waker)
    waker.store = app.state.services.store
    with InProcess(app) as client:
        yield Service(app, client, made, app.state.services.store, waker)


@dataclass(frozen=True)
class Process:
    """A real server process, without a broker."""

    port: int
    log: Path
    pid: int


@contextmanager
def real_server(directory: Path, **settings: Any) -> Iterator[Process]:
    """Run an intake in its own process, with the database in that directory. It must not crash, and it must not log a
    traceback or a secret."""
    port, log = free_port(), directory / "intake.log"
    made = Settings(data_dir=directory, intake_port=port, log_level="DEBUG", **settings)
    command = [
        *(sys.executable, "-m", "publisher.intake.server", "--port", str(port)),
        *("--no-proxy-headers", "--log-level", "debug"),
    ]
    environment = os.environ | made.environment()
    server = Server(command, log, ready=lambda: listens(port), environment=environment)
    server.start()
    assert server.pid
    try:
        yield Process(port, log, server.pid)
    finally:
        crashed = server.pid is None
        server.signal(signal.SIGINT)
        server.wait(10 * PATIENCE)
    assert not crashed
    text = log.read_text()
    assert "Traceback" not in text
    for secret in (SECRET, *PASSWORDS.values(), basic("root", PASSWORDS["root"]).split()[1]):
        assert secret not in text
