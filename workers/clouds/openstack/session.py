"""Sign in to Keystone, v3 or v2.0, and find the image service."""

from __future__ import annotations

import re
import ssl
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from keystoneauth1.access import AccessInfo, AccessInfoV3
from keystoneauth1.exceptions import Forbidden, HttpError, NotFound, Unauthorized
from keystoneauth1.identity import BaseIdentityPlugin, v2, v3
from keystoneauth1.session import Session

from publisher.core.cloud_check import Place
from publisher.core.errors import PermanentCloudError, Reason
from publisher.core.ticket import Account, Target
from publisher.outbound.policy import OutboundPolicy
from workers.clouds.base import Timeouts
from workers.clouds.openstack.credentials import FIRST_DOMAIN, BoundCredential, bound_credential, domain, is_id
from workers.clouds.openstack.errors import translated, words_of_login
from workers.http_clients import requests_session

with warnings.catch_warnings():
    # keystoneclient warns on import that parts of it are old; v2.0 itself is.
    warnings.simplefilter("ignore")
    from keystoneclient import discover
    from keystoneclient.v2_0 import client as keystone_v2
    from keystoneclient.v3 import client as keystone_v3

USER_AGENT = "image-publisher"
_VERSION_SUFFIX = re.compile(r"/(v2\.0|v3)/*$")
_GLANCE_VERSION = re.compile(r"/v[12](\.\d+)?$")
_NOT_FOUND = ("Could not find", "Failed to validate token")
"""How Keystone's own 404 begins, unlike that of a wrong address."""
_NAMES_SHOWN_MAX, _NAME_SHOWN_MAX = 20, 64
"""Maximum number of names that an error shows, and of characters of each."""
_LIFE_USED = 0.25
"""How much of a token's life passes before it is not used for a new ticket: a long upload needs the rest."""


class UnlimitedSession(Session):
    """A session that sends each request immediately.

    The clients' rate limiter (keystoneauth1._fair_semaphore) sleeps by the time of day, even without a limit: for an
    hour if somebody sets the clock back by one.
    """

    def request(self, url: str, method: str, *more: Any, **options: Any) -> Any:
        return super().request(url, method, *more, **(options | {"rate_semaphore": nullcontext()}))


@dataclass(frozen=True, slots=True)
class Reach:
    """How to reach the cloud."""

    timeouts: Timeouts
    policy: OutboundPolicy
    tls: ssl.SSLContext
    check: Callable[[], None] = lambda: None
    """Stops a call by raising."""

    def session(self, auth: Any) -> Session:
        """Return a session for the OpenStack clients. They follow redirects themselves, over the same session."""
        connect_seconds = self.timeouts.connect_seconds
        plain = requests_session(self.policy, self.tls, connect_seconds=connect_seconds, check=self.check)
        return UnlimitedSession(
            auth=auth, session=plain, timeout=self.timeouts.call_seconds, user_agent=USER_AGENT, redirect=5
        )


@dataclass(frozen=True, slots=True)
class SignIn:
    """Who signs in, and where: read from the account and the target of a ticket."""

    keystone_url: str
    """Address without the version."""
    version: str | None
    """`v3` or `v2.0`; None if neither the account nor the address says."""
    login: str
    password: str = field(repr=False)
    bound: BoundCredential | None
    """What signs in instead of login and password alone, if anything does."""
    user_domain: str
    """A name or an id; so are the project's domain and the project."""
    project_domain: str
    project_domain_given: bool
    """Whether the request says it."""
    project: str | None
    glance_url: str | None
    region: str | None
    interface: str

    @classmethod
    def of(cls, account: Account, target: Target) -> SignIn:
        url = str(account.fields["keystoneUrl"]).rstrip("/")
        suffix = _VERSION_SUFFIX.search(url)
        glance_url = str(account.fields.get("glanceUrl") or "").rstrip("/")
        project_domain = str(target.fields.get("keystoneDomain") or FIRST_DOMAIN)
        user_domain = str(account.fields.get("userDomain") or project_domain)
        return cls(
            keystone_url=_VERSION_SUFFIX.sub("", url),
            version=account.fields.get("keystoneVersion") or (suffix[1] if suffix else None),
            login=str(account.fields.get("login") or ""),
            password=account.secrets.get("password", ""),
            bound=bound_credential(account, user_domain),
            user_domain=user_domain,
            project_domain=project_domain,
            project_domain_given=bool(target.fields.get("keystoneDomain")),
            project=target.fields.get("keystoneProject") or target.fields.get("tenantName") or None,
            # Each call adds the version itself.
            glance_url=_GLANCE_VERSION.sub("", glance_url) or None,
            region=target.fields.get("publishLocation") or None,
            interface=str(account.fields.get("interface") or "public"),
        )

    @property
    def service(self) -> str:
        return f"Keystone at {self.keystone_url}"

    @property
    def v3_url(self) -> str:
        return f"{self.keystone_url}/v3"


