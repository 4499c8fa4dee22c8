"""Refusals are sent at a limited rate. A password guess is refused early if there is no room to hash it."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from publisher.intake.middleware import RequestHandler
from publisher.store import Store
from publisher.web import auth
from publisher.web.auth import Authenticator
from publisher.web.error_handlers import Problem
from publisher.web.password_hashing import AllPlacesTaken
from publisher.web.rate_limits import SignIns
from tests.patience import PATIENCE
from tests.service import JSON, PASSWORDS, Service, basic

PER_SECOND = 200


class NoKeys:
    def open(self, sealed: bytes) -> dict[str, str]:
        raise NotImplementedError


@pytest.fixture
def handler(sqlite_store: Store) -> RequestHandler:
    """A `RequestHandler` around an app that answers with the last part of the path as its status."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("", int(scope["path"].rsplit("/", 1)[1]))(scope, receive, send)

    def render(request: Request, problem: Problem) -> Response:
        raise NotImplementedError

    sign_ins = SignIns(sqlite_store.audit, login_failures=0, address_failures=0)
    authenticator = Authenticator(sqlite_store, 60.0, NoKeys(), sign_ins)
    return RequestHandler(app, authenticator, document=render, page=render, pages_below="/console", production=False)


async def ask(handler: RequestHandler, status: int) -> int:
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": f"/{status}", "query_string": b"", "headers": []}
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise NotImplementedError

    await handler(scope, receive, send)
    return int(sent[0]["status"])


@pytest.mark.long
def test_refusals_are_paced_and_delay_no_other_answer(handler: RequestHandler) -> None:
    async def all_at_once() -> tuple[list[int], int]:
        refusals = [asyncio.create_task(ask(handler, 429)) for _ in range(40)]
        await asyncio.sleep(0)
        # By now each refusal has its place in the queue. If these two had to queue, they would come last.
        assert await ask(handler, 200) == 200
        assert await ask(handler, 401) == 401
        left = sum(not each.done() for each in refusals)
        return await asyncio.gather(*refusals), left

    began = time.monotonic()
    statuses, left = asyncio.run(all_at_once())
    assert statuses == [429] * 40
    assert left > 0
    # Only a lower bound, because a slow machine takes longer.
    assert time.monotonic() - began >= 39 / PER_SECOND


def test_single_refusal_is_sent_at_once(handler: RequestHandler) -> None:
    async def one() -> tuple[float, float]:
        began = asyncio.get_running_loop().time()
        assert await ask(handler, 429) == 429
        return began, handler.admission._next_refusal - 1 / PER_SECOND

    began, due = asyncio.run(one())
    # It was due when it came, not later.
    assert began <= due <= time.monotonic()


@pytest.mark.long
def test_delay_of_a_refusal_is_bounded(handler: RequestHandler) -> None:
    async def after_a_million() -> None:
        handler.admission._next_refusal = asyncio.get_running_loop().time() + 1e6 / PER_SECOND
        assert await asyncio.wait_for(ask(handler, 429), 60 * PATIENCE) == 429

    asyncio.run(after_a_million())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The authorizations that reached a route."""
    seen: list[str] = []
    caller = Authenticator.caller

    def note(
        self: Authenticator, path: bytes, query: bytes, authorization: str | None, *more: Any, **named: Any
    ) -> Any:
        seen.append(str(authorization))
        return caller(self, path, query, authorization, *more, **named)

    monkeypatch.setattr(Authenticator, "caller", note)
    return seen


def test_guess_without_hashing_room_reaches_no_route(
    fresh: Service, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "users/alice"
    assert fresh.get(path, login="alice").status == 200
    authenticator: Authenticator = fresh.app.state.services.authenticator

    def full(network: str) -> None:
        raise AllPlacesTaken

    monkeypatch.setattr(authenticator._hashing, "check_room", full)
    asked.clear()
    refused = fresh.get(path, login="guest", password="wrong")
    assert refused.status == 429
    assert refused.headers["retry-after"] == "5"
    assert "too many sign-ins at a time" in refused.problem().lower()
    assert asked == []
    # A known password needs no room.
    assert fresh.get(path, login="alice").status == 200
    assert asked == [basic("alice", PASSWORDS["alice"])]


@pytest.mark.parametrize("authorization", ["", "Basic", "Basic !", "Bearer x", "Basic bm9jb2xvbg=="])
def test_header_without_basic_login_is_left_to_the_route(
    fresh: Service, authorization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "verify_password", lambda *_: pytest.fail("there is nothing to verify"))
    answer = fresh.call("GET", "users/alice/appliances/4/pimages", login=None, headers={"Authorization": authorization})
    assert answer.status == 401


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of threads in which callers were signed in."""
    seen: list[str] = []
    caller = Authenticator.caller

    def note(self: Authenticator, *request: Any, **named: Any) -> Any:
        seen.append(threading.current_thread().name.partition(" ")[0])
        return caller(self, *request, **named)

    monkeypatch.setattr(Authenticator, "caller", note)
    return seen


def test_password_that_must_be_hashed_keeps_no_writer(fresh: Service, threads: list[str]) -> None:
    def create() -> int:
        return fresh.post("users/alice/apikeys", '{"name": "ci"}', content_type=JSON, login="alice").status

    assert create() == 201
    assert threads == ["reader"]
    assert create() == 201
    assert threads == ["reader", "writer"], "the second time it is known, so one thread does everything"


def test_a_parameter_like_an_api_key_does_not_take_a_writer(fresh: Service, threads: list[str]) -> None:
    path = "users/alice/apikeys?xapiKey="
    answer = fresh.post(path, "{}", content_type=JSON, login="alice", password="a guess")
    assert answer.status == 401
    assert threads == ["reader"]


def test_request_without_a_login_is_refused_without_a_thread(fresh: Service, threads: list[str]) -> None:
    assert fresh.post("users/alice/apikeys", "{}", content_type=JSON, login=None).status == 401
    assert set(threads).isdisjoint({"reader", "writer"})


def test_body_that_is_too_large_gets_a_401_first(fresh: Service) -> None:
    body = b"x" * (fresh.settings.request_bytes_max + 1)
    for _ in range(2):  # with a password that must be hashed, and with a known one
        assert fresh.post("users/alice/apikeys", body, content_type=JSON, login="alice").status == 413
    for password in ("wrong", ""):
        answer = fresh.post("users/alice/apikeys", body, content_type=JSON, login="alice", password=password)
        assert answer.status == 401
    assert fresh.post("users/alice/apikeys", body, content_type=JSON, login=None).status == 401


def test_known_password_that_was_changed_gets_a_401_before_a_413(fresh: Service) -> None:
    body = b"x" * (fresh.settings.request_bytes_max + 1)
    assert fresh.get("users/alice", login="alice").status == 200
    fresh.store.users.set_password("alice", "another-pass-w0rd")
    assert fresh.post("users/alice/apikeys", body, content_type=JSON, login="alice").status == 401
