"""Malicious bodies, paths and ids, and an unavailable store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from publisher.store import Store, database
from publisher.store.engine import open_engine
from publisher.store.new_tickets import NewTickets
from publisher.store.publications import Publications
from tests.service import (
    DATA,
    JSON,
    SECRET,
    UFORGE,
    XML,
    Answer,
    Service,
    basic,
    document,
    fill,
    json_body,
    serving,
    ticket_path,
    xml_body,
)

FLAT = "users/root/appliances/4/pimages"
MANUAL = (DATA / "publish-openstack-v2.xml").read_text()


def alive(service: Service) -> None:
    assert service.get(FLAT).status == 200


# Bodies -----------------------------------------------------------------------------------------------------------


def _laughs(levels: int) -> str:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, levels))
    return f'<!DOCTYPE l [<!ENTITY l0 "{SECRET}">{entities}]>'


def _with_entity(doctype: str, reference: str) -> str:
    return doctype + xml_body(displayName=reference.encode())


ENTITIES = {
    "billion laughs": _with_entity(_laughs(10), "&l9;"),
    "billion laughs in an attribute": _laughs(10) + f'<n:publishImage xmlns:n="{UFORGE}" x="&l9;"/>',
    "quadratic blowup": _with_entity(f'<!DOCTYPE l [<!ENTITY a "{"a" * 50_000}">]>', "&a;" * 5000),
    "external file": _with_entity('<!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]>', "&x;"),
    "external address": _with_entity('<!DOCTYPE l [<!ENTITY x SYSTEM "http://127.0.0.1:1/x">]>', "&x;"),
    "parameter entity": '<!DOCTYPE l [<!ENTITY % x SYSTEM "file:///etc/hostname"> %x;]>' + xml_body(),
    "external DTD": '<!DOCTYPE l SYSTEM "http://127.0.0.1:1/x.dtd">' + xml_body(),
    "harmless DTD": f"<!DOCTYPE publishImage>{xml_body()}",
    "DTD and the manual's flaw": f"<!DOCTYPE publishImage>{MANUAL}",
    "undefined entity": xml_body(displayName=b"&nbsp;"),
    "entity of itself": _with_entity('<!DOCTYPE l [<!ENTITY a "&a;">]>', "&a;"),
    "inclusion": xml_body(
        displayName=b'<x:include xmlns:x="http://www.w3.org/2001/XInclude" parse="text" href="/etc/passwd"/>'
    ),
    "default attribute": '<!DOCTYPE l [<!ATTLIST credAccount x CDATA "y">]>' + xml_body(),
}


@pytest.mark.parametrize("name", ENTITIES)
def test_entities_and_inclusions_are_refused(service: Service, name: str) -> None:
    answer = service.post(FLAT, ENTITIES[name])
    assert answer.status == 400
    message = answer.problem()
    assert "root:" not in message
    assert len(message) < 500
    alive(service)


DEEP = {
    "xml": ("<a>" * 10_000 + "</a>" * 10_000, XML),
    "xml in place": (xml_body(neverHeardOf=b"<a>" * 200 + b"</a>" * 200), XML),
    "xml with the manual's flaw": (MANUAL.replace("<instances>", "<a>" * 200 + "</a>" * 200 + "<instances>"), XML),
    "xml never closed": (f'<n:publishImage xmlns:n="{UFORGE}">' + "<a>" * 200_000, XML),
    "json arrays": ("[" * 100_000 + "]" * 100_000, JSON),
    "json arrays never closed": ("[" * 500_000, JSON),
    "json objects": ('{"a":' * 100_000 + "1" + "}" * 100_000, JSON),
    "json in place": (json.dumps(document() | {"x": json.loads("[" * 100 + "]" * 100)}), JSON),
    "many elements": (xml_body(neverHeardOf=b"<a/>" * 50_000), XML),
    "many members": (json.dumps(document() | {"x": [0] * 50_000}), JSON),
    "many attributes": (
        f'<n:publishImage xmlns:n="{UFORGE}" ' + " ".join(f'a{n}=""' for n in range(50_000)) + "/>",
        XML,
    ),
    "many namespaces": (
        f'<n:publishImage xmlns:n="{UFORGE}" ' + " ".join(f'xmlns:a{n}="u"' for n in range(20_000)) + "/>",
        XML,
    ),
    "a long name": (f'<n:publishImage xmlns:n="{UFORGE}"><{"a" * 900_000}/></n:publishImage>', XML),
    "a long text": (xml_body(neverHeardOf="a" * 900_000, displayName="a" * 100_000), XML),
    "quotes without an end": ('"' + '\\"' * 400_000, JSON),
    "a million quotes": ('"' * 1_000_000, JSON),
    "a million quotes in a list": ('["",' + '""' * 500_000, JSON),
    "escapes": ('{"' + "\\u0041" * 150_000, JSON),
}


@pytest.mark.parametrize("name", DEEP)
def test_extremely_deep_wide_or_long_document_is_refused(service: Service, name: str) -> None:
    body, kind = DEEP[name]
    answer = service.post(FLAT, body, content_type=kind)
    assert answer.status == 400
    assert len(answer.problem()) < 500
    alive(service)


LIMIT = 1 << 20


@pytest.mark.parametrize("size", [LIMIT + 1, 2 * LIMIT, 9 * LIMIT, 12 * LIMIT])
@pytest.mark.parametrize("accept", [XML, JSON])
def test_body_above_the_limit_gets_413(service: Service, size: int, accept: str) -> None:
    for kind in (XML, JSON):
        answer = service.post(FLAT, b" " * size, content_type=kind, accept=accept)
        assert answer.status == 413
        assert answer.headers["content-type"] == accept
        assert str(LIMIT) in answer.problem()


def test_body_at_the_limit_is_accepted(service: Service) -> None:
    for body, kind in ((xml_body(), XML), (json_body(), JSON)):
        assert service.post(FLAT, body + " " * (LIMIT - len(body)), content_type=kind).status == 201


def test_body_limit_is_configurable(start: Callable[..., Service]) -> None:
    service = start(request_bytes_max=5000)
    assert service.post(FLAT, xml_body()).status == 201
    assert service.post(FLAT, xml_body() + " " * 5000).status == 413


@pytest.mark.parametrize(
    "body",
    [
        json_body().replace('"displayName"', '"displayName": "b", "displayName"'),
        json_body().replace('"login"', '"login": "b", "login"'),
        json_body().replace('"credAccount"', '"credAccount": {}, "credAccount"'),
        json_body().replace("{", '{"@type": "PublishImageOpenStack", "@type": "PublishImageAws", ', 1),
        json_body().replace("{", '{"unknown": {"a": 1, "a": 2}, ', 1),
    ],
)
def test_repeated_json_name_is_refused(service: Service, body: str) -> None:
    answer = service.post(FLAT, body, content_type=JSON)
    assert answer.status == 400
    assert "more than once" in answer.problem()


BYTES = [
    b"\xff\xfe\x00",
    b"\xff" * 1000,
    b"\x00" * 1000,
    json_body().encode("utf-16"),
    json_body(displayName="å").replace("\\u00e5", "å").encode("latin-1"),
    xml_body(displayName="å").encode("latin-1"),
    xml_body(displayName="PLACE").encode().replace(b"PLACE", b"\xc0\x80"),
    xml_body(displayName="PLACE").encode().replace(b"PLACE", b"\xed\xa0\x80"),
    json_body(displayName="PLACE").encode().replace(b"PLACE", b"\xed\xa0\x80"),
    b'<?xml version="1.0" encoding="no-such"?>' + xml_body().encode(),
    b'<?xml version="1.0" encoding="rot13"?>' + MANUAL.encode(),
    b'<?xml version="1.0" encoding="idna"?>' + MANUAL.encode(),
    b'<?xml version="9.9"?><a',
    b"\x1f\x8b\x08\x00" + b"\x00" * 100,
    b"--x\r\nContent-Disposition: form-data\r\n\r\n",
    b"null",
    b"true",
    b'"text"',
    b"[]",
    b"7",
    b"-",
    b"",
    b"\xef\xbb\xbf",
    b"<?xml version='1.0'?>",
    b"<!-- -->",
    b"<",
    b"]]>",
]


@pytest.mark.parametrize("body", BYTES, ids=range(len(BYTES)))
def test_bytes_without_a_valid_document_get_400(service: Service, body: bytes) -> None:
    for kind in (XML, JSON):
        answer = service.post(FLAT, body, content_type=kind)
        assert answer.status == 400
        assert answer.problem()


@pytest.mark.parametrize("cut", range(1, len(MANUAL.strip()) - 1, 37))
def test_truncated_body_gets_400(service: Service, cut: int) -> None:
    assert service.post(FLAT, MANUAL.strip()[:cut]).status == 400
    whole = json_body()
    assert service.post(FLAT, whole[: cut % (len(whole) - 1)], content_type=JSON).status == 400


def test_no_message_shows_the_password(service: Service) -> None:
    """No error near the password reveals it."""
    good = xml_body()
    for broken in (
        good.replace("</password>", "</passwort>"),
        good.replace("</password>", ""),
        good.replace("<password>", "<password"),
        good.replace("</password>", "&bad;</password>"),
        good.replace("</password>", "<x/></password>"),
        good.replace("</password>", "\x01</password>"),
        good.replace("<password>", '<password xsi:type="x">'),
        good.replace("<password>", f"{SECRET}<password>"),
        good.replace("<n:publishImage", f"{SECRET}<n:publishImage"),
        good + SECRET,
        good.replace(SECRET, SECRET * 1000),
    ):
        answer = service.post(FLAT, broken)
        assert answer.status in (201, 400)
        if answer.status == 400:
            answer.problem()
        assert SECRET.encode() not in answer.body
    for value in (SECRET * 1000, SECRET + "\0", [SECRET], {SECRET: SECRET}):
        answer = service.post(FLAT, json_body(account__password=value), content_type=JSON)
        assert answer.status == 400
        assert SECRET.encode() not in answer.body
    for broken in (
        json_body()[:-1],
        json_body().replace(SECRET, f'{SECRET}"'),
        json_body().replace(SECRET, f"{SECRET}\n"),
    ):
        answer = service.post(FLAT, broken, content_type=JSON)
        assert answer.status == 400
        assert SECRET.encode() not in answer.body


# Paths ------------------------------------------------------------------------------------------------------------

IMPOSSIBLE = [
    "99999999999999999999", "9223372036854775808", "-9223372036854775809", "1" * 5000, "-1", "0", "007", "+4", "4.0",
    "4e0", "0x4", "4_0", "%20", "%204", "4%00", "%D9%A4", "four", "None", "null",
    "4;5", "4,5", "*", "'", "%27%20OR%201=1",
]  # fmt: skip


@pytest.mark.parametrize("id", IMPOSSIBLE)
def test_impossible_id_gets_404(service: Service, id: str) -> None:
    for method, path in (
        ("GET", f"users/root/appliances/{id}/pimages"),
        ("GET", f"users/root/appliances/{id}/pimages/statuses"),
        ("POST", f"users/root/appliances/{id}/pimages"),
        ("POST", f"users/root/appliances/4/images/{id}/pimages"),
        ("POST", f"users/root/appliances/{id}/images/7/pimages"),
        ("GET", f"users/root/appliances/4/images/7/pimages/{id}"),
        ("GET", f"users/root/appliances/4/images/{id}/pimages/1"),
        ("GET", f"users/root/appliances/{id}/images/7/pimages/1"),
        ("GET", f"users/root/appliances/4/images/7/pimages/{id}/status"),
    ):
        answer = service.call(method, path, body=xml_body(image=None).encode(), content_type=XML)
        assert answer.status == 404
        assert answer.problem() == "there is no such resource"
        assert service.call(method, path, login=None).status == 401


def ids_at_the_bounds(service: Service) -> None:
    """Check that neither the largest 64-bit id nor the next one is found. Only the first is looked up at all."""
    most = (1 << 63) - 1
    for id in (most, most + 1):
        for path in (
            f"users/root/appliances/{id}/images/7/pimages/1",
            f"users/root/appliances/4/images/{id}/pimages/1",
            f"users/root/appliances/4/images/7/pimages/{id}/status",
        ):
            answer = service.get(path)
            assert answer.status == 404
            assert answer.problem()
        assert service.post(f"users/root/appliances/4/images/{id}/pimages", xml_body(image=None)).status == 404
    assert service.get(f"users/root/appliances/{most}/pimages").status == 404
    assert service.get(f"users/root/appliances/{most + 1}/pimages").status == 404


def logins_that_no_one_has(service: Service) -> None:
    for uid in ("ro%00ot", "%00", "a" * 10_000, "%FF", "root%20", "ROOT", "r%C3%B6%C3%B6t", "%F0%9F%98%80", "'--"):
        for path in ("pimages", "pimages/statuses", "images/7/pimages/1"):
            answer = service.get(f"users/{uid}/appliances/4/{path}")
            assert answer.status == 404
            assert "no user" in answer.problem()
    for login in ("ro\0ot", "\0", "a" * 10_000, "root\x7f", "\U0001f600", "'--"):
        assert service.get(FLAT, login=None, headers={"Authorization": basic(login, "x")}).status == 401


def test_ids_around_the_64_bit_limit_are_not_found(service: Service) -> None:
    ids_at_the_bounds(service)


def test_odd_unknown_logins_get_404_or_401(service: Service) -> None:
    logins_that_no_one_has(service)


@pytest.mark.long
def test_odd_ids_logins_and_texts_are_handled_on_every_database(database_url: str, tmp_path: Path) -> None:
    store = Store(open_engine(database_url))
    fill(store)
    store.close()
    with serving(tmp_path / "data", database_url=database_url) as service:
        ids_at_the_bounds(service)
        logins_that_no_one_has(service)
        ticket = service.publish(xml_body(image=None, displayName="\u263a '); DROP TABLE users; --"))
        assert service.get(ticket_path(ticket), login="alice").text("displayName") == ticket.name
        message = service.post(FLAT, json_body(displayName="a\0b"), content_type=JSON).problem()
        assert message.startswith("displayName: ")


@pytest.mark.parametrize("path", ["a" * 60_000, "%", "%zz", "%2e%2e/%2e%2e/etc/passwd", "users/%0d%0aX-Injected:%20y"])
def test_odd_path_gets_404(service: Service, path: str) -> None:
    answer = service.get(path)
    assert answer.status == 404
    assert "x-injected" not in answer.headers
    assert answer.problem()


@pytest.mark.parametrize(
    "host",
    [
        "[",
        "a b",
        "a/b",
        "@",
        "x:99999",
        "",
        "å",
        "evil.example\\@x",
        "1.2.3.4:",
        "evil.example",
        "127.0.0.1.evil.example",
    ],
)
def test_foreign_host_header_does_not_reach_the_location(service: Service, host: str) -> None:
    """The Location always has the service's own address, whatever Host header the caller sends."""
    answer = service.post(FLAT, xml_body(), headers={"Host": host})
    assert answer.status == 201
    assert answer.headers["location"].startswith("http://testserver:80/api/")
    assert f"/api/{FLAT.replace('/pimages', '/images/7/pimages')}" in answer.headers["location"]
    assert service.get("nowhere", headers={"Host": host}).problem()


