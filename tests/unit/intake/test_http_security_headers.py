"""The headers that protect browsers."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from starlette.responses import Response
from starlette.testclient import TestClient

from publisher.store.accounts import Accounts
from tests.service import JSON, Answer, Service, image_uri, ticket_path

ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}
CLOSED = "default-src 'none'; frame-ancestors 'none'"
PRIVATE = "private, no-cache"


def protects(answer: Answer) -> bool:
    policy = answer.headers["content-security-policy"]
    return all(answer.headers[name] == value for name, value in ALWAYS.items()) and "frame-ancestors 'none'" in policy


def test_every_answer_has_the_security_headers(fresh: Service) -> None:
    path = ticket_path(fresh.publish())
    answers = {
        status: fresh.call(method, target, login=login)
        for status, method, target, login in (
            (200, "GET", f"{path}/status", "alice"),
            (204, "DELETE", f"{path}/cancel", "alice"),
            (201, "POST", f"{path}/retry", "alice"),
            (401, "GET", path, None),
            (404, "GET", path, "bob"),
            (405, "PUT", f"{path}/status", "alice"),
            (409, "DELETE", image_uri(21), "alice"),
        )
    }
    for status, answer in answers.items():
        assert answer.status == status, answer.body
        assert protects(answer), status
        assert answer.headers["content-security-policy"] == CLOSED
        assert answer.headers["cache-control"] == PRIVATE
    same = fresh.get(path, login="alice", headers={"If-None-Match": fresh.get(path, login="alice").headers["etag"]})
    assert (same.status, same.headers["cache-control"]) == (304, PRIVATE)
    assert protects(same)


def test_internal_error_has_the_security_headers(fresh: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accounts, "page", lambda *_: 1 / 0)
    answer = fresh.get("users/alice/accounts", login="alice")
    assert answer.status == 500
    assert protects(answer)


def test_docs_page_may_load_only_its_own_files(fresh: Service) -> None:
    page = fresh.get("/docs", login=None)
    assert protects(page)
    policy = dict(each.strip().split(" ", 1) for each in page.headers["content-security-policy"].split(";"))
    assert policy["script-src"] == "'self'"
    assert policy["default-src"] == "'none'"
    for part in re.findall(rb'(?:src|href)="(.*?)"', page.body):
        answer = fresh.get(f"/{part.decode()}", login=None)
        assert answer.status == 200
        assert protects(answer)
    assert page.headers["cache-control"] == "no-cache"


def test_answer_with_a_secret_is_not_cached(fresh: Service) -> None:
    made = fresh.post("users/alice/apikeys", '{"name": "ci"}', content_type=JSON, login="alice")
    assert made.headers.get("cache-control") == "no-store"


def test_headers_set_by_a_route_are_kept(fresh: Service) -> None:
    @fresh.app.router.get("/stricter")
    def stricter() -> Response:
        return Response(headers={"Content-Security-Policy": "sandbox", "X-Frame-Options": "SAMEORIGIN"})

    answer = fresh.get("/stricter")
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(("production", "scheme"), [(True, "https"), (True, "http"), (False, "https")])
def test_hsts_is_sent_only_over_https_in_production(
    start: Callable[..., Service], production: bool, scheme: str
) -> None:
    key = start().settings.key_file
    app = start(production=production, secret_key_file=key).app
    answer = TestClient(app, base_url=f"{scheme}://testserver").get("/api/status")
    assert answer.status_code == 200
    assert ("strict-transport-security" in answer.headers) is (production and scheme == "https")
