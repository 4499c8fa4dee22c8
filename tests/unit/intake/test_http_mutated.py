"""Thousands of almost valid requests over real connections to a real server. Each must soon get a valid HTTP answer
that says what is wrong. FULL=1 sends 20,000 requests, `make test` a few hundred."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest
from lxml import etree

from tests.service import PASSWORDS, UFORGE, Process, real_server, serving
from tests.unit.intake.contract import Belongings
from tests.unit.intake.mutations import Sent, Session, mutated, valid

pytestmark = pytest.mark.long
FULL = bool(os.environ.get("FULL"))
SEED = os.environ.get("SEED", "requests")
COUNT = 20_000 if FULL else 600
ANSWER_SECONDS = 1.0 if FULL else 60.0
"""The full run needs an otherwise idle machine."""
AT_ONCE = 2 if FULL else 8
LIMIT_SECONDS = 0.4
"""How long the server waits for the rest of an incomplete request."""
_SILENCE_SECONDS = 90.0
_DOCUMENTED_5XX = {501, 503}
_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [ -~]*")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t -~\x80-\xff]*)")


@dataclass(frozen=True)
class Came:
    """An answer and the time it took. Status 0: the server closed the connection without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


class NotHttp(Exception):
    """The answer does not follow RFC 9112."""


def exchange(port: int, sent: Sent) -> Came:
    """Send a request and return the answer. Raises `NotHttp`, or `TimeoutError` if no complete answer comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=_SILENCE_SECONDS) as connection:
        began = time.monotonic()
        broken = False
        try:
            connection.sendall(sent.encoded())
        except ConnectionError:
            broken = True  # the server answered and closed before all was sent
        stream = connection.makefile("rb")
        try:
            return _answer(stream, sent, began)
        except ConnectionError:
            if broken or sent.framing:
                return Came(0, {}, b"", 0.0)
            raise


def _answer(stream: BinaryIO, sent: Sent, began: float) -> Came:
    line = stream.readline().rstrip(b"\r\n")
    seconds = time.monotonic() - began
    if line == b"HTTP/1.1 100 Continue":
        stream.readline()
        line = stream.readline().rstrip(b"\r\n")
    if not line:
        return Came(0, {}, b"", seconds)
    match = _LINE.fullmatch(line)
    if match is None:
        raise NotHttp(repr(line))
    status, headers = int(match[1]), dict[str, str]()
    while header := stream.readline().rstrip(b"\r\n"):
        found = _HEADER.fullmatch(header)
        if found is None or ((name := found[1].decode().lower()) in headers and name != "set-cookie"):
            raise NotHttp(repr(header))
        headers[name] = found[2].decode("latin-1")
    return Came(status, headers, _body(stream, sent, status, headers), seconds)


def _body(stream: BinaryIO, sent: Sent, status: int, headers: dict[str, str]) -> bytes:
    if status in (204, 304) or (sent.method == "HEAD" and not sent.raw):
        return b""
    if headers.get("content-type", "").startswith("text/event-stream"):
        return b""  # a stream of events does not end
    if "content-length" in headers:
        body = stream.read(int(headers["content-length"]))
        if sent.raw and not body and sent.method == "HEAD":
            return b""
        if len(body) != int(headers["content-length"]):
            raise NotHttp(f"{len(body)} of {headers['content-length']} bytes")
        return body
    if headers.get("transfer-encoding") != "chunked":
        raise NotHttp("no length")
    body = b""
    while size := int(stream.readline(), 16):
        body += stream.read(size)
        stream.readline()
    return body


def fault(sent: Sent, came: Came) -> str:
    """Describe what is wrong with an answer. Empty if it is right."""
    if came.status == 0:
        return "" if sent.framing else "closed without an answer"
    if came.status >= 500 and (came.status not in _DOCUMENTED_5XX or b"unexpected" in came.body):
        return "a server error"
    if b"Traceback" in came.body or b"site-packages" in came.body:
        return "a traceback"
    if came.status != 408 and not sent.hashes and came.seconds > ANSWER_SECONDS:
        return f"took {came.seconds:.1f} s"
    if came.status >= 400 and came.body:
        return _fault_of_error(came)
    return ""


def _fault_of_error(came: Came) -> str:
    kind = came.headers.get("content-type", "")
    try:
        if kind == "application/xml":
            root = etree.fromstring(came.body)
            right = root.tag == f"{{{UFORGE}}}uforgeError" and root.findtext("statusCode") == str(came.status)
        elif kind == "application/json":
            read = json.loads(came.body)
            right = read.get("statusCode") == came.status or "message" in read or "ready" in read or "checks" in read
        else:
            # A page of the console, or the plain text of /metrics.
            right = kind.startswith(("text/html", "text/plain")) and len(came.body) > 10
    except (etree.XMLSyntaxError, ValueError):
        right = False
    return "" if right else f"not an error document: {kind}"


@dataclass(frozen=True)
class Target:
    process: Process
    requests: list[Sent]


@pytest.fixture
def target(filled_template: Path, tmp_path: Path) -> Iterator[Target]:
    shutil.copyfile(filled_template, tmp_path / "publisher.db")
    with serving(tmp_path) as service:
        objects = [Belongings.make(service, owner) for owner in ("root", "alice", "root")]
        found = service.store.users.caller("root")
        assert found is not None
        value, session = service.store.sessions.begin("root", found.password_hash, seconds=86400, idle_seconds=86400)
    signed_in = Session(f"publisher_session={value}", session.csrf)
    unlimited = {"sign_in_failures_max": 0, "address_sign_in_failures_max": 0, "user_queue_max": 0, "queue_max": 0}
    limits = {
        "request_head_seconds": LIMIT_SECONDS,
        "request_body_seconds": LIMIT_SECONDS,
        "stall_seconds": LIMIT_SECONDS,
    }
    with real_server(tmp_path, **unlimited, **limits) as process:
        yield Target(process, valid(objects, signed_in, "root", PASSWORDS["root"]))


@pytest.mark.timeout(7200 if FULL else 1800)
def test_mutated_requests_get_proper_answers(target: Target) -> None:
    """The server's log must not have a traceback either. `real_server` checks that at the end."""

    def check(number: int) -> str:
        sent = mutated(f"{SEED}-{number}", target.requests)
        try:
            wrong = fault(sent, exchange(target.process.port, sent))
        except (NotHttp, OSError, ValueError) as error:
            wrong = f"{type(error).__name__}: {error}"
        return f"{SEED}-{number}: {wrong}: {sent.encoded()[:600]!r}" if wrong else ""

    with ThreadPoolExecutor(AT_ONCE) as pool:
        faults = [each for each in pool.map(check, range(COUNT)) if each]
    assert not faults, f"{len(faults)} of {COUNT}\n" + "\n".join(faults[:40])


def test_unmutated_requests_are_accepted(target: Target) -> None:
    """The requests must be valid before they are mutated. Otherwise only their first error would be tested."""
    refused = []
    for sent in target.requests:
        if sent.method == "DELETE" or sent.hashes:
            continue
        came = exchange(target.process.port, sent)
        if came.status >= 400 and came.status not in (404, 409, 503) and "/metrics" not in sent.target:
            refused.append(f"{came.status} {sent.method} {sent.target}: {came.body[:300]!r}")
    # A few forms lack values that the page would have filled in.
    assert not [each for each in refused if "/console/" not in each]
    assert len(refused) <= 6, "\n".join(refused)
