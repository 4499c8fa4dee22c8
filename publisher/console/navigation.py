"""Where a user can go next: the entries of the navigation, one line for each, and the first steps of a new user."""

from __future__ import annotations

from dataclasses import dataclass

from publisher.console.rendering import BASE
from publisher.store import Store
from publisher.store.users import User


@dataclass(frozen=True, slots=True)
class Section:
    """An entry. `path` is below the console's own, `icon` is one of `macros/icons.html`."""

    name: str
    path: str
    icon: str
    entitlement: str | None = None
    administrators: bool = False

    def shown_to(self, user: User) -> bool:
        if self.administrators:
            return user.administrator
        return self.entitlement is None or user.may(self.entitlement)

    def holds(self, path: str) -> bool:
        """Return whether the page at this path belongs to this entry."""
        here = BASE + self.path
        return path == here or path.startswith(f"{here}/")


SECTIONS: tuple[Section, ...] = (
    Section("Tickets", "/publications", "publications", "image_generate"),
    Section("Publish an image", "/publications/new", "new", "image_publish"),
    Section("Images", "/images", "images", "image_generate"),
    Section("Accounts", "/accounts", "accounts"),
    Section("API keys", "/keys", "keys", "api_key_access"),
    Section("Fleet", "/fleet", "fleet", administrators=True),
    Section("Users", "/users", "users", administrators=True),
    Section("Roles", "/roles", "roles", administrators=True),
    Section("Audit log", "/audit", "audit", administrators=True),
)  # fmt: skip


def sections(user: User) -> list[Section]:
    return [each for each in SECTIONS if each.shown_to(user)]


def current(user: User, path: str) -> Section | None:
    """Return the entry that a page belongs to; if several match, the one with the longest path."""
    return max((each for each in sections(user) if each.holds(path)), key=lambda each: len(each.path), default=None)


def has_page(user: User, path: str) -> bool:
    """Return whether the user has such an entry. Pages link only to pages that the user has."""
    return any(each.path == path for each in sections(user))


@dataclass(frozen=True, slots=True)
class FirstStep:
    """One step. `path` is below the console's own; None if the user cannot do the step now, or has done it."""

    title: str
    words: str
    action: str
    path: str | None
    done: bool


def first_steps(store: Store, user: User) -> list[FirstStep]:
    """Return what must exist before the first image is in a cloud, and what exists already."""
    has_account = bool(store.accounts.list(user.login))
    has_image = bool(store.images.latest(1, owner=user.login))
    return [
        FirstStep(
            "Cloud account",
            "Where images go, and how to sign in there. The password is stored encrypted and never shown.",
            "Add account",
            "/accounts/new" if user.may("cloud_account_create") and not has_account else None,
            has_account,
        ),
        FirstStep(
            "Image",
            "A disk image: qcow2, raw, VMDK and others. Upload it from this computer, or have a worker fetch it.",
            "Add image",
            "/images/new" if user.may("image_generate") and not has_image else None,
            has_image,
        ),
        FirstStep(
            "Publishing",
            "A worker uploads the image and compares its hash with the cloud's. You can watch the progress.",
            "Publish an image",
            "/publications/new" if user.may("image_publish") and has_image else None,
            False,
        ),
    ]
