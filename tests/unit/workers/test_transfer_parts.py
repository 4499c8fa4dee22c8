"""An image is sent in parts: ranges of the file, blocks with data, several at once. Over real sockets, with and without
TLS."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workers.transfer
from publisher.core.errors import Cancelled, ImageFileError, LeaseLost, Stopped, TransientCloudError
from tests.patience import PATIENCE
from tests.servers.silent import silent_server
from tests.servers.uploads import Upload, UploadServer, self_signed, upload_server
from workers.parallel import PartDropped
from workers.progress import DoneRanges
from workers.transfer import Transfer

pytestmark = pytest.mark.long

KIB, MIB = 1 << 10, 1 << 20
SIZE = 8 * MIB + 77
STOP_SECONDS = 2.0
"""Maximum time that all parts need to stop."""
PAGE = 4096
"""The smallest hole that a file system keeps."""

Tls = tuple[ssl.SSLContext | None, ssl.SSLContext | None]


@pytest.fixture(scope="module")
def content() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> Path:
    file = tmp_path_factory.mktemp("image") / "disk"
    file.write_bytes(content)
    return file


@pytest.fixture(scope="module", params=["http", "https"])
def tls(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tls:
    if request.param == "http":
        return None, None
    server, certificate = self_signed(tmp_path_factory.mktemp("tls"))
    return server, ssl.create_default_context(cafile=certificate)


class Sent(list[int]):
    """What `on_sent` got. Each number is larger than the one before."""

    def __call__(self, count: int) -> None:
        assert not self or count > self[-1]
        self.append(count)


@pytest.fixture
def sent() -> Sent:
    return Sent()


@contextmanager
def opened(file: Path, **more: Any) -> Iterator[Transfer]:
    with file.open("rb") as image:
        yield Transfer(image.fileno(), file.stat().st_size, **more)


@pytest.fixture
def transfer(file: Path, sent: Sent) -> Iterator[Transfer]:
    with opened(file, on_sent=sent) as transfer:
        yield transfer


def take_all(upload: Upload) -> None:
    upload.read_body()
    upload.answer()


# Ranges of the file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH"])
@pytest.mark.parametrize(("start", "length"), [(0, None), (0, 1), (MIB + 1, 3 * MIB), (SIZE - 1, 1), (5, None)])
def test_range_of_the_file_is_sent(
    transfer: Transfer,
    sent: Sent,
    content: bytes,
    tls: Tls,
    method: Literal["PUT", "POST", "PATCH"],
    start: int,
    length: int | None,
) -> None:
    end = SIZE if length is None else start + length
    with upload_server(take_all, tls=tls[0]) as server:
        answer = transfer.put(server.url, {}, method=method, start=start, length=length, tls=tls[1])
    (upload,) = server.uploads
    assert answer.status == 201
    assert upload.head.startswith(f"{method} /v2/images/1/file HTTP/1.1\r\n".encode())
    assert upload.body == content[start:end]
    assert sent[-1] == end - start, "positions that are not sent do not count"


@pytest.mark.parametrize("around", [1, 100, 2 * MIB])
def test_bytes_before_and_after_the_file_are_sent(
    transfer: Transfer, sent: Sent, content: bytes, tls: Tls, around: int
) -> None:
    """As the parts of a multipart form, or the footer of a disk."""
    before, after = os.urandom(around), os.urandom(around)
    with upload_server(take_all, tls=tls[0]) as server:
        transfer.put(server.url, {}, start=7, length=MIB, before=before, after=after, tls=tls[1])
    (upload,) = server.uploads
    assert upload.body == before + content[7 : 7 + MIB] + after
    assert upload.headers["content-length"] == str(MIB + 2 * around)
    assert sent[-1] == MIB, "only bytes of the file count"


def test_empty_range_is_a_request_without_content(transfer: Transfer, sent: Sent, tls: Tls) -> None:
    """So a cloud is asked how much of an upload it has."""
    with upload_server(take_all, tls=tls[0]) as server:
        headers = {"Content-Range": f"bytes */{SIZE}"}
        assert transfer.put(server.url, headers, start=SIZE, length=0, tls=tls[1]).status == 201
    assert server.uploads[0].headers["content-length"] == "0"
    assert sent == []


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, SIZE + 1), (SIZE + 1, None), (SIZE, 1), (5, -1)])
def test_range_that_the_file_does_not_have_is_refused(transfer: Transfer, start: int, length: int | None) -> None:
    with upload_server(take_all) as server:
        with pytest.raises(ValueError, match="no range of a file"):
            transfer.put(server.url, {}, start=start, length=length)
        assert server.uploads == []


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_cut_of_the_file_arrives_whole(file: Path, content: bytes, data: st.DataObject) -> None:
    """In any order, and with parts that are sent again."""
    cuts = sorted({0, SIZE, *data.draw(st.lists(st.integers(1, SIZE - 1), max_size=4))})
    parts = list(pairwise(cuts))
    again = data.draw(st.lists(st.sampled_from(parts), max_size=2))
    order = data.draw(st.permutations([*parts, *again]))
    received = bytearray(SIZE)
    sent = Sent()

    def take(upload: Upload) -> None:
        upload.read_body()
        start = int(upload.headers["x-start"])
        received[start : start + len(upload.body)] = upload.body
        upload.answer()

    with upload_server(take) as server, opened(file, on_sent=sent) as transfer:
        for start, end in order:
            transfer.put(server.url, {"X-Start": str(start)}, start=start, length=end - start)
    assert received == content
    assert sent[-1] == SIZE


def test_what_an_earlier_attempt_has_sent_counts(transfer: Transfer, sent: Sent, tls: Tls) -> None:
    with upload_server(take_all, tls=tls[0]) as server:
        transfer.done(0, 3 * MIB)
        assert sent == [3 * MIB]
        transfer.put(server.url, {}, start=3 * MIB, tls=tls[1])
    assert sent[-1] == SIZE


def test_progress_does_not_fall_when_the_image_is_sent_again(transfer: Transfer, sent: Sent, tls: Tls) -> None:
    moved: list[float] = []
    transfer.watch(looked=lambda: None, moved=lambda: moved.append(time.monotonic()))
    with upload_server(take_all, tls=tls[0]) as server:
        transfer.put(server.url, {}, tls=tls[1])
        pieces = len(moved)
        transfer.put(server.url, {}, tls=tls[1])
    assert sent[-1] == SIZE
    assert len(moved) > pieces, "what is sent again is a sign of life, too"


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(-1, 12)), max_size=20))
def test_each_position_counts_once(ranges: list[tuple[int, int]]) -> None:
    done, seen = DoneRanges(), set[int]()
    for start, length in ranges:
        before = len(seen)
        seen |= set(range(start, start + length))
        assert done.add(start, start + length) is (len(seen) > before)
        assert done.total == len(seen)


# Meanwhile ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.transfer, "_MEANWHILE_SECONDS", 0.1)


@pytest.mark.usefixtures("often")
def test_meanwhile_is_called_while_a_part_is_sent_and_awaited(transfer: Transfer, tls: Tls) -> None:
    calls: list[float] = []
    counts: list[int] = []

    def wait_for_two_more(upload: Upload) -> None:
        before = len(calls)
        while len(calls) < before + 2 and not upload.stop.wait(0.01):
            pass
        counts.append(len(calls))

    def dawdle(upload: Upload) -> None:
        upload.read_body(KIB)
        wait_for_two_more(upload)
        upload.read_body()
        wait_for_two_more(upload)
        upload.answer()

    with upload_server(dawdle, tls=tls[0]) as server:
        transfer.put(server.url, {}, meanwhile=lambda: calls.append(time.monotonic()), tls=tls[1])
    assert counts[0] >= 2
    assert counts[1] >= counts[0] + 2


@pytest.mark.usefixtures("often")
def test_what_meanwhile_raises_ends_the_part(transfer: Transfer, tls: Tls) -> None:
    def fail() -> None:
        raise TransientCloudError("the lease of the cloud has expired")

    def wait(upload: Upload) -> None:
        upload.read_body()
        upload.stop.wait(60 * PATIENCE)

    with (
        upload_server(wait, tls=tls[0]) as server,
        pytest.raises(TransientCloudError, match="the lease of the cloud has expired"),
    ):
        transfer.put(server.url, {}, meanwhile=fail, tls=tls[1])


# Several parts at once ------------------------------------------------------------------------------------------------


def in_parts(transfer: Transfer, server: UploadServer, client: ssl.SSLContext | None, *, at_once: int = 4) -> list[int]:
    """Send the file in parts of 1 MiB, and return the statuses of the answers."""

    def send(start: int) -> int:
        length = min(MIB, SIZE - start)
        return transfer.put(server.url, {"X-Start": str(start)}, start=start, length=length, tls=client).status

    return transfer.in_parallel(range(0, SIZE, MIB), send, at_once=at_once)


def test_parts_are_sent_at_once(transfer: Transfer, sent: Sent, content: bytes, tls: Tls) -> None:
    """Each part is answered only after others have arrived."""
    together = threading.Barrier(3)
    received = bytearray(SIZE)

    def take(upload: Upload) -> None:
        upload.read_body()
        together.wait(60 * PATIENCE)
        start = int(upload.headers["x-start"])
        received[start : start + len(upload.body)] = upload.body
        upload.answer(f"HTTP/1.1 {200 + start // MIB} OK\r\nContent-Length: 0\r\n\r\n".encode())

    with upload_server(take, tls=tls[0]) as server:
        statuses = in_parts(transfer, server, tls[1], at_once=3)
    assert statuses == [200 + number for number in range(9)], "in the order of the parts"
    assert received == content
    assert sent[-1] == SIZE


def read_slowly(upload: Upload) -> None:
    while not upload.stop.wait(0.01):
        if not upload.connection.recv(1 << 10):
            return


def read_all_and_wait(upload: Upload) -> None:
    upload.read_body()
    upload.stop.wait(60 * PATIENCE)


@pytest.mark.parametrize("reason", [Cancelled, LeaseLost])
@pytest.mark.parametrize("behaviour", [read_slowly, read_all_and_wait], ids=lambda each: str(each.__name__))
def test_all_parts_stop_soon(file: Path, tls: Tls, behaviour: Callable[[Upload], None], reason: type[Stopped]) -> None:
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise reason

    stopped: list[float] = []

    def cancel() -> None:
        while len(server.uploads) < 4:
            time.sleep(0.01)
        stopped.append(time.monotonic())
        stop.set()

    with upload_server(behaviour, tls=tls[0]) as server, opened(file, check=check) as transfer:
        canceller = threading.Thread(target=cancel)
        canceller.start()
        with pytest.raises(reason):
            in_parts(transfer, server, tls[1])
        assert time.monotonic() - stopped[0] < STOP_SECONDS * PATIENCE
        canceller.join()
    assert len(server.uploads) == 4, "no further part is begun"


@contextmanager
def full_server() -> Iterator[str]:
    """A server whose queue of connections is full: a further one is neither accepted nor refused."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as queued:
        for _ in range(3):
            waiting = queued.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        time.sleep(0.1)
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


