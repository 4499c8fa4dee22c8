"""Check what a caller waits for: whether a publication would succeed, or whether an account can sign in.

A check creates nothing in a cloud. It is never repeated: whoever waits for it can ask again.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.cloud_check import CHECK_SECONDS_MAX, CheckKind, CheckResult
from publisher.core.errors import (
    CloudError,
    ImageFileError,
    InvalidRequest,
    PublisherError,
    Reason,
    Stopped,
    TransientCloudError,
)
from publisher.core.image import Image, open_under
from publisher.core.settings import Settings
from publisher.core.ticket import Account, Target
from publisher.core.vault import Vault
from publisher.outbound.policy import OutboundPolicy
from publisher.platforms.platform import platform_of
from publisher.store import ClaimedCheck, NewCheck, Store
from publisher.telemetry.logs import bound
from workers.bounded import BoundedCloud
from workers.clouds import plugin
from workers.clouds.base import Timeouts

logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 3.0
"""How long before its caller gives up a check ends, so that the caller gets its result."""


class CheckOverdue(Stopped):
    """The cloud did not answer in the time of a check."""

    reason = Reason.CONNECTION


class Checker:
    """Runs checks. May be called from several threads, one check each."""

    def __init__(self, store: Store, vault: Vault, settings: Settings, *, worker: str) -> None:
        self._store = store
        self._vault = vault
        self._settings = settings
        self._worker = worker
        self._policy = OutboundPolicy.of(settings)

    def run(self, check_id: int) -> CheckResult | None:
        """Claim a check, try it out and record its result. Never raises for what goes wrong with it.

        Returns None if nobody waits for the check, or if the store did not answer.
        """
        with bound(check=check_id, worker=self._worker):
            try:
                claimed = self._store.checks.claim(check_id)
                if claimed is None:
                    return None
                result = self._result(claimed)
                self._store.checks.finish(claimed, result)
            except SQLAlchemyError as error:
                logger.warning("check %d: the store did not answer: %s", check_id, type(error).__name__)
                return None
            logger.info("check %d: %s", check_id, "works" if result.ok else result.words)
            return result

    def _result(self, claimed: ClaimedCheck) -> CheckResult:
        check = claimed.check
        account = Account(check.platform, check.account, {})
        try:
            account = Account(check.platform, check.account, self._vault.open(check.sealed_secrets))
            target = Target(check.platform, check.target)
            seconds = CHECK_SECONDS_MAX - _ANSWER_SECONDS - claimed.age_seconds
            tries = self._preflight if check.kind is CheckKind.PREFLIGHT else self._account_test
            return tries(check, account, target, _until(time.monotonic() + seconds))
        except SQLAlchemyError:
            raise
        except CheckOverdue as error:
            words = f"{_where(check)} did not answer in time"
            return CheckResult(False, words, reason=error.reason, transient=True)
        except PublisherError as error:
            return CheckResult(
                False,
                account.hide_secrets(str(error)),
                element=error.field if isinstance(error, InvalidRequest) else None,
                reason=error.reason,
                transient=isinstance(error, TransientCloudError),
            )
        except Exception:
            logger.exception("check %d: unexpected", claimed.id)
            words = "an unexpected error in the publisher; see its log"
            return CheckResult(False, words, reason=Reason.INTERNAL)

    def _preflight(self, check: NewCheck, account: Account, target: Target, look: Callable[[], None]) -> CheckResult:
        """Check what an attempt would check before its first byte, and what it would find out by creating the image."""
        image = self._image(check)
        again = True
        while again:
            cloud = BoundedCloud.connect(
                plugin(check.platform), account, target, self._timeouts, self._policy, check=look, look=look
            )
            again = False
            try:
                cloud.check(image)
                cloud.check_creation(image)
            except CloudError:
                # The sign-in of an earlier ticket may be of no use any more.
                again = cloud.kept and not cloud.left
                if not again:
                    raise
            finally:
                cloud.close()
        return CheckResult(True, f"{_where(check)} would accept the image")

    def _account_test(self, check: NewCheck, account: Account, target: Target, look: Callable[[], None]) -> CheckResult:
        explored = BoundedCloud.explore(
            plugin(check.platform), account, target, self._timeouts, self._policy, check=look
        )
        who = platform_of(check.platform).signs_in_as(check.account)
        return CheckResult(True, f"signed in to {_where(check)}{f' as {who}' if who else ''}", explored=explored)

    def _image(self, check: NewCheck) -> Image:
        """Return the image of a preflight, whose file is there. Raises `ImageFileError`."""
        image = self._store.images.get(check.image_id or 0)
        if image is None or not image.ready:
            raise ImageFileError(f"image {check.image_id} is not ready any more")
        os.close(open_under(self._settings.images, image.location))
        return image

    @property
    def _timeouts(self) -> Timeouts:
        settings = self._settings
        return Timeouts(settings.connect_timeout_seconds, settings.call_timeout_seconds, settings.verify_seconds)


def _until(end: float) -> Callable[[], None]:
    """Return a function that raises `CheckOverdue` from that moment of the monotonic clock on."""

    def look() -> None:
        if time.monotonic() >= end:
            raise CheckOverdue

    return look


def _where(check: NewCheck) -> str:
    """Return the address of the account's cloud, or else the platform's name."""
    platform = platform_of(check.platform)
    return str(next(iter(platform.account_addresses(check.account).values()), platform.label))
