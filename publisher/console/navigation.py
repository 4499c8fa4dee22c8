"""The entries of the navigation, in their order: one line for each page that stands in it."""

from __future__ import annotations

from dataclasses import dataclass

from publisher.console import BASE
from publisher.store.users import User


@dataclass(frozen=True, slots=True)
class Section:
    """An entry. `path` is below the console's own, `icon` one of `macros/icons.html`."""

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
        """Whether the page of that path is in here."""
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
    """The entry that a page belongs to: of several that hold it, the nearest."""
    return max((each for each in sections(user) if each.holds(path)), key=lambda each: len(each.path), default=None)


def has_page(user: User, path: str) -> bool:
    """Whether there is such an entry for that user: pages link to others only where they are."""
    return any(each.path == path for each in sections(user))
