"""JSON: values that are read, values that are refused and their messages, and documents that are written."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from publisher.core.errors import BodyTooLarge, InvalidRequest
from publisher.intake.wire.formats import Format
from publisher.intake.wire.reading import MAX_BODY_BYTES, parse_json
from publisher.intake.wire.writing import write_document
from publisher.platforms.platform import Document
from tests.patience import PATIENCE

TYPE = '"@type": "PublishImageOpenStack"'


def openstack(members: str) -> bytes:
    return f"{{{TYPE}, {members}}}".encode("utf-8", "surrogatepass")


def refused(body: bytes, root: str = "publishImage") -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_json(root, body)
    return caught.value


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ('"name": "a"', {"name": "a"}),
        ('"name": " a "', {"name": " a "}),
        ('"name": "é\\ud83d\\ude00"', {"name": "é😀"}),
        ('"name": null, "dbId": null, "credAccount": null, "instances": null', {}),
        ('"name": "", "uri": " ", "created": ""', {}),
        ('"publicImage": true, "ebs": false', {"publicImage": True, "ebs": False}),
        ('"dbId": -9223372036854775808', {"dbId": -(1 << 63)}),
        ('"created": "2026-01-02T03:04:05Z"', {"created": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}),
        ('"instances": {"instance": [{}, {"name": "a"}]}', {"instances": [{}, {"name": "a"}]}),
        ('"instances": {"instance": []}', {"instances": []}),
        ('"instances": {}', {"instances": []}),
        ('"instances": {"other": 1}', {"instances": []}),
        ('"unknown": {"a": [1e999, 123456789012345678901234567890]}', {}),
        ('"status": {"@type": 7, "complete": true}', {"status": {"complete": True}}),
    ],
)
def test_valid_values_are_read(members: str, expected: Document) -> None:
    document = {"@type": "PublishImageOpenStack", **expected}
    assert parse_json("publishImage", openstack(members)) == document


def test_byte_order_mark_is_ignored() -> None:
    assert parse_json("status", b'\xef\xbb\xbf{"message": "a"}') == {"message": "a"}


@pytest.mark.parametrize(
    ("members", "field", "says"),
    [
        ('"name": 7', "name", "a string is expected, not a number"),
        ('"name": true', "name", "a string is expected, not a boolean"),
        ('"name": ["a"]', "name", "a string is expected, not an array"),
        ('"name": {}', "name", "a string is expected, not an object"),
        ('"created": 1767322445', "created", "a string is expected, not a number"),
        ('"created": "now"', "created", "'now' is not a dateTime"),
        ('"dbId": "7"', "dbId", "an integer is expected, not a string"),
        ('"dbId": ""', "dbId", "an integer is expected, not a string"),
        ('"dbId": 7.0', "dbId", "an integer is expected, not a number"),
        ('"dbId": 1e3', "dbId", "an integer is expected, not a number"),
        ('"dbId": true', "dbId", "an integer is expected, not a boolean"),
        ('"dbId": 9223372036854775808', "dbId", "from -9223372036854775808 to 9223372036854775807"),
        (f'"dbId": -{"9" * 5000}', "dbId", "is not a number from"),
        ('"publicImage": "true"', "publicImage", "true or false is expected, not a string"),
        ('"publicImage": 1', "publicImage", "true or false is expected, not a number"),
        ('"name": "a\\u0000"', "name", "U+0000 at position 1"),
        ('"name": "\\u001b[2J"', "name", "U+001B"),
        ('"name": "\\ud800"', "name", "U+D800"),
        ('"name": "\\uffff"', "name", "U+FFFF"),
        (f'"name": "{"a" * 4097}"', "name", "at most 4096"),
        ('"credAccount": "a"', "credAccount", "an object is expected, not a string"),
        ('"credAccount": []', "credAccount", "an object is expected, not an array"),
        ('"credAccount": {"targetPlatform": 7}', "credAccount.targetPlatform", "an object is expected"),
        ('"credAccount": {"@type": 7}', "credAccount.@type", "a string is expected, not a number"),
        ('"credAccount": {"password": 7}', "credAccount.password", "a string is expected, not a number"),
        ('"instances": []', "instances", "an object is expected, not an array"),
        ('"instances": {"instance": {}}', "instances.instance", "an array is expected, not an object"),
        ('"instances": {"instance": [{}, 7]}', "instances[1]", "an object is expected, not a number"),
        ('"instances": {"instance": [null]}', "instances[0]", "an object is expected, not null"),
        ('"name": "a", "name": "a"', "name", "more than once"),
        ('"credAccount": {"login": "a", "login": "b"}', "credAccount.login", "more than once"),
        ('"@type": "PublishImageOpenStack"', "@type", "more than once"),
        ('"unknown": {"a": 1, "a": 2}', "a", "more than once"),
    ],
)
def test_invalid_value_is_named_in_the_error(members: str, field: str, says: str) -> None:
    error = refused(openstack(members))
    assert error.field == field
    assert str(error).startswith(f"{field}: ")
    assert says in str(error)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"<a/>", "not JSON"),
        (b'{"name": "a"', "not JSON"),
        (b'{"name": "a"} {}', "not JSON"),
        (b"{'name': 'a'}", "not JSON"),
        (b'{"name": "a\x01"}', "not JSON"),
        (b'{"dbId": NaN}', "NaN is not a number"),
        (b'{"dbId": -Infinity}', "-Infinity is not a number"),
        (b'{"unknown": Infinity}', "Infinity is not a number"),
        (b'{"dbId": 007}', "not JSON"),
        (b"[]", "an object is expected, not an array"),
        (b"null", "an object is expected, not null"),
        (b'"a"', "an object is expected, not a string"),
        (b'{"name": "\xff"}', "not valid UTF-8 at byte 10"),
        ('{"name": "a"}'.encode("utf-16"), "not valid UTF-8 at byte 0"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "deeper than 32"),
        (b"[" * 500_000, "deeper than 32"),
        (b'{"a":' * 150_000, "deeper than 32"),
        (b"[" + b"1," * 10_000 + b"1]", "more than 10000 elements"),
        (b'"' * 1_000_000, "more than 10000 elements"),
        (b'["",' + b'""' * 500_000, "more than 10000 elements"),
    ],
)
def test_hostile_and_malformed_bodies_are_refused(body: bytes, says: str) -> None:
    error = refused(body)
    assert error.field is None
    assert says in str(error)


def test_brackets_in_strings_do_not_count_as_nesting() -> None:
    text = '{[\\\\\\"' * 100
    assert parse_json("status", f'{{"unknown": "{text}", "message": "a"}}'.encode()) == {"message": "a"}
    assert parse_json("status", b'{"a":' * 31 + b"{}" + b"}" * 31) == {}


@pytest.mark.parametrize("unit", ['\\"', '"', "\\", '""', '"\\'])
def test_largest_body_is_refused_within_seconds(unit: str) -> None:
    started = time.monotonic()
    refused(b'{"' + unit.encode() * (MAX_BODY_BYTES // len(unit) - 8))
    assert time.monotonic() - started < 5 * PATIENCE


def test_body_may_be_as_large_as_the_limit_but_no_larger() -> None:
    assert parse_json("status", b"{}", limit=2) == {}
    with pytest.raises(BodyTooLarge, match="3 bytes; at most 2"):
        parse_json("status", b"{ }", limit=2)


@pytest.mark.parametrize(
    ("root", "document", "written"),
    [
        ("statuses", {"total": 0}, '{"total":0,"statuses":{"status":[]}}'),
        (
            "publishImages",
            {"publishImages": [{"name": "é", "@type": "PublishImageAws", "dbId": 7}], "total": 1},
            '{"total":1,"publishImages":{"publishImage":[{"@type":"PublishImageAws","dbId":7,"name":"é"}]}}',
        ),
        (
            "uforgeError",
            {"statusCode": 400, "localizedErrorMsg": {"parameters": ["a"], "message": "m\x00\ud800"}},
            '{"localizedErrorMsg":{"message":"m\ufffd\ufffd","parameters":{"parameter":["a"]}},"statusCode":400}',
        ),
        (
            "credAccount",
            {"@type": "CredAccountAws", "secretAccessKeyId": "s", "certificates": [{"content": "s"}], "dbId": None},
            '{"@type":"CredAccountAws"}',
        ),
        (
            "status",
            {"complete": False, "created": datetime(2026, 1, 2, tzinfo=UTC)},
            '{"created":"2026-01-02T00:00:00.000Z","complete":false}',
        ),
    ],
)
def test_answers_are_written_exactly(root: str, document: Document, written: str) -> None:
    assert write_document(Format.JSON, root, document).decode() == written


def test_answer_that_violates_the_schema_raises_value_error() -> None:
    with pytest.raises(ValueError, match="status has no element nope"):
        write_document(Format.JSON, "status", {"nope": 1})
    with pytest.raises(ValueError, match="not a concrete type"):
        write_document(Format.JSON, "images", {"total": 1, "images": [{"credAccount": {}}]})
