"""Withdrawals cost calls in proportion to what is withdrawn, not to what is in the cloud."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from publisher.core.settings import Settings
from publisher.core.ticket import Older, State, Ticket
from publisher.core.vault import Vault
from publisher.store import Store
from publisher.store.leases import Claim
from tests.keystone_v2 import KeystoneV2Stub
from tests.records import OWNER, add_owner, add_ticket, current
from tests.servers.answering import serving
from workers.runner import Runner

PASSWORD = "hunter2-of-the-cloud"
CALLS_MAX = 8
"""For each image: whether it is in use, two searches, its deletion, and whether it is gone."""


@dataclass
class FullGlance:
    """Many images. It lists those that a request's filters match, page by page, and counts what it answers."""

    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    listed: int = 0

    def add(self, ticket_uid: str, deployment: str, **values: Any) -> str:
        id = str(uuid.uuid4())
        tags = {"publisher_ticket": ticket_uid, "publisher_deployment": deployment, "publisher_cloud_id": id}
        self.images[id] = {"id": id, "status": "active", **tags, **values}
        return id

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        id = parts.path.removeprefix("/v2/images").removeprefix("/")
        self.calls[handler.command] += 1
        status, told = 404, {}
        if not id:
            status, told = 200, {"images": self._page(dict(parse_qsl(parts.query)))}
        elif id in self.images:
            status, told = 200, self.images[id]
            if handler.command == "DELETE":
                del self.images[id]
                status, told = 204, {}
            elif handler.command == "PATCH":
                changes = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                told.update({each["path"][1:]: each["value"] for each in changes})
        body = b"" if status == 204 else json.dumps(told).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _page(self, query: dict[str, str]) -> Sequence[dict[str, Any]]:
        limit, hidden = int(query.pop("limit", 25)), query.pop("os_hidden", "false") == "true"
        query.pop("marker", None)
        found = [
            each
            for each in self.images.values()
            if each.get("os_hidden", False) == hidden and all(each.get(name) == query[name] for name in query)
        ][:limit]
        self.listed += len(found)
        return found


class Lineage:
    """A lineage of published tickets, whose images are in a cloud with many others."""

    def __init__(self, store: Store, directory: Path, glance: FullGlance, fields: dict[str, str], older: Older) -> None:
        self._store, self._glance, self._fields, self._older = store, glance, fields, older
        settings = Settings(data_dir=directory)
        self._vault = Vault.from_file(settings.key_file)
        self._runner = Runner(store, self._vault, settings, worker="w")
        add_owner(store)
        secrets = self._vault.seal({"password": PASSWORD})
        self._account = store.accounts.add(
            owner=OWNER, name="lab", platform="openstack", fields=fields, sealed_secrets=secrets
        )

    def publish(self, older: Older = Older.LEAVE) -> Ticket:
        claim = self._claimed(older)
        cloud_id = self._glance.add(claim.ticket.uid, self._store.deployment, name="an image")
        self._store.leases.plan(claim, cloud_id)
        self._store.leases.mark(claim, cloud_id, "present")
        self._store.leases.published(claim, cloud_id=cloud_id, location=None)
        return current(self._store, claim.ticket)

    def clean_up(self) -> None:
        """Publish an image that replaces all others, and let a worker do what is to be done with those."""
        self.publish(self._older)
        while due := self._store.tickets.due():
            for id in due:
                self._runner.run(id)

    def _claimed(self, older: Older) -> Claim:
        ticket = add_ticket(
            self._store,
            platform="openstack",
            account=self._fields | {"name": "lab"},
            account_id=self._account.id,
            target={"tenantName": "t", "displayName": "an image"},
            lineage="web",
            older=older,
            keep=1 if older is Older.WITHDRAW else None,
        )
        claim = self._store.leases.claim(ticket.id, "w", 60)
        assert claim
        return claim


@pytest.mark.long
@pytest.mark.parametrize("older", [Older.WITHDRAW, Older.HIDE])
def test_calls_grow_with_what_changes_and_not_with_what_is_there(
    sqlite_store: Store, tmp_path: Path, older: Older
) -> None:
    count, others = 100, 2000
    glance = FullGlance()
    with serving(glance.answer) as url, KeystoneV2Stub(url, users={"joe": PASSWORD}, tenants={"t"}) as keystone:
        fields = {"keystoneUrl": keystone.url, "login": "joe", "keystoneVersion": "v2.0", "glanceUrl": url}
        lineage = Lineage(sqlite_store, tmp_path, glance, fields, older)
        replaced = [lineage.publish() for _ in range(count)]
        for _ in range(others):
            glance.add(str(uuid.uuid4()), sqlite_store.deployment, name="another")
        lineage.clean_up()
    states = {current(sqlite_store, each).state for each in replaced}
    assert states == {State.WITHDRAWN if older is Older.WITHDRAW else State.PUBLISHED}
    assert glance.calls["DELETE" if older is Older.WITHDRAW else "PATCH"] == count
    assert glance.calls.total() <= CALLS_MAX * count
    assert glance.listed <= 2 * count, "a search returns only what the ticket has created"
    assert len(glance.images) == others + 1 + (0 if older is Older.WITHDRAW else count)
