"""Publish to Glance (Image API v2, docs.openstack.org/api-ref/image/v2).

The plugin chooses an image's id and writes it to the journal before it creates the image. So a lost answer cannot leave
an unknown image, and a repeated creation cannot make a second one.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from keystoneauth1.session import Session
from urllib3.util import parse_url

from publisher.core.errors import CloudError, InvalidRequest, PermanentCloudError, Reason, TransientCloudError
from publisher.core.image import DISK_FORMATS, Image
from publisher.core.ticket import Account, Target
from publisher.outbound.policy import OutboundPolicy
from publisher.platforms.platform import NAME_LENGTH_MAX
from workers.clouds.base import CloudImage, CloudPublisher, KeptSignIns, Tagged, Tags, TicketRef, Timeouts
from workers.clouds.openstack.arrival import (
    IMPORT_METHOD,
    STORE,
    WEB_DOWNLOAD,
    check_offered,
    deactivated,
    until_active,
)
from workers.clouds.openstack.errors import answered, translated, words_of
from workers.clouds.openstack.images import DELETED, GlanceImages
from workers.clouds.openstack.projects import project_ids
from workers.clouds.openstack.session import ImageService, KeptSession, Reach, SignIn, image_service, sign_in
from workers.http_clients import trust
from workers.transfer import Answer, Transfer

logger = logging.getLogger(__name__)

GIB = 1 << 30
_TICKET, _DEPLOYMENT = "publisher_ticket", "publisher_deployment"
_ITSELF = "publisher_cloud_id"
"""Property that holds the image's own id.

