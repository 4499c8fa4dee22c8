"""The console as a browser sees it: the intake's app over a temporary store, with one client for each user."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from lxml import html

from tests.in_process import InProcess
from tests.service import PASSWORDS, Service

HERE = "http://console.example"


@dataclass(frozen=True)
class Page:
    """An answer of the console."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def root(self) -> Any:
        return html.fromstring(self.text)

    @property
    def words(self) -> str:
        """All text of the body, with white space collapsed."""
        return re.sub(r"\s+", " ", self.root.find("body").text_content()).strip()

    @property
    def heading(self) -> str:
        return str(self.root.findtext(".//h1")).strip()

    @property
    def csrf(self) -> str:
        return str(self.root.xpath("string(//meta[@name='csrf']/@content)"))

    @property
    def location(self) -> str:
        return self.headers["location"]

    def links(self, text: str) -> list[str]:
        return [str(a.get("href")) for a in self.root.iter("a") if text in a.text_content()]


class Browser:
    """The browser of one user. Keeps cookies, and follows no redirects."""

    def __init__(self, client: InProcess) -> None:
        self.client = client

    def get(self, path: str, **headers: str) -> Page:
        return self._page(self.client.get(f"/console{path}", headers=headers))

    def post(
        self, path: str, fields: Mapping[str, Any] | None = None, *, csrf: str | None = None, origin: str = HERE
    ) -> Page:
        """Use the CSRF token of the session unless `csrf` is given."""
        token = self.get("/publications").csrf if csrf is None else csrf
        data = {"csrf": token, **(fields or {})}
        return self._page(self.client.post(f"/console{path}", data=data, headers={"Origin": origin}))

    def sign_in(self, login: str, password: str | None = None, **fields: str) -> Page:
        secret = PASSWORDS[login] if password is None else password
        return self.post("/sign-in", {"login": login, "password": secret, **fields}, csrf="")

    @staticmethod
    def _page(response: Any) -> Page:
        return Page(response.status_code, response.headers, response.text)


@pytest.fixture
def browser(fresh: Service) -> Callable[..., Browser]:
    """Return a function that makes a browser; with a login, the user is signed in."""
    return lambda login=None, **options: browse(fresh, login, **options)


def browse(service: Service, login: str | None = None, *, url: str = HERE) -> Browser:
    made = Browser(InProcess(service.app, base_url=url, portal=service.client.portal))
    if login is not None:
        assert made.sign_in(login).status == 303
    return made
