"""A real client downloads from a real intake and resumes. The intake needs little memory, even for slow readers."""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from publisher.core.download_keys import image_key
from publisher.core.image import Image
from publisher.core.settings import Settings
from publisher.core.vault import Vault
from publisher.services.image_files import register
from publisher.store import Store
from tests.conftest import open_store
from tests.installation import eventually
from tests.patience import PATIENCE
from tests.servers import missing
from tests.servers.process import Server, free_port, listens

pytestmark = pytest.mark.real

SIZE = 64 << 20
MEMORY_MAX = 16 << 20
LOGIN = "root:pass-w0rd"


@dataclass
class Intake:
    store: Store
    settings: Settings
    process: psutil.Process
    image: Image
    file: Path

    @property
    def path(self) -> str:
        return f"/api/users/root/appliances/4/images/{self.image.id}/downloads"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.intake_port}{self.path}"

    def opened(self) -> int:
        """Return how many times the server has the file open."""
        location = str(self.settings.images / self.image.location)
        return sum(each.path == location for each in self.process.open_files())

    def key(self) -> str:
        image = self.store.images.get(self.image.id)
        assert image is not None
        return image_key(Vault.from_file(self.settings.key_file), image)


@pytest.fixture
def intake(sqlite_url: str, tmp_path: Path) -> Iterator[Intake]:
    settings = Settings(data_dir=tmp_path, intake_port=free_port())
    store = open_store(sqlite_url)
    store.users.add("root", LOGIN.partition(":")[2], administrator=True)
    file = tmp_path / "disk.raw"
    file.write_bytes(random.Random(7).randbytes(SIZE))  # noqa: S311  # no secret
    image = register(store, settings.images, file, owner="root", appliance_id=4, format="raw")
    server = Server(
        [
            *(sys.executable, "-m", "publisher.intake.server"),
            *("--port", str(settings.intake_port)),
        ],
        tmp_path / "intake.log",
        ready=lambda: listens(settings.intake_port),
        environment=os.environ | settings.environment(),
    )
    server.start()
    assert server.pid
    yield Intake(store, settings, psutil.Process(server.pid), image, file)
    server.signal(signal.SIGINT)
    server.wait(10 * PATIENCE)
    store.close()


def curl(*arguments: str | Path) -> None:
    found = shutil.which("curl") or missing("curl")
    command = [found, "--silent", "--show-error", "--fail", "--max-time", "60", *map(str, arguments)]
    subprocess.run(command, check=True, timeout=70 * PATIENCE)


def is_same(one: Path, other: Path) -> bool:
    with one.open("rb") as first, other.open("rb") as second:
        return hashlib.file_digest(first, "sha256").digest() == hashlib.file_digest(second, "sha256").digest()


def test_download_is_resumed_and_needs_little_memory(intake: Intake, tmp_path: Path) -> None:
    got = tmp_path / "got"
    curl("--user", LOGIN, "--range", "0-1000", "--output", got, intake.url)
    before = intake.process.memory_info().rss
    curl("--user", LOGIN, "--range", f"1001-{SIZE // 2}", "--output", tmp_path / "part", intake.url)
    with got.open("ab") as file:
        file.write((tmp_path / "part").read_bytes())
    curl("--user", LOGIN, "--continue-at", "-", "--output", got, intake.url)
    assert is_same(got, intake.file)
    curl("--output", got, f"{intake.url}/disk.raw?downloadId={intake.key()}")
    assert is_same(got, intake.file)
    assert intake.process.memory_info().rss - before < MEMORY_MAX
    log = (tmp_path / "intake.log").read_text()
    assert "downloadId=... " in log
    assert "Traceback" not in log


def test_many_slow_readers_delay_no_other_request(intake: Intake) -> None:
    """They hold no database connection, of which there are fewer, and their files are closed when they have gone."""
    connections = [
        http.client.HTTPConnection("127.0.0.1", intake.settings.intake_port, timeout=20 * PATIENCE) for _ in range(40)
    ]
    before = None
    readers = []
    for connection in connections:
        # Each request has a download key, for which no password is hashed.
        connection.request("GET", f"{intake.path}?downloadId={intake.key()}")
        response = connection.getresponse()
        assert response.status == 200
        assert len(response.read(1000)) == 1000
        readers.append(response)
        before = before or intake.process.memory_info().rss
    assert intake.opened() == len(connections)
    assert intake.process.memory_info().rss - (before or 0) < 2 * MEMORY_MAX
    probe = http.client.HTTPConnection("127.0.0.1", intake.settings.intake_port, timeout=20 * PATIENCE)
    probe.request("GET", "/api/status")
    assert probe.getresponse().read()
    probe.close()
    assert len(readers[0].read()) == SIZE - 1000
    for connection, response in zip(connections, readers, strict=True):
        response.close()
        connection.close()
    eventually(lambda: intake.opened() == 0, 20)
