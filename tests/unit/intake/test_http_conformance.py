"""HTTP rules for every route: HEAD, encoded bodies, character sets, and the connection after an internal error."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import pytest

from publisher.core.image import ImageState
from publisher.core.ticket import State
from publisher.store.publications import Publications
from tests.service import JSON, UFORGE, XML, Answer, Service, json_body, xml_body
from tests.unit.intake.contract import CONTRACT, FILES, GETS, Belongings, Row

FLAT = "users/root/appliances/4/pimages"
_OF_THIS_ANSWER = {"x-request-id", "date", "last-modified"}
"""Headers that may differ between two equal requests. `last-modified` is the time of the request if the data has just
changed or changes all the time."""


def same_headers(head: Answer, got: Answer) -> None:
    assert head.status == got.status
    assert head.body == b""
    names = {name.lower() for name in [*head.headers, *got.headers]} - _OF_THIS_ANSWER
    assert {name: head.headers.get(name) for name in names} == {name: got.headers.get(name) for name in names}
    assert ("last-modified" in head.headers) is ("last-modified" in got.headers)
    if got.status != 304:
        assert head.headers["content-length"] == str(len(got.body))


@pytest.fixture(scope="module")
def belongings(service: Service) -> Belongings:
    """Alice's objects, shared by the tests that only read them."""
    return Belongings.make(service, "alice", State.FAILED, ImageState.READY)


# HEAD -------------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("accept", [XML, JSON])
@pytest.mark.parametrize("row", GETS, ids=str)
def test_head_has_the_headers_of_get_on_every_resource(
    service: Service, belongings: Belongings, row: Row, accept: str
) -> None:
    head = Row("HEAD", *(getattr(row, name) for name in ("path", "entitlement", "root")))
    for login in ("alice", "root", "bob", "carol", None):
        got = belongings.ask(row, login, accept=accept)
        same = belongings.ask(head, login, accept=accept)
        same_headers(same, got)
    etag = belongings.ask(row, "alice", accept=accept).headers["etag"]
    path = belongings.path(row)
    known = {"If-None-Match": etag}
    same_headers(*(service.call(m, path, login="alice", accept=accept, headers=known) for m in ("HEAD", "GET")))


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/docs", "/docs/start.js", "/docs/swagger-ui.css", "/api/status", "/nowhere",
             "/api/openapi.json", "/api/schema/uforge.xsd", "/api/nowhere", "/console/sign-in", "/console/publications",
             "/console", "/console/static/nowhere.js", "/"],
)  # fmt: skip
def test_head_has_the_headers_of_get_on_other_paths(service: Service, path: str) -> None:
    same_headers(service.call("HEAD", path, login=None), service.call("GET", path, login=None))


