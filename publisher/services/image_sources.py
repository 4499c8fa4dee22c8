"""Where generated images are fetched from: a path under the image root, or a host that the installation allows."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from publisher.core.errors import ImageFileError, InvalidRequest
from publisher.core.image import open_under
from publisher.core.names import safe_name
from publisher.files import unfinished

_FIELD = "location"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def checked_source(location: str, image_root: Path, allowed_hosts: str) -> str:
    """A location as a caller gives it, fit to be kept: a path relative to the image root, or a URL.

    Raises `InvalidRequest` for what is neither, is not allowed here, or is not there.
    """
    location = location.strip()
    if not location or not location.isprintable():
        raise InvalidRequest("is needed: a path under the image root, or a URL", field=_FIELD)
    if is_remote(location):
        check_remote(location, allowed_hosts)
        return location
    path = PurePosixPath(location)
    if path.is_absolute():
        try:
            path = path.relative_to(PurePosixPath(image_root.resolve()))
        except ValueError:
            raise InvalidRequest("is outside the image root", field=_FIELD) from None
    # Why is told to nobody: what else is on this machine is not a caller's business.
    missing = InvalidRequest("there is no such file under the image root", field=_FIELD)
    if unfinished.is_ours(str(path)):
        # It belongs to some image: another user's maybe, and deleted with it.
        raise missing
    try:
        os.close(open_under(image_root, str(path)))
    except ImageFileError:
        raise missing from None
    return str(path)


def is_remote(source: str) -> bool:
    return "://" in source


def is_fetched_by_http(source: str) -> bool:
    """From the host that it names: a bucket's host is the operator's to name."""
    return is_remote(source) and urlsplit(source).scheme != "s3"


def check_remote(url: str, allowed_hosts: str) -> None:
    """Raises `InvalidRequest` for a URL that is malformed, holds a password, or leads to a host that is not allowed."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        raise InvalidRequest("is not a valid URL", field=_FIELD) from None
    if parts.scheme not in ("http", "https", "s3"):
        raise InvalidRequest("is neither a path under the image root nor a URL of http, https or s3", field=_FIELD)
    if "@" in parts.netloc:
        raise InvalidRequest("must not hold a login or password", field=_FIELD)
    if not host or not parts.path.strip("/"):
        raise InvalidRequest("names no file", field=_FIELD)
    patterns = [each.strip().lower() for each in allowed_hosts.split(",") if each.strip()]
    names = [f"s3://{host}"] if parts.scheme == "s3" else [host, f"{host}:{port}"]
    # A bucket is among the operator's own: a pattern that is meant for hosts, even all of them, admits none.
    if parts.scheme == "s3":
        patterns = [each for each in patterns if each.startswith("s3://")]
    if not any(fnmatchcase(name, pattern) for name in names for pattern in patterns):
        raise InvalidRequest(f"'{host}' is not among PUBLISHER_LOCATION_HOSTS", field=_FIELD)


def file_name(source: str) -> str:
    """What the file is called there; safe as the name of a file here."""
    if not is_remote(source):
        return safe_name(PurePosixPath(source).name)
    name = PurePosixPath(urlsplit(source).path).name
    # A slash in it, decoded, is part of the name. In S3 a percent sign is one.
    return safe_name(unquote(name).replace("\ufffd", "_") if is_fetched_by_http(source) else name)
