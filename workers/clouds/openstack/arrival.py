"""How an image's bytes arrive in Glance: into which store, by which import, and when the image is ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from publisher.core.errors import InvalidRequest, PermanentCloudError, TransientCloudError
from publisher.core.ticket import Target
from workers.clouds.openstack.images import GlanceImages

STORE, IMPORT_METHOD = "store", "importMethod"
"""Elements of a request."""
GLANCE_DIRECT = "glance-direct"
"""The import of what was sent to the cloud's staging area. The cloud's plugins may convert it."""
WEB_DOWNLOAD = "web-download"
"""The import for which the cloud downloads the image itself."""
_PAUSE_SECONDS, _PAUSE_SECONDS_MAX = 0.2, 5.0
"""How long to wait before the record is read again: at first, and after a while."""
_CHECK_SECONDS = 0.25
_BUSY, _IDLE = ("saving", "importing"), ("queued", "uploading")
_IDLE_MAX = 8
"""After how many readings without a sign of an import it is taken to have failed before the first. They take 6 s."""
_SHOWN_MAX = 20


def check_offered(images: GlanceImages, target: Target) -> None:
    """Raise `InvalidRequest` if the cloud does not offer the store or the import that the request names.

    Costs one request for each of them that is named.
    """
    for element, offered in ((STORE, images.stores), (IMPORT_METHOD, images.import_methods)):
        if wanted := target.fields.get(element):
            _check_one(element, str(wanted), offered())


def _check_one(element: str, wanted: str, offered: Collection[str]) -> None:
    if wanted not in offered:
        names = ", ".join(sorted(offered)[:_SHOWN_MAX])
        advice = f"give one of: {names}; or leave it out" if names else "it offers no choice; leave it out"
        raise InvalidRequest(f"this cloud does not offer '{wanted}'; {advice}", field=element)


def until_active(
    images: GlanceImages, cloud_id: str, *, seconds: float, check: Callable[[], None], imported: bool = False
) -> dict[str, Any]:
    """Return the record of an image whose bytes the cloud has received, once it is active.

    `seconds` is how long the cloud may take; `imported` says that it imports the bytes. `check` is called several
    times a second, and stops the wait by raising. Raises `CloudError` if the image does not become active.
    """
    progress = _Progress() if imported else None
    usual = (*_BUSY, *_IDLE) if imported else _BUSY
    ends, pause = time.monotonic() + seconds, _PAUSE_SECONDS
    while True:
        record = images.get(cloud_id)
        status = record["status"] if record else "gone"
        if record and status == "active":
            return record
        if status == "deactivated":
            raise deactivated(images)
        if record and progress and progress.has_failed(record):
            raise _not_imported(images, cloud_id)
        if status not in usual:
            raise TransientCloudError(f"{images.service}: the uploaded image is {status}, not active")
        if time.monotonic() > ends:
            raise TransientCloudError(f"{images.service}: the uploaded image is still {status} after {seconds:.0f} s")
        wait(pause, check)
        pause = min(pause * 1.5, _PAUSE_SECONDS_MAX)


@dataclass
class _Progress:
    """What the record of an image has shown of its import.

    Before and after it, the image is `uploading` or `queued`, and no task holds it. Glance before version 21 names no
    task.
    """

    was_busy: bool = False
    idle: int = 0
    """How often it was read without a sign of an import."""

    def has_failed(self, record: Mapping[str, Any]) -> bool:
        if record.get("os_glance_failed_import"):
            return True
        if record["status"] in _BUSY or record.get("os_glance_import_task"):
            self.was_busy = True
            return False
        self.idle += 1
        return self.was_busy or self.idle >= _IDLE_MAX


def deactivated(images: GlanceImages) -> PermanentCloudError:
    return PermanentCloudError(
        f"{images.service}: the image was deactivated, by an administrator or by a check of the cloud; ask why, then"
        " publish it again"
    )


def _not_imported(images: GlanceImages, cloud_id: str) -> PermanentCloudError | TransientCloudError:
    if words := images.import_words(cloud_id):
        return PermanentCloudError(f"{images.service} could not import the image: {words}")
    return TransientCloudError(f"{images.service} could not import the image, and does not say why")


def wait(seconds: float, check: Callable[[], None]) -> None:
    """Wait, and call `check` several times a second: it stops the wait by raising."""
    ends = time.monotonic() + seconds
    check()
    while (left := ends - time.monotonic()) > 0:
        time.sleep(min(left, _CHECK_SECONDS))
        check()
