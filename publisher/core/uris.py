"""URIs of the publishing API, relative to its base path and without a leading slash, as they appear in documents."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from publisher.core.errors import InvalidRequest

_IMAGE = re.compile(r"(?:/?(?:api/)?)users/([^/]+)/appliances/(\d{1,18})/images/(\d{1,18})/?", re.ASCII)
_ACCOUNT = re.compile(
    # As stored, or as a ticket names it.
    r"(?:/?(?:api/)?)users/([^/]+)/(?:appliances/\d+/images/\d+/pimages/\d+/)?accounts/(\d{1,18})/?",
    re.ASCII,
)
_APPLIANCE = re.compile(r"(?:/?(?:api/)?)users/([^/]+)/appliances/(\d{1,18})/?", re.ASCII)


_ID = re.compile(r"[0-9]{1,18}", re.ASCII)


def parse_id(text: str) -> int | None:
    """Return the id that a text is; None if no object can have such an id."""
    return int(text) if _ID.fullmatch(text) else None


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
    match = _IMAGE.fullmatch(uri)
    if not match:
        raise InvalidRequest(f"'{uri}' is not of the form users/USER/appliances/4/images/7", field=field)
    return unquote(match[1]), int(match[2]), int(match[3])


def parse_appliance_uri(uri: str, field: str) -> tuple[str, int]:
    """Return login and appliance id. Raises `InvalidRequest`."""
    match = _APPLIANCE.fullmatch(uri)
    if not match:
        raise InvalidRequest(f"'{uri}' is not of the form users/USER/appliances/4", field=field)
    return unquote(match[1]), int(match[2])


def parse_account_uri(uri: str, field: str) -> tuple[str, int]:
    """Return login and account id. Raises `InvalidRequest`."""
    match = _ACCOUNT.fullmatch(uri)
    if not match:
        raise InvalidRequest(f"'{uri}' is not of the form users/USER/accounts/3", field=field)
    return unquote(match[1]), int(match[2])
