"""If a process is killed while it writes an image, the next start of the intake deletes the files, nothing else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest

from tests.servers.redis import RedisServer
from tests.stack import PASSWORD, Stack, until

pytestmark = pytest.mark.real

IMAGES = "users/root/appliances/4/images"


def files(root: Path) -> list[Path]:
    return [each for each in root.rglob("*") if each.name != ".incoming"]


def caller(stack: Stack) -> socket.socket:
    return socket.create_connection(("127.0.0.1", stack.settings.intake_port), 30)


def test_files_of_a_killed_upload_are_deleted_when_the_intake_starts(tmp_path: Path, redis: RedisServer) -> None:
    (tmp_path / "images").mkdir()
    kept = tmp_path / "images" / "mine.img"
    kept.write_bytes(b"an operator's own")
    login = b64encode(f"root:{PASSWORD}".encode()).decode()
    with Stack.in_directory(tmp_path, redis.url, workers=0) as stack, caller(stack) as connection:
        connection.sendall(
            f"POST /api/{IMAGES}?name=cut HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\n"
            "Content-Type: application/octet-stream\r\nContent-Length: 3000000\r\n\r\n".encode()
            + b"x" * 200_000
        )
        until(lambda: any(each.is_file() and each.stat().st_size for each in files(kept.parent) if each != kept), 600)
        assert stack._intake is not None
        os.killpg(stack._intake.pid, signal.SIGKILL)
        stack._intake.wait(30)
    assert files(kept.parent) != [kept]

    # The same for the command line. The image is so large that the command is still writing it.
    with (tmp_path / "large.img").open("wb") as large:
        large.write(b"x" * 100_000)
        large.truncate(200 << 30)
    adding = subprocess.Popen(
        [sys.executable, "-m", "publisher.cli.main", "images", "add", str(tmp_path / "large.img"), "--appliance", "4",
         "--format", "raw"],
        env=os.environ | stack.settings.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until(
            lambda: list(kept.parent.glob("*/large.img")) or adding.poll() is not None,
            600,
            lambda: str(adding.stderr and adding.stderr.read()),
        )
        # The command stays alive, but leaves the processor to others.
        adding.send_signal(signal.SIGSTOP)
        with Stack.in_directory(tmp_path, redis.url, workers=0):
            left = files(kept.parent)
            assert [each.name for each in left if each.is_file() and each.suffix == ".img"] != ["mine.img"]
            assert len(left) == 4, "what the command still writes, its mark and its directory, and the operator's own"
    finally:
        adding.kill()
        adding.communicate(timeout=60)
    with Stack.in_directory(tmp_path, redis.url, workers=0) as stack:
        assert files(kept.parent) == [kept]
        assert stack.call("GET", IMAGES).status in (200, 404)
    assert kept.read_bytes() == b"an operator's own"
