"""A cloud plugin whose calls all have a time limit, by the monotonic clock.

A call that gives no sign of life is abandoned, because a library below it may sleep for hours or a mistake may keep it
in a loop. So it blocks neither its ticket nor the worker's thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from publisher.core.cloud_check import Explored
from publisher.core.errors import LeaseLost, Reason, Stopped, TransientCloudError
from publisher.core.image import Image
from publisher.core.ticket import Account, Target
from publisher.outbound.policy import OutboundPolicy
from workers.abandonable import aside
from workers.clouds.base import CloudImage, CloudPublisher, Tagged, Tags, TicketRef, Timeouts
from workers.transfer import Transfer

logger = logging.getLogger(__name__)

_STOP_SECONDS = 1.0
"""How long a call whose lease is lost may take to notice it by itself."""
Result = TypeVar("Result")


class CallStuck(TransientCloudError):
    """A call of a plugin neither ended in its time nor said that it continues."""

    reason = Reason.INTERNAL


class Pulse:
    """When the plugin last gave a sign of life, and when it last moved a byte. Seconds of the monotonic clock."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self.heard = self.moved = time.monotonic()

    def beat(self) -> None:
        self.heard = time.monotonic()

    def move(self) -> None:
        self.moved = time.monotonic()

    def check(self) -> None:
        """Record a sign of life. The plugin calls this before each request and while it waits."""
        self.beat()
        self._check()

    @contextmanager
    def checking(self, check: Callable[[], None] | None) -> Iterator[None]:
        """Within the context, let `check` decide whether the plugin must stop. None: what decides otherwise."""
        usual = self._check
        self._check = check or usual
        try:
            yield
        finally:
            self._check = usual


