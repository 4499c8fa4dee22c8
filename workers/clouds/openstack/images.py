"""The records of images in Glance, as plain dicts.

python-glanceclient's image records are not used: it validates them against a schema that the server provides. Callers
name the server, so it may provide a schema that takes for ever to validate, or that refers to any address. This module
trusts nothing in an answer but its shape, and limits how far it follows an answer.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests
from keystoneauth1.adapter import Adapter
from keystoneauth1.session import Session

from publisher.core.errors import CloudError, PermanentCloudError, Reason, TransientCloudError
from workers.clouds.openstack.errors import answered, translated, words_of

DELETED = ("deleted", "pending_delete")
"""What Glance reports of an image that is deleted, if it reports the image at all."""
_PATH = "/v2/images"
_PAGE, _PAGES_MAX = 200, 2000
"""Number of images requested for each page, and the maximum number of pages. A server may return fewer images."""
_LIST_BYTES_MAX = 256 << 20
_LIST_SECONDS = 300.0
"""Limit for all pages of a list together, like the limit of bytes. Enough for a hundred thousand images."""
_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")


class GlanceImages:
    """Calls to Glance's image API. Methods raise `CloudError`, and what stops the session's calls."""

    def __init__(self, session: Session, endpoint: str) -> None:
        self._service = f"Glance at {endpoint}"
        # keystoneauth formats this address as a template with fields.
        self._adapter = Adapter(session, service_type="image", endpoint_override=endpoint.replace("%", "%%"))

    def create(self, record: Mapping[str, Any], *, may_be: Collection[int] = ()) -> int:
        """Create a record and return the status of the answer: a success, or one of `may_be`."""
        return int(self._call("POST", _PATH, may_be=may_be, json=dict(record)).status_code)

    def get(self, cloud_id: str) -> dict[str, Any] | None:
        answer = self._call("GET", f"{_PATH}/{cloud_id}", may_be=(404,))
        if answer.status_code == 404:
            return None
        record = self._record(self._json(answer))
        if record["id"] != cloud_id:
            raise self._no_service("a different image from the one requested")
        return record

    def update(self, cloud_id: str, values: Mapping[str, Any]) -> None:
        """Set properties of an image; each is added or replaced. Can be repeated."""
        # In a path of JSON Patch, `~` and `/` are written like this (RFC 6901).
        paths = {name: "/" + name.replace("~", "~0").replace("/", "~1") for name in values}
        changes = [{"op": "add", "path": paths[name], "value": value} for name, value in values.items()]
        self._call(
            "PATCH",
            f"{_PATH}/{cloud_id}",
            headers={"Content-Type": "application/openstack-images-v2.1-json-patch"},
            data=json.dumps(changes),
        )

    def delete(self, cloud_id: str) -> bool:
        """Request a deletion. Returns False if the image does not exist, or no longer does."""
        answer = self._call("DELETE", f"{_PATH}/{cloud_id}", may_be=(400, 404, 409))
        if answer.status_code == 409:
            raise TransientCloudError(f"{self._service}: image {cloud_id} is in use")
        if answer.status_code == 400:
            # A Glance that was stopped in the middle of a deletion keeps the record, and refuses to delete it again.
            record = self.get(cloud_id)
            if record is not None and record["status"] not in DELETED:
                raise self._refusal(answer)
        return bool(answer.status_code != 404)

    def list(self, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        query: str | None = urlencode({**filters, "limit": _PAGE})
        seen: set[str] = set()
        ends, read = time.monotonic() + _LIST_SECONDS, 0
        while query is not None:
            if query in seen or len(seen) == _PAGES_MAX or read > _LIST_BYTES_MAX:
                raise self._no_service("a list without end")
            if time.monotonic() > ends:
                raise TransientCloudError(
                    f"{self._service} did not finish the list of images within {_LIST_SECONDS:.0f} s"
                )
            seen.add(query)
            answer = self._call("GET", f"{_PATH}?{query}")
            read += len(answer.content)
            page = self._json(answer)
            images = page.get("images")
            if not isinstance(images, list):
                raise self._no_service("no list of images")
            found += [self._record(each) for each in images]
            query = self._next(page, filters)
        return found

    def _next(self, page: dict[str, Any], filters: Mapping[str, str]) -> str | None:
        """Return the query of the next page; None after the last.

        The server decides only where the page begins, not which address serves it.
        """
        link = page.get("next")
        if link is None:
            return None
        try:
            marker = dict(parse_qsl(urlsplit(link).query)).get("marker") if isinstance(link, str) else None
        except ValueError:
            marker = None
        if not marker:
            raise self._no_service("a list whose next page has no address")
        return urlencode({**filters, "limit": _PAGE, "marker": marker})

    def _record(self, given: Any) -> dict[str, Any]:
        if isinstance(given, dict) and all(_is_word(given.get(name)) for name in ("id", "status")):
            return given
        raise self._no_service("something that is not an image")

    def _json(self, answer: requests.Response) -> dict[str, Any]:
        try:
            given = answer.json()
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise self._no_service("something that is not a JSON object")
        return given

    def _call(self, method: str, path: str, *, may_be: Collection[int] = (), **given: Any) -> requests.Response:
        with translated(self._service, by_token=True):
            answer: requests.Response = self._adapter.request(path, method, raise_exc=False, **given)
        status = answer.status_code
        if status >= 400 and status not in may_be:
            raise self._refusal(answer)
        if not 200 <= status < 300 and status not in may_be:
            raise self._no_service(f"a status of {status}")
        return answer

    def _refusal(self, answer: requests.Response) -> CloudError:
        return answered(self._service, answer.status_code, words_of(answer.content), answer.headers, by_token=True)

    def _no_service(self, answer: str) -> PermanentCloudError:
        return PermanentCloudError(
            f"{self._service} is not an image service: it answers with {answer}; check glanceUrl", reason=Reason.REQUEST
        )


def _is_word(given: Any) -> bool:
    return isinstance(given, str) and _WORD.fullmatch(given) is not None
