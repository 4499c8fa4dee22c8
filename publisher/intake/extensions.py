"""What is beyond the API: platforms and formats that packages bring. Answers in XML leave them out unless asked.

Existing clients have classes bound to the API's schema. One name that these do not know makes a whole list unreadable.
"""

from __future__ import annotations

from fastapi import Request

from publisher.core.errors import InvalidRequest, NotFound, PublisherError
from publisher.platforms.platform import find_platform
from publisher.web.negotiation import Format, NotAcceptable

PARAMETER = "extensions"
_VALUES = {"": False, "false": False, "true": True}


def asked(request: Request) -> bool:
    """Whether the request asks for them. Raises `InvalidRequest` for a value that is no boolean."""
    given = request.query_params.getlist(PARAMETER) or [""]
    if len(given) > 1:
        raise InvalidRequest("is given more than once", field=PARAMETER)
    try:
        return _VALUES[given[0].strip().lower()]
    except KeyError:
        raise InvalidRequest("is not true or false", field=PARAMETER) from None


def shown(request: Request, form: Format) -> bool:
    """Whether an answer in that form names them."""
    return asked(request) or form is Format.JSON


def not_shown(platform: str) -> PublisherError:
    """The error for an object that an answer has to leave out whole, because of its platform."""
    if find_platform(platform) is None:
        return NotFound(f"it is of the platform '{platform}', which no installed package describes")
    return NotAcceptable(
        f"the API's schema does not know the platform '{platform}'; ask for application/json, or add {PARAMETER}=true"
    )
