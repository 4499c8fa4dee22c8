"""The connection of a caller, with small ASGI applications behind it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import uvloop
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from publisher.intake import connection as caller_connection
from publisher.intake.connection import CallerConnection, Patience
from tests.patience import PATIENCE

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
SHORT_SECONDS = 0.2
START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


@dataclass
class Place:
    """A server of an application in the test's event loop."""

    port: int
    state: ServerState

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def exchange(self, sent: bytes) -> bytes:
        """Send these bytes, and return all answers until the server closes the connection."""
        reader, writer = await self.connect()
        writer.write(sent)
        answered = await reader.read()
        writer.close()
        return answered


Talk = Callable[[Place], Awaitable[None]]


@pytest.fixture(params=["uvloop", "asyncio"])
def talk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a function of a test against an application, with these options of uvicorn and these time limits."""
    new_loop = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(app: ASGIApp, test: Talk, *, concurrency: int | None = None, **seconds: float) -> None:
        limits = {"keep_alive_seconds": 0, "head_seconds": 0, "body_seconds": 0, "image_seconds": 60} | seconds
        patience = Patience(**limits, bytes_per_second=500)
        monkeypatch.setattr(caller_connection, "_patience", lambda: patience)
        config = Config(app, http=CallerConnection, ws="none", lifespan="off", log_config=None)
        config.limit_concurrency = concurrency

        async def main() -> None:
            async with serving(config) as place:
                await asyncio.wait_for(test(place), 20 * PATIENCE)

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())

    return run


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[Place]:
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: CallerConnection(config, state, {}), "127.0.0.1", 0)
    try:
        yield Place(server.sockets[0].getsockname()[1], state)
    finally:
        server.close()
        for each in list(state.connections):
            each.shutdown()
        for task in list(state.tasks):
            task.cancel()
        while state.connections or state.tasks:
            await asyncio.sleep(0.01)


async def whole_body(receive: Receive) -> bytes | None:
    """Return the body of the request. None: the caller hung up."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


def answer(body: bytes, **headers: str) -> list[Message]:
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return [
        {**START, "headers": [(b"content-length", str(len(body)).encode()), *fields]},
        {"type": "http.response.body", "body": body},
    ]


def part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def sending(*messages: Message) -> ASGIApp:
    """Make an application that answers each request with these messages."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for each in messages:
            await send(each)

    return app


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await whole_body(receive)
    if body is not None:
        for each in answer(scope["path"].encode() + b"=" + body):
            await send(each)


# Requests ---------------------------------------------------------------------------------------------------------


def post(path: str, body: bytes, *, fields: bytes = b"") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n".encode() + fields + b"\r\n" + body


def test_scope_is_that_of_uvicorn(talk: Callable[..., None]) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await sending(*answer(b""))(scope, receive, send)

    async def test(place: Place) -> None:
        await place.exchange(b"GET /a%20b/%C3%A5?x=%20&y HTTP/1.1\r\nHOST: x\r\nX-A:  1 \r\nConnection: close\r\n\r\n")

    talk(app, test)
    (scope,) = seen
    assert scope["client"][0] == scope["server"][0] == "127.0.0.1"
    assert {name: scope[name] for name in scope if name not in ("client", "server")} == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": "/a b/å",
        "raw_path": b"/a%20b/%C3%A5",
        "query_string": b"x=%20&y",
        "headers": [(b"host", b"x"), (b"x-a", b"1"), (b"connection", b"close")],
        "state": {},
    }


@pytest.mark.long
def test_pipelined_requests_are_answered_one_after_another(talk: Callable[..., None]) -> None:
    """Each in a context of its own, so that no request is logged with the id of the one before."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
    contexts: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        contexts.append(variable.get())
        variable.set(scope["path"])
        await asyncio.sleep(0.01)
        await echo(scope, receive, send)

    async def test(place: Place) -> None:
        sent = b"".join(post(f"/{number}", bytes([65 + number]) * 5) for number in range(20))
        last = post("/last", b"", fields=b"Connection: close\r\n")
        answered = await place.exchange(sent + last)
        bodies = [each.partition(b"\r\n\r\n")[2] for each in answered.split(b"HTTP/1.1 200 OK")[1:]]
        assert bodies == [*(f"/{number}={chr(65 + number) * 5}".encode() for number in range(20)), b"/last="]

    talk(app, test, keep_alive_seconds=20)
    assert contexts == [""] * 21


