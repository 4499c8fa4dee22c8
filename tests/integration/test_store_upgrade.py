"""An installation is upgraded in the middle of its work: no ticket is lost, and none is published twice."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, MetaData, Table, select

from memory_cloud.publisher import CLOUD, StoredImage
from publisher.core.image import Image
from publisher.core.settings import Settings
from publisher.core.ticket import State
from publisher.core.vault import Vault
from publisher.files.hashing import digest
from publisher.platforms.platform import cloud_account
from publisher.store import Store
from publisher.store.database import tickets, writing
from publisher.store.ticket_rows import TicketFilter
from tests.records import current
from tests.servers.postgres import PostgresServer
from workers.runner import Runner

CONTENT = b"an image that was registered long ago"
OPENSTACK = {"keystoneUrl": "https://Cloud.example.com:5000/v3/", "login": "joe", "keystoneVersion": "v3"}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Settings of an installation with an empty database."""
    if request.param == "sqlite":
        yield Settings(data_dir=tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.fresh()
    yield Settings(data_dir=tmp_path, database_url=url)
    server.drop(url)


@pytest.fixture
def old(settings: Settings) -> Iterator[Callable[[str], Store]]:
    """Return a function that gives a store with the tables of an older version."""
    CLOUD.images.clear()
    store = Store.open(settings)

    def at(version: str) -> Store:
        command.upgrade(store._alembic(), version)
        return store

    yield at
    store.close()
    CLOUD.images.clear()


class Rows:
    """Writes rows as the older version did."""

    def __init__(self, connection: Connection, vault: Vault) -> None:
        self._connection = connection
        self._metadata = MetaData()
        self._sealed = vault.seal({"password": "x"})

    def add(self, table: str, **values: Any) -> int | None:
        key = self._connection.execute(self._table(table).insert().values(values)).inserted_primary_key
        return int(key[0]) if key and table == "tickets" else None

    def _table(self, name: str) -> Table:
        return Table(name, self._metadata, autoload_with=self._connection, extend_existing=True)

    def ticket(self, state: State, *, journal: str | None = None, **values: Any) -> int:
        now = time.time()
        plain: dict[str, Any] = {
            "uid": str(uuid.uuid4()), "owner": "root", "appliance_id": 4, "image_id": 1, "platform": "memory",
            "account": {"login": "joe"}, "sealed_secrets": self._sealed, "target": {"displayName": "an image"},
            "name": "an image", "state": state.value, "phase": "waiting", "attempt": 1, "sent": 0,
            "total": len(CONTENT),
            "created": now - 600, "modified": now - 300, "not_before": 0.0, "lease_token": 1, "lease_until": 0.0,
            "wake_at": now - 10, "wakes": 0,
        }  # fmt: skip
        if "accepted" in self._table("tickets").c:  # since version 0004
            row = plain | values
            account = cloud_account(row["platform"], row["account"], row["target"])
            plain |= {"accepted": now - 600, "cloud_account": account}
        id = self.add("tickets", **(plain | values))
        assert id is not None
        self.add(
            "ticket_history", ticket_id=id, at=now, from_state=None, to_state=state.value, phase="waiting", words="?"
        )
        if journal:
            cloud_id = values.get("cloud_id") or f"cloud-{id}"
            self.add("ticket_journal", ticket_id=id, cloud_id=cloud_id, state=journal, created=now, modified=now)
            if journal == "present":
                CLOUD.images[cloud_id] = StoredImage((plain | values)["uid"], "an image")
        return id


def image_of(settings: Settings) -> dict[str, Any]:
    file = settings.images / "disk.raw"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    known = digest(file)
    return {
        "id": 1, "owner": "root", "appliance_id": 4, "name": "disk", "format": "raw", "disk_format": "raw",
        "size": known.size, "virtual_size": known.size, "md5": known.md5, "sha256": known.sha256,
        "sha512": known.sha512, "location": file.name, "created": time.time(),
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("version", ["0001", "0002", "0003", "0004", "0005", "0009", "0011"])
def test_unfinished_tickets_continue_after_an_upgrade(
    old: Callable[[str], Store], settings: Settings, version: str
) -> None:
    store = old(version)
    vault = Vault.from_file(settings.key_file)
    later = time.time() + 600
    with writing(store.engine) as connection:
        rows = Rows(connection, vault)
        rows.add("users", login="root", password_hash="-", administrator=True, entitlements=[], created=0.0)
        rows.add("images", **image_of(settings))
        queued = rows.ticket(State.QUEUED, attempt=0)
        waiting = rows.ticket(State.QUEUED, journal="planned", error="Glance is away")
        failing = (
            rows.ticket(
                State.QUEUED,
                journal="present",
                error="forbidden; cleaning up: Glance is away",
                reason="forbidden",
                **({"failure": "forbidden"} if version >= "0011" else {}),
            )
            if version >= "0005"
            else None
        )  # since version 0005, a ticket has a reason
        abandoned = rows.ticket(State.PUBLISHING, journal="present", worker="gone", phase="uploading", sent=7)
        held = rows.ticket(State.PUBLISHING, journal="present", worker="alive", lease_until=later, wake_at=later)
        cancelling = rows.ticket(State.CANCELLING, journal="present", worker="gone")
        published = rows.ticket(
            State.PUBLISHED, journal="present", cloud_id="mine", sealed_secrets=None, finished=time.time(),
            platform="openstack", account=OPENSTACK, target={"keystoneProject": "p", "displayName": "an image"},
        )  # fmt: skip
        failed = rows.ticket(State.FAILED, error="the quota is used up", finished=time.time())
        cancelled = rows.ticket(State.CANCELLED, finished=time.time())
    deployment = store.deployment

    store.migrate()
    store.check_schema()
    assert store.deployment == deployment, "or its objects in the clouds were nobody's"
    wanted = TicketFilter(words="AN IMAGE")
    assert failed in [each.id for each in store.publications.page(wanted, 50).tickets], "old names can be searched for"
    image = store.images.get(1)
    assert isinstance(image, Image)
    assert image.ready
    runner = Runner(store, vault, settings, worker="new")
    due = store.tickets.due()
    assert set(due) == {queued, waiting, abandoned, cancelling} | ({failing} if failing else set())
    for ticket_id in due:
        runner.run(ticket_id)
    if failing:
        failed_now = current(store, failing)
        assert (failed_now.state, failed_now.error, failed_now.failure) == (State.FAILED, "forbidden", None)
    assert {id: current(store, id).state for id in (queued, waiting, abandoned, held, cancelling)} == {
        queued: State.PUBLISHED,
        waiting: State.PUBLISHED,
        abandoned: State.PUBLISHED,
        held: State.PUBLISHING,
        cancelling: State.CANCELLED,
    }
    assert [current(store, id).state for id in (published, failed, cancelled)] == ["published", "failed", "cancelled"]
    assert current(store, held).worker == "alive"
    assert current(store, abandoned).cloud_id == f"cloud-{abandoned}", "what was begun is gone on with"
    owners = [each.ticket_uid for each in CLOUD.images.values()]
    assert len(owners) == len(set(owners)), "one image a ticket"
    for ticket_id in (failed, cancelled):
        store.tickets.retry(ticket_id)
        assert runner.run(ticket_id) is State.PUBLISHED

    with writing(store.engine) as connection:
        for row in connection.execute(select(tickets)):
            assert row.cloud_account == cloud_account(row.platform, row.account, row.target)
            assert row.accepted >= row.created
