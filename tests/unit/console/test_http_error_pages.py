"""Errors in the console are pages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy.exc import OperationalError

from publisher.core.errors import TooMany
from publisher.store.publications import Publications
from tests.service import Service
from tests.unit.console.conftest import Browser

Browsers = Callable[..., Browser]


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Publications, "counts", fails)


@pytest.mark.parametrize(
    ("error", "status", "heading", "retry_after"),
    [
        (OperationalError("SELECT secret", {}, Exception()), 503, "Temporarily unavailable", "5"),
        (TooMany("so many"), 429, "Too many requests", "30"),
        (RuntimeError("a mistake, with its secret"), 500, "Something went wrong", None),
    ],
)
def test_error_is_shown_as_a_page(
    browser: Browsers,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    heading: str,
    retry_after: str | None,
) -> None:
    alice = browser("alice")
    failing(monkeypatch, error)
    page = alice.get("/publications")
    assert (page.status, page.heading) == (status, heading)
    assert page.headers.get("retry-after") == retry_after
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"]
    assert page.links("Tickets"), "the way on is shown"
    assert "secret" not in page.text


def test_an_unreadable_form_is_refused(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    url = "/console/sign-in"
    form = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
    for body, headers, status in (
        (b"\xff=\xff", form, 400),
        (b"&".join(b"a=1" for _ in range(2000)), form, 400),
        (b"{}", form | {"Content-Type": "application/json"}, 400),
        (b"login=" + b"a" * (2 << 20), form, 413),
    ):
        assert alice.client.post(url, content=body, headers=headers).status_code == status
    assert alice.client.delete("/console/publications").status_code == 405
