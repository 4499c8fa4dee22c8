"""Read the documents in requests' bodies: XML and JSON.

XML is read strictly and safely: no DTD, no entities, nothing from the network. One error is accepted, because the
API's own manual contains it: an `xsi` prefix that is never declared.

JSON mirrors the XML, without the name of the root. Lists are `{"plural": {"singular": [...]}}` as in the XML; a
polymorphic object names its type under "@type".

The character set of a body follows RFC 7303 for XML and RFC 8259 for JSON.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Collection
from itertools import islice
from typing import ClassVar, NoReturn

from lxml import etree

from publisher.core.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType
from publisher.intake.wire.formats import BY_MEDIA_TYPE, Format
from publisher.intake.wire.schema import NAMESPACE, ROOTS, XSI
from publisher.intake.wire.unknown_elements import UnknownElements
from publisher.intake.wire.walk import Node, join, read
from publisher.platforms.platform import TYPE_KEY, Document, Field, Platform
from publisher.platforms.values import from_json, from_text, json_kind
from publisher.web import media_type

MAX_BODY_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_ELEMENTS = 10_000

AccountResolver = Callable[[Document], Platform | None]
"""Finds the platform of an account that does not declare one, from the elements that all accounts share."""


def read_document(
    body: bytes,
    body_format: Format,
    root: str,
    *,
    charset: str | None = None,
    limit: int = MAX_BODY_BYTES,
    resolve: AccountResolver | None = None,
    unknown: UnknownElements | None = None,
) -> Document:
    """Read the document in a request's body. Its root must be `root`; it may have `limit` bytes.

    `charset` is the one in the body's Content-Type. `resolve` finds the platform of an account that does not
    declare one; it is asked at most once. `unknown` collects the elements that the schema does not have.

    Raises BodyTooLarge, UnsupportedMediaType, and InvalidRequest, which names the element at fault if there is one.
    """
    if body_format is Format.JSON:
        _check_json_charset(charset)
        return parse_json(root, body, limit=limit, resolve=resolve, unknown=unknown)
    _check_size(body, limit)
    body = _xml_in_utf8(body, charset)
    name, document = parse_xml(body, limit=max(limit, len(body)), resolve=resolve, unknown=unknown)
    if name != root:
        raise InvalidRequest(f"the root element must be {root}", field=name)
    return document


def body_format(content_type: str | None) -> Format:
    """Return the format for a request's Content-Type, ignoring its parameters. Raises `UnsupportedMediaType`."""
    try:
        return BY_MEDIA_TYPE[media_type(content_type)]
    except KeyError:
        raise UnsupportedMediaType from None


def charset(content_type: str | None) -> str | None:
    """Return the charset parameter of a Content-Type; None if it has none."""
    found = _CHARSET.search(content_type or "")
    return (found[1] or found[2] or "").strip() or None if found else None


def _check_size(body: bytes, limit: int) -> None:
    """Check the size of a body. Raises `BodyTooLarge` if it has more than `limit` bytes."""
    if len(body) > limit:
        raise BodyTooLarge(f"the request body has {len(body)} bytes; at most {limit} are accepted")


def _too_deep() -> InvalidRequest:
    """Return the error for a body that is nested too deeply."""
    return InvalidRequest(f"the request body is nested deeper than {MAX_DEPTH} levels")


def _too_many() -> InvalidRequest:
    """Return the error for a body with too many elements."""
    return InvalidRequest(f"the request body has more than {MAX_ELEMENTS} elements")


# Character sets -------------------------------------------------------------------------------------------------------

_CHARSET = re.compile(r';[ \t]*charset=(?:"([^"]*)"|([^;"]*))', re.IGNORECASE)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""The only byte order marks in RFC 7303, section 3.3."""

_KNOWN = frozenset(
    {"utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "ascii", "koi8-r", "koi8-u",
     "gb18030", "gbk", "gb2312", "big5", "shift_jis", "euc_jp", "euc_kr"}
    | {f"iso8859-{part}" for part in (*range(1, 12), *range(13, 17))}
    | {f"cp{page}" for page in range(1250, 1259)}
)  # fmt: skip
"""Supported character sets, by Python's names. Python has other codecs that are no character sets or take quadratic
time."""
_OF_JSON = frozenset({"utf-8", "ascii"})

_DECLARED = re.compile(r"""\A(<\?xml\s[^>]*?)\sencoding\s*=\s*(?:"[^"]*"|'[^']*')""")
_DECLARATION_CHARACTERS = 256


