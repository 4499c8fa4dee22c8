"""Every element of the documents that callers send, with every kind of invalid value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any
from xml.sax.saxutils import escape

import pytest

from publisher.intake.wire.schema import TYPES
from publisher.platforms.platform import Field, Kind, known_platforms
from tests.service import ACCOUNT, JSON, SECRET, UFORGE, XML, XSI, Answer, Service, document

PATHS = {
    "publishImage": "users/alice/appliances/14/images/21/pimages",
    "credAccount": "users/alice/accounts",
    "image": "users/alice/appliances/14/images",
}
"""Where each root is sent to."""
pytestmark = pytest.mark.long

CONTROL = ["a\x7fb", "\x85\x9f", "a\x1bb"]
ODD = ["", " \t\n", "åß→𝄞\u202e\u2028\ufeff", "' OR 1=1; -- ${jndi:x} ../../etc/passwd <&>\"'"]
"""Valid texts, although they may make no sense as a given element."""

_NOT_TEXT: list[Any] = [1, 1.5, True, [], ["x"], {}, {"x": "y"}]
_NO_NUMBER: list[Any] = ["1", "x", 1.5, True, 10**30, -(10**400), [], {}]
BAD_IN_JSON: dict[Kind, list[Any]] = {
    Kind.STRING: [*_NOT_TEXT, *CONTROL, "a\0b", "\ud800"],
    Kind.URI: [*_NOT_TEXT, *CONTROL, "a\0b", "\ud800"],
    Kind.BOOLEAN: ["true", "x", 0, 1, [], {}],
    Kind.INTEGER: _NO_NUMBER,
    Kind.LONG: _NO_NUMBER,
    Kind.DATE_TIME: [1, True, "yesterday", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00", "å", [], {}],
    Kind.OBJECT: ["x", 1, True, [], [{}]],
    Kind.POLYMORPHIC: ["x", 1, True, [], [{}]],
    Kind.LIST: ["x", 1, True, [], [{}]],
}
BAD_IN_XML: dict[Kind, list[str]] = {
    Kind.STRING: ["<x/>", "a<x>b</x>", *CONTROL[:2]],
    Kind.URI: ["<x/>", "a<x>b</x>", *CONTROL[:2]],
    Kind.BOOLEAN: ["<x/>", "yes", "TRUE", "2", "å"],
    Kind.INTEGER: ["<x/>", "x", "1.5", "1" * 30, "1" * 5000, "\u0661"],
    Kind.LONG: ["<x/>", "x", "1.5", "1" * 30, "1" * 5000, "\u0661"],
    Kind.DATE_TIME: ["<x/>", "yesterday", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00", "å"],
    Kind.OBJECT: ["text", "text<x/>"],
    Kind.POLYMORPHIC: ["text", "text<x/>"],
    Kind.LIST: ["text", "text<x/>"],
}


_numbers = count()


def cases() -> list[Any]:
    """Return the root, the platform and the elements to test. Elements that all platforms share are tested once."""
    made = []
    for platform in known_platforms():
        first = platform.name == "openstack"
        image, account = TYPES[platform.publish_image_type], TYPES[platform.cred_account_type]
        for root, object_type, own, inside in (
            ("publishImage", image, platform.target_fields, False),
            ("publishImage", account, platform.account_fields, True),
            ("credAccount", account, platform.account_fields, False),
        ):
            fields = object_type.fields if first else own
            made.append(
                pytest.param(root, platform.label, fields, inside, id=f"{object_type.name} in {root}"),
            )
    return made


def body(root: str, label: str, name: str, value: Any, *, inside: bool) -> dict[str, Any]:
    """Return a request for that platform that is valid except for one element."""
    account = {"@type": f"CredAccount{label}", **ACCOUNT, "targetPlatform": {"name": label.lower()}}
    if root == "credAccount":
        account["name"] = f"account {next(_numbers)}"
    made = account if root == "credAccount" else document(None, credAccount=account) | {"@type": f"PublishImage{label}"}
    (account if inside else made)[name] = value
    return made


def markup(value: Any) -> str:
    if not isinstance(value, dict):
        return (
            value.decode() if isinstance(value, bytes) else escape(str(value).lower() if value is False else str(value))
        )
    return "".join(
        f"<{name}{_type(each)}>{markup(each)}</{name}>" for name, each in value.items() if not name.startswith("@")
    )


def _type(value: Any) -> str:
    return f' xsi:type="n:{value["@type"]}"' if isinstance(value, dict) and "@type" in value else ""


def send(service: Service, root: str, made: dict[str, Any], form: str) -> Answer:
    if form == JSON:
        sent = json.dumps(made)
    else:
        sent = f'<n:{root} xmlns:n="{UFORGE}" xmlns:xsi="{XSI}"{_type(made)}>{markup(made)}</n:{root}>'
    answer = service.post(PATHS[root], sent, content_type=form, login="alice", accept=JSON)
    assert answer.status in (201, 400, 409), (answer.status, sent[:2000])
    assert SECRET.encode() not in answer.body
    return answer


@pytest.mark.parametrize("form", [XML, JSON])
@pytest.mark.parametrize(("root", "label", "fields", "inside"), cases())
def test_invalid_value_of_any_element_is_refused(
    service: Service, form: str, root: str, label: str, fields: tuple[Field, ...], inside: bool
) -> None:
    for field in fields:
        path = f"credAccount.{field.name}" if inside else field.name

        def ask(value: Any, name: str = field.name) -> Answer:
            return send(service, root, body(root, label, name, value, inside=inside), form)

        for bad in bad_values(field, form):
            answer = ask(bad)
            assert answer.status == 400, (path, bad)
            assert answer.problem().startswith(path), (path, bad, answer.problem())
            if field.secret and isinstance(bad, str) and len(bad) > 1:
                assert bad not in answer.problem()
        odd: list[Any] = [*ODD, None] if form == JSON else [each.encode() for each in map(escape, ODD)]
        for value in odd:
            answer = ask(value)
            if answer.status == 400:
                assert ": " in answer.problem(), (path, value, answer.problem())


def bad_values(field: Field, form: str) -> list[Any]:
    long = "x" * (field.limit + 1) if field.kind in (Kind.STRING, Kind.URI) else None
    if form == JSON:
        return [*BAD_IN_JSON[field.kind], *([long] if long else [])]
    return [each.encode() for each in (*BAD_IN_XML[field.kind], *([long] if long else []))]


def elements(object_type: str, *outer: str) -> Iterator[tuple[tuple[str, ...], Field]]:
    """Yield each element of a type, and those of the objects in it, with the names that lead to it."""
    for field in TYPES[object_type].fields:
        yield (*outer, field.name), field
        if field.kind is Kind.OBJECT:
            yield from elements(field.type, *outer, field.name)


@pytest.mark.parametrize("form", [XML, JSON])
def test_invalid_value_of_any_element_of_an_image_is_refused(service: Service, form: str) -> None:
    service.settings.images.mkdir(exist_ok=True)
    (service.settings.images / "disk.raw").write_bytes(b"an image")

    def ask(names: tuple[str, ...], value: Any) -> Answer:
        made: dict[str, Any] = {"location": "disk.raw", "name": "web"}
        inner = made
        for name in names[:-1]:
            inner = inner.setdefault(name, {})
        inner[names[-1]] = value
        return send(service, "image", made, form)

    found = list(elements("image"))
    assert len(found) > 60
    for names, field in found:
        path = ".".join(names)
        for bad in bad_values(field, form):
            answer = ask(names, bad)
            assert answer.status == 400, (path, bad)
            assert answer.problem().startswith(path), (path, bad, answer.problem())
        for value in ODD:
            answer = ask(names, value if form == JSON else escape(value).encode())
            if answer.status == 400:
                assert ": " in answer.problem(), (path, value, answer.problem())


@pytest.mark.parametrize("form", [XML, JSON])
@pytest.mark.parametrize(("root", "inside"), [("publishImage", False), ("publishImage", True), ("credAccount", False)])
def test_missing_element_is_refused_only_if_required(service: Service, form: str, root: str, inside: bool) -> None:
    needed = {"publishImage": {"credAccount"}, "credAccount": {"keystoneUrl", "login", "password"}}
    whole = body(root, "OpenStack", "name", "all of it", inside=inside)
    names = [name for name in (whole["credAccount"] if inside else whole) if name not in ("@type", "name")]
    assert len(names) > 4
    for name in names:
        made = body(root, "OpenStack", "name", f"{form} without {name}", inside=inside)
        (made["credAccount"] if inside else made).pop(name)
        answer = send(service, root, made, form)
        if name in needed["credAccount" if inside else root]:
            assert answer.status == 400
            assert name in answer.problem().partition(": ")[0]
        else:
            assert answer.status == 201, (name, answer.body)


@pytest.mark.parametrize(
    "char", [f"&#{number};" for number in (0, 1, 8, 0xB, 0x1F, 0xFFFE, 0xD800)] + ["\0", "\x01", "\ufffe"]
)
def test_invalid_xml_characters_are_refused(service: Service, char: str) -> None:
    for name in ("displayName", "imageUri", "publicImage"):
        answer = send(
            service, "publishImage", body("publishImage", "OpenStack", name, char.encode(), inside=False), XML
        )
        assert answer.status == 400
        assert "well-formed" in answer.problem()
