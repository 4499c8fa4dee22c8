"""Workers are woken over real brokers. A broker that is away causes an error in time."""

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from kombu.connection import Connection
from kombu.entity import Queue

from publisher.core.broker import Broker
from publisher.core.errors import QueueUnavailable
from publisher.core.settings import Settings
from publisher.services.wakeups import PUBLISH_TASK, QUEUE, WakeQueue
from tests.patience import PATIENCE
from tests.servers.process import free_port
from tests.servers.rabbitmq import OwnRabbit, RabbitServer
from tests.servers.redis import RedisServer, redis_server
from tests.servers.silent import silent_server

pytestmark = pytest.mark.real

BOUND_SECONDS = 3.0 * PATIENCE
"""Maximum time of a send, whatever the broker does."""


@pytest.fixture(params=["redis", "redis socket", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str:
    match request.param:
        case "rabbitmq":
            server: RabbitServer = request.getfixturevalue("rabbitmq")
            url = server.url
        case other:
            redis: RedisServer = request.getfixturevalue("redis")
            url = redis.url if other == "redis" else redis.socket_url
    with Connection(url) as connection:
        QUEUE(connection.default_channel).declare()
        QUEUE(connection.default_channel).purge()
    return url


SILENCE_SECONDS = 1.0
"""How long a queue waits for a broker that never answers. Other brokers get PATIENCE seconds."""


@pytest.fixture
def open_queue() -> Iterator[Callable[..., WakeQueue]]:
    opened: list[WakeQueue] = []

    def open_(url: str, timeout_seconds: float = PATIENCE) -> WakeQueue:
        opened.append(WakeQueue(Broker(url), timeout_seconds=timeout_seconds))
        return opened[-1]

    yield open_
    for each in opened:
        each.close()


def take(url: str) -> Any:
    """Take the next message from the broker and return it."""
    with Connection(url) as connection:
        message = QUEUE(connection.default_channel).get(no_ack=True)
        assert message is not None
        return message


def refused(queue: WakeQueue) -> QueueUnavailable:
    """Return the error of a send that must fail within BOUND_SECONDS."""
    began = time.monotonic()
    with pytest.raises(QueueUnavailable) as raised:
        queue.send(1)
    assert time.monotonic() - began < BOUND_SECONDS
    return raised.value


# The message ----------------------------------------------------


def test_a_message_holds_the_id_and_nothing_else(broker_url: str, open_queue: Callable[..., WakeQueue]) -> None:
    open_queue(broker_url).send(4711)
    message = take(broker_url)
    assert message.content_type == "application/json"
    arguments, keywords, embedded = json.loads(message.body)
    assert (arguments, keywords) == ([4711], {})
    assert not any(embedded.values())
    assert message.headers["task"] == PUBLISH_TASK
    told = {name: value for name, value in message.headers.items() if value not in (None, "")}
    assert set(told) <= {"lang", "task", "id", "root_id", "argsrepr", "kwargsrepr", "origin"}
    assert told["argsrepr"] == "(4711,)"
    assert message.properties["correlation_id"] == told["id"]


def test_each_message_is_a_separate_task(broker_url: str, open_queue: Callable[..., WakeQueue]) -> None:
    queue = open_queue(broker_url)
    queue.send(1)
    queue.send(1)
    assert take(broker_url).headers["id"] != take(broker_url).headers["id"]


def test_celery_worker_consumes_the_messages(
    broker_url: str, open_queue: Callable[..., WakeQueue], tmp_path: Path
) -> None:
    queue = open_queue(broker_url)
    queue.send(1)  # this one waits already, and two more come while the worker runs
    command = [sys.executable, "-m", "tests.servers.celery_worker", broker_url, QUEUE.name, PUBLISH_TASK]
    with (
        (tmp_path / "worker.log").open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=Path(__file__).parents[2]) as worker,
    ):
        assert worker.stdout is not None
        try:
            lines = iter(worker.stdout.readline, b"")
            received = [next(line for line in lines if line.strip().isdigit())]
            queue.send(2)
            queue.send(3)
            received += [next(lines), next(lines)]
            assert [int(line) for line in received] == [1, 2, 3]
        except StopIteration:
            pytest.fail((tmp_path / "worker.log").read_text())
        finally:
            worker.terminate()


def test_threads_share_one_queue(broker_url: str, open_queue: Callable[..., WakeQueue]) -> None:
    queue = open_queue(broker_url)

    def send_ten(first: int) -> None:
        for each in range(10):
            queue.send(first + each)

    threads = [threading.Thread(target=send_ten, args=(first,)) for first in range(0, 80, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30 * PATIENCE)
    assert sorted(json.loads(take(broker_url).body)[0][0] for _ in range(80)) == list(range(80))


def test_messages_of_one_call_go_out_together(
    broker_url: str, open_queue: Callable[..., WakeQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[list[int]] = []
    publish = WakeQueue._publish

    def note(queue: WakeQueue, task: str, ids: Sequence[int]) -> None:
        sent.append(list(ids))
        publish(queue, task, ids)

    monkeypatch.setattr(WakeQueue, "_publish", note)
    queue = open_queue(broker_url)
    queue.send(1, 2)
    queue.send_image(3, 4)
    assert sent == [[1, 2], [3, 4]]
    received = [take(broker_url) for _ in range(4)]
    assert sorted(json.loads(each.body)[0][0] for each in received) == [1, 2, 3, 4]
    assert [each.headers["task"] for each in received].count(PUBLISH_TASK) == 2
    assert len({each.headers["id"] for each in received}) == 4


def test_the_queue_is_declared_once_for_each_connection(
    broker_url: str, open_queue: Callable[..., WakeQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    declared: list[str] = []
    declare: Callable[..., Any] = Queue.declare

    def note(queue: Queue, *given: Any, **named: Any) -> Any:
        declared.append(queue.name)
        return declare(queue, *given, **named)

    monkeypatch.setattr(Queue, "declare", note)
    queue = open_queue(broker_url)
    queue.send(1)
    queue.send(2)
    assert declared == [QUEUE.name]
    queue.check()  # opens a new connection
    queue.send(3)
    assert declared == [QUEUE.name] * 2


# A broker that is away ------------------------------------------


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_refused_connection_is_reported_without_the_password(scheme: str, open_queue: Callable[..., WakeQueue]) -> None:
    queue = open_queue(f"{scheme}://somebody:hunter2@127.0.0.1:{free_port()}//")
    for _ in range(2):
        error = refused(queue)
        assert "hunter2" not in f"{error!r} {error.__cause__!r}"
        assert str(error) == "the message broker cannot be reached: Connection refused"


def test_missing_socket_is_reported_without_the_password(open_queue: Callable[..., WakeQueue]) -> None:
    error = refused(open_queue("redis+socket://:hunter2@/nowhere/redis.sock"))
    assert "hunter2" not in str(error)
    assert "cannot be reached" in str(error)


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_send_to_a_silent_broker_fails_in_time(scheme: str, open_queue: Callable[..., WakeQueue]) -> None:
    with silent_server() as port:
        queue = open_queue(f"{scheme}://somebody:hunter2@127.0.0.1:{port}//", SILENCE_SECONDS)
        for _ in range(2):
            assert "hunter2" not in str(refused(queue))


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_check_of_a_silent_broker_fails_in_time(scheme: str, open_queue: Callable[..., WakeQueue]) -> None:
    with silent_server() as port:
        queue = open_queue(f"{scheme}://127.0.0.1:{port}//", SILENCE_SECONDS)
        began = time.monotonic()
        with pytest.raises(QueueUnavailable):
            queue.check()
        assert time.monotonic() - began < BOUND_SECONDS
        refused(queue)


def test_check_of_a_working_broker_succeeds(broker_url: str, open_queue: Callable[..., WakeQueue]) -> None:
    queue = open_queue(broker_url)
    queue.check()
    queue.send(5)
    assert json.loads(take(broker_url).body)[0] == [5]


def test_error_of_a_wrong_password_does_not_contain_it(open_queue: Callable[..., WakeQueue]) -> None:
    with redis_server(password="right") as server:
        for login in (":hunter2@", ""):
            error = refused(open_queue(f"redis://{login}127.0.0.1:{server.port}/0"))
            assert "hunter2" not in str(error)
        queue = open_queue(server.url)
        queue.send(6)
        assert json.loads(take(server.url).body)[0] == [6]


def test_error_of_a_wrong_rabbitmq_login_does_not_contain_it(
    rabbitmq: RabbitServer, open_queue: Callable[..., WakeQueue]
) -> None:
    error = refused(open_queue(f"amqp://guest:hunter2@127.0.0.1:{rabbitmq.port}//"))
    assert "hunter2" not in str(error)


def test_messages_are_sent_again_after_redis_has_hung(open_queue: Callable[..., WakeQueue]) -> None:
    with redis_server() as server:
        queue = open_queue(server.url, SILENCE_SECONDS)
        queue.send(1)
        server.pause()
        refused(queue)
        server.resume()
        queue.send(2)
        # The message that was sent while Redis hung may arrive, too: it had reached the kernel.
        while json.loads(take(server.url).body)[0] != [2]:
            pass


def test_a_restarted_redis_is_reached_over_the_stale_connection(open_queue: Callable[..., WakeQueue]) -> None:
    with redis_server() as server:
        for url in (server.url, server.socket_url):
            queue = open_queue(url)
            queue.send(1)
            server.kill()
            server.start()
            queue.send(2)
            assert json.loads(take(server.url).body)[0] == [2]
            server.kill()
            refused(queue)
            server.start()
            queue.send(3)
            assert json.loads(take(server.url).body)[0] == [3]


def test_a_restarted_rabbitmq_is_reached_and_has_kept_its_messages(
    own_rabbitmq: OwnRabbit, open_queue: Callable[..., WakeQueue]
) -> None:
    with Connection(own_rabbitmq.url) as connection:
        QUEUE(connection.default_channel).declare()
    queue = open_queue(own_rabbitmq.url)
    queue.send(1)
    own_rabbitmq.kill()
    refused(queue)
    own_rabbitmq.start()
    queue.send(2)
    assert [json.loads(take(own_rabbitmq.url).body)[0] for _ in range(2)] == [[1], [2]]


def test_callers_of_a_silent_broker_do_not_wait_for_each_other(open_queue: Callable[..., WakeQueue]) -> None:
    """Each of the intake's dozens of threads must answer its caller although the broker is silent."""
    with silent_server() as port:
        queue = open_queue(f"redis://127.0.0.1:{port}/0", SILENCE_SECONDS)
        took: list[float] = []

        def call() -> None:
            began = time.monotonic()
            with pytest.raises(QueueUnavailable):
                queue.send(1)
            took.append(time.monotonic() - began)

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60 * PATIENCE)
        assert max(took) < BOUND_SECONDS


def test_error_does_not_contain_a_base64_password(open_queue: Callable[..., WakeQueue]) -> None:
    secret = base64.b64encode(b"hunter2").decode().strip("=")
    assert secret not in str(refused(open_queue(f"amqp://u:{secret}@127.0.0.1:{free_port()}//")))


def test_queue_opened_from_settings_can_be_closed_twice(redis: RedisServer) -> None:
    queue = WakeQueue.open(Settings(broker_url=redis.url, send_timeout_seconds=1.0))
    queue.check()
    queue.close()
    queue.close()
