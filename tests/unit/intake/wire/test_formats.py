"""The formats of answers and of bodies."""

from __future__ import annotations

import pytest

from publisher.core.errors import NotAcceptable, UnsupportedMediaType
from publisher.intake.wire.formats import Format, answer_format
from publisher.intake.wire.reading import body_format


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, Format.XML),
        ("", Format.XML),
        ("*/*", Format.XML),
        ("application/*", Format.XML),
        ("text/*", Format.XML),
        ("application/xml", Format.XML),
        ("text/xml", Format.XML),
        ("Application/XML; charset=utf-8", Format.XML),
        ("application/json", Format.JSON),
        ("APPLICATION/JSON", Format.JSON),
        ("application/json;charset=utf-8", Format.JSON),
        ("application/xml, application/json", Format.XML),
        ("application/json, application/xml", Format.XML),
        ("application/json, application/xml;q=0.9", Format.JSON),
        ("application/json;q=0.5, text/xml;q=0.4", Format.JSON),
        ("application/json, text/plain, */*", Format.JSON),
        ("*/*, application/json;q=0.1", Format.XML),
        ("*/*;q=0.1, application/json", Format.JSON),
        ("application/xml;q=0, */*", Format.JSON),
        ("application/json;q=0, */*", Format.XML),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format.XML),
        ("application/json;q=nonsense, text/xml;q=0.1", Format.XML),
        (", application/json ,", Format.JSON),
    ],
)
def test_the_most_preferred_format_is_chosen(accept: str | None, expected: Format) -> None:
    assert answer_format(accept) is expected


@pytest.mark.parametrize(
    "accept",
    ["text/html", "text/plain", "image/*", "application/xml;q=0", "*/*;q=0", "application/json;q=2", "xml", "*", ","],
)
def test_unsupported_accept_header_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="application/json"):
        answer_format(accept)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/xml", Format.XML),
        ("text/xml; charset=utf-8", Format.XML),
        ("Application/JSON ;charset=utf-8", Format.JSON),
    ],
)
def test_content_type_gives_the_format_of_the_body(content_type: str, expected: Format) -> None:
    assert body_format(content_type) is expected


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/*", "application/xml+json", "*/*"])
def test_any_other_content_type_is_refused(content_type: str | None) -> None:
    with pytest.raises(UnsupportedMediaType, match="application/xml"):
        body_format(content_type)


def test_content_types_have_no_charset() -> None:
    assert [each.content_type for each in Format] == ["application/xml", "application/json"]
