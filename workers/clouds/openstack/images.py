"""Calls to Glance's image API, through the controllers of python-glanceclient.

Callers name the server, so it may answer anything. glanceclient would validate images against a schema that the server
provides: one that takes for ever, or that refers to any address. So the controllers get a client and schemas of ours.
These trust nothing in an answer but its shape, and limit how far they follow an answer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partialmethod
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import requests
from glanceclient.v2 import image_members, image_tags, images
from glanceclient.v2.schemas import Schema
from keystoneauth1.adapter import Adapter
from keystoneauth1.session import Session

from publisher.core.errors import InvalidRequest, PermanentCloudError, Reason, TransientCloudError
from workers.clouds.openstack.errors import Refused, translated, words_of

DELETED = ("deleted", "pending_delete")
"""What Glance reports of an image that is deleted, if it reports the image at all."""
_PATH = "/v2/images"
_PAGE, _PAGES_MAX = 200, 2000
"""Number of images requested for each page, and the maximum number of pages. A server may return fewer images."""
_LIST_BYTES_MAX = 256 << 20
_LIST_SECONDS = 300.0
"""Limit for all pages of a list together, like the limit of bytes. Enough for a hundred thousand images."""
_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
_NOT_SENT = ("self", "backend")
"""Names that glanceclient takes for arguments of its own, not for properties of an image."""
_MISSHAPEN = (AttributeError, KeyError, TypeError, ValueError)
"""What glanceclient raises if an answer does not have the shape that it expects."""


class GlanceImages:
    """Calls to Glance's image API. Methods raise `CloudError`, and what stops the session's calls."""

    def __init__(self, session: Session, endpoint: str) -> None:
        self.service = f"Glance at {endpoint}"
        # keystoneauth formats this address as a template with fields.
        self._adapter = Adapter(session, service_type="image", endpoint_override=endpoint.replace("%", "%%"))
        self._client = _Client(self._adapter, self.service)
        self._images = images.Controller(self._client, _SCHEMAS)
        self._members = image_members.Controller(self._client, _SCHEMAS)
        self._tags = image_tags.Controller(self._client, _SCHEMAS)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Translate what glanceclient's controllers raise, and pass on a `CloudError`."""
        try:
            with translated(self.service, by_token=True):
                yield
        except RecursionError:  # glanceclient copies what it receives
            raise self._client.no_service("something that is nested too deeply") from None

    # Records --------------------------------------------------------------------------------------

    def create(self, record: Mapping[str, Any], *, may_be: Collection[int] = ()) -> int:
        """Create a record. Returns 201, or the status of the answer if it is one of `may_be`."""
        for name in _NOT_SENT:
            if name in record:
                raise InvalidRequest(f"an image in Glance cannot have a property '{name}'", field="properties")
        with self._asking():
            try:
                self._images.create(**record)
            except Refused as refused:
                if refused.status not in may_be:
                    raise
                return refused.status
        return 201

    def get(self, cloud_id: str) -> dict[str, Any] | None:
        with self._asking():
            try:
                record = dict(self._images.get(cloud_id))
            except Refused as refused:
                if refused.status != 404:
                    raise
                return None
        if not _is_record(record):
            raise self._client.no_service("something that is not an image")
        if record["id"] != cloud_id:
            raise self._client.no_service("a different image from the one requested")
        return record

    def list(self, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        with self._asking():
            found = images.Controller(_Pages(self._client, filters), _SCHEMAS)
            return [dict(each) for each in found.list(filters=dict(filters), page_size=_PAGE)]

    def update(self, cloud_id: str, changes: Mapping[str, Any], remove: Iterable[str] = ()) -> None:
        """Set attributes and properties of an image, and remove properties, in one request.

        The request is not glanceclient's: that reads the image before and after, and overwrites the tags with those
        that it read.
        """
        patch = [{"op": "add", "path": _pointer(name), "value": value} for name, value in changes.items()]
        patch += [{"op": "remove", "path": _pointer(name)} for name in remove]
        with self._asking():
            self._client.patch(f"{_PATH}/{cloud_id}", headers=_PATCH, data=patch)

    def add_tags(self, cloud_id: str, tags: Iterable[str]) -> None:
        """Add tags to those that the image has."""
        with self._asking():
            for tag in tags:
                self._tags.update(cloud_id, quote(tag, safe=""))

    def delete(self, cloud_id: str) -> bool:
        """Request a deletion. Returns False if the image does not exist, or no longer does."""
        with self._asking():
            try:
                self._images.delete(cloud_id)
            except Refused as refused:
                if refused.status == 404:
                    return False
                if refused.status == 409:
                    raise TransientCloudError(f"{self.service}: image {cloud_id} is in use") from None
                if refused.status == 403 and self._is_protected(cloud_id):
                    raise PermanentCloudError(
                        f"{self.service}: image {cloud_id} is protected; lift the protection first"
                        f" (openstack image set --unprotected {cloud_id})",
                        reason=Reason.FORBIDDEN,
                    ) from None
                # A Glance that was stopped in the middle of a deletion keeps the record, and refuses to delete it
                # again.
                if refused.status != 400 or not self._is_deleted(cloud_id):
                    raise
        return True

    def _is_protected(self, cloud_id: str) -> bool:
        record = self.get(cloud_id)
        return record is not None and record.get("protected") is True

    def _is_deleted(self, cloud_id: str) -> bool:
        record = self.get(cloud_id)
        return record is None or record["status"] in DELETED

    # Members --------------------------------------------------------------------------------------

    def share(self, cloud_id: str, project_id: str) -> None:
        """Share an image with a project, if it is not already."""
        with self._asking():
            try:
                self._members.create(cloud_id, project_id)
            except Refused as refused:
                if refused.status != 409:
                    raise

    def members(self, cloud_id: str) -> dict[str, str]:
        """Return the projects that an image is shared with, and for each "pending", "accepted" or "rejected"."""
        with self._asking():
            try:
                members = [dict(each) for each in self._members.list(cloud_id)]
                return {str(each["member_id"]): str(each["status"]) for each in members}
            except _MISSHAPEN:
                raise self._client.no_service("no list of members") from None

    # Stores and imports ---------------------------------------------------------------------------

    def stores(self) -> Collection[str]:
        """Return the stores that images can be written to. Empty if the cloud offers no choice."""
        with self._asking():
            try:
                stores = dict(self._images.get_stores_info())["stores"]
                return [str(each["id"]) for each in stores if str(each.get("read-only")).lower() != "true"]
            except Refused as refused:
                if refused.status != 404:
                    raise
                return ()
            except _MISSHAPEN:
                raise self._client.no_service("no list of stores") from None

    def import_methods(self) -> Collection[str]:
        """Return the methods by which the cloud can import an image. Empty if it cannot import any."""
        with self._asking():
            try:
                return [str(each) for each in dict(self._images.get_import_info())["import-methods"]["value"]]
            except Refused as refused:
                if refused.status != 404:
                    raise
                return ()
            except _MISSHAPEN:
                raise self._client.no_service("no list of import methods") from None

    def start_import(self, cloud_id: str, method: str, *, uri: str | None = None, store: str | None = None) -> None:
        """Have the cloud import the image's bytes: those that were staged, or those that `uri` serves."""
        stores = [store] if store else None
        with self._asking():
            self._images.image_import(cloud_id, method, uri=uri, stores=stores, allow_failure=False)

    def import_words(self, cloud_id: str) -> str:
        """Return what the cloud says about an import that has failed; empty if it says nothing.

        The request is not glanceclient's, which first asks for the versions of the API.
        """
        with self._asking():
            try:
                tasks = self._client.get(f"{_PATH}/{cloud_id}/tasks")[1]["tasks"]
                said = [str(each["message"]) for each in tasks if each.get("message")]
            except Refused:
                return ""
            except _MISSHAPEN:
                raise self._client.no_service("no list of tasks") from None
        return words_of(said[-1].encode()) if said else ""


class _Schemas:
    """Schemas that allow everything, in place of the server's. What is used of an answer is checked here."""

    def get(self, name: str) -> Schema:
        return Schema({"name": name, "properties": {}})


_SCHEMAS = _Schemas()


class _Client:
    """Sends the requests of glanceclient's controllers. Returns each answer, and the JSON object in it.

    Raises `Refused` for a status of 400 or above, what keystoneauth raises, and `CloudError`.
    """

    def __init__(self, adapter: Adapter, service: str) -> None:
        self.service = service
        self._adapter = adapter

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, data: Any = None
    ) -> tuple[requests.Response, dict[str, Any]]:
        answer = self._adapter.request(
            url,
            method,
            raise_exc=False,
            headers=dict(headers or {}),
            json=data,
            # These bodies may contain a link with a key.
            log=not url.endswith(("/import", "/tasks")),
        )
        if answer.status_code >= 400:
            raise Refused(answer.status_code, answer.content, answer.headers)
        if not 200 <= answer.status_code < 300:
            raise self.no_service(f"a status of {answer.status_code}")
        try:
            given = answer.json()
        except (ValueError, RecursionError):
            given = None
        if isinstance(given, dict):
            return answer, given
        if method == "GET":
            raise self.no_service("something that is not a JSON object")
        return answer, {}

    get = partialmethod(request, "GET")
    post = partialmethod(request, "POST")
    put = partialmethod(request, "PUT")
    patch = partialmethod(request, "PATCH")
    delete = partialmethod(request, "DELETE")

    def no_service(self, answer: str) -> PermanentCloudError:
        return PermanentCloudError(
            f"{self.service} is not an image service: it answers with {answer}; check glanceUrl", reason=Reason.REQUEST
        )


