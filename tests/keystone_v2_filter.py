"""A stage of Glance's request pipeline that checks tokens with a Keystone v2.0.

It replaces keystonemiddleware, whose present version supports only a v3 Keystone. It runs inside Glance, so
it imports nothing of this project. Like keystonemiddleware, it sets request headers that name the user or
mark the token as invalid. Glance itself refuses the request.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

Environ = MutableMapping[str, Any]
StartResponse = Callable[..., object]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

_WHAT_KEYSTONE_SAYS = ("IDENTITY", "USER", "PROJECT", "TENANT", "ROLE", "DOMAIN", "SERVICE", "IS_ADMIN")
_NEVER_FROM_OUTSIDE = (*(f"HTTP_X_{word}" for word in _WHAT_KEYSTONE_SAYS), "HTTP_OPENSTACK_SYSTEM_SCOPE")


class KeystoneV2Filter:
    """WSGI middleware. `identity_url` is Keystone's root; `service_token` may validate tokens there."""

    def __init__(self, application: Application, identity_url: str, service_token: str) -> None:
        self._application = application
        self._identity_url = identity_url
        self._service_token = service_token
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Add what Keystone knows of the token to the request and pass the request on."""
        for name in [name for name in environ if name.startswith(_NEVER_FROM_OUTSIDE)]:
            del environ[name]
        token = environ.get("HTTP_X_AUTH_TOKEN")
        access = self._access(token) if token else None
        environ.update(_headers(access) if access else {"HTTP_X_IDENTITY_STATUS": "Invalid"})

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> object:
            if status.startswith("401"):
                headers = [*headers, ("WWW-Authenticate", f'Keystone uri="{self._identity_url}"')]
            return start_response(status, headers, *more)

        return self._application(environ, start)

    def _access(self, token: str) -> Any:
        """Return Keystone's data about the token, or None if it is not valid."""
        request = urllib.request.Request(  # noqa: S310  (the address is a test's own)
            f"{self._identity_url}/v2.0/tokens/{token}", headers={"X-Auth-Token": self._service_token}
        )
        try:
            with self._opener.open(request, timeout=30) as answer:
                return json.load(answer)["access"]
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            raise


def _headers(access: Any) -> dict[str, str]:
    user = access["user"]
    tenant = access["token"].get("tenant", {})
    headers = {
        "HTTP_X_IDENTITY_STATUS": "Confirmed",
        "HTTP_X_USER_ID": user["id"],
        "HTTP_X_USER_NAME": user["name"],
        "HTTP_X_ROLES": ",".join(role["name"] for role in user["roles"]),
    }
    if tenant:
        headers |= {
            "HTTP_X_PROJECT_ID": tenant["id"],
            "HTTP_X_PROJECT_NAME": tenant["name"],
            "HTTP_X_TENANT_ID": tenant["id"],
            "HTTP_X_TENANT_NAME": tenant["name"],
        }
    return headers


def filter_factory(
    global_conf: object, *, identity_url: str, service_token: str
) -> Callable[[Application], KeystoneV2Filter]:
    """The factory that the pipeline's configuration names."""

    def make(application: Application) -> KeystoneV2Filter:
        return KeystoneV2Filter(application, identity_url, service_token)

    return make
