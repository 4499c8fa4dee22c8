"""Running several programs as one: started in order, watched, and stopped in the opposite order.

Nothing is left running: not after Ctrl-C, not when a program dies, and (on Linux) not when the supervisor itself is
killed.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from publisher.core.errors import PublisherError

STOP_SECONDS_MAX = 9.0
"""All programs together; whichever still runs is killed then."""
_POLL_SECONDS = 0.1
_TAIL_LINES = 15
_LOG_BYTES_MAX = 10 << 20
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_LEASHED = """\
import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, 9, 0, 0, 0):
    sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Becomes the program of its arguments, after it has asked the kernel (PR_SET_PDEATHSIG, prctl(2)) to be killed when
its parent dies. A program of its own: to run code between fork and exec is not safe in a process with threads."""


class ProgramFailed(PublisherError):
    """A program did not start, or stopped by itself."""


class StopAsked(Exception):  # not an error
    """A signal asks for everything to be stopped."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. `ready` tells whether it answers by now; it must return within about a second."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], bool]
    ready_seconds: float = 60.0
    stop_seconds: float = 2.0
    """How long it may take to stop by itself, once asked to."""


class Supervisor:
    """Use as a context, from the main thread: whatever was started in it is stopped at its end.

    A first SIGINT, SIGTERM or SIGHUP ends the block quietly at the next call in it; a second one kills what still
    runs. `say` gets each line that a program prints, with the program's name.
    """

    def __init__(self, logs: Path, say: Callable[[str, str], None]) -> None:
        self._logs = logs
        self._say = say
        self._running: list[_Process] = []
        # Of all queues this is the one that a signal handler may put into.
        self._events: queue.SimpleQueue[_Process | None] = queue.SimpleQueue()
        self._signals = 0
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for each in _STOP_SIGNALS:
            # nohup(1) has it ignored, and means it.
            if each is not signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN:
                self._handlers[each] = signal.signal(each, self._asked_to_stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            self.stop()
        finally:
            for each, handler in self._handlers.items():
                signal.signal(each, handler)  # type: ignore[arg-type]  # it is what signal.signal gave
        return isinstance(error, StopAsked)

    def start(self, *programs: Program) -> None:
        """Start programs side by side, and wait until each of them answers. They stop last one first.

        Raises `ProgramFailed` where one ends or does not answer in time, and `StopAsked`.
        """
        started = []
        for program in programs:
            self.check()
            started.append(_Process(program, self._logs, self._say, self._events.put))
            self._running.append(started[-1])
        for process in started:
            self._wait_until_ready(process)

    def check(self) -> None:
        """Raises `ProgramFailed` where a program has ended, and `StopAsked`."""
        self._look(timeout_seconds=0)

    def wait(self) -> None:
        """Until a signal asks to stop: this raises `StopAsked`, or `ProgramFailed` before."""
        while True:
            self._look(timeout_seconds=None)

    def stop(self) -> None:
        """Stop all programs, the last one first; those that do not in their time are killed."""
        until = time.monotonic() + STOP_SECONDS_MAX
        while self._running:
            process = self._running[-1]
            process.terminate()
            own_time = time.monotonic() + process.program.stop_seconds
            while not process.ended.wait(_POLL_SECONDS):
                if time.monotonic() > min(until, own_time) or self._signals > 1:
                    process.kill()
            self._running.pop().close()

    def _wait_until_ready(self, process: _Process) -> None:
        until = time.monotonic() + process.program.ready_seconds
        while not process.program.ready():
            self._look(timeout_seconds=_POLL_SECONDS)
            if time.monotonic() > until:
                raise ProgramFailed(
                    f"{process.program.name} did not answer within {process.program.ready_seconds:g} s"
                    f"{process.last_words()}"
                )
        self.check()

    def _look(self, *, timeout_seconds: float | None) -> None:
        if self._signals:
            raise StopAsked
        try:
            event = self._events.get(timeout=timeout_seconds) if timeout_seconds != 0 else self._events.get_nowait()
        except queue.Empty:
            return
        if event is None:
            raise StopAsked
        raise ProgramFailed(f"{event.program.name} stopped unexpectedly ({event.how_it_ended()}){event.last_words()}")

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self._events.put(None)


class _Process:
    """A program that runs, in a session of its own, so that the terminal's Ctrl-C reaches the supervisor alone."""

    def __init__(
        self,
        program: Program,
        logs: Path,
        say: Callable[[str, str], None],
        on_end: Callable[[_Process], None],
    ) -> None:
        self.program = program
        self.ended = threading.Event()
        self._say = say
        self._on_end = on_end
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._log_path = _log_file(logs, program.name)
        self._popen = subprocess.Popen(
            _leashed(program.command),
            env=dict(program.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=self._copy_output, name=f"{program.name}-output", daemon=True),
            threading.Thread(target=self._wait, name=f"{program.name}-wait", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def terminate(self) -> None:
        if not self.ended.is_set():
            self._popen.terminate()

    def kill(self) -> None:
        """With all the processes that it started itself."""
        if not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)

    def close(self) -> None:
        """Once it has ended: see its last lines out."""
        for thread in self._threads:
            thread.join(timeout=1)

    def how_it_ended(self) -> str:
        code = self._popen.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def last_words(self) -> str:
        self._threads[0].join(timeout=1 if self.ended.is_set() else 0)
        lines = "".join(f"\n  {line}" for line in self._tail)
        return f"; its last lines:{lines}\nThe whole log: {self._log_path}"

    def _wait(self) -> None:
        self._popen.wait()
        self.ended.set()
        self._on_end(self)

    def _copy_output(self) -> None:
        assert self._popen.stdout is not None  # noqa: S101  # asked for with PIPE
        with self._popen.stdout as output, self._log_path.open("ab", buffering=0) as log:
            for raw in output:
                # A full disk or a closed terminal must not block the program on its output.
                with contextlib.suppress(OSError):
                    log.write(raw)
                line = raw.decode(errors="replace").rstrip()
                self._tail.append(line)
                with contextlib.suppress(OSError, ValueError):
                    self._say(self.program.name, line)


def _leashed(command: Sequence[str]) -> list[str]:
    if not sys.platform.startswith("linux"):
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _LEASHED, str(os.getpid()), *command]


def _log_file(logs: Path, name: str) -> Path:
    logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = logs / f"{name}.log"
    if path.exists() and path.stat().st_size > _LOG_BYTES_MAX:
        path.replace(path.with_suffix(".log.1"))
    path.touch(mode=0o600)
    return path
