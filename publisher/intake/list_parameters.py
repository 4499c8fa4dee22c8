"""The parameters of lists: `query`, `orderBy`, `descending`, `count` and `offset`."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Request

from publisher.core.errors import InvalidRequest
from publisher.core.fiql import parse
from publisher.core.listing import Listing

_NUMBER_MAX = (1 << 31) - 1
_BOOLEANS = {"": False, "true": True, "false": False}


def listing(request: Request) -> Listing:
    """A parameter that is empty is as good as none. Raises `InvalidRequest` that names the parameter.

    Whether the fields that are named are the list's is for the list itself to say.
    """
    query = _given(request, "query")
    descending = _BOOLEANS.get(_given(request, "descending").lower())
    if descending is None:
        raise InvalidRequest("is not true or false", field="descending")
    return Listing(
        query=parse(query) if query else None,
        order_by=_given(request, "orderBy") or None,
        descending=descending,
        count=_number(request, "count", 1),
        offset=_number(request, "offset", 0) or 0,
    )


Listed = Annotated[Listing, Depends(listing)]
"""Which part of a list is wanted; a route asks for it after `Calling`, so that a login is checked first."""


def _given(request: Request, name: str) -> str:
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise InvalidRequest("is given more than once", field=name)
    return values[0].strip() if values else ""


def _number(request: Request, name: str, least: int) -> int | None:
    text = _given(request, name)
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= _NUMBER_MAX:
        raise InvalidRequest(f"is not a number from {least} to {_NUMBER_MAX}", field=name)
    return int(text)
