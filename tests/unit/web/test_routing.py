"""Routes: which function answers, what its parameters get, in which thread it runs, and which error comes first."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from typing import Annotated, Any

import pytest
from starlette.background import BackgroundTasks
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message

from publisher.core.errors import BodyTooLarge, InvalidRequest, NotAuthenticated
from publisher.web.error_handlers import InvalidQuery
from publisher.web.request import Id
from publisher.web.routing import From, Router
from tests.patience import PATIENCE


def scope_of(path: str, method: str = "GET", query: str = "") -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": []}


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _unheard(message: Message) -> None:
    """Drop the message."""


def ask(router: Router, path: str, method: str = "GET", query: str = "") -> str:
    """Return the text of the answer. Raises what the router raises."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(router(scope_of(path, method, query), _no_body, send))
    return b"".join(message.get("body", b"") for message in sent).decode()


def text(value: object) -> Response:
    return PlainTextResponse(str(value))


# Which route --------------------------------------------------------------------------------------------------------


@pytest.fixture
def paths() -> Router:
    router = Router()

    @router.get("/images/{id:id}")
    def numbered(id: Id) -> Response:
        return text(f"number {id}")

    @router.get("/images/new")
    def new() -> Response:
        return text("new")

    @router.post("/images/{name}")
    def create(name: str) -> Response:
        return text(f"create {name}")

    @router.get("/images/{name}/files/{file}")
    def file(file: str, name: str) -> Response:
        return text(f"{file} of {name}")

    @router.delete("/images/{name}/files/{file}")
    def delete(name: str, file: str) -> Response:
        return text(f"delete {file} of {name}")

    @router.get("/any/{path:path}")
    def anything(path: str) -> Response:
        return text(f"<{path}>")

    return router


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        ("GET", "/images/7", "number 7"),
        ("GET", "/images/new", "new"),
        ("POST", "/images/new", "create new"),
        ("GET", "/images/a b/files/c.d", "c.d of a b"),
        ("DELETE", "/images/1/files/2", "delete 2 of 1"),
        ("GET", "/any/", "<>"),
        ("GET", "/any/a/b\nc", "<a/b\nc>"),
    ],
)
def test_first_route_that_matches_path_and_method_answers(paths: Router, method: str, path: str, answer: str) -> None:
    assert ask(paths, path, method) == answer


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/images",
        "/images/",
        "/images/old/",
        "/images//files/x",
        "/images/7\n/x",
        "/images/new\n/",
        "/any",
        "x",
    ],
)
def test_path_that_no_route_matches_is_not_found(paths: Router, path: str) -> None:
    with pytest.raises(HTTPException) as refused:
        ask(paths, path)
    assert refused.value.status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/images/7", "GET, HEAD, POST"),
        ("BREW", "/images/x/files/y", "GET, HEAD, DELETE"),
        ("GET", "/images/old", "POST"),
        ("POST", "/any/thing", "GET, HEAD"),
    ],
)
def test_other_methods_are_refused_with_those_that_are_allowed(
    paths: Router, method: str, path: str, allowed: str
) -> None:
    with pytest.raises(HTTPException) as refused:
        ask(paths, path, method)
    assert (refused.value.status_code, refused.value.headers) == (405, {"Allow": allowed})


def test_included_routes_have_the_prefix_and_stay_where_they_were(paths: Router) -> None:
    outer = Router()
    outer.include(paths, "/api")
    assert ask(outer, "/api/images/7") == "number 7"
    assert ask(paths, "/images/7") == "number 7"
    assert [route.path for route in outer.routes][:2] == ["/api/images/{id:id}", "/api/images/new"]


def test_routes_can_be_added_after_the_first_request(paths: Router) -> None:
    with pytest.raises(HTTPException):
        ask(paths, "/later")

    @paths.get("/later")
    async def later() -> Response:
        return text("later")

    assert ask(paths, "/later") == "later"


# What parameters get ------------------------------------------------------------------------------------------------


def queries() -> Router:
    router = Router()

    @router.get("/{id}")
    def route(id: Id, word: str, before: Id | None = None, size: str = "large") -> Response:
        return text((id, word, before, size))

    return router


def test_parameters_of_the_query_are_parsed_or_have_their_defaults() -> None:
    assert ask(queries(), "/7", query="word=a%20b") == "(7, 'a b', None, 'large')"
    assert ask(queries(), "/7", query="word=&word=c&before=9&size=") == "(7, 'c', 9, '')"


@pytest.mark.parametrize("query", ["word=x&before=x", "word=x&before=", "word=x&before=0"])
def test_invalid_parameter_of_the_query_is_named(query: str) -> None:
    with pytest.raises(InvalidQuery, match=r"^before: is not valid$"):
        ask(queries(), "/7", query=query)


def test_all_invalid_parameters_are_named() -> None:
    with pytest.raises(InvalidQuery, match=r"^word, before: is not valid$"):
        ask(queries(), "/7", query="before=x")


@pytest.mark.parametrize("path", ["/0", "/x", "/99999999999999999999"])
def test_invalid_part_of_the_path_is_not_found(path: str) -> None:
    with pytest.raises(HTTPException) as refused:
        ask(queries(), path, query="word=x")
    assert refused.value.status_code == 404


def number(request: Request) -> int:
    request.state.made = getattr(request.state, "made", 0) + 1
    return int(request.state.made)


Numbered = Annotated[int, From(number)]


