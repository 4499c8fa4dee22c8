"""Turns what the OpenStack clients raise, and what Glance answers, into the errors that the runner knows."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from time import time

import requests.exceptions
from keystoneauth1 import exceptions as keystone

from publisher.core.errors import CloudError, PermanentCloudError, Reason, TransientCloudError
from workers import tls

_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_NO_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
)
_REASONS = {
    401: Reason.CREDENTIALS,
    403: Reason.FORBIDDEN,
    413: Reason.QUOTA,
    507: Reason.QUOTA,
}
_BROKEN_OFF = ("the connection was reset", "the connection was closed")
"""So some servers take it that a client begins with TLS, and they speak none."""
_WORDS_MAX = 300
_TEXT_MAX = 4096
"""Of an error page that is looked at: patterns may take time that grows faster than the page does."""
_TAG = re.compile(r"(?is)<(script|style)\b[^>]*>.*?</\1\s*>|<!--.*?-->|</?[a-z!][^>]*>")
_GENERIC = "The request you have made requires authentication"
"""What Keystone says to a login whatever is wrong with it."""
_CREDENTIAL_LIKE = re.compile(
    r"""(?ix) \b(x-auth-token|x-subject-token|password|passwd|secret|token)\b
        ["']? \s* [=:] \s* (?: "(?:[^"\\]|\\.)*"? | '(?:[^'\\]|\\.)*'? | \S+ )"""
)


@contextmanager
def translated(service: str, element: str = "glanceUrl", *, by_token: bool = False) -> Iterator[None]:
    """Every client exception inside becomes a `CloudError`; `service` ("Glance at http://…") begins its message, and
    `element` is where its address can be given.

    `by_token`: the service knows the login by a token alone, as in `answered`.
    """
    try:
        yield
    except keystone.HttpError as error:
        headers = error.response.headers if error.response is not None else {}
        status = int(error.http_status or 500)
        raise answered(service, status, _words(error.message), headers, by_token=by_token) from None
    except (keystone.ConnectionError, keystone.DiscoveryFailure, requests.exceptions.RequestException) as error:
        if words := tls.fault(error, service, element):
            raise PermanentCloudError(words, reason=Reason.CONFIGURATION) from None
        if isinstance(error.__context__ or error, _NO_ADDRESS):
            words = f"{service}: that is no valid address; check {element}"
            raise PermanentCloudError(words, reason=Reason.REQUEST) from None
        kind = _kind(error)
        if kind in _BROKEN_OFF and "https://" in service:
            kind += f"; if it speaks no TLS, use http:// in {element}"
        raise TransientCloudError(f"{service} does not answer: {kind}", reason=Reason.CONNECTION) from None
    except keystone.ClientException as error:
        raise PermanentCloudError(f"{service}: {_words(error.message or type(error).__name__)}") from None


def answered(
    service: str, status: int, words: str, headers: Mapping[str, str] | None = None, *, by_token: bool = False
) -> CloudError:
    """The error that an HTTP status of 400 and above stands for.

    Who is known `by_token` was signed in by Keystone a moment ago: a 401 then tells of the token, which may have run
    out, and nothing of the login. Another attempt signs in anew, and hears from Keystone if it is the login after all.
    """
    said = f"{service} answered {status}" + (f": {words}" if words else "")
    if status == 401 and by_token:
        words = f"{said} (the token was not accepted, though Keystone had just given it)"
        return TransientCloudError(words, reason=Reason.CREDENTIALS)
    if status in _TRANSIENT:
        return TransientCloudError(said, retry_after_seconds=_retry_after(headers or {}))
    advice = {
        401: "the login was not accepted; check login, password, domain and project",
        403: "the login may not do this in this project",
        413: "the image is larger than the quota or the space that is left; make room or ask for more",
    }.get(status)
    return PermanentCloudError(f"{said} ({advice})" if advice else said, reason=_REASONS.get(status))


def words_of(body: bytes) -> str:
    """What an error page says, in one line: the `message` where it is JSON."""
    text = body[:_TEXT_MAX].decode("utf-8", "replace")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, dict) and isinstance(told.get("error"), dict):
        told = told["error"]
    message = told.get("message") if isinstance(told, dict) else None
    return _words(message if isinstance(message, str) else text)


def words_of_login(error: keystone.Unauthorized) -> str:
    """What Keystone says of a login that it refuses, beyond that it does; empty where that is nothing."""
    said = _words(error.message)
    return "" if said.startswith(_GENERIC) else said.removesuffix(".")


def _words(text: object) -> str:
    """One line of plain text without anything that looks like a credential."""
    line = " ".join(html.unescape(_TAG.sub(" ", str(text or "")[:_TEXT_MAX])).split())
    line = re.sub(r"^(?:HTTP )?\d{3} \w[\w ]*?:? (?=\d{3} )", "", line)
    return _CREDENTIAL_LIKE.sub(r"\1=***", line)[:_WORDS_MAX]


def _kind(error: Exception) -> str:
    text = str(error)
    for sign, kind in (
        ("refused", "connection refused"),
        ("Name or service not known", "its name cannot be resolved"),
        ("resolution", "its name cannot be resolved"),
        ("No route", "no route to it"),
        ("timed out", "timed out"),
        ("reset", _BROKEN_OFF[0]),
        ("EOF", _BROKEN_OFF[1]),
        ("RemoteDisconnected", _BROKEN_OFF[1]),
    ):
        if sign in text:
            return kind
    return type(error).__name__


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; RFC 9110 section 10.2.3 allows a number or a date."""
    value = next((value for name, value in headers.items() if name.lower() == "retry-after"), None)
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except ValueError:
        return None
