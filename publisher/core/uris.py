"""URIs of the publishing API, relative to its base path and without a leading slash, as they appear in documents."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from publisher.core.errors import InvalidRequest

ID_PATTERN = "[1-9][0-9]{0,18}"
ID_MAX = (1 << 63) - 1
"""The largest id that the ticket store can hold."""

_BASE = "(?:/?(?:api/)?)users/([^/]+)"
_IMAGE = re.compile(f"{_BASE}/appliances/({ID_PATTERN})/images/({ID_PATTERN})/?")
_ACCOUNT = re.compile(
    # As stored, or as a ticket names it.
    f"{_BASE}/(?:appliances/[0-9]+/images/[0-9]+/pimages/[0-9]+/)?accounts/({ID_PATTERN})/?"
)
_APPLIANCE = re.compile(f"{_BASE}/appliances/({ID_PATTERN})/?")


def parse_id(text: str) -> int | None:
    """Return the id that a text is, written without leading zeros; None if no object can have such an id."""
    number = int(text) if re.fullmatch(ID_PATTERN, text) else 0
    return number if 0 < number <= ID_MAX else None


def user_uri(login: str) -> str:
    return f"users/{quote(login, safe='')}"


def account_uri(login: str, account_id: int) -> str:
    return f"{user_uri(login)}/accounts/{account_id}"


def api_key_uri(login: str, key_id: int) -> str:
    return f"{user_uri(login)}/apikeys/{key_id}"


def role_uri(name: str) -> str:
    """Return the name of a role in the audit log; the API has no such URI."""
    return f"roles/{quote(name, safe='')}"


def worker_uri(name: str) -> str:
    """Return the name of a worker in the audit log; the API has no such URI."""
    return f"workers/{quote(name, safe='')}"


def webhook_uri(login: str) -> str:
    return f"{user_uri(login)}/webhook"


def appliance_uri(login: str, appliance_id: int) -> str:
    return f"{user_uri(login)}/appliances/{appliance_id}"


def image_uri(login: str, appliance_id: int, image_id: int) -> str:
    return f"{appliance_uri(login, appliance_id)}/images/{image_id}"


def download_uri(image_uri: str, file_name: str, key: str) -> str:
    """Return the URI to download an image's file from. `key` is a one-time key that replaces the login."""
    return f"{image_uri}/downloads/{quote(file_name, safe='')}?downloadId={key}"


def ticket_download_uri(login: str, appliance_id: int, ticket_id: int, key: str) -> str:
    return f"{appliance_uri(login, appliance_id)}/pimages/{ticket_id}/downloads?downloadId={key}"


def ticket_uri(login: str, appliance_id: int, image_id: int, ticket_id: int) -> str:
    return f"{image_uri(login, appliance_id, image_id)}/pimages/{ticket_id}"


def target_platform_uri(login: str, platform: str) -> str:
    return f"{user_uri(login)}/targetplatforms/{quote(platform, safe='')}"


def target_format_uri(login: str, platform: str, format: str) -> str:
    return f"{user_uri(login)}/targetformats/{quote(platform, safe='')}/{quote(format, safe='')}"


def parse_image_uri(uri: str, field: str) -> tuple[str, int, int]:
    """Return login, appliance id and image id. Raises `InvalidRequest`."""
    login, (appliance_id, image_id) = _parsed(_IMAGE, uri, "users/USER/appliances/4/images/7", field)
    return login, appliance_id, image_id


def parse_appliance_uri(uri: str, field: str) -> tuple[str, int]:
    """Return login and appliance id. Raises `InvalidRequest`."""
    login, (appliance_id,) = _parsed(_APPLIANCE, uri, "users/USER/appliances/4", field)
    return login, appliance_id


def parse_account_uri(uri: str, field: str) -> tuple[str, int]:
    """Return login and account id. Raises `InvalidRequest`."""
    login, (account_id,) = _parsed(_ACCOUNT, uri, "users/USER/accounts/3", field)
    return login, account_id


def _parsed(form: re.Pattern[str], uri: str, example: str, field: str) -> tuple[str, list[int]]:
    """Return the login and the ids of a URI. Raises `InvalidRequest`."""
    match = form.fullmatch(uri)
    ids = [parse_id(each) for each in match.groups()[1:]] if match else []
    found = [id for id in ids if id is not None]
    if match is None or len(found) < len(ids):
        raise InvalidRequest(f"'{uri}' is not of the form {example}", field=field)
    return unquote(match[1]), found