def sign_in(who: SignIn, reach: Reach) -> Session:
    """Return a session with a token scoped to the project. Raises `CloudError`.

    Keystone answers the same 401 to a wrong password and to an unknown project. So after a 401, this looks further to
    report which of them it was.
    """
    with translated(who.service, "keystoneUrl"):
        if who.bound:
            return _sign_in_bound(who, who.bound, reach)
        version = who.version or _discover(who, reach)
        if who.project:
            session = reach.session(_scoped(who, version))
            try:
                session.get_token()
            except Unauthorized:
                pass
            else:
                return session
        project = _find_project(who, version, reach)
        session = reach.session(_scoped(who, version, project_id=project))
        session.get_token()
        return session


@dataclass(frozen=True, slots=True)
class KeptSession:
    """A token and its catalog, which further tickets can use. Holds no password."""

    access: AccessInfo
    version: str

    @classmethod
    def of(cls, session: Session) -> KeptSession | None:
        """Return what a session has signed in to; None if its token is not valid any more."""
        auth = session.auth
        if not isinstance(auth, BaseIdentityPlugin) or auth.auth_ref is None:
            return None
        return cls(auth.auth_ref, "v2.0" if isinstance(auth, v2.Password) else "v3")

    @property
    def useful_seconds(self) -> float:
        """How long from now on the token can be used for a new ticket; 0 if it does not say when it expires."""
        expires = self.access.expires
        return (expires.timestamp() - time.time()) * _LIFE_USED if expires else 0.0

    def session(self, who: SignIn, reach: Reach) -> Session:
        """Return a session that uses this token, and signs in anew with the login of `who` once it is refused."""
        if who.bound:
            auth: Any = who.bound.auth(who.v3_url)
        else:
            auth = _scoped(who, self.version, project_id=self.access.project_id)
        auth.auth_ref = self.access
        return reach.session(auth)


@dataclass(frozen=True, slots=True)
class ImageService:
    """The address of Glance."""

    url: str
    """Address without the version."""
    region: str | None
    """None if neither the request nor the catalog says."""


def image_service(session: Session, who: SignIn) -> ImageService:
    """Find the image service in the account or in Keystone's catalog. Raises `CloudError`."""
    if who.glance_url:
        return ImageService(who.glance_url, who.region)
    assert isinstance(session.auth, BaseIdentityPlugin)  # noqa: S101  # as `sign_in` makes it
    with translated(who.service, "keystoneUrl"):
        catalog = session.auth.get_access(session).service_catalog
        found = catalog.get_endpoints_data(service_type="image", interface=who.interface)
    # The first endpoint of each region counts.
    regions = {each.region_name: str(each.catalog_url) for several in found.values() for each in reversed(several)}
    if not regions:
        raise PermanentCloudError(
            f"{who.service}: the catalog has no image service with a {who.interface} endpoint; give glanceUrl",
            reason=Reason.REQUEST,
        )
    names = _some(filter(None, regions)) or "none with a name"
    if who.region and who.region not in regions:
        raise PermanentCloudError(
            f"publishLocation: region '{who.region}' has no image service; give one of: {names}; or glanceUrl",
            reason=Reason.REQUEST,
        )
    if not who.region and len(regions) > 1:
        raise PermanentCloudError(
            f"publishLocation: is needed: this cloud has several regions; give one of: {names}", reason=Reason.REQUEST
        )
    region = who.region or next(iter(regions))
    return ImageService(_GLANCE_VERSION.sub("", regions[region].rstrip("/")), region)


