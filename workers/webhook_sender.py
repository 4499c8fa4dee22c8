"""Send webhooks (Standard Webhooks): signs what the store's outbox holds and sends it until it is accepted or given up.

Every worker has a sender; one at a time is elected through the store. A receiver gets one notification at a time, so a
slow receiver does not delay others. After each notification, the next receiver is chosen, fairly between users. A
notification that a dead sender has sent may be sent again, with the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections import Counter
from datetime import UTC, datetime
from urllib.parse import urlsplit

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.errors import CloudError, ConfigurationError, NetworkRefused, NotFound
from publisher.core.service_urls import parse_delays
from publisher.core.settings import Settings
from publisher.core.vault import Vault
from publisher.outbound.policy import OutboundPolicy
from publisher.services.webhooks import open_secret
from publisher.store import Notification, Store
from publisher.version import __version__
from workers import tls
from workers.http_clients import aiohttp_connector, trust
from workers.leader_loop import LeaderLoop

logger = logging.getLogger(__name__)

ROLE = "notifier"
_TERM_TURNS = 3
_AT_ONCE, _AT_ONCE_OF_USER = 32, 4
"""Receivers served at a time, in total and of each user: so one user's dead receivers do not block those of others."""
_SHARED = 16
"""From this number of busy receivers on, each user gets only one, which leaves room for users who have none."""
_HELD_SECONDS = 15.0
"""How long after its time-out the result of a try may still be recorded."""
_GONE = 410
_USER_AGENT = f"image-publisher/{__version__}"

Receiver = tuple[str, str]
"""A user, and one of the user's URLs."""


class NoSecret(ConfigurationError):
    """There is nothing to sign with any more."""


class Notifier:
    def __init__(self, store: Store, vault: Vault, settings: Settings, *, holder: str, stop: threading.Event) -> None:
        """Create the sender. Raises `ConfigurationError`."""
        self._store = store
        self._vault = vault
        self._policy = OutboundPolicy.of(settings)
        self._delays = parse_delays(settings.notify_retry_seconds)
        self._timeout_seconds = settings.notify_timeout_seconds
        self._stop = stop
        self._loop = LeaderLoop(
            store,
            ROLE,
            holder=holder,
            look_seconds=settings.reconcile_seconds,
            term_seconds=settings.reconcile_seconds * _TERM_TURNS,
            stop=stop,
        )
        self._tls = trust()
        self._busy: set[Receiver] = set()
        self._choosing = threading.Lock()

    def run(self) -> None:
        """Send notifications while elected, until the worker stops."""
        self._loop.run(self.turn)

    def turn(self) -> list[threading.Thread]:
        """Start to notify as many receivers as there is room for. Returns the threads that do it."""
        with self._choosing:
            if len(self._busy) >= _AT_ONCE:
                return []
            users = Counter(owner for owner, _ in list(self._busy))
            full = [owner for owner, count in users.items() if count >= self._most_of_user()]
            begun = []
            for receiver in self._store.notifications.receivers(of_each=_AT_ONCE_OF_USER, but_of=full):
                if len(self._busy) >= _AT_ONCE:
                    break
                if receiver in self._busy or users[receiver[0]] >= self._most_of_user():
                    continue
                users[receiver[0]] += 1
                self._busy.add(receiver)
                # Its time-outs end the thread. If the worker ends first, what is not recorded is sent again.
                begun.append(threading.Thread(target=self._send_one, args=(receiver,), name="webhook", daemon=True))
                begun[-1].start()
            return begun

    def _most_of_user(self) -> int:
        return _AT_ONCE_OF_USER if len(self._busy) < _SHARED else 1

    def _send_one(self, receiver: Receiver) -> None:
        """Send one notification, then give the free place to the next receiver."""
        try:
            try:
                notification = self._store.notifications.claim(*receiver, self._timeout_seconds + _HELD_SECONDS)
                if notification is not None:
                    self._deliver(notification)
            finally:
                self._busy.discard(receiver)
            if notification is not None and self._loop.elected and not self._stop.is_set():
                self.turn()
        except SQLAlchemyError as error:
            logger.warning("the store did not answer: %s", type(error).__name__)

    def _deliver(self, notification: Notification) -> None:
        """Try once. Messages show only the receiver's host: the rest of the URL may be a secret."""
        host = urlsplit(notification.url).netloc.rpartition("@")[2]
        what = f"{notification.event}, try {notification.attempt}"
        notifications = self._store.notifications
        try:
            status = self._send(notification)
        except (NetworkRefused, NoSecret) as error:
            notifications.given_up(notification, f"Webhook to {host} given up ({what}): {error}", error=str(error))
        except Exception as error:
            self._again(notification, host, _reason(error))
        else:
            if 200 <= status < 300:
                notifications.sent(notification, f"Webhook to {host} delivered ({what}): it answered {status}")
            elif status == _GONE:
                error_words = f"it answered {status}: it wants no more webhooks"
                notifications.given_up(
                    notification, f"Webhook to {host} given up ({what}): {error_words}", error=error_words
                )
            else:
                self._again(notification, host, f"it answered {status}")

    def _again(self, notification: Notification, host: str, error: str) -> None:
        words = f"Webhook to {host} failed ({notification.event}, try {notification.attempt}): {error}"
        logger.info("ticket %d: %s", notification.ticket_id, words)
        if notification.attempt > len(self._delays):
            self._store.notifications.given_up(notification, f"{words}; given up", error=error)
            return
        # Spread by a quarter, so that many tries do not repeat at the same moment.
        delay = self._delays[notification.attempt - 1] * random.uniform(0.75, 1.25)  # noqa: S311  # no secret
        self._store.notifications.again(
            notification, f"{words}; again in {delay:.0f} s", delay_seconds=delay, error=error
        )

    def _send(self, notification: Notification) -> int:
        """Send a notification and return the status of the answer.

        Raises `NetworkRefused`, `NoSecret`, and whatever goes wrong on the way.
        """
        from standardwebhooks import Webhook

        now = datetime.now(UTC)
        signature = Webhook(self._secret(notification.owner)).sign(notification.uid, now, notification.body)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": _USER_AGENT,
            "webhook-id": notification.uid,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signature,
        }
        return asyncio.run(self._post(notification.url, headers, notification.body.encode()))

    async def _post(self, url: str, headers: dict[str, str], body: bytes) -> int:
        """Post the body and return the status. Does not read the answer's body."""
        import aiohttp

        connector = aiohttp_connector(self._policy, self._tls)
        timeout = aiohttp.ClientTimeout(total=self._timeout_seconds)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status

    def _secret(self, owner: str) -> str:
        try:
            sealed = self._store.users.notify(owner).sealed_secret
        except NotFound:
            sealed = None
        if sealed is None:
            raise NoSecret(f"'{owner}' no longer has a secret to sign it with")
        return open_secret(self._vault, sealed)


def _reason(error: Exception) -> str:
    """Describe an error for people to read, without the URL."""
    import aiohttp

    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if words := tls.fault(error, "its server", "its URL", bundle=False):
        return words
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or "no connection"
    if isinstance(error, aiohttp.InvalidURL):
        return "its URL is not valid"
    if isinstance(error, aiohttp.ClientError | OSError):
        return "the connection was lost"
    if isinstance(error, ConfigurationError | CloudError):  # a CloudError: what a proxy refuses
        return str(error)
    logger.error("unexpected, while a webhook was sent: %s", type(error).__name__)
    return "an unexpected error in the publisher"