Nova's snapshots of a server that was booted from the image, and the images that Cinder makes of its volumes, inherit
this property like all others, but have another id.
"""
_SIGN_INS = KeptSignIns[KeptSession]()
_SNAPSHOT = ("base_image_ref", "instance_uuid")
"""Properties that Nova adds to a snapshot."""


@dataclass(frozen=True, slots=True)
class Found(CloudImage):
    """What an earlier attempt left, and what `upload` can use of it."""

    waiting: Mapping[str, Any] | None = None
    """The record of an image that waits for its bytes."""
    planned: str | None = None
    """An id that is in the journal, and whose image was perhaps never created."""


class OpenStackPublisher(CloudPublisher):
    platform: ClassVar[str] = "openstack"

    def __init__(self, session: Session, service: ImageService, target: Target, reach: Reach, key: bytes = b"") -> None:
        self._session = session
        self._key = key
        self._signed_in: KeptSession | None = None
        self._endpoint = service.url
        self._service = f"Glance at {service.url}"
        self.region = service.region
        self._target = target
        self._reach = reach
        self._images = GlanceImages(session, service.url)
        self._projects: Sequence[str] | None = None

    @classmethod
    def connect(
        cls,
        account: Account,
        target: Target,
        timeouts: Timeouts,
        policy: OutboundPolicy,
        check: Callable[[], None] = lambda: None,
    ) -> Self:
        who = SignIn.of(account, target)
        reach = Reach(timeouts, policy, trust(account.fields.get("caBundle")), check)
        key = _SIGN_INS.key(account, target.fields.get("keystoneDomain"), who.project, policy)
        signed_in = _SIGN_INS.get(key)
        session = signed_in.session(who, reach) if signed_in else sign_in(who, reach)
        cloud = cls(session, image_service(session, who), target, reach, key)
        cloud.kept, cloud._signed_in = signed_in is not None, signed_in
        return cloud

    def keep_sign_in(self) -> None:
        signed_in = KeptSession.of(self._session)
        if signed_in != self._signed_in:
            self._signed_in = signed_in
            if signed_in:
                _SIGN_INS.keep(self._key, signed_in, signed_in.useful_seconds)

    def forget_sign_in(self) -> None:
        _SIGN_INS.forget(self._key)

    def close(self) -> None:
        self._session.session.close()

    def check(self, image: Image) -> None:
        if not 0 < len(self._name(image)) <= NAME_LENGTH_MAX:
            raise InvalidRequest(f"has 1 to {NAME_LENGTH_MAX} characters", field="displayName")
        if image.disk_format not in DISK_FORMATS:
            raise InvalidRequest(f"Glance takes no '{image.disk_format}' image", field="imageUri")
        if image.glance_objection:
            raise InvalidRequest(image.glance_objection, field="imageUri")
        check_offered(self._images, self._target)
        self._shared_with()

    def find(self, ticket: TicketRef) -> CloudImage | None:
        entries = {entry.cloud_id: entry.state for entry in ticket.journal.entries()}
        journalled = {cloud_id: state for cloud_id, state in entries.items() if state != "gone"}
        for cloud_id in self._tagged(ticket):
            if cloud_id not in journalled:  # the journal is older than the image: it was restored from a backup
                if cloud_id not in entries:
                    ticket.journal.plan(cloud_id)
                ticket.journal.present(cloud_id)
                journalled[cloud_id] = "present"
        complete: CloudImage | None = None
        waiting: dict[str, Any] | None = None
        planned: str | None = None
        for cloud_id, state in journalled.items():
            record = self._images.get(cloud_id)
            if record is None and state == "planned" and planned is None:
                planned = cloud_id
            elif record is None:  # one too many; or it exists, but this node of the cloud does not know it yet
                self._delete_noted(ticket, cloud_id)
            elif record["status"] == "deactivated":
                raise deactivated(self._images)
            elif record["status"] == "active" and complete is None:
                complete = self._cloud_image(record)
            elif record["status"] == "queued" and waiting is None and complete is None:
                waiting = record
            else:  # half-made by an uploader that is gone, or one too many
                self._delete_noted(ticket, cloud_id)
        if complete:
            if waiting:
                self._delete_noted(ticket, str(waiting["id"]))
            size, hashes, location = complete.size, complete.hashes, complete.location
            return Found(complete.cloud_id, True, size, hashes, location, planned=planned)
        if waiting:
            return Found(str(waiting["id"]), complete=False, waiting=waiting, planned=planned)
        return Found(planned, complete=False, planned=planned) if planned else None

    def upload(self, image: Image, ticket: TicketRef, transfer: Transfer) -> CloudImage:
        method = self._target.fields.get(IMPORT_METHOD)
        link = self._link(ticket) if method == WEB_DOWNLOAD else None
        cloud_id = self._record(image, ticket)
        if link is None:
            self._send(cloud_id, image, transfer)
        if method:
            self._images.start_import(cloud_id, str(method), uri=link, store=self._target.fields.get(STORE))
        seconds = self._reach.timeouts.verify_seconds
        record = until_active(self._images, cloud_id, seconds=seconds, check=self._reach.check, imported=bool(method))
        if method and record.get("disk_format") != image.disk_format:
            raise PermanentCloudError(
                f"{self._service}: the cloud converted the image to {record.get('disk_format')}, so that it cannot be"
                " compared with what was registered; publish without importMethod, or an image of that format"
            )
        uploaded = self._cloud_image(record)
        if link and not uploaded.hashes:
            raise PermanentCloudError(
                f"{self._service} reports no hash, so what it has downloaded cannot be compared with what was"
                " registered; publish without importMethod",
                reason=Reason.INTEGRITY,
            )
        return uploaded

    def finish(self, uploaded: CloudImage, image: Image) -> CloudImage:
        """Share the image with projects. Visibility and properties were set when the record was created."""
        for project_id in self._shared_with():
            self._images.share(uploaded.cloud_id, project_id)
        return uploaded

    def _shared_with(self) -> Sequence[str]:
        """Return the ids of the projects to share the image with. Looks them up at the first call."""
        if self._projects is None:
            wanted = self._target.fields.get("sharedWith") or ()
            self._projects = project_ids(self._session, wanted) if wanted else ()
        return self._projects

    def delete(self, cloud_id: str, tags: Tags) -> None:
        if not self._images.delete(cloud_id):
            # The request that creates it may still be on its way. Glance accepts no id twice, even after a deletion.
            placeholder = {"id": cloud_id, "name": "Deleted before it was made", **_tags(cloud_id, tags)}
            self._images.create(placeholder, may_be=(403, 409, 413))
            if not self._images.delete(cloud_id):
                return
        record = self._images.get(cloud_id)
        if record is not None and record["status"] not in DELETED:
            raise TransientCloudError(
                f"{self._service}: image {cloud_id} is still {record['status']} after its deletion"
            )

    def tagged(self, deployment: str) -> Sequence[Tagged]:
        with translated(self._service, by_token=True):
            project = self._session.get_project_id()
        # The list also contains images of others that are public or shared.
        found = self._images.list({_DEPLOYMENT: deployment} | ({"owner": project} if project else {}))
        return [Tagged(str(each["id"]), str(each.get(_TICKET)), _age(each)) for each in found if not _is_copy(each)]

    # Records --------------------------------------------------------------------------------------

    def _record(self, image: Image, ticket: TicketRef) -> str:
        """Return the id of an image record that waits for these bytes."""
        found = ticket.found if isinstance(ticket.found, Found) else None
        planned = found.planned if found else None
        if found is None or found.waiting is None:
            return self._create(image, ticket, planned)
        cloud_id = found.cloud_id
        # The image may have been generated again since the record was created.
        wanted = self._properties(cloud_id, image, ticket)
        same = all(found.waiting.get(name) == wanted[name] for name in ("disk_format", "min_disk", "publisher_sha256"))
        # What a failed import leaves in a record would be taken for the result of the next one.
        if same and not self._target.fields.get(IMPORT_METHOD):
            return cloud_id
        self._delete_noted(ticket, cloud_id)
        return self._create(image, ticket, planned)

    def _create(self, image: Image, ticket: TicketRef, planned: str | None = None) -> str:
        """Create an empty record of the image, and return its id.

        `planned` is an id that is in the journal already. Each turn but the last ends with an id that is used up.
        """
        while True:
            cloud_id = planned or str(uuid.uuid4())
            if not planned:
                ticket.journal.plan(cloud_id)
            planned = None
            may_be = (403, 409) if self._public else (409,)
            status = self._images.create(self._properties(cloud_id, image, ticket), may_be=may_be)
            if status == 403:
                raise PermanentCloudError(
                    "publicImage: this cloud's policy forbids the login to make images public; publish with false,"
                    " and have an administrator share it",
                    reason=Reason.FORBIDDEN,
                )
            # An earlier request whose answer was lost may have created the image; or the image was created and deleted
            # again.
            if status == 409 and self._images.get(cloud_id) is None:
                self._delete_noted(ticket, cloud_id)
                continue
            ticket.journal.present(cloud_id)
            return cloud_id

    def _properties(self, cloud_id: str, image: Image, ticket: TicketRef) -> dict[str, Any]:
        # A disk image needs a disk of its size to boot; an ISO is not copied to the disk.
        min_disk = 0 if image.disk_format == "iso" else -(-image.virtual_size // GIB)
        return {
            "id": cloud_id,
            "name": self._name(image),
            "disk_format": image.disk_format,
            "container_format": "bare",
            "visibility": self._visibility,
            "min_disk": min_disk,
            **_tags(cloud_id, ticket.tags),
            "publisher_ticket_uri": ticket.ticket_uri,
            "publisher_image_uri": ticket.image_uri,
            "publisher_appliance_uri": ticket.appliance_uri,
            "publisher_sha256": image.sha256,
        }

    def _tagged(self, ticket: TicketRef) -> list[str]:
        found = self._images.list({_TICKET: ticket.tags.ticket_uid, _DEPLOYMENT: ticket.tags.deployment})
        return [str(record["id"]) for record in found if not _is_copy(record)]

    def _delete_noted(self, ticket: TicketRef, cloud_id: str) -> None:
        ticket.journal.condemn(cloud_id)
        self.delete(cloud_id, ticket.tags)
        ticket.journal.gone(cloud_id)

    def _cloud_image(self, record: dict[str, Any]) -> CloudImage:
        hashes = {str(record.get("os_hash_algo")): record.get("os_hash_value"), "md5": record.get("checksum")}
        return CloudImage(
            cloud_id=str(record["id"]),
            complete=record["status"] == "active",
            size=record.get("size"),
            hashes={name: value for name, value in hashes.items() if isinstance(value, str) and value},
            location=self.region or self._endpoint,
        )

    # Bytes ----------------------------------------------------------------------------------------

    def _link(self, ticket: TicketRef) -> str:
        if ticket.link is None:
            raise PermanentCloudError(
                "importMethod: web-download needs PUBLISHER_PUBLIC_URL, from which the cloud downloads the image; have"
                " the administrator set it, or publish without importMethod",
                reason=Reason.CONFIGURATION,
            )
        return ticket.link

    def _send(self, cloud_id: str, image: Image, transfer: Transfer) -> None:
        answer = self._put(cloud_id, transfer)
        if answer.status == 401:  # the token has expired: sign in again, once
            self._session.invalidate()
            answer = self._put(cloud_id, transfer)
        if answer.status >= 300:
            raise self._refused(answer, image)

    def _put(self, cloud_id: str, transfer: Transfer) -> Answer:
        with translated(self._service, by_token=True):
            token = str(self._session.get_token())
        store, imported = self._target.fields.get(STORE), self._target.fields.get(IMPORT_METHOD)
        return transfer.put(
            # Normalize the address as all other calls do.
            parse_url(f"{self._endpoint}/v2/images/{cloud_id}/{'stage' if imported else 'file'}").url,
            {
                "X-Auth-Token": token,
                "Content-Type": "application/octet-stream",
                # An import names the store itself.
                **({"X-Image-Meta-Store": str(store)} if store and not imported else {}),
            },
            tls=self._reach.tls,
            connect_seconds=self._reach.timeouts.connect_seconds,
            answer_seconds=self._reach.timeouts.verify_seconds,
        )

    def _refused(self, answer: Answer, image: Image) -> CloudError:
        words = words_of(answer.body)
        match answer.status:
            case 404 | 410:
                return TransientCloudError(f"{self._service}: the image was deleted while it was uploaded")
            case 409:
                return TransientCloudError(f"{self._service}: another upload to the same image is under way")
            case 415:
                return PermanentCloudError(
                    f"{self._service} does not accept the file as a {image.disk_format} image: {words}"
                )
            case status:
                return answered(self._service, status, words, answer.headers, by_token=True)

    @property
    def _public(self) -> bool:
        return bool(self._target.fields.get("publicImage"))

    @property
    def _visibility(self) -> str:
        shared = "shared" if self._target.fields.get("sharedWith") else "private"
        return "public" if self._public else str(self._target.fields.get("visibility") or shared)

    def _name(self, image: Image) -> str:
        return str(self._target.fields.get("displayName") or image.name)


def _tags(cloud_id: str, tags: Tags) -> dict[str, str]:
    return {_TICKET: tags.ticket_uid, _DEPLOYMENT: tags.deployment, _ITSELF: cloud_id}


def _is_copy(record: Mapping[str, Any]) -> bool:
    """Return whether a user made this image from one of ours. It has our tags only because it inherited them."""
    if record.get(_ITSELF, record["id"]) != record["id"]:
        return True
    return record.get("image_type") == "snapshot" or any(name in record for name in _SNAPSHOT)


def _age(record: Mapping[str, Any]) -> float | None:
    try:
        made = datetime.fromisoformat(str(record.get("created_at")))
    except ValueError:
        return None
    return max(0.0, (datetime.now(UTC) - made).total_seconds())
