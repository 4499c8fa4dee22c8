"""Write documents in XML and JSON. The text is written directly, without a tree of elements.

How to write each type of object is derived once from the schema, when a document first contains the type. A mistake in
a document is one of this service and not of a caller, so it is a ValueError.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring

from publisher.intake.wire.formats import Format
from publisher.intake.wire.schema import NAMESPACE, REQUEST_ONLY, TYPES, XSI, root_field
from publisher.platforms.platform import TYPE_KEY, Constant, Document, Field, Kind, ObjectType
from publisher.platforms.values import to_json

_PREFIX = "ns0"
_DECLARED = f' xmlns:{_PREFIX}="{NAMESPACE}"'
_DECLARED_WITH_XSI = f'{_DECLARED} xmlns:xsi="{XSI}"'

_KEPT_MAX = 256
"""Number of sets of names, for each type of object, whose elements are kept."""

_Append = Callable[[list[str], object], None]
"""Appends the text of an element that has this value."""


def write_document(answer_format: Format, root: str, document: Document, *, request: bool = False) -> bytes:
    """Write `document` as the body of an answer or a request. Only a request may contain secrets.

    Raises ValueError if the document does not fit the schema.
    """
    return _WRITERS[answer_format, request].write(root_field(root), document)


def write_json_request(root: str, document: Document) -> bytes:
    """Write `document` as the body of a request in JSON. Raises ValueError if it does not fit the schema."""
    return write_document(Format.JSON, root, document, request=True)


def write_in_each_format(root: str, document: Document, *, request: bool) -> dict[str, str]:
    """Return the text of a document in each format, by media type. Raises ValueError if it does not fit the schema."""
    return {form.value: write_document(form, root, document, request=request).decode() for form in Format}


def write_list(form: Format, root: str, total: int, pages: Iterable[Sequence[Document]]) -> Iterator[bytes]:
    """Yield the document of a list, one page of items at a time. `total` counts all matches.

    Together the parts are what `write_document` writes for all items. Raises ValueError for an item that does not fit
    the schema, and for the first type in XML that an object after the first page declares.
    """
    list_field = TYPES[root].by_name.get(root)
    if list_field is None or list_field.item is None:
        raise ValueError(f"{root!r} is no list")
    if form is Format.JSON:
        start, between, end = f'"{root}":{{"{list_field.item.name}":[', b",", b"]}}"
    else:
        start, between, end = f"<{root}>", b"", f"</{root}></{_PREFIX}:{root}>".encode()
    head = b""
    for page in filter(None, pages):
        written = write_document(form, root, {"total": total, root: page})
        before = written[: written.index(start.encode()) + len(start)]
        if head and before != head:
            raise ValueError("the namespaces of a list depend on its first items, which declare no type")
        yield between + written[len(head) : -len(end)] if head else written[: -len(end)]
        head = before
    yield end if head else write_document(form, root, {"total": total})


class _Members:
    """Appends the elements of an object of one type, in the order of the schema, without those that are None or empty.

    An answer never contains a secret or an element of REQUEST_ONLY, and in XML none that is `json_only`: they are left
    out even if the document has them.
    """

    __slots__ = ("_elements", "_known", "_name", "_of")

    def __init__(self, object_type: ObjectType, elements: list[tuple[Field, _Append]]) -> None:
        self._name = object_type.name
        self._known = frozenset(object_type.by_name) | {TYPE_KEY}
        self._elements: list[tuple[str, _Append, object, bool]] = [
            (field.name, append, [] if field.required and field.kind is Kind.LIST else None, field.required)
            for field, append in elements
        ]
        self._of = lru_cache(_KEPT_MAX)(self._elements_of)

    def append(self, parts: list[str], document: Document) -> None:
        """Append the elements of a document.

        Raises `ValueError` for a value that the type has no element for, and for a required element that is missing.
        """
        for name, append, default, required in self._of(*document):
            value = document.get(name)
            if value is None:
                if not required:
                    continue
                if default is None:
                    raise ValueError(f"{self._name} needs {name}")
                value = default
            if value != "":
                append(parts, value)

    def _elements_of(self, *names: str) -> list[tuple[str, _Append, object, bool]]:
        """Return the elements that a document with these names may have. Kept: most documents have the same names."""
        given = set(names)
        if unknown := given - self._known:
            raise ValueError(f"{self._name} has no element {', '.join(sorted(unknown))}")
        return [each for each in self._elements if each[0] in given or each[3]]


class _Writer(ABC):
    """Writes the documents of one format, either answers or requests."""

    def __init__(self, *, request: bool) -> None:
        self._request = request
        self._members: dict[str, _Members] = {}
        self._roots: dict[str, _Append] = {}

    @abstractmethod
    def write(self, root: Field, document: Document) -> bytes:
        """Write a whole document."""

    @abstractmethod
    def _leaf(self, field: Field, *, item: bool = False) -> _Append:
        """Return what appends an element that contains a value. `item`: it is part of a list."""

    @abstractmethod
    def _object(self, field: Field, *, item: bool = False) -> _Append:
        """Return what appends an element that contains an object."""

    @abstractmethod
    def _list(self, field: Field, item: Field) -> _Append:
        """Return what appends a list: the wrapper, and the elements inside it."""

    def _element(self, field: Field, *, item: bool = False) -> _Append:
        """Return what appends an element of any kind."""
        if field.item is not None:
            return self._list(field, field.item)
        if field.kind is Kind.OBJECT:
            return _keeping(self._object(field, item=item))
        if field.kind is Kind.POLYMORPHIC:
            return self._object(field, item=item)
        return self._leaf(field, item=item)

    def _type_of(self, field: Field, declared: str | None) -> str:
        """Return the name of the type of an object that declares this one, or none.

        Raises ValueError if it is not one that `field` may hold. Only a request may leave the type out: existing
        clients need it in an answer.
        """
        if field.kind is not Kind.POLYMORPHIC or (declared is None and self._request):
            return field.type
        object_type = TYPES.get(declared or "")
        if object_type is None or object_type.abstract != field.type or not object_type.platform:
            raise ValueError(f"{declared!r} is not a concrete type of {field.type}")
        return object_type.name

    def _members_of(self, name: str) -> _Members:
        """Return what appends the members of an object of this type."""
        if name not in self._members:
            self._members[name] = self._derived(TYPES[name])
        return self._members[name]

    def _answers(self, field: Field) -> bool:
        """Return whether answers may contain an element."""
        return field.name not in REQUEST_ONLY and not field.secret

    def _derived(self, object_type: ObjectType) -> _Members:
        shown = [field for field in object_type.fields if self._request or self._answers(field)]
        return _Members(object_type, [(field, self._element(field)) for field in shown])


class _XmlWriter(_Writer):
    """Writes XML. The root is qualified and its children are not; there is no default namespace.

    The second part of a document holds its namespace declarations: `xsi` is among them only if an object declares a
    type.
    """

    def write(self, root: Field, document: Document) -> bytes:
        if root.name not in self._roots:
            self._roots[root.name] = self._object_between("", f"</{_PREFIX}:{root.name}>", root)
        parts = [f"<?xml version='1.0' encoding='UTF-8'?>\n<{_PREFIX}:{root.name}", _DECLARED]
        self._roots[root.name](parts, document)
        return "".join(parts).encode()

    def _answers(self, field: Field) -> bool:
        return super()._answers(field) and not field.json_only

    def _leaf(self, field: Field, *, item: bool = False) -> _Append:
        return _leaf(field, f"<{field.name}>", f"</{field.name}>", escape=_escape_xml)

    def _object(self, field: Field, *, item: bool = False) -> _Append:
        return self._object_between(f"<{field.name}", f"</{field.name}>", field)

    def _object_between(self, start: str, end: str, field: Field) -> _Append:
        known: dict[str | None, tuple[Callable[[list[str], Document], None], str, str]] = {}

        def append(parts: list[str], value: object) -> None:
            document = _as_document(field, value)
            declared = _declared(field, document)
            if declared not in known:
                name = self._type_of(field, declared)
                opened = start if declared is None else f'{start} xsi:type="{_PREFIX}:{name}"'
                known[declared] = self._members_of(name).append, f"{opened}>", f"{opened}/>"
            append_members, opening, empty = known[declared]
            if declared is not None:
                parts[1] = _DECLARED_WITH_XSI
            parts.append(opening)
            before = len(parts)
            append_members(parts, document)
            if len(parts) > before:
                parts.append(end)
            else:
                parts[-1] = empty

        return append

    def _list(self, field: Field, item: Field) -> _Append:
        start, end, empty = f"<{field.name}>", f"</{field.name}>", f"<{field.name}/>"
        append_item = self._element(item, item=True)

        def append(parts: list[str], value: object) -> None:
            items = _as_items(field, value)
            parts.append(start if items else empty)
            for each in items:
                append_item(parts, each)
            if items:
                parts.append(end)

        return append


class _JsonWriter(_Writer):
    """Writes JSON. A comma precedes each member and each item; the first one's is removed afterwards."""

    def write(self, root: Field, document: Document) -> bytes:
        if root.name not in self._roots:
            self._roots[root.name] = self._object_after("", root)
        parts: list[str] = []
        self._roots[root.name](parts, document)
        return "".join(parts).encode()

    def _leaf(self, field: Field, *, item: bool = False) -> _Append:
        return _leaf(field, _start_json(field, item=item), "", escape=encode_basestring, quote='"')

    def _object(self, field: Field, *, item: bool = False) -> _Append:
        return self._object_after(_start_json(field, item=item), field)

    def _object_after(self, start: str, field: Field) -> _Append:
        known: dict[str | None, tuple[Callable[[list[str], Document], None], str]] = {}

        def append(parts: list[str], value: object) -> None:
            document = _as_document(field, value)
            declared = _declared(field, document)
            if declared not in known:
                name = self._type_of(field, declared)
                opening = f"{start}{{" if declared is None else f'{start}{{"{TYPE_KEY}":"{name}"'
                known[declared] = self._members_of(name).append, opening
            append_members, opening = known[declared]
            parts.append(opening)
            before = len(parts)
            append_members(parts, document)
            if declared is None:
                _remove_comma(parts, before)
            parts.append("}")

        return append

    def _list(self, field: Field, item: Field) -> _Append:
        start = f'{_start_json(field)}{{"{item.name}":['
        append_item = self._element(item, item=True)

        def append(parts: list[str], value: object) -> None:
            items = _as_items(field, value)
            parts.append(start)
            before = len(parts)
            for each in items:
                append_item(parts, each)
            _remove_comma(parts, before)
            parts.append("]}")

        return append


