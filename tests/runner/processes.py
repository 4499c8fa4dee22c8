"""A program and everything that it starts, until nothing of it is left.

Servers that tests start have sessions of their own, and some start further processes: a signal to `make`, or to its
process group, does not reach them. As a subreaper (prctl(2)) this process inherits each of them that loses its parent,
so none escapes. Only Linux has that; elsewhere a process whose parent is gone is not found.
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


class Stopped(BaseException):  # not an error, and nothing that runs may take it for one
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True)
class Outcome:
    code: int
    """Of the program; negative: the signal that ended it."""
    left: list[str] = field(default_factory=list)
    """What was still there after its end, and had to be ended."""


def take_charge() -> None:
    """From now on this process inherits orphans, a signal to stop raises `Stopped`, and the end of `make` is one."""
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
    """Until the program has ended, and all that it started.

    What it started has `grace_seconds` to end by itself, and `stop_seconds` once it is asked to. Raises `Stopped` when
    a signal asks for the end; then, too, nothing is left.
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
    """Ask every descendant to end; kill those that have not after so many seconds."""
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
    # One is enough: `make` passes on what the whole process group has got already.
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """As `Popen.wait`, and takes leave of the orphans that end meanwhile."""
    while (code := process.poll()) is None:
        _bury(but=process.pid)
        time.sleep(_POLL_SECONDS)
    return code


def _remaining(seconds: float) -> list[psutil.Process]:
    """The descendants that there are yet after so many seconds; none as soon as there are none."""
    until = time.monotonic() + seconds
    while (found := _descendants()) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    return found


def _descendants() -> list[psutil.Process]:
    _bury()
    return [each for each in psutil.Process().children(recursive=True) if _runs(each)]


def _bury(but: int | None = None) -> None:
    """Take leave of the children that have ended: they would stay in the table of processes."""
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