@contextmanager
def server_without_handshake() -> Iterator[str]:
    with silent_server() as port:
        yield f"https://127.0.0.1:{port}/"


@pytest.mark.parametrize("reason", [Cancelled, LeaseLost])
@pytest.mark.parametrize("unreachable", [full_server, server_without_handshake], ids=lambda each: str(each.__name__))
def test_parts_that_are_still_connecting_stop_soon(
    file: Path, sent: Sent, unreachable: Callable[[], AbstractContextManager[str]], reason: type[Stopped]
) -> None:
    stop = threading.Event()
    begun: list[int] = []
    stopped: list[float] = []

    def check() -> None:
        if stop.is_set():
            raise reason

    def cancel() -> None:
        while len(begun) < 4:
            time.sleep(0.01)
        time.sleep(0.2)
        stopped.append(time.monotonic())
        stop.set()

    with unreachable() as url, opened(file, check=check, on_sent=sent) as transfer:

        def send(start: int) -> None:
            begun.append(start)
            transfer.put(url, {}, start=start, length=MIB, connect_seconds=60 * PATIENCE)

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with pytest.raises(reason):
            transfer.in_parallel(range(0, 8 * MIB, MIB), send, at_once=4)
        assert time.monotonic() - stopped[0] < STOP_SECONDS * PATIENCE
        canceller.join()
    assert len(begun) == 4, "no further part is begun"
    assert sent == []


