"""The console's cookies: the session, and the message for the next page. Scripts cannot read them."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

from fastapi import Request, Response

from publisher.web.request import services

_SESSION, _FLASH = "publisher_session", "publisher_flash"
_FLASH_SECONDS = 60
_FLASH_MAX = 2000


@dataclass(frozen=True, slots=True)
class Flash:
    """A sentence to show on the next page. `kind` is `done` or `problem`."""

    words: str
    kind: str = "done"


def secure(request: Request) -> bool:
    """Return whether browsers may send the cookies only over TLS."""
    settings = services(request).settings
    return request.url.scheme == "https" or settings.production or settings.public_url.startswith("https:")


def session_value(request: Request) -> str | None:
    return request.cookies.get(_name(request, _SESSION))


def set_session(request: Request, response: Response, value: str, seconds: float) -> None:
    _set(request, response, _SESSION, value, int(seconds))


def drop_session(request: Request, response: Response) -> None:
    _drop(request, response, _SESSION)


def flash(request: Request) -> Flash | None:
    try:
        words, kind = json.loads(base64.urlsafe_b64decode(request.cookies.get(_name(request, _FLASH), "")))
    except (ValueError, TypeError, RecursionError):  # there is none, or it is not ours
        return None
    return Flash(str(words), "problem" if kind == "problem" else "done")


def set_flash(request: Request, response: Response, said: Flash) -> None:
    value = base64.urlsafe_b64encode(json.dumps([said.words[:_FLASH_MAX], said.kind]).encode()).decode()
    _set(request, response, _FLASH, value, _FLASH_SECONDS)


def drop_flash(request: Request, response: Response) -> None:
    _drop(request, response, _FLASH)


def _name(request: Request, name: str) -> str:
    # With this prefix, browsers accept the cookie only from this very host, over TLS, and for all of its paths.
    return f"__Host-{name}" if secure(request) else name


def _set(request: Request, response: Response, name: str, value: str, seconds: int) -> None:
    response.set_cookie(
        _name(request, name),
        value,
        max_age=seconds,
        path="/",
        secure=secure(request),
        httponly=True,
        samesite="lax",
    )


def _drop(request: Request, response: Response, name: str) -> None:
    response.delete_cookie(_name(request, name), path="/", secure=secure(request), httponly=True, samesite="lax")