def _xml_in_utf8(body: bytes, charset: str | None) -> bytes:
    """Convert an XML body to UTF-8 without an encoding declaration, if its character set is known.

    A byte order mark decides first, then the `charset` of the content type. Without either, the body is returned
    unchanged, and its XML declaration decides.

    Raises `UnsupportedMediaType`, or `InvalidRequest` for bytes that are invalid in that character set.
    """
    known = _known(charset)
    encoding = next((name for mark, name in _MARKS if body.startswith(mark)), known)
    if encoding is None:
        return body
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the request body is not valid {charset or encoding} at byte {error.start}") from None
    head, rest = text[:_DECLARATION_CHARACTERS], text[_DECLARATION_CHARACTERS:]
    return (_DECLARED.sub(r"\1", head) + rest).encode("utf-8", "surrogatepass")


def _check_json_charset(charset: str | None) -> None:
    """Raise `UnsupportedMediaType` if JSON never has this `charset`."""
    if _known(charset) not in (None, *_OF_JSON):
        raise UnsupportedMediaType(f"charset: JSON must be in UTF-8, not in {charset}")


def _known(charset: str | None) -> str | None:
    if charset is None:
        return None
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):
        name = ""
    if name not in _KNOWN:
        raise UnsupportedMediaType("charset: this character set is not supported; use UTF-8")
    return name


# XML ------------------------------------------------------------------------------------------------------------------

_QUALIFIED = f"{{{NAMESPACE}}}"
_XSI_TYPE = f"{{{XSI}}}type"
_UNDECLARED_XSI = "Namespace prefix xsi "
_DECLARATION = re.compile(r"\A\ufeff?<\?xml\s.*?\?>", re.DOTALL)
_ROOT_START = re.compile(r"\A\ufeff?(?:\s++|<!--.*?-->|<\?.*?\?>)*+<[^\s/>!?]+", re.DOTALL)
_NO_DOCTYPE = "a DOCTYPE is not accepted"


def parse_xml(
    body: bytes,
    *,
    limit: int = MAX_BODY_BYTES,
    resolve: AccountResolver | None = None,
    unknown: UnknownElements | None = None,
) -> tuple[str, Document]:
    """Read `body`, which may have `limit` bytes. Returns the root element's name and the document.

    `resolve` finds the platform of an account that does not declare one. `unknown` collects the elements that the
    schema does not have.

    Raises BodyTooLarge, and InvalidRequest, which names the element at fault if there is one.
    """
    _check_size(body, limit)
    element = _parse_strictly(body)
    _check_xml_extent(element)
    name = element.tag.removeprefix(_QUALIFIED)
    if name == element.tag:
        field = etree.QName(element).localname
        raise InvalidRequest(f"the root element must be in the namespace {NAMESPACE}", field=field)
    if name not in ROOTS:
        raise InvalidRequest("is not the root of a document of this API", field=name)
    return name, read(_Element(element, ""), name, UnknownElements() if unknown is None else unknown, resolve)


def _xml_parser(*, recover: bool = False) -> etree.XMLParser:
    return etree.XMLParser(
        recover=recover,
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        attribute_defaults=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )


def _parse_strictly(body: bytes) -> etree._Element:
    parser = _xml_parser()
    try:
        element = etree.fromstring(body, parser)
    except etree.XMLSyntaxError as error:
        # Use the parser's own log: the error's log also has the errors of other documents.
        fault = _other_fault(parser.error_log)
        if fault or not len(parser.error_log):
            raise _malformed(f"{fault.message} in line {fault.line}" if fault else error.msg) from error
        element = _parse_with_undeclared_xsi(body)
    if element.getroottree().docinfo.internalDTD is not None:
        raise InvalidRequest(_NO_DOCTYPE)
    return element


