"""The messages that wake workers are those that kombu itself would send."""

from __future__ import annotations

import json
from typing import Any

from kombu.connection import Connection

from publisher.services.wake_messages import redis_value, wake_messages
from publisher.services.wakeups import PUBLISH_TASK, QUEUE


def stored_by_kombu(body: object, headers: dict[str, Any], correlation_id: str) -> Any:
    """Return a message as kombu's transports without a protocol of their own store it, Redis among them."""
    with Connection("memory://") as connection:
        QUEUE(connection.default_channel).declare()
        connection.Producer().publish(
            body,
            exchange="",
            routing_key=QUEUE.name,
            serializer="json",
            delivery_mode="persistent",
            headers=headers,
            correlation_id=correlation_id,
        )
        channel: Any = connection.default_channel
        return channel._get(QUEUE.name)


def test_a_message_is_stored_as_kombu_stores_it() -> None:
    (message,) = wake_messages(PUBLISH_TASK, [4711])
    stored = json.loads(redis_value(message, QUEUE.name))
    kombus = stored_by_kombu(json.loads(message.body), message.headers, message.task_id)
    assert kombus["properties"].pop("delivery_tag") != stored["properties"].pop("delivery_tag")
    assert stored == kombus


def test_each_message_has_its_own_tag_and_task() -> None:
    stored = [json.loads(redis_value(each, QUEUE.name)) for each in wake_messages(PUBLISH_TASK, [1, 1, 2])]
    assert len({each["properties"]["delivery_tag"] for each in stored}) == 3
    assert len({each["headers"]["id"] for each in stored}) == 3


def test_a_name_may_have_any_character() -> None:
    (message,) = wake_messages('a "100 %(id)s" task', [1])
    stored = json.loads(redis_value(message, "50 %s"))
    assert stored["headers"] == message.headers
    assert stored["properties"]["delivery_info"]["routing_key"] == "50 %s"
