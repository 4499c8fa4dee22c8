"""The API's contract for every resource, and objects to request each resource with. It was written independently of the
service's own table. A test compares the two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import quote_plus

from sqlalchemy import update

from publisher.core.image import ImageState
from publisher.core.ticket import State
from publisher.intake.wire.formats import Format
from publisher.intake.wire.writing import write_document
from publisher.store.database import images, writing
from publisher.web.auth import signature
from tests.service import ACCOUNT, JSON, TARGET, XML, Answer, Service, add_image, json_body


@dataclass(frozen=True)
class Row:
    """One resource. `entitlement` is "" if any login is enough. `root` is the answer's root, "" without a body."""

    method: str
    path: str
    entitlement: str
    root: str
    status: int = 200
    body: str = ""
    state: State = State.FAILED
    image: ImageState = ImageState.READY

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


_USER = "users/{uid}"
_APPLIANCE = _USER + "/appliances/{aid}"
_IMAGE = _APPLIANCE + "/images/{itid}"
_TICKET = _IMAGE + "/pimages/{pitid}"

CONTRACT = [
    Row("POST", _APPLIANCE + "/pimages", "image_publish", "publishImage", 201, "publishImage"),
    Row("POST", _IMAGE + "/pimages", "image_publish", "publishImage", 201, "publishImage"),
    Row("GET", _APPLIANCE + "/pimages", "appliance_create", "publishImages"),
    Row("GET", _APPLIANCE + "/pimages/statuses", "appliance_create", "statuses"),
    Row("GET", _TICKET, "", "publishImage"),
    Row("GET", _TICKET + "/status", "image_publish", "status"),
    Row("DELETE", _TICKET + "/cancel", "image_publish", "", 204, state=State.QUEUED),
    Row("POST", _TICKET + "/retry", "image_publish", "publishImage", 201),
    Row("DELETE", _TICKET, "image_publish", "", 204),
    Row("DELETE", _APPLIANCE + "/pimages", "appliance_create", "", 204),
    Row("GET", _USER + "/pimages", "image_generate", "publishImages"),
    Row("GET", _USER + "/pimages/status", "image_generate", "statuses"),
    Row("GET", _APPLIANCE + "/images", "appliance_create", "images"),
    Row("GET", _USER + "/images", "image_generate", "images"),
    Row("GET", _IMAGE, "appliance_create", "image"),
    Row("GET", _IMAGE + "/status", "appliance_create", "status"),
    Row("GET", _APPLIANCE + "/images/statuses", "appliance_create", "statuses"),
    Row("POST", _APPLIANCE + "/images", "image_generate", "image", 201, "image"),
    Row("POST", _IMAGE, "image_generate", "image", 201),
    Row("DELETE", _IMAGE + "/status", "image_generate", "", 204, image=ImageState.QUEUED),
    Row("GET", _IMAGE + "/pimages", "appliance_create", "publishImages"),
    Row("DELETE", _IMAGE, "appliance_create", "", 204),
    Row("DELETE", _APPLIANCE + "/images", "appliance_create", "", 204),
    Row("GET", _USER + "/accounts", "", "credAccounts"),
    Row("POST", _USER + "/accounts", "cloud_account_create", "credAccount", 201, "credAccount"),
    Row("GET", _USER + "/accounts/{caid}", "", "credAccount"),
    Row("PUT", _USER + "/accounts/{caid}", "cloud_account_create", "credAccount", 200, "credAccount"),
    Row("DELETE", _USER + "/accounts/{caid}", "cloud_account_delete", "", 204),
    Row("POST", _USER + "/accounts/{caid}/test", "cloud_account_create", "accountTest"),
    Row("GET", _TICKET + "/accounts/{caid}", "", "credAccount"),
    Row("GET", _USER + "/apikeys", "api_key_access", "apiKeyPairs"),
    Row("POST", _USER + "/apikeys", "api_key_access", "apiKeyPair", 201, "apiKeyPair"),
    Row("GET", _USER + "/apikeys/{id}", "api_key_access", "apiKeyPair"),
    Row("DELETE", _USER + "/apikeys/{id}", "api_key_access", "", 204),
    Row("GET", _USER + "/targetplatforms", "image_generate", "targetPlatforms"),
    Row("GET", _USER + "/targetplatforms/{platform}", "image_generate", "targetPlatform"),
    Row("GET", _USER + "/targetformats/{platform}/{format}", "image_generate", "targetFormat"),
    Row("GET", _USER + "/targetformats", "image_generate", "targetFormats"),
    Row("GET", _USER, "", "user"),
    Row("GET", _USER + "/roles", "", "roles"),
    Row("GET", _USER + "/webhook", "image_publish", "webhook"),
    Row("PUT", _USER + "/webhook", "image_publish", "webhook", 200, "webhook"),
    Row("DELETE", _USER + "/webhook", "image_publish", "", 204),
    Row("GET", _USER + "/appliances", "appliance_create", "appliances"),
    Row("GET", _APPLIANCE, "appliance_create", "appliance"),
]

FILES = [
    Row("GET", _APPLIANCE + "/pimages/{pitid}/downloads", "", ""),
    Row("GET", _IMAGE + "/downloads", "", ""),
    Row("GET", _IMAGE + "/downloads/{fileName}", "", ""),
]
"""Resources that answer with an image's file, given a login or a key in the query."""

