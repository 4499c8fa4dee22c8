"""Check paths that a form or an address names as the next page: only the console's own are followed."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit

from publisher.console import BASE


def local(wanted: str) -> str | None:
    """Return the requested path if it is a page of the console, else None."""
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return None
    ours = wanted.startswith(f"{BASE}/") and not parts.netloc and wanted.isprintable() and "\\" not in wanted
    return wanted if ours and not wanted.startswith((f"{BASE}/sign-", f"{BASE}//")) else None


def with_parameter(path: str, name: str, value: object) -> str:
    """Return the path with this parameter in its query, in place of any other of the same name."""
    parts = urlsplit(path)
    query = [each for each in parse_qsl(parts.query) if each[0] != name]
    return f"{parts.path}?{urlencode([*query, (name, str(value))])}"
