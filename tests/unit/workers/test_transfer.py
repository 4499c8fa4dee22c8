"""The upload engine against a server of real sockets, over plain HTTP and TLS."""

import hashlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from publisher.core.errors import Cancelled, ImageFileError, InvalidRequest, PermanentCloudError, TransientCloudError
from publisher.outbound.policy import OutboundPolicy
from tests.patience import PATIENCE
from tests.servers.process import free_port
from tests.servers.silent import silent_server
from tests.servers.uploads import CREATED, Upload, UploadServer, self_signed, upload_server
from workers.transfer import Answer, Transfer

pytestmark = pytest.mark.long

SIZE = 24 << 20
"""More than the sockets' buffers hold, so that a server that does not read is noticed."""
STOP_SECONDS = 2.0
"""Maximum time that a transfer needs to stop."""
MIB = 1 << 20


@pytest.fixture(scope="module")
def content() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture
def file(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "disk").write_bytes(content)
    return tmp_path / "disk"


@dataclass
class Sender:
    """Sends the file to a server, with or without TLS."""

    file: Path
    server_tls: ssl.SSLContext | None
    client_tls: ssl.SSLContext | None
    sent: list[int] = field(default_factory=list)

    def put(
        self,
        server: UploadServer,
        *,
        check: Callable[[], None] = lambda: None,
        stall_seconds: float = 30.0 * PATIENCE,
        answer_seconds: float = 30.0 * PATIENCE,
        size: int = SIZE,
        headers: Mapping[str, str] = {"X-Auth-Token": "t"},
    ) -> Answer:
        descriptor = os.open(self.file, os.O_RDONLY)
        try:
            transfer = Transfer(descriptor, size, check=check, on_sent=self.sent.append, stall_seconds=stall_seconds)
            return transfer.put(server.url, headers, tls=self.client_tls, answer_seconds=answer_seconds)
        finally:
            os.close(descriptor)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server, certificate = self_signed(tmp_path_factory.mktemp("tls"))
    return server, ssl.create_default_context(cafile=certificate)


