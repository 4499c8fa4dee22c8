"""The intake in a real server process, with requests that a test client cannot send because it speaks proper HTTP."""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.patience import PATIENCE
from tests.service import DATA, PASSWORDS, Answer, basic, real_server, xml_body

FLAT = "/api/users/root/appliances/4/pimages"
LOGIN = f"Authorization: {basic('root', PASSWORDS['root'])}\r\n"
POST = f"POST {FLAT} HTTP/1.1\r\nHost: x\r\n{LOGIN}Content-Type: application/xml\r\n"
LIMIT = 1 << 20


@dataclass
class Intake:
    port: int
    log: Path
    pid: int

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20 * PATIENCE)

    def exchange(self, sent: str | bytes, *, answers: int = 1, hang_up: bool = False) -> list[Answer]:
        """Send these bytes and read that many answers, or fewer if the server closes first."""
        with self.connect() as connection:
            connection.sendall(sent if isinstance(sent, bytes) else sent.encode("latin-1"))
            if hang_up:
                with contextlib.suppress(OSError):  # it closed the connection first
                    connection.shutdown(socket.SHUT_WR)
            return read_answers(connection, answers, "HEAD" if sent[:4] in ("HEAD", b"HEAD") else "GET")

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20 * PATIENCE)
        sent = {"Authorization": basic("root", PASSWORDS["root"])} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        answer = Answer(response.status, lower(response.headers), response.read())
        connection.close()
        return answer

    def alive(self) -> None:
        assert self.request("GET", FLAT).status == 200


def lower(headers: http.client.HTTPMessage) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def read_answers(connection: socket.socket, count: int, method: str) -> list[Answer]:
    """Read consecutive answers from a connection with http.client."""
    answers: list[Answer] = []
    stream = connection.makefile("rb")
    try:
        for _ in range(count):
            response = http.client.HTTPResponse(Replay(stream), method=method)  # type: ignore[arg-type]
            response.begin()
            answers.append(Answer(response.status, lower(response.headers), response.read()))
    except (http.client.BadStatusLine, ConnectionResetError):
        pass  # it closed the connection
    finally:
        stream.close()
    return answers


@dataclass
class Replay:
    """Replaces the socket of http.client by a stream that stays open for the next answer."""

    stream: socket.SocketIO | object

    def makefile(self, *_: object) -> object:
        return Unclosed(self.stream)


class Unclosed:
    def __init__(self, stream: object) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def close(self) -> None:
        """Do nothing, because the next answer is read from the same stream."""


@pytest.fixture(scope="module")
def intake(filled_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Intake]:
    """A server without a broker."""
    directory = tmp_path_factory.mktemp("server")
    shutil.copyfile(filled_template, directory / "publisher.db")
    with real_server(directory) as process:
        yield Intake(process.port, process.log, process.pid)


def chunked(body: bytes, size: int = 65536) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


# Bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_manuals_example_is_accepted_without_a_broker(intake: Intake) -> None:
    began = time.monotonic()
    body = (DATA / "publish-openstack-v2.xml").read_bytes()
    answer = intake.request("POST", FLAT, body, Content_Type="application/xml")
    assert answer.status == 201
    assert time.monotonic() - began < 10 * PATIENCE
    assert answer.headers["content-type"] == "application/xml"
    location = answer.headers["location"]
    assert re.fullmatch(rf"http://127.0.0.1:{intake.port}/api/users/root/appliances/4/images/7/pimages/\d+", location)
    again = intake.request("GET", location.removeprefix(f"http://127.0.0.1:{intake.port}"))
    assert (again.status, again.body) == (200, answer.body)


@pytest.mark.long
@pytest.mark.parametrize("size", [1, 7, 65536])
def test_chunked_body_is_accepted(intake: Intake, size: int) -> None:
    sent = f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode() + chunked(xml_body().encode(), size)
    (answer,) = intake.exchange(sent)
    assert answer.status == 201