def _some(names: Iterable[str]) -> str:
    """Join the names that a cloud offers, shortened: it may offer any number."""
    found = sorted(name[:_NAME_SHOWN_MAX] for name in names)
    more = [f"and {len(found) - _NAMES_SHOWN_MAX} more"] if len(found) > _NAMES_SHOWN_MAX else []
    return ", ".join(found[:_NAMES_SHOWN_MAX] + more)


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
    if project_id is None and is_id(who.project):
        project_id = who.project
    by_name = {"project_name": who.project, **domain("project_domain", who.project_domain)}
    return v3.Password(
        who.v3_url,
        username=who.login,
        password=who.password,
        **domain("user_domain", who.user_domain),
        **({"project_id": project_id} if project_id else by_name),
    )


def _unscoped(who: SignIn, version: str) -> Any:
    if version == "v2.0":
        return v2.Password(f"{who.keystone_url}/v2.0", username=who.login, password=who.password)
    return v3.Password(
        who.v3_url,
        username=who.login,
        password=who.password,
        unscoped=True,
        **domain("user_domain", who.user_domain),
    )


def sign_in_anywhere(who: SignIn, reach: Reach) -> tuple[Session, list[Place]]:
    """Return a session, and the projects that the account may use. Raises `CloudError`.

    If no project is requested, the session is for any of them.
    """
    with translated(who.service, "keystoneUrl"):
        if who.bound:
            session = _sign_in_bound(who, who.bound, reach)
            assert isinstance(session.auth, BaseIdentityPlugin)  # noqa: S101  # as a `BoundCredential` makes it
            access = session.auth.get_access(session)
            return session, [Place(str(access.project_id), str(access.project_name))]
        version = who.version or _discover(who, reach)
        session = reach.session(_unscoped(who, version))
        try:
            session.get_token()
        except Unauthorized as error:
            raise _login_refused(who, version, error) from None
        usable = [each for each in _projects(who, version, session) if each.enabled]
        places = [Place(each.id, each.name) for each in usable]
        if who.project:
            return sign_in(who, reach), places
        if not usable:
            raise PermanentCloudError(
                f"{who.service}: '{who.login}' may use no project; have it given a role in one", reason=Reason.FORBIDDEN
            )
        session = reach.session(_scoped(who, version, project_id=usable[0].id))
        session.get_token()
        return session, places


# Credentials for one project --------------------------------------------------------------------------------------


def _sign_in_bound(who: SignIn, bound: BoundCredential, reach: Reach) -> Session:
    """Sign in with a credential that names its project itself, and check that this is the requested one."""
    session = reach.session(bound.auth(who.v3_url))
    try:
        session.get_token()
    except (Unauthorized, Forbidden, NotFound) as error:
        # Keystone answers 403 to a trust for somebody else, and 404 to a revoked token, and to an unknown user or
        # application credential.
        if isinstance(error, NotFound) and not words_of_login(error).startswith(_NOT_FOUND):
            raise
        raise _bound_refused(who, bound, reach, error) from None
    assert isinstance(session.auth, BaseIdentityPlugin)  # noqa: S101  # as a `BoundCredential` makes it
    if objection := _objection(who, bound, session.auth.get_access(session)):
        raise PermanentCloudError(objection, reason=Reason.REQUEST)
    return session


def _objection(who: SignIn, bound: BoundCredential, access: AccessInfo) -> str | None:
    """Say what is wrong with the scope of a credential; None if it is for the requested project."""
    if isinstance(access, AccessInfoV3) and access.system:
        return (
            f"credAccount: {bound.words} is for the whole system, but an image belongs to a project; give one that is"
            " for the project (without system scope)"
        )
    if not access.project_id:
        return f"credAccount: {bound.words} is not for a project; give one that is"
    named = f"project '{access.project_name}' (id {access.project_id})"
    if who.project and who.project not in (access.project_id, access.project_name):
        return f"keystoneProject: {bound.words} is for the {named}, not for '{who.project}'; give that or another one"
    domains = (access.project_domain_id, access.project_domain_name)
    if who.project_domain_given and who.project_domain not in domains:
        return (
            f"keystoneDomain: {bound.words} is for the {named} in the domain '{domains[1]}' (id {domains[0]}), not in"
            f" '{who.project_domain}'; give that or another one"
        )
    return None


