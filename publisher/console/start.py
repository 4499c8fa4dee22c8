"""The way of a newcomer: what there has to be before the first image is in a cloud, and how far that is."""

from __future__ import annotations

from dataclasses import dataclass

from publisher.core.store import Store
from publisher.core.store.users import User


@dataclass(frozen=True, slots=True)
class Step:
    """`path` is below the console's own; None where the user may not do it."""

    title: str
    words: str
    action: str
    path: str | None
    done: bool


def first_steps(store: Store, user: User) -> list[Step]:
    login = user.login
    has_images = bool(store.images.latest(1, owner=login))
    return [
        Step(
            "Store a cloud account",
            "Where images go to, and the login there. Its password is kept encrypted, and shown to nobody.",
            "Add an account",
            "/accounts/new" if user.may("cloud_account_create") else None,
            bool(store.accounts.list(login)),
        ),
        Step(
            "Bring an image in",
            "Upload it from this computer, or say where it is to be fetched from.",
            "Add an image",
            "/images/new" if user.may("image_generate") else None,
            has_images,
        ),
        Step(
            "Publish it",
            "Choose the image and the account. A worker uploads it, checks what the cloud received, and tells here how"
            " far it is.",
            "Publish an image",
            "/publications/new" if user.may("image_publish") else None,
            False,
        ),
    ]