def doubled(one: Numbered, id: Id) -> int:
    return 10 * one + id


def test_value_is_made_once_for_all_that_want_it() -> None:
    router = Router(doubled)

    @router.get("/{id}")
    def route(one: Numbered, two: Annotated[int, From(doubled)], three: Numbered) -> Response:
        return text((one, two, three))

    assert ask(router, "/3") == "(1, 13, 1)"


def test_tasks_run_after_the_answer() -> None:
    ran: list[str] = []
    router = Router()

    @router.post("/")
    def route(after: BackgroundTasks) -> Response:
        after.add_task(ran.append, "task")
        return text(list(ran))

    assert ask(router, "/", "POST") == "[]"
    assert ran == ["task"]


def test_parameters_without_a_position_are_refused() -> None:
    def route(*, name: str) -> Response:
        return text(name)

    with pytest.raises(TypeError, match="position"):
        Router().get("/")(route)


async def too_early(value: Numbered) -> int:
    return value


def test_async_function_cannot_need_what_a_thread_makes() -> None:
    def route(value: Annotated[int, From(too_early)]) -> Response:
        return text(value)

    with pytest.raises(TypeError, match="async"):
        Router().get("/")(route)


# Where functions run, and which error comes first -------------------------------------------------------------------


class Recorder:
    """Functions that record their names and threads, and fail if they are told so."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.failures: dict[str, Exception] = {}

    def ran_in(self, name: str) -> str:
        thread = threading.current_thread()
        self.ran.append(f"{name}: {'loop' if thread is threading.main_thread() else thread.name.partition(' ')[0]}")
        if name in self.failures:
            raise self.failures[name]
        return thread.name

    def router(self, *, apart: bool = False) -> Router:
        def signed_in() -> str:
            return self.ran_in("sign-in")

        async def body() -> str:
            return self.ran_in("body")

        def listing() -> str:
            return self.ran_in("listing")

        caller = Annotated[str, From(signed_in, apart=(lambda _: True) if apart else None)]
        sent, listed = Annotated[str, From(body)], Annotated[str, From(listing)]
        router = Router()

        def route(a: str, b: str, c: str, d: int) -> Response:
            return text(len({a, c, self.ran_in("route")}))

        async def in_loop(a: str, b: str, c: str, d: int) -> Response:
            return text(self.ran_in("route"))

        for function in (route, in_loop):
            function.__annotations__ |= {"a": caller, "b": sent, "c": listed, "d": Id}
        router.get("/{d}")(route)
        router.post("/{d}")(route)
        router.put("/{d}")(in_loop)
        return router


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def test_all_that_waits_runs_in_one_thread_after_the_loop(recorder: Recorder) -> None:
    assert ask(recorder.router(), "/1") == "1"
    assert recorder.ran == ["body: loop", "sign-in: reader", "listing: reader", "route: reader"]


def test_a_change_runs_in_a_thread_of_writers(recorder: Recorder) -> None:
    assert ask(recorder.router(), "/1", "POST") == "1"
    assert recorder.ran == ["body: loop", "sign-in: writer", "listing: writer", "route: writer"]


def test_an_async_route_runs_in_the_loop(recorder: Recorder) -> None:
    ask(recorder.router(), "/1", "PUT")
    assert recorder.ran == ["body: loop", "sign-in: reader", "listing: reader", "route: loop"]


def test_what_may_wait_for_long_keeps_no_writer(recorder: Recorder) -> None:
    ask(recorder.router(apart=True), "/1", "POST")
    assert recorder.ran == ["sign-in: reader", "body: loop", "listing: writer", "route: writer"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize("apart", [False, True])
def test_the_first_error_in_the_order_of_parameters_is_raised(recorder: Recorder, method: str, apart: bool) -> None:
    recorder.failures = {"sign-in": NotAuthenticated(), "body": BodyTooLarge(), "listing": InvalidRequest()}
    for expected in ("sign-in", "body", "listing"):
        with pytest.raises(type(recorder.failures[expected])):
            ask(recorder.router(apart=apart), "/0", method)
        del recorder.failures[expected]
    with pytest.raises(HTTPException):
        ask(recorder.router(apart=apart), "/0", method)
    assert "route" not in str(recorder.ran)
    assert ask(recorder.router(apart=apart), "/1", method)


def test_body_of_a_stranger_is_not_read_if_sign_in_is_apart(recorder: Recorder) -> None:
    recorder.failures = {"sign-in": NotAuthenticated()}
    with pytest.raises(NotAuthenticated):
        ask(recorder.router(apart=True), "/1", "POST")
    assert recorder.ran == ["sign-in: reader"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize("failing", ["sign-in", "body", "listing", "route"])
def test_error_is_in_no_cycle(recorder: Recorder, method: str, failing: str) -> None:
    """An error keeps what its request sent, such as a password, until it ends. In a cycle, that is much later."""
    error = recorder.failures[failing] = NotAuthenticated()
    ended = weakref.ref(error)
    router = recorder.router(apart=failing == "body")

    async def quietly() -> None:
        with pytest.raises(NotAuthenticated):
            await router(scope_of("/1", method), _no_body, _unheard)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(quietly())
        del error
        recorder.failures.clear()
        deadline = time.monotonic() + 10 * PATIENCE
        while ended() is not None and time.monotonic() < deadline:
            time.sleep(0.001)  # a thread may be about to forget it
        assert ended() is None
    finally:
        gc.enable()
