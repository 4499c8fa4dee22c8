"""A real proxy for CONNECT: tinyproxy, from Debian's package."""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers import missing
from tests.servers.process import Server, free_port


class TinyProxy:
    """Connects to whatever it is asked for, from any address. `login` and `password` are then required."""

    def __init__(
        self,
        binary: Path,
        directory: Path,
        *,
        host: str = "127.0.0.1",
        login: str = "",
        password: str = "",
        ports: Sequence[int] = (),
    ) -> None:
        self.port = free_port()
        self.host = host
        self.where = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.url = f"http://{self.where}"
        self._log = directory / "tinyproxy.log"
        lines = [f"Port {self.port}", f"Listen {host}", "Timeout 900", "MaxClients 100", "LogLevel Connect"]
        lines += [f"ConnectPort {port}" for port in ports]
        lines += [f"BasicAuth {login} {password}"] if login else []
        configuration = directory / "tinyproxy.conf"
        configuration.write_text("\n".join(lines) + "\n")
        self._server = Server([binary, "-d", "-c", configuration], self._log, ready=self._answers)

    def start(self) -> None:
        self._server.start()

    def kill(self) -> None:
        self._server.kill()

    @property
    def asked_for(self) -> list[str]:
        """What it was asked to connect to, in the order of the requests: `host:port`."""
        return re.findall(r"CONNECT ([^ ]+) HTTP/1\.1", self._log.read_text())

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
            return True
        return False


@contextmanager
def tinyproxy(
    *, host: str = "127.0.0.1", login: str = "", password: str = "", ports: Sequence[int] = ()
) -> Iterator[TinyProxy]:
    """Run a proxy. If `ports` are given, it connects to these only and answers 403 to all others."""
    found = shutil.which("tinyproxy")
    binary = Path(found) if found else missing("tinyproxy")
    with tempfile.TemporaryDirectory(prefix="tinyproxy-") as directory:
        server = TinyProxy(binary, Path(directory), host=host, login=login, password=password, ports=ports)
        try:
            server.start()
            yield server
        finally:
            server.kill()
