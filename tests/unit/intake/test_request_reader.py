"""The reader of requests: what it accepts, what it refuses, and that it never reads a request differently than h11."""

from __future__ import annotations

import os
import random
import re
from dataclasses import dataclass

import h11
import pytest

from publisher.intake.request_reader import HEAD_BYTES_MAX, Head, Malformed, RequestReader

COUNT = 60_000 if os.environ.get("FULL") else 5_000
GET = b"GET /api/status HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /api/status HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass
class Read:
    """All complete requests of some bytes. `refused`: the status of the refusal, if what follows is refused."""

    requests: list[tuple[str, bytes, str, list[tuple[bytes, bytes]], bytes]]
    refused: int | None = None


def read(*parts: bytes) -> Read:
    """Read requests that arrive in these parts."""
    reader, made = RequestReader(), Read([])
    head: Head | None = None
    body = b""
    for part in parts:
        reader.feed(part)
        try:
            while True:
                if head is None:
                    if (head := reader.read_head()) is None:
                        break
                    body = b""
                piece, ended = reader.read_body()
                body += piece
                if not ended:
                    break
                made.requests.append((head.method, head.target, head.version, head.headers, body))
                head = None
        except Malformed as error:
            made.refused = error.status
            break
    return made


def read_by_h11(data: bytes) -> Read:
    connection, made = h11.Connection(h11.SERVER, 1 << 20), Read([])
    connection.receive_data(data)
    head: h11.Request | None = None
    body = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                version = head.http_version.decode()
                made.requests.append((head.method.decode(), head.target, version, list(head.headers), body))
                rest = connection.trailing_data[0]
                # As our own reader, go on even after a request that closes the connection.
                connection = h11.Connection(h11.SERVER, 1 << 20)
                if not rest:
                    break
                connection.receive_data(rest)
            else:
                break
    except h11.RemoteProtocolError as error:
        made.refused = error.error_status_hint
    return made


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\r\n" + GET + b"\r\n", 400),
        (b" " + GET + b"\r\n", 400),
        (b"\x16\x03\x01\x02", 400),
        (b"GET  /api HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET\t/a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /a HTTP/1.1 \r\nHost: x\r\n\r\n", 400),
        (b"GET /a http/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /a HTTP/1.10\r\nHost: x\r\n\r\n", 400),
        (b"GET /a\xe5 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /a\x7f HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"G(T /a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /a\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\n\r\n", 400),
        (GET + b"Host: x\r\n\r\n", 400),
        (GET + b"X : y\r\n\r\n", 400),
        (GET + b" X: y\r\n\r\n", 400),
        (GET + b"X: y\r\n z\r\n\r\n", 400),
        (GET + b"X\r\n\r\n", 400),
        (GET + b": y\r\n\r\n", 400),
        (GET + b"X: a\0b\r\n\r\n", 400),
        (GET + b"X: a\x0bb\r\n\r\n", 400),
        (GET + b"X: a\x1bb\r\n\r\n", 400),
        (GET + b"X: a\rb\r\n\r\n", 400),
        (GET + b"X: a\nY: b\r\n\r\n", 400),
        (GET.replace(b"\r\n", b"\n") + b"\n", 400),
        (GET + b"X: y\n", 400),
        (GET + b"X: y\r\n\n", 400),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (POST + b"Content-Length: 1, 2\r\n\r\nab", 400),
        (POST + b"Content-Length: 1,\r\n\r\na", 400),
        (POST + b"Content-Length: \r\n\r\n", 400),
        (POST + b"Content-Length: +1\r\n\r\na", 400),
        (POST + b"Content-Length: -1\r\n\r\na", 400),
        (POST + b"Content-Length: 0x1\r\n\r\na", 400),
        (POST + b"Content-Length: 1_0\r\n\r\na", 400),
        (POST + b"Content-Length: \xb2\r\n\r\na", 400),
        (POST + b"Content-Length: " + b"1" * 21 + b"\r\n\r\na", 400),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 501),
        (POST + b"Transfer-Encoding: \r\n\r\n", 501),
        (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", 501),
        (CHUNKED + b"xyz\r\n", 400),
        (CHUNKED + b"\r\n", 400),
        (CHUNKED + b"-1\r\n", 400),
        (CHUNKED + b"+1\r\na\r\n", 400),
        (CHUNKED + b"0x1\r\na\r\n", 400),
        (CHUNKED + b" 1\r\na\r\n", 400),
        (CHUNKED + b"1_0\r\n", 400),
        (CHUNKED + b"1\na\r\n", 400),
        (CHUNKED + b"1\r\na\n", 400),
        (CHUNKED + b"1\r\nab\r\n", 400),
        (CHUNKED + b"1\r\na0\r\n\r\n", 400),
        (CHUNKED + b"1;x\ny\r\na\r\n", 400),
        (CHUNKED + b"1;x\0\r\na\r\n", 400),
        (CHUNKED + b"f" * 21 + b"\r\n", 400),
        (CHUNKED + b"1;" + b"x" * 5000, 431),
        (CHUNKED + b"0\r\nX y\r\n\r\n", 400),
        (CHUNKED + b"0\r\n X: y\r\n\r\n", 400),
        (CHUNKED + b"0\r\nX: y\n", 400),
        (CHUNKED + b"0\r\n\n", 400),
        (CHUNKED + b"0\r\nContent-Length: x\r\n\r\n", 400),
        (CHUNKED + b"0\r\nX: " + b"y" * HEAD_BYTES_MAX, 431),
        (GET + b"X: " + b"y" * HEAD_BYTES_MAX, 431),
        (GET + b"X: " + b"y" * HEAD_BYTES_MAX + b"\r\n\r\n", 431),
        (GET + b"a:\r\n" * 20_000, 431),
    ],
)
def test_malformed_request_is_refused(sent: bytes, status: int) -> None:
    assert read(sent) == Read([], status)
    assert read(*(bytes([each]) for each in sent)) == Read([], status)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"X:y", b"y"),
        (b"X: \t y \t ", b"y"),
        (b"X:", b""),
        (b"X:  ", b""),
        (b"X: a  b\tc", b"a  b\tc"),
        (b"X: a:b", b"a:b"),
        (b"X: \xff\x80", b"\xff\x80"),
    ],
)
def test_blanks_around_a_value_are_removed(field: bytes, value: bytes) -> None:
    (request,) = read(GET + field + b"\r\n\r\n").requests
    assert request[3] == [(b"host", b"x"), (b"x", value)]


