"""The cloud's users, and their creation: domains, projects, users, roles and the image endpoint."""

import http.client
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from publisher.devcloud.config import REGION, DevCloudError


@dataclass(frozen=True)
class CloudUser:
    """A user and the project they work in, both in the same domain."""

    name: str
    project: str
    domain: str


ADMIN = CloudUser("admin", "admin", "Default")
UPLOADER = CloudUser("uploader", "images", "lab")
STRANGER = CloudUser("stranger", "other", "lab")
DEMO = CloudUser("demo", "demo", "Default")

USERS: Mapping[str, CloudUser] = {user.name: user for user in (ADMIN, UPLOADER, STRANGER, DEMO)}

SERVICE_USER = "glance"
"""Glance's own user: it checks other users' tokens."""


class Identity:
    """Administration of Keystone through its v3 API, as the user `admin`.

    Each method raises DevCloudError if Keystone does not answer as expected.
    """

    def __init__(self, host: str, port: int, admin_password: str) -> None:
        self._host = host
        self._port = port
        self._token: str | None = None
        password = {
            "user": {
                "name": ADMIN.name,
                "domain": {"name": ADMIN.domain},
                "password": admin_password,
            }
        }
        scope = {"project": {"name": ADMIN.project, "domain": {"name": ADMIN.domain}}}
        request = {"auth": {"identity": {"methods": ["password"], "password": password}, "scope": scope}}
        _, headers = self._call("POST", "/auth/tokens", request)
        self._token = headers["X-Subject-Token"]

    def populate(self, passwords: Mapping[str, str], *, image_url: str) -> None:
        """Create everything that the bootstrap has not created. `passwords` are by user name and include Glance's."""
        roles = {role["name"]: role["id"] for role in self._get("/roles")["roles"]}
        self._create_glance(roles, passwords[SERVICE_USER], image_url)
        users = [user for user in USERS.values() if user != ADMIN]
        domains = self._domains(user.domain for user in users)
        for user in users:
            domain = domains[user.domain]
            project = self._create("project", name=user.project, domain_id=domain)
            person = self._create("user", name=user.name, domain_id=domain, password=passwords[user.name])
            self._put(f"/projects/{project}/users/{person}/roles/{roles['member']}")

    def _create_glance(self, roles: Mapping[str, str], password: str, image_url: str) -> None:
        project = self._create("project", name="service", domain_id="default")
        person = self._create("user", name=SERVICE_USER, domain_id="default", password=password)
        self._put(f"/projects/{project}/users/{person}/roles/{roles['service']}")
        # Needed to read the limits and the catalog if unified limits are on.
        self._put(f"/system/users/{person}/roles/{roles['reader']}")
        service = self._create("service", name="glance", type="image")
        for interface in ("public", "internal", "admin"):
            self._create("endpoint", service_id=service, interface=interface, url=image_url, region_id=REGION)

    def _domains(self, names: Iterable[str]) -> dict[str, str]:
        """Return the ids of the domains. Creates them, except the one that always exists."""
        ids = {"Default": "default"}
        for name in names:
            if name not in ids:
                ids[name] = self._create("domain", name=name)
        return ids

    def _create(self, kind: str, **attributes: str) -> str:
        body, _ = self._call("POST", f"/{kind}s", {kind: attributes})
        new: str = body[kind]["id"]
        return new

    def _get(self, path: str) -> Any:
        return self._call("GET", path)[0]

    def _put(self, path: str) -> None:
        self._call("PUT", path)

    def _call(self, method: str, path: str, body: object = None) -> tuple[Any, http.client.HTTPMessage]:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._token is not None:
            headers["X-Auth-Token"] = self._token
        connection = http.client.HTTPConnection(self._host, self._port, timeout=30)
        try:
            connection.request(method, f"/v3{path}", None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise DevCloudError(f"Keystone did not answer {method} {path} ({error}): read its log") from error
        finally:
            connection.close()
        if answer.status not in (200, 201, 204):
            said = content.decode(errors="replace")
            raise DevCloudError(f"Keystone answered {answer.status} to {method} {path}, read its log: {said}")
        return json.loads(content) if content else None, answer.headers
