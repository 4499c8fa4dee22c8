"""Publish to Glance (Image API v2, docs.openstack.org/api-ref/image/v2).

The plugin chooses an image's id and writes it to the journal before it creates the image. So a lost answer cannot leave
an unknown image, and a repeated creation cannot make a second one.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from keystoneauth1.session import Session
from urllib3.util import parse_url

from publisher.core.cloud_check import Explored
from publisher.core.errors import CloudError, InvalidRequest, PermanentCloudError, Reason, TransientCloudError
from publisher.core.image import DISK_FORMATS, Image
from publisher.core.ticket import MIB, Account, Target
from publisher.outbound.policy import OutboundPolicy
from publisher.platforms.openstack import REFUSE, WAIT_FOR_ACCEPTANCE
from publisher.platforms.platform import NAME_LENGTH_MAX
from workers.clouds.base import (
    SIGN_IN_SECONDS_MAX,
    CloudImage,
    CloudPublisher,
    KeptSignIns,
    Tagged,
    Tags,
    TicketRef,
    Timeouts,
)
from workers.clouds.openstack.arrival import (
    GLANCE_DIRECT,
    IMPORT_METHOD,
    STORE,
    WEB_DOWNLOAD,
    check_offered,
    deactivated,
    until_active,
)
from workers.clouds.openstack.errors import answered, translated, words_of
from workers.clouds.openstack.facts import CloudFacts, boots_servers, networks_of, regions_of, some
from workers.clouds.openstack.images import DELETED, GlanceImages
from workers.clouds.openstack.projects import project_ids, until_accepted
from workers.clouds.openstack.session import (
    ImageService,
    KeptSession,
    Reach,
    SignIn,
    image_service,
    sign_in,
    sign_in_anywhere,
)
from workers.http_clients import trust
from workers.transfer import Answer, Transfer

logger = logging.getLogger(__name__)

_TICKET, _DEPLOYMENT = "publisher_ticket", "publisher_deployment"
_ITSELF = "publisher_cloud_id"
"""Property that holds the image's own id.

