"""Publish requests: every kind of invalid value for every element, and the results of valid requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from publisher.core.ticket import State
from publisher.core.vault import Vault
from publisher.platforms.platform import installed
from publisher.store.new_tickets import NewTickets
from tests import disks
from tests.service import (
    ACCOUNT,
    JSON,
    SECRET,
    XML,
    Answer,
    Service,
    document,
    image_uri,
    json_body,
    ticket_path,
    xml_body,
)

FLAT = "users/root/appliances/4/pimages"
NESTED = "users/root/appliances/4/images/7/pimages"
ALICES = "users/alice/appliances/14/images/21/pimages"


def refused(service: Service, body: str, path: str = FLAT, kind: str = XML, login: str = "root") -> str:
    """Check for a 400 that created no ticket and woke no worker, and return its message."""
    before = service.store.publications.counts(), len(service.waker.ids)
    answer = service.post(path, body, content_type=kind, login=login)
    assert answer.status == 400, answer.body
    assert (service.store.publications.counts(), len(service.waker.ids)) == before
    return answer.problem()


# Every element ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Element:
    """needed: a request without it gets a 400. limit: the maximum number of characters."""

    name: str
    needed: bool = False
    limit: int = 4096
    text: bool = True
    address: bool = False

    @property
    def path(self) -> str:
        """The name of the element in messages."""
        return self.name.replace("account__", "credAccount.")

    def xml(self, value: Any) -> str:
        """Return a request with this value."""
        return xml_body(**{self.name: value})

    def json(self, value: Any) -> str:
        return json_body(**{self.name: value})


ELEMENTS = [
    Element("displayName", limit=255),
    Element("keystoneDomain", limit=255),
    Element("keystoneProject", limit=255),
    Element("tenantName", limit=255),
    Element("publishLocation"),
    Element("publicImage", text=False),
    Element("imageUri", needed=True, address=True),
    Element("applianceUri", address=True),
    Element("parentUri", address=True),
    Element("account__glanceUrl", address=True),
    Element("account__keystoneUrl", needed=True, address=True),
    Element("account__login", needed=True, limit=255),
    Element("account__password", needed=True),
    Element("account__keystoneVersion", address=True),
]
texts = [element for element in ELEMENTS if element.text and not element.address]
each_element = pytest.mark.parametrize("element", ELEMENTS, ids=lambda element: element.path)
each_text = pytest.mark.parametrize("element", texts, ids=lambda element: element.path)


def intact(service: Service, element: Element, value: object, answer: Answer) -> None:
    """Check that the value is unchanged in the answer and the store or, for a password, in the sealed secrets."""
    assert answer.status == 201, answer.body
    ticket = service.ticket(answer.json["dbId"])
    name = element.name.removeprefix("account__")
    if name == "password":
        assert ticket.sealed_secrets
        assert Vault.from_file(service.settings.key_file).open(ticket.sealed_secrets) == {"password": value}
        return
    shown = answer.json["credAccount"] if element.name != name else answer.json
    assert shown[name] == value
    assert (ticket.account if element.name != name else ticket.target)[name] == value
    again = service.get(ticket_path(ticket))
    where = f"credAccount/{name}" if element.name != name else name
    assert again.text(where) == value


@each_element
class TestEveryElement:
    def test_absent_element_is_refused_only_if_needed(self, service: Service, element: Element) -> None:
        changes: dict[str, Any] = {element.name: None}
        if element.needed:
            assert refused(service, xml_body(**changes)).startswith(f"{element.path}: ")
            assert refused(service, json_body(**changes), kind=JSON).startswith(f"{element.path}: ")
        else:
            assert service.post(FLAT, xml_body(**changes)).status == 201
            assert service.post(FLAT, json_body(**changes), content_type=JSON).status == 201

    def test_empty_element_counts_as_absent(self, service: Service, element: Element) -> None:
        """An empty element is treated like an absent one."""
        for value in ("", " \n\t"):
            if element.needed:
                assert refused(service, element.xml(value)).startswith(f"{element.path}: ")
            else:
                answer = service.post(FLAT, element.xml(value), accept=JSON)
                assert answer.status == 201
                shown = answer.json | answer.json["credAccount"]
                expected = {"displayName": "image 7", "imageUri": image_uri(7), "parentUri": "users/root/appliances/4"}
                assert shown.get(element.name.removeprefix("account__")) == expected.get(element.name)

    def test_null_is_refused_only_if_needed(self, service: Service, element: Element) -> None:
        body = document()
        (body["credAccount"] if element.name.startswith("account") else body)[
            element.name.removeprefix("account__")
        ] = None
        answer = service.post(FLAT, json.dumps(body), content_type=JSON)
        assert answer.status == (400 if element.needed else 201)

    @pytest.mark.parametrize("value", [0, 1, -1.5, [], ["x"], {}, {"x": "y"}, True])
    def test_wrong_json_type_is_refused(self, service: Service, element: Element, value: object) -> None:
        if element.name == "publicImage" and isinstance(value, bool):
            return
        message = refused(service, element.json(value), kind=JSON)
        assert message.startswith(f"{element.path}: ")
        assert "is expected" in message

    def test_child_elements_are_refused(self, service: Service, element: Element) -> None:
        message = refused(service, element.xml(b"<x>y</x>"))
        assert message.startswith(f"{element.path}: ")

    def test_repeated_element_is_refused(self, service: Service, element: Element) -> None:
        name = element.name.removeprefix("account__")
        body = element.xml("true" if name == "publicImage" else "x")
        once = f"<{name}>{'true' if name == 'publicImage' else 'x'}</{name}>"
        message = refused(service, body.replace(once, once * 2))
        assert message == f"{element.path}: is given more than once"

    @pytest.mark.parametrize("character", ["\0", "\x01", "\x1b", "\x7f", "\x9b", "\ufffe", "\ud800"])
    def test_invalid_characters_are_refused(self, service: Service, element: Element, character: str) -> None:
        message = refused(service, element.json(f"a{character}b"), kind=JSON)
        assert message.startswith(f"{element.path}: ")
        assert character not in message

    @pytest.mark.parametrize("reference", ["&#0;", "&#1;", "&#x1b;", "&#xfffe;", "&#xd800;", "&#x9b;"])
    def test_references_to_invalid_characters_are_refused(
        self, service: Service, element: Element, reference: str
    ) -> None:
        message = refused(service, element.xml(f"a{reference}b".encode()))
        # Characters that XML does not allow make the document malformed.
        assert message.startswith(f"{element.path}: ") or "not well-formed" in message

    def test_too_long_value_is_refused(self, service: Service, element: Element) -> None:
        for length in (element.limit + 1, 4097, 100_000):
            for body, kind in (
                (element.xml("x" * length), XML),
                (element.json("x" * length), JSON),
            ):
                if element.name == "publicImage" and kind == JSON:
                    continue
                message = refused(service, body, kind=kind)
                assert message.startswith(f"{element.path}: ")
                assert len(message) < 4300


TEXTS = [
    "x",
    "x" * 255,
    "0",
    "Ünïcödé",
    "名前",
    "a\U0001f600\U00010348z",
    "العربية",
    "&<>\"']]>",
    "a  b",
    "{{}} %s ${x}",
]


@pytest.mark.long
@each_text
@pytest.mark.parametrize("value", TEXTS, ids=range(len(TEXTS)))
def test_text_is_kept_unchanged(service: Service, element: Element, value: str) -> None:
    if element.name == "displayName":
        # Glance accepts no four-byte characters in this element.
        value = value.replace("\U0001f600\U00010348", "\u263a")
    for body, kind in ((element.xml(value), XML), (element.json(value), JSON)):
        intact(service, element, value, service.post(FLAT, body, content_type=kind, accept=JSON))


@each_text
def test_text_of_the_maximum_length_is_kept(service: Service, element: Element) -> None:
    # The limit counts characters, not bytes.
    value = ("\u263a" if element.name == "displayName" else "\U0001f600") * element.limit
    intact(service, element, value, service.post(FLAT, element.xml(value), accept=JSON))


@pytest.mark.parametrize("value", [" a ", "a\tb", "a\nb", "a\r\nb"])
def test_password_keeps_its_white_space(service: Service, value: str) -> None:
    element = Element("account__password")
    marked = value.replace("\r", "&#13;").encode()
    intact(service, element, value, service.post(FLAT, xml_body(account__password=marked), accept=JSON))
    body = json_body(account__password=value)
    intact(service, element, value, service.post(FLAT, body, content_type=JSON, accept=JSON))


@pytest.mark.parametrize("value", ["<![CDATA[<a>&amp;]]>", "&lt;a&gt;&amp;amp;", "&#60;a>&#38;amp;"])
def test_escaped_markup_in_a_text_is_kept(service: Service, value: str) -> None:
    answer = service.post(FLAT, xml_body(displayName=value.encode()), accept=JSON)
    assert answer.json["displayName"] == "<a>&amp;"


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("false", False), ("1", True), ("0", False), (" true ", True)]
)
def test_boolean_is_read(service: Service, text: str, value: bool) -> None:
    answer = service.post(FLAT, xml_body(publicImage=text), accept=JSON)
    assert answer.json["publicImage"] is value


@pytest.mark.parametrize("text", ["TRUE", "yes", "2", "-0", "wahr", "truefalse"])
def test_invalid_boolean_is_refused(service: Service, text: str) -> None:
    message = refused(service, xml_body(publicImage=text))
    assert message == f"publicImage: {text!r} is not true or false"


@pytest.mark.parametrize(
    "number",
    ["9223372036854775808", "-9223372036854775809", "9" * 400, "1" * 5000, "1e400", "-1e400", "1.5", '"7"', "NaN"],
)
def test_invalid_number_is_refused(service: Service, number: str) -> None:
    for place in ("dbId", "credAccount"):
        body = json_body()
        if place == "dbId":
            body = body.replace("{", f'{{"dbId": {number}, ', 1)
        else:
            body = body.replace('"credAccount": {', f'"credAccount": {{"dbId": {number}, ')
        message = refused(service, body, kind=JSON)
        assert "dbId" in message or "NaN" in message
        assert len(message) < 200


# Contradictory URIs and missing images ----------------------------------------------------------------------------

CONTRADICTIONS = [
    ("flat", {"imageUri": "users/root/appliances/5/images/7"}, "imageUri"),
    ("flat", {"imageUri": "users/alice/appliances/14/images/21"}, "imageUri"),
    ("flat", {"imageUri": "users/alice/appliances/4/images/7"}, "imageUri"),
    ("nested", {"imageUri": "users/root/appliances/4/images/8"}, "imageUri"),
    ("nested", {"imageUri": "users/root/appliances/5/images/7"}, "imageUri"),
    ("nested", {"imageUri": "users/alice/appliances/14/images/21"}, "imageUri"),
    *[
        (route, {"imageUri": uri}, "imageUri")
        for route in ("flat", "nested")
        for uri in (
            "7",
            "images/7",
            "users/root/appliances/4",
            "users/root/appliances/4/images/",
            "users/root/appliances/4/images/seven",
            "users/root/appliances/4/images/-7",
            "users/root/appliances/4/images/\u0667",
            "users/root/appliances/4/images/7/pimages",
            "users/root/appliances/4/images/99999999999999999999",
            "http://localhost:8000/api/users/root/appliances/4/images/7",
            "users//appliances/4/images/7",
            "users/root/../root/appliances/4/images/7",
            "users/ro%00ot/appliances/4/images/7",
            "users/root/appliances/4/images/7?x=y",
        )
    ],
    *[
        (route, {field: uri}, field)
        for route in ("flat", "nested")
        for field in ("applianceUri", "parentUri")
        for uri in (
            "users/root/appliances/5",
            "users/alice/appliances/4",
            "users/root/appliances/4/images/7",
            "users/root",
            "4",
        )
    ],
    ("flat", {"applianceUri": "users/root/appliances/4", "parentUri": "users/root/appliances/5"}, "parentUri"),
    ("flat", {"imageUri": None}, "imageUri"),
    # An unknown image and an image of another user get the same message.
    ("flat", {"imageUri": "users/root/appliances/4/images/987"}, "imageUri"),
    ("flat", {"imageUri": "users/root/appliances/4/images/21"}, "imageUri"),
]


@pytest.mark.parametrize(("route", "changes", "named"), CONTRADICTIONS)
def test_contradictory_or_invalid_uri_is_refused(
    service: Service, route: str, changes: dict[str, Any], named: str
) -> None:
    path = FLAT if route == "flat" else NESTED
    for body, kind in ((xml_body(**changes), XML), (json_body(**changes), JSON)):
        assert refused(service, body, path, kind).startswith(f"{named}: ")


def test_image_of_another_user_is_not_found(service: Service) -> None:
    def told(image: int) -> str:
        body = xml_body(imageUri=f"users/alice/appliances/14/images/{image}")
        return refused(service, body, "users/alice/appliances/14/pimages", login="alice").replace(str(image), "N")

    # Bob's image, her own image of another appliance, and an unknown image.
    assert told(31) == told(22) == told(987)


@pytest.mark.parametrize("image", [8, 21, 31, 987, 999999999999999999])
def test_unknown_image_in_the_path_gets_404(service: Service, image: int) -> None:
    path = NESTED.replace("/7/", f"/{image}/")
    for body in (xml_body(image=None), xml_body(imageUri=f"users/root/appliances/4/images/{image}"), "<"):
        answer = service.post(path, body)
        assert answer.status == 404
        assert answer.problem() == f"appliance 4 of root has no image {image}"


@pytest.mark.parametrize(
    "uri",
    [
        "users/root/appliances/4/images/7",
        "/users/root/appliances/4/images/7",
        "api/users/root/appliances/4/images/7",
        "/api/users/root/appliances/4/images/7/",
        "users/%72oot/appliances/4/images/7",
        " users/root/appliances/4/images/7 ",
    ],
)
def test_image_uri_may_be_written_in_several_ways(service: Service, uri: str) -> None:
    for path in (FLAT, NESTED):
        answer = service.post(path, xml_body(imageUri=uri), accept=JSON)
        assert answer.json["imageUri"] == "users/root/appliances/4/images/7"


def test_appliance_may_be_given_by_both_names(service: Service) -> None:
    body = xml_body(applianceUri="users/root/appliances/4", parentUri="users/root/appliances/4")
    answer = service.post(FLAT, body)
    assert answer.status == 201
    assert answer.text("parentUri") == "users/root/appliances/4"
    assert b"applianceUri" not in answer.body


def test_administrator_publishes_for_another_user(service: Service) -> None:
    body = xml_body(image=21, applianceUri="users/alice/appliances/14")
    answer = service.post("users/alice/appliances/14/pimages", body, login="root", accept=JSON)
    assert answer.status == 201
    assert service.ticket(answer.json["dbId"]).owner == "alice"


# The account ------------------------------------------------------------------------------------------------------

NO_ACCOUNT = [
    ({"credAccount": None}, "credAccount"),
    ({"credAccount": ""}, "credAccount"),
    ({"credAccount": {}}, "credAccount"),
    ({"credAccount": {"name": "mine"}}, "credAccount"),
    ({"account__password": None}, "credAccount.password"),
    ({"account__targetPlatform": None}, "credAccount.targetPlatform.name"),
    ({"account__targetPlatform": {"name": "nimbus"}}, "credAccount.targetPlatform.name"),
    ({"account__targetPlatform": {"type": "nimbus"}}, "credAccount.targetPlatform.type"),
    ({"account__targetPlatform": {"name": ""}}, "credAccount.targetPlatform.name"),
    ({"account__keystoneVersion": "v4"}, "credAccount.keystoneVersion"),
    ({"account__keystoneVersion": "3"}, "credAccount.keystoneVersion"),
    ({"account__keystoneVersion": "V3"}, "credAccount.keystoneVersion"),
    ({"account__keystoneVersion": "v2"}, "credAccount.keystoneVersion"),
    ({"account__keystoneVersion": "v2.0", "keystoneProject": None}, "tenantName"),
]


@pytest.mark.parametrize(("changes", "named"), NO_ACCOUNT)
def test_invalid_account_is_refused(service: Service, changes: dict[str, Any], named: str) -> None:
    for path in (FLAT, NESTED):
        assert refused(service, xml_body(**changes), path).startswith(named)
        if changes.get("credAccount") != "":
            assert refused(service, json_body(**changes), path, JSON).startswith(named)


@pytest.mark.parametrize(
    "reference",
    [{"dbId": 3}, {"uri": "users/root/accounts/3"}, {"name": "mine"}, {"dbId": 3, "uri": "users/root/accounts/3"}],
)
def test_reference_to_an_unknown_account_is_refused(service: Service, reference: dict[str, Any]) -> None:
    account = reference | {"targetPlatform": {"name": "openstack"}}
    for body, kind in ((xml_body(credAccount=account), XML), (json_body(credAccount=account), JSON)):
        message = refused(service, body, kind=kind)
        assert message.startswith("credAccount: ")
        assert "stored account" in message


def test_unknown_reference_in_an_inline_account_is_refused(service: Service) -> None:
    answer = service.post(FLAT, xml_body(account__name="mine"))
    assert answer.status == 201, "a whole account may have a name"
    for reference in ({"account__dbId": 3}, {"account__uri": "users/root/accounts/3", "account__name": "mine"}):
        assert refused(service, xml_body(**reference)).startswith("credAccount: ")


@pytest.mark.parametrize("platform", ["aws", "azure", "google", "vcenter", "vcd", "K5", "oracle", "susecloud"])
def test_platform_without_a_plugin_is_refused(service: Service, platform: str) -> None:
    body = xml_body(credAccount={"targetPlatform": {"name": platform}, "login": "x", "password": SECRET})
    message = refused(service, body)
    assert message.startswith("credAccount.targetPlatform.name: ")
    assert installed() == ("memory", "openstack")
    assert "memory, openstack" in message


ADDRESSES = [
    "ftp://cloud:5000",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "cloud:5000",
    "//cloud:5000",
    "cloud",
    "http://",
    "http:///v3",
    "http://:5000",
    "http:cloud",
    "http://cloud:99999",
    "http://cloud:0",
    "http://cloud:-1",
    "http://cloud:port",
    "http://[::1",
    "http://[cloud]",
    "http://cl oud:5000",
    "http://cl\noud:5000",
    "http://cloud:5000/\tv3",
    f"http://demo:{SECRET}@cloud:5000",
    "http://demo@cloud:5000",
    "http://@cloud:5000",
    f"http://:{SECRET}@cloud:5000",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("name", ["keystoneUrl", "glanceUrl"])
def test_invalid_address_is_refused(service: Service, name: str, address: str) -> None:
    changes: dict[str, Any] = {f"account__{name}": address}
    for body, kind in ((xml_body(**changes), XML), (json_body(**changes), JSON)):
        message = refused(service, body, kind=kind)
        assert message.startswith(f"credAccount.{name}: ")
        assert SECRET not in message


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:5000",
        "https://cloud.example.com",
        "HTTPS://Cloud.Example.com:443/identity/v3/",
        "http://[::1]:5000/v2.0",
        "http://cloud:65535",
        "http://ip:5000",
        "https://bücher.example/identity",
    ],
)
def test_valid_address_is_kept_unchanged(service: Service, address: str) -> None:
    answer = service.post(FLAT, xml_body(account__keystoneUrl=address, account__glanceUrl=address), accept=JSON)
    assert answer.json["credAccount"]["keystoneUrl"] == answer.json["credAccount"]["glanceUrl"] == address


@pytest.mark.parametrize("named", [{"tenantName": "t"}, {"keystoneProject": "t"}])
def test_keystone_v2_accepts_tenant_name_or_project(service: Service, named: dict[str, str]) -> None:
    changes: dict[str, Any] = {"keystoneProject": None, "account__keystoneVersion": "v2.0"} | named
    assert service.post(FLAT, xml_body(**changes)).status == 201


def test_another_platform_is_accepted(service: Service) -> None:
    body = xml_body(credAccount={"targetPlatform": {"name": "memory"}})
    answer = service.post(FLAT, body, accept=JSON)
    assert answer.json["@type"] == "PublishImageMemory"
    assert answer.json["credAccount"]["@type"] == "CredAccountMemory"


# The ticket is safe before a worker is woken ----------------------------------------------------------------------


class TestWaking:
    def test_worker_is_woken_once_after_the_commit(self, fresh: Service) -> None:
        made = [fresh.publish().id for _ in range(3)]
        assert fresh.waker.ids == made
        assert fresh.waker.committed == [True, True, True]
        # A worker was just woken, so the reconciler need not wake one for a while.
        assert fresh.store.tickets.due() == []

    def test_refused_request_wakes_no_worker(self, fresh: Service) -> None:
        fresh.post(ALICES, "<", login="alice")
        fresh.post(ALICES, xml_body(image=None), login="bob")
        assert fresh.waker.ids == []

    @pytest.mark.parametrize("accept", [XML, JSON])
    def test_ticket_is_accepted_while_the_broker_is_down(
        self, fresh: Service, accept: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        fresh.waker.break_down()
        answer = fresh.post(ALICES, xml_body(image=None), login="alice", accept=accept)
        assert answer.status == 201
        (ticket,) = fresh.store.tickets.list()
        assert fresh.waker.ids == [ticket.id]
        assert ticket.state is State.QUEUED
        assert list(fresh.store.tickets.due()) == [ticket.id]
        assert f"ticket {ticket.id} was accepted, but no worker was woken" in caplog.text
        again = fresh.get(f"{ticket_path(ticket)}/status", login="alice")
        assert again.text("message") == "Queued"

    def test_ticket_is_accepted_if_the_waker_fails_unexpectedly(self, fresh: Service) -> None:
        fresh.waker.fails_with = RuntimeError("boom")
        assert fresh.post(ALICES, xml_body(image=None), login="alice").status == 201
        assert len(fresh.store.tickets.list()) == 1

    def test_ticket_is_accepted_by_the_real_queue_without_a_broker(self, start: Callable[..., Service]) -> None:
        """The real queue is used, but no broker runs at its address."""
        assert start(real_queue=True).publish().state is State.QUEUED

    def test_failed_commit_wakes_no_worker(self, fresh: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("a detail of the inside")

        monkeypatch.setattr(NewTickets, "create_all", fail)
        answer = fresh.post(ALICES, xml_body(image=None), login="alice")
        assert answer.status == 500
        assert "unexpected" in answer.problem()
        assert b"inside" not in answer.body
        assert fresh.waker.ids == []


def test_account_in_the_ticket_has_no_secret(fresh: Service) -> None:
    ticket = fresh.publish()
    assert ticket.account == {
        name: value for name, value in ACCOUNT.items() if name not in ("password", "targetPlatform")
    }
    assert SECRET not in repr(ticket)


@pytest.mark.parametrize("kind", [XML, JSON])
def test_full_queue_gets_429_with_retry_after(start: Callable[..., Service], kind: str) -> None:
    service = start(user_queue_max=2)
    accepted = [service.publish(image=7, login="root") for _ in range(2)]
    before = len(service.store.tickets.list()), len(service.waker.ids)
    answer = service.post(FLAT, xml_body(), accept=kind)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "30")
    assert answer.problem() == "2 of your images are waiting to be published; try again later"
    assert (len(service.store.tickets.list()), len(service.waker.ids)) == before
    service.publish()  # another user's
    service.store.tickets.request_cancel(accepted[0].id)
    service.publish(image=7, login="root")


# Names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [XML, JSON])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a\nb", "displayName: has a line break (U+000A) at position 1"),
        ("a\u2028b", "displayName: has a line break (U+2028) at position 1"),
        ("a\tb", "displayName: has a character that cannot be shown (U+0009) at position 1"),
        ("  ", "displayName: consists of blanks only"),
        ("\ufffd", "displayName: is not UTF-8"),
        ("web \U0001f600", "displayName: has the character U+1F600, which openstack does not take"),
    ],
)
def test_invalid_display_name_is_refused(service: Service, kind: str, name: str, words: str) -> None:
    body = xml_body(displayName=name) if kind == XML else json_body(displayName=name)
    assert refused(service, body, kind=kind).startswith(words)


def test_image_name_as_display_name_must_suit_the_cloud_too(fresh: Service) -> None:
    path = "users/root/appliances/4/images?name=web%20%F0%9F%98%80"
    answer = fresh.post(path, disks.qcow2(5 << 30), content_type="application/octet-stream", accept=JSON)
    assert answer.status == 201, answer.body
    path = f"users/root/appliances/4/images/{answer.json['dbId']}/pimages"
    body = json_body(image=None, displayName=None)
    assert refused(fresh, body, path, kind=JSON).startswith("displayName: has the character U+1F600, which openstack")
    named = json_body(image=None, displayName="web")
    assert fresh.post(path, named, content_type=JSON).status == 201