def test_one_failed_part_stops_the_others(transfer: Transfer, tls: Tls) -> None:
    def fail_one(upload: Upload) -> None:
        upload.read_body()
        if upload.headers["x-start"] == str(MIB):
            while len(server.uploads) < 4 and not upload.stop.wait(0.01):
                pass
            upload.reset()
        upload.stop.wait(60 * PATIENCE)

    with upload_server(fail_one, tls=tls[0]) as server:
        began = time.monotonic()
        with pytest.raises(TransientCloudError, match="failed: "):
            in_parts(transfer, server, tls[1])
        assert time.monotonic() - began < 20 * PATIENCE
        assert len(server.uploads) == 4
    transfer.check()  # other parts may be sent again


def test_part_that_never_ends_is_told_that_another_failed(transfer: Transfer) -> None:
    dropped: list[BaseException] = []

    def send(number: int) -> None:
        if number:
            raise TransientCloudError("the second part failed")
        try:
            while True:
                transfer.check()
                time.sleep(0.01)
        except PartDropped as error:
            dropped.append(error)
            raise

    with pytest.raises(TransientCloudError, match="the second part failed"):
        transfer.in_parallel([0, 1], send, at_once=2)
    assert len(dropped) == 1


def test_error_of_what_yields_the_parts_is_raised(transfer: Transfer) -> None:
    def parts() -> Iterator[int]:
        yield 1
        raise ImageFileError("unreadable")

    with pytest.raises(ImageFileError, match="unreadable"):
        transfer.in_parallel(parts(), lambda part: part, at_once=3)


