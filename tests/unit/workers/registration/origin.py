"""An HTTP server to fetch images from, and helpers to register them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from publisher.core.image import Image
from publisher.core.settings import Settings
from publisher.store import Store
from tests import disks
from tests.patience import PATIENCE
from tests.records import OWNER

CONTENT = disks.qcow2(5 << 30) + b"x" * 100_000
SECRET = "what-gives-access"


@dataclass
class Origin:
    """An HTTP server to fetch images from. Each path has a function that answers its requests."""

    port: int = 0
    asked: list[str] = field(default_factory=list)
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    going: threading.Event = field(default_factory=threading.Event)
    """Set when `stall` has sent the first part of an image."""
    released: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}?token={SECRET}"

    def stall(self, handler: BaseHTTPRequestHandler) -> None:
        start(handler, 200, **{"Content-Length": str(len(CONTENT))})
        handler.wfile.write(CONTENT[:50_000])
        handler.wfile.flush()
        self.going.set()
        self.released.wait(20 * PATIENCE)


def start(handler: BaseHTTPRequestHandler, status: int, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


def whole(handler: BaseHTTPRequestHandler) -> None:
    start(handler, 200, **{"Content-Length": str(len(CONTENT))})
    handler.wfile.write(CONTENT)


def answering(status: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        start(handler, status, **({"Content-Length": "0"} | headers))

    return answer


def begin(store: Store, source: str, format: str | None = None) -> int:
    return store.registrations.begin(
        owner=OWNER, appliance_id=4, name="web", wanted_format=format, source=source
    ).id  # fmt: skip


def now(store: Store, id: int) -> Image:
    found = store.images.get(id)
    assert found is not None
    return found


def files(settings: Settings) -> list[str]:
    return sorted(str(each.relative_to(settings.images)) for each in settings.images.rglob("*") if each.is_file())
