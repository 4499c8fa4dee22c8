"""The messages that wake workers. Each contains only an id, so whoever reads the broker learns nothing.

They follow Celery's protocol (docs.celeryq.dev, "Message Protocol", version 2).
"""

from __future__ import annotations

import json
import socket
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from publisher.core.uris import unique_ids

_ORIGIN = f"publisher@{socket.gethostname()}"
_EMBEDDED = json.dumps({"callbacks": None, "errbacks": None, "chain": None, "chord": None})
_TEMPLATES_KEPT = 16

CONTENT_TYPE, CONTENT_ENCODING = "application/json", "utf-8"
"""What the body is."""
PERSISTENT = 2
"""The delivery mode: the broker keeps the message when it restarts."""


@dataclass(frozen=True, slots=True)
class WakeMessage:
    """A message for one ticket, image or check."""

    task: str
    id: int
    task_id: str

    @property
    def body(self) -> str:
        return f"[[{self.id}], {{}}, {_EMBEDDED}]"

    @property
    def headers(self) -> dict[str, Any]:
        return _headers(self.task, str(self.id), self.task_id)


def wake_messages(task: str, ids: Sequence[int]) -> list[WakeMessage]:
    """Return a message for each ticket, image or check."""
    return [WakeMessage(task, id, task_id) for id, task_id in zip(ids, unique_ids(len(ids)), strict=True)]


def redis_value(message: WakeMessage, queue: str) -> str:
    """Return a message as kombu stores it in a Redis list."""
    body = b64encode(message.body.encode()).decode()
    return _stored(message.task, queue) % {"body": body, "id": message.id, "task_id": message.task_id}


@lru_cache(_TEMPLATES_KEPT)
def _stored(task: str, queue: str) -> str:
    """Return how messages are stored, with placeholders for what is different in each. Encoding JSON for each one takes
    four times as long."""
    task_id = "%(task_id)s"
    document = {
        "body": "%(body)s",
        "content-encoding": CONTENT_ENCODING,
        "content-type": CONTENT_TYPE,
        "headers": _headers(_literal(task), "%(id)d", task_id) | {"origin": _literal(_ORIGIN)},
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": PERSISTENT,
            "delivery_info": {"exchange": "", "routing_key": _literal(queue)},
            "priority": 0,
            "body_encoding": "base64",
            # By this, a worker acknowledges the message. It must be another one for each.
            "delivery_tag": task_id,
        },
    }
    return json.dumps(document)


def _headers(task: str, id: str, task_id: str) -> dict[str, Any]:
    return {
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


def _literal(text: str) -> str:
    """Return a text that `%` leaves as it is."""
    return text.replace("%", "%%")
