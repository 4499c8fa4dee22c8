"""A reader that goes away before all is printed (`publisher tickets list | head -1`) is no failure."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_OUTPUTS = (1, 2)
"""The descriptors of the standard output and the standard error."""


@contextmanager
def quiet_end() -> Iterator[None]:
    """End the process with 0, and print nothing more, where the reader of its output is gone.

    Any other broken connection is an error as before.
    """
    try:
        yield
        # Now, for a reader that is gone to be noticed before the interpreter ends.
        sys.stdout.flush()
    except BrokenPipeError:
        if not reader_is_gone():
            raise
    except SystemExit as error:
        # Libraries that print end the process with 1 then.
        if not isinstance(error.__context__, BrokenPipeError):
            raise
    else:
        return
    _discard_output()
    sys.exit(0)


@contextmanager
def no_outcome(*, when: bool = True) -> Iterator[None]:
    """Where an exit code of 0 would say more than that all was printed: end as by SIGPIPE instead."""
    try:
        yield
    except BrokenPipeError:
        if not when or not reader_is_gone():
            raise
        die()


def die() -> None:
    """End at once, as a program does that was never told to ignore SIGPIPE."""
    _discard_output()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)


def reader_is_gone() -> bool:
    """Whether nobody reads the standard output, or the standard error, any more."""
    poll = select.poll()
    for descriptor in _OUTPUTS:
        poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _discard_output() -> None:
    """Else what is still in the buffers would be written, and fail, as the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in _OUTPUTS:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
