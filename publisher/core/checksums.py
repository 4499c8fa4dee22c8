"""Checksums that a caller declares for an image, and their comparison with the received bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from publisher.core.errors import InvalidRequest

HEX_DIGITS = {"md5": 32, "sha256": 64, "sha512": 128}
"""Maps each algorithm, by our name for it, to the length of its checksum in hex digits."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum that a caller declared."""

    algorithm: str
    """One of `HEX_DIGITS`."""
    value: str
    """Lower-case hex."""
    field: str
    """The element, header or option that it was given in."""


Checksums = tuple[Checksum, ...]


def checksum(algorithm: str, text: str, field: str) -> Checksum:
    """Parse a checksum in hex. Raises `InvalidRequest`."""
    value = text.strip().lower()
    digits = HEX_DIGITS[algorithm]
    if not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
        raise InvalidRequest(f"is no {algorithm} checksum; give its {digits} hexadecimal digits", field=field)
    return Checksum(algorithm, value, field)


def checksums(*, md5: object = None, sha256: object = None) -> Checksums:
    """Parse the checksums of a document or of request parameters, named as on the wire. Raises `InvalidRequest`."""
    given = {"md5": ("md5sum", md5), "sha256": ("sha256sum", sha256)}
    return tuple(checksum(algorithm, str(text), field) for algorithm, (field, text) in given.items() if text)


def check(expected: Checksums, *found: Mapping[str, str]) -> None:
    """Compare each checksum with the computed ones: one of them must be equal.

    A compressed image has two: of the bytes as sent and of the disk inside. Raises `InvalidRequest`.
    """
    for each in expected:
        values = list(dict.fromkeys(one[each.algorithm] for one in found if each.algorithm in one))
        if each.value not in values:
            raise InvalidRequest(
                f"the image's {each.algorithm} is {', unpacked '.join(values)}, not {each.value};"
                " send the image again, or correct the checksum",
                field=each.field,
            )
