"""Run several programs as one: start them in order, watch them, and stop them in the opposite order.

A program that dies later is restarted; one that dies repeatedly ends everything. Nothing is left running: not after
Ctrl-C, not when a program is given up, and (on Linux) not when the supervisor itself is killed.
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
"""Time for all programs together to stop. Those that still run are killed then."""
DEATHS_MAX = 5
"""After this many deaths without a run of `STEADY_SECONDS` in between, a program is given up."""
STEADY_SECONDS = 60.0
_AGAIN_SECONDS = 0.5
"""Delay before the first restart of a program. It doubles with each death."""
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
"""Python code that becomes the program of its arguments, after it has asked the kernel to be killed when its parent
dies (PR_SET_PDEATHSIG, prctl(2)).

It is a program of its own because running code between fork and exec is not safe in a process with threads.
"""


class ProgramFailed(PublisherError):
    """A program did not start, or stopped by itself again and again."""


class StopAsked(Exception):  # not an error
    """Raised when a signal asks to stop everything."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program to run. `ready` returns whether it answers by now; it must return within about a second."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], bool]
    ready_seconds: float = 60.0
    stop_seconds: float = 2.0
    """How long it may take to stop by itself after SIGTERM."""


class Supervisor:
    """A context that stops, at its end, every program that was started in it. Use it from the main thread.

    A first SIGINT, SIGTERM or SIGHUP ends the block quietly at the next call in it; a second one kills what still runs.
    `say` gets each line that a program prints, with the program's name. `warn` gets the supervisor's own messages: that
    a program died and is restarted, and that it answers again.
    """

    def __init__(
        self, logs: Path, say: Callable[[str, str], None], warn: Callable[[str], None] = lambda _: None
    ) -> None:
        self._logs = logs
        self._say = say
        self._warn = warn
        self._running: list[_Process] = []
        self._deaths: dict[str, int] = {}
        """Number of deaths of each program since its last long run."""
        self._again: dict[_Process, float] = {}
        """Programs that have died, and when each is restarted."""
        self._answering: dict[_Process, float] = {}
        """Programs that were restarted, and until when each must answer."""
        # The only kind of queue that a signal handler may put into.
        self._events: queue.SimpleQueue[_Process | None] = queue.SimpleQueue()
        self._signals = 0
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for each in _STOP_SIGNALS:
            # nohup(1) has set it to be ignored, and that must stay so.
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
        """Start programs side by side, and wait until each of them answers. They stop in the opposite order.

        Raises `ProgramFailed` if one ends or does not answer in time, and `StopAsked`.
        """
        started = []
        for program in programs:
            self.check()
            started.append(self._begin(program))
            self._running.append(started[-1])
        for process in started:
            self._wait_until_ready(process)

    def check(self) -> None:
        """Raise `ProgramFailed` if a program has ended, or `StopAsked`."""
        if ended := self._look(timeout_seconds=0):
            raise ProgramFailed(f"{ended.told_end()}{ended.last_words()}")

    def wait(self) -> None:
        """Wait until a signal asks to stop, and restart programs that die.

        Raises `StopAsked`, or `ProgramFailed` for a program that dies repeatedly.
        """
        while True:
            busy = self._again or self._answering
            if ended := self._look(timeout_seconds=_POLL_SECONDS if busy else None):
                self._died(ended)
            now = time.monotonic()
            for each in [each for each, due in self._again.items() if now >= due]:
                self._start_again(each)
            for each, until in list(self._answering.items()):
                self._await_answer(each, until)

    def stop(self) -> None:
        """Stop all programs, the last one first. Those that exceed their time are killed."""
        until = time.monotonic() + STOP_SECONDS_MAX
        while self._running:
            process = self._running[-1]
            process.terminate()
            own_time = time.monotonic() + process.program.stop_seconds
            while not process.ended.wait(_POLL_SECONDS):
                if time.monotonic() > min(until, own_time) or self._signals > 1:
                    process.kill()
            self._running.pop().close()

    def _begin(self, program: Program) -> _Process:
        return _Process(program, self._logs, self._say, self._events.put)

    def _died(self, process: _Process) -> None:
        """Schedule a restart. Raises `ProgramFailed` if the program has died too often."""
        name = process.program.name
        self._answering.pop(process, None)
        steady = process.ran_seconds >= STEADY_SECONDS
        deaths = self._deaths[name] = 1 if steady else self._deaths.get(name, 0) + 1
        if deaths >= DEATHS_MAX:
            raise ProgramFailed(f"{process.told_end()}, for the {deaths}th time in a row{process.last_words()}")
        delay = _AGAIN_SECONDS * 2 ** (deaths - 1)
        self._warn(f"{process.told_end()}; restarting it in {delay:g} s")
        self._again[process] = time.monotonic() + delay

    def _start_again(self, dead: _Process) -> None:
        del self._again[dead]
        dead.close()
        process = self._begin(dead.program)
        # It keeps its place, and so its turn when all are stopped.
        self._running[self._running.index(dead)] = process
        self._answering[process] = time.monotonic() + dead.program.ready_seconds

    def _await_answer(self, process: _Process, until: float) -> None:
        if process.ended.is_set():
            return
        if process.program.ready():
            del self._answering[process]
            self._warn(f"{process.program.name} answers again")
        elif time.monotonic() > until:
            del self._answering[process]
            self._warn(f"{process.program.name} does not answer, and was killed")
            process.kill()

    def _wait_until_ready(self, process: _Process) -> None:
        until = time.monotonic() + process.program.ready_seconds
        while not process.program.ready():
            if ended := self._look(timeout_seconds=_POLL_SECONDS):
                raise ProgramFailed(f"{ended.told_end()}{ended.last_words()}")
            if time.monotonic() > until:
                raise ProgramFailed(
                    f"{process.program.name} did not answer within {process.program.ready_seconds:g} s"
                    f"{process.last_words()}"
                )
        self.check()

    def _look(self, *, timeout_seconds: float | None) -> _Process | None:
        """Return a program that has ended; None if none has within the time-out. Raises `StopAsked`."""
        if self._signals:
            raise StopAsked
        try:
            event = self._events.get(timeout=timeout_seconds) if timeout_seconds != 0 else self._events.get_nowait()
        except queue.Empty:
            return None
        if event is None:
            raise StopAsked
        return event

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self._events.put(None)


class _Process:
    """A program that runs in a session of its own, so that the terminal's Ctrl-C reaches only the supervisor."""

    def __init__(
        self,
        program: Program,
        logs: Path,
        say: Callable[[str, str], None],
        on_end: Callable[[_Process], None],
    ) -> None:
        self.program = program
        self.ended = threading.Event()
        self.ran_seconds = 0.0
        """How long it ran, once it has ended."""
        self._began = time.monotonic()
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
        """Kill the program and all processes that it has started."""
        if not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)

    def close(self) -> None:
        """Wait for its last lines, after it has ended."""
        for thread in self._threads:
            thread.join(timeout=1)

    def told_end(self) -> str:
        code = self._popen.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{self.program.name} stopped unexpectedly ({how})"

    def last_words(self) -> str:
        self._threads[0].join(timeout=1 if self.ended.is_set() else 0)
        lines = "".join(f"\n  {line}" for line in self._tail)
        return f"; its last lines:{lines}\nThe whole log: {self._log_path}"

    def _wait(self) -> None:
        self._popen.wait()
        self.ran_seconds = time.monotonic() - self._began
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
