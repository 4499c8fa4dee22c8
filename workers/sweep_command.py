"""Run one sweep now. Runs as `publisher sweep`.

`python -m workers.sweep_command [--dry-run] [--json]`
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import socket
import sys

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.closed_pipe import quiet_end
from publisher.core.errors import PublisherError
from publisher.core.settings import Settings
from publisher.core.vault import Vault
from publisher.store import Store
from workers.sweeper import Outcome, Sweeper, words


def main() -> int:
    """Run the command and return its exit code.

    The code is 1 if the cloud of an account could not be listed or an orphan could not be deleted, else 0.
    """
    parser = argparse.ArgumentParser(
        prog="publisher sweep", description="Delete orphans: what failed tickets have left in the clouds."
    )
    parser.add_argument("--dry-run", action="store_true", help="report what would be deleted, and delete nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    try:
        settings = Settings.from_environment()
        store = Store.open(settings)
        store.check_schema()
        vault = Vault.from_file(settings.key_file, production=settings.production)
        sweeper = Sweeper(store, vault, settings, worker=f"{socket.gethostname()}-{os.getpid()}")
        findings = []
        for found in sweeper.sweep(dry_run=options.dry_run):
            findings.append(found)
            if not options.json:
                sys.stdout.write(words(found) + "\n")
    except (PublisherError, SQLAlchemyError) as error:
        reason = str(error) if isinstance(error, PublisherError) else f"the database: {type(error).__name__}"
        sys.stderr.write(f"Error: {reason}\n")
        return 1
    if options.json:
        sys.stdout.write(
            json.dumps({"dry_run": options.dry_run, "findings": [dataclasses.asdict(each) for each in findings]}) + "\n"
        )
    elif not findings:
        sys.stdout.write("No orphans found\n")
    failed = [each for each in findings if each.outcome is Outcome.FAILED]
    if unseen := [each for each in failed if each.cloud_id is None]:
        where = "; ".join(f"{each.platform} account {each.account}" for each in unseen)
        sys.stderr.write(f"Error: could not list the images of: {where}\n")
    return int(bool(failed))


if __name__ == "__main__":
    with quiet_end():
        code = main()
    sys.exit(code)
