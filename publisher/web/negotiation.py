"""Which format an answer has, and which a request's body is in: XML unless JSON is asked for."""

from __future__ import annotations

import re
from enum import Enum

from publisher.core.errors import PublisherError


class Format(Enum):
    """A format that documents are exchanged in. The value is the answer's Content-Type, to the letter."""

    XML = "application/xml"
    JSON = "application/json"

    @property
    def content_type(self) -> str:
        """The answer's Content-Type. Existing clients compare it, so that no charset may follow."""
        return self.value


class NotAcceptable(PublisherError):
    """Answers come as application/xml, text/xml or application/json only."""


class UnsupportedMediaType(PublisherError):
    """A request body must be application/xml, text/xml or application/json."""


_BY_MEDIA_TYPE = {"application/xml": Format.XML, "text/xml": Format.XML, "application/json": Format.JSON}
_CHARSET = re.compile(r';[ \t]*charset=(?:"([^"]*)"|([^;"]*))', re.IGNORECASE)
_QUALITY = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


def answer_format(accept: str | None) -> Format:
    """The format for an Accept header, None where there is none. Raises NotAcceptable (406).

    A format's quality is that of the most specific range that names it, as in RFC 9110, 12.5.1. At the same quality
    the more specific naming wins, and then XML: `*/*` is XML, `*/*, application/json` is JSON.
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
    """The format for a request's Content-Type, whose parameters do not matter. Raises UnsupportedMediaType (415)."""
    try:
        return _BY_MEDIA_TYPE[media_type(content_type)]
    except KeyError:
        raise UnsupportedMediaType from None


def media_type(content_type: str | None) -> str:
    """What a Content-Type names, without its parameters; empty where there is none."""
    return (content_type or "").partition(";")[0].strip().lower()


def charset(content_type: str | None) -> str | None:
    """The charset parameter of a Content-Type; None where it has none."""
    found = _CHARSET.search(content_type or "")
    return (found[1] or found[2] or "").strip() or None if found else None


def _range(part: str) -> tuple[str, float]:
    media_range, *parameters = (each.strip() for each in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            value = value.strip()
            # A quality that cannot be read is no wish for that type.
            return media_range.lower(), float(value) if _QUALITY.fullmatch(value) else 0.0
    return media_range.lower(), 1.0


def _specificity(media_range: str, media_type: str) -> int:
    """How closely the range names the type: 3 exactly, 2 by its family, 1 like any other, 0 not at all.

    An answer in XML is always called application/xml, so that `*/*` does not bring in text/xml beside it.
    """
    if media_range == media_type:
        return 3
    if media_range == media_type.partition("/")[0] + "/*":
        return 2
    return 1 if media_range == "*/*" and media_type != "text/xml" else 0