@pytest.mark.parametrize("megabytes", [2, 8])
def test_too_large_body_gets_413(intake: Intake, megabytes: int) -> None:
    """Even a client that sends its whole body before it reads gets the answer."""
    answer = intake.request("POST", FLAT, b"x" * (megabytes << 20), Content_Type="application/xml")
    assert answer.status == 413
    assert str(LIMIT) in answer.problem()
    sent = f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode() + chunked(b"x" * (megabytes << 20))
    (answer,) = intake.exchange(sent)
    assert answer.status == 413
    assert answer.problem()
    intake.alive()


def test_huge_content_length_is_refused_without_reading(intake: Intake) -> None:
    for length in ("99999999999", "1" + "0" * 18):
        (answer,) = intake.exchange(f"{POST}Content-Length: {length}\r\n\r\n")
        assert answer.status == 413
    intake.alive()


@pytest.mark.long
@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", f"Content-Length: {1024 * LIMIT}"])
def test_gigabyte_body_is_refused_early_and_not_kept(intake: Intake, framing: str) -> None:
    """The answer comes while the body is still arriving, and the server keeps nothing of the body."""
    process = psutil.Process(intake.pid)
    before = process.memory_info().rss
    part = b"x" * LIMIT
    if "chunked" in framing:
        part = b"%x\r\n%s\r\n" % (LIMIT, part)
    with intake.connect() as connection:
        connection.sendall(f"{POST}{framing}\r\n\r\n".encode())
        for _ in range(2):
            connection.sendall(part)
        (answer,) = read_answers(connection, 1, "POST")
        assert answer.status == 413
        with contextlib.suppress(ConnectionError):
            for _ in range(1022):
                connection.sendall(part)
        assert process.memory_info().rss - before < 30 * LIMIT
    intake.alive()