def test_head_of_the_metrics_has_no_body(service: Service) -> None:
    """The metrics change with every request, and so does their length."""
    head = service.call("HEAD", "/metrics", login=None)
    got = service.call("GET", "/metrics", login=None)
    assert (head.status, head.body) == (got.status, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert int(head.headers.get("content-length", "0")) > 0 or got.status != 200


@pytest.mark.parametrize("row", CONTRACT + FILES, ids=str)
def test_allow_header_has_head_exactly_if_it_has_get(service: Service, belongings: Belongings, row: Row) -> None:
    answer = service.call("PATCH", belongings.path(row), login="alice")
    assert answer.status == 405
    allowed = answer.headers["allow"].split(", ")
    assert ("HEAD" in allowed) is ("GET" in allowed)
    assert row.method in allowed
    refused = service.call("HEAD", belongings.path(row), login="alice")
    assert (refused.status == 405) is ("GET" not in allowed)


def test_head_on_a_post_only_route_gets_405(service: Service) -> None:
    refused = service.call("HEAD", "users/root/appliances/4/images/7/pimages/1/retry")
    assert (refused.status, refused.headers["allow"], refused.body) == (405, "POST", b"")


def test_head_request_is_counted_under_its_route(service: Service) -> None:
    service.call("HEAD", FLAT)
    counted = service.call("GET", "/metrics", login=None, headers={"Host": "localhost"})
    line = 'publisher_http_requests_total{method="HEAD",route="/api/users/{uid}/appliances/{aid}/pimages",status="200"}'
    assert counted.status != 200 or line in counted.body.decode()


# Encoded bodies ---------------------------------------------------------------------------------------------------

ENCODED = ["gzip", "x-gzip", "br", "deflate", "zstd", "identity, gzip", "aws-chunked", "GZIP", "no-such"]


def packed(text: str) -> bytes:
    return gzip.compress(text.encode())


@pytest.mark.parametrize("encoding", ENCODED)
def test_encoded_document_gets_415(service: Service, encoding: str) -> None:
    headers = {"Content-Encoding": encoding}
    for accept in (XML, JSON):
        answer = service.post(FLAT, packed(xml_body()), headers=headers, accept=accept)
        assert answer.status == 415
        assert "Content-Encoding" in answer.problem()
        assert answer.headers["content-type"] == accept
        assert answer.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("row", [row for row in CONTRACT if row.method in ("POST", "PUT")], ids=str)
def test_encoded_body_gets_415_on_every_route(service: Service, row: Row) -> None:
    objects = Belongings.make(service, "alice")
    body = packed("x")
    headers = {"Content-Encoding": "gzip"}
    answer = service.call(row.method, objects.path(row), login="alice", content_type=XML, body=body, headers=headers)
    assert answer.status == 415
    assert "Content-Encoding" in answer.problem()


def test_encoded_image_is_refused_and_not_kept(fresh: Service) -> None:
    before = fresh.get("users/root/appliances/4/images", accept=JSON).json["total"]
    answer = fresh.post(
        "users/root/appliances/4/images?name=x&format=raw&fileName=x.raw",
        packed("x" * 5000),
        content_type="application/octet-stream",
        headers={"Content-Encoding": "gzip"},
    )
    assert answer.status == 415
    assert fresh.get("users/root/appliances/4/images", accept=JSON).json["total"] == before


def test_encoded_form_gets_415_as_html(fresh: Service) -> None:
    answer = fresh.call(
        "POST",
        "/console/sign-in",
        login=None,
        body=packed("login=root"),
        content_type="application/x-www-form-urlencoded",
        headers={"Content-Encoding": "gzip"},
    )
    assert answer.status == 415
    assert b"Content-Encoding" in answer.body
    assert answer.headers["content-type"].startswith("text/html")
    assert "style-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("encoding", ["identity", "Identity", "", "identity, identity"])
def test_identity_encoding_is_accepted(service: Service, encoding: str) -> None:
    assert service.post(FLAT, xml_body(), headers={"Content-Encoding": encoding}).status == 201
    # Without a body there is nothing to decode.
    assert service.get(FLAT, headers={"Content-Encoding": "gzip"}).status == 200


# Character sets ---------------------------------------------------------------------------------------------------

NAME = "Größe ÅÄÖ"


def named(encoding: str, *, declared: str = "", bom: bytes = b"", name: str = NAME) -> bytes:
    declaration = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    return bom + (declaration + xml_body(displayName=name)).encode(encoding)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/xml; charset=iso-8859-1", named("latin-1")),
        ("application/xml; charset=ISO-8859-1", named("latin-1", declared="UTF-8")),
        ('application/xml; charset="iso-8859-1"', named("latin-1", declared="utf-16")),
        ("text/xml;charset=windows-1252", named("cp1252", declared="no-such")),
        ("application/xml; charset=utf-8", named("utf-8", declared="iso-8859-1")),
        ("application/xml; charset=utf-16", named("utf-16")),
        ("application/xml; charset=utf-16le", named("utf-16-le", declared="utf-8")),
        ("application/xml; charset=utf-16be", named("utf-16-be")),
        # A byte order mark overrides both.
        ("application/xml; charset=iso-8859-1", named("utf-8", bom=b"\xef\xbb\xbf")),
        ("application/xml; charset=iso-8859-1", named("utf-8", bom=b"\xef\xbb\xbf", declared="iso-8859-1")),
        ("application/xml", named("utf-8", bom=b"\xef\xbb\xbf", declared="iso-8859-1")),
        ("application/xml; charset=utf-8", named("utf-16", declared="iso-8859-1")),
        ("application/xml", named("utf-16", declared="utf-8")),
        # Without either of them, the declaration counts.
        ("application/xml", named("latin-1", declared="iso-8859-1")),
        ("application/xml", named("utf-8")),
    ],
)
def test_character_set_comes_from_bom_then_header_then_declaration(
    service: Service, content_type: str, body: bytes
) -> None:
    answer = service.post(FLAT, body, content_type=content_type, accept=JSON)
    assert answer.status == 201, answer.body
    assert answer.json["displayName"] == NAME


