"""Turn exceptions of the OpenStack clients and answers of Glance into the errors that the runner handles."""

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
"""What a client that begins with TLS gets from some servers that do not speak it."""
_WORDS_MAX = 300
_TEXT_MAX = 4096
"""How much of an error page is read: the time that patterns take may grow faster than the page."""
_TAG = re.compile(r"(?is)<(script|style)\b[^>]*>.*?</\1\s*>|<!--.*?-->|</?[a-z!][^>]*>")
_GENERIC = "The request you have made requires authentication"
"""What Keystone answers to a refused login, whatever the cause."""
_STATUS = re.compile(r"\s*\(HTTP \d{3}\).*$")
"""What the client adds to what Keystone says."""
_CREDENTIAL_LIKE = re.compile(
    r"""(?ix) \b(x-auth-token|x-subject-token|password|passwd|secret|token|downloadid)\b
        ["']? \s* [=:] \s* (?: "(?:[^"\\]|\\.)*"? | '(?:[^'\\]|\\.)*'? | \S+ )"""
)


class Refused(Exception):
    """Glance answered with a status of 400 or above."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = headers


@contextmanager
def translated(service: str, element: str = "glanceUrl", *, by_token: bool = False) -> Iterator[None]:
    """Turn every client exception inside into a `CloudError`.

    `service` ("Glance at http://…") begins its message, and `element` is the request's field that sets the address.
    `by_token`: the service knows the login only by a token, as in `answered`.
    """
    try:
        yield
    except Refused as refused:
        said = words_of(refused.body)
        raise answered(service, refused.status, said, refused.headers, by_token=by_token) from None
    except keystone.HttpError as error:
        headers = error.response.headers if error.response is not None else {}
        status = int(error.http_status or 500)
        raise answered(service, status, _words(error.message), headers, by_token=by_token) from None
    except (keystone.ConnectionError, keystone.DiscoveryFailure, requests.exceptions.RequestException) as error:
        if words := tls.fault(error, service, element):
            raise PermanentCloudError(words, reason=Reason.CONFIGURATION) from None
        if isinstance(error.__context__ or error, _NO_ADDRESS):
            words = f"{service}: the address is not valid; check {element}"
            raise PermanentCloudError(words, reason=Reason.REQUEST) from None
        kind = _kind(error)
        if kind in _BROKEN_OFF and "https://" in service:
            kind += f"; if it does not use TLS, use http:// in {element}"
        raise TransientCloudError(f"{service} does not answer: {kind}", reason=Reason.CONNECTION) from None
    except keystone.ClientException as error:
        raise PermanentCloudError(f"{service}: {_words(error.message or type(error).__name__)}") from None


def answered(
    service: str, status: int, words: str, headers: Mapping[str, str] | None = None, *, by_token: bool = False
) -> CloudError:
    """Return the error for an HTTP status of 400 or above.

    `by_token`: the service received a token that Keystone issued a moment ago. A 401 then says that the token may have
    expired, and nothing about the login. Another attempt signs in again, and Keystone refuses that if the login is the
    problem.
    """
    said = f"{service} answered {status}" + (f": {words}" if words else "")
    if status == 401 and by_token:
        words = f"{said} (it refused a token that Keystone had just issued)"
        return TransientCloudError(words, reason=Reason.CREDENTIALS)
    if status in _TRANSIENT:
        return TransientCloudError(said, retry_after_seconds=_retry_after(headers or {}))
    advice = {
        401: "the login was not accepted; check login, password, domain and project",
        403: "the account has no role that allows this in this project; give one to its user or application credential",
        413: "the image is larger than the quota or the space that is left; make room or ask for more",
    }.get(status)
    return PermanentCloudError(f"{said} ({advice})" if advice else said, reason=_REASONS.get(status))


def words_of(body: bytes) -> str:
    """Return what an error page says, in one line: its `message` if the page is JSON."""
    text = body[:_TEXT_MAX].decode("utf-8", "replace")
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError):
        reply = None
    if isinstance(reply, dict) and isinstance(reply.get("error"), dict):
        reply = reply["error"]
    message = reply.get("message") if isinstance(reply, dict) else None
    return _words(message if isinstance(message, str) else text)


def words_of_login(error: keystone.HttpError) -> str:
    """Return what Keystone says about a refused login beyond its generic sentence; empty if it says no more."""
    said = _STATUS.sub("", _words(error.message))
    return "" if said.startswith(_GENERIC) else said.removesuffix(".")


def _words(text: object) -> str:
    """Return one line of plain text, without anything that looks like a credential."""
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
    """Return the seconds to wait. RFC 9110 section 10.2.3 allows a number or a date."""
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