def test_no_parts_are_no_results(transfer: Transfer) -> None:
    assert transfer.in_parallel(list[int](), lambda part: part, at_once=3) == []


# Blocks ---------------------------------------------------------------------------------------------------------------


def sparse(path: Path, size: int, extents: list[tuple[int, int]]) -> bytes:
    """Write a file that has data only in these extents (offset and length), and return its content."""
    chance = random.Random(size)  # noqa: S311  # not a secret
    with path.open("wb") as file:
        file.truncate(size)
        for offset, length in extents:
            file.seek(offset)
            file.write(chance.randbytes(max(min(length, size - offset), 0)))
    return path.read_bytes()


def holes_are_kept(directory: Path) -> bool:
    """Return whether the file system keeps holes, as ext4, XFS, Btrfs and tmpfs do."""
    sparse(directory / "probe", 4 * MIB, [(0, 1)])
    with (directory / "probe").open("rb") as file:
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE) < 4 * MIB


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(0, 300 * KIB),
    block=st.sampled_from([512, PAGE, 5000, 64 * KIB, MIB]),
    extents=st.lists(st.tuples(st.integers(0, 300 * KIB), st.integers(1, 40 * KIB)), max_size=5),
    at_once=st.sampled_from([0, 1, 3]),
    hashed=st.booleans(),
)
def test_blocks_and_holes_make_up_the_file(
    tmp_path_factory: pytest.TempPathFactory,
    size: int,
    block: int,
    extents: list[tuple[int, int]],
    at_once: int,
    hashed: bool,
) -> None:
    directory = tmp_path_factory.getbasetemp()
    path = directory / "sparse"
    content = sparse(path, size, extents)
    received, seen, sent = bytearray(size), dict[int, int](), Sent()

    def receive(offset: int, part: memoryview) -> None:
        assert offset not in seen
        seen[offset] = len(part)
        received[offset : offset + len(part)] = part

    with opened(path, on_sent=sent) as transfer:
        if at_once:
            transfer.each_block(block, receive, at_once=at_once, hashed=hashed)
        else:
            for offset, part in transfer.blocks(block, hashed=hashed):
                receive(offset, part)
        assert transfer.sha256 == (hashlib.sha256(content).hexdigest() if hashed else None)
    assert received == content
    assert all(offset % block == 0 and length == min(block, size - offset) for offset, length in seen.items())
    assert sent[-1:] == ([size] if size else [])
    if holes_are_kept(directory):
        near = [range(offset - offset % PAGE, offset + length + PAGE) for offset, length in extents]
        assert all(any(each.start < offset + block and offset < each.stop for each in near) for offset in seen)


def test_blocks_are_not_read_further_ahead_than_they_are_sent(file: Path, content: bytes) -> None:
    """Each thread has one buffer: a block that is being sent is not overwritten."""
    wrong: list[int] = []

    def send(offset: int, part: memoryview) -> None:
        time.sleep(0.002)
        if part != content[offset : offset + len(part)]:
            wrong.append(offset)

    with opened(file) as transfer:
        transfer.each_block(64 * KIB, send, at_once=8)
    assert wrong == []


