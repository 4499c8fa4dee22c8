"""The formats of documents: XML, unless the caller asks for JSON."""

from __future__ import annotations

import re
from enum import Enum

from publisher.core.errors import NotAcceptable


class Format(Enum):
    """A format of documents. The value is exactly the Content-Type of answers."""

    XML = "application/xml"
    JSON = "application/json"

    @property
    def content_type(self) -> str:
        """The Content-Type of answers, without a charset, because existing clients compare the whole value."""
        return self.value


BY_MEDIA_TYPE = {"application/xml": Format.XML, "text/xml": Format.XML, "application/json": Format.JSON}

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
    for media_type, answer in BY_MEDIA_TYPE.items():
        matching = [(_specificity(each, media_type), quality) for each, quality in ranges]
        specificity, quality = max(matching, default=(0, 0.0))
        if specificity and quality:
            ranked.append((quality, specificity, answer is Format.XML, answer))
    if not ranked:
        raise NotAcceptable
    return max(ranked, key=lambda rank: rank[:3])[3]


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
