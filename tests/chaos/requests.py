"""The documents that callers send: with the account's secrets in them, or with a stored account."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from publisher.core.image import image_uri
from publisher.devcloud.cloud import DevCloud
from tests.chaos.callers import Order
from tests.clouds import publish_body
from tests.stack import Stack

_STORED = {"@type": "CredAccountOpenStack", "name": "of the callers"}


@dataclass(frozen=True)
class Requests:
    cloud: DevCloud
    glance_url: str
    """Glance's address as the service sees it."""

    def store_account(self, door: Stack) -> None:
        """Store the account that some orders name. It has the same values as the one that the others send."""
        account = publish_body(self.cloud, "", account__glanceUrl=self.glance_url)["credAccount"] | _STORED
        sent = json.dumps(account).encode()
        answer = door.call("POST", "users/root/accounts", sent, content_type="application/json")
        assert answer.status == 201, answer.body

    def publish(self, order: Order) -> dict[str, Any]:
        uri = image_uri("root", 4, order.image_id)
        body = publish_body(self.cloud, uri, displayName=order.name, account__glanceUrl=self.glance_url)
        if order.stored_account:
            body["credAccount"] = _STORED
        return body | order.elements

    def withdraw(self, order: Order) -> dict[str, Any] | None:
        """Return the account to withdraw with. None: the ticket's own, which is stored."""
        if order.stored_account:
            return None
        account: dict[str, Any] = self.publish(order)["credAccount"]
        return account
