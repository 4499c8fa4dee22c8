"""The service's intake, but it kills itself while it creates several tickets together.

Run it in place of `publisher.intake.server`, with the same options. The environment says when it dies.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from uvicorn.main import main

from publisher import app as real
from publisher.intake import server
from publisher.store.new_tickets import NewTickets

DIES = "DYING_INTAKE"
"""The environment variable. Its value is one of the following."""
BEFORE_COMMIT, AFTER_COMMIT = "before the commit", "after the commit"

TOGETHER = 3
"""Number of tickets in the transaction that it dies in. Another ticket is created before them."""


def create_app() -> real.Intake:
    write, commit = NewTickets._write, NewTickets._commit

    def die(group: Sequence[Any], when: str) -> None:
        if len(group) == TOGETHER and os.environ[DIES] == when:
            os.kill(os.getpid(), signal.SIGKILL)

    def write_and_die(new_tickets: NewTickets, connection: Any, group: Sequence[Any]) -> Any:
        while len(group) == 1 and len(new_tickets._batches) < TOGETHER:
            time.sleep(0.001)
        verdicts = write(new_tickets, connection, group)
        die(group, BEFORE_COMMIT)
        return verdicts

    def commit_and_die(new_tickets: NewTickets, group: Sequence[Any]) -> Any:
        verdicts = commit(new_tickets, group)
        die(group, AFTER_COMMIT)
        return verdicts

    NewTickets._write = write_and_die  # type: ignore[method-assign, assignment]
    NewTickets._commit = commit_and_die  # type: ignore[method-assign, assignment]
    return real.create_app()


if __name__ == "__main__":
    apps = {"publisher.app:create_app": "tests.servers.dying_intake:create_app"}
    main([*(apps.get(each, each) for each in server.OPTIONS), *sys.argv[1:]])
