"""Administration of the development cloud for tests, over Keystone's v3 API and its database."""

from __future__ import annotations

import json
import sqlite3
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from publisher.devcloud.cloud import DevCloud

PASSWORD = "hunter2-of-this-user"


@dataclass
class Administrator:
    """An administrator of the cloud. Use `of` as a context: at its end, everything that was created is deleted."""

    cloud: DevCloud
    _made: list[str] = field(default_factory=list)
    _token: str | None = None

    @classmethod
    @contextmanager
    def of(cls, cloud: DevCloud) -> Iterator[Administrator]:
        administrator = cls(cloud)
        try:
            yield administrator
        finally:
            for path in reversed(administrator._made):
                administrator.call("DELETE", path)

    def domain(self) -> dict[str, Any]:
        made = self.make("domain", name=f"domain-{uuid.uuid4().hex[:8]}")
        # `call` disables a domain before it deletes it.
        self._made.append(f"/domains/{made['id']}")
        return made

    def project(self, domain_id: str, *, enabled: bool = True) -> dict[str, Any]:
        made = self.make("project", name=f"project-{uuid.uuid4().hex[:8]}", domain_id=domain_id, enabled=enabled)
        self._made.append(f"/projects/{made['id']}")
        return made

    def user(
        self, domain_id: str, *projects: dict[str, Any], name: str | None = None, password: str = PASSWORD
    ) -> dict[str, Any]:
        """Create a member of these projects."""
        name = name or f"user-{uuid.uuid4().hex[:8]}"
        made = self.make("user", name=name, domain_id=domain_id, password=password)
        self._made.append(f"/users/{made['id']}")
        (role,) = self.call("GET", "/roles?name=member")["roles"]
        for project in projects:
            self.call("PUT", f"/projects/{project['id']}/users/{made['id']}/roles/{role['id']}")
        return made

    def image_endpoint(self, region: str, interface: str = "public", url: str | None = None) -> dict[str, Any]:
        (service,) = self.call("GET", "/services?type=image")["services"]
        if not any(each["id"] == region for each in self.call("GET", "/regions")["regions"]):
            self.make("region", id=region)
            self._made.append(f"/regions/{region}")
        address = url or self.cloud.glance_url
        made = self.make("endpoint", service_id=service["id"], interface=interface, region_id=region, url=address)
        self._made.append(f"/endpoints/{made['id']}")
        return made

    def let_password_expire(self, user: dict[str, Any]) -> None:
        """Make the user's password expire, as `password_expires_days` would with time."""
        with closing(sqlite3.connect(self.cloud.directory / "keystone" / "database.sqlite", timeout=60)) as database:
            expire = (
                "UPDATE password SET expires_at = '2020-01-01 00:00:00.000000', expires_at_int = 1577836800000000"
                " WHERE local_user_id IN (SELECT id FROM local_user WHERE user_id = ?)"
            )
            assert database.execute(expire, (user["id"],)).rowcount == 1
            database.commit()

    def application_credential(self, user: dict[str, Any], project: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Create an application credential of a user with the password `PASSWORD`."""
        given = {"name": f"credential-{uuid.uuid4().hex[:8]}"} | more
        path = f"/users/{user['id']}/application_credentials"
        made = self.call_as(user, project, "POST", path, {"application_credential": given})
        found: dict[str, Any] = made["application_credential"]
        # With its user, Keystone deletes it without its roles in SQLite, and refuses the next one of that number.
        self._made.append(f"{path}/{found['id']}")
        return found

    def trust(self, giver: dict[str, Any], taker: dict[str, Any], project: dict[str, Any]) -> dict[str, Any]:
        """Let a user act for another one, as a member of the project. It ends with the giver."""
        given = {
            "trustor_user_id": giver["id"],
            "trustee_user_id": taker["id"],
            "project_id": project["id"],
            "impersonation": True,
            "roles": [{"name": "member"}],
        }
        made: dict[str, Any] = self.call_as(giver, project, "POST", "/OS-TRUST/trusts", {"trust": given})["trust"]
        return made

    def call_as(self, user: dict[str, Any], project: dict[str, Any], method: str, path: str, body: object) -> Any:
        """Call Keystone as a user with the password `PASSWORD`."""
        token = self.token({"id": user["id"], "password": PASSWORD}, {"project": {"id": project["id"]}})
        return self._send(method, path, body, token)

    def token(self, user: dict[str, Any], scope: object = None) -> str:
        """Sign in and return the token. Without a scope, it is for no project."""
        auth = {"identity": {"methods": ["password"], "password": {"user": user}}}
        body = {"auth": auth | ({"scope": scope} if scope else {"scope": "unscoped"})}
        request = urllib.request.Request(  # noqa: S310
            f"{self.cloud.keystone_url}/v3/auth/tokens", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return str(answer.headers["X-Subject-Token"])

    def revoke(self, token: str) -> None:
        self._send("DELETE", "/auth/tokens", None, token, {"X-Subject-Token": token})

    def own_token(self, scope: object) -> str:
        """Return a token of the cloud's administrator."""
        env = self.cloud.env("admin")
        user = {"name": env["OS_USERNAME"], "domain": {"id": "default"}, "password": env["OS_PASSWORD"]}
        return self.token(user, scope)

    def make(self, kind: str, **attributes: Any) -> dict[str, Any]:
        made: dict[str, Any] = self.call("POST", f"/{kind}s", {kind: attributes})[kind]
        return made

    def call(self, method: str, path: str, body: object = None) -> Any:
        if method == "DELETE" and path.startswith("/domains/"):
            self.call("PATCH", path, {"domain": {"enabled": False}})
        return self._send(method, path, body, self._token or self._sign_in())

    def _send(self, method: str, path: str, body: object, token: str, more: Mapping[str, str] = {}) -> Any:
        headers = {"Content-Type": "application/json", "X-Auth-Token": token, **more}
        request = urllib.request.Request(  # noqa: S310
            f"{self.cloud.keystone_url}/v3{path}", json.dumps(body).encode() if body else None, headers, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            found = answer.read()
        return json.loads(found) if found else None

    def _sign_in(self) -> str:
        project = {"name": self.cloud.env("admin")["OS_PROJECT_NAME"], "domain": {"id": "default"}}
        self._token = self.own_token({"project": project})
        return self._token
