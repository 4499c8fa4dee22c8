"""Work on parts of an image in several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from publisher.core.errors import Stopped
from publisher.telemetry.logs import with_context

Part = TypeVar("Part")
Result = TypeVar("Result")


class PartDropped(Stopped):
    """Another part of the image failed."""


def in_parallel(
    parts: Iterable[Part], work: Callable[[Part], Result], *, at_once: int, failed: threading.Event
) -> list[Result]:
    """Call `work` for each part, in up to `at_once` threads, and return the results in the order of the parts.

    A thread that is free takes the next part, so `parts` is read by one thread at a time, and no further ahead. After
    the first error, no thread takes another part, and `failed` is set, so that work that looks at it can end early. The
    error is raised once all threads have ended.
    """
    source = enumerate(parts)
    taking = threading.Lock()
    results: dict[int, Result] = {}
    errors: list[BaseException] = []

    def run() -> None:
        try:
            while not failed.is_set():
                with taking:
                    taken = next(source, None)
                if taken is None:
                    return
                results[taken[0]] = work(taken[1])
        except BaseException as error:
            errors.append(error)
            failed.set()

    # Threads of a pool would keep the process from ending if one of them is stuck.
    threads = [threading.Thread(target=with_context(run), name="part", daemon=True) for _ in range(at_once)]
    try:
        for thread in threads:
            thread.start()
    except BaseException as error:  # the system has no more threads
        errors.append(error)
        failed.set()
    for thread in threads:
        if thread.ident is not None:
            thread.join()
    failed.clear()
    if errors:
        first = errors[0]
        errors.clear()  # what they hold, such as sockets, is freed with the first one
        try:
            raise first
        finally:
            del first
    return [results[index] for index in sorted(results)]