@pytest.mark.parametrize(
    "line", [b"BREW x HTTP/1.1", b"get * HTTP/1.1", b"PRI * HTTP/2.0", b"A!#$%&'*+-.^_`|~9 / HTTP/0.9"]
)
def test_any_method_and_target_is_read(line: bytes) -> None:
    """What they mean is the application's decision."""
    ((method, target, version, _, _),) = read(line + b"\r\nHost: x\r\n\r\n").requests
    assert f"{method} {target.decode()} HTTP/{version}".encode() == line


@pytest.mark.parametrize("given", [b"Content-Length: 2\r\nContent-Length: 2", b"Content-Length: 2, 2"])
def test_repeated_length_is_one_length(given: bytes) -> None:
    read_one = read(POST + given + b"\r\n\r\nab" + GET + b"\r\n")
    assert [(each[0], each[4]) for each in read_one.requests] == [("POST", b"ab"), ("GET", b"")]
    assert read_one.requests[0][3][1:] == [(b"content-length", b"2")]


@pytest.mark.parametrize(
    "lengths", [b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: Chunked\r\nContent-Length: 5"]
)
def test_both_lengths_are_left_to_the_application(lengths: bytes) -> None:
    """It refuses the request with a better message, and sees both headers."""
    (request,) = read(POST + lengths + b"\r\n\r\n0\r\n\r\n").requests
    assert {(b"content-length", b"5"), (b"transfer-encoding", b"chunked")} <= set(request[3])


def test_chunks_are_joined() -> None:
    body = b"1\r\na\r\n0A ;x=y\r\n".replace(b" ;", b";") + b"b" * 10 + b"\r\n2 \t\r\ncd\r\n0;last\r\nX: y\r\nY:\r\n\r\n"
    assert [each[4] for each in read(CHUNKED + body + GET + b"\r\n").requests] == [b"a" + b"b" * 10 + b"cd", b""]


def test_expectation_and_persistence_are_read() -> None:
    def head(version: bytes, fields: bytes) -> Head:
        reader = RequestReader()
        reader.feed(b"POST / HTTP/" + version + b"\r\nHost: x\r\n" + fields + b"\r\n")
        made = reader.read_head()
        assert made is not None
        return made

    assert head(b"1.1", b"").keep_alive
    assert not head(b"1.0", b"Connection: keep-alive\r\n").keep_alive
    assert not head(b"1.1", b"Connection: TE\r\nConnection: x, Close\r\n").keep_alive
    assert head(b"1.1", b"Expect: 100-Continue\r\n").expects_continue
    assert not head(b"1.0", b"Expect: 100-continue\r\n").expects_continue
    assert not head(b"1.1", b"Expect: x\r\n").expects_continue


# Against h11 -----------------------------------------------------------------------------------------------------

SEEDS = [
    GET + b"\r\n",
    POST + b"Content-Length: 11\r\nAccept: */*\r\n\r\nhello world",
    POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc" + GET + b"Connection: close\r\n\r\n",
    CHUNKED + b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n" + GET + b"\r\n",
    CHUNKED + b"1\r\na\r\n00\r\nX-Sum: 1\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    b"POST http://x/y?z#w HTTP/1.0\r\nContent-Length: 1\r\nX: \xff\r\n\r\nz",
    b"HEAD * HTTP/1.1\r\nhOST: a:1\r\nExpect: 100-continue\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
]
PIECES = [
    b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b" ", b"\t", b"\0", b"\x0b", b"\x0c", b"\x7f", b"\x85", b"\xa0",
    b":", b",", b";", b"0", b"1", b"a", b"F", b"-", b"+", b"_", b"\r\n ", b"\xe5", b'"', b"\\", b"chunked",
    b"Transfer-Encoding:chunked\r\n", b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"Host: y\r\n",
    b"0\r\n\r\n", b"GET / HTTP/1.1\r\n", b"HTTP/1.0",
]  # fmt: skip


def mutated_bytes(seed: int) -> bytes:
    chance = random.Random(seed)  # noqa: S311  # no secret
    data = chance.choice(SEEDS)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        at = chance.randrange(len(data) + 1)
        change = chance.randrange(5)
        if change == 0:
            data = data[:at] + chance.choice(PIECES) + data[at:]
        elif change == 1:
            data = data[:at] + data[at + chance.randrange(1, 4) :]
        elif change == 2:
            data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        elif change == 3:
            piece = chance.choice(PIECES)
            data = data[:at] + piece + data[at + len(piece) :]
        else:
            data = data.replace(
                *chance.choice(((b"\r\n", b"\n"), (b": ", b":"), (b": ", b" :"), (b"\r\n\r\n", b"\r\n"))), 1
            )
    return data


STRICTER = re.compile(rb"(?<!\r)\n|\r\n[ \t]|[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f]|\r(?!\n)")
"""A bare LF or CR, a folded header, a control character: we refuse each, h11 accepts some."""


@pytest.mark.long
def test_no_request_is_read_differently_than_by_h11() -> None:
    """We may refuse more. What both read, they read alike, wherever the network divides it."""
    differences = []
    for seed in range(COUNT):
        sent = mutated_bytes(seed)
        ours, theirs = read(sent), read_by_h11(sent)
        chance = random.Random(seed)  # noqa: S311  # no secret
        cuts = sorted(chance.randrange(len(sent) + 1) for _ in range(3))
        parts = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
        if read(*parts) != ours:
            differences.append(f"{seed}: divided: {parts!r}")
        elif ours != theirs and not (
            ours.refused == 400 and ours.requests == theirs.requests[: len(ours.requests)] and STRICTER.search(sent)
        ):
            differences.append(f"{seed}: {sent!r}\n  ours   {ours}\n  theirs {theirs}")
    assert not differences, f"{len(differences)}\n" + "\n".join(differences[:10])
