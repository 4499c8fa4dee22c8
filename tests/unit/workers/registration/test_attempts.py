"""A registration that is broken off or taken over leaves no file behind, and deletes no file of another worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from publisher.core.image import ImageState
from publisher.core.settings import Settings
from publisher.store import Store
from publisher.store.engine import writing
from publisher.store.registrations import Registration, Registrations
from publisher.store.tables import images
from tests.patience import PATIENCE
from tests.records import OWNER
from tests.unit.workers.registration.origin import Origin, begin, files, now, start, whole
from workers.registration import Registrar


def trickle(origin: Origin) -> Callable[[BaseHTTPRequestHandler], None]:
    """Sends on and on, until it is let go."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start(handler, 200, **{"Content-Length": str(100 << 20)})
        try:
            while not origin.released.wait(0.005):
                handler.wfile.write(b"x" * 4096)
                origin.going.set()
        except OSError:
            pass  # hung up on, as is expected

    return answer


@pytest.mark.parametrize(("how", "state"), [("cancelled", ImageState.CANCELLED), ("shut down", ImageState.QUEUED)])
def test_a_fetch_stops_at_once_though_the_server_sends_nothing(
    sqlite_store: Store, settings: Settings, origin: Origin, registrar: Registrar, how: str, state: ImageState
) -> None:
    origin.answers["/disk"] = origin.stall
    stop = threading.Event()
    patient = replace(settings, stall_seconds=60.0)
    id = begin(sqlite_store, origin.url("/disk"))
    thread = threading.Thread(target=Registrar(sqlite_store, patient, worker="w2", shutting_down=stop).run, args=(id,))
    thread.start()
    assert origin.going.wait(10 * PATIENCE)
    if how == "cancelled":
        sqlite_store.registrations.cancel(OWNER, 4, id)
    else:
        stop.set()
    thread.join(10 * PATIENCE)
    assert not thread.is_alive()
    assert files(settings) == []
    assert now(sqlite_store, id).state is state


@pytest.mark.parametrize(
    ("how", "state", "returned", "attempts"),
    [
        ("cancelled", ImageState.CANCELLED, None, 1),
        ("taken over", ImageState.FETCHING, None, 1),
        ("shut down", ImageState.QUEUED, ImageState.QUEUED, 0),
    ],
)
def test_a_fetch_stops_and_leaves_no_file(
    sqlite_store: Store, settings: Settings, origin: Origin, registrar: Registrar, how: str, state: ImageState,
    returned: ImageState | None, attempts: int,
) -> None:  # fmt: skip
    """An attempt that a shutdown ends does not count."""
    origin.answers["/disk"] = trickle(origin)
    stop = threading.Event()
    first = Registrar(sqlite_store, settings, worker="w2", shutting_down=stop)
    id = begin(sqlite_store, origin.url("/disk"))
    states: list[ImageState | None] = []
    thread = threading.Thread(target=lambda: states.append(first.run(id)))
    thread.start()
    assert origin.going.wait(10 * PATIENCE)
    deadline = time.monotonic() + 10
    while now(sqlite_store, id).sent == 0 and time.monotonic() < deadline:
        threading.Event().wait(0.01)  # the progress is written by a thread of its own
    if how == "cancelled":
        sqlite_store.registrations.cancel(OWNER, 4, id)
    elif how == "shut down":
        stop.set()
    else:
        with writing(sqlite_store.engine) as connection:
            connection.execute(update(images).where(images.c.id == id).values(lease_token=99))
    thread.join(10 * PATIENCE)
    assert not thread.is_alive()
    assert files(settings) == []
    image = now(sqlite_store, id)
    assert (image.state, image.attempt) == (state, attempts)
    assert states == [returned]


def test_what_an_earlier_attempt_left_is_removed(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin
) -> None:
    origin.answers["/disk"] = whole
    id = begin(sqlite_store, origin.url("/disk"))
    claim = sqlite_store.registrations.claim(id, "dead", 60.0)
    assert claim is not None
    left = settings.images / ".incoming" / f"{id}-{claim.token}"
    left.parent.mkdir()
    left.write_bytes(b"half")
    placed = "0123456789ab4def8123456789abcdef/disk"
    sqlite_store.registrations.renew(claim, 60.0, sent=5, total=9)
    sqlite_store.registrations.record_location(claim, placed)
    sqlite_store.registrations.give_up(claim)
    (settings.images / placed).parent.mkdir()
    (settings.images / placed).write_bytes(b"whole, but not told of")
    assert registrar.run(id) is ImageState.READY
    image = now(sqlite_store, id)
    assert files(settings) == [image.location]
    assert image.attempt == 2
    # Generated again, the file before goes.
    sqlite_store.registrations.again(OWNER, 4, id)
    assert registrar.run(id) is ImageState.READY
    assert files(settings) == [now(sqlite_store, id).location]


def test_a_paused_worker_deletes_no_file_of_the_next_one(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.answers["/disk"] = whole
    id = begin(sqlite_store, origin.url("/disk"))
    others = settings.images / ".incoming" / f"{id}-2"
    claim = sqlite_store.registrations.claim

    def paused(*arguments: Any) -> Any:
        """The lease runs out, and another worker is in the middle of fetching."""
        first = claim(id, "w1", -1.0)
        assert claim(id, "w2", 60.0)
        others.parent.mkdir()
        others.write_bytes(b"half")
        return first

    monkeypatch.setattr(sqlite_store.registrations, "claim", paused)
    assert registrar.run(id) is None
    assert files(settings) == [f".incoming/{id}-2"]


def test_a_registration_that_kills_its_workers_fails(registrar: Registrar, sqlite_store: Store) -> None:
    id = begin(sqlite_store, "http://127.0.0.1:1/disk")
    for _ in range(3):
        assert sqlite_store.registrations.claim(id, "dead", -1.0)
    assert registrar.run(id) is ImageState.FAILED
    assert "given up: 3 workers" in str(now(sqlite_store, id).error)


def test_an_end_whose_answer_is_lost_keeps_the_file(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.answers["/disk"] = whole
    id = begin(sqlite_store, origin.url("/disk"))
    ready = Registrations.ready

    def committed_but_not_answered(self: Registrations, claim: Registration, **values: Any) -> None:
        ready(self, claim, **values)
        raise OperationalError("COMMIT", None, Exception("the connection is lost"))

    monkeypatch.setattr(Registrations, "ready", committed_but_not_answered)
    assert registrar.run(id) is None
    image = now(sqlite_store, id)
    assert image.state is ImageState.READY
    assert files(settings) == [image.location]


def test_an_end_that_was_not_committed_is_made_again(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.answers["/disk"] = whole
    id = begin(sqlite_store, origin.url("/disk"))

    def lost(self: Registrations, claim: Registration, **values: Any) -> None:
        raise OperationalError("COMMIT", None, Exception("the connection is lost"))

    with monkeypatch.context() as patched:
        patched.setattr(Registrations, "ready", lost)
        assert registrar.run(id) is None
    with writing(sqlite_store.engine) as connection:  # its lease runs out
        connection.execute(update(images).where(images.c.id == id).values(lease_until=1.0))
    assert registrar.run(id) is ImageState.READY
    assert files(settings) == [now(sqlite_store, id).location]
