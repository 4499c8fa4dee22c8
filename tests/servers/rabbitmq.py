"""A real RabbitMQ from Debian's package, with its own node name, epmd and cookie."""

import base64
import hashlib
import json
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.servers import missing
from tests.servers.process import Server, free_port, listens


class RabbitServer:
    """One virtual host of a running RabbitMQ. Others have their own exchanges and queues."""

    def __init__(self, port: int, virtual_host: str = "/") -> None:
        self.port = port
        self.virtual_host = virtual_host
        # RabbitMQ accepts the user guest only from the loopback address.
        self.url = f"amqp://guest:guest@127.0.0.1:{port}/{virtual_host}"


class OwnRabbit(RabbitServer):
    """A RabbitMQ of this process, which can also stop and kill it. Its data survive both. A start takes several
    seconds."""

    def __init__(
        self,
        binary: Path,
        epmd: Path,
        directory: Path,
        *,
        consumer_timeout_seconds: float | None = None,
        virtual_hosts: int = 0,
    ) -> None:
        """`consumer_timeout_seconds` limits the time for an acknowledgement; RabbitMQ then checks it every second.

        `virtual_hosts` is the number of virtual hosts besides "/". Their names are "0", "1", ….
        """
        super().__init__(free_port())
        epmd_port, dist_port = free_port(), free_port()
        plugins = directory / "enabled_plugins"
        plugins.write_text("[].\n")
        cookie = directory / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))
        } | {
            "HOME": str(directory),
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(dist_port),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none.conf"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            # Two schedulers, and no busy waiting: the tests share the machine.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        }
        # An alarm would block publishers, and the disk of a build machine may be nearly full.
        configuration = "disk_free_limit.absolute = 1MB\nvm_memory_high_watermark.relative = 0.8\n"
        if virtual_hosts:
            definitions = directory / "definitions.json"
            definitions.write_text(json.dumps(_definitions(["/", *map(str, range(virtual_hosts))])))
            configuration += f"load_definitions = {definitions}\n"
        (directory / "rabbitmq.conf").write_text(configuration)
        if consumer_timeout_seconds is not None:
            impatient = f" -rabbit consumer_timeout {consumer_timeout_seconds * 1000:.0f} channel_tick_interval 1000"
            self._environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += impatient
        # Started as our own child, because the node would leave a daemon behind.
        self._epmd = Server(
            [epmd, "-port", str(epmd_port), "-address", "127.0.0.1"],
            directory / "epmd.log",
            ready=lambda: listens(epmd_port),
            environment=self._environment,
        )
        self._server = Server(
            [binary], directory / "rabbitmq.log", ready=self._answers, environment=self._environment, start_seconds=120
        )

    def start(self) -> None:
        if self._epmd.pid is None:
            self._epmd.start()
        self._server.start()

    def stop(self) -> None:
        self._server.signal(signal.SIGTERM)
        self._server.wait(60)

    def kill(self) -> None:
        """Kill the node, like a crash."""
        if self._server.pid is not None:
            # Kill the node, not the script that started it: the script then ends, too, but not the other way round.
            for child in psutil.Process(self._server.pid).children():
                child.kill()
            self._server.wait(30)

    def close(self) -> None:
        self.kill()
        self._epmd.kill()

    def _answers(self) -> bool:
        return listens(self.port)


def _definitions(virtual_hosts: list[str]) -> dict[str, Any]:
    """Return what RabbitMQ must load at its start instead of its default user and virtual host."""
    salt = secrets.token_bytes(4)
    password_hash = base64.b64encode(salt + hashlib.sha256(salt + b"guest").digest()).decode()
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    return {
        "users": [
            {
                "name": "guest",
                "password_hash": password_hash,
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "administrator",
            }
        ],
        "vhosts": [{"name": name} for name in virtual_hosts],
        "permissions": [{"user": "guest", "vhost": name, **everything} for name in virtual_hosts],
    }


def find_rabbitmq() -> tuple[Path, Path] | None:
    """Return the server's own script and epmd. (The script on Debian's PATH insists on root or its own user.)"""
    scripts = [
        Path("/usr/lib/rabbitmq/bin/rabbitmq-server"),
        *map(Path, filter(None, [shutil.which("rabbitmq-server")])),
    ]
    script = next((each for each in scripts if os.access(each, os.X_OK)), None)
    epmds = [shutil.which("epmd"), *map(str, Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))]
    epmd = next((Path(each) for each in epmds if each), None)
    return (script, epmd) if script and epmd else None


@contextmanager
def rabbitmq_server(*, virtual_hosts: int = 0, consumer_timeout_seconds: float | None = None) -> Iterator[OwnRabbit]:
    binary, epmd = find_rabbitmq() or missing("rabbitmq-server")
    with tempfile.TemporaryDirectory(prefix="rabbitmq-", ignore_cleanup_errors=True) as directory:
        server = OwnRabbit(
            binary,
            epmd,
            Path(directory),
            consumer_timeout_seconds=consumer_timeout_seconds,
            virtual_hosts=virtual_hosts,
        )
        try:
            server.start()
            yield server
        finally:
            server.close()
