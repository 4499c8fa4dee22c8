"""Delete orphans: what tickets have created in clouds, no ticket needs, and could not be deleted when they failed.

Objects in doubt stay, and are reported; see docs/operations.md. One elected worker sweeps regularly. As a program, this
module sweeps once, for `publisher sweep`: `python -m workers.sweeper [--dry-run] [--json]`
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.closed_pipe import quiet_end
from publisher.core.errors import PermanentCloudError, PublisherError
from publisher.core.settings import Settings
from publisher.core.ticket import Account, Target
from publisher.core.vault import Vault
from publisher.outbound.policy import OutboundPolicy
from publisher.platforms.platform import platform_of
from publisher.store import Scope, Standing, Store
from workers import metrics
from workers.bounded import BoundedCloud
from workers.clouds import plugin
from workers.clouds.base import Tagged, Tags, Timeouts
from workers.leader_loop import LeaderLoop

logger = logging.getLogger(__name__)

ROLE = "sweeper"
_LOOK_SECONDS = 60.0
"""How often a worker checks whether a sweep is due."""
_CALLS_OF_A_DELETION = 5
"""More calls than a plugin makes for one deletion. The ticket is held for this many call time-outs."""


class Outcome(StrEnum):
    UNKNOWN = "unknown"
    """The object carries our tag, but no record says that we created it. It stays."""
    SEEN = "seen"
    """An orphan that was first found now, or too short a time ago to be deleted."""
    DUE = "due"
    """An orphan that would be deleted. Used only in a dry run."""
    REMOVED = "removed"
    FAILED = "failed"
    """An orphan that could not be deleted; or, without a `cloud_id`, an account whose cloud could not be listed."""


@dataclass(frozen=True, slots=True)
class SweepFinding:
    """What happened to one object, or to one account whose cloud could not be listed."""

    outcome: Outcome
    platform: str
    account: str
    """Login, project and address, for people to read."""
    cloud_id: str | None = None
    ticket_uid: str | None = None
    age_seconds: float | None = None
    error: str | None = None


class Sweeper:
    def __init__(
        self, store: Store, vault: Vault, settings: Settings, *, worker: str, stop: threading.Event | None = None
    ) -> None:
        self._store = store
        self._vault = vault
        self._settings = settings
        self._worker = worker
        self._stop = stop or threading.Event()
        self._policy = OutboundPolicy.of(settings)

    def run(self) -> None:
        """Run a sweep every `sweep_seconds` on one elected worker, until the worker stops."""
        every = self._settings.sweep_seconds
        if every:
            LeaderLoop(
                self._store,
                ROLE,
                holder=self._worker,
                look_seconds=min(every, _LOOK_SECONDS),
                term_seconds=every,
                stop=self._stop,
                renews=False,
            ).run(self._sweep_and_log)

    def _sweep_and_log(self) -> None:
        for each in self.sweep(patient=True):
            _log(each)

    def sweep(self, *, dry_run: bool = False, patient: bool = False) -> Iterator[SweepFinding]:
        """Sweep all accounts and yield each object that needs attention.

        A cloud that fails does not stop the sweep of the others.

        `patient`: skip accounts that have refused the login recently. A sweep that a person starts must not skip them.
        """
        done: set[tuple[str, str]] = set()
        for scope in self._store.sweeping.scopes():
            if self._stop.is_set():
                return
            if patient and self._store.sweeping.left_alone(scope):
                continue
            try:
                account = Account(scope.platform, scope.account, self._vault.open(scope.sealed_secrets))
            except PublisherError as error:
                yield _finding(Outcome.FAILED, scope, error=str(error))
                continue
            for found in self._look_into(account, scope, done, dry_run):
                yield replace(found, error=account.hide_secrets(found.error)) if found.error else found
        if not dry_run:
            self._store.sweeping.forget_old()

    def _look_into(
        self, account: Account, scope: Scope, done: set[tuple[str, str]], dry_run: bool
    ) -> Iterator[SweepFinding]:
        try:
            cloud = self._connect(account, scope)
            try:
                tagged = cloud.tagged(self._store.deployment)
                if not dry_run:
                    self._store.sweeping.admitted(scope)
                for each in tagged:
                    if (each.ticket_uid, each.cloud_id) not in done and not self._stop.is_set():
                        done.add((each.ticket_uid, each.cloud_id))
                        yield from self._look_at(each, cloud, scope, dry_run)
            finally:
                cloud.close()
        except PublisherError as error:
            if isinstance(error, PermanentCloudError) and not dry_run:
                self._store.sweeping.refused(scope, self._settings.sweep_seconds)
            yield _finding(Outcome.FAILED, scope, error=str(error))
        except SQLAlchemyError:
            raise
        except Exception:  # a mistake in one plugin must not keep the others' clouds from being swept
            logger.exception("unexpected, while sweeping")
            yield _finding(Outcome.FAILED, scope, error="an unexpected error; see the log")

    def _look_at(self, tagged: Tagged, cloud: BoundedCloud, scope: Scope, dry_run: bool) -> Iterator[SweepFinding]:
        sweeping, grace = self._store.sweeping, self._settings.sweep_grace_seconds
        key = tagged.ticket_uid, tagged.cloud_id
        match sweeping.standing(*key, grace):
            case Standing.KEPT:
                if not dry_run:
                    sweeping.lose_sight(*key)
            case Standing.UNKNOWN:
                yield _finding(Outcome.UNKNOWN, scope, tagged)
            case Standing.ORPHAN:
                seen_for = sweeping.seen_for(*key)
                due = seen_for is not None and seen_for >= grace
                if dry_run:
                    yield _finding(Outcome.DUE if due else Outcome.SEEN, scope, tagged)
                    return
                sweeping.see(*key)
                if due:
                    yield from self._remove(tagged, cloud, scope)
                else:
                    yield _finding(Outcome.SEEN, scope, tagged)

    def _remove(self, tagged: Tagged, cloud: BoundedCloud, scope: Scope) -> Iterator[SweepFinding]:
        held_seconds = _CALLS_OF_A_DELETION * self._settings.call_timeout_seconds
        grace = self._settings.sweep_grace_seconds
        try:
            with self._store.sweeping.removing(tagged.ticket_uid, tagged.cloud_id, grace, held_seconds) as free:
                if not free:
                    return
                cloud.delete(tagged.cloud_id, Tags(tagged.ticket_uid, self._store.deployment))
        except PublisherError as error:
            yield _finding(Outcome.FAILED, scope, tagged, error=str(error))
        else:
            yield _finding(Outcome.REMOVED, scope, tagged)

    def _connect(self, account: Account, scope: Scope) -> BoundedCloud:
        settings = self._settings
        return BoundedCloud.connect(
            plugin(scope.platform),
            account,
            Target(scope.platform, scope.target),
            Timeouts(settings.connect_timeout_seconds, settings.call_timeout_seconds, settings.verify_seconds),
            self._policy,
        )


def _finding(outcome: Outcome, scope: Scope, tagged: Tagged | None = None, error: str | None = None) -> SweepFinding:
    project = scope.target.get("keystoneProject") or scope.target.get("tenantName")
    names = [platform_of(scope.platform).signs_in_as(scope.account), project, scope.account.get("keystoneUrl")]
    account = " ".join(str(name) for name in names if name)
    if tagged is None:
        return SweepFinding(outcome, scope.platform, account, error=error)
    return SweepFinding(outcome, scope.platform, account, tagged.cloud_id, tagged.ticket_uid, tagged.age_seconds, error)


def _log(found: SweepFinding) -> None:
    metrics.SWEEP_FINDINGS.labels(found.outcome).inc()
    level = logging.WARNING if found.outcome in (Outcome.UNKNOWN, Outcome.FAILED) else logging.INFO
    logger.log(level, "sweeping: %s", words(found))


def words(found: SweepFinding) -> str:
    """Describe a finding in one line, for people to read."""
    where = f"{found.platform} account {found.account}"
    if found.cloud_id is None:
        return f"{where} cannot be listed: {found.error}"
    what = f"{found.cloud_id} of ticket {found.ticket_uid}, in {where}"
    match found.outcome:
        case Outcome.UNKNOWN:
            return f"{what}: has our tag, but there is no record of it; kept"
        case Outcome.SEEN:
            return f"{what}: an orphan; will be removed if a later sweep finds it again"
        case Outcome.DUE:
            return f"{what}: an orphan; would be removed"
        case Outcome.REMOVED:
            return f"{what}: removed"
        case Outcome.FAILED:
            return f"{what}: cannot be removed: {found.error}"


# The program ------------------------------------------------------------------------------------------


def main() -> int:
    """Sweep once, report it, and return its exit code.

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
            json.dumps({"dry_run": options.dry_run, "findings": [asdict(each) for each in findings]}) + "\n"
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
