"""Any document that the schema allows survives both formats."""

from __future__ import annotations

import json as stdlib_json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from publisher.core.errors import InvalidRequest
from publisher.intake.wire.formats import Format
from publisher.intake.wire.reading import parse_json, parse_xml, read_document
from publisher.intake.wire.schema import ROOTS, TYPES, concrete_type, root_field
from publisher.intake.wire.writing import write_document, write_list
from publisher.platforms.platform import TYPE_KEY, Document, Field, Kind, Platform, find_platform, known_platforms

# Control characters are refused, except white space, which test_xml.py covers.
_TEXT = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"), min_size=1, max_size=12
).filter(lambda text: not text.isspace())
_MOMENTS = st.builds(
    lambda moment, minutes, milliseconds: moment.replace(
        microsecond=milliseconds * 1000, tzinfo=timezone(timedelta(minutes=minutes))
    ),
    st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)),  # noqa: DTZ001
    st.integers(-14 * 60, 14 * 60),
    st.integers(0, 999),
)


def values(field: Field, platform: Platform) -> st.SearchStrategy[object]:
    if field.item is not None:
        return st.lists(values(field.item, platform), max_size=2)
    if field.kind in (Kind.OBJECT, Kind.POLYMORPHIC):
        return documents(field, platform)
    if field.kind in (Kind.INTEGER, Kind.LONG):
        return st.integers(*field.bounds)
    return {
        Kind.STRING: _TEXT,
        Kind.URI: _TEXT.map(str.strip),
        Kind.BOOLEAN: st.booleans(),
        Kind.DATE_TIME: _MOMENTS,
    }[field.kind]


def documents(field: Field, platform: Platform) -> st.SearchStrategy[Document]:
    """Return documents of one platform, because an image and its account must have the same one."""

    @st.composite
    def draw_document(draw: st.DrawFn) -> Document:
        polymorphic = field.kind is Kind.POLYMORPHIC
        name = concrete_type(field.type, platform) if polymorphic else field.type
        fields = TYPES[name].fields
        chosen = draw(st.sets(st.sampled_from(fields), max_size=6)) | {each for each in fields if each.required}
        document: Document = {"@type": name} if polymorphic else {}
        for each in fields:
            if each in chosen:
                document[each.name] = draw(values(each, platform))
        if field.type == "targetPlatform":
            document["type"] = platform.name
        return document

    return draw_document()


@pytest.mark.long
@pytest.mark.parametrize("root", sorted(ROOTS))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_document_is_unchanged_after_writing_and_reading(root: str, data: st.DataObject) -> None:
    platform = data.draw(st.sampled_from(known_platforms()))
    document = data.draw(documents(root_field(root), platform))
    as_xml = write_document(Format.XML, root, document, request=True)
    assert parse_xml(as_xml) == (root, document)
    as_json = write_document(Format.JSON, root, document, request=True)
    assert parse_json(root, as_json) == document
    # Elements are written in the schema's order, whatever order the document has.
    assert write_document(Format.XML, root, parse_json(root, as_json), request=True) == as_xml
    assert parse_xml(write_document(Format.XML, root, dict(reversed(document.items())), request=True)) == (
        root,
        document,
    )


@pytest.mark.long
@pytest.mark.parametrize("root", ["publishImages", "statuses"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_list_written_piece_by_piece_has_the_same_bytes(root: str, data: st.DataObject) -> None:
    item = TYPES[root].by_name[root].item
    assert item is not None
    platform = data.draw(st.sampled_from(known_platforms()))
    pages = data.draw(st.lists(st.lists(documents(item, platform), max_size=3), max_size=4))
    if pages and not pages[0]:
        pages[0].append(data.draw(documents(item, platform)))  # only a list without any item has an empty first page
    whole = {"total": 7, root: [each for page in pages for each in page]}
    for form in Format:
        assert b"".join(write_list(form, root, 7, pages)) == write_document(form, root, whole)
        assert read_document(b"".join(write_list(form, root, 7, pages)), form, root)["total"] == 7


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for body_format in Format:
        try:
            read_document(body, body_format, "publishImage")
        except InvalidRequest:
            continue


@pytest.mark.long
@settings(max_examples=200, deadline=None)
@given(
    members=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*TYPES["PublishImageAws"].by_name, TYPE_KEY]), inner, max_size=5)
        ),
        max_leaves=20,
    )
)
def test_any_json_is_read_or_refused(members: object) -> None:
    try:
        document = parse_json("publishImage", stdlib_json.dumps(members).encode())
    except InvalidRequest:
        return
    assert parse_json("publishImage", write_document(Format.JSON, "publishImage", document, request=True)) == document


def test_codec_reads_and_writes_both_formats() -> None:
    document: Document = {"@type": "CredAccountMemory", "login": "l", "password": "p"}
    for each in Format:
        body = write_document(each, "credAccount", document, request=True)
        assert read_document(body, each, "credAccount") == document
        assert read_document(write_document(each, "credAccount", document), each, "credAccount") == {
            "@type": "CredAccountMemory",
            "login": "l",
        }


def test_platform_is_passed_on_to_both_formats() -> None:
    for each in Format:
        body = write_document(each, "credAccount", {"dbId": 7}, request=True)
        document = read_document(body, each, "credAccount", resolve=lambda _: find_platform("memory"))
        assert document == {"@type": "CredAccountMemory", "dbId": 7}


def test_another_root_is_refused() -> None:
    body = write_document(Format.XML, "status", {})
    with pytest.raises(InvalidRequest, match="the root element must be publishImage") as caught:
        read_document(body, Format.XML, "publishImage")
    assert caught.value.field == "status"
