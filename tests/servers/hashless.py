"""A Glance that reports no hashes: a server removes them from the answers of a real Glance."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_HASHES = ("os_hash_algo", "os_hash_value", "checksum")
_PIECE_BYTES = 1 << 20


@contextmanager
def hashless(glance_url: str) -> Iterator[str]:
    """Serve the Glance without hashes. Yields its URL."""
    real = urlsplit(glance_url)

    class Handler(BaseHTTPRequestHandler):
        def forward(self) -> None:
            with closing(http.client.HTTPConnection(str(real.hostname), real.port, timeout=60)) as onward:
                onward.putrequest(self.command, self.path, skip_accept_encoding=True, skip_host=True)
                for name, value in self.headers.items():
                    onward.putheader(name, value)
                onward.endheaders()
                left = int(self.headers.get("Content-Length") or 0)
                while left:
                    piece = self.rfile.read(min(left, _PIECE_BYTES))
                    onward.send(piece)
                    left -= len(piece)
                answer = onward.getresponse()
                body = answer.read()
            if "json" in (answer.headers.get("Content-Type") or "") and body:
                body = json.dumps(_without_hashes(json.loads(body))).encode()
            self.send_response(answer.status)
            if kind := answer.headers.get("Content-Type"):
                self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        # The names that http.server calls.
        do_GET = do_POST = do_PUT = do_DELETE = forward  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Keep the log out of the tests' output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _without_hashes(told: Any) -> Any:
    if isinstance(told, list):
        return [_without_hashes(each) for each in told]
    if isinstance(told, dict):
        return {name: _without_hashes(value) for name, value in told.items() if name not in _HASHES}
    return told