class _Pages:
    """The client for one list of images, which may go over many pages. It limits how far glanceclient follows them.

    The server decides only where the next page begins, not which address serves it.
    """

    def __init__(self, client: _Client, filters: Mapping[str, str]) -> None:
        self._client = client
        self._query = {**filters, "limit": _PAGE}
        self._ends = time.monotonic() + _LIST_SECONDS
        self._read = 0
        self._seen: set[str] = set()

    def get(self, url: str, headers: object = None) -> tuple[requests.Response, dict[str, Any]]:
        """Return a page. `headers` are not sent: they hold what the server answered to the request before."""
        if url in self._seen or len(self._seen) == _PAGES_MAX or self._read > _LIST_BYTES_MAX:
            raise self._client.no_service("a list without end")
        if time.monotonic() > self._ends:
            raise TransientCloudError(
                f"{self._client.service} did not finish the list of images within {_LIST_SECONDS:.0f} s"
            )
        self._seen.add(url)
        answer, page = self._client.get(url)
        self._read += len(answer.content)
        found = page.get("images")
        if not isinstance(found, list):
            raise self._client.no_service("no list of images")
        if not all(_is_record(each) for each in found):
            raise self._client.no_service("something that is not an image")
        following = self._next(page.get("next"))
        return answer, {"images": found} | ({"next": following} if following else {})

    def _next(self, link: object) -> str | None:
        """Return the address of the next page; None after the last."""
        if link is None:
            return None
        try:
            marker = dict(parse_qsl(urlsplit(link).query)).get("marker") if isinstance(link, str) else None
        except ValueError:
            marker = None
        if not marker:
            raise self._client.no_service("a list whose next page has no address")
        return f"{_PATH}?{urlencode(self._query | {'marker': marker})}"


def _is_record(given: Any) -> bool:
    return isinstance(given, dict) and all(_is_word(given.get(name)) for name in ("id", "status"))


def _is_word(given: Any) -> bool:
    return isinstance(given, str) and _WORD.fullmatch(given) is not None


def _pointer(name: str) -> str:
    """Return the JSON pointer (RFC 6901) to a member."""
    return "/" + name.replace("~", "~0").replace("/", "~1")
