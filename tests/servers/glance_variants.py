"""A Glance on a socket, for what the real one cannot be configured to do: slow processing, missing hashes, failed
imports. It follows the Image API where the publisher relies on it, and refuses what the real one refuses."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.servers.answering import serving

_IMAGE = re.compile(r"/v2/images/([^/?]+)(/\w+)?")


@dataclass
class GlanceVariant:
    """The images of one project, and how this cloud differs from others."""

    after_upload: Sequence[dict[str, Any]] = ({"status": "active"},)
    """What the record shows each time it is read after the bytes have arrived; the last one stays."""
    after_import: Sequence[dict[str, Any]] = ({"status": "importing"}, {"status": "active"})
    hashes: Sequence[str] = ("checksum", "os_hash_value")
    stores: Sequence[str] | None = None
    imports: Sequence[str] | None = None
    messages: Sequence[str] = ()
    """What the tasks of an image say."""
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    store_named: list[object] = field(default_factory=list)
    """The store that each upload and each import has named."""
    accepts_links: bool = True
    downloaded: list[str] = field(default_factory=list)
    """The addresses that it was told to download from; what it downloads, `after_import` says."""
    _coming: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def serve(self) -> Iterator[str]:
        with serving(self._answer, host="127.0.0.1") as url:
            yield url

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self._lock:
            self.requests.append(f"{handler.command} {handler.path}")
            status, told = self._handled(handler, body)
        reply = json.dumps(told).encode() if told is not None else b""
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(reply)))
        handler.end_headers()
        handler.wfile.write(reply)

    def _handled(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, Any]:
        asked = f"{handler.command} {handler.path.partition('?')[0]}"
        if asked == "GET /v2/info/stores":
            return _offered(None if self.stores is None else {"stores": [{"id": each} for each in self.stores]})
        if asked == "GET /v2/info/import":
            return _offered(None if self.imports is None else {"import-methods": {"value": list(self.imports)}})
        if asked == "GET /v2/images":
            return 200, {"images": list(self.images.values())}
        if asked == "POST /v2/images":
            return self._create(json.loads(body))
        found = _IMAGE.fullmatch(handler.path)
        record = self.images.get(found[1]) if found else None
        if found is None or record is None:
            return 404, {"message": "not found"}
        match handler.command, found[2]:
            case "GET", None:
                record.update(self._next(found[1]))
                return 200, record
            case "GET", "/tasks":
                return 200, {"tasks": [{"message": each} for each in self.messages]}
            case "DELETE", None:
                del self.images[found[1]]
                return 204, None
            case "PUT", "/file" | "/stage":
                return self._take(handler, record, body, staged=found[2] == "/stage")
            case "POST", "/import":
                return self._import(record, json.loads(body))
        return 405, {"message": "not allowed"}

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        if wanted["id"] in self.images:
            return 409, {"message": "in use"}
        self.images[wanted["id"]] = {**wanted, "status": "queued", "os_hash_algo": None}
        return 201, self.images[wanted["id"]]

    def _take(
        self, handler: BaseHTTPRequestHandler, record: dict[str, Any], body: bytes, *, staged: bool
    ) -> tuple[int, Any]:
        store = handler.headers.get("X-Image-Meta-Store")
        if handler.headers.get("Content-Type") != "application/octet-stream":
            return 415, {"message": "unsupported"}
        if store and store not in (self.stores or ()):
            return 400, {"message": "unknown store"}
        if record["status"] != "queued":
            return 409, {"message": "wrong status"}
        known = {"checksum": hashlib.md5(body).hexdigest(), "os_hash_value": hashlib.sha512(body).hexdigest()}  # noqa: S324
        record.update({name: value if name in self.hashes else None for name, value in known.items()})
        record.update(size=len(body), os_hash_algo="sha512", status="uploading" if staged else "saving")
        if not staged:
            self.store_named.append(store)
            self._coming[record["id"]] = list(self.after_upload)
        return 204, None

    def _import(self, record: dict[str, Any], wanted: dict[str, Any]) -> tuple[int, Any]:
        method = wanted["method"]["name"]
        needed = "uploading" if method == "glance-direct" else "queued"
        if method not in (self.imports or ()) or record["status"] != needed:
            return 409, {"message": "cannot be imported"}
        if method == "web-download":
            self.downloaded.append(wanted["method"]["uri"])
            if not self.accepts_links:
                return 400, {"message": f"URI does not pass filtering: {wanted['method']['uri']}"}
        self.store_named.append(wanted.get("stores"))
        self._coming[record["id"]] = list(self.after_import)
        return 202, None

    def _next(self, image_id: str) -> dict[str, Any]:
        coming = self._coming.get(image_id, [])
        return coming.pop(0) if len(coming) > 1 else coming[0] if coming else {}


def _offered(told: Any) -> tuple[int, Any]:
    return (404, {"message": "not found"}) if told is None else (200, told)
