"""The bodies of documents: which format they have (XML unless JSON is requested), and how large they may be."""

from __future__ import annotations

import re
from enum import Enum

from publisher.core.errors import InvalidRequest, PublisherError

MAX_BODY_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_ELEMENTS = 10_000


class Format(Enum):
    """A format of documents. The value is exactly the Content-Type of answers."""

    XML = "application/xml"
    JSON = "application/json"

    @property
    def content_type(self) -> str:
        """The Content-Type of answers, without a charset, because existing clients compare the whole value."""
        return self.value


class NotAcceptable(PublisherError):
    """Answers come as application/xml, text/xml or application/json only."""


class UnsupportedMediaType(PublisherError):
    """A request body must be application/xml, text/xml or application/json."""


class BodyTooLarge(InvalidRequest):
    """The request body is too large."""


_BY_MEDIA_TYPE = {"application/xml": Format.XML, "text/xml": Format.XML, "application/json": Format.JSON}
_CHARSET = re.compile(r';[ \t]*charset=(?:"([^"]*)"|([^;"]*))', re.IGNORECASE)
_QUALITY = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


def answer_format(accept: str | None) -> Format:
    """Return the format for an Accept header; `accept` is None if there is none. Raises `NotAcceptable`.

    A format's quality is that of the most specific range that matches it (RFC 9110, 12.5.1). At equal quality, the more
    specific match wins, then XML: `*/*` is XML, `*/*, application/json` is JSON.
    """
    if accept is None or not accept.strip():
        return Format.XML
    ranges = [_range(part) for part in accept.split(",") if part.strip()]
    ranked: list[tuple[float, int, bool, Format]] = []
    for media_type, answer in _BY_MEDIA_TYPE.items():
        matching = [(_specificity(each, media_type), quality) for each, quality in ranges]
        specificity, quality = max(matching, default=(0, 0.0))
        if specificity and quality:
            ranked.append((quality, specificity, answer is Format.XML, answer))
    if not ranked:
        raise NotAcceptable
    return max(ranked, key=lambda rank: rank[:3])[3]


def body_format(content_type: str | None) -> Format:
    """Return the format for a request's Content-Type, ignoring its parameters. Raises `UnsupportedMediaType`."""
    try:
        return _BY_MEDIA_TYPE[media_type(content_type)]
    except KeyError:
        raise UnsupportedMediaType from None


def media_type(content_type: str | None) -> str:
    """Return a Content-Type without its parameters; empty if there is none."""
    return (content_type or "").partition(";")[0].strip().lower()


def charset(content_type: str | None) -> str | None:
    """Return the charset parameter of a Content-Type; None if it has none."""
    found = _CHARSET.search(content_type or "")
    return (found[1] or found[2] or "").strip() or None if found else None


def check_size(body: bytes, limit: int) -> None:
    """Check the size of a body. Raises `BodyTooLarge` if it has more than `limit` bytes."""
    if len(body) > limit:
        raise BodyTooLarge(f"the request body has {len(body)} bytes; at most {limit} are accepted")


def too_deep() -> InvalidRequest:
    """Return the error for a body that is nested too deeply."""
    return InvalidRequest(f"the request body is nested deeper than {MAX_DEPTH} levels")


def too_many() -> InvalidRequest:
    """Return the error for a body with too many elements."""
    return InvalidRequest(f"the request body has more than {MAX_ELEMENTS} elements")


def _range(part: str) -> tuple[str, float]:
    media_range, *parameters = (each.strip() for each in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            value = value.strip()
            # A malformed quality counts as 0.
            return media_range.lower(), float(value) if _QUALITY.fullmatch(value) else 0.0
    return media_range.lower(), 1.0


def _specificity(media_range: str, media_type: str) -> int:
    """Return how closely a range matches a type: 3 exactly, 2 as `application/*`, 1 as `*/*`, 0 not at all.

    `*/*` does not match text/xml, because XML answers are always called application/xml.
    """
    if media_range == media_type:
        return 3
    if media_range == media_type.partition("/")[0] + "/*":
        return 2
    return 1 if media_range == "*/*" and media_type != "text/xml" else 0
