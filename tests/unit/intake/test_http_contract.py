"""Every resource of the contract, requested by every kind of caller."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lxml import etree

from publisher.core.image import Image
from publisher.intake.openapi import resources
from tests.service import JSON, PASSWORDS, UFORGE, XML, Answer, Service
from tests.unit.intake.contract import CONTRACT, FILES, GETS, Belongings, Row, make_key

pytestmark = pytest.mark.long

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
NOBODY = "nobody"

every_row = pytest.mark.parametrize("row", CONTRACT, ids=str)
every_get = pytest.mark.parametrize("row", GETS, ids=str)
both_formats = pytest.mark.parametrize("accept", [XML, JSON])


@pytest.fixture(scope="module")
def alices(service: Service) -> Belongings:
    """Alice's objects, for tests that read them or are refused. No test may change them."""
    return Belongings.make(service, "alice")


@pytest.fixture(scope="module")
def bobs(service: Service) -> Belongings:
    return Belongings.make(service, "bob")


@pytest.fixture(scope="module")
def carols(service: Service) -> Belongings:
    return Belongings.make(service, "carol")


@pytest.fixture(scope="module")
def readable(service: Service) -> Belongings:
    """More objects of Alice, to be read only."""
    return Belongings.make(service, "alice")


def objects_for(row: Row, readable: Belongings) -> Belongings:
    """Return objects of Alice that a request for this row may change. One that only reads gets the shared ones."""
    # A user has only one webhook, which other tests delete.
    if row.method == "GET" and row.root != "webhook":
        return readable
    return Belongings.make(readable.service, "alice", row.state, row.image)


def check_error(answer: Answer, status: int, accept: str | None = None) -> str:
    assert answer.status == status
    assert answer.headers["content-type"] == (accept or XML)
    if status == 401:
        assert re.fullmatch(r'Basic realm="[^"]+".*', answer.headers["www-authenticate"])
    return answer.problem()


def test_the_routes_are_declared_as_the_contract_says(service: Service) -> None:
    found = resources(service.app.routes)
    own = {re.sub(r"\{\w+\}", "{}", f"{each.method} {each.path[1:]}"): each.operation for each in found}
    for row in CONTRACT:
        each = own[re.sub(r"\{\w+\}", "{}", str(row))]
        assert (each.entitlement, each.answer, each.status, each.body) == (
            row.entitlement,
            row.root,
            row.status,
            row.body,
        ), str(row)


@every_row
@both_formats
def test_owner_and_administrator_get_the_expected_answer(
    row: Row, accept: str, service: Service, readable: Belongings
) -> None:
    for login in ("alice", "root"):
        belongings = objects_for(row, readable)
        answer = belongings.ask(row, login, accept=accept)
        assert answer.status == row.status, answer.body
        if row.status == 204:
            assert answer.body == b""
            assert "content-type" not in answer.headers
            continue
        assert answer.headers["content-type"] == accept
        if accept == XML:
            assert answer.xml.tag == f"{{{UFORGE}}}{row.root}"
        else:
            assert isinstance(answer.json, dict)
        assert b"users/root" not in answer.body
        if row.status == 201:
            assert re.fullmatch(r"http://testserver/api/users/alice/[a-z0-9/]+", answer.headers["location"])
            assert service.get(answer.headers["location"].removeprefix("http://testserver"), login=login).status == 200


@every_get
@both_formats
def test_matching_etag_gets_304(row: Row, accept: str, alices: Belongings) -> None:
    first = alices.ask(row, "alice", accept=accept)
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", first.headers["last-modified"])
    assert "Accept" in first.headers["vary"]
    path = alices.path(row)
    for tag in (first.headers["etag"], f'"x", W/{first.headers["etag"]}', "*"):
        again = alices.service.get(path, login="alice", accept=accept, headers={"If-None-Match": tag})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    another = alices.service.get(path, login="alice", accept=accept, headers={"If-None-Match": '"x"'})
    assert (another.status, another.body) == (200, first.body)


@pytest.mark.parametrize("path", sorted({row.path for row in CONTRACT}))
def test_other_methods_get_405(path: str, alices: Belongings) -> None:
    allowed = {row.method for row in CONTRACT if row.path == path}
    allowed |= {"HEAD"} if "GET" in allowed else set()
    for method in METHODS:
        if method in allowed:
            continue
        for accept in (XML, JSON):
            answer = alices.service.call(method, alices.path(Row(method, path, "", "")), login="alice", accept=accept)
            assert answer.status == 405, method
            assert set(answer.headers["allow"].split(", ")) == allowed
            if method != "HEAD":
                check_error(answer, 405, accept)


