"""Run a program and end every process that it started.

Servers that tests start have their own sessions, and some start further processes: a signal to `make`, or to its
process group, does not reach them. As a subreaper (prctl(2)), this process inherits each of them that loses its parent,
so none escapes. Subreapers exist only on Linux; on other systems, processes that lost their parent are not found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

import psutil

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36
_POLL_SECONDS = 0.05


class Stopped(BaseException):  # not an Exception, so that no handler of errors catches it
    """A signal asked this process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True)
class Outcome:
    code: int
    """The program's exit code; negative: the signal that ended it."""
    left: list[str] = field(default_factory=list)
    """Processes that outlived the program and had to be ended."""


def take_charge() -> None:
    """Let this process inherit orphans, raise `Stopped` on a stop signal, and get SIGTERM when `make` ends."""
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        for option, value in ((_SET_CHILD_SUBREAPER, 1), (_SET_PDEATHSIG, signal.SIGTERM)):
            if prctl(option, value, 0, 0, 0):
                raise OSError(ctypes.get_errno(), f"prctl({option})")
    for number in STOP_SIGNALS:
        signal.signal(number, _stop)


def run(
    command: Sequence[str], environment: Mapping[str, str], *, grace_seconds: float, stop_seconds: float
) -> Outcome:
    """Run a program and wait until it and every process that it started have ended.

    The processes that it started have `grace_seconds` to end by themselves, then `stop_seconds` after SIGTERM. Raises
    `Stopped` if a signal asks this process to stop; in this case, too, no process is left.
    """
    try:
        process = subprocess.Popen(command, env=environment)
        code = _wait(process)
        left = _remaining(grace_seconds)
        names = [_name(each) for each in left]
        if left:
            end_all(stop_seconds)
    except Stopped:
        end_all(stop_seconds)
        raise
    return Outcome(code, names)


def end_all(seconds: float) -> None:
    """Ask every descendant to end, and kill those that are left after so many seconds."""
    asked: set[psutil.Process] = set()
    until = time.monotonic() + seconds
    while found := _descendants():
        late = time.monotonic() > until
        for each in found:
            if late or each not in asked:
                asked.add(each)
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(_POLL_SECONDS)


def _stop(number: int, _: FrameType | None) -> None:
    # Ignore further signals: `make` passes on a signal that the whole process group has already received.
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait as `Popen.wait` does, and reap the orphans that end meanwhile."""
    while (code := process.poll()) is None:
        _bury(but=process.pid)
        time.sleep(_POLL_SECONDS)
    return code


def _remaining(seconds: float) -> list[psutil.Process]:
    """Return the descendants left after so many seconds, or none as soon as all have ended."""
    until = time.monotonic() + seconds
    while (found := _descendants()) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    return found


def _descendants() -> list[psutil.Process]:
    _bury()
    return [each for each in psutil.Process().children(recursive=True) if _runs(each)]


def _bury(but: int | None = None) -> None:
    """Reap the children that have ended, which would otherwise stay in the process table."""
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid == but:
                return
            os.waitpid(ended.si_pid, 0)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def _name(process: psutil.Process) -> str:
    try:
        command = " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        command = "?"
    return f"{command[:120]} (process {process.pid})"
