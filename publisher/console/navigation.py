"""The entries of the navigation, in order: one line for each page in it."""

from __future__ import annotations

from dataclasses import dataclass

from publisher.console import BASE
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
    Section("Publications", "/publications", "publications", "image_generate"),
    Section("New publication", "/publications/new", "new", "image_publish"),
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
