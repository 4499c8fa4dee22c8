"""One server process group: uWSGI with Keystone's or Glance's application, started, awaited and stopped."""

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

from publisher.devcloud.config import HOST
from publisher.devcloud.devcloud_error import DevCloudError
from publisher.devcloud.environment import process_environment

_APPLICATION = Path(__file__).parent / "inside" / "application.py"
_POLL_SECONDS = 0.05

_UWSGI_OPTIONS = (
    *("--master", "--die-on-term", "--no-orphans", "--lazy-apps", "--need-app", "--enable-threads"),
    *("--thunder-lock", "--buffer-size", "65535", "--disable-logging"),
    # uWSGI closes after each answer but says HTTP/1.1: a client with a pool of connections would now and then
    # send its next request into a closed one.
    *("--add-header", "Connection: close"),
    # Each worker leaves a line once it takes requests.
    *("--hook-accepting", "appendn:uwsgi.ready a worker is ready"),
)

# Long silences in either direction; HTTP chunks beyond the default limit of 1 MiB; and at SIGTERM the
# requests in progress come to their end, uploads among them.
_GLANCE_OPTIONS = (
    *("--socket-timeout", "120", "--chunked-input-timeout", "120", "--chunked-input-limit", str(64 << 20)),
    *("--hook-master-start", "unix_signal:15 gracefully_kill_them_all"),
)


def free_port(host: str = HOST) -> int:
    """A TCP port of that address of ours that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class PortTakenError(DevCloudError):
    """Another process has the port; at the cloud's creation, the answer is to take another port."""


@dataclass(frozen=True)
class Server:
    """A uWSGI whose home, working directory and log are in one directory that no other server uses.

    Its process id stands in a file there, so that another process can stop it. It is signalled only after a
    look at /proc has shown that it works in that directory: a recycled id is never hit.
    """

    name: str
    home: Path
    venv: Path
    host: str
    """The address, or name of this machine, that it listens on and is found at."""
    port: int
    application: str
    health: str
    """The path to ask for; the server is up when that gives 200."""
    processes: int = 1
    threads: int = 4
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    # The children of this process: somebody has to reap them, whichever object it is that stops them.
    _children: ClassVar[dict[int, subprocess.Popen[bytes]]] = {}

    @property
    def url(self) -> str:
        """The server's root, without a slash at the end."""
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> Path:
        """What uWSGI and the application's start print."""
        return self.home / "uwsgi.log"

    def start(self) -> None:
        """Start it in a session of its own, unless it runs; returns at once, see `wait`.

        Raises PortTakenError when another process has the port and keeps it for some seconds.
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
        """Wait until all its workers are ready and it answers.

        Before that, a SIGTERM would miss the workers that still load the application.
        Raises DevCloudError as soon as the server has died, or after `limit_seconds`.
        """

        def healthy() -> bool:
            if not self.running():
                raise DevCloudError(f"{self.name} stopped while it started: read {self.log}")
            return self._ready_workers() >= self.processes and self._healthy()

        if not _poll(healthy, limit_seconds):
            raise DevCloudError(f"{self.name} did not answer within {limit_seconds:.0f} s: read {self.log}")

    def stop(self, limit_seconds: float = 30) -> None:
        """End it with SIGTERM, which lets Glance finish its uploads; after `limit_seconds` with SIGKILL."""
        session = self._session()
        if not self._members(session):
            return
        if self._works_here(session):
            os.kill(session, signal.SIGTERM)
            _poll(lambda: not self._members(session), limit_seconds)
        self.kill()

    def kill(self) -> None:
        """End all its processes with SIGKILL, as a crash of the machine would.

        Raises DevCloudError when one of them is still there after ten seconds.
        """
        session = self._session()
        if self._members(session):
            # While a process of the session lives, the kernel gives its number to nobody else.
            os.killpg(session, signal.SIGKILL)
        if not _poll(lambda: not self._members(session), 10):
            raise DevCloudError(f"{self.name} (session {session}) cannot be killed: see ps -s {session}")
        self._pid_file.unlink(missing_ok=True)

    def running(self) -> bool:
        """Tell whether its main process lives; it may still be starting."""
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
        """The id of the main process, which is that of its session and process group too; 0 for none."""
        try:
            return int(self._pid_file.read_text())
        except (OSError, ValueError):
            return 0

    def _members(self, session: int) -> list[int]:
        """The live processes of the session that are ours."""
        self._reap(session)
        if session == 0:
            return []
        found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in found if _session_of(pid) == session and self._works_here(pid)]

    def _works_here(self, pid: int) -> bool:
        try:
            return pid > 0 and Path(f"/proc/{pid}/cwd").readlink() == self.home
        except OSError:  # gone, a zombie, or of another user
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
        # As uWSGI does it: what lingers of connections that ended is no hindrance, a listener is.
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
    """Keystone, with its configuration in `home`."""
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
    """Glance, with its configuration in `home`; `python_path` holds further modules that this may name."""
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
        options=_GLANCE_OPTIONS,
        environment={"OS_GLANCE_CONFIG_DIR": str(home), **extra},
    )


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _poll(condition: Callable[[], bool], limit_seconds: float) -> bool:
    """Ask until it is so; False when it is not after `limit_seconds`."""
    deadline = time.monotonic() + limit_seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
