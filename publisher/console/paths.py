"""Paths that a form or an address names, to go on to afterwards: ours alone."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit

from publisher.console import BASE


def local(wanted: str) -> str | None:
    """The page that was wanted, where it is one of ours."""
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return None
    ours = wanted.startswith(f"{BASE}/") and not parts.netloc and wanted.isprintable() and "\\" not in wanted
    return wanted if ours and not wanted.startswith((f"{BASE}/sign-", f"{BASE}//")) else None


def with_parameter(path: str, name: str, value: object) -> str:
    """The path with that parameter in its query, instead of any other of the name."""
    parts = urlsplit(path)
    query = [each for each in parse_qsl(parts.query) if each[0] != name]
    return f"{parts.path}?{urlencode([*query, (name, str(value))])}"
