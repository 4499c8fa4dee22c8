"""The messages that wake workers. Each contains only an id, so whoever reads the broker learns nothing.

They follow Celery's protocol (docs.celeryq.dev, "Message Protocol", version 2).
"""

from __future__ import annotations

import json
import socket
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from publisher.core.uris import unique_ids

_ORIGIN = f"publisher@{socket.gethostname()}"
_EMBEDDED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


@dataclass(frozen=True, slots=True)
class WakeMessage:
    """A message for one ticket or image."""

    task_id: str
    body: str
    headers: dict[str, Any]


CONTENT_TYPE, CONTENT_ENCODING = "application/json", "utf-8"
"""What the body is."""
PERSISTENT = 2
"""The delivery mode: the broker keeps the message when it restarts."""


def wake_messages(task: str, ids: Sequence[int]) -> list[WakeMessage]:
    """Return a message for each ticket or image."""
    return [_message(task, id, task_id) for id, task_id in zip(ids, unique_ids(len(ids)), strict=True)]


def _message(task: str, id: int, task_id: str) -> WakeMessage:
    headers = {
        "lang": "py",
        "task": task,
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "group": None,
        "argsrepr": f"({id},)",
        "kwargsrepr": "{}",
        "origin": _ORIGIN,
    }
    return WakeMessage(task_id, json.dumps(([id], {}, _EMBEDDED)), headers)


def redis_value(message: WakeMessage, queue: str) -> str:
    """Return a message as kombu stores it in a Redis list."""
    return json.dumps(
        {
            "body": b64encode(message.body.encode()).decode(),
            "content-encoding": CONTENT_ENCODING,
            "content-type": CONTENT_TYPE,
            "headers": message.headers,
            "properties": {
                "correlation_id": message.task_id,
                "delivery_mode": PERSISTENT,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                # By this, a worker acknowledges the message. It must be another one for each.
                "delivery_tag": message.task_id,
            },
        }
    )
