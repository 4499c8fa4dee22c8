"""A worker that is killed when it reaches a step: `python -m tests.contract.killed_worker TICKET STEP`.

It works in an installation that the environment describes, whose cloud is `memory_cloud.parts`.
"""

from __future__ import annotations

import os
import signal
import sys
from unittest.mock import patch

import workers.cloud_work
from memory_cloud.parts import PartsPublisher
from publisher.core.settings import Settings
from publisher.core.vault import Vault
from publisher.store import Store
from workers.runner import Runner


def main() -> None:
    ticket, step = int(sys.argv[1]), sys.argv[2]

    def reached(self: PartsPublisher, name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = Settings.from_environment()
    runner = Runner(Store.open(settings), Vault.from_file(settings.key_file), settings, worker="killed")
    with (
        patch.object(PartsPublisher, "reached", reached),
        patch.object(workers.cloud_work, "plugin", lambda platform: PartsPublisher),
    ):
        runner.run(ticket)


if __name__ == "__main__":
    main()
