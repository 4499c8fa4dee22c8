"""A real server closes the connections of callers that send nothing or only a part of a request."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service import Answer, real_server, xml_body
from tests.unit.intake.test_http_server import FLAT, GET, LOGIN, POST, Intake, read_answers

SHORT_SECONDS = 0.5
"""How long the server waits for missing data. Tests wait much longer for it to close, and assume no exact time."""
SECONDS = 2.0
"""The same for tests that send data in small pieces: longer, so that a pause of the test is not taken for silence."""
FORM = (
    "POST /console/sign-in HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\n"
    "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\n"
)
IMAGE = (
    f"POST /api/users/root/appliances/4/images?name=x&format=raw HTTP/1.1\r\nHost: x\r\n{LOGIN}"
    "Content-Type: application/octet-stream\r\nContent-Length: 100000\r\n\r\n"
)


@pytest.fixture(scope="module")
def impatient(filled_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Intake]:
    with intake_that_waits(SHORT_SECONDS, filled_template, tmp_path_factory.mktemp("impatient")) as intake:
        yield intake


@pytest.fixture(scope="module")
def less_impatient(filled_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Intake]:
    with intake_that_waits(SECONDS, filled_template, tmp_path_factory.mktemp("less-impatient")) as intake:
        yield intake


@contextmanager
def intake_that_waits(seconds: float, database: Path, directory: Path) -> Iterator[Intake]:
    shutil.copyfile(database, directory / "publisher.db")
    limits = {"keep_alive_seconds": seconds, "request_head_seconds": seconds, "request_body_seconds": seconds}
    with real_server(directory, **limits, stall_seconds=seconds) as process:
        yield Intake(process.port, process.log, process.pid)


def answers_until_closed(connection: socket.socket, count: int = 2) -> list[Answer]:
    """Return the server's answers until it closes the connection. If it keeps the connection, this times out."""
    connection.settimeout(60)
    return read_answers(connection, count, "GET")


@pytest.mark.long
def test_silent_connection_is_closed(impatient: Intake) -> None:
    with impatient.connect() as connection:
        assert answers_until_closed(connection) == []


@pytest.mark.long
@pytest.mark.parametrize(
    "sent", ["G", "GET /api/status HTT", GET, f"{GET}Host: x\r\n", f"{GET}Host: x\r\nX: {'y' * 5000}"]
)
def test_incomplete_head_gets_408(impatient: Intake, sent: str) -> None:
    with impatient.connect() as connection:
        connection.sendall(sent.encode())
        (answer,) = answers_until_closed(connection)
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert "headers" in answer.problem()


@pytest.mark.long
def test_incomplete_head_after_an_answer_gets_408(impatient: Intake) -> None:
    with impatient.connect() as connection:
        connection.sendall(f"{GET}Host: x\r\n\r\n{GET}".encode())
        first, second = answers_until_closed(connection)
    assert (first.status, second.status) == (200, 408)


@pytest.mark.long
def test_idle_connection_is_closed_after_its_answer(impatient: Intake) -> None:
    with impatient.connect() as connection:
        connection.sendall(f"{GET}Host: x\r\n\r\n".encode())
        (answer,) = answers_until_closed(connection)
    assert answer.status == 200


def trickle(connection: socket.socket, piece: bytes) -> None:
    """Send a piece every 0.1 seconds until the server answers or closes the connection."""
    connection.settimeout(0.1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            connection.sendall(piece)
            connection.recv(1, socket.MSG_PEEK)
            return
        except TimeoutError:
            continue
        except ConnectionError:
            return
    raise AssertionError("the server goes on to wait")


@pytest.mark.long
@pytest.mark.parametrize("piece", [b"", b"x"], ids=["nothing", "a byte now and then"])
@pytest.mark.parametrize(
    "head",
    [
        f"{POST}Content-Length: 100000\r\n\r\n",
        f"{POST}Transfer-Encoding: chunked\r\n\r\n4000\r\n",
        FORM.replace("100\r\n", "5000\r\n"),
        pytest.param(IMAGE, marks=pytest.mark.long),
    ],
    ids=["document", "chunks", "form", "image"],
)
def test_incomplete_body_gets_408(impatient: Intake, head: str, piece: bytes) -> None:
    with impatient.connect() as connection:
        connection.sendall(head.encode())
        if piece:
            trickle(connection, piece)
        answers = answers_until_closed(connection)
    # A caller that keeps sending after the server has stopped reading may lose the answer.
    assert piece or len(answers) == 1
    for answer in answers:
        assert answer.status == 408
        assert answer.problem()
        assert piece or answer.headers["connection"] == "close"


@pytest.mark.long
def test_unneeded_body_is_not_awaited(impatient: Intake) -> None:
    """The server answers at once and does not wait for the rest of the body."""
    with impatient.connect() as connection:
        connection.sendall(b"POST /api/nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        (answer,) = answers_until_closed(connection)
    assert answer.status == 404


@pytest.mark.long
def test_slow_body_is_accepted_while_pieces_arrive(less_impatient: Intake) -> None:
    """A body that keeps arriving may take longer than the allowed silence."""
    body = xml_body().encode()
    padded = body + b" " * 500_000
    with less_impatient.connect() as connection:
        connection.sendall(f"{POST}Content-Length: {len(padded)}\r\n\r\n".encode())
        began = time.monotonic()
        pieces = [padded[at : at + 10_000] for at in range(0, len(padded), 10_000)]
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(3 * SECONDS / len(pieces))  # the test needs this time to pass
        assert time.monotonic() - began > 2 * SECONDS
        (answer,) = read_answers(connection, 1, "POST")
    assert answer.status == 201


@pytest.mark.long
def test_long_poll_may_outlast_the_head_timeout(less_impatient: Intake) -> None:
    """During a long poll the caller sends nothing for longer than a head may take."""
    made = less_impatient.request("POST", FLAT, xml_body().encode(), Content_Type="application/xml")
    path = made.headers["location"].partition(f":{less_impatient.port}")[2] + "/status"
    etag = less_impatient.request("GET", path).headers["etag"]
    began = time.monotonic()
    answer = less_impatient.request("GET", f"{path}?wait={3 * SECONDS}", If_None_Match=etag)
    assert answer.status == 304
    assert time.monotonic() - began >= 2.9 * SECONDS


@pytest.mark.long
def test_silent_connections_do_not_block_other_callers(less_impatient: Intake) -> None:
    silent = [less_impatient.connect() for _ in range(200)]
    try:
        for connection, sent in zip(silent, [b"", GET.encode(), FORM.encode(), IMAGE.encode()] * 50, strict=True):
            connection.sendall(sent)
        less_impatient.alive()
        for connection in silent:
            assert all(answer.status == 408 for answer in answers_until_closed(connection))
    finally:
        for connection in silent:
            connection.close()


@pytest.mark.long
def test_timeout_of_zero_means_no_limit(filled_template: Path, tmp_path: Path) -> None:
    """The settings reach the server process, and a limit of 0 means no limit."""
    shutil.copyfile(filled_template, tmp_path / "publisher.db")
    with real_server(tmp_path, request_head_seconds=0, request_body_seconds=0) as process:
        intake = Intake(process.port, process.log, process.pid)
        with intake.connect() as connection:
            connection.sendall(GET.encode())
            connection.settimeout(2 * SHORT_SECONDS)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.settimeout(20)
            connection.sendall(b"Host: x\r\n\r\n")
            assert read_answers(connection, 1, "GET")[0].status == 200
