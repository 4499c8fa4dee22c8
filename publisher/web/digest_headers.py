"""Read the checksums of a body from the headers of its request."""

from __future__ import annotations

import base64
import binascii
import re

from starlette.datastructures import Headers

from publisher.core.errors import InvalidRequest
from publisher.core.image import HEX_DIGITS, Checksum, Checksums

_ALGORITHMS = {"md5": "md5", "sha-256": "sha256", "sha-512": "sha512"}
"""Our names of algorithms, by their names in the IANA registry for HTTP digest fields."""
_MEMBER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(.+)")
_BYTE_SEQUENCE = re.compile(r":([A-Za-z0-9+/=]*):(?:\s*;.*)?")
"""RFC 9651, 3.3.5: base64 between colons, optionally followed by parameters."""


def sent_checksums(headers: Headers) -> Checksums:
    """Return the checksums that a request's headers give.

    The headers are `Content-MD5` (RFC 1864), `Digest` (RFC 3230), `Content-Digest` and `Repr-Digest` (RFC 9530). All
    are checksums of the bytes as sent. Raises `InvalidRequest`, which names the header, if one is malformed or has only
    unknown algorithms, because its sender relies on the check.
    """
    found = [_decoded("md5", each, "Content-MD5") for each in headers.getlist("content-md5")]
    found += _listed(headers, "Digest", r"(.*)")
    found += _listed(headers, "Content-Digest", _BYTE_SEQUENCE.pattern)
    found += _listed(headers, "Repr-Digest", _BYTE_SEQUENCE.pattern)
    return tuple(found)


def _listed(headers: Headers, name: str, form: str) -> list[Checksum]:
    given = headers.getlist(name)
    if not given:
        return []
    found = []
    for member in ",".join(given).split(","):
        named = _MEMBER.fullmatch(member.strip())
        value = re.fullmatch(form, named[2]) if named else None
        if named is None or value is None:
            raise InvalidRequest("is malformed; see RFC 9530, or RFC 3230 for Digest", field=name)
        if algorithm := _ALGORITHMS.get(named[1].lower()):
            found.append(_decoded(algorithm, value[1], name))
    if not found:
        raise InvalidRequest(f"has no supported algorithm; use one of {', '.join(_ALGORITHMS)}", field=name)
    return found


def _decoded(algorithm: str, text: str, name: str) -> Checksum:
    try:
        value = base64.b64decode(text.strip(), validate=True).hex()
    except (binascii.Error, ValueError):
        value = ""
    if len(value) != HEX_DIGITS[algorithm]:
        raise InvalidRequest(
            f"is no {algorithm} checksum; give its {HEX_DIGITS[algorithm] // 2} bytes in base64", field=name
        )
    return Checksum(algorithm, value, name)
