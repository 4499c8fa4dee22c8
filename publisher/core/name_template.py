"""Names that are made from a template, such as `{name}-{version}-{date}`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from publisher.core.errors import InvalidRequest

PLACEHOLDERS = {
    "name": "the image's name",
    "id": "the image's number",
    "revision": "how often the image has been registered",
    "appliance": "the appliance's name",
    "version": "the appliance's version",
    "date": "the date in UTC, such as 2026-01-02",
    "time": "the time in UTC, such as 030405",
}
"""What a template may contain in braces, and what each becomes."""
_BRACES = re.compile(r"\{([^{}]*)\}")


def placeholders(template: str, field: str) -> frozenset[str]:
    """Return the placeholders of a template. Raises `InvalidRequest` for an unknown one, or a single brace."""
    used = frozenset(_BRACES.findall(template))
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    if unknown := sorted(used - set(PLACEHOLDERS)):
        raise InvalidRequest(f"'{{{unknown[0][:40]}}}' is unknown; use {known}", field=field)
    if "{" in (rest := _BRACES.sub("", template)) or "}" in rest:
        raise InvalidRequest(f"has a brace that belongs to no placeholder; use {known}", field=field)
    return used


def expand(template: str, values: Mapping[str, str]) -> str:
    """Return the name. `values` has a value for each placeholder of the template. Braces in a value stay."""
    return _BRACES.sub(lambda found: values[found[1]], template)
