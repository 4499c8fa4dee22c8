"""Ask an OpenStack cloud what it offers: quotas, formats, regions, networks. What it need not tell may be left out.

Each answer is read with a limit of size and time, and nothing but its shape is trusted.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from keystoneauth1.adapter import Adapter
from keystoneauth1.identity import BaseIdentityPlugin
from keystoneauth1.session import Session

from publisher.core.cloud_check import PLACES_MAX, Place
from publisher.core.errors import CloudError, PermanentCloudError, Reason
from workers.clouds.openstack.errors import answered, translated, words_of
from workers.clouds.openstack.session import SignIn

_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHOWN_MAX = 20
_NETWORK_VERSION = re.compile(r"/v2(\.0)?/*$")


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of a quota is used. A limit of -1 is none."""

    usage: int
    limit: int


class CloudFacts:
    """What a Glance tells about itself and the project. Methods raise `CloudError`."""

    def __init__(self, session: Session, endpoint: str) -> None:
        self._service = f"Glance at {endpoint}"
        self._adapter = _adapter(session, "image", endpoint)
        self._usage: dict[str, Usage] | None = None

    def usage(self) -> dict[str, Usage]:
        """Return how much of each quota the project uses, by its name (`image_size_total`, in MiB). Asks once.

        Only Glance with unified limits tells.
        """
        if self._usage is None:
            given = self._get("/v2/info/usage").get("usage")
            self._usage = {
                str(name): Usage(each["usage"], each["limit"])
                for name, each in (given.items() if isinstance(given, dict) else ())
                if isinstance(each, dict) and all(type(each.get(part)) is int for part in ("usage", "limit"))
            }
        return self._usage

    def disk_formats(self) -> frozenset[str] | None:
        """Return the disk formats that it accepts; None if it does not tell."""
        properties = self._get("/v2/schemas/image").get("properties")
        described = properties.get("disk_format") if isinstance(properties, dict) else None
        values = described.get("enum") if isinstance(described, dict) else None
        formats = [each for each in values if isinstance(each, str)] if isinstance(values, list) else []
        return frozenset(each for each in formats if _WORD.fullmatch(each)) or None

    def any_image(self) -> str | None:
        """Return the id of an image that the account can see; None if there is none.

        Every Glance lists images, so this also shows that it is one, and that it accepts the token.
        """
        with translated(self._service, by_token=True):
            answer: Any = self._adapter.request("/v2/images?limit=1", "GET", raise_exc=False)
        if answer.status_code >= 400:
            words = words_of(answer.content)
            raise answered(self._service, answer.status_code, words, answer.headers, by_token=True)
        images = _object(answer).get("images")
        if images == []:
            return None
        first = images[0] if isinstance(images, list) else None
        id = first.get("id") if isinstance(first, dict) else None
        if not isinstance(id, str) or not _WORD.fullmatch(id):
            raise PermanentCloudError(
                f"{self._service} is not an image service: it answers with no list of images; check glanceUrl",
                reason=Reason.REQUEST,
            )
        return id

    def _get(self, path: str) -> dict[str, Any]:
        """Return what Glance tells; an empty object if it does not."""
        with translated(self._service, by_token=True):
            return _object(self._adapter.request(path, "GET", raise_exc=False))


def regions_of(session: Session, who: SignIn) -> list[Place]:
    """Return the regions that have an image service."""
    return [Place(name, name) for name in _endpoints(session, who, "image") if name]


def networks_of(session: Session, who: SignIn) -> list[Place]:
    """Return the networks that the project can use. Empty if the cloud does not tell: publishing needs none."""
    endpoints = _endpoints(session, who, "network")
    url = endpoints.get(who.region or "") or next(iter(endpoints.values()), None)
    if url is None:
        return []
    adapter = _adapter(session, "network", _NETWORK_VERSION.sub("", url))
    try:
        with translated(f"Neutron at {url}", by_token=True):
            path = f"/v2.0/networks?fields=id&fields=name&limit={PLACES_MAX}"
            networks = _object(adapter.request(path, "GET", raise_exc=False)).get("networks")
    except CloudError:
        return []
    found = [each for each in networks if isinstance(each, dict)] if isinstance(networks, list) else []
    pairs = [(each.get("id"), each.get("name")) for each in found]
    return [Place(id, name or id) for id, name in pairs if isinstance(id, str) and isinstance(name, str)]


def boots_servers(session: Session, who: SignIn, image_id: str) -> bool:
    """Return whether servers of the project boot from an image; False if the cloud does not tell.

    Raises `TransientCloudError` if Nova does not answer.
    """
    endpoints = _endpoints(session, who, "compute")
    url = endpoints.get(who.region or "") or next(iter(endpoints.values()), None)
    if url is None:
        return False
    service = f"Nova at {url}"
    with translated(service, by_token=True):
        path = f"/servers?image={image_id}&limit=1"
        answer: Any = _adapter(session, "compute", url).request(path, "GET", raise_exc=False)
    if answer.status_code >= 500 or answer.status_code in (401, 429):
        raise answered(service, answer.status_code, words_of(answer.content), answer.headers, by_token=True)
    return bool(_object(answer).get("servers"))


def some(words: Collection[str]) -> str:
    """Join words that a cloud offers, not more than a few of them."""
    found = sorted(words)
    return ", ".join(found[:_SHOWN_MAX] + [f"and {len(found) - _SHOWN_MAX} more"] * (len(found) > _SHOWN_MAX))


def _endpoints(session: Session, who: SignIn, service_type: str) -> dict[str, str]:
    """Return the address of a service in each region, from the catalog."""
    assert isinstance(session.auth, BaseIdentityPlugin)  # noqa: S101  # as `sign_in` makes it
    with translated(who.service, "keystoneUrl"):
        catalog = session.auth.get_access(session).service_catalog
        found = catalog.get_endpoints_data(service_type=service_type, interface=who.interface)
    return {str(each.region_name or ""): str(each.catalog_url) for several in found.values() for each in several}


def _adapter(session: Session, service_type: str, endpoint: str) -> Adapter:
    # keystoneauth formats this address as a template with fields.
    return Adapter(session, service_type=service_type, endpoint_override=endpoint.rstrip("/").replace("%", "%%"))


def _object(answer: Any) -> dict[str, Any]:
    """Return the JSON object in an answer; an empty one if the answer is something else."""
    try:
        given = answer.json() if answer.status_code == 200 else None
    except (ValueError, RecursionError):
        given = None
    return given if isinstance(given, dict) else {}