@pytest.fixture(params=["http", "https"])
def sender(request: pytest.FixtureRequest, file: Path, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> Sender:
    return Sender(file, *(tls if request.param == "https" else (None, None)))


def take_all(upload: Upload) -> None:
    upload.read_body()
    upload.answer()


def wait_for_the_end(upload: Upload) -> None:
    upload.stop.wait(60 * PATIENCE)


def cancel_after(seconds: float, sent: Sequence[int]) -> Callable[[], None]:
    """Return a check that raises so long after the first bytes were sent, however slow the machine is before that."""
    began: list[float] = []

    def check() -> None:
        if sent and not began:
            began.append(time.monotonic())
        if began and time.monotonic() - began[0] > seconds:
            raise Cancelled

    return check


# Received content -----------------------------------------------


def test_bytes_arrive_unchanged(sender: Sender, content: bytes) -> None:
    with upload_server(take_all, tls=sender.server_tls) as server:
        answer = sender.put(server)
    (upload,) = server.uploads
    assert hashlib.sha256(upload.body).digest() == hashlib.sha256(content).digest()
    assert upload.head.startswith(b"PUT /v2/images/1/file HTTP/1.1\r\n")
    assert upload.headers["content-length"] == str(SIZE)
    assert upload.headers["host"] == f"127.0.0.1:{server.port}"
    assert upload.headers["x-auth-token"] == "t"
    assert "transfer-encoding" not in upload.headers
    assert (answer.status, answer.body) == (201, b"done")
    assert answer.headers["X-Seen"] == "yes"


def test_progress_only_grows_and_ends_at_the_full_size(sender: Sender) -> None:
    with upload_server(take_all, tls=sender.server_tls) as server:
        sender.put(server)
    assert sender.sent == sorted(set(sender.sent))
    assert sender.sent[-1] == SIZE
    assert len(sender.sent) > 2


def test_a_slow_reader_gets_everything(sender: Sender, content: bytes) -> None:
    def slowly(upload: Upload) -> None:
        for part in range(1, 6):
            upload.read_body(SIZE * part // 5, step=1 << 14)
            upload.stop.wait(0.1)
        upload.answer()

    with upload_server(slowly, tls=sender.server_tls) as server:
        assert sender.put(server).status == 201
    assert server.uploads[0].body == content


def test_the_image_is_sent_again_from_its_start(sender: Sender, content: bytes) -> None:
    with upload_server(take_all, tls=sender.server_tls) as server:
        descriptor = os.open(sender.file, os.O_RDONLY)
        transfer = Transfer(descriptor, SIZE)
        for _ in range(2):
            assert transfer.put(server.url, {}, tls=sender.client_tls).status == 201
        os.close(descriptor)
    assert [upload.body == content for upload in server.uploads] == [True, True]


@pytest.mark.parametrize("size", [1, 4096, MIB, MIB + 1])
def test_small_image_arrives_unchanged(sender: Sender, content: bytes, size: int) -> None:
    sender.file.write_bytes(content[:size])
    with upload_server(take_all, tls=sender.server_tls) as server:
        assert sender.put(server, size=size).status == 201
    assert server.uploads[0].body == content[:size]


def test_query_of_an_address_is_sent(sender: Sender, content: bytes) -> None:
    """Signed addresses of other clouds have their signature in the query."""
    sender.file.write_bytes(content[:100])
    with upload_server(take_all, tls=sender.server_tls) as server:
        server.url += "?signature=a%20b&x=1"
        sender.put(server, size=100)
    assert server.uploads[0].head.split(b" ")[1] == b"/v2/images/1/file?signature=a%20b&x=1"


# Answers --------------------------------------------------------


@pytest.mark.parametrize("status", [401, 413])
@pytest.mark.parametrize("then", ["closes", "closes slowly", "goes on reading", "reads no more"])
def test_an_early_answer_is_returned(sender: Sender, status: int, then: str) -> None:
    def refuse(upload: Upload) -> None:
        upload.read_body(2 * MIB)
        upload.answer(f"HTTP/1.1 {status} No\r\nContent-Length: 6\r\n\r\nreason".encode())
        match then:
            case "closes slowly":
                upload.stop.wait(0.5)
            case "goes on reading":
                upload.read_body()
            case "reads no more":
                wait_for_the_end(upload)

    with upload_server(refuse, tls=sender.server_tls) as server:
        began = time.monotonic()
        answer = sender.put(server)
        assert time.monotonic() - began < 5 * PATIENCE
    assert (answer.status, answer.body) == (status, b"reason")


def test_answer_that_comes_in_pieces_is_read_whole(sender: Sender) -> None:
    def stutter(upload: Upload) -> None:
        upload.read_body()
        for byte in CREATED:
            upload.answer(bytes([byte]))

    with upload_server(stutter, tls=sender.server_tls) as server:
        assert sender.put(server).body == b"done"


@pytest.mark.long
def test_slow_answer_does_not_count_as_a_stall(sender: Sender) -> None:
    """Glance hashes and stores the image after its last byte. The stall limit does not apply to this wait."""

    def think(upload: Upload) -> None:
        upload.read_body()
        upload.stop.wait(2.5)
        upload.answer()

    with upload_server(think, tls=sender.server_tls) as server:
        assert sender.put(server, stall_seconds=1.5).status == 201


@pytest.mark.long
def test_missing_answer_is_a_transient_error(sender: Sender) -> None:
    def think(upload: Upload) -> None:
        upload.read_body()
        wait_for_the_end(upload)

    with (
        upload_server(think, tls=sender.server_tls) as server,
        pytest.raises(TransientCloudError, match="no answer within 1 s after the last byte"),
    ):
        sender.put(server, answer_seconds=1.0)


@pytest.mark.long
def test_waiting_costs_no_processor_time(sender: Sender) -> None:
    """TLS 1.3 sends tickets for later sessions, which wait to be read while the upload waits for its server."""

    def dawdle(upload: Upload) -> None:
        upload.read_body(MIB)
        upload.stop.wait(1.5)
        upload.read_body()
        upload.stop.wait(1.0)
        upload.answer()

    with upload_server(dawdle, tls=sender.server_tls) as server:
        before = time.process_time()
        sender.put(server)
        assert time.process_time() - before < 1.5


# Stopping -------------------------------------------------------


def stopped(sender: Sender, behaviour: Callable[[Upload], None], *, notices: bool = True) -> UploadServer:
    with upload_server(behaviour, tls=sender.server_tls) as server:
        began = time.monotonic()
        with pytest.raises(Cancelled):
            sender.put(server, check=cancel_after(0.3, sender.sent))
        assert time.monotonic() - began < 0.3 + STOP_SECONDS * PATIENCE
        if notices:
            assert server.ended.wait(5 * PATIENCE)
    return server


def read_slowly(upload: Upload) -> None:
    while not upload.stop.wait(0.01):
        if not upload.connection.recv(1 << 14):
            return


def read_all_and_wait(upload: Upload) -> None:
    upload.read_body()
    while upload.connection.recv(1):
        pass


def begin_to_answer(upload: Upload) -> None:
    upload.read_body()
    upload.answer(CREATED[:20])
    while upload.connection.recv(1):
        pass


def begin_a_body(upload: Upload) -> None:
    upload.read_body()
    upload.answer(CREATED[:-2])
    while upload.connection.recv(1):
        pass


@pytest.mark.parametrize(
    "behaviour", [read_slowly, read_all_and_wait, begin_to_answer, begin_a_body], ids=lambda each: str(each.__name__)
)
def test_a_transfer_stops_at_once_and_the_server_notices(sender: Sender, behaviour: Callable[[Upload], None]) -> None:
    stopped(sender, behaviour)


def test_transfer_stops_even_if_the_server_reads_nothing(sender: Sender) -> None:
    stopped(sender, wait_for_the_end, notices=False)
    assert 0 < sender.sent[-1] < SIZE


@pytest.mark.long
def test_check_is_called_while_the_server_is_silent(sender: Sender) -> None:
    calls: list[float] = []

    def silence(upload: Upload) -> None:
        before = len(calls)
        while len(calls) < before + 4 and not upload.stop.wait(0.01):
            pass

    def think(upload: Upload) -> None:
        upload.read_body(MIB)
        silence(upload)
        upload.read_body()
        silence(upload)
        upload.answer()

    with upload_server(think, tls=sender.server_tls) as server:
        assert sender.put(server, check=lambda: calls.append(time.monotonic())).status == 201
    # Twice a second. A busy machine may delay calls but never hurries them.
    assert min(after - before for before, after in pairwise(calls[-4:])) < 0.6 * PATIENCE


def test_pieces_become_small_over_a_slow_connection(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS, each piece is sent without waiting anyway."""
    sender = Sender(file, None, None)
    connect = OutboundPolicy.connect

    def connect_slowly(*given: Any, **more: Any) -> socket.socket:
        """Connect with small buffers, as of a connection over a long distance."""
        made = connect(*given, **more)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        return made

    def slowly(upload: Upload) -> None:
        upload.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        for part in range(1, 81):
            upload.read_body(part << 15, step=1 << 15)
            upload.stop.wait(0.05)
        upload.read_body()
        upload.answer()

    calls: list[float] = []
    monkeypatch.setattr(OutboundPolicy, "connect", connect_slowly)
    with upload_server(slowly) as server:
        assert sender.put(server, check=lambda: calls.append(time.monotonic())).status == 201
    assert max(after - before for before, after in pairwise(calls)) < STOP_SECONDS * PATIENCE
    # A whole MiB would take 1.6 s.
    assert min(after - before for before, after in pairwise(sender.sent)) <= MIB // 4


def test_check_is_called_when_a_fast_connection_becomes_slow(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By then, the kernel gets large pieces."""
    sender = Sender(file, None, None)
    connect = OutboundPolicy.connect

    def connect_closely(*given: Any, **more: Any) -> socket.socket:
        """Connect with small buffers, as of a connection over a short distance."""
        made = connect(*given, **more)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        return made

    slow: list[float] = []

    def slowly_later(upload: Upload) -> None:
        upload.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        upload.read_body(SIZE // 2)
        slow.append(time.monotonic())
        for part in range(1, 81):
            upload.read_body(SIZE // 2 + (part << 14), step=1 << 14)
            upload.stop.wait(0.03)
        slow.append(time.monotonic())
        upload.read_body()
        upload.answer()

    calls: list[float] = []
    monkeypatch.setattr(OutboundPolicy, "connect", connect_closely)
    with upload_server(slowly_later) as server:
        assert sender.put(server, check=lambda: calls.append(time.monotonic())).status == 201
    began, ended = slow
    during = [began, *(call for call in calls if began < call < ended), ended]
    assert max(after - before for before, after in pairwise(during)) < STOP_SECONDS * PATIENCE


def test_server_that_takes_no_byte_is_given_up(sender: Sender) -> None:
    def stall(upload: Upload) -> None:
        upload.read_body(MIB)
        wait_for_the_end(upload)

    with upload_server(stall, tls=sender.server_tls) as server:
        began = time.monotonic()
        with pytest.raises(TransientCloudError, match=f"127.0.0.1:{server.port} failed: no byte was taken for 1 s"):
            sender.put(server, stall_seconds=1.0)
        assert time.monotonic() - began < 4 * PATIENCE
    assert 0 < sender.sent[-1] < SIZE


# Connections that fail ------------------------------------------


def test_a_connection_that_is_reset_half_way_is_a_transient_error(sender: Sender) -> None:
    def reset(upload: Upload) -> None:
        upload.read_body(SIZE // 2)
        upload.reset()

    with (
        upload_server(reset, tls=sender.server_tls) as server,
        pytest.raises(TransientCloudError, match=f"the connection to 127.0.0.1:{server.port} failed: "),
    ):
        sender.put(server)


@pytest.mark.parametrize("received", [0, SIZE // 2, SIZE])
def test_connection_closed_without_an_answer_is_a_transient_error(sender: Sender, received: int) -> None:
    with (
        upload_server(lambda upload: upload.read_body(received), tls=sender.server_tls) as server,
        pytest.raises(TransientCloudError, match="failed: "),
    ):
        sender.put(server)


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc\r\n\r\n", CREATED[:30]])
def test_invalid_answer_is_a_transient_error(sender: Sender, answer: bytes) -> None:
    def answer_so(upload: Upload) -> None:
        upload.read_body()
        upload.answer(answer)

    with upload_server(answer_so, tls=sender.server_tls) as server, pytest.raises(TransientCloudError):
        sender.put(server)


def test_a_refused_connection_is_a_transient_error(file: Path) -> None:
    port = free_port()
    with (
        file.open("rb") as opened,
        pytest.raises(TransientCloudError, match=f"127.0.0.1:{port} failed: Connection refused"),
    ):
        Transfer(opened.fileno(), SIZE).put(f"http://me:hunter2@127.0.0.1:{port}/x", {})


def test_unanswered_tls_handshake_is_a_transient_error(file: Path) -> None:
    with (
        silent_server() as port,
        file.open("rb") as opened,
        pytest.raises(TransientCloudError, match="timed out"),
    ):
        Transfer(opened.fileno(), SIZE).put(f"https://127.0.0.1:{port}/x", {}, connect_seconds=0.5)


def test_untrusted_certificate_is_a_permanent_error(file: Path, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    with (
        upload_server(take_all, tls=tls[0]) as server,
        file.open("rb") as opened,
        pytest.raises(PermanentCloudError, match=r"not trusted \(self-signed certificate\).*REQUESTS_CA_BUNDLE"),
    ):
        Transfer(opened.fileno(), SIZE).put(server.url, {}, tls=ssl.create_default_context())


@pytest.mark.parametrize("url", ["ftp://h/x", "file:///etc/passwd", "http://", "/x", ""])
def test_invalid_address_is_refused(file: Path, url: str) -> None:
    with file.open("rb") as opened, pytest.raises(InvalidRequest, match="is not an http or https address"):
        Transfer(opened.fileno(), SIZE).put(url, {})


# A file that changes --------------------------------------------


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, 0])
def test_file_of_another_size_than_registered_is_not_sent(file: Path, size: int) -> None:
    with file.open("rb") as opened, pytest.raises(ImageFileError, match=f"{SIZE} bytes, but {size} were registered"):
        Transfer(opened.fileno(), size)


@pytest.mark.parametrize("change", ["grew", "shrank", "vanished to nothing", "was touched", "was overwritten"])
def test_file_that_changes_during_the_upload_raises_an_error(sender: Sender, change: str) -> None:
    def meddle(upload: Upload) -> None:
        upload.read_body(MIB)
        match change:
            case "grew":
                with sender.file.open("ab") as opened:
                    opened.write(b"more")
            case "shrank":
                os.truncate(sender.file, SIZE - 1)
            case "vanished to nothing":
                os.truncate(sender.file, 0)
            case "was touched":
                os.utime(sender.file, ns=(0, 0))
            case "was overwritten":
                with sender.file.open("r+b") as opened:
                    opened.write(b"other")
        upload.read_body()
        upload.answer()

    with (
        upload_server(meddle, tls=sender.server_tls) as server,
        pytest.raises(ImageFileError, match="register it again"),
    ):
        sender.put(server)
    if change == "vanished to nothing":
        assert len(server.uploads[0].body) < SIZE


# Chunks, for clouds whose SDK takes an iterator -----------------


def test_chunks_make_up_the_image_and_are_hashed(file: Path, content: bytes) -> None:
    sent: list[int] = []
    with file.open("rb") as opened:
        transfer = Transfer(opened.fileno(), SIZE, on_sent=sent.append)
        for _ in range(2):
            assert b"".join(bytes(chunk) for chunk in transfer.chunks()) == content
            assert transfer.sha256 == hashlib.sha256(content).hexdigest()
    assert sent[: len(sent) // 2] == sorted(sent[: len(sent) // 2])
    assert sent[-1] == SIZE


def test_partly_read_chunks_have_no_hash(file: Path) -> None:
    with file.open("rb") as opened:
        transfer = Transfer(opened.fileno(), SIZE)
        list(transfer.chunks())
        assert transfer.sha256 is not None
        next(transfer.chunks())
        assert transfer.sha256 is None


def test_chunks_end_when_the_ticket_is_cancelled(file: Path) -> None:
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Cancelled

    with file.open("rb") as opened:
        chunks = Transfer(opened.fileno(), SIZE, check=check).chunks()
        next(chunks)
        stop.set()
        with pytest.raises(Cancelled):
            next(chunks)


@pytest.mark.parametrize("change", ["shrank", "was touched"])
def test_chunks_of_a_file_that_changes_raise_an_error(file: Path, change: str) -> None:
    with file.open("rb") as opened:
        transfer = Transfer(opened.fileno(), SIZE)
        chunks = transfer.chunks()
        next(chunks)
        if change == "shrank":
            os.truncate(file, MIB)
        else:
            os.utime(file, ns=(0, 0))
        with pytest.raises(ImageFileError):
            list(chunks)
        assert transfer.sha256 is None
