"""The audit log, for administrators, newest entries first."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urlencode

from starlette.responses import Response

from publisher.console.page_request import Id, Visiting, page_router

router = page_router()

_PAGE = 100
_TEXT_MAX = 1000
_PAGES = (
    (re.compile(r"users/[^/]+/appliances/\d+/images/\d+/pimages/(\d+)"), "/publications/"),
    (re.compile(r"users/[^/]+/appliances/\d+/images/(\d+)"), "/images/"),
    (re.compile(r"users/[^/]+/accounts/(\d+)"), "/accounts/"),
    (re.compile(r"users/([^/]+)"), "/users/"),
)
"""URIs of objects, and the console pages of these objects."""


@router.get("/audit")
def audit(visit: Visiting, user: str = "", object: str = "", before: Id | None = None) -> Response:
    visit.require_administrator()
    filters = {"user": _text(user), "object": _text(object)}
    entries = visit.store.audit.latest(
        _PAGE + 1, before=before, actor=filters["user"] or None, object=filters["object"] or None
    )
    shown = entries[:_PAGE]
    return visit.page(
        "audit.html",
        entries=[(each, page_of(each.object)) for each in shown],
        filters=filters,
        newest=_path(filters) if before else None,
        older=_path(filters | {"before": str(shown[-1].id)}) if len(entries) > _PAGE else None,
    )


def page_of(uri: str) -> str | None:
    """Return the path of an object's page, below the console's own; None if it has none.

    The object may no longer exist.
    """
    for pattern, path in _PAGES:
        if match := pattern.fullmatch(uri):
            return path + quote(unquote(match[1]), safe="")
    return None


def _text(given: str) -> str:
    return given.strip().replace("\0", "")[:_TEXT_MAX]


def _path(query: dict[str, str]) -> str:
    given = {name: value for name, value in query.items() if value}
    return f"/audit?{urlencode(given)}" if given else "/audit"