def test_rest_of_an_answered_requests_body_is_skipped(talk: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        reader, writer = await place.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert (await reader.readuntil(b"early")).startswith(b"HTTP/1.1 200 OK\r\n")
        for _ in range(100):
            writer.write(b"x" * 10_000)
            await writer.drain()
        writer.write(GET)
        assert (await reader.readuntil(b"early")).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()

    talk(sending(*answer(b"early")), test, keep_alive_seconds=20, body_seconds=20)


@pytest.mark.long
def test_body_that_the_application_does_not_read_stays_with_the_caller(talk: Callable[..., None]) -> None:
    go_on: list[asyncio.Event] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        go_on.append(asyncio.Event())
        await go_on[0].wait()
        await echo(scope, receive, send)

    async def test(place: Place) -> None:
        reader, writer = await place.connect()
        total = 16 << 20
        writer.write(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {total}\r\n\r\n".encode() + b"x" * total)
        kept = 0
        while kept != (kept := writer.transport.get_write_buffer_size()):
            await asyncio.sleep(0.2)
        assert kept > total // 2
        go_on[0].set()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert await reader.readexactly(2 + total) == b"/=" + b"x" * total
        writer.close()

    talk(app, test, keep_alive_seconds=20)


@pytest.mark.parametrize("reads", [True, False])
def test_100_continue_is_sent_if_the_application_reads(talk: Callable[..., None], reads: bool) -> None:
    async def test(place: Place) -> None:
        answered = await place.exchange(post("/", b"x", fields=b"Expect: 100-continue\r\nConnection: close\r\n"))
        assert answered.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 " if reads else b"HTTP/1.1 200 ")

    talk(echo if reads else sending(*answer(b"")), test)


def test_application_learns_that_the_caller_hung_up(talk: Callable[..., None]) -> None:
    told: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        told.append(await receive())
        await send(START)  # which nobody gets, and which is no error
        await send(part(b"x", more=False))

    async def test(place: Place) -> None:
        _, writer = await place.connect()
        writer.write(GET)
        await asyncio.sleep(0.1)
        writer.close()
        while not told:
            await asyncio.sleep(0.01)

    talk(app, test)
    assert told == [{"type": "http.disconnect"}]


def test_all_that_wait_learn_that_the_caller_hung_up(talk: Callable[..., None]) -> None:
    """Even if one of them has stopped waiting."""
    told: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        waits = [asyncio.ensure_future(receive()) for _ in range(3)]
        await asyncio.sleep(0)
        waits[0].cancel()
        told.extend(await asyncio.gather(*waits[1:]))

    async def test(place: Place) -> None:
        _, writer = await place.connect()
        writer.write(GET)
        await asyncio.sleep(0.1)
        writer.close()
        while not told:
            await asyncio.sleep(0.01)

    talk(app, test)
    assert told == [{"type": "http.disconnect"}] * 2


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"1\r\nab\r\n", b"1\nx"])
def test_bad_chunk_ends_the_request(talk: Callable[..., None], chunk: bytes) -> None:
    read: list[bytes | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        read.append(await whole_body(receive))

    async def test(place: Place) -> None:
        head = b"POST /a HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        answered = await place.exchange(head + b"1\r\nx\r\n" + chunk)
        assert answered.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b'"requestUri": "/a"' in answered.replace(b'":"', b'": "')

    talk(app, test)
    assert read == [None]


# Answers ----------------------------------------------------------------------------------------------------------


def test_answer_without_a_length_is_chunked(talk: Callable[..., None]) -> None:
    app = sending(START, part(b"one"), part(b""), part(b"three"), part(b"", more=False))

    async def test(place: Place) -> None:
        head, _, body = (await place.exchange(GET)).partition(b"\r\n\r\n")
        assert b"\r\ntransfer-encoding: chunked" in head
        assert body == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"

    talk(app, test)


def test_answer_to_http_1_0_is_not_chunked(talk: Callable[..., None]) -> None:
    app = sending(START, part(b"one"), part(b"two", more=False))

    async def test(place: Place) -> None:
        head, _, body = (await place.exchange(b"GET / HTTP/1.0\r\n\r\n")).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"\r\nconnection: close" in head
        assert body == b"onetwo"

    talk(app, test, keep_alive_seconds=20)


@pytest.mark.parametrize("status", [204, 304])
def test_some_answers_have_no_body(talk: Callable[..., None], status: int) -> None:
    app = sending({**START, "status": status}, part(b"dropped", more=False))

    async def test(place: Place) -> None:
        first = await place.exchange(GET)
        assert first.startswith(f"HTTP/1.1 {status} ".encode())
        assert first.endswith(b"\r\n\r\n")
        assert b"transfer-encoding" not in first

    talk(app, test)


def test_head_of_a_stream_is_sent_at_once(talk: Callable[..., None]) -> None:
    """Before the stream has anything to say."""
    go_on: list[asyncio.Event] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        go_on.append(asyncio.Event())
        await send(START)
        await go_on[0].wait()
        await send(part(b"event", more=False))

    async def test(place: Place) -> None:
        reader, writer = await place.connect()
        writer.write(GET)
        assert await reader.readuntil(b"\r\n\r\n")
        go_on[0].set()
        assert await reader.readuntil(b"event")
        writer.close()

    talk(app, test)


def test_head_with_a_length_waits_for_its_body(talk: Callable[..., None]) -> None:
    """So they need one packet, and a failure before the body is still answered."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(answer(b"body")[0])
        await asyncio.sleep(0.01)
        if scope["path"] == "/a":
            raise ValueError("a secret")
        await send(answer(b"body")[1])

    async def test(place: Place) -> None:
        assert (await place.exchange(GET)).startswith(b"HTTP/1.1 500 ")
        reader, writer = await place.connect()
        writer.write(GET.replace(b"/a", b"/b"))
        assert (await reader.readuntil(b"body")).startswith(b"HTTP/1.1 200 ")
        writer.close()

    talk(app, test)


async def fail(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("a secret")


async def fail_after_the_head(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    raise ValueError("a secret")


@pytest.mark.parametrize(
    "app",
    [
        fail,
        fail_after_the_head,
        sending(),
        sending(part(b"no head")),
        sending({**START, "headers": [(b"x", b"a\r\nset-cookie: b")]}),
        sending({**START, "headers": [(b"x\r\ny", b"a")]}),
        sending({**START, "headers": [(b"content-length", b"3")]}, part(b"four", more=False)),
        sending({**START, "headers": [(b"content-length", b"5")]}, part(b"four", more=False)),
    ],
)
def test_failure_of_the_application_is_answered(
    talk: Callable[..., None], app: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(place: Place) -> None:
        answered = await place.exchange(GET)
        assert answered.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert b"uforgeError" in answered
        assert b"<messageId>InternalError</messageId>" in answered
        assert b"\r\nconnection: close\r\n" in answered
        assert b"secret" not in answered
        assert b"set-cookie" not in answered

    with caplog.at_level(logging.ERROR):
        talk(app, test, keep_alive_seconds=20)
    assert "ASGI" in caplog.text


def test_answer_that_fails_on_its_way_is_cut_off(talk: Callable[..., None]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(part(b"one"))
        raise ValueError

    async def test(place: Place) -> None:
        answered = await place.exchange(GET)
        assert answered.endswith(b"\r\n\r\n3\r\none\r\n")

    talk(app, test, keep_alive_seconds=20)


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with 16 MiB."""
    await send(START)
    for _ in range(256):
        await send(part(b"x" * 65536))
    await send(part(b"", more=False))


@pytest.mark.long
def test_caller_that_does_not_read_its_answer_is_cut_off(talk: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        _, writer = await place.connect()
        writer.write(GET)
        while not place.state.tasks:
            await asyncio.sleep(0.01)
        while place.state.connections or place.state.tasks:
            await asyncio.sleep(0.01)
        writer.close()

    talk(stream, test, image_seconds=SHORT_SECONDS)


@pytest.mark.long
@pytest.mark.parametrize("keep_alive", [0, 20])
def test_caller_that_reads_slowly_gets_all(talk: Callable[..., None], keep_alive: int) -> None:
    async def test(place: Place) -> None:
        reader, writer = await place.connect()
        writer.write(GET)
        read = b""
        while not read.endswith(b"\r\n0\r\n\r\n"):
            read = await reader.read(1 << 20)
            await asyncio.sleep(0.02)
        writer.close()

    talk(stream, test, image_seconds=1.0, keep_alive_seconds=keep_alive)


# Uvicorn ----------------------------------------------------------------------------------------------------------


def test_idle_connection_is_closed_at_shutdown(talk: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        reader, writer = await place.connect()
        writer.write(GET)
        await reader.readuntil(b"/a=")
        (connection,) = place.state.connections
        connection.shutdown()
        assert await reader.read() == b""
        writer.close()

    talk(echo, test, keep_alive_seconds=20)


def test_answer_in_progress_is_completed_at_shutdown(talk: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        reader, writer = await place.connect()
        writer.write(post("/a", b"12")[:-1])
        while not place.state.tasks:
            await asyncio.sleep(0.01)
        (connection,) = place.state.connections
        connection.shutdown()
        writer.write(b"2" + GET)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b"\r\nconnection: close" in head
        assert body == b"/a=12"
        assert place.state.total_requests == 1
        writer.close()

    talk(echo, test, keep_alive_seconds=20)


def test_requests_above_the_limit_get_503(talk: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        assert (await place.exchange(GET)).startswith(b"HTTP/1.1 503 ")

    talk(echo, test, concurrency=1)


@pytest.mark.long
def test_busy_connection_outlives_the_time_limits(talk: Callable[..., None]) -> None:
    """The time limits begin anew with each request."""

    async def test(place: Place) -> None:
        reader, writer = await place.connect()
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < began + 2 * limit:
            for sent in (GET[:9], GET[9:], post("/b", b"x")[:-1], b"x"):
                writer.write(sent)
                await asyncio.sleep(limit / 20)
            await reader.readuntil(b"/a=")
            await reader.readuntil(b"/b=x")
        assert await reader.read() == b""
        writer.close()

    limit = 1.5
    talk(echo, test, keep_alive_seconds=limit, head_seconds=limit, body_seconds=limit)