def _bound_refused(who: SignIn, bound: BoundCredential, reach: Reach, error: HttpError) -> PermanentCloudError:
    if bound.by_login:
        try:
            reach.session(_unscoped(who, "v3")).get_token()
        except Unauthorized as login_error:
            return _login_refused(who, "v3", login_error)
    said = words_of_login(error)
    words = f" ({said})" if said else ""
    return PermanentCloudError(
        f"{who.service} rejected {bound.words}{words}: {bound.advice}", reason=Reason.CREDENTIALS
    )


# Projects of a login ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Project:
    id: str
    name: str
    domain_id: str | None
    enabled: bool


def _find_project(who: SignIn, version: str, reach: Reach) -> str:
    """Find the id of the requested project. Its name alone failed: it may be an id, or the login's only project."""
    session = reach.session(_unscoped(who, version))
    try:
        session.get_token()
    except Unauthorized as error:
        raise _login_refused(who, version, error) from None
    projects = _projects(who, version, session)
    usable = [each for each in projects if each.enabled]
    if not who.project and len(usable) == 1:
        return usable[0].id
    if any(each.id == who.project for each in usable):
        return str(who.project)
    if is_id(who.project) and len(same := [each for each in usable if each.name == who.project]) == 1:
        return same[0].id
    element = "tenantName" if version == "v2.0" else "keystoneProject"
    raise PermanentCloudError(f"{element}: {_why_not(who, projects)}", reason=Reason.REQUEST)


def _why_not(who: SignIn, projects: list[_Project]) -> str:
    """Explain why the login cannot use the project, and list those it can use."""
    usable = _some(each.name for each in projects if each.enabled) or "none"
    if not who.project:
        return f"is needed; '{who.login}' may use: {usable}"
    named = [each for each in projects if who.project in (each.id, each.name)]
    if not named:
        return f"'{who.login}' has no project '{who.project}'; it may use: {usable}"
    if not any(each.enabled for each in named):
        return f"project '{who.project}' is disabled in the cloud; have it enabled, or use another: {usable}"
    domains = " or ".join(sorted(str(each.domain_id) for each in named if each.enabled))
    return (
        f"'{who.login}' has no project '{who.project}' in the domain '{who.project_domain}', but in the one with the id"
        f" {domains}; give that as keystoneDomain, and the user's own as credAccount.userDomain"
    )


def _projects(who: SignIn, version: str, session: Session) -> list[_Project]:
    """Return all projects in which the login has a role, including disabled ones."""
    listed: Any
    if version == "v2.0":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            # keystoneauth formats this address as a template with fields.
            address = f"{who.keystone_url}/v2.0".replace("%", "%%")
            listed = keystone_v2.Client(session=session, endpoint_override=address).tenants.list()
    else:
        listed = keystone_v3.Client(session=session).auth.projects()
    return [_project(each) for each in listed]


def _project(listed: Any) -> _Project:
    enabled = getattr(listed, "enabled", True) is not False
    return _Project(str(listed.id), str(listed.name), getattr(listed, "domain_id", None), enabled)


def _where_the_user_is(who: SignIn) -> str:
    if who.user_domain != who.project_domain:
        return f"credAccount.userDomain ('{who.user_domain}')"
    return f"keystoneDomain ('{who.project_domain}'), which is the user's too unless credAccount.userDomain is given"


def _login_refused(who: SignIn, version: str, error: Unauthorized) -> PermanentCloudError:
    """Explain a refused login.

    Keystone answers the same for an unknown user and a wrong password, and says more for an expired password.
    """
    said = words_of_login(error)
    if said and "expired" in said:
        return PermanentCloudError(
            f"{who.service}: the password of '{who.login}' has expired ({said}); change it in the cloud, and then here"
            " (credAccount.password)",
            reason=Reason.CREDENTIALS,
        )
    words = f" ({said})" if said else ""
    domain = f" and {_where_the_user_is(who)}" if version == "v3" else ""
    return PermanentCloudError(
        f"{who.service} rejected the login '{who.login}'{words}; check credAccount.login, credAccount.password{domain}",
        reason=Reason.CREDENTIALS,
    )
