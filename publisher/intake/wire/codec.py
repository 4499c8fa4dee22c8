"""Read and write documents, in the format of the request or of its answer."""

from __future__ import annotations

from publisher.core.errors import InvalidRequest
from publisher.intake.wire import charsets, json, xml
from publisher.intake.wire.reader import AccountResolver
from publisher.platforms.fields import Document
from publisher.web import body_limits
from publisher.web.negotiation import Format


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
        charsets.check_json(charset)
        return json.parse(root, body, limit=limit, resolve=resolve)
    body_limits.check_size(body, limit)
    body = charsets.xml_in_utf8(body, charset)
    name, document = xml.parse(body, limit=max(limit, len(body)), resolve=resolve)
    if name != root:
        raise InvalidRequest(f"the root element must be {root}", field=name)
    return document


def write_document(answer_format: Format, root: str, document: Document, *, request: bool = False) -> bytes:
    """Write `document` as the body of an answer or a request. Raises ValueError if it does not fit the schema."""
    if answer_format is Format.JSON:
        return json.render(root, document, request=request)
    return xml.render(root, document, request=request)