class BoundedCloud:
    """A plugin with the same methods as `CloudPublisher`, but with time limits.

    Each method also raises `CallStuck`, after which this object cannot be used any more. `look` is called several times
    a second while the plugin works; each method raises what it raises.
    """

    def __init__(
        self,
        cloud: CloudPublisher,
        timeouts: Timeouts,
        pulse: Pulse,
        look: Callable[[], None],
        policy: OutboundPolicy,
    ) -> None:
        self._cloud = cloud
        self._timeouts = timeouts
        self._pulse = pulse
        self._look = look
        self._policy = policy
        self.left = False
        """Whether a call was abandoned. It may still use the connections."""

    @classmethod
    def connect(
        cls,
        plugin: type[CloudPublisher],
        account: Account,
        target: Target,
        timeouts: Timeouts,
        policy: OutboundPolicy,
        *,
        check: Callable[[], None] = lambda: None,
        look: Callable[[], None] = lambda: None,
    ) -> BoundedCloud:
        """Connect as `CloudPublisher.connect` does.

        What `check` raises ends the wait immediately, even during a request: it can take long to find out that an
        address leads nowhere. The account's proxy is used for all connections, if it names one.
        """
        pulse = Pulse(check)
        policy = policy.for_account(account)
        cloud = _within(
            "connect",
            lambda: plugin.connect(account, target, timeouts, policy, pulse.check),
            pulse,
            timeouts,
            timeouts.silent_seconds,
            look=check,
            discard=CloudPublisher.close,
        )
        return cls(cloud, timeouts, pulse, look, policy)

    @staticmethod
    def explore(
        plugin: type[CloudPublisher],
        account: Account,
        target: Target,
        timeouts: Timeouts,
        policy: OutboundPolicy,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> Explored:
        """Return what `CloudPublisher.explore` returns. What `check` raises ends the wait, as for `connect`."""
        pulse = Pulse(check)
        policy = policy.for_account(account)
        return _within(
            "explore",
            lambda: plugin.explore(account, target, timeouts, policy, pulse.check),
            pulse,
            timeouts,
            timeouts.silent_seconds,
            look=check,
        )

    @property
    def region(self) -> str | None:
        return self._cloud.region

    @property
    def kept(self) -> bool:
        """Whether it uses the sign-in of an earlier ticket."""
        return self._cloud.kept

    def check(self, image: Image) -> None:
        self._call("check", lambda: self._cloud.check(image))

    def check_creation(self, image: Image) -> None:
        self._call("check_creation", lambda: self._cloud.check_creation(image))

    def find(self, ticket: TicketRef) -> CloudImage | None:
        return self._call("find", lambda: self._cloud.find(ticket))

    def upload(self, image: Image, ticket: TicketRef, transfer: Transfer) -> CloudImage:
        transfer.through(self._policy)
        transfer.watch(looked=self._pulse.beat, moved=self._pulse.move)
        return self._call("upload", lambda: self._cloud.upload(image, ticket, transfer), verifies=True)

    def finish(self, uploaded: CloudImage, image: Image) -> CloudImage:
        return self._call("finish", lambda: self._cloud.finish(uploaded, image), verifies=True)

    def delete(self, cloud_id: str, tags: Tags, check: Callable[[], None] | None = None) -> None:
        """Delete an object. `check` replaces the one that `connect` got, for a clean-up that continues after a stop."""
        with self._pulse.checking(check):
            self._call("delete", lambda: self._cloud.delete(cloud_id, tags))

    def release(self, cloud_id: str, tags: Tags, check: Callable[[], None] | None = None) -> None:
        """Lift the protection of an object; `check` as for `delete`."""
        with self._pulse.checking(check):
            self._call("release", lambda: self._cloud.release(cloud_id, tags))

    def in_use(self, cloud_id: str) -> str | None:
        return self._call("in_use", lambda: self._cloud.in_use(cloud_id))

    def hide(self, cloud_id: str, tags: Tags) -> None:
        self._call("hide", lambda: self._cloud.hide(cloud_id, tags))

    def rename(self, cloud_id: str, tags: Tags, name: str) -> None:
        self._call("rename", lambda: self._cloud.rename(cloud_id, tags, name))

    def tagged(self, deployment: str) -> Sequence[Tagged]:
        return self._call("tagged", lambda: self._cloud.tagged(deployment))

    def tagged_by(self, tags: Tags) -> Sequence[Tagged]:
        return self._call("tagged_by", lambda: self._cloud.tagged_by(tags))

    def close(self, check: Callable[[], None] | None = None) -> None:
        """Close the connections; `check` as for `delete`. Never raises: the work is done by then."""
        if self.left:  # the abandoned call closes the connections it still uses
            return
        try:
            with self._pulse.checking(check):
                _within("close", self._cloud.close, self._pulse, self._timeouts, self._timeouts.silent_seconds)
        except Exception:
            logger.exception("unexpected, while the connections to a cloud were closed")

    def _call(self, name: str, call: Callable[[], Result], *, verifies: bool = False) -> Result:
        def work() -> Result:
            try:
                result = call()
            except Stopped:
                raise
            except Exception:
                self._cloud.forget_sign_in()
                raise
            finally:
                if self.left:
                    self._cloud.close()
            self._keep_sign_in()
            return result

        silent = self._timeouts.verifying_seconds if verifies else self._timeouts.silent_seconds
        return _within(name, work, self._pulse, self._timeouts, silent, look=self._look, left=self._leave)

    def _keep_sign_in(self) -> None:
        """Keep the sign-in. Never raises: a call that worked stays so, whatever the cloud says about its token."""
        try:
            self._cloud.keep_sign_in()
        except Exception as error:
            logger.warning("the sign-in to a cloud cannot be kept: %s", type(error).__name__)

    def _leave(self) -> None:
        self.left = True


def _within(
    name: str,
    call: Callable[[], Result],
    pulse: Pulse,
    timeouts: Timeouts,
    silent_seconds: float,
    *,
    look: Callable[[], None] = lambda: None,
    left: Callable[[], None] = lambda: None,
    discard: Callable[[Result], None] = lambda _: None,
) -> Result:
    """Return what the call returns, or raise what it raises. Also raises `CallStuck`, and what `look` raises."""
    pulse.beat()
    began = time.monotonic()

    lost: float | None = None

    def check() -> None:
        nonlocal lost
        try:
            now = time.monotonic()
            try:
                look()
            except LeaseLost:
                lost = lost or now
                if now - lost > _STOP_SECONDS:
                    raise
            if now - pulse.heard > silent_seconds:
                raise CallStuck(f"the plugin's call '{name}' gave no sign of life for {silent_seconds:.0f} s")
            if now - max(began, pulse.moved) > timeouts.longest_seconds:
                raise CallStuck(f"the plugin's call '{name}' did not end within {timeouts.longest_seconds:.0f} s")
        except BaseException:
            left()
            raise

    return aside(call, check=check, discard=discard)