def _parse_with_undeclared_xsi(body: bytes) -> etree._Element:
    """Parse the body with `xsi` declared on its root element. Raises InvalidRequest if it has other errors, too.

    The declaration is inserted into the text, which is then parsed as strictly as any other: the parser reports at most
    a hundred errors, and after the first one it ignores what follows the root.
    """
    try:
        text = body.decode(_encoding(body))
    except (LookupError, UnicodeDecodeError) as error:
        raise _malformed("its encoding cannot be read") from error
    text = _DECLARATION.sub("", text, count=1)  # it names an encoding that the text no longer has
    text, declared = _ROOT_START.subn(rf'\g<0> xmlns:xsi="{XSI}"', text, count=1)
    if not declared:
        # Only a DOCTYPE can be before the root: comments and instructions are skipped.
        raise InvalidRequest(_NO_DOCTYPE)
    try:
        return etree.fromstring(text.encode(), _xml_parser())
    except etree.XMLSyntaxError as error:
        raise _malformed(error.msg.rpartition(", line")[0]) from error


def _encoding(body: bytes) -> str:
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"  # the parser does not report it for a body without a declaration
    # In spite of an undeclared prefix, the recovering parser reads the document and its declaration.
    return etree.fromstring(body, _xml_parser(recover=True)).getroottree().docinfo.encoding or "UTF-8"


def _malformed(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the request body is not well-formed XML: {' '.join(reason.split())}")


def _other_fault(faults: etree._ListErrorLog) -> etree._LogEntry | None:
    """Return the first error that is not an undeclared `xsi` prefix."""
    for fault in faults:
        if fault.type_name != "NS_ERR_UNDEFINED_NAMESPACE" or not fault.message.startswith(_UNDECLARED_XSI):
            return fault
    return None


def _check_xml_extent(root: etree._Element) -> None:
    # So few elements cannot be nested too deeply.
    if len(list(islice(root.iter(), MAX_DEPTH + 1))) <= MAX_DEPTH:
        return
    depth = elements = 0
    for event, _ in etree.iterwalk(root, events=("start", "end")):
        if event == "end":
            depth -= 1
            continue
        depth += 1
        elements += 1
        if depth > MAX_DEPTH:
            raise _too_deep()
        if elements > MAX_ELEMENTS:
            raise _too_many()


class _Element(Node):
    type_key: ClassVar[str] = "xsi:type"

    def __init__(self, element: etree._Element, path: str) -> None:
        super().__init__(path)
        self._element = element
        self._children: dict[str, list[etree._Element]] | None = None
        self._nodes: dict[str, _Element] = {}

    def names(self) -> Collection[str]:
        return self._by_name()

    def child(self, name: str) -> Node | None:
        if node := self._nodes.get(name):
            return node
        found = self._by_name().get(name)
        if found is None:
            return None
        if len(found) > 1:
            raise InvalidRequest("is given more than once", field=join(self.path, name))
        node = self._nodes[name] = _Element(found[0], join(self.path, name))
        return node

    def items(self, name: str) -> list[Node]:
        found = self._by_name().get(name, [])
        return [_Element(element, f"{self.path}[{index}]") for index, element in enumerate(found)]

    def leaf(self, field: Field) -> object | None:
        if len(self._element):
            raise InvalidRequest("text is expected, not elements", field=self.path)
        return from_text(field, self._element.text or "", self.path)

    def declared_type(self) -> str:
        declared = (self._element.get(_XSI_TYPE) or "").strip()
        if not declared:
            return ""
        prefix, colon, local_name = declared.rpartition(":")
        if self._element.nsmap.get(prefix if colon else None) != NAMESPACE:
            raise InvalidRequest(
                f"the prefix of {declared[:80]!r} is not bound to the namespace {NAMESPACE}",
                field=join(self.path, self.type_key),
            )
        return local_name

    def _by_name(self) -> dict[str, list[etree._Element]]:
        if self._children is None:
            children: dict[str, list[etree._Element]] = {}
            between = self._element.text
            for element in self._element:
                if between and not between.isspace():
                    break
                between = element.tail
                # Children have no namespace. Some callers qualify them nevertheless, and can only mean these.
                name = element.tag.removeprefix(_QUALIFIED)
                if name != _XSI_TYPE:
                    children.setdefault(name, []).append(element)
            if between and not between.isspace():
                raise InvalidRequest("elements are expected, not text", field=self.path or None)
            self._children = children
        return self._children


# JSON -----------------------------------------------------------------------------------------------------------------

# A whole string, or a character that opens, closes or separates values. The string always matches, even if it is never
# closed (possessive, with an optional end): a new try at each quote inside it would take quadratic time.
_MARK = re.compile(r'"(?:[^"\\]|\\.)*+["\\]?|[][{},]', re.DOTALL)
_OPENING = frozenset("{[")
_CLOSING = frozenset("]}")

# Enough characters to know that a number exceeds 64 bits. Converting more takes quadratic time.
_INTEGER_CHARACTERS = 21


def parse_json(
    root: str,
    body: bytes,
    *,
    limit: int = MAX_BODY_BYTES,
    resolve: AccountResolver | None = None,
    unknown: UnknownElements | None = None,
) -> Document:
    """Read the document in `body`, which may have `limit` bytes, as if its root element were `root`.

    `resolve` finds the platform of an account that does not declare one. `unknown` collects the elements that the
    schema does not have.

    Raises BodyTooLarge, and InvalidRequest, which names the element at fault if there is one.
    """
    _check_size(body, limit)
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the request body is not valid UTF-8 at byte {error.start}") from error
    _check_json_extent(text)
    repeated: list[str] = []

    def to_object(members: list[tuple[str, object]]) -> _Object:
        return _Object(members, repeated)

    try:
        value = json.loads(text, object_pairs_hook=to_object, parse_int=_parse_int, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"the request body is not JSON: {error}") from error
    document = read(_Member(value, ""), root, UnknownElements() if unknown is None else unknown, resolve)
    if repeated:  # in a part that is not read, but still an error
        raise InvalidRequest("is given more than once", field=repeated[0])
    return document


class _Object(dict[str, object]):
    """A JSON object that remembers a name that occurred twice."""

    def __init__(self, members: list[tuple[str, object]], all_repeated: list[str]) -> None:
        super().__init__(members)
        self.repeated: str | None = None
        if len(self) != len(members):
            counts = Counter(name for name, _ in members)
            self.repeated = next(name for name, count in counts.items() if count > 1)
            all_repeated.append(self.repeated)


def _check_json_extent(text: str) -> None:
    """Refuse bodies that are nested too deeply for the recursive parser, or would take it too long."""
    opened, quotes = text.count("{") + text.count("["), text.count('"')
    # Strings may contain the same characters, so the body has at most as many parts. Most bodies have few.
    if opened <= MAX_DEPTH and opened + text.count(",") <= MAX_ELEMENTS and quotes <= 2 * MAX_ELEMENTS:
        return
    depth = elements = strings = 0
    for match in _MARK.finditer(text):
        mark = match[0]
        depth += (mark in _OPENING) - (mark in _CLOSING)
        elements += mark in _OPENING or mark == ","
        strings += mark.startswith('"')
        if depth > MAX_DEPTH:
            raise _too_deep()
        # Each element has at most a name and a value: with more strings, the body is no JSON or has too many elements.
        if elements > MAX_ELEMENTS or strings > 2 * MAX_ELEMENTS:
            raise _too_many()


def _parse_int(digits: str) -> int:
    return int(digits[:_INTEGER_CHARACTERS])


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"the request body is not JSON: {name} is not a number")