@every_row
def test_unacceptable_format_gets_406(row: Row, alices: Belongings) -> None:
    answer = alices.ask(row, "alice", accept="image/png")
    assert XML in check_error(answer, 406)


@pytest.mark.parametrize("row", [row for row in CONTRACT if row.body], ids=str)
def test_body_of_another_type_gets_415(row: Row, alices: Belongings) -> None:
    for content_type in (None, "text/plain", "application/x-www-form-urlencoded"):
        path = alices.path(row)
        answer = alices.service.call(row.method, path, login="alice", content_type=content_type, body=b"<a/>")
        check_error(answer, 415)


# Callers ----------------------------------------------------------------------------------------------------------


@every_row
@both_formats
def test_invalid_login_gets_401(row: Row, accept: str, alices: Belongings, bobs: Belongings, service: Service) -> None:
    other = make_key(service, "alice")
    path = alices.path(row)
    wrong: dict[str, Callable[[], Answer]] = {
        "no login": lambda: alices.ask(row, None, accept=accept),
        "a wrong password": lambda: alices.ask(row, "alice", password="wrong", accept=accept),
        "another's password": lambda: alices.ask(row, "alice", password=PASSWORDS["bob"], accept=accept),
        "nobody": lambda: alices.ask(row, NOBODY, password=PASSWORDS["alice"], accept=accept),
        "a signature over another path": lambda: alices.ask(
            row, None, signer=alices.key, signed=f"users/alice/nothing?apiKey={alices.key.public}", accept=accept
        ),
        "one over the whole path": lambda: alices.ask(
            row, "alice", signer=alices.key, signed=f"/api/{path}?apiKey={alices.key.public}", accept=accept
        ),
        "one over another's path": lambda: alices.ask(
            row, None, signer=alices.key, signed=f"{bobs.path(row)}?apiKey={alices.key.public}", accept=accept
        ),
        "the secret of another key": lambda: alices.ask(
            row, "root", signer=type(other)(alices.key.public, other.secret, 0), accept=accept
        ),
        "an unknown key": lambda: alices.ask(
            row, "root", signer=type(other)("nokey", alices.key.secret, 0), accept=accept
        ),
    }
    for why, ask in wrong.items():
        answer = ask()
        assert answer.status == 401, why
        message = check_error(answer, 401, accept)
        assert alices.key.secret not in message
    assert alices.untouched()


@every_row
def test_signed_request_has_the_rights_of_the_keys_user(row: Row, service: Service, readable: Belongings) -> None:
    """A signed request may do whatever its key's user may do."""
    for signer in ("alice", "root"):
        belongings = objects_for(row, readable)
        key = belongings.key if signer == "alice" else make_key(service, "root")
        assert belongings.ask(row, None, signer=key).status == row.status


@every_row
@both_formats
def test_caller_without_the_entitlement_gets_403(row: Row, accept: str, carols: Belongings) -> None:
    for signer in (None, carols.key):
        answer = carols.ask(row, None if signer else "carol", signer=signer, accept=accept)
        if row.entitlement:
            assert row.entitlement in check_error(answer, 403, accept)
        else:
            assert answer.status == row.status


@every_row
@both_formats
def test_objects_of_another_user_look_missing(
    row: Row, accept: str, alices: Belongings, bobs: Belongings, carols: Belongings
) -> None:
    """Even a caller without entitlements cannot tell an existing user from a missing one."""
    for who in (bobs, carols):
        for signer in (None, who.key):
            login = None if signer else who.owner
            anothers = alices.ask(row, login, signer=signer, accept=accept)
            nobodys = alices.ask(row, login, signer=signer, accept=accept, uid=NOBODY)
            check_error(anothers, 404, accept)
            assert told(anothers, "alice") == told(nobodys, NOBODY)
    check_error(alices.ask(row, "root", accept=accept, uid=NOBODY), 404, accept)
    assert alices.untouched()


