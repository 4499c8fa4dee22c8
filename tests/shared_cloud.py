"""The development cloud as one of the several processes that use it at the same time."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Self

from publisher.devcloud.cloud import DevCloud
from publisher.devcloud.identity import STRANGER, UPLOADER
from tests.cloud_administration import Administrator


class SharedCloud(DevCloud):
    """A cloud whose users `uploader` and `stranger` are in a domain that only this object knows.

    So no other process sees their projects and images. Do not stop or configure it; mark the test `own_cloud`.
    """

    def __init__(self, directory: Path, venv: Path, domain: str, passwords: dict[str, str]) -> None:
        super().__init__(directory, venv)
        self._domain = domain
        self._passwords = passwords

    @classmethod
    def join(cls, directory: Path, venv: Path) -> Self:
        """Create the domain and its users in a cloud that runs."""
        administrator = Administrator(DevCloud(directory, venv))
        domain = administrator.domain()
        passwords = {each.name: secrets.token_urlsafe(18) for each in (UPLOADER, STRANGER)}
        for each in (UPLOADER, STRANGER):
            project = administrator.make("project", name=each.project, domain_id=domain["id"])
            administrator.user(domain["id"], project, name=each.name, password=passwords[each.name])
        return cls(directory, venv, domain["name"], passwords)

    def password(self, user: str = UPLOADER.name) -> str:
        return self._passwords.get(user) or super().password(user)

    def env(self, user: str = UPLOADER.name) -> dict[str, str]:
        theirs = super().env(user)
        if user in self._passwords:
            theirs |= {"OS_USER_DOMAIN_NAME": self._domain, "OS_PROJECT_DOMAIN_NAME": self._domain}
        return theirs
