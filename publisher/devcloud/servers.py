"""A server's process group: uWSGI with the application of Keystone or Glance. Can be started, awaited and stopped."""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from publisher.devcloud.config import HOST, DevCloudError, process_environment

_APPLICATION = Path(__file__).parent / "inside" / "application.py"
_POLL_SECONDS = 0.05

_UWSGI_OPTIONS = (
    *("--master", "--die-on-term", "--no-orphans", "--lazy-apps", "--need-app", "--enable-threads"),
    *("--thunder-lock", "--buffer-size", "65535", "--disable-logging"),
    # uWSGI closes the connection after each response but says HTTP/1.1: a client with a connection pool would now and
    # then send its next request into a closed connection.
    *("--add-header", "Connection: close"),
    # Each worker process writes a line when it accepts requests.
    *("--hook-accepting", "appendn:uwsgi.ready a worker is ready"),
)

# Allow long silences in both directions and HTTP chunks above the default limit of 1 MiB. On SIGTERM, finish the
# requests in progress, including uploads.
_GLANCE_OPTIONS = (
    *("--socket-timeout", "120", "--chunked-input-timeout", "120", "--chunked-input-limit", str(64 << 20)),
    *("--hook-master-start", "unix_signal:15 gracefully_kill_them_all"),
)


def free_port(host: str = HOST) -> int:
    """Return a TCP port of this local address that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class PortTakenError(DevCloudError):
    """Another process has the port. While a cloud is created, the remedy is another port."""


@dataclass(frozen=True)
class Server:
    """A uWSGI server whose home, working directory and log are in a directory that no other server uses.

    A file there contains its process id, so that another process can stop it. Before a signal is sent, /proc must show
    that the process works in that directory: so a recycled process id is never hit.
    """

    name: str
    home: Path
    venv: Path
    host: str
    """The address, or this machine's name, that it listens on and is reached at."""
    port: int
    application: str
    health: str
    """The path to request. The server is up when the response is 200."""
    processes: int = 1
    threads: int = 4
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    # The children of this process: they must be reaped, whichever object stops them.
    _children: ClassVar[dict[int, subprocess.Popen[bytes]]] = {}

    @property
    def url(self) -> str:
        """The server's root URL, without a trailing slash."""
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> Path:
        """The output of uWSGI and of the application's start."""
        return self.home / "uwsgi.log"

    def start(self) -> None:
        """Start the server in its own session if it is not running. Returns at once; see `wait`.

        Raises PortTakenError if another process has the port and keeps it for some seconds.
        """
        if self.running():
            return
        self._await_port()
        self._ready_file.unlink(missing_ok=True)
        command = [str(self.venv / "bin" / "uwsgi"), "--http-socket", f"{self.host}:{self.port}"]
        command += ["--processes", str(self.processes), "--threads", str(self.threads)]
        command += ["--virtualenv", str(self.venv), "--wsgi-file", str(_APPLICATION)]
        command += [*_UWSGI_OPTIONS, *self.options]
        variables = process_environment(self.venv) | {"DEVCLOUD_APPLICATION": self.application}
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env=variables | dict(self.environment),
                start_new_session=True,
            )
        self._children[process.pid] = process
        self._pid_file.write_text(f"{process.pid}\n")

    def wait(self, limit_seconds: float = 60) -> None:
        """Wait until all its worker processes are ready and it answers.

        Before that, a SIGTERM would miss the worker processes that still load the application. Raises DevCloudError as
        soon as the server has died, or after `limit_seconds`.
        """

        def healthy() -> bool:
            if not self.running():
                raise DevCloudError(f"{self.name} stopped while it started: read {self.log}")
            return self._ready_workers() >= self.processes and self._healthy()

        if not _poll(healthy, limit_seconds):
            raise DevCloudError(f"{self.name} did not answer within {limit_seconds:.0f} s: read {self.log}")

    def stop(self, limit_seconds: float = 30) -> None:
        """Stop the server with SIGTERM, which lets Glance finish its uploads; after `limit_seconds` with SIGKILL."""
        session = self._session()
        if not self._members(session):
            return
        if self._works_here(session):
            os.kill(session, signal.SIGTERM)
            _poll(lambda: not self._members(session), limit_seconds)
        self.kill()

    def kill(self) -> None:
        """Kill all its processes with SIGKILL, as a crash of the machine would.

        Raises DevCloudError if one of them still exists after ten seconds.
        """
        session = self._session()
        if self._members(session):
            # While a process of the session lives, the kernel does not reuse the session's number.
            os.killpg(session, signal.SIGKILL)
        if not _poll(lambda: not self._members(session), 10):
            raise DevCloudError(f"{self.name} (session {session}) cannot be killed: see ps -s {session}")
        self._pid_file.unlink(missing_ok=True)

    def running(self) -> bool:
        """Return whether its main process lives. It may still be starting."""
        session = self._session()
        self._reap(session)
        return self._works_here(session)

    @property
    def _pid_file(self) -> Path:
        return self.home / "uwsgi.pid"

    @property
    def _ready_file(self) -> Path:
        return self.home / "uwsgi.ready"

    def _ready_workers(self) -> int:
        try:
            return len(self._ready_file.read_text().splitlines())
        except OSError:
            return 0

    def _session(self) -> int:
        """Return the id of the main process, which is also that of its session and process group, or 0."""
        try:
            return int(self._pid_file.read_text())
        except (OSError, ValueError):
            return 0

    def _members(self, session: int) -> list[int]:
        """Return the live processes of the session that are ours."""
        self._reap(session)
        if session == 0:
            return []
        found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in found if _session_of(pid) == session and self._works_here(pid)]

    def _works_here(self, pid: int) -> bool:
        try:
            return pid > 0 and Path(f"/proc/{pid}/cwd").readlink() == self.home
        except OSError:  # gone, a zombie, or another user's process
            return False

    def _reap(self, pid: int) -> None:
        child = self._children.get(pid)
        if child is not None and child.poll() is not None:
            del self._children[pid]

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=5)
        try:
            connection.request("GET", self.health)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _await_port(self) -> None:
        # Like uWSGI: remains of closed connections do not block the port, a listener does.
        def free() -> bool:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.host, self.port))
                except OSError:
                    return False
                return True

        if not _poll(free, 5):
            raise PortTakenError(
                f"port {self.port}, which is {self.name}'s, is taken by another process: stop that one "
                f"(ss -ltnp), or remove {self.home.parent} and start afresh"
            )


def keystone_server(home: Path, venv: Path, port: int, *, host: str = HOST) -> Server:
    """Return Keystone's server, with its configuration in `home`."""
    return Server(
        name="Keystone",
        home=home,
        venv=venv,
        host=host,
        port=port,
        application="keystone.wsgi.api",
        health="/v3",
        environment={"OS_KEYSTONE_CONFIG_FILES": str(home / "keystone.conf")},
    )


def glance_server(home: Path, venv: Path, port: int, *, host: str = HOST, python_path: Path | None = None) -> Server:
    """Return Glance's server, with its configuration in `home`. `python_path` has modules that this may name."""
    extra = {"PYTHONPATH": str(python_path)} if python_path else {}
    return Server(
        name="Glance",
        home=home,
        venv=venv,
        host=host,
        port=port,
        application="glance.wsgi.api",
        health="/healthcheck",
        processes=2,
        # An upload holds a thread until it ends.
        threads=16,
        options=_GLANCE_OPTIONS,
        environment={"OS_GLANCE_CONFIG_DIR": str(home), **extra},
    )


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _poll(condition: Callable[[], bool], limit_seconds: float) -> bool:
    """Wait until the condition holds. False if it does not within `limit_seconds`."""
    deadline = time.monotonic() + limit_seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
