"""A lineage with `keep` 2 over five publications, with a kill at every step between verification and the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import workers.cloud_work
from memory_cloud.publisher import CLOUD, MemoryPublisher
from publisher.core.settings import Settings
from publisher.core.ticket import Older, State, Ticket
from publisher.core.vault import Vault
from publisher.store import Leases, Store
from tests.records import OWNER, add_image, add_ticket, put_back
from workers.runner import Runner

KEEP = 2


class Killed(BaseException):
    """A SIGKILL at this point: nothing that follows is done."""


@pytest.fixture(autouse=True)
def _memory_cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(workers.cloud_work, "plugin", lambda platform: MemoryPublisher)
    CLOUD.images.clear()
    yield
    CLOUD.images.clear()


STEPS: list[tuple[type[Any], str, bool]] = [
    (MemoryPublisher, "finish", False),
    (Leases, "published", False),
    (Leases, "published", True),
    (MemoryPublisher, "connect", False),
    (MemoryPublisher, "tagged", False),
    (Leases, "mark", False),
    (MemoryPublisher, "delete", False),
    (MemoryPublisher, "delete", True),
    (Leases, "mark", True),
    (Leases, "withdrawn", False),
    (Leases, "withdrawn", True),
]


@pytest.mark.long
@pytest.mark.parametrize(("owner", "method", "after"), STEPS)
def test_a_killed_worker_leaves_neither_too_few_images_nor_too_many(
    sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type[Any], method: str, after: bool
) -> None:
    store, settings = sqlite_store, Settings(data_dir=tmp_path, progress_seconds=0.02)
    vault = Vault.from_file(settings.key_file)
    image = add_image(store, settings.images, b"content" * 1000)
    secrets = vault.seal({"password": "right"})
    account = store.accounts.add(
        owner=OWNER, name="lab", platform="memory", fields={"login": "anybody"}, sealed_secrets=secrets
    )
    armed: list[bool] = []
    original: Callable[..., Any] = getattr(owner, method)

    def kill(*given: Any, **named: Any) -> Any:
        dies = bool(armed and armed.pop())
        if dies and not after:
            raise Killed
        result = original(*given, **named)
        if dies:
            raise Killed
        return result

    monkeypatch.setattr(owner, method, kill)
    tickets: list[Ticket] = []
    withdraws, kills = method not in ("finish", "published"), 0

    def usable() -> set[str]:
        return {each.ticket_uid for each in CLOUD.images.values() if each.sha256 == image.sha256}

    def check() -> None:
        published = [each for each in store.tickets.list() if each.state is State.PUBLISHED]
        assert {each.uid for each in published} <= usable(), "what is published is there"
        newest = [each for each in store.tickets.list() if each.uid in usable()][-KEEP:]
        assert not [each for each in newest if each.state is State.WITHDRAWING and len(published) < KEEP]
        assert usable() or not tickets[1:], "at every moment there is an image"

    for _ in range(5):
        ticket = add_ticket(
            store,
            image_id=image.id,
            image_size=image.size,
            account={"login": "anybody", "name": "lab"},
            account_id=account.id,
            sealed_secrets=secrets,
            lineage="web",
            keep=KEEP,
            older=Older.WITHDRAW,
        )
        tickets.append(ticket)
        killed = False
        runner = Runner(store, vault, settings, worker="w")
        for _ in range(20):
            due = [each for each in store.tickets.list() if not each.final]
            for each in due:
                put_back(store, each, lease_until=1, wake_at=1)
                armed[:] = [True] * (not killed and (each.state is State.WITHDRAWING) is withdraws)
                try:
                    runner.run(each.id)
                except Killed:
                    killed = True
                    kills += 1
                    check()
            check()
            if not due:
                break
    assert [each.state for each in store.tickets.list()] == [State.WITHDRAWN] * 3 + [State.PUBLISHED] * KEEP
    assert usable() == {each.uid for each in tickets[-KEEP:]}
    assert len(CLOUD.images) == KEEP
    assert kills == (3 if withdraws else 5), "one at each publication, or at each withdrawal"