def test_block_that_is_sent_again_counts_once(transfer: Transfer, sent: Sent) -> None:
    failed: set[int] = set()

    def send_twice(offset: int, part: memoryview) -> None:
        failed.add(offset)
        transfer.done(offset, offset + len(part))

    transfer.each_block(MIB, send_twice, at_once=3)
    for _ in transfer.blocks(MIB):
        pass
    assert sent[-1] == SIZE
    assert len(failed) == 9


@pytest.mark.parametrize("at_once", [0, 4])
def test_blocks_end_when_the_ticket_is_cancelled(file: Path, at_once: int) -> None:
    stop = threading.Event()
    seen: list[int] = []

    def check() -> None:
        if stop.is_set():
            raise Cancelled

    def send(offset: int, part: memoryview) -> None:
        seen.append(offset)
        stop.set()

    def send_all(transfer: Transfer) -> None:
        if at_once:
            transfer.each_block(64 * KIB, send, at_once=at_once)
        else:
            for offset, part in transfer.blocks(64 * KIB):
                send(offset, part)

    with opened(file, check=check) as transfer, pytest.raises(Cancelled):
        send_all(transfer)
    assert len(seen) <= max(at_once, 1)


def test_failed_block_ends_the_others(transfer: Transfer) -> None:
    seen: list[int] = []

    def send(offset: int, part: memoryview) -> None:
        seen.append(offset)
        raise TransientCloudError("block refused")

    with pytest.raises(TransientCloudError, match="block refused"):
        transfer.each_block(64 * KIB, send, at_once=4)
    assert len(seen) <= 4


@pytest.mark.parametrize("change", ["shrank", "was touched"])
def test_blocks_of_a_file_that_changes_raise_an_error(tmp_path: Path, content: bytes, change: str) -> None:
    path = tmp_path / "disk"
    path.write_bytes(content)
    with opened(path) as transfer:
        blocks = transfer.blocks(64 * KIB, hashed=True)
        next(blocks)
        if change == "shrank":
            os.truncate(path, MIB)
        else:
            os.utime(path, ns=(0, 0))
        with pytest.raises(ImageFileError):
            list(blocks)
        assert transfer.sha256 is None


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_file_system_that_knows_no_holes(
    transfer: Transfer, content: bytes, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(descriptor: int, position: int, what: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "lseek", refuse)
    if number == errno.EIO:
        with pytest.raises(ImageFileError, match="cannot be read"):
            list(transfer.blocks(MIB))
    else:
        assert b"".join(bytes(part) for _, part in transfer.blocks(MIB)) == content


# A converted copy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.1, 1, 3])
def test_progress_of_a_converted_copy_is_that_of_the_image(
    transfer: Transfer, sent: Sent, tmp_path: Path, tls: Tls, ratio: float
) -> None:
    copy = os.urandom(int(SIZE * ratio))
    (tmp_path / "copy").write_bytes(copy)
    moved: list[float] = []
    transfer.watch(looked=lambda: None, moved=lambda: moved.append(time.monotonic()))
    with upload_server(take_all, tls=tls[0]) as server, (tmp_path / "copy").open("rb") as opened_copy:
        made = transfer.converted(opened_copy.fileno())
        made.put(server.url, {}, length=len(copy) // 2, tls=tls[1])
        assert sent[-1] <= SIZE // 2
        made.put(server.url, {}, start=len(copy) // 2, tls=tls[1])
    assert b"".join(upload.body for upload in server.uploads) == copy
    assert sent[-1] == SIZE
    assert moved


def test_converted_copy_stops_with_the_image(file: Path, tmp_path: Path) -> None:
    def check() -> None:
        raise Cancelled

    (tmp_path / "copy").write_bytes(b"a copy")
    with opened(file, check=check) as transfer, (tmp_path / "copy").open("rb") as opened_copy:
        chunks = transfer.converted(opened_copy.fileno()).chunks()
        with pytest.raises(Cancelled):
            next(chunks)


def test_program_reads_the_image_by_its_descriptor(transfer: Transfer, content: bytes) -> None:
    assert Path(f"/dev/fd/{transfer.descriptor}").read_bytes() == content


def test_transfer_keeps_its_file_as_long_as_it_is_used(file: Path, content: bytes) -> None:
    """A plugin's call that was abandoned may outlast its attempt."""
    with opened(file) as transfer:
        descriptor = transfer.descriptor
    assert b"".join(bytes(chunk) for chunk in transfer.chunks()) == content
    del transfer
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
