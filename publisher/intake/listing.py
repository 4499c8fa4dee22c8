"""The parameters of lists: `query`, `orderBy`, `descending`, `count` and `offset`."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Query, Request

from publisher.core.errors import InvalidRequest
from publisher.core.fiql import parse
from publisher.core.listing import Listing

COUNT_MAX = OFFSET_MAX = (1 << 31) - 1
_NAMES = ("query", "orderBy", "descending", "count", "offset")
_BOOLEANS = {"true": True, "false": False}


def listing(
    request: Request,
    query: Annotated[str, Query(description="FIQL: which objects", examples=["name=='*nginx*'"])] = "",
    order_by: Annotated[str, Query(alias="orderBy", description="the field to order by; else by number")] = "",
    descending: Annotated[str, Query(description="`true`: the other way round")] = "",
    count: Annotated[str, Query(description="how many at the most; else all")] = "",
    offset: Annotated[str, Query(description="how many to leave out at the beginning")] = "",
) -> Listing:
    """A parameter that is empty is as good as none. Raises `InvalidRequest` that names the parameter.

    Whether the fields that are named are the list's is for the list itself to say.
    """
    for name in _NAMES:
        if len(request.query_params.getlist(name)) > 1:
            raise InvalidRequest("is given more than once", field=name)
    if descending.lower() not in ("", *_BOOLEANS):
        raise InvalidRequest("is not true or false", field="descending")
    return Listing(
        query=parse(query) if query.strip() else None,
        order_by=order_by or None,
        descending=_BOOLEANS.get(descending.lower(), False),
        count=_number("count", count, 1, COUNT_MAX) if count else None,
        offset=_number("offset", offset, 0, OFFSET_MAX) if offset else 0,
    )


Listed = Annotated[Listing, Depends(listing)]


def _number(name: str, text: str, least: int, greatest: int) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= greatest:
        raise InvalidRequest(f"is not a number from {least} to {greatest}", field=name)
    return int(text)
