"""Live updates over a real server: a page gets the changes of other processes; the server can end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from publisher.core.settings import Settings
from publisher.store import Store
from publisher.store.new_tickets import NewTicket
from tests.patience import PATIENCE
from tests.records import create_ticket
from tests.service import IMAGE_SIZE, PASSWORDS, Process, real_server


@pytest.fixture
def directory(filled_template: Path, tmp_path: Path) -> Path:
    shutil.copyfile(filled_template, tmp_path / "publisher.db")
    return tmp_path


def add(store: Store, name: str) -> int:
    return create_ticket(store, NewTicket(
        owner="alice", appliance_id=14, image_id=21, image_size=IMAGE_SIZE, platform="memory", account={},
        sealed_secrets=b"-", target={}, name=name,
    )).id  # fmt: skip


def changes(lines: Iterator[str]) -> Iterator[Any]:
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def signed_in(server: Process) -> httpx.Client:
    client = httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=10 * PATIENCE)
    form = {"login": "alice", "password": PASSWORDS["alice"]}
    assert client.post("/console/sign-in", data=form, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 303
    return client


@pytest.mark.long
def test_changes_by_another_process_are_shown_and_the_server_ends_in_time(directory: Path) -> None:
    store = Store.open(Settings(data_dir=directory))
    one = add(store, "one")
    with real_server(directory) as server:
        client = signed_in(server)
        with client.stream("GET", "/console/publications/events") as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            sent = changes(answer.iter_lines())
            assert next(sent)["lists"] == {"publications": [f"ticket-{one}"]}
            two = add(store, "two")
            later = next(each for each in sent if each["lists"])
            assert later["lists"] == {"publications": [f"ticket-{two}", f"ticket-{one}"]}
            assert f"ticket-{two}" in later["parts"]
            assert f"ticket-{one}" not in later["parts"]
            store.tickets.request_cancel(one)
            assert (
                "cancelled" in next(each for each in sent if f"ticket-{one}" in each["parts"])["parts"][f"ticket-{one}"]
            )
            began = time.monotonic()
            os.kill(server.pid, signal.SIGTERM)
            assert list(sent) == []
            assert time.monotonic() - began < 2 * PATIENCE
    client.close()
    store.close()
