"""Signing in to Keystone, v3 or v2.0, and finding the image service."""

from __future__ import annotations

import re
import ssl
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keystoneauth1.exceptions import EndpointNotFound, Unauthorized
from keystoneauth1.identity import v2, v3
from keystoneauth1.session import Session

from publisher.core.errors import PermanentCloudError, Reason
from publisher.core.network import OutboundPolicy
from publisher.core.ticket import Account, Target
from workers.clouds.base import Timeouts
from workers.clouds.openstack.errors import translated
from workers.outbound import requests_session

with warnings.catch_warnings():
    # It warns, as it is imported, that parts of it are old; v2.0 itself is.
    warnings.simplefilter("ignore")
    from keystoneclient import discover
    from keystoneclient.v2_0 import client as keystone_v2
    from keystoneclient.v3 import client as keystone_v3

USER_AGENT = "image-publisher"
_VERSION_SUFFIX = re.compile(r"/(v2\.0|v3)/*$")


@dataclass(frozen=True, slots=True)
class Reach:
    """How the cloud is reached."""

    timeouts: Timeouts
    policy: OutboundPolicy
    tls: ssl.SSLContext
    check: Callable[[], None] = lambda: None
    """Breaks a call off by raising."""

    def session(self, auth: Any) -> Session:
        """Of the OpenStack clients; they follow redirects themselves, over the same session."""
        connect_seconds = self.timeouts.connect_seconds
        plain = requests_session(self.policy, self.tls, connect_seconds=connect_seconds, check=self.check)
        return Session(auth=auth, session=plain, timeout=self.timeouts.call_seconds, user_agent=USER_AGENT, redirect=5)


@dataclass(frozen=True, slots=True)
class SignIn:
    """Who signs in where: read from the account and the target of a ticket."""

    keystone_url: str
    """Without a version."""
    version: str | None
    """`v3` or `v2.0`; None where neither the account nor the address tells."""
    login: str
    password: str
    domain: str | None
    project: str | None
    glance_url: str | None
    region: str | None

    @classmethod
    def of(cls, account: Account, target: Target) -> SignIn:
        url = str(account.fields["keystoneUrl"]).rstrip("/")
        suffix = _VERSION_SUFFIX.search(url)
        glance_url = str(account.fields.get("glanceUrl") or "").rstrip("/")
        return cls(
            keystone_url=_VERSION_SUFFIX.sub("", url),
            version=account.fields.get("keystoneVersion") or (suffix[1] if suffix else None),
            login=str(account.fields["login"]),
            password=account.secrets["password"],
            domain=target.fields.get("keystoneDomain") or None,
            project=target.fields.get("keystoneProject") or target.fields.get("tenantName") or None,
            # Each call adds the version itself.
            glance_url=re.sub(r"/v[12](\.\d+)?$", "", glance_url) or None,
            region=target.fields.get("publishLocation") or None,
        )

    @property
    def service(self) -> str:
        return f"Keystone at {self.keystone_url}"


def sign_in(who: SignIn, reach: Reach) -> Session:
    """A session with a token scoped to the project. Raises `CloudError`.

    Keystone answers one and the same 401 to a wrong password and to an unknown project, so this looks further before
    it tells which of them it was.
    """
    with translated(who.service):
        version = who.version or _discover(who, reach)
        if who.project:
            session = reach.session(_scoped(who, version))
            try:
                session.get_token()
            except Unauthorized:
                pass
            else:
                return session
        project = _look_up_project(who, version, reach)
        session = reach.session(_scoped(who, version, project_id=project))
        session.get_token()
        return session


def image_endpoint(session: Session, who: SignIn) -> str:
    """The address of Glance, without a version: the account's, or the catalog's. Raises `CloudError`."""
    if who.glance_url:
        return who.glance_url
    with translated(who.service):
        try:
            found = session.get_endpoint(service_type="image", interface="public", region_name=who.region)
        except EndpointNotFound:
            found = None
    if not found:
        where = f"region '{who.region}'" if who.region else "the catalog"
        raise PermanentCloudError(
            f"{who.service}: {where} has no image service; give glanceUrl, or another region",
            reason=Reason.REQUEST,
        )
    return re.sub(r"/v[12](\.\d+)?$", "", str(found).rstrip("/"))


def _discover(who: SignIn, reach: Reach) -> str:
    found = discover.Discover(session=reach.session(None), auth_url=who.keystone_url).version_data()
    majors = {entry["version"][0] for entry in found}
    if not majors & {2, 3}:
        raise PermanentCloudError(f"{who.service} offers neither v3 nor v2.0; check keystoneUrl", reason=Reason.REQUEST)
    return "v3" if 3 in majors else "v2.0"


def _scoped(who: SignIn, version: str, project_id: str | None = None) -> Any:
    if version == "v2.0":
        scope = {"tenant_id": project_id} if project_id else {"tenant_name": who.project}
        return v2.Password(f"{who.keystone_url}/v2.0", username=who.login, password=who.password, **scope)
    by_name = {"project_name": who.project, **_domain(who, "project_domain")}
    scope = {"project_id": project_id} if project_id else by_name
    return v3.Password(
        f"{who.keystone_url}/v3",
        username=who.login,
        password=who.password,
        **_domain(who, "user_domain"),
        **scope,
    )


def _unscoped(who: SignIn, version: str) -> Any:
    if version == "v2.0":
        return v2.Password(f"{who.keystone_url}/v2.0", username=who.login, password=who.password)
    return v3.Password(
        f"{who.keystone_url}/v3",
        username=who.login,
        password=who.password,
        unscoped=True,
        **_domain(who, "user_domain"),
    )


def _domain(who: SignIn, prefix: str) -> dict[str, Any]:
    # The first domain has the id "default", whatever its name.
    if who.domain in (None, "default"):
        return {f"{prefix}_id": "default"}
    return {f"{prefix}_name": str(who.domain)}


def _look_up_project(who: SignIn, version: str, reach: Reach) -> str:
    """The id of the project that is meant, where its name alone did not do: it may be an id, or the only one."""
    session = reach.session(_unscoped(who, version))
    try:
        session.get_token()
    except Unauthorized:
        domain = f" and keystoneDomain ('{who.domain or 'default'}')" if version == "v3" else ""
        raise PermanentCloudError(
            f"{who.service} rejected the login '{who.login}'; check credAccount.login, credAccount.password{domain}",
            reason=Reason.CREDENTIALS,
        ) from None
    if version == "v2.0":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            client = keystone_v2.Client(session=session, endpoint_override=f"{who.keystone_url}/v2.0")
        projects = {entry.id: entry.name for entry in client.tenants.list()}
    else:
        projects = {entry.id: entry.name for entry in keystone_v3.Client(session=session).auth.projects()}
    element = "tenantName" if version == "v2.0" else "keystoneProject"
    if who.project in projects:
        return str(who.project)
    if not who.project and len(projects) == 1:
        return str(next(iter(projects)))
    usable = ", ".join(sorted(projects.values())) or "none"
    if not who.project:
        raise PermanentCloudError(f"{element}: is needed; '{who.login}' may use: {usable}", reason=Reason.REQUEST)
    raise PermanentCloudError(
        f"{element}: '{who.login}' has no project '{who.project}'; it may use: {usable}", reason=Reason.REQUEST
    )
