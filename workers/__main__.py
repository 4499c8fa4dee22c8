"""Run a worker: `python -m workers`.

Celery's own command would import those of Flower and of an interactive shell, too, which takes 0.1 s. It does no more
than this for a worker with our settings.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from celery.utils.log import mlevel
from celery.utils.nodenames import host_format

from publisher.core.garbage import without_collections


def main(arguments: list[str] | None = None) -> int:
    """Run a worker until it is stopped, and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers", description="Run a worker.")
    parser.add_argument("--name", default="publisher@%h", help="name in Flower; %%h is the host's name")
    parser.add_argument("--loglevel", default="INFO")
    parser.add_argument("--app", default="workers.app", help="module of the Celery app")
    given = parser.parse_args(arguments)
    with without_collections():
        # Gossip and mingling let workers exchange state with each other; ours share the store instead.
        worker = import_module(given.app).app.Worker(
            hostname=host_format(given.name),
            loglevel=mlevel(given.loglevel),
            quiet=True,
            without_gossip=True,
            without_mingle=True,
        )
    worker.start()
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main())
