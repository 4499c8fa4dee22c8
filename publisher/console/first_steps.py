"""The first steps of a new user: what must exist before the first image is in a cloud, and what exists already."""

from __future__ import annotations

from dataclasses import dataclass

from publisher.store import Store
from publisher.store.users import User


@dataclass(frozen=True, slots=True)
class FirstStep:
    """One step. `path` is below the console's own; None if the user cannot do the step now, or has done it."""

    title: str
    words: str
    action: str
    path: str | None
    done: bool


def first_steps(store: Store, user: User) -> list[FirstStep]:
    has_account = bool(store.accounts.list(user.login))
    has_image = bool(store.images.latest(1, owner=user.login))
    return [
        FirstStep(
            "A cloud account",
            "Where images go, and who signs in there. Its password is kept encrypted, and is never shown again.",
            "Add an account",
            "/accounts/new" if user.may("cloud_account_create") and not has_account else None,
            has_account,
        ),
        FirstStep(
            "An image",
            "A disk that was built elsewhere: qcow2, raw, vmdk and others. Upload it from here, or say where it is.",
            "Add an image",
            "/images/new" if user.may("image_generate") and not has_image else None,
            has_image,
        ),
        FirstStep(
            "The publication",
            "The image is uploaded, its hash compared with the cloud's own, and a page shows how far it is.",
            "New publication",
            "/publications/new" if user.may("image_publish") and has_image else None,
            False,
        ),
    ]
