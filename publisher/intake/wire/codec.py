"""Read and write documents, in the format of the request or of its answer.

The character set of a request's body follows RFC 7303 for XML and RFC 8259 for JSON.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence

from publisher.core.errors import InvalidRequest
from publisher.intake.wire import json, xml
from publisher.intake.wire.walk import AccountResolver
from publisher.platforms.platform import Document
from publisher.web import body_limits
from publisher.web.negotiation import Format, UnsupportedMediaType

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

_LIST_MARKS = {Format.XML: (b"<*>", b"</*>", b""), Format.JSON: (b"[", b"]", b",")}
"""How the items of a list begin and end, and what is between two of them. `*` is the name of the list's wrapper."""

_DECLARED = re.compile(r"""\A(<\?xml\s[^>]*?)\sencoding\s*=\s*(?:"[^"]*"|'[^']*')""")
_DECLARATION_CHARACTERS = 256


def read_document(
    body: bytes,
    body_format: Format,
    root: str,
    *,
    charset: str | None = None,
    limit: int = body_limits.MAX_BODY_BYTES,
    resolve: AccountResolver | None = None,
) -> Document:
    """Read the document in a request's body. Its root must be `root`; it may have `limit` bytes.

    `charset` is the one in the body's Content-Type. `resolve` finds the platform of an account that does not
    declare one; it is asked at most once.

    Raises BodyTooLarge, UnsupportedMediaType, and InvalidRequest, which names the element at fault if there is one.
    """
    if body_format is Format.JSON:
        _check_json(charset)
        return json.parse(root, body, limit=limit, resolve=resolve)
    body_limits.check_size(body, limit)
    body = _xml_in_utf8(body, charset)
    name, document = xml.parse(body, limit=max(limit, len(body)), resolve=resolve)
    if name != root:
        raise InvalidRequest(f"the root element must be {root}", field=name)
    return document


def write_document(answer_format: Format, root: str, document: Document, *, request: bool = False) -> bytes:
    """Write `document` as the body of an answer or a request. Raises ValueError if it does not fit the schema."""
    if answer_format is Format.JSON:
        return json.render(root, document, request=request)
    return xml.render(root, document, request=request)


def write_list(answer_format: Format, root: str, total: int, pages: Iterable[Sequence[Document]]) -> Iterator[bytes]:
    """Write a list document piece by piece. Its wrapper has the name of the root; `pages` are its items.

    The pieces are the bytes that `write_document` writes for all items at once: each page is written as a list of its
    own, from which the beginning and the end are cut off. Takes a page only when the piece before it was taken.
    """
    begin, end, comma = _LIST_MARKS[answer_format]
    before, after = (mark.replace(b"*", root.encode()) for mark in (begin, end))
    tail = b""
    for page in filter(None, pages):
        written = write_document(answer_format, root, {"total": total, root: page})
        start = written.index(before) + len(before)
        stop = written.rindex(after)
        yield (comma if tail else written[:start]) + written[start:stop]
        tail = written[stop:]
    yield tail or write_document(answer_format, root, {"total": total, root: ()})


# Character sets -------------------------------------------------------------------------------------------------------


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


def _check_json(charset: str | None) -> None:
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
