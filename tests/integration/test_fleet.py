"""Real workers report their state, and drain on request, with a real broker and a real cloud."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from publisher.core.ticket import State
from publisher.devcloud.cloud import DevCloud
from publisher.store.fleet import WorkerStanding, WorkerState
from tests.clouds import Glance, publish_body
from tests.patience import PATIENCE
from tests.proxy import Proxy
from tests.servers.redis import RedisServer
from tests.stack import Stack, Worker, until

pytestmark = pytest.mark.real

MIB = 1 << 20
URI = "users/root/appliances/4/images/7"
SILENT = 2.0


def standing(stack: Stack, worker: Worker) -> WorkerStanding | None:
    return next((each for each in stack.store.fleet.workers() if each.member.pid == worker.process.pid), None)


def in_state(stack: Stack, worker: Worker, state: WorkerState) -> None:
    def there() -> bool:
        found = standing(stack, worker)
        return found is not None and found.state(SILENT) is state

    until(there, 20, lambda: f"{stack.store.fleet.workers()}")


def test_worker_list_shows_alive_killed_and_stopped_workers(tmp_path: Path, redis: RedisServer) -> None:
    with Stack.in_directory(tmp_path / "data", redis.url, workers=2, heartbeat_seconds=0.2) as stack:
        killed, ended = stack.workers
        for number, worker in enumerate(stack.workers):
            in_state(stack, worker, WorkerState.ALIVE)
            found = standing(stack, worker)
            assert found is not None
            assert found.member.node.startswith(f"worker{number}@")
            assert found.member.name == f"{found.member.host}-{worker.process.pid}"
        killed.kill()
        in_state(stack, killed, WorkerState.SILENT)
        ended.process.terminate()
        assert ended.process.wait(10 * PATIENCE) == 0
        in_state(stack, ended, WorkerState.STOPPED)


def test_worker_that_is_asked_to_drain_ends_its_upload_and_exits(
    tmp_path: Path, redis: RedisServer, devcloud: DevCloud, glance: Glance
) -> None:
    file = tmp_path / "image.raw"
    file.write_bytes(os.urandom(16 * MIB))
    with (
        Stack.in_directory(tmp_path / "data", redis.url, heartbeat_seconds=0.2) as stack,
        Proxy(devcloud.glance_url, bytes_per_second=6 * MIB) as slow,
    ):
        stack.add_image(file, id=7)
        (worker,) = stack.workers
        short = stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url))
        until(lambda: stack.status(short)["percentage"] >= 5, 30)
        found = standing(stack, worker)
        assert found is not None
        assert found.ticket_ids == [short["dbId"]]
        stack.store.fleet.ask_to_drain(found.member.name)
        in_state(stack, worker, WorkerState.DRAINING)
        until(lambda: b"Warm shutdown" in worker.log.read_bytes(), 10)
        waiting = stack.publish(publish_body(devcloud, URI))
        assert worker.process.wait(30 * PATIENCE) == 0
        in_state(stack, worker, WorkerState.STOPPED)
        assert stack.status(short)["published"]
        assert stack.store.tickets.get(short["dbId"]).attempt == 1  # type: ignore[union-attr]  # it is there
        assert stack.store.tickets.get(waiting["dbId"]).state is State.QUEUED  # type: ignore[union-attr]
        samples = stack.store.tickets.samples(short["dbId"])
        assert (samples[0].sent, samples[-1].sent) == (0, 16 * MIB)
        assert len(samples) > 2
        assert [each.sent for each in samples] == sorted(each.sent for each in samples)
        stack.add_worker()
        assert stack.wait(waiting)["published"], "nothing was lost"
