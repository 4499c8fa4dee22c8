"""Have a worker check a publish request before there is a ticket, and wait for what it finds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from publisher.cli.command import Installation
from publisher.core.cloud_check import CHECK_SECONDS_MAX, CheckResult
from publisher.core.errors import NotChecked

if TYPE_CHECKING:
    from publisher.services.publishing import PublishRequest

_PAUSE_SECONDS = 0.1


def require_preflight(installation: Installation, request: PublishRequest) -> None:
    """Return if the cloud would accept the image, as far as it can tell.

    Raises `PreflightFailed` if it would not, `NotChecked` if no worker or no cloud has answered, and what `publish`
    raises. Nothing is left of a check that was not made.
    """
    from publisher.core.asking import alone
    from publisher.services import checks

    store = installation.store
    check_id = alone(checks.begin_preflight(store, installation.vault, lambda: request, policy=installation.policy))
    if check_id is None:  # the request has a ticket already
        return
    try:
        result = _result(installation, check_id)
    except BaseException:
        store.checks.abandon(check_id)
        raise
    checks.require_passed(result)


def _result(installation: Installation, check_id: int) -> CheckResult:
    if not installation.wake_for_check(check_id):
        raise NotChecked("no worker can be asked to check it: the message broker cannot be reached")
    end = time.monotonic() + CHECK_SECONDS_MAX
    while time.monotonic() < end:
        if found := installation.store.checks.results([check_id]).get(check_id):
            return found
        time.sleep(_PAUSE_SECONDS)
    raise NotChecked(
        f"no worker has answered within {CHECK_SECONDS_MAX:.0f} s: none runs, or all are busy; see: publisher fleet"
    )
