"""A registration that is interrupted or taken over leaves no file behind, and deletes no file of another worker."""

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
from publisher.store.database import images, writing
from publisher.store.registrations import Registration, Registrations
from tests.patience import PATIENCE
from tests.records import OWNER
from tests.unit.workers.registration.origin import Origin, begin, files, now, start, whole
from workers.registration import Registrar


def trickle(origin: Origin) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return an answer that sends small pieces until the test releases it."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start(handler, 200, **{"Content-Length": str(100 << 20)})
        try:
            while not origin.released.wait(0.005):
                handler.wfile.write(b"x" * 4096)
                origin.going.set()
        except OSError:
            pass  # the client hangs up, as expected

    return answer


@pytest.mark.long
@pytest.mark.parametrize(("how", "state"), [("cancelled", ImageState.CANCELLED), ("shut down", ImageState.QUEUED)])
def test_fetch_from_a_stalled_server_stops_at_once(
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


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "state", "returned", "attempts"),
    [
        ("cancelled", ImageState.CANCELLED, None, 1),
        ("taken over", ImageState.FETCHING, None, 1),
        ("shut down", ImageState.QUEUED, ImageState.QUEUED, 0),
    ],
)
def test_interrupted_fetch_stops_and_leaves_no_file(
    sqlite_store: Store, settings: Settings, origin: Origin, registrar: Registrar, how: str, state: ImageState,
    returned: ImageState | None, attempts: int,
) -> None:  # fmt: skip
    """An attempt that a shutdown interrupts does not count."""
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
        threading.Event().wait(0.01)  # a separate thread writes the progress
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


def test_files_of_an_earlier_attempt_are_removed(
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
    # If the image is generated again, its previous file is deleted.
    sqlite_store.registrations.again(OWNER, 4, id)
    assert registrar.run(id) is ImageState.READY
    assert files(settings) == [now(sqlite_store, id).location]


def test_paused_worker_deletes_no_file_of_its_successor(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.answers["/disk"] = whole
    id = begin(sqlite_store, origin.url("/disk"))
    others = settings.images / ".incoming" / f"{id}-2"
    claim = sqlite_store.registrations.claim

    def paused(*arguments: Any) -> Any:
        """Return a claim whose lease has run out, while another worker is in the middle of fetching."""
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


def test_file_is_kept_if_the_answer_to_its_commit_is_lost(
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


def test_registration_whose_commit_failed_is_repeated(
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
