"""Two intake processes of one store: what another process changes takes effect from the next request on."""

from __future__ import annotations

import http.client
import os
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from publisher.cli import programs
from publisher.core.settings import Settings
from publisher.store import Store
from tests.patience import PATIENCE
from tests.servers.process import Server, free_port, listens

pytestmark = pytest.mark.real

ALICE = ("alice", "a-password-of-tests")


@pytest.fixture
def ports(store: Store, database_url: str, tmp_path: Path) -> Iterator[tuple[int, int]]:
    """The ports of two intakes of the store, in which Alice may do nothing yet."""
    store.users.add("root", "a-password-of-nobody", administrator=True)  # there must always be an administrator
    store.users.add(*ALICE, entitlements=frozenset())
    settings = Settings(data_dir=tmp_path, database_url=database_url)
    with ExitStack() as stack:
        ports = free_port(), free_port()
        for port in ports:
            each = replace(settings, intake_port=port)
            server = Server(
                programs.intake(each),
                tmp_path / f"intake-{port}.log",
                ready=lambda port=port: listens(port),  # type: ignore[misc]
                environment=os.environ | each.environment(),
            )
            stack.callback(server.kill)
            server.start()
        yield ports


def ask(port: int, path: str, login: tuple[str, str] = ALICE) -> int:
    """Return the status of the answer to a GET."""
    headers = {"Authorization": "Basic " + b64encode(":".join(login).encode()).decode()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60 * PATIENCE)
    try:
        connection.request("GET", f"/api/users/alice{path}", headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def test_old_password_is_refused_from_the_next_request_on(store: Store, ports: tuple[int, int]) -> None:
    new = "alice", "a-new-password"
    for port in ports:
        assert [ask(port, "") for _ in range(2)] == [200, 200]  # now the password is known there
    store.users.set_password(*new)
    for port in ports:
        assert ask(port, "") == 401
        assert ask(port, "", new) == 200


def test_change_of_rights_takes_effect_from_the_next_request_on(store: Store, ports: tuple[int, int]) -> None:
    store.roles.add("keys", entitlements=frozenset({"api_key_access"}))
    keys = frozenset({"keys"})
    assert [ask(port, "/apikeys") for port in ports] == [403, 403]
    store.users.change_roles("alice", add=keys)
    assert [ask(port, "/apikeys") for port in ports] == [200, 200]
    store.users.change_roles("alice", remove=keys)
    assert [ask(port, "/apikeys") for port in ports] == [403, 403]
    store.users.change_rights("alice", administrator=False, entitlements=frozenset({"api_key_access"}))
    assert [ask(port, "/apikeys") for port in ports] == [200, 200]
    store.users.remove("alice")
    assert [ask(port, "/apikeys") for port in ports] == [401, 401]