def _start_json(field: Field, *, item: bool = False) -> str:
    return "," if item else f',"{field.name}":'


def _remove_comma(parts: list[str], at: int) -> None:
    if len(parts) > at:
        parts[at] = parts[at][1:]


_WRITERS: dict[tuple[Format, bool], _Writer] = {
    (form, request): made(request=request)
    for form, made in ((Format.XML, _XmlWriter), (Format.JSON, _JsonWriter))
    for request in (False, True)
}


def _keeping(append: _Append) -> _Append:
    """Return what appends an object, and keeps its text if it is a `Constant`."""

    def append_or_repeat(parts: list[str], value: object) -> None:
        if not isinstance(value, Constant):
            append(parts, value)
            return
        if append not in value.texts:
            own = ["", ""]
            append(own, value)
            value.texts[append] = "".join(own[2:])
        parts.append(value.texts[append])

    return append_or_repeat


# Values -------------------------------------------------------------------------------------------------------------

# `to_json` decides what a value may be, and writes the unusual ones. What is common is recognized here, which takes a
# fraction of the time.


def _leaf(field: Field, start: str, end: str, *, escape: Callable[[str], str], quote: str = "") -> _Append:
    """Return what appends a value between `start` and `end`. It raises ValueError if it is not of the field's kind.

    `escape` converts a text, and encloses it if there is a `quote`, which encloses a dateTime.
    """

    def boolean(parts: list[str], value: object) -> None:
        if not isinstance(value, bool):
            to_json(field, value)  # raises
        parts.append(true if value else false)

    def number(parts: list[str], value: object) -> None:
        usual = type(value) is int and least <= value <= greatest
        parts.append(f"{start}{value if usual else to_json(field, value)}{end}")

    def date_time(parts: list[str], value: object) -> None:
        if type(value) is datetime and value.tzinfo is UTC:
            moment = f"{value.isoformat(timespec='milliseconds')[:-6]}Z"  # in place of +00:00
        else:
            moment = str(to_json(field, value))
        parts.append(f"{start}{quote}{moment}{quote}{end}")

    def text(parts: list[str], value: object) -> None:
        if type(value) is str and value.isascii() and value.isprintable():
            # Most texts need no escaping, which a few searches show in less time than a call takes.
            escaped = escape(value) if quote or "&" in value or "<" in value or ">" in value else value
            parts.append(f"{start}{escaped}{end}")
        else:
            parts.append(f"{start}{escape(str(to_json(field, value)))}{end}")

    true, false = f"{start}true{end}", f"{start}false{end}"
    if field.kind is Kind.BOOLEAN:
        return boolean
    if field.kind is Kind.DATE_TIME:
        return date_time
    if field.kind in (Kind.INTEGER, Kind.LONG):
        least, greatest = field.bounds
        return number
    return text


def _escape_xml(text: str) -> str:
    # A carriage return that is not escaped is read as a line feed.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")


def _as_document(field: Field, value: object) -> Document:
    """Return `value`, which must be a Document. Raises ValueError if it is not."""
    if not isinstance(value, dict):
        raise ValueError(f"{field.name} holds an object, not {type(value).__name__}")
    return value


def _declared(field: Field, document: Document) -> str | None:
    """Return the name of the type that an object declares. Raises ValueError if it must be one and is no text."""
    declared = document.get(TYPE_KEY)
    if declared is None or isinstance(declared, str):
        return declared
    if field.kind is Kind.POLYMORPHIC:
        raise ValueError(f"{declared!r} is not a concrete type of {field.type}")
    return str(declared)


def _as_items(field: Field, value: object) -> list[object] | tuple[object, ...]:
    """Return `value`, which must be a list. Raises ValueError if it is not."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{field.name} holds a list, not {type(value).__name__}")
    return value
