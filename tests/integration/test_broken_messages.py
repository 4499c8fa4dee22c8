"""Broken messages in the broker end no worker and do not return, and tickets are published as before."""

from __future__ import annotations

import json
import os
import uuid
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import amqp
import pytest
import redis as redis_client

from publisher.core.ticket import State
from publisher.core.vault import Vault
from publisher.services.wakeups import PUBLISH_TASK, QUEUE_NAME, REGISTER_TASK
from tests.records import add_image, add_ticket, current
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer
from tests.stack import Stack, until

pytestmark = pytest.mark.real

EMBEDDED: dict[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
HEADERS: dict[str, Any] = {"lang": "py", "task": PUBLISH_TASK, "id": "x", "root_id": "x", "parent_id": None}
NO_DICTIONARY = [None, 7, "text", [], [1, 2]]
DEEP = "[" * 60_000 + "]" * 60_000
HUGE = json.dumps([["x" * (8 << 20)], {}, EMBEDDED])

BODIES = {
    "empty": "",
    "no JSON": "{",
    "deep": DEEP,
    "huge": HUGE,
    "a number": "7",
    "null": "null",
    "an object": "{}",
    "short": "[[1]]",
    "no arguments": json.dumps([[], {}, EMBEDDED]),
    "too many arguments": json.dumps([[1, 2, 3], {}, EMBEDDED]),
    "keywords": json.dumps([[], {"other": 1}, EMBEDDED]),
    "keywords that are none": json.dumps([[1], 5, EMBEDDED]),
    "arguments that are none": json.dumps([5, {}, EMBEDDED]),
    "embedded in nothing": json.dumps([[1], {}, None]),
    "callbacks": json.dumps([[1], {}, EMBEDDED | {"callbacks": 5, "errbacks": "x", "chain": [1], "chord": {}}]),
    "a special type": json.dumps([[{"__type__": "datetime", "__value__": "yesterday"}], {}, EMBEDDED]),
    **{
        f"the id {id!r}": json.dumps([[id], {}, EMBEDDED])
        for id in (None, -1, 1.5, 2**80, True, "7", "' OR 1=1", [1], {"a": 1})
    },
}
OTHER_HEADERS: dict[str, Any] = {
    "none": {},
    "unknown task": HEADERS | {"task": "os.system"},
    "no name": HEADERS | {"task": None},
    "a number for a name": HEADERS | {"task": 7},
    "a list for a name": HEADERS | {"task": ["publisher.publish"]},
    "a table for a name": HEADERS | {"task": {"a": 1}},
    "no id": {"task": PUBLISH_TASK},
    "a table for an id": HEADERS | {"id": {"a": 1}},
    "a list for an id": HEADERS | {"id": [1]},
    "for later": HEADERS | {"eta": "2999-01-01T00:00:00+00:00"},
    "no time": HEADERS | {"eta": "later"},
    "a number for a time": HEADERS | {"eta": 5},
    "expires": HEADERS | {"expires": "soon"},
    "a list that expires": HEADERS | {"expires": [1]},
    "time limits": HEADERS | {"timelimit": "x"},
    "more time limits": HEADERS | {"timelimit": [1, 2, 3]},
    "time limits of words": HEADERS | {"timelimit": ["a", "b"]},
    "retries": HEADERS | {"retries": "many"},
    "a surrogate": HEADERS | {"id": "\ud800", "argsrepr": "\ud800"},
    "stamps": HEADERS | {"stamped_headers": 5, "stamps": 7},
    "compressed": HEADERS | {"compression": "zlib"},
    "compressed by nobody": HEADERS | {"compression": "x"},
    "another task's": HEADERS | {"task": REGISTER_TASK, "id": str(uuid.uuid4())},
}
TYPES = [
    ("application/x-python-serialize", "binary"),
    ("application/json", "klingon"),
    ("application/json", "binary"),
    ("text/plain", "utf-8"),
    ("a type of my own", "utf-8"),
    ("", ""),
]
GOOD = json.dumps([[10**9], {}, EMBEDDED])


def envelope(body: Any = GOOD, **values: Any) -> dict[str, Any]:
    """Return a message as kombu stores it in Redis."""
    plain = {
        "body": b64encode(body.encode("utf-8", "surrogatepass")).decode() if isinstance(body, str) else body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": HEADERS,
        "properties": {
            "delivery_tag": str(uuid.uuid4()),
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": QUEUE_NAME},
            "priority": 0,
        },
    }
    return plain | values


def of_redis() -> Iterator[bytes]:
    yield from [b"", b"garbage", b"\xff\xfe\x00", b"{", b'{"body": NaN}', DEEP.encode(), b"\x80" * (1 << 20)]
    for each in NO_DICTIONARY:
        yield json.dumps(each).encode()
        for name in envelope():
            yield json.dumps(envelope() | {name: each}).encode()
        for name in envelope()["properties"]:
            yield json.dumps(envelope(properties=envelope()["properties"] | {name: each})).encode()
    for name in envelope():
        yield json.dumps({key: value for key, value in envelope().items() if key != name}).encode()
    yield json.dumps(envelope(properties={})).encode()
    for body in BODIES.values():
        yield json.dumps(envelope(body)).encode()
    for headers in OTHER_HEADERS.values():
        yield json.dumps(envelope(headers=headers)).encode()
    for kind, encoding in TYPES:
        yield json.dumps(envelope(**{"content-type": kind, "content-encoding": encoding})).encode()


def of_rabbitmq() -> Iterator[amqp.Message]:
    def message(body: str | bytes = GOOD, **values: Any) -> amqp.Message:
        plain = {"content_type": "application/json", "content_encoding": "utf-8", "application_headers": HEADERS}
        # amqp would encode text with the encoding that the message names.
        given = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        return amqp.Message(given, **(plain | values))

    yield amqp.Message("nothing said of it")
    for body in BODIES.values():
        yield message(body)
    for junk in (b"", b"garbage", b"\xff\xfe", bytes(range(256))):
        yield message(junk)
    for headers in OTHER_HEADERS.values():
        yield message(application_headers=headers)
    for kind, encoding in TYPES:
        yield message(content_type=kind, content_encoding=encoding)
    # Bytes that are not UTF-8, where text is expected.
    yield message(application_headers={"task": b"\xff\xfe"})
    yield message(application_headers=HEADERS | {"id": b"\xff\xfe"})
    yield message(correlation_id="x" * 255, reply_to="nobody", priority=255, expiration="100000")


def assert_it_goes_on(stack: Stack) -> None:
    """Check that the worker that received these messages still publishes a ticket."""
    image = add_image(stack.store, stack.settings.images, os.urandom(1000))
    secrets = Vault.from_file(stack.settings.key_file).seal({"password": "of the cloud"})
    ticket = add_ticket(stack.store, image_id=image.id, image_size=image.size, sealed_secrets=secrets)
    until(lambda: current(stack.store, ticket).final, 120, stack._explain)
    assert current(stack.store, ticket).state is State.PUBLISHED, current(stack.store, ticket).error
    (worker,) = stack.workers
    assert worker.process.poll() is None
    assert str(worker.process.pid) in str(current(stack.store, ticket).worker)


def test_worker_survives_broken_messages_from_redis(tmp_path: Path, redis: RedisServer) -> None:
    client = redis_client.Redis.from_url(redis.url)
    client.delete(QUEUE_NAME)
    with Stack.in_directory(tmp_path / "data", redis.url) as stack:
        for number, each in enumerate(of_redis()):
            client.lpush(QUEUE_NAME, each)
            if number % 20 == 0:  # also to the channel that all workers listen to
                client.publish("/0.celery.pidbox", each)
        until(lambda: client.llen(QUEUE_NAME) == 0, 120, stack._explain)
        assert_it_goes_on(stack)
    assert client.llen(QUEUE_NAME) == 0
    client.close()


def test_worker_survives_broken_messages_from_rabbitmq(tmp_path: Path, rabbitmq: RabbitServer) -> None:
    address = urlsplit(rabbitmq.url)
    # With confirmations, because the queue does not count a message that is still on its way.
    with amqp.Connection(
        address.netloc.rpartition("@")[2], virtual_host=rabbitmq.virtual_host, confirm_publish=True
    ) as connection:
        channel = connection.channel()
        with Stack.in_directory(tmp_path / "data", rabbitmq.url) as stack:
            channel.queue_purge(QUEUE_NAME)
            for each in of_rabbitmq():
                channel.basic_publish(each, routing_key=QUEUE_NAME)
            until(lambda: channel.queue_declare(QUEUE_NAME, passive=True).message_count == 0, 120, stack._explain)
            assert_it_goes_on(stack)
        # The worker has ended: a message that it had not acknowledged would be in the queue again.
        assert channel.queue_declare(QUEUE_NAME, passive=True).message_count == 0
