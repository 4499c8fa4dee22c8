"""A worker that takes one ticket, and is killed when it reaches a step.

It runs in a process that `multiprocessing` forks from one that has imported everything, so that a kill costs little.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

from publisher.core.settings import Settings
from publisher.core.vault import Vault
from publisher.store import Store
from tests.patience import PATIENCE
from workers.runner import Runner

Step = tuple[type[Any], str, str]
"""A class, one of its methods, and whether the worker dies `before` or `after` it."""


def die_at(settings: Settings, ticket: int, step: Step) -> bool:
    """Let a worker take a ticket. Return whether it was killed at the step."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_work, args=(settings.environment(), ticket, step))
    process.start()
    process.join(60 * PATIENCE)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def _work(environment: Mapping[str, str], ticket: int, step: Step) -> None:
    os.environ.update(environment)
    settings = Settings.from_environment()
    owner, method, when = step
    original: Callable[..., Any] = getattr(owner, method)

    def dying(*given: Any, **named: Any) -> Any:
        if when == "after":
            original(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, method, dying)
    Runner(Store.open(settings), Vault.from_file(settings.key_file), settings, worker="w").run(ticket)
