"""Starting a server as a child process, and stopping it."""

import contextlib
import fcntl
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.patience import PATIENCE

_LANES = 16
_given: set[int] = set()
_RESERVED = Path(f"/tmp/image-publisher-test-ports-{os.getuid()}")  # all runs must find it, whatever TMPDIR
"""A file for each port that some run of the tests has used. The run that uses it now holds a lock."""


def free_port() -> int:
    """Return a free port on 127.0.0.1, below the range for outgoing connections, so that it stays free over restarts.

    No other process of the tests on this machine gets the same port while this one lives, also if nothing listens on it
    for a while; and this process gets it only once.
    """
    lane = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _LANES
    for _ in range(200):
        port = random.randrange(20_000 + lane, 32_000, _LANES)  # noqa: S311  # no secret
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            _reserve(port)
            _given.add(port)
            return port
    raise RuntimeError("no port is free")


def _reserve(port: int) -> None:
    """Hold a lock until this process ends. Raises `OSError` if another process holds it."""
    _RESERVED.mkdir(exist_ok=True)
    descriptor = os.open(_RESERVED / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Server:
    """One child process. It has its own session, so that Ctrl-C does not stop it before its tests are done."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        uid: int | None = None,
        start_seconds: float = 60.0,
    ) -> None:
        self._command = [str(part) for part in command]
        self._log = log
        self._ready = ready
        self._environment = dict(os.environ if environment is None else environment)
        self._uid = uid
        self._start_seconds = start_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and return once it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._log.parent,
                start_new_session=True,
                user=self._uid,
                group=self._uid,
                extra_groups=None if self._uid is None else [],
            )
        deadline = time.monotonic() + self._start_seconds * PATIENCE
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(
                    f"{self._command[0]} did not start:\n{self._log.read_text(errors='replace')[-4000:]}"
                )
            time.sleep(0.02)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self, seconds: float) -> None:
        """Wait until it has ended. Kill it if that takes longer than `seconds` times PATIENCE."""
        if self._process is not None:
            try:
                self._process.wait(seconds * PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Kill it and its children at once, like a crash."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