GETS = [row for row in CONTRACT if row.method == "GET"]


@dataclass(frozen=True)
class Key:
    public: str
    secret: str
    id: int

    def sign(self, target: str, *, signed: str | None = None) -> str:
        """Return the target with key and signature. `signed`, if given, is signed instead of the target."""
        target = f"{target}{'&' if '?' in target else '?'}apiKey={self.public}"
        return f"{target}&signature={quote_plus(signature(self.secret, (signed or target).encode()))}"


def make_key(service: Service, login: str) -> Key:
    body = write_document(Format.JSON, "apiKeyPair", {"name": "ci"}, request=True)
    made = service.post(f"users/{login}/apikeys", body, content_type=JSON, login="root", accept=JSON)
    assert made.status == 201, made.body
    return Key(made.json["publicKey"], made.json["secretKey"], made.json["dbId"])


SOURCE = "contract.raw"
WEBHOOK = "https://hooks.example.com/publications"
_NAMES = {"platform": "openstack", "format": "raw", "fileName": "disk.qcow2"}

_numbers: Iterator[int] = count(1000, 100)
"""The steps are large, so that images registered in between get unused numbers."""


@dataclass(frozen=True)
class Belongings:
    """One object of each kind, all of one owner. No other `Belongings` shares them."""

    service: Service
    owner: str
    key: Key
    ids: dict[str, int]

    @classmethod
    def make(
        cls, service: Service, owner: str, state: State = State.FAILED, image: ImageState = ImageState.READY
    ) -> Belongings:
        """Create the objects, with a ticket in state `state` and its image in state `image`. The image's source is a
        file under the image root."""
        number = next(_numbers)
        add_image(service.store, number, owner, number)
        service.settings.images.mkdir(exist_ok=True)
        (service.settings.images / SOURCE).write_bytes(b"an image")
        account = service.post(
            f"users/{owner}/accounts",
            write_document(Format.JSON, "credAccount", _account(), request=True),
            content_type=JSON,
            login="root",
            accept=JSON,
        ).json["dbId"]
        published = service.post(
            f"users/{owner}/appliances/{number}/images/{number}/pimages",
            json_body(image=None, credAccount={"dbId": account}),
            content_type=JSON,
            login="root",
            accept=JSON,
        )
        assert published.status == 201, published.body
        ticket = service.ticket(published.json["dbId"])
        if state is State.FAILED:
            service.store.leases.failed(service.claim(ticket), error="no such project")
        with writing(service.store.engine) as connection:
            connection.execute(update(images).where(images.c.id == number).values(source=SOURCE, state=image))
        service.store.users.set_notify(owner, WEBHOOK, service.app.state.services.sealer.seal({"notify": "whsec_x"}))
        key = make_key(service, owner)
        ids = {"aid": number, "itid": number, "pitid": ticket.id, "caid": account, "id": key.id}
        return cls(service, owner, key, ids)

    def path(self, row: Row, uid: str | None = None, **ids: int) -> str:
        return row.path.format(uid=uid or self.owner, **_NAMES, **self.ids | ids)

    def body(self, row: Row, form: Format, uid: str | None = None, **ids: int) -> bytes:
        """Return the body that a request for this row needs."""
        all_ids = self.ids | ids
        image = f"users/{uid or self.owner}/appliances/{all_ids['aid']}/images/{all_ids['itid']}"
        documents: dict[str, dict[str, Any]] = {
            "": {},
            "publishImage": {"@type": "PublishImageOpenStack", **TARGET, "imageUri": image, "credAccount": _account()},
            "credAccount": _account(),
            "image": {"location": SOURCE, "name": "web"},
            "apiKeyPair": {"name": "ci", "description": "For the build"},
            "webhook": {"url": WEBHOOK},
        }
        return write_document(form, row.body, documents[row.body], request=True) if row.body else b""

    def ask(
        self,
        row: Row,
        login: str | None,
        *,
        uid: str | None = None,
        accept: str | None = None,
        signer: Key | None = None,
        signed: str | None = None,
        password: str | None = None,
        ids: Mapping[str, int] | None = None,
    ) -> Answer:
        """Send a request for the owner's objects. `uid` and `ids`, if given, replace the owner and ids in the path."""
        ids = ids or {}
        form = Format.JSON if accept == JSON else Format.XML
        target = self.path(row, uid, **ids)
        return self.service.call(
            row.method,
            signer.sign(target, signed=signed) if signer else target,
            body=self.body(row, form, uid, **ids),
            content_type=(JSON if form is Format.JSON else XML) if row.body else None,
            login=login,
            password=password,
            accept=accept,
        )

    def untouched(self) -> bool:
        """Return whether the ticket, the account and the key still exist."""
        paths = (_TICKET, f"{_USER}/accounts/{{caid}}", f"{_USER}/apikeys/{{id}}")
        return all(self.ask(Row("GET", path, "", ""), "root").status == 200 for path in paths)


def _account() -> dict[str, Any]:
    return {"@type": "CredAccountOpenStack", **ACCOUNT}