# An unavailable store ---------------------------------------------------------------------------------------------


def unavailable(answer: Answer) -> None:
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    message = answer.problem()
    assert "nothing was accepted" in message
    for detail in (b"Traceback", b"sqlite", b"sqlalchemy", b"publisher.db", b"SELECT", b"file is not"):
        assert detail not in answer.body


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch, start: Callable[..., Service]) -> Iterator[Service]:
    """An intake that waits only briefly for a lock, while another connection holds the lock."""
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.05)
    service = start()
    other = sqlite3.connect(service.settings.data_dir / "publisher.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield service
    other.close()


@pytest.mark.parametrize("accept", [XML, JSON])
def test_locked_database_gets_503_only_for_writes(busy: Service, accept: str) -> None:
    unavailable(busy.post(FLAT, xml_body(), accept=accept))
    assert busy.waker.ids == []
    assert busy.store.tickets.list() == []
    # Reading still works.
    alive(busy)


@pytest.mark.parametrize(
    "content", [b"garbage" * 10_000, b"", b"SQLite format 3\0" + b"\xff" * 8192], ids=["garbage", "empty", "torn"]
)
def test_damaged_database_gets_503(fresh: Service, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    alive(fresh)
    fresh.store.engine.dispose()
    for file in fresh.settings.data_dir.glob("publisher.db*"):
        file.unlink()
    (fresh.settings.data_dir / "publisher.db").write_bytes(content)
    for accept in (XML, JSON):
        unavailable(fresh.post(FLAT, xml_body(), accept=accept))
        unavailable(fresh.get(FLAT, accept=accept))
        unavailable(fresh.get("users/root/appliances/4/images/7/pimages/1/status", accept=accept))
    assert fresh.waker.ids == []
    # The status does not depend on the database.
    assert fresh.get("status").status == 200
    assert "Traceback" not in caplog.text


def test_requests_succeed_again_after_a_database_error(fresh: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:

        def fail(*_: object, **__: Any) -> None:
            raise OperationalError(f"INSERT {SECRET}", {"sealed_secrets": SECRET}, RuntimeError(SECRET))

        patch.setattr(NewTickets, "create_all", fail)
        unavailable(fresh.post(FLAT, xml_body()))
    assert fresh.post(FLAT, xml_body()).status == 201


def test_internal_error_gets_500_without_details(fresh: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: Any) -> None:
        raise RuntimeError("a detail of the inside")

    monkeypatch.setattr(Publications, "whole", fail)
    for accept in (XML, JSON):
        answer = fresh.get(FLAT, accept=accept)
        assert answer.status == 500
        assert answer.headers["content-type"] == accept
        assert "log" in answer.problem()
        assert b"inside" not in answer.body
