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
from publisher.core.settings import Settings
from publisher.intake import server
from publisher.store.new_tickets import NewTickets
from publisher.web.threads import asking_to_write

DIES = "DYING_INTAKE"
"""The environment variable. Its value is one of the following."""
BEFORE_COMMIT, AFTER_COMMIT = "before the commit", "after the commit"

TOGETHER = 3
"""Number of tickets in the transaction that it dies in. Another ticket is created before them."""
HOLDING = "holding"
"""A file in the data directory. Exists when the first request has come, which goes on when `TOGETHER` others wait."""


def create_app() -> real.Intake:
    bases, write, create_all = NewTickets.bases, NewTickets._write, NewTickets.create_all
    holding = Settings.from_environment().data_dir / HOLDING

    def die(group: Sequence[Any], when: str) -> None:
        if len(group) == TOGETHER and os.environ[DIES] == when:
            os.kill(os.getpid(), signal.SIGKILL)

    def hold_the_first(new_tickets: NewTickets, group: Sequence[Any]) -> Any:
        if not holding.exists():
            holding.touch()
            while len(asking_to_write) < TOGETHER:
                time.sleep(0.001)
        return bases(new_tickets, group)

    def write_and_die(new_tickets: NewTickets, connection: Any, group: Sequence[Any], *others: Any) -> Any:
        verdicts = write(new_tickets, connection, group, *others)
        die(group, BEFORE_COMMIT)
        return verdicts

    def create_and_die(new_tickets: NewTickets, group: Sequence[Any]) -> Any:
        verdicts = create_all(new_tickets, group)
        die(group, AFTER_COMMIT)
        return verdicts

    NewTickets.bases = hold_the_first  # type: ignore[method-assign, assignment]
    NewTickets._write = write_and_die  # type: ignore[method-assign, assignment]
    NewTickets.create_all = create_and_die  # type: ignore[method-assign, assignment]
    return real.create_app()


if __name__ == "__main__":
    apps = {"publisher.app:create_app": "tests.servers.dying_intake:create_app"}
    main([*(apps.get(each, each) for each in server.OPTIONS), *sys.argv[1:]])