def test_expect_100_continue_is_answered(intake: Intake) -> None:
    with intake.connect() as connection:
        connection.sendall(f"{POST}Expect: 100-continue\r\nContent-Length: {2 * LIMIT}\r\n\r\n".encode())
        assert read_answers(connection, 1, "POST")[0].status == 413
    body = xml_body().encode()
    with intake.connect() as connection:
        connection.sendall(f"{POST}Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"[:25]
        connection.sendall(body)
        assert read_answers(connection, 1, "POST")[0].status == 201


def test_rest_after_a_short_content_length_is_no_request(intake: Intake) -> None:
    """The rest of the body is read as the next request, which is invalid."""
    body = xml_body()
    answers = intake.exchange(f"{POST}Content-Length: {len(body) - 9}\r\n\r\n{body}\r\n\r\n", answers=2)
    assert [answer.status for answer in answers] == [400, 400]
    intake.alive()


@pytest.mark.parametrize("framing", [f"Content-Length: {LIMIT}", "Content-Length: 5000", "Transfer-Encoding: chunked"])
def test_incomplete_body_makes_no_ticket(intake: Intake, framing: str) -> None:
    sent = f"{POST}{framing}\r\n\r\n" + ("fff\r\n" if "chunked" in framing else "") + xml_body()
    before = intake.request("GET", FLAT).text("total")
    intake.exchange(sent, hang_up=True)
    with intake.connect() as connection:
        connection.sendall(sent.encode())
    intake.alive()
    assert intake.request("GET", FLAT).text("total") == before


# HTTP -------------------------------------------------------------------------------------------------------------

GET = "GET /api/status HTTP/1.1\r\n"
MALFORMED = {
    "no request": "\r\n\r\n\r\nhello\r\n\r\n",
    "no path": "GET\r\n\r\n",
    "no version": "GET /api/status\r\n\r\n",
    "no host": GET + "\r\n",
    "two hosts": GET + "Host: a\r\nHost: b\r\n\r\n",
    "a bad length": GET + "Host: a\r\nContent-Length: abc\r\n\r\n",
    "a negative length": GET + "Host: a\r\nContent-Length: -1\r\n\r\n",
    "two lengths": POST + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "an unknown transfer encoding": POST + "Transfer-Encoding: gzip\r\n\r\n",
    "a bad chunk": POST + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a folded name": GET + "Host: a\r\n bad name: x\r\nX Y: z\r\n\r\n",
    "a NUL in a header": GET + "Host: a\r\nX: a\0b\r\n\r\n",
    "a control character in a header": GET + "Host: a\r\nX: a\x1bb\r\n\r\n",
    "a folded header": GET + "Host: a\r\nX: a\r\n b\r\n\r\n",
    "bare LFs": GET.replace("\r", "") + "Host: a\n\n",
    "a bare LF and nothing more": GET + "Host: a\n",
    "a bare CR": GET + "Host: a\rX: b\r\n\r\n",
    "a space before a colon": GET + "Host : a\r\n\r\n",
    "a size of a chunk with a sign": POST + "Transfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n",
    "a space in the path": "GET /api/sta tus HTTP/1.1\r\nHost: a\r\n\r\n",
    "bytes beyond ASCII in the path": "GET /api/\xe5 HTTP/1.1\r\nHost: a\r\n\r\n",
    "headers without an end": GET + "Host: a\r\n" + "".join(f"X{n}: {'y' * 1000}\r\n" for n in range(200)),
    "TLS": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


STATUS_OF_MALFORMED = {
    "headers without an end": 431,
    "an unknown transfer encoding": 501,
    "HTTP/2": 404,  # well-formed, but the path is unknown
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_http_gets_an_error(intake: Intake, name: str) -> None:
    answers = intake.exchange(MALFORMED[name], hang_up=True)
    for answer in answers:
        assert answer.status == STATUS_OF_MALFORMED.get(name, 400)
        assert answer.problem()
        assert answer.status == 404 or answer.headers["connection"] == "close"
    # The TLS bytes may end before there is a complete line to answer.
    assert len(answers) == 1 or name == "TLS"
    intake.alive()


def test_http_error_names_the_request(intake: Intake) -> None:
    (answer,) = intake.exchange("GET /api/status?x=1 HTTP/1.1\r\n\r\n")
    assert answer.problem() == "the request is not valid HTTP"
    assert (answer.text("requestMethod"), answer.text("requestUri")) == ("GET", "/api/status")
    (answer,) = intake.exchange("\x01\x02\r\n\r\n")
    assert (answer.text("requestMethod"), answer.text("requestUri")) == ("UNKNOWN", "/")
    (answer,) = intake.exchange(f"{POST}Accept: application/json\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")
    assert answer.json["localizedErrorMsg"]["messageId"] == "BadRequest"
    assert (answer.json["requestMethod"], answer.json["requestUri"]) == ("POST", FLAT)


BOTH_LENGTHS = [
    "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 0",
    "Transfer-Encoding: chunked\r\nContent-Length: 5",
]


def refused_for_both_lengths(intake: Intake, head: str, framing: str) -> Answer:
    """Check for a 400. The bytes that follow must not be read as a separate request."""
    hidden = "GET /api/status HTTP/1.1\r\nHost: x\r\n\r\n"
    (answer,) = intake.exchange(f"{head}{framing}\r\n\r\n0\r\n\r\n{hidden}", answers=2)
    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    return answer


@pytest.mark.parametrize("framing", BOTH_LENGTHS)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", FLAT), ("POST", "/api/status"), ("POST", "/api/nowhere"), ("GET", "/healthz")],
)
def test_content_length_with_transfer_encoding_is_refused(intake: Intake, framing: str, method: str, path: str) -> None:
    answer = refused_for_both_lengths(intake, POST.replace(FLAT, path).replace("POST", method), framing)
    assert "Transfer-Encoding" in answer.problem()


@pytest.mark.parametrize("framing", BOTH_LENGTHS)
def test_console_refuses_both_lengths_with_an_html_page(intake: Intake, framing: str) -> None:
    answer = refused_for_both_lengths(intake, POST.replace(FLAT, "/console/sign-in"), framing)
    assert b"Transfer-Encoding" in answer.body
    assert answer.headers["content-type"].startswith("text/html")


def test_http_1_0_request_may_not_be_chunked(intake: Intake) -> None:
    head = POST.replace("HTTP/1.1", "HTTP/1.0")
    (answer,) = intake.exchange(f"{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert answer.status == 400
    assert "Transfer-Encoding" in answer.problem()


@pytest.mark.parametrize(
    "target", ["*", "http://x/api/status", "//api/status", "/api/status#x", "/api/status?%00&&=", "x"]
)
def test_odd_target_gets_200_or_404(intake: Intake, target: str) -> None:
    (answer,) = intake.exchange(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.status in (200, 404)
    if answer.status == 404:
        assert answer.problem()


def test_pipelined_requests_are_answered_in_order(intake: Intake) -> None:
    """The requests are sent at once on one connection, most of them under a base URL with a trailing slash."""
    body = xml_body()
    sent = (
        "GET /api//status HTTP/1.1\r\nHost: x\r\n\r\n"
        f"POST {FLAT.replace('/api/', '/api//')} HTTP/1.1\r\nHost: x\r\n{LOGIN}Content-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
        "GET /api//nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
        f"GET {FLAT} HTTP/1.1\r\nHost: x\r\n\r\n"
        "GET /api//status HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n"
    )
    answers = intake.exchange(sent, answers=5)
    assert [answer.status for answer in answers] == [200, 201, 404, 401, 200]
    assert answers[2].text("requestUri") == "/api//nowhere"
    assert answers[-1].json["version"] == "3.8.13"


def test_body_after_a_refused_login_is_not_read_as_a_request(intake: Intake) -> None:
    """The application does not read the body, and the server does not take it for the next request."""
    body = xml_body()
    wrong = POST.replace(LOGIN, "") + f"Content-Length: {len(body)}\r\n\r\n{body}"
    answers = intake.exchange(wrong + GET + "Host: x\r\n\r\n", answers=2)
    assert [answer.status for answer in answers] in ([401, 200], [401])


def test_http_1_0_requests_are_answered(intake: Intake) -> None:
    (answer,) = intake.exchange("GET /api/status HTTP/1.0\r\n\r\n")
    assert answer.status == 200
    body = xml_body()
    head = POST.replace("HTTP/1.1\r\nHost: x", "HTTP/1.0")
    (answer,) = intake.exchange(f"{head}Content-Length: {len(body)}\r\n\r\n{body}")
    assert answer.status == 201
    assert answer.headers["location"].startswith(f"http://127.0.0.1:{intake.port}/api/users/root/")


@pytest.mark.parametrize("host", ["[", "[::1", "x:99999", "a b", "\xe5", "", "@", "x?y", "x/y"])
def test_odd_host_header_gets_a_proper_answer(intake: Intake, host: str) -> None:
    body = xml_body()
    head = POST.replace("Host: x", f"Host: {host}")
    (answer,) = intake.exchange(f"{head}Content-Length: {len(body)}\r\n\r\n{body}")
    assert answer.status in (201, 400)
    if answer.status == 201:
        assert answer.headers["location"].startswith("http://")
    (answer,) = intake.exchange(f"GET /nowhere HTTP/1.1\r\nHost: {host}\r\n\r\n")
    assert answer.status in (400, 404)


@pytest.mark.parametrize("path", ["/api/status", "/healthz", "/docs", "/nowhere", "/console/sign-in", FLAT])
def test_head_has_no_body(intake: Intake, path: str) -> None:
    """The next answer on the connection begins where it should."""
    head = f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n"
    with intake.connect() as connection:
        connection.sendall((head * 2).encode())
        first, second = read_answers(connection, 2, "HEAD")
    (got,) = intake.exchange(head.replace("HEAD", "GET"))
    assert first.status == second.status == got.status
    assert first.headers["content-length"] == str(len(got.body))
    assert first.headers["content-type"] == got.headers["content-type"]


@pytest.mark.long
def test_not_modified_has_no_body(intake: Intake) -> None:
    etag = intake.request("GET", FLAT).headers["etag"]
    head = f"GET {FLAT} HTTP/1.1\r\nHost: x\r\n{LOGIN}"
    answers = intake.exchange(f"{head}If-None-Match: {etag}\r\n\r\n{head}\r\n", answers=2)
    assert [answer.status for answer in answers] == [304, 200]
    assert answers[0].body == b""
    assert "server" not in answers[0].headers


@pytest.mark.long
def test_silent_connections_keep_nobody_waiting(intake: Intake) -> None:
    """Half of the connections send only the head of a request, the others send nothing."""
    silent = [intake.connect() for _ in range(100)]
    try:
        for connection in silent[:50]:
            connection.sendall(f"{POST}Content-Length: 100\r\n\r\n".encode())
        intake.alive()
    finally:
        for connection in silent:
            connection.close()
    intake.alive()