class _Member(Node):
    type_key: ClassVar[str] = TYPE_KEY

    def __init__(self, value: object, path: str) -> None:
        super().__init__(path)
        self._value = value

    def names(self) -> Collection[str]:
        return self._object()

    def child(self, name: str) -> Node | None:
        value = self._object().get(name)
        return None if value is None else _Member(value, join(self.path, name))

    def items(self, name: str) -> list[Node]:
        values = self._object().get(name)
        if values is None:
            return []
        if not isinstance(values, list):
            raise InvalidRequest(f"an array is expected, not {json_kind(values)}", field=join(self.path, name))
        return [_Member(value, f"{self.path}[{index}]") for index, value in enumerate(values)]

    def leaf(self, field: Field) -> object | None:
        return from_json(field, self._value, self.path)

    def declared_type(self) -> str:
        declared = self._object().get(TYPE_KEY)
        if declared is None:
            return ""
        if not isinstance(declared, str):
            raise InvalidRequest(f"a string is expected, not {json_kind(declared)}", field=join(self.path, TYPE_KEY))
        return declared.strip()

    def _object(self) -> _Object:
        if not isinstance(self._value, _Object):
            raise InvalidRequest(f"an object is expected, not {json_kind(self._value)}", field=self.path or None)
        if self._value.repeated is not None:
            raise InvalidRequest("is given more than once", field=join(self.path, self._value.repeated))
        return self._value
