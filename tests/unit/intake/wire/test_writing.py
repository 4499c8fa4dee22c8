"""Documents are written directly, and exactly as from a tree of their elements."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum, StrEnum
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from publisher.intake.wire.formats import Format
from publisher.intake.wire.schema import ROOTS, TYPES, concrete_type, root_field
from publisher.intake.wire.writing import write_document, write_list
from publisher.platforms.platform import (
    PUBLISH_IMAGE,
    TYPE_KEY,
    Constant,
    Document,
    Field,
    Kind,
    Platform,
    known_platforms,
)
from tests.unit.intake.wire.tree import tree_written


class _Word(StrEnum):
    PLAIN = "plain"
    MARKUP = "<&>"


class _Number(IntEnum):
    SEVEN = 7


_HOSTILE = st.sampled_from(
    [
        "", " ", "\r\n", "a\rb\nc\t", "]]>", "<![CDATA[x]]>", "</message>", "<!--", "&amp;", "&#0;", "'\"", "\\",
        '" xsi:type="ns0:CredAccountAws', "\\u0000", "\x00\x1f\x7f\x80\x85\x9f", "\ud800", "\udfff\ud800",
        "\ufffe\uffff", "\U0001f600", "\u2028\u2029", "e\u0301", "\ufeffa", _Word.PLAIN, _Word.MARKUP,
    ]
)  # fmt: skip
_TEXT = _HOSTILE | st.text(st.characters(), max_size=12) | st.builds("{}{}{}".format, _HOSTILE, st.text(), _HOSTILE)
_MOMENTS = st.datetimes(
    datetime(1, 1, 3),  # noqa: DTZ001
    datetime(9999, 12, 29),  # noqa: DTZ001
    timezones=st.just(UTC) | st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
)
_WRONG = st.sampled_from(
    [1.5, float("nan"), b"a", {}, {"nope": 1}, [], [None], object(), True, 1, 1 << 64, -1, "a", datetime(2026, 1, 2)]  # noqa: DTZ001
)


@cache  # creating a strategy costs more than drawing from it
def values(field: Field, platform: Platform) -> st.SearchStrategy[object]:
    if field.item is not None:
        items = st.lists(values(field.item, platform), max_size=3)
        return items | items.map(tuple)
    if field.kind in (Kind.OBJECT, Kind.POLYMORPHIC):
        return documents(field, platform)
    if field.kind in (Kind.INTEGER, Kind.LONG):
        return st.integers(*field.bounds) | st.just(_Number.SEVEN)
    return {Kind.STRING: _TEXT, Kind.URI: _TEXT, Kind.BOOLEAN: st.booleans(), Kind.DATE_TIME: _MOMENTS}[field.kind]


@cache
def documents(field: Field, platform: Platform, *, flawed: bool = False) -> st.SearchStrategy[Document]:
    """Return documents with any of the elements, in any order; the `flawed` ones may violate the schema."""
    return _drawn_document(field, platform, flawed=flawed)


@st.composite
def _drawn_document(draw: st.DrawFn, field: Field, platform: Platform, *, flawed: bool) -> Document:
    polymorphic = field.kind is Kind.POLYMORPHIC
    name = concrete_type(field.type, platform) if polymorphic else field.type
    fields = TYPES[name].fields
    chosen = draw(st.lists(st.sampled_from(fields), unique=True, max_size=8))
    chosen += [each for each in fields if each.required and each.kind is not Kind.LIST and each not in chosen]
    document: Document = {each.name: draw(st.none() | values(each, platform)) for each in chosen}
    document |= {each.name: draw(values(each, platform)) for each in chosen if each.required}
    if polymorphic or draw(st.booleans()):
        document[TYPE_KEY] = name
    if flawed:
        names = st.sampled_from([*(each.name for each in fields), TYPE_KEY, "nope"])
        document |= draw(st.dictionaries(names, st.none() | _WRONG | _TEXT, max_size=2))
        for missing in draw(st.sets(st.sampled_from(list(document) or [TYPE_KEY]), max_size=1)):
            document.pop(missing, None)
    return document


def outcome(write: object, *arguments: object, **options: object) -> tuple[str, object]:
    assert callable(write)
    try:
        return "written", write(*arguments, **options)
    except ValueError as error:
        return "refused", str(error)


@pytest.mark.long
@pytest.mark.parametrize("root", sorted(ROOTS))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_text_equals_that_of_a_tree(root: str, data: st.DataObject) -> None:
    platform = data.draw(st.sampled_from(known_platforms()))
    document = data.draw(documents(root_field(root), platform))
    for form in Format:
        for request in (False, True):
            written = write_document(form, root, document, request=request)
            assert written == tree_written(form, root, document, request=request)


@pytest.mark.long
@pytest.mark.parametrize("root", sorted(ROOTS))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_flawed_document_is_refused_as_by_a_tree(root: str, data: st.DataObject) -> None:
    platform = data.draw(st.sampled_from(known_platforms()))
    document = data.draw(documents(root_field(root), platform, flawed=True))
    for form in Format:
        for request in (False, True):
            expected = outcome(tree_written, form, root, document, request=request)
            assert outcome(write_document, form, root, document, request=request) == expected


def _in_a_root(name: str, document: Document) -> tuple[str, Document]:
    """Return a root, and a document of it that contains `document`, an object of the type `name`."""
    aws: Document = {TYPE_KEY: "CredAccountAws"}
    inside: dict[str, tuple[str, Document]] = {
        "imageFormat": ("image", {"format": document}),
        "installProfile": ("image", {"installProfile": document}),
        "instance": ("publishImage", {TYPE_KEY: "PublishImageAws", "instances": [document, {}, document]}),
        "certificate": ("credAccount", {**aws, "certificates": [document, document]}),
        "entitlement": ("role", {"entitlements": [document, document]}),
        "localizedErrorMsg": ("uforgeError", {"localizedErrorMsg": document}),
        "property": (PUBLISH_IMAGE, {TYPE_KEY: "PublishImageOpenStack", "properties": [document]}),
        "cloudPlace": ("accountTest", {"projects": [document], "regions": [document], "networks": [document]}),
    }
    return inside.get(name, (name, document))


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(TYPES))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_element_of_every_type_is_written_as_in_a_tree(name: str, data: st.DataObject) -> None:
    """The types inside a root are written as part of it, with all their elements."""
    object_type = TYPES[name]
    platform = next((each for each in known_platforms() if each.name == object_type.platform), known_platforms()[0])
    document: Document = {each.name: data.draw(values(each, platform)) for each in object_type.fields}
    if object_type.platform:
        document[TYPE_KEY] = name
    elif object_type.abstract:
        document[TYPE_KEY] = concrete_type(object_type.abstract, platform)
    root, document = _in_a_root(object_type.abstract or name, document)
    for form in Format:
        for request in (False, True):
            written = write_document(form, root, document, request=request)
            assert written == tree_written(form, root, document, request=request)


@pytest.mark.long
@pytest.mark.parametrize("root", ["publishImages", "statuses", "credAccounts", "images", "targetFormats"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_list_in_pages_equals_the_whole_list(root: str, data: st.DataObject) -> None:
    item = TYPES[root].by_name[root].item
    assert item is not None
    # Untyped objects may declare a type in these tests, but then all of them have to.
    one = documents(item, known_platforms()[0]).map(lambda made: {TYPE_KEY: item.type, **made})
    pages = data.draw(st.lists(st.lists(one, max_size=3), max_size=4))
    items = [each for page in pages for each in page]
    for form in Format:
        parts = list(write_list(form, root, 7, iter(pages)))
        assert b"".join(parts) == write_document(form, root, {"total": 7, root: items})
        assert len(parts) == 1 + sum(1 for page in pages if page)


def test_list_in_pages_cannot_declare_its_namespaces_late() -> None:
    pages: list[list[Document]] = [[{"dbId": 1}], [{"dbId": 2, "credAccount": {TYPE_KEY: "CredAccountAws"}}]]
    with pytest.raises(ValueError, match="namespaces"):
        list(write_list(Format.XML, "images", 2, pages))
    assert b"".join(write_list(Format.JSON, "images", 2, pages)) == write_document(
        Format.JSON, "images", {"total": 2, "images": [*pages[0], *pages[1]]}
    )


def test_page_is_written_when_it_is_read() -> None:
    read: list[int] = []

    def pages() -> Iterator[list[Document]]:
        for number in range(3):
            read.append(number)
            yield [{"dbId": number}]

    parts = write_list(Format.XML, "statuses", 3, pages())
    assert read == []
    assert b"<dbId>0</dbId>" in next(parts)
    assert read == [0]


def test_only_a_list_is_written_in_pages() -> None:
    with pytest.raises(ValueError, match="no list"):
        next(write_list(Format.XML, "status", 0, []))


@pytest.mark.parametrize("request_written", [False, True])
@pytest.mark.parametrize("form", Format)
def test_constant_is_written_each_time_as_any_other_document(form: Format, request_written: bool) -> None:
    format: Document = {"dbId": 7, "name": "<raw>"}
    plain: Document = {"name": "x", "format": format, "targetFormat": {"dbId": 8, "format": format}}
    constant = Constant(**format)
    kept: Document = {"name": "x", "format": constant, "targetFormat": Constant(dbId=8, format=constant)}
    without_name: Document = {"targetFormat": Constant(format=constant), "format": constant}
    for _ in range(2):
        for each in (kept, without_name):
            written = write_document(form, "image", each, request=request_written)
            assert written == tree_written(form, "image", each, request=request_written)
        assert write_document(form, "image", plain, request=request_written) == write_document(
            form, "image", kept, request=request_written
        )
