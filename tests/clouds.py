"""Helpers for tests with an OpenStack cloud: publish requests for it, and a client that reads its images."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from publisher.devcloud.cloud import DevCloud
from tests.patience import PATIENCE

_tokens: dict[tuple[str, str], str] = {}
"""The last token by Keystone's address and the user's password, so that most tests need not sign in."""
_projects: dict[tuple[str, str], str] = {}
"""The project of each token, by the same."""

_JSON_PATCH = "application/openstack-images-v2.1-json-patch"


@dataclass(frozen=True)
class Glance:
    """A plain REST client that shares no code with the publisher."""

    cloud: DevCloud
    user: str = "uploader"

    def images(self, ticket: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return all images of the user's project, or those of one ticket, in any state."""
        listed: dict[str, Any] = self.rest("GET", "/v2/images?limit=1000")
        images: list[dict[str, Any]] = listed["images"]
        if ticket is None:
            return images
        return [image for image in images if image.get("publisher_ticket_uri") == ticket["uri"]]

    def hidden_images(self) -> list[dict[str, Any]]:
        """Return all hidden images of the user's project, which Glance lists only on their own."""
        listed: dict[str, Any] = self.rest("GET", "/v2/images?os_hidden=true&limit=1000")
        images: list[dict[str, Any]] = listed["images"]
        return images

    def data(self, image_id: str) -> bytes:
        raw = self.rest("GET", f"/v2/images/{image_id}/file", raw=True)
        assert isinstance(raw, bytes)
        return raw

    def delete(self, image_id: str) -> None:
        self.rest("DELETE", f"/v2/images/{image_id}")

    def empty(self) -> None:
        """Delete all images of the user's project, protected ones, too."""
        listed = [*self.images(), *self.hidden_images()]
        project = _projects[self.cloud.keystone_url, self.cloud.password(self.user)]
        for image in listed:
            if image["owner"] != project:
                continue  # public, or shared with the project
            if image["protected"]:
                unprotected = {"op": "replace", "path": "/protected", "value": False}
                self.rest("PATCH", f"/v2/images/{image['id']}", [unprotected])
            self.delete(image["id"])

    def rest(self, method: str, path: str, body: object = None, *, raw: bool = False, token: str | None = None) -> Any:
        """Send a request and return the answer. `token`: as somebody else."""
        who = self.cloud.keystone_url, self.cloud.password(self.user)
        try:
            found = self._ask(method, path, body, token or _tokens.get(who) or self._token())
        except urllib.error.HTTPError as error:
            if error.code != 401 or token:
                raise
            # The token has expired. Some tests make tokens last only for seconds.
            found = self._ask(method, path, body, self._token())
        if raw:
            return found
        return json.loads(found) if found else None

    def _ask(self, method: str, path: str, body: object, token: str) -> bytes:
        request = urllib.request.Request(  # noqa: S310
            self.cloud.glance_url + path,
            json.dumps(body).encode() if body is not None else None,
            {"X-Auth-Token": token, "Content-Type": _JSON_PATCH if method == "PATCH" else "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60 * PATIENCE) as answer:  # noqa: S310
            found: bytes = answer.read()
        return found

    def _token(self) -> str:
        env = self.cloud.env(self.user)
        domain = {"name": env["OS_USER_DOMAIN_NAME"]}
        user = {"name": env["OS_USERNAME"], "domain": domain, "password": env["OS_PASSWORD"]}
        scope = {"project": {"name": env["OS_PROJECT_NAME"], "domain": {"name": env["OS_PROJECT_DOMAIN_NAME"]}}}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        request = urllib.request.Request(  # noqa: S310
            f"{self.cloud.keystone_url}/v3/auth/tokens", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60 * PATIENCE) as answer:  # noqa: S310
            token, given = str(answer.headers["X-Subject-Token"]), json.load(answer)
        _tokens[self.cloud.keystone_url, env["OS_PASSWORD"]] = token
        _projects[self.cloud.keystone_url, env["OS_PASSWORD"]] = given["token"]["project"]["id"]
        return token


def publish_body(cloud: DevCloud, image_uri: str, *, user: str = "uploader", **changes: Any) -> dict[str, Any]:
    """Return a publish request to the development cloud. Changes of the account have names like `account__login`."""
    env = cloud.env(user)
    account: dict[str, Any] = {
        "@type": "CredAccountOpenStack",
        "glanceUrl": cloud.glance_url,
        "keystoneUrl": cloud.keystone_url,
        "login": env["OS_USERNAME"],
        "password": env["OS_PASSWORD"],
        "keystoneVersion": "v3",
    }
    body: dict[str, Any] = {
        "@type": "PublishImageOpenStack",
        "imageUri": image_uri,
        "credAccount": account,
        "keystoneDomain": env["OS_PROJECT_DOMAIN_NAME"],
        "keystoneProject": env["OS_PROJECT_NAME"],
        "displayName": "An image of the tests",
    }
    for name, value in changes.items():
        into, key = (account, name.removeprefix("account__")) if name.startswith("account__") else (body, name)
        if value is None:
            into.pop(key, None)
        else:
            into[key] = value
    return body
