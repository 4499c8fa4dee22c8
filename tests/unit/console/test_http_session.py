"""Signing in and out, and the protection of sessions."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from publisher.store.database import db_now, reading, sessions, writing
from publisher.store.users import User
from publisher.web.auth import Authenticator
from tests.service import PASSWORDS, Service
from tests.unit.console.conftest import HERE, Browser, browse

Browsers = Callable[..., Browser]


def test_users_sign_in_and_out(fresh: Service, browser: Browsers) -> None:
    alice = browser()
    assert alice.get("/publications").location == "/console/sign-in?next=%2Fconsole%2Fpublications"
    answer = alice.sign_in("alice")
    assert (answer.status, answer.location) == (303, "/console/publications")
    page = alice.get("/publications")
    assert (page.status, page.heading) == (200, "Tickets")
    assert "alice" in page.words

    kept = alice.client.cookies["publisher_session"]
    assert alice.post("/sign-out").location == "/console/sign-in"
    assert "You are signed out." in alice.get("/sign-in").words
    alice.client.cookies.set("publisher_session", kept)
    assert alice.get("/publications").status == 303, "the old cookie is good for nothing"
    actions = [(each.actor.login, each.actor.door, each.action) for each in fresh.store.audit.latest()]
    assert actions == [("alice", "console", "session.end"), ("alice", "console", "session.begin")]


def test_the_store_keeps_no_cookie(fresh: Service, browser: Browsers) -> None:
    value = browser("alice").client.cookies["publisher_session"]
    with reading(fresh.store.engine) as connection:
        (row,) = connection.execute(select(sessions)).all()
    assert row.digest == hashlib.sha256(value.encode()).hexdigest()
    assert value not in str(row)


@pytest.mark.parametrize(("login", "password"), [("alice", "wrong"), ("nobody", "x"), ("", ""), ("al\0ice", "x")])
def test_wrong_password_is_refused(browser: Browsers, login: str, password: str) -> None:
    visitor = browser()
    page = visitor.sign_in(login, password)
    assert page.status == 401
    assert "Wrong login or password." in page.words
    assert "publisher_session" not in visitor.client.cookies


@pytest.mark.parametrize(
    ("wanted", "got"),
    [
        ("/console/publications?state=failed", "/console/publications?state=failed"),
        ("https://elsewhere.example/console/", "/console/publications"),
        ("//elsewhere.example/console/", "/console/publications"),
        ("/console//elsewhere.example", "/console/publications"),
        ("/console/\\elsewhere.example", "/console/publications"),
        ("/console/x\r\nSet-Cookie: a=b", "/console/publications"),
        ("/api/status", "/console/publications"),
        ("/console/sign-out", "/console/publications"),
        ("//[", "/console/publications"),
    ],
)
def test_signing_in_leads_to_the_requested_page(browser: Browsers, wanted: str, got: str) -> None:
    assert browser().sign_in("alice", next=wanted).location == got


def test_malformed_cookies_and_addresses_are_accepted(browser: Browsers) -> None:
    visitor = browser()
    assert visitor.get("/sign-in?next=//[").status == 200
    for text in ("null", "1", "[]", "[" * 4000):
        visitor.client.cookies.set("publisher_flash", base64.urlsafe_b64encode(text.encode()).decode())
        assert visitor.get("/sign-in").status == 200


def test_a_password_changed_meanwhile_begins_no_session(
    fresh: Service, browser: Browsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = Authenticator.verified

    def changed_since(self: Authenticator, login: str, *given: str, **how: str) -> tuple[User, str]:
        found = verified(self, login, *given, **how)
        fresh.store.users.set_password(login, "another")
        return found

    monkeypatch.setattr(Authenticator, "verified", changed_since)
    visitor = browser()
    page = visitor.sign_in("alice")
    assert page.status == 401
    assert "publisher_session" not in visitor.client.cookies
    with reading(fresh.store.engine) as connection:
        assert connection.execute(select(sessions)).all() == []


def test_requests_are_limited_as_in_the_api(start: Callable[..., Service]) -> None:
    service = start(user_requests_per_second=1.0)
    alice = browse(service, "alice")
    page = next(page for page in (alice.get("/me") for _ in range(100)) if page.status != 200)
    assert page.status == 429
    assert page.heading == "Too many requests"
    assert 1 <= int(page.headers["retry-after"]) <= 60
    assert browse(service, "bob").get("/me").status == 200
    assert service.get("users/alice/accounts", login="alice").status == 429, "both are counted together"


@pytest.mark.parametrize("path", ["/sign-in", "/publications", "/none"])
def test_requests_of_an_address_are_limited_even_without_a_login(start: Callable[..., Service], path: str) -> None:
    visitor = browse(start(address_requests_per_second=1.0))
    page = next(page for page in (visitor.get(path) for _ in range(100)) if page.status not in (200, 303))
    assert page.status == 429
    assert visitor.sign_in("alice").status == 429


def test_each_sign_in_begins_a_new_session(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    before = alice.client.cookies["publisher_session"]
    alice.sign_in("alice")
    assert alice.client.cookies["publisher_session"] != before
    assert fresh.store.sessions.find(before, idle_seconds=60) is None


def test_a_form_of_another_site_signs_nobody_in(browser: Browsers) -> None:
    fields = {"login": "alice", "password": PASSWORDS["alice"]}
    for origin in ("https://elsewhere.example", "null", "", "http://["):
        page = browser().post("/sign-in", fields, csrf="", origin=origin)
        assert page.status == 403
        assert "set-cookie" not in page.headers


def test_form_needs_the_csrf_token_of_its_session(browser: Browsers) -> None:
    alice, bob = browser("alice"), browser("bob")
    for token in ("", "wrong", bob.get("/publications").csrf, "\N{SNOWMAN}"):
        page = alice.post("/sign-out", csrf=token)
        assert page.status == 403
        assert "not from the console" in page.words
    assert alice.get("/publications").status == 200
    token = alice.get("/publications").csrf
    answer = alice.client.post("/console/sign-out", headers={"X-CSRF-Token": token})
    assert answer.status_code == 303


@pytest.mark.parametrize("column", ["seen", "expires"])
def test_a_session_expires(start: Callable[..., Service], column: str) -> None:
    service = start(session_idle_seconds=100.0, session_seconds=1000.0)
    alice = browse(service, "alice")
    late = {"seen": 101.0, "expires": 1.0}[column]
    with writing(service.store.engine) as connection:
        connection.execute(update(sessions).values({column: db_now() - late}))
    assert alice.get("/publications").status == 303
    browse(service, "bob")
    with reading(service.store.engine) as connection:
        assert connection.execute(select(sessions.c.login)).scalars().all() == ["bob"], "what expired is removed"


def test_activity_keeps_a_session_and_an_open_page_does_not(start: Callable[..., Service]) -> None:
    service = start(session_idle_seconds=100.0)
    alice = browse(service, "alice")
    value = alice.client.cookies["publisher_session"]

    def silent() -> float:
        with reading(service.store.engine) as connection:
            return float(connection.execute(select(db_now() - sessions.c.seen)).scalar_one())

    with writing(service.store.engine) as connection:
        connection.execute(update(sessions).values(seen=db_now() - 90))
    assert service.store.sessions.find(value, idle_seconds=100, seen=False)
    assert silent() >= 90
    assert alice.get("/publications").status == 200
    assert silent() < 10


def test_deletion_or_a_new_password_signs_the_user_out(fresh: Service, browser: Browsers) -> None:
    carol, alice = browser("carol"), browser("alice")
    fresh.store.users.remove("carol")
    fresh.store.users.set_password("alice", "another")
    assert carol.get("/publications").status == alice.get("/publications").status == 303


@pytest.mark.parametrize("settings", [{"production": True}, {"public_url": "https://console.example"}, {}])
def test_over_tls_the_cookie_is_bound_to_the_host(start: Callable[..., Service], settings: dict[str, object]) -> None:
    service = start(**settings)
    visitor = browse(service, url="https://console.example")
    answer = visitor.post(
        "/sign-in", {"login": "alice", "password": PASSWORDS["alice"]}, csrf="", origin="https://console.example"
    )
    cookie = answer.headers["set-cookie"]
    assert re.match(
        r"__Host-publisher_session=[\w-]{43}; HttpOnly; Max-Age=604800; Path=/; SameSite=lax; Secure", cookie
    )
    assert visitor.get("/publications").status == 200


def test_without_tls_scripts_and_other_sites_cannot_use_the_cookie(browser: Browsers) -> None:
    cookie = browser().sign_in("alice").headers["set-cookie"]
    assert re.match(r"publisher_session=[\w-]{43}; HttpOnly; Max-Age=604800; Path=/; SameSite=lax$", cookie)


def test_password_guesses_are_limited(start: Callable[..., Service]) -> None:
    service = start(sign_in_failures_max=10)
    guesser = browse(service)
    assert [guesser.sign_in("alice", f"guess {each}").status for each in range(10)] == [401] * 10
    page = guesser.sign_in("alice")
    assert page.status == 429
    assert 0 < int(page.headers["retry-after"]) <= 60
    assert "Too many sign-ins have failed" in page.words
    assert guesser.sign_in("bob").status == 303, "another login is not concerned"


@pytest.mark.long
def test_successful_sign_ins_are_not_counted(browser: Browsers) -> None:
    alice = browser()
    assert [alice.sign_in("alice").status for _ in range(15)] == [303] * 15


def test_pages_have_security_headers(browser: Browsers) -> None:
    for page in (browser().get("/sign-in"), browser("alice").get("/publications"), browser("alice").get("/none")):
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "same-origin"
        assert page.headers["cache-control"] == "no-store"
        assert page.root.xpath("//@style | //style | //script[not(@src)] | //@*[starts-with(name(), 'on')]") == []
        for url in page.root.xpath("//link/@href | //script/@src | //img/@src"):
            assert url.startswith("/console/static/")


def test_static_files_are_cached_until_they_change(browser: Browsers) -> None:
    visitor = browser()
    (url,) = visitor.get("/sign-in").root.xpath("//link[@rel='stylesheet']/@href")
    assert re.fullmatch(r"/console/static/console\.css\?v=[0-9a-f]{12}", url)
    answer = visitor.get(url.removeprefix("/console"))
    assert (answer.status, answer.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert "immutable" in answer.headers["cache-control"]
    assert visitor.get("/static/../app.py").status in (303, 404)
    assert visitor.get("/static/none.css").headers["cache-control"] == "no-store"


def test_strangers_cannot_find_out_which_pages_exist(browser: Browsers) -> None:
    assert browser().get("/none").status == browser().get("/publications").status == 303
    page = browser("alice").get("/none")
    assert (page.status, page.heading) == (404, "Page not found")
    assert page.links("Tickets") == ["/console/publications"]


def test_the_console_s_root_leads_to_the_tickets(browser: Browsers) -> None:
    answer = browser().client.get(f"{HERE}/console")
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/publications")


def test_errors_of_the_api_stay_documents(browser: Browsers) -> None:
    answer = browser("alice").client.get("/api/nothing")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/xml")
    assert browser("alice").client.get("/api/users/alice").status_code == 401, "the cookie is not for the API"


def test_root_address_redirects_browsers_to_the_console(fresh: Service) -> None:
    client = browse(fresh).client
    answer = client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/console")
    for accept in ("application/xml", "application/json", "*/*"):
        assert client.get("/", headers={"Accept": accept}).status_code == 404
    assert client.post("/", headers={"Accept": "text/html"}).status_code == 404
