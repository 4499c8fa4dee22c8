"""Webhooks are sent to a real receiver, which verifies them with the library that receivers use."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from publisher.core.service_urls import parse_delays
from publisher.core.settings import Settings
from publisher.core.ticket import Ticket
from publisher.core.vault import Vault
from publisher.outbound.policy import EVERYWHERE
from publisher.services.webhooks import subscribe
from publisher.store import Store
from publisher.store.database import notifications, users, writing
from tests.patience import PATIENCE
from tests.records import OWNER, add_ticket, words
from tests.servers.certificates import authority
from tests.servers.listening import listening
from tests.servers.receiver import Receiver, receiver
from tests.servers.tinyproxy import tinyproxy
from tests.servers.uploads import Upload, upload_server
from tests.stack import until
from workers.webhook_sender import Notifier


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, notify_retry_seconds="0,0,0", notify_timeout_seconds=5.0, reconcile_seconds=0.05)


@pytest.fixture
def vault(settings: Settings) -> Vault:
    return Vault.from_file(settings.key_file)


@pytest.fixture
def secret(sqlite_store: Store, vault: Vault) -> str:
    add_ticket(sqlite_store)
    made = subscribe(sqlite_store, vault, EVERYWHERE, OWNER, None)
    assert made
    assert made.startswith("whsec_")
    return made


@pytest.fixture
def hooks(secret: str, caplog: pytest.LogCaptureFixture) -> Iterator[Receiver]:
    """A receiver. The test fails if its log contains the secret or the path of the URL."""
    caplog.set_level(logging.DEBUG)
    with receiver() as made:
        yield made
    assert secret not in caplog.text
    assert "a-secret-of-the-path" not in caplog.text


@pytest.fixture
def tell(sqlite_store: Store, vault: Vault, settings: Settings) -> Callable[..., None]:
    """Return a function that runs turns of a notifier until nothing is due."""

    def turns(settings: Settings = settings) -> None:
        notifier = Notifier(sqlite_store, vault, settings, holder="w", stop=threading.Event())
        while begun := notifier.turn():
            for thread in begun:
                thread.join(30 * PATIENCE)

    return turns


def ended(store: Store, url: str, owner: str = OWNER) -> Ticket:
    ticket = add_ticket(store, notify_url=url, owner=owner)
    claim = store.leases.claim(ticket.id, "worker", 60)
    assert claim
    store.leases.published(claim, cloud_id="cloud-1", location=None)
    return ticket


def state(store: Store, ticket: Ticket) -> tuple[str, int, str | None]:
    (told,) = store.notifications.list(ticket.id)
    return told.state, told.attempt, told.error


def test_a_webhook_is_sent_and_signed(
    sqlite_store: Store, secret: str, hooks: Receiver, tell: Callable[..., None]
) -> None:
    ticket = ended(sqlite_store, hooks.url)
    tell()
    (content,) = hooks.verified(secret)
    assert (content["type"], content["data"]["ticket"]) == ("publication.published", ticket.id)
    headers, _ = hooks.got[0]
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"].startswith("msg_")
    assert headers["webhook-signature"].startswith("v1,")
    assert state(sqlite_store, ticket) == ("sent", 1, None)
    assert words(sqlite_store, ticket)[-1] == (
        f"Webhook to 127.0.0.1:{hooks.port} delivered (publication.published, try 1): it answered 204"
    )


def test_webhook_is_sent_again_until_it_is_accepted(
    sqlite_store: Store, secret: str, hooks: Receiver, tell: Callable[..., None]
) -> None:
    ticket = ended(sqlite_store, hooks.url)
    hooks.statuses[:] = [500, 302]
    hooks.headers["Location"] = f"http://127.0.0.1:{hooks.port}/elsewhere"
    tell()
    assert len(hooks.verified(secret)) == 3
    assert len(set(hooks.ids)) == 1
    assert set(hooks.paths) == {"/hooks/a-secret-of-the-path"}, "redirects are not followed"
    assert state(sqlite_store, ticket) == ("sent", 3, None)
    said = words(sqlite_store, ticket)[-3:]
    assert [
        "it answered 500; again in 0 s" in said[0],
        "it answered 302; again" in said[1],
        "delivered" in said[2],
    ] == [True] * 3
    assert not any("a-secret" in each for each in said)


@pytest.mark.real
def test_webhook_is_sent_through_the_proxy(
    sqlite_store: Store, secret: str, hooks: Receiver, tell: Callable[..., None], settings: Settings
) -> None:
    with tinyproxy(login="worker", password="hunter2-of-the-proxy") as proxy:
        url = proxy.url.replace("://", "://worker:hunter2-of-the-proxy@")
        ticket = ended(sqlite_store, hooks.url)
        tell(replace(settings, http_proxy=url))
        assert proxy.asked_for == [f"127.0.0.1:{hooks.port}"]
        assert len(hooks.verified(secret)) == 1
        assert state(sqlite_store, ticket) == ("sent", 1, None)
        other = ended(sqlite_store, hooks.url)
        tell(replace(settings, http_proxy=url, no_proxy="127.0.0.1"))
        assert state(sqlite_store, other) == ("sent", 1, None)
        assert len(proxy.asked_for) == 1


def test_webhook_that_the_proxy_refuses_is_tried_again(
    sqlite_store: Store, hooks: Receiver, tell: Callable[..., None], settings: Settings
) -> None:
    def refuse(upload: Upload) -> None:
        upload.answer(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    with upload_server(refuse) as proxy:
        ticket = ended(sqlite_store, hooks.url)
        tell(replace(settings, http_proxy=f"http://joe:hunter2@127.0.0.1:{proxy.port}"))
    said, tries, error = state(sqlite_store, ticket)
    assert (said, tries) == ("failed", 4)
    assert error
    assert error.startswith(f"the proxy 127.0.0.1:{proxy.port} does not allow connections to 127.0.0.1:{hooks.port}")
    assert "hunter2" not in " ".join(words(sqlite_store, ticket))
    assert hooks.got == []


@pytest.mark.parametrize(
    ("statuses", "tries", "error"),
    [([500] * 9, 4, "it answered 500"), ([410], 1, "it answered 410: it wants no more webhooks")],
)
def test_a_receiver_that_fails_is_given_up(
    sqlite_store: Store,
    hooks: Receiver,
    tell: Callable[..., None],
    statuses: list[int],
    tries: int,
    error: str,
) -> None:
    ticket = ended(sqlite_store, hooks.url)
    hooks.statuses[:] = statuses
    tell()
    assert state(sqlite_store, ticket) == ("failed", tries, error)
    assert len(hooks.got) == tries
    assert len([each for each in words(sqlite_store, ticket) if "127.0.0.1" in each]) == tries


@pytest.mark.long
def test_webhook_to_an_unreachable_receiver_fails_with_the_reason(
    sqlite_store: Store, hooks: Receiver, tell: Callable[..., None], settings: Settings
) -> None:
    silent = ended(sqlite_store, hooks.url)
    with listening() as gone:
        pass
    absent = ended(sqlite_store, gone.url)
    nameless = ended(sqlite_store, "http://no-such-name.invalid/")
    odd = ended(sqlite_store, "http://2130706433/")
    hooks.going.clear()
    quick = Settings(data_dir=settings.data_dir, notify_retry_seconds="", notify_timeout_seconds=0.5)
    tell(quick)
    assert state(sqlite_store, silent) == ("failed", 1, "it did not answer in time")
    assert state(sqlite_store, absent)[:2] == ("failed", 1)
    assert "onnect" in str(state(sqlite_store, absent)[2])
    assert state(sqlite_store, nameless) == ("failed", 1, "its name cannot be resolved")
    assert state(sqlite_store, odd) == ("failed", 1, "its URL is not valid")


def test_webhook_to_an_inner_address_is_not_sent(
    sqlite_store: Store, secret: str, tell: Callable[..., None], settings: Settings
) -> None:
    guarded = Settings(data_dir=settings.data_dir, production=True)
    with listening() as inner:
        by_name = ended(sqlite_store, f"http://localhost:{inner.port}/")
        by_address = ended(sqlite_store, f"http://127.0.0.1:{inner.port}/")
        tell(guarded)
    assert inner.connections == []
    for ticket, verb in ((by_name, "'localhost' resolves to"), (by_address, "'127.0.0.1' is")):
        (told,) = sqlite_store.notifications.list(ticket.id)
        assert (told.state, told.attempt) == ("failed", 1)
        assert f"{verb} a loopback address, which this installation does not connect to" in str(told.error)


_NOT_TRUSTED = (
    "the TLS certificate of its server is not trusted (unable to get local issuer certificate); add its CA"
    " to those that this worker trusts (REQUESTS_CA_BUNDLE)"
)


def test_untrusted_server_gets_no_webhook(
    sqlite_store: Store, secret: str, tell: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = authority(tmp_path)
    with receiver(tls=ours.server) as hooks:
        ticket = ended(sqlite_store, hooks.url)
        tell()
        assert state(sqlite_store, ticket) == ("failed", 4, _NOT_TRUSTED)
        assert hooks.got == []
        (tmp_path / "ca.pem").write_text(ours.pem)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        trusted = ended(sqlite_store, hooks.url)
        tell()
    assert state(sqlite_store, trusted) == ("sent", 1, None)


def test_webhook_of_a_dead_sender_is_sent_again_with_the_same_id(
    sqlite_store: Store, secret: str, hooks: Receiver, tell: Callable[..., None], vault: Vault, settings: Settings
) -> None:
    """The receiver accepted the webhook, but the sender died before it recorded that."""
    ticket = ended(sqlite_store, hooks.url)
    lost = Notifier(sqlite_store, vault, settings, holder="lost", stop=threading.Event())
    taken = sqlite_store.notifications.claim(OWNER, hooks.url, 60)
    assert taken
    assert lost._send(taken) == 204
    tell()
    assert len(hooks.got) == 1, "it is held for a while"
    with writing(sqlite_store.engine) as connection:
        connection.execute(update(notifications).values(next_at=0.0))
    tell()
    assert len(hooks.verified(secret)) == 2
    assert len(set(hooks.ids)) == 1
    assert state(sqlite_store, ticket) == ("sent", 2, None)


@pytest.mark.long
def test_slow_receiver_delays_no_other_receiver(
    sqlite_store: Store, secret: str, hooks: Receiver, vault: Vault, settings: Settings
) -> None:
    stop = threading.Event()
    slow = [ended(sqlite_store, hooks.url) for _ in range(3)]
    hooks.going.clear()
    notifier = Notifier(sqlite_store, vault, settings, holder="w", stop=stop)
    thread = threading.Thread(target=notifier.run)
    thread.start()
    try:
        until(lambda: len(hooks.got) == 1, 10)
        with receiver() as quick:
            ticket = ended(sqlite_store, quick.url)
            until(lambda: state(sqlite_store, ticket)[0] == "sent", 10)
        assert len(hooks.got) == 1, "one at a time"
        hooks.going.set()
        until(lambda: all(state(sqlite_store, each)[0] == "sent" for each in slow), 10)
    finally:
        stop.set()
        thread.join(10 * PATIENCE)
    assert hooks.ids == [sqlite_store.notifications.list(each.id)[0].uid for each in slow]


def add_users(store: Store, vault: Vault, count: int) -> list[str]:
    logins = [f"user-{each}" for each in range(count)]
    for login in logins:
        values = {"login": login, "password_hash": "-", "administrator": False, "entitlements": [], "created": 1.0}
        with writing(store.engine) as connection:
            connection.execute(insert(users).values(values))
        assert subscribe(store, vault, EVERYWHERE, login, None)
    return logins


def test_user_with_many_webhooks_delays_no_other_user(
    sqlite_store: Store, secret: str, hooks: Receiver, vault: Vault, settings: Settings
) -> None:
    """Silent receivers at a thousand URLs of one user leave threads free, so that the other webhook is sent at once."""
    ticket = ended(sqlite_store, f"{hooks.url}/0")
    values = {"ticket_id": ticket.id, "owner": OWNER, "event": "e", "body": "{}", "state": "waiting", "attempt": 0}
    many = [{"uid": f"m{n}", "url": f"{hooks.url}/{n}", "next_at": 1.0, "created": 1.0} for n in range(1, 1000)]
    with writing(sqlite_store.engine) as connection:
        connection.execute(insert(notifications), [values | each for each in many])
    hooks.going.clear()
    (other,) = add_users(sqlite_store, vault, 1)
    with receiver() as quick:
        told = ended(sqlite_store, quick.url, other)
        begun = Notifier(sqlite_store, vault, settings, holder="w", stop=threading.Event()).turn()
        assert len(begun) == 5, "four of the one, and that of the other"
        until(lambda: state(sqlite_store, told)[0] == "sent", 4)
    hooks.going.set()
    for thread in begun:
        thread.join(10 * PATIENCE)
    assert len(hooks.got) == 4, "each gives its room up after one"


@pytest.mark.long
def test_silent_receivers_leave_threads_for_other_users(
    sqlite_store: Store, secret: str, hooks: Receiver, vault: Vault, settings: Settings
) -> None:
    *silent, fifth = add_users(sqlite_store, vault, 5)
    for login in silent:
        for number in range(5):
            ended(sqlite_store, f"{hooks.url}/{login}/{number}", login)
    hooks.going.clear()
    notifier = Notifier(sqlite_store, vault, settings, holder="w", stop=threading.Event())
    begun = notifier.turn()
    assert len(begun) == 16
    assert notifier.turn() == []
    with receiver() as quick:
        told = ended(sqlite_store, quick.url, fifth)
        begun += notifier.turn()
        until(lambda: state(sqlite_store, told)[0] == "sent", 4)
    hooks.going.set()
    for thread in begun:
        thread.join(10 * PATIENCE)


@pytest.mark.long
def test_next_webhook_follows_as_soon_as_the_previous_one_ends(
    sqlite_store: Store, secret: str, hooks: Receiver, vault: Vault, settings: Settings
) -> None:
    stop = threading.Event()
    several = [ended(sqlite_store, hooks.url) for _ in range(20)]
    rare = replace(settings, reconcile_seconds=1.0)
    thread = threading.Thread(target=Notifier(sqlite_store, vault, rare, holder="w", stop=stop).run)
    thread.start()
    try:
        until(lambda: all(state(sqlite_store, each)[0] == "sent" for each in several), 10)
    finally:
        stop.set()
        thread.join(10 * PATIENCE)
    assert hooks.ids == [sqlite_store.notifications.list(each.id)[0].uid for each in several]


def test_webhook_without_a_secret_is_not_sent(
    sqlite_store: Store, secret: str, hooks: Receiver, tell: Callable[..., None]
) -> None:
    ticket = ended(sqlite_store, hooks.url)
    sqlite_store.users.set_notify(OWNER, None, None)
    tell()
    assert state(sqlite_store, ticket) == ("failed", 1, "'root' no longer has a secret to sign it with")
    assert hooks.got == []


def test_new_secret_signs_later_webhooks(
    sqlite_store: Store, secret: str, hooks: Receiver, tell: Callable[..., None], vault: Vault
) -> None:
    assert subscribe(sqlite_store, vault, EVERYWHERE, OWNER, hooks.url) is None, "it has one"
    other = subscribe(sqlite_store, vault, EVERYWHERE, OWNER, None, new_secret=True)
    assert other is not None
    assert other != secret
    ended(sqlite_store, hooks.url)
    tell()
    assert hooks.verified(other)


def test_the_default_schedule_tries_for_some_days() -> None:
    found: list[Any] = parse_delays(Settings().notify_retry_seconds)
    assert found == sorted(found)
    assert 2 < sum(found) / 86400 < 4


def test_notifier_continues_after_an_unexpected_error(
    sqlite_store: Store,
    vault: Vault,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop = threading.Event()
    made = Notifier(sqlite_store, vault, settings, holder="w", stop=stop)
    turns: list[int] = []

    def turn() -> list[threading.Thread]:
        turns.append(len(turns))
        if len(turns) == 1:
            raise RuntimeError("a mistake")
        stop.set()
        return []

    monkeypatch.setattr(made, "turn", turn)
    made.run()
    assert turns == [0, 1]
    assert "notifier: unexpected" in caplog.text
