"""A Keystone that speaks only the Identity API v2.0, because no real one can be installed any more.

It speaks real HTTP. Its documents come from keystoneauth1's fixtures, which also test the v2.0 clients.
"""

import json
import re
import ssl
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from keystoneauth1 import fixture

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_UNAUTHORIZED = "The request you have made requires authentication."


Answer = tuple[int, Mapping[str, object] | None]
"""A status and a document."""


class Refusal(Exception):
    """An error answer."""

    def __init__(self, status: int, title: str, message: str) -> None:
        self.status = status
        self.document = {"error": {"code": status, "title": title, "message": message}}


def unauthorized() -> Refusal:
    """Return the common answer to a wrong password, an unknown user and an unknown tenant."""
    return Refusal(401, "Unauthorized", _UNAUTHORIZED)


@dataclass
class KeystoneV2Stub:
    """A context manager that serves while it is entered. Every user belongs to every tenant.

    The roles are `_member_`, which v2.0 gave to everybody, and those that today's policies require. A v2.0
    Keystone has no implied roles, so `reader` must be listed, too.
    """

    glance_url: str
    """Glance's address in the catalog. It may be set later."""
    users: Mapping[str, str]
    """Passwords by user name."""
    tenants: Collection[str]
    token_seconds: int = 3600
    roles: tuple[str, ...] = ("_member_", "member", "reader")
    service_token: str = field(default_factory=lambda: uuid4().hex)
    """A token that may validate other tokens, like that of Glance's service user."""
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self._tokens: dict[str, fixture.V2Token] = {}
        self._ids: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        if self.tls:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """The root URL, without /v2.0."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def revoke_tokens(self) -> None:
        """Invalidate every issued token."""
        with self._lock:
            self._tokens.clear()

    def answer(self, method: str, path: str, token: str | None, body: Any) -> Answer:
        """Answer a request. Raises Refusal."""
        resource = path.partition("?")[0].rstrip("/") or "/"
        if method == "GET" and resource == "/":
            return 300, fixture.DiscoveryList(href=self.url, v2=True, v3=False)
        if method == "GET" and resource == "/v2.0":
            return 200, {"version": fixture.V2Discovery(f"{self.url}/v2.0")}
        if method == "POST" and resource == "/v2.0/tokens":
            return 200, self._authenticate(body)
        if method == "GET" and resource == "/v2.0/tenants":
            self._valid(token)
            tenants = [self.tenant(name) for name in sorted(self.tenants)]
            return 200, {"tenants": tenants, "tenants_links": []}
        named = re.fullmatch(r"/v2\.0/tokens/([^/]+)", resource)
        if named and method == "GET":
            return 200, self._validate(named[1], token)
        if named and method == "DELETE":
            return self._revoke(named[1], token)
        raise Refusal(404, "Not Found", "The resource could not be found.")

    def _authenticate(self, body: Any) -> fixture.V2Token:
        """POST /v2.0/tokens: sign in by password or by another token, with or without a tenant."""
        if not isinstance(body, dict) or not isinstance(body.get("auth"), dict):
            raise Refusal(400, "Bad Request", "Expecting to find auth in request body.")
        auth = body["auth"]
        if "passwordCredentials" in auth:
            user = self._user_by_password(auth["passwordCredentials"])
        elif "token" in auth:
            user = self._valid(auth["token"].get("id")).user_name
        else:
            raise unauthorized()
        return self._issue(user, self._tenant_of(auth))

    def _user_by_password(self, credentials: Mapping[str, str]) -> str:
        wanted = credentials.get("username")
        by_id = credentials.get("userId")
        for name, password in self.users.items():
            known = name == wanted or (by_id is not None and self._id("user", name) == by_id)
            if known and password == credentials.get("password"):
                return name
        raise unauthorized()

    def _tenant_of(self, auth: Mapping[str, str]) -> str | None:
        if not auth.get("tenantName") and not auth.get("tenantId"):
            return None
        for name in self.tenants:
            if name == auth.get("tenantName") or self._id("tenant", name) == auth.get("tenantId"):
                return name
        raise unauthorized()

    def _issue(self, user: str, tenant: str | None) -> fixture.V2Token:
        now = datetime.now(UTC)
        token = fixture.V2Token(
            issued=now.strftime(_TIME),
            expires=(now + timedelta(seconds=self.token_seconds)).strftime(_TIME),
            user_name=user,
            user_id=self._id("user", user),
        )
        token.root["user"]["roles"] = []
        token.root["serviceCatalog"] = []
        if tenant is not None:
            token.set_scope(self._id("tenant", tenant), tenant)
            for role in self.roles:
                token.add_role(role, self._id("role", role))
            self._add_catalog(token)
        with self._lock:
            self._tokens[token.token_id] = token
        return token

    def _add_catalog(self, token: fixture.V2Token) -> None:
        urls = {"image": ("glance", self.glance_url), "identity": ("keystone", f"{self.url}/v2.0")}
        for kind, (name, url) in urls.items():
            token.add_service(kind, name=name).add_endpoint(public=url, region="RegionOne")

    def _validate(self, token_id: str, asker: str | None) -> fixture.V2Token:
        """GET /v2.0/tokens/<id>, allowed only to services."""
        if asker != self.service_token:
            self._valid(asker)
            raise Refusal(403, "Forbidden", "You are not authorized to perform the requested action.")
        try:
            return self._valid(token_id)
        except Refusal:
            raise Refusal(404, "Not Found", "Could not find token.") from None

    def _revoke(self, token_id: str, asker: str | None) -> tuple[int, None]:
        if asker != self.service_token:
            self._valid(asker)
        with self._lock:
            self._tokens.pop(token_id, None)
        return 204, None

    def _valid(self, token_id: str | None) -> fixture.V2Token:
        with self._lock:
            token = self._tokens.get(token_id or "")
        if token is None or token.expires_str <= datetime.now(UTC).strftime(_TIME):
            raise unauthorized()
        return token

    def tenant(self, name: str) -> dict[str, object]:
        """Return the document of a tenant."""
        return {"id": self._id("tenant", name), "name": name, "description": "", "enabled": True}

    def _id(self, kind: str, name: str) -> str:
        with self._lock:
            return self._ids.setdefault((kind, name), uuid4().hex)

    def _handler(stub) -> type[BaseHTTPRequestHandler]:  # noqa: N805  (`self` is the request handler's)
        class Handler(BaseHTTPRequestHandler):
            timeout = 30

            def do_GET(self) -> None:
                self._handle()

            def do_POST(self) -> None:
                self._handle()

            def do_DELETE(self) -> None:
                self._handle()

            def log_message(self, format: str, *args: object) -> None:
                """Keep the log out of the tests' output."""

            def _handle(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                try:
                    body = json.loads(content) if content else None
                    token = self.headers.get("X-Auth-Token")
                    status, document = stub.answer(self.command, self.path, token, body)
                except ValueError:
                    refusal = Refusal(400, "Bad Request", "The body is not JSON.")
                    status, document = refusal.status, refusal.document
                except Refusal as refusal:
                    status, document = refusal.status, refusal.document
                self._send(status, document)

            def _send(self, status: int, document: Mapping[str, object] | None) -> None:
                content = b"" if document is None else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Vary", "X-Auth-Token")
                if status == 401:
                    self.send_header("WWW-Authenticate", f'Keystone uri="{stub.url}"')
                if content:
                    self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        return Handler
