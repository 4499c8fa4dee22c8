"""Find the projects that an image is shared with, and wait until they accept it.

Glance takes any text for a project. So Keystone is asked whether there is such a project.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from keystoneauth1.exceptions import Forbidden, NotFound
from keystoneauth1.identity import BaseIdentityPlugin, v2
from keystoneauth1.session import Session

from publisher.core.errors import PermanentCloudError, Reason, TransientCloudError
from workers.clouds.openstack.arrival import wait
from workers.clouds.openstack.credentials import is_id
from workers.clouds.openstack.errors import translated
from workers.clouds.openstack.images import GlanceImages

with warnings.catch_warnings():
    # keystoneclient warns on import that parts of it are old.
    warnings.simplefilter("ignore")
    from keystoneclient.v3 import client as keystone_v3

ELEMENT = "sharedWith"
_PAUSE_SECONDS, _PAUSE_SECONDS_MAX = 0.5, 10.0
"""How long to wait before the members are read again: at first, and after a while."""


def project_ids(session: Session, wanted: Sequence[str]) -> list[str]:
    """Return the ids of projects that are given by id or by name, in the same order. Raises `CloudError`.

    A login can look up the projects in which it has a role. Keystone's policy decides about others: mostly, only
    administrators can. Then the id of another project is used as it is given, and its name is refused.
    """
    auth = session.auth
    assert isinstance(auth, BaseIdentityPlugin)  # noqa: S101  # as `sign_in` makes it
    if isinstance(auth, v2.Password):
        raise _refused("images cannot be shared with Keystone v2.0; use v3")
    with translated(f"Keystone at {auth.auth_url}", "keystoneUrl"):
        # keystoneauth formats this address as a template with fields.
        keystone = keystone_v3.Client(session=session, endpoint_override=str(auth.auth_url).replace("%", "%%"))
        own = {str(each.id): str(each.name) for each in keystone.auth.projects()}
        found = [_project_id(keystone, own, each) for each in wanted]
    return list(dict.fromkeys(found))


def until_accepted(
    images: GlanceImages, cloud_id: str, project_ids: Sequence[str], *, seconds: float, check: Callable[[], None]
) -> None:
    """Wait until all these projects have accepted an image that is shared with them.

    `check` is called several times a second, and stops the wait by raising. Raises `PermanentCloudError` if a project
    rejects the image, and `TransientCloudError` if one has not accepted it after `seconds`.
    """
    ends, pause = time.monotonic() + seconds, _PAUSE_SECONDS
    while True:
        members = images.members(cloud_id)
        for each in project_ids:
            if members.get(each) == "rejected":
                raise _refused(f"the project {each} has rejected the image")
        waiting = [each for each in project_ids if members.get(each) != "accepted"]
        if not waiting:
            return
        if time.monotonic() > ends:
            raise TransientCloudError(
                f"{images.service}: {', '.join(waiting)} did not accept the image within {seconds:.0f} s; have somebody"
                f" of each project do so (openstack image set --accept {cloud_id})"
            )
        wait(pause, check)
        pause = min(pause * 1.5, _PAUSE_SECONDS_MAX)


def _project_id(keystone: Any, own: dict[str, str], wanted: str) -> str:
    if wanted in own:
        return wanted
    ids = [project_id for project_id, name in own.items() if name == wanted]
    if not ids and is_id(wanted):
        return _other_by_id(keystone, wanted)
    if not ids:
        ids = _others_by_name(keystone, wanted)
    if len(ids) > 1:
        raise _refused(f"there are several projects '{wanted}'; give the id of one")
    if not ids:
        raise _refused(f"there is no project '{wanted}'")
    return ids[0]


def _other_by_id(keystone: Any, wanted: str) -> str:
    try:
        keystone.projects.get(wanted)
    except NotFound:
        raise _refused(f"there is no project with the id '{wanted}'") from None
    except Forbidden:
        pass  # only the owner of the other project could tell
    return wanted


def _others_by_name(keystone: Any, wanted: str) -> list[str]:
    try:
        found = keystone.projects.list(name=wanted)
    except Forbidden:
        raise _refused(
            f"the login has no project '{wanted}', and this cloud does not let it look for others; give the id instead"
        ) from None
    return [str(each.id) for each in found if each.name == wanted]


def _refused(words: str) -> PermanentCloudError:
    return PermanentCloudError(f"{ELEMENT}: {words}", reason=Reason.REQUEST)