Nova's snapshots of a server that was booted from the image, and the images that Cinder makes of its volumes, inherit
this property like all others, but have another id.
"""
_HIDDEN = {"os_hidden": "true"}
"""Filter for hidden images, which Glance lists only on their own. Older versions of Glance find none."""
_SIGN_INS = KeptSignIns[KeptSession]()
_WITHOUT_USAGE = KeptSignIns[bool]()
"""The sign-ins to clouds that do not report how much of a quota is used: they are not asked with each ticket."""
_PREFLIGHT = "publisher_preflight"
"""Property of what a preflight asks Glance to refuse. No image has it."""
_FORMAT, _SIZE = "publisher_disk_format", "publisher_size"
"""Properties of an image that was staged: what was sent, whatever the cloud has made of it."""
_DIGITS_MAX = 19
_SNAPSHOT = ("base_image_ref", "instance_uuid")
"""Properties that Nova adds to a snapshot."""


@dataclass(frozen=True, slots=True)
class Found(CloudImage):
    """What an earlier attempt left, and what `upload` can use of it."""

    waiting: Mapping[str, Any] | None = None
    """The record of an image that waits for its bytes."""
    planned: str | None = None
    """An id that is in the journal, and whose image was perhaps never created."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """The record of an image that is complete."""


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
        self._facts = CloudFacts(session, service.url)
        self._found: frozenset[str] = frozenset()
        """The ids of the images of the ticket, known after `find`."""
        self._projects: Sequence[str] | None = None
        self._who: SignIn | None = None

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
        cloud.kept, cloud._signed_in, cloud._who = signed_in is not None, signed_in, who
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

    @classmethod
    def explore(
        cls,
        account: Account,
        target: Target,
        timeouts: Timeouts,
        policy: OutboundPolicy,
        check: Callable[[], None] = lambda: None,
    ) -> Explored:
        who = SignIn.of(account, target)
        reach = Reach(timeouts, policy, trust(account.fields.get("caBundle")), check)
        session, projects = sign_in_anywhere(who, reach)
        try:
            return Explored.of(projects=projects, regions=regions_of(session, who), networks=networks_of(session, who))
        finally:
            session.session.close()

    def check(self, image: Image) -> None:
        """Check the name, the format, the space, and what the target names: store, import, projects to share with.

        Most images need no request, or one for the space if the cloud shows its quotas.
        """
        if not 0 < len(self._name(image)) <= NAME_LENGTH_MAX:
            raise InvalidRequest(f"has 1 to {NAME_LENGTH_MAX} characters", field="displayName")
        if image.disk_format not in DISK_FORMATS:
            raise InvalidRequest(f"Glance takes no '{image.disk_format}' image", field="imageUri")
        if image.glance_objection:
            raise InvalidRequest(image.glance_objection, field="imageUri")
        if self._target.fields.get("ifNameTaken") == REFUSE:
            self._check_name_is_free(self._name(image))
        check_offered(self._images, self._target)
        self._shared_with()
        self._check_space(image)

    def check_creation(self, image: Image) -> None:
        """Let Glance say whether it would create the image: ask for an id that is in use, which it always refuses.

        The policy about rights and visibility, and the quota of images, come before that (Glance's
        `ImagesController.create`). Without any image in sight, nothing is asked.
        """
        formats = self._facts.disk_formats()
        if formats is not None and image.disk_format not in formats:
            raise InvalidRequest(
                f"this cloud's Glance accepts no '{image.disk_format}' image, only: {some(formats)}", field="imageUri"
            )
        used = self._facts.usage().get("image_count_total")
        if used is not None and 0 <= used.limit <= used.usage:
            raise PermanentCloudError(
                f"{self._service}: the project has as many images as its quota allows (image_count_total:"
                f" {used.limit}); delete some, or ask for more",
                reason=Reason.QUOTA,
            )
        taken = self._facts.any_image()
        if taken is None:
            return
        mark = str(uuid.uuid4())
        wanted = {
            "id": taken,
            "name": self._name(image),
            "disk_format": image.disk_format,
            "container_format": "bare",
            "visibility": self._visibility,
            _PREFLIGHT: mark,
        }
        status = self._images.create(
            wanted, may_be=(403, 409) if self._visibility in ("public", "community") else (409,)
        )
        if status == 403:
            raise self._not_allowed()
        if status != 409:
            # It does not follow the API, or that image was deleted and forgotten in between. Leave nothing behind.
            for each in self._images.list({_PREFLIGHT: mark}):
                if each.get(_PREFLIGHT) == mark:
                    self._images.delete(str(each["id"]))

    def _check_name_is_free(self, name: str) -> None:
        """Raise `InvalidRequest` if another image of the project has the name."""
        with translated(self._service, by_token=True):
            project = self._session.get_project_id()
        # With a colon, Glance takes what precedes it for an operator.
        found = self._images.list(
            {"name": f"eq:{name}" if ":" in name else name} | ({"owner": project} if project else {})
        )
        for each in found:
            if each.get("name") == name and each["status"] not in DELETED and str(each["id"]) not in self._found:
                raise InvalidRequest(
                    f"the project has an image of this name already (id {each['id']}); choose another name, or"
                    " send ifNameTaken 'allow'",
                    field="displayName",
                )

    def _check_space(self, image: Image) -> None:
        """Raise `PermanentCloudError` if the image does not fit into the project's quota, as far as Glance reports it.

        Glance itself compares only what is there before an upload, and would accept one image beyond the quota.
        """
        if _WITHOUT_USAGE.get(self._key):
            return
        usage = self._facts.usage()
        if not usage:
            _WITHOUT_USAGE.keep(self._key, True, SIGN_IN_SECONDS_MAX)
            return
        total, needed = usage.get("image_size_total"), -(-image.size // MIB)
        if total is not None and 0 <= total.limit < total.usage + needed:
            raise PermanentCloudError(
                f"{self._service}: the image has {needed} MiB, but the project's quota (image_size_total) leaves"
                f" {max(0, total.limit - total.usage)} of {total.limit} MiB; make room, or ask for more",
                reason=Reason.QUOTA,
            )

    def find(self, ticket: TicketRef) -> CloudImage | None:
        entries = {entry.cloud_id: entry.state for entry in ticket.journal.entries()}
        journalled = {cloud_id: state for cloud_id, state in entries.items() if state != "gone"}
        for cloud_id in self._tagged(ticket):
            if cloud_id not in journalled:  # the journal is older than the image: it was restored from a backup
                if cloud_id not in entries:
                    ticket.journal.plan(cloud_id)
                ticket.journal.present(cloud_id)
                journalled[cloud_id] = "present"
        self._found = frozenset(journalled)
        complete: CloudImage | None = None
        active: dict[str, Any] = {}
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
                complete, active = self._cloud_image(record), record
            elif record["status"] == "queued" and waiting is None and complete is None:
                waiting = record
            else:  # half-made by an uploader that is gone, or one too many
                self._delete_noted(ticket, cloud_id)
        if complete:
            if waiting:
                self._delete_noted(ticket, str(waiting["id"]))
            return Found(
                complete.cloud_id,
                complete=True,
                size=complete.size,
                hashes=complete.hashes,
                location=complete.location,
                source_sha256=complete.source_sha256,
                source_size=complete.source_size,
                planned=planned,
                record=active,
            )
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
        uploaded = self._cloud_image(record)
        if link and record.get("disk_format") != image.disk_format:
            raise PermanentCloudError(
                f"{self._service}: the cloud converted the image to {record.get('disk_format')}, so that what it has"
                f" downloaded cannot be compared with what was registered; publish with importMethod {GLANCE_DIRECT},"
                " or an image of that format",
                reason=Reason.INTEGRITY,
            )
        if uploaded.source_sha256 is not None:
            transfer.read_again()  # what was staged is compared in place of what the cloud made of it
        if link and not uploaded.hashes:
            raise PermanentCloudError(
                f"{self._service} reports no hash, so what it has downloaded cannot be compared with what was"
                " registered; publish without importMethod",
                reason=Reason.INTEGRITY,
            )
        return uploaded

    def finish(self, uploaded: CloudImage, image: Image) -> CloudImage:
        """Share the image, correct the attributes of one that an earlier attempt left, and protect it.

        Most images need no request.

        Attributes are set when the record is created. The protection comes last, because Glance deletes no protected
        image: what is not finished can be deleted.
        """
        for project_id in self._shared_with():
            self._images.share(uploaded.cloud_id, project_id)
        if self._target.fields.get(WAIT_FOR_ACCEPTANCE):
            until_accepted(
                self._images,
                uploaded.cloud_id,
                self._shared_with(),
                seconds=self._reach.timeouts.verify_seconds,
                check=self._reach.check,
            )
        wanted: dict[str, Any] = {"protected": True} if self._target.fields.get("protected") else {}
        record: Mapping[str, Any] = {}
        if isinstance(uploaded, Found):
            record = {**uploaded.record, "tags": sorted(_texts(uploaded.record.get("tags")))}
            wanted |= self._attributes(image)
            if "tags" in wanted:  # others may have added more
                wanted["tags"] = sorted({*wanted["tags"], *record["tags"]})
        if changes := {name: value for name, value in wanted.items() if record.get(name) != value}:
            self._images.update(uploaded.cloud_id, changes)
        return uploaded

    def release(self, cloud_id: str, tags: Tags) -> None:
        """Make an image that `finish` has protected deletable again."""
        record = self._images.get(cloud_id)
        if record is not None and record.get("protected") and record.get(_TICKET) == tags.ticket_uid:
            self._images.update(cloud_id, {"protected": False})

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

    def in_use(self, cloud_id: str) -> str | None:
        record = self._images.get(cloud_id)
        if record is None:
            return None
        if record.get("protected"):
            return "it is protected"
        booted = self._who is not None and boots_servers(self._session, self._who, cloud_id)
        return "servers boot from it" if booted else None

    def hide(self, cloud_id: str, tags: Tags) -> None:
        self._change(cloud_id, tags, {"os_hidden": True})

    def rename(self, cloud_id: str, tags: Tags, name: str) -> None:
        self._change(cloud_id, tags, {"name": name})

    def _change(self, cloud_id: str, tags: Tags, changes: Mapping[str, Any]) -> None:
        """Change an image of a ticket, unless it is so already."""
        record = self._images.get(cloud_id)
        if record is None or record["status"] in DELETED:
            return
        if record.get(_TICKET) != tags.ticket_uid:
            raise PermanentCloudError(f"{self._service}: image {cloud_id} does not carry the tags of the ticket")
        if any(record.get(name) != value for name, value in changes.items()):
            self._images.update(cloud_id, changes)

    def tagged(self, deployment: str) -> Sequence[Tagged]:
        with translated(self._service, by_token=True):
            project = self._session.get_project_id()
        # The list also contains images of others that are public or shared.
        wanted = {_DEPLOYMENT: deployment} | ({"owner": project} if project else {})
        found = self._list(wanted, hidden=self._makes_hidden)
        return [Tagged(str(each["id"]), str(each.get(_TICKET)), _age(each)) for each in found if not _is_copy(each)]

    def tagged_by(self, tags: Tags) -> Sequence[Tagged]:
        # Somebody may have hidden images since, so hidden ones are always searched for, too.
        found = self._list({_TICKET: tags.ticket_uid, _DEPLOYMENT: tags.deployment}, hidden=True)
        left = [each for each in found if not _is_copy(each) and each["status"] not in DELETED]
        return [Tagged(str(each["id"]), tags.ticket_uid, _age(each)) for each in left]

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
            may_be = (403, 409) if self._visibility in ("public", "community") else (409,)
            status = self._images.create(self._properties(cloud_id, image, ticket), may_be=may_be)
            if status == 403:
                raise self._not_allowed()
            # An earlier request whose answer was lost may have created the image; or the image was created and deleted
            # again.
            if status == 409 and self._images.get(cloud_id) is None:
                self._delete_noted(ticket, cloud_id)
                continue
            ticket.journal.present(cloud_id)
            return cloud_id

    def _properties(self, cloud_id: str, image: Image, ticket: TicketRef) -> dict[str, Any]:
        return {
            "id": cloud_id,
            "name": self._name(image),
            "disk_format": image.disk_format,
            "container_format": "bare",
            **self._attributes(image),
            **_tags(cloud_id, ticket.tags),
            "publisher_ticket_uri": ticket.ticket_uri,
            "publisher_image_uri": ticket.image_uri,
            "publisher_appliance_uri": ticket.appliance_uri,
            "publisher_sha256": image.sha256,
            **({_FORMAT: image.disk_format, _SIZE: str(image.size)} if self._stages else {}),
        }

    def _attributes(self, image: Image) -> dict[str, Any]:
        """Return what the image is given, by Glance's names. It is protected only at the end (`finish`)."""
        fields = self._target.fields
        made: dict[str, Any] = {
            "visibility": self._visibility,
            "min_disk": max(int(fields.get("minDisk") or 0), image.disk_gib),
        }
        if fields.get("minRam") is not None:
            made["min_ram"] = int(fields["minRam"])
        if fields.get("hidden") is not None:
            made["os_hidden"] = bool(fields["hidden"])
        if fields.get("tags"):
            made["tags"] = list(fields["tags"])
        return made | {str(each["name"]): str(each["value"]) for each in fields.get("properties") or ()}

    def _tagged(self, ticket: TicketRef) -> list[str]:
        wanted = {_TICKET: ticket.tags.ticket_uid, _DEPLOYMENT: ticket.tags.deployment}
        found = self._list(wanted, hidden=self._makes_hidden)
        return [str(record["id"]) for record in found if not _is_copy(record)]

    @property
    def _stages(self) -> bool:
        """Whether the image is sent to the cloud's staging area, from where its plugins import it."""
        return self._target.fields.get(IMPORT_METHOD) == GLANCE_DIRECT

    @property
    def _makes_hidden(self) -> bool:
        return bool(self._target.fields.get("hidden"))

    def _list(self, wanted: Mapping[str, str], *, hidden: bool) -> list[dict[str, Any]]:
        """Return the records with these properties, each once. `hidden`: hidden ones, too, for one request more."""
        found = self._images.list(wanted)
        if hidden:
            found += self._images.list({**wanted, **_HIDDEN})
        return list({str(each["id"]): each for each in found}.values())

    def _delete_noted(self, ticket: TicketRef, cloud_id: str) -> None:
        ticket.journal.condemn(cloud_id)
        if self._target.fields.get("protected"):
            self.release(cloud_id, ticket.tags)
        self.delete(cloud_id, ticket.tags)
        ticket.journal.gone(cloud_id)

    def _cloud_image(self, record: dict[str, Any]) -> CloudImage:
        """Describe an image.

        If the cloud's import plugins have converted it, its hashes are not those of the file. The import begins only
        after all of the file was staged, so this vouches for what the record says of the file.
        """
        if record["status"] == "active" and record.get(_FORMAT) not in (None, record.get("disk_format")):
            size = str(record.get(_SIZE))
            return CloudImage(
                cloud_id=str(record["id"]),
                complete=True,
                location=self.region or self._endpoint,
                source_sha256=str(record.get("publisher_sha256")),
                source_size=int(size) if size.isdecimal() and len(size) <= _DIGITS_MAX else None,
            )
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

    def _not_allowed(self) -> PermanentCloudError:
        """Return the error for a visibility that the cloud refuses."""
        if self._target.fields.get("visibility"):
            words = (
                f"visibility: this cloud's policy forbids the login to make images {self._visibility}; choose another"
            )
            return PermanentCloudError(words, reason=Reason.FORBIDDEN)
        return PermanentCloudError(
            "publicImage: this cloud's policy forbids the login to make images public; publish with false, and have an"
            " administrator share it",
            reason=Reason.FORBIDDEN,
        )

    @property
    def _visibility(self) -> str:
        fields = self._target.fields
        if visibility := fields.get("visibility"):
            return str(visibility)
        if fields.get("publicImage"):
            return "public"
        return "shared" if fields.get("sharedWith") else "private"

    def _name(self, image: Image) -> str:
        return str(self._target.fields.get("displayName") or image.name)


def _texts(given: object) -> list[str]:
    """Return the texts in a list that a cloud sent, whatever it sent."""
    return [each for each in given if isinstance(each, str)] if isinstance(given, list) else []


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
