"""Treats a reader that leaves before everything is printed (`publisher tickets list | head -1`) as normal."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_OUTPUTS = (1, 2)
"""File descriptors of standard output and standard error."""


@contextmanager
def quiet_end() -> Iterator[None]:
    """Exit with 0 and print nothing more if the reader of the output is gone.

    Any other broken connection stays an error.
    """
    try:
        yield
        # Flush now to notice a missing reader before the interpreter exits.
        sys.stdout.flush()
    except BrokenPipeError:
        if not reader_is_gone():
            raise
    except SystemExit as error:
        # Printing libraries exit with 1 in this case.
        if not isinstance(error.__context__, BrokenPipeError):
            raise
    else:
        return
    _discard_output()
    sys.exit(0)


@contextmanager
def no_outcome(*, when: bool = True) -> Iterator[None]:
    """Die as by SIGPIPE if the reader is gone, where exit code 0 would claim more than that all was printed."""
    try:
        yield
    except BrokenPipeError:
        if not when or not reader_is_gone():
            raise
        die()


def die() -> None:
    """Die at once, like a program that does not ignore SIGPIPE."""
    _discard_output()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)


def reader_is_gone() -> bool:
    """Return whether the reader of standard output or of standard error is gone."""
    poll = select.poll()
    for descriptor in _OUTPUTS:
        poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _discard_output() -> None:
    """Discard what is still buffered: otherwise the interpreter would try to write it on exit, and fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in _OUTPUTS:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
