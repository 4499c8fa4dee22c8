"""What a caller prefers about the handling of a request: the header `Prefer` (RFC 7240)."""

from __future__ import annotations

from urllib.request import parse_http_list

from starlette.requests import Request

PREFER = "Prefer"
STRICT = "handling=strict"
"""The preference that an unknown element is an error."""
APPLIED = "Preference-Applied"


def wants_strict(request: Request) -> bool:
    """Return whether the caller prefers strict handling. Of several `handling` preferences, the first one counts."""
    given = request.headers.getlist(PREFER)
    if not given:
        return False
    for each in parse_http_list(",".join(given)):
        name, _, value = each.partition(";")[0].partition("=")
        if name.strip().lower() == "handling":
            return value.strip().strip('"').lower() == "strict"
    return False