def test_character_set_applies_to_a_document_with_undeclared_prefix(service: Service) -> None:
    """The manual's example leaves a prefix undeclared. Such a document goes through another parser first."""
    body = f'<n:publishImage xmlns:n="{UFORGE}"><xsi:type></xsi:type>' + xml_body(displayName=NAME).partition(">")[2]
    answer = service.post(FLAT, body.encode("latin-1"), content_type="application/xml; charset=latin1", accept=JSON)
    assert answer.status == 201, answer.body
    assert answer.json["displayName"] == NAME


@pytest.mark.parametrize(
    "charset", ["no-such", "utf-7", "rot13", "idna", "punycode", "unicode_escape", "zlib", "base64", "utf-8\x00", "*"]
)
@pytest.mark.parametrize("kind", [XML, JSON])
def test_unknown_character_set_gets_415(service: Service, charset: str, kind: str) -> None:
    body = xml_body() if kind == XML else json_body()
    answer = service.post(FLAT, body, content_type=f"{kind}; charset={charset}")
    assert answer.status == 415
    assert "charset" in answer.problem()


@pytest.mark.parametrize("charset", ["utf-16", "iso-8859-1", "utf-32"])
def test_json_in_another_character_set_than_utf_8_gets_415(service: Service, charset: str) -> None:
    body = json_body().encode(charset)
    answer = service.post(FLAT, body, content_type=f"application/json; charset={charset}")
    assert answer.status == 415
    assert "UTF-8" in answer.problem()


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"', "us-ascii", ""])
def test_json_with_a_utf_8_compatible_charset_is_accepted(service: Service, charset: str) -> None:
    body = json_body()
    assert service.post(FLAT, body, content_type=f"application/json; charset={charset}").status == 201


def test_bytes_invalid_in_the_character_set_get_400(service: Service) -> None:
    for charset in ("us-ascii", "utf-8", "utf-16"):
        answer = service.post(FLAT, named("latin-1"), content_type=f"application/xml; charset={charset}")
        assert answer.status == 400
        assert answer.problem()


# After an internal error ------------------------------------------------------------------------------------------


def test_internal_error_closes_the_connection(fresh: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: Any) -> None:
        raise RuntimeError("a detail of the inside")

    assert "connection" not in fresh.get(FLAT).headers
    monkeypatch.setattr(Publications, "whole", fail)
    for accept in (XML, JSON):
        answer = fresh.get(FLAT, accept=accept)
        assert (answer.status, answer.headers["connection"]) == (500, "close")
        assert answer.problem()


def test_internal_error_of_the_console_is_html_and_closes_connection(
    start: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start()

    def fail(*_: object, **__: Any) -> None:
        raise RuntimeError("a detail of the inside")

    monkeypatch.setattr("publisher.console.routes.users.page", fail)
    answer = service.call("GET", "/console/sign-in", login=None)
    assert (answer.status, answer.headers["connection"]) == (500, "close")
    assert answer.headers["content-type"].startswith("text/html")