@pytest.mark.parametrize(
    ("row", "where"),
    [
        (row, where)
        for row in CONTRACT
        for where in re.findall(r"\{(\w*id)\}", row.path)[1:]
        # Here an unknown appliance is no error: its first image creates it.
        if row.body != "image"
    ],
    ids=lambda each: str(each),
)
@both_formats
def test_ids_of_another_user_look_unknown(
    row: Row, where: str, accept: str, alices: Belongings, bobs: Belongings
) -> None:
    """Bob's ids and unknown ids get the same answer, in every part of the path."""
    anothers = alices.ask(row, "alice", accept=accept, ids={where: bobs.ids[where]})
    nobodys = alices.ask(row, "alice", accept=accept, ids={where: 987654})
    assert told(anothers, str(bobs.ids[where])) == told(nobodys, "987654")
    assert bobs.untouched()
    # On the flat route another appliance contradicts the image's URI.
    assert anothers.status == (400 if row.body and row.path.endswith("{aid}/pimages") else 404)


def told(answer: Answer, name: str) -> tuple[object, ...]:
    """Return an answer's status, headers and body, with names and times masked."""
    headers = sorted(
        (key, value)
        for key, value in answer.headers.items()
        if key not in ("content-length", "last-modified", "etag", "x-request-id")
    )
    body = re.sub(r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "WHEN", answer.body.decode())
    return answer.status, headers, re.sub(rf"\b{name}\b", "NAME", body)


# Files ------------------------------------------------------------------------------------------------------------

PART = {"Range": "bytes=0-9"}


@pytest.fixture(scope="module")
def with_file(service: Service) -> Belongings:
    made = Belongings.make(service, "alice")
    put_file(service, service.store.images.find("alice", made.ids["aid"], made.ids["itid"]))
    return made


@pytest.mark.parametrize("row", FILES, ids=str)
def test_only_owner_and_administrator_get_a_file(
    row: Row, service: Service, with_file: Belongings, bobs: Belongings
) -> None:
    path = with_file.path(row)
    for login in ("alice", "root"):
        for target, who in ((path, login), (make_key(service, login).sign(path), None)):
            answer = service.get(target, login=who, headers=PART)
            assert (answer.status, answer.body) == (206, bytes(10))
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["content-disposition"].startswith("attachment; ")
            again = service.get(target, login=who, headers={"If-None-Match": answer.headers["etag"]})
            assert (again.status, again.body) == (304, b"")
    for accept in (XML, JSON):
        check_error(service.get(path, login=None, accept=accept), 401, accept)
        check_error(service.get(path, login="alice", password="wrong", accept=accept), 401, accept)
        check_error(service.get(with_file.key.sign(path, signed="status"), login=None, accept=accept), 401, accept)
        for who in ("bob", "carol"):
            check_error(service.get(path, login=who, accept=accept), 404, accept)
            check_error(service.get(with_file.path(row, "nobody"), login=who, accept=accept), 404, accept)
    assert service.get(bobs.path(row, "alice"), login="alice").status == 404


@pytest.mark.parametrize("row", FILES, ids=str)
def test_download_key_works_once(row: Row, service: Service, with_file: Belongings) -> None:
    of_ticket = "{pitid}" in row.path
    shown = next(each for each in GETS if each.root == ("publishImage" if of_ticket else "image"))
    for name in ("downloadId", "id") if of_ticket else ("downloadId",):
        key = with_file.ask(shown, "alice").text("downloadKey")
        target = f"{with_file.path(row)}?{name}={key}"
        assert service.get(target, login=None, headers=PART).status == 206
        check_error(service.get(target, login=None, headers=PART), 401)


# URIs -------------------------------------------------------------------------------------------------------------


def uris(document: Any) -> Iterator[str]:
    """Yield the text of each element of an XML answer whose name ends in `uri` or `Uri`."""
    for element in document.iter(etree.Element):
        if re.search(r"[uU]ri$", element.tag) and not len(element) and element.text:
            yield element.text


@pytest.mark.parametrize("row", [row for row in CONTRACT if row.root], ids=str)
def test_every_uri_of_an_answer_can_be_requested_as_is(row: Row, fresh: Service) -> None:
    belongings = Belongings.make(fresh, "alice", row.state, row.image)
    for image in fresh.store.images.list():
        put_file(fresh, image)
    found = set(uris(belongings.ask(row, "alice").xml))
    assert found or row.root == "roles"
    for uri in found:
        download = "/downloads" in uri
        answer = fresh.get(uri, login="alice", headers={"Range": "bytes=0-9"} if download else None)
        assert answer.status == (206 if download else 200), uri


def put_file(service: Service, image: Image) -> None:
    """Create a file of the image's size with an old time, so that the service does not examine its content."""
    file = service.settings.images / image.location
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        opened.truncate(image.size)
    os.utime(file, (0, 0))
