"""Route requests to functions whose parameters say what they need.

    router = Router()

    @router.get("/users/{uid}/images/{id}")
    def image(caller: Calling, uid: str, id: Id, q: str = "") -> Response: ...

A parameter gets
- the `Request`, or the `BackgroundTasks` that run after the answer is sent, if that is its type;
- what a function returns, if its type is `Annotated[T, From(function)]`. Such a function may have such parameters, too.
  It is called once for a request, however many parameters want its value;
- otherwise, the part of the path, or else the parameter of the query, that has its name. `Annotated[T, Parsed(parse)]`
  parses the text.

Functions that are not `async` run in a thread, all those of a request one after another in the same: a change of
threads costs more than the rest of this module. What is `async` runs in the event loop before that, such as reading
the body. Errors are raised in the order of the parameters nevertheless, and those of paths and queries last.

Functions that ask (see `publisher.core.asking`) share a thread with those of other requests, and their questions are
answered together. So they must be quick: what may take long has a thread of its own.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import cache, partial
from inspect import Parameter, iscoroutinefunction, isgeneratorfunction, signature
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin

from starlette.background import BackgroundTasks
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from publisher.core.asking import Asking, alone
from publisher.core.errors import PublisherError
from publisher.core.uris import ID_PATTERN
from publisher.web.error_handlers import InvalidQuery
from publisher.web.threads import asking_to_read, asking_to_write, readers, writers

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])

_METHODS = ("GET", "POST", "PUT", "DELETE")
_PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")
_PARTS = {None: "[^/]+", "id": ID_PATTERN, "path": "(?s:.*)"}
"""What the kinds of parameters match in a path. With `{itid:id}` only ids match, not other paths next to it."""

_REQUEST, _TASKS, _FIRST = 0, 1, 2
"""Indexes of values in the list of what a request has."""
_REQUIRED = object()
_ALONE = "publisher.alone"
"""A key in the scope of a request whose functions run in a thread of their own."""


class TakesLong(Exception):
    """A function that asks has found that it would keep others waiting. It is called again in a thread of its own."""


@dataclass(frozen=True, slots=True)
class From:
    """The function that makes the value of a parameter.

    apart: whether it must run in a thread of its own, before anything that follows: it may wait for long.
    """

    function: Callable[..., Any]
    apart: Callable[[Request], bool] | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """The function that parses the text of a parameter. It raises ValueError."""

    parse: Callable[[str], Any]


# What a function needs ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Step:
    """A function to call, the indexes of its arguments, and the index of what it returns."""

    function: Callable[..., Any]
    arguments: tuple[int, ...]
    index: int
    in_loop: bool
    asks: bool
    apart: Callable[[Request], bool] | None
    uses_texts: bool
    """Whether it needs the path or the query, directly."""

    def call(self, values: list[Any]) -> Any:
        return self.function(*[values[index] for index in self.arguments])


@dataclass(frozen=True, slots=True)
class _Text:
    """A parameter of the path, at that place, or of the query."""

    name: str
    index: int
    place: int | None
    parse: Callable[[str], Any] | None
    default: Any


class Plan:
    """How to call the function of a route. Made once, from the function's signature."""

    def __init__(self, endpoint: Callable[..., Any], path: str, before: Sequence[Callable[..., Any]], *, writes: bool):
        self.names = tuple(name for name, _ in _PARAMETER.findall(path))
        self._places = {name: place for place, name in enumerate(self.names)}
        self._indexes: dict[object, int] = {Request: _REQUEST, BackgroundTasks: _TASKS}
        self._texts: list[_Text] = []
        self._steps: list[_Step] = []
        for function in before:
            self._index_of_result(From(function))
        self._endpoint = self._step(endpoint)
        self._writes = writes
        self._size = len(self._indexes)
        self._has_tasks = any(_TASKS in step.arguments for step in (*self._steps, self._endpoint))

    async def answer(self, request: Request, parts: Sequence[str]) -> Response:
        """Return the function's answer. `parts` are the parameters of the path."""
        values: list[Any] = [None] * self._size
        values[_REQUEST] = request
        if self._has_tasks:
            values[_TASKS] = BackgroundTasks()
        invalid = self._read(values, request, parts) if self._texts else None
        refusal: Exception | None = None
        waiting: list[_Step] = []
        for step in self._steps:
            if step.in_loop:
                try:
                    values[step.index] = await step.call(values)
                except PublisherError as error:
                    if not waiting:
                        raise
                    refusal = error
                    break
            else:
                waiting.append(step)
                if step.apart is not None and step.apart(request):
                    await readers.run(_call_alone, waiting, values, invalid)
                    waiting = []
        refusal = refusal or invalid
        try:
            if refusal is None and not self._endpoint.in_loop:
                response: Response = await self._run((*waiting, self._endpoint), values, None)
            else:
                if waiting:
                    await self._run(waiting, values, invalid)
                if refusal is not None:
                    raise refusal
                response = await self._endpoint.call(values)
        finally:
            # A traceback refers to this frame. Without a cycle, the error and all that it refers to end at once.
            del refusal, invalid
        if self._has_tasks and response.background is None and values[_TASKS].tasks:
            response.background = values[_TASKS]
        return response

    async def _run(self, steps: Sequence[_Step], values: list[Any], invalid: Exception | None) -> Any:
        """Call the functions in a thread: together with those of other requests if they ask."""
        answers = steps[-1] is self._endpoint
        if steps[-1].asks or (not answers and any(each.asks for each in steps)):
            asking = asking_to_write if answers and self._writes else asking_to_read
            try:
                return await asking.do((_call(steps, values, invalid), copy_context()))
            except TakesLong:
                """It runs again, from the beginning."""
        pool = writers if answers and self._writes else readers
        return await pool.run(_call_alone, steps, values, invalid)

    def _read(self, values: list[Any], request: Request, parts: Sequence[str]) -> Exception | None:
        """Parse the parameters of path and query. Returns the error of those that are not valid."""
        invalid: list[_Text] = []
        for each in self._texts:
            text = request.query_params.get(each.name) if each.place is None else parts[each.place]
            try:
                if text is None:
                    if each.default is _REQUIRED:
                        raise ValueError
                    values[each.index] = each.default
                else:
                    values[each.index] = each.parse(text) if each.parse else text
            except ValueError:
                invalid.append(each)
        if not invalid:
            return None
        if all(each.place is not None for each in invalid):
            return HTTPException(404)
        return InvalidQuery([each.name for each in invalid])

    def _step(self, function: Callable[..., Any], apart: Callable[[Request], bool] | None = None) -> _Step:
        arguments = tuple(self._index(each, hint) for each, hint in _parameters(function))
        texts = {each.index for each in self._texts}
        index = self._indexes.setdefault(function, len(self._indexes))
        return _Step(
            *(function, arguments, index, iscoroutinefunction(function), isgeneratorfunction(function)),
            *(apart, not texts.isdisjoint(arguments)),
        )

    def _index(self, parameter: Parameter, hint: Any) -> int:
        if hint in (Request, BackgroundTasks):
            return self._indexes[hint]
        marks = _marks(hint)
        for mark in marks:
            if isinstance(mark, From):
                return self._index_of_result(mark)
        if parameter.name not in self._indexes:
            parse = next((mark.parse for mark in marks if isinstance(mark, Parsed)), None)
            default = _REQUIRED if parameter.default is Parameter.empty else parameter.default
            index = self._indexes[parameter.name] = len(self._indexes)
            self._texts.append(_Text(parameter.name, index, self._places.get(parameter.name), parse, default))
        return self._indexes[parameter.name]

    def _index_of_result(self, wanted: From) -> int:
        if wanted.function not in self._indexes:
            step = self._step(wanted.function, wanted.apart)
            if step.in_loop and any(not each.in_loop and each.index in step.arguments for each in self._steps):
                raise TypeError(f"{wanted.function!r} is async, and needs the result of a function that is not")
            self._steps.append(step)
        return self._indexes[wanted.function]


def _call(steps: Sequence[_Step], values: list[Any], invalid: Exception | None) -> Asking[Any]:
    """Call the functions one after another, and return what the last one returns."""
    result = None
    try:
        for step in steps:
            if invalid is not None and step.uses_texts:
                raise invalid
            result = step.call(values)
            if step.asks:
                result = yield from result
            values[step.index] = result
        return result
    finally:
        del invalid


def _call_alone(steps: Sequence[_Step], values: list[Any], invalid: Exception | None) -> Any:
    scope = values[_REQUEST].scope
    scope[_ALONE] = True
    try:
        return alone(_call(steps, values, invalid))
    finally:
        del scope[_ALONE]


def may_take_long(request: Request) -> None:
    """Say that what follows may take long. Raises `TakesLong` if others would wait for it."""
    if _ALONE not in request.scope:
        raise TakesLong


@cache
def _parameters(function: Callable[..., Any]) -> Sequence[tuple[Parameter, Any]]:
    """Return the parameters of a function, each with its type. Cached: most functions serve many routes."""
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = signature(function).parameters.values()
    if any(each.kind is not Parameter.POSITIONAL_OR_KEYWORD for each in parameters):
        raise TypeError(f"{function!r} has a parameter that cannot be given by its position")
    return [(each, hints[each.name]) for each in parameters]


def _marks(hint: Any) -> tuple[Any, ...]:
    """Return what `Annotated` adds to a type, or to a type that may be None."""
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(mark for each in get_args(hint) for mark in _marks(each))
    return tuple(hint.__metadata__) if get_origin(hint) is Annotated else ()


# Routes -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A path, its methods, and the function that answers or, with `app`, the application for all paths below it."""

    path: str
    methods: frozenset[str]
    endpoint: Callable[..., Any] | None
    plan: Plan | None
    app: ASGIApp | None = None


class _Table:
    """Finds the first of some routes that matches a path, with one regular expression for all."""

    def __init__(self, routes: Sequence[Route]) -> None:
        patterns: list[str] = []
        self._found: dict[int, tuple[Route, tuple[int, ...]]] = {}
        last = 0
        for route in routes:
            at, pattern = 0, ""
            first = last + 1
            path = f"{route.path}/{{path:path}}" if route.app else route.path
            for match in _PARAMETER.finditer(path):
                pattern += f"{re.escape(path[at : match.start()])}({_PARTS[match[2]]})"
                at = match.end()
                last += 1
            # The empty group at the end tells which route it was.
            patterns.append(f"{pattern}{re.escape(path[at:])}()")
            last += 1
            self._found[last] = route, tuple(range(first, last))
        self._pattern = re.compile("|".join(patterns) if patterns else r"(?!)")

    def find(self, path: str) -> tuple[Route, Sequence[str]] | None:
        """Return the route and the parameters of the path."""
        match = self._pattern.fullmatch(path)
        if match is None or match.lastindex is None:
            return None
        route, groups = self._found[match.lastindex]
        return route, [match[group] for group in groups]


class Router:
    """Routes, in their order. As an application, it answers with the first that matches the path and the method.

    Errors are for the application around it: `HTTPException` if no route matches, and those that functions raise.
    """

    def __init__(self, *before: Callable[..., Any], first: Callable[[Request], None] | None = None) -> None:
        """Set the functions that are called before that of each route, as if it had parameters `From` these.

        `first` is called in the event loop, before anything else; also for the routes of other routers.
        """
        self.routes: list[Route] = []
        self._first = first
        self._before = before
        self._tables: dict[str | None, _Table] = {}

    def get(self, path: str) -> Callable[[_Endpoint], _Endpoint]:
        return partial(self.add, path, "GET")

    def post(self, path: str) -> Callable[[_Endpoint], _Endpoint]:
        return partial(self.add, path, "POST")

    def put(self, path: str) -> Callable[[_Endpoint], _Endpoint]:
        return partial(self.add, path, "PUT")

    def delete(self, path: str) -> Callable[[_Endpoint], _Endpoint]:
        return partial(self.add, path, "DELETE")

    def add(self, path: str, method: str, endpoint: _Endpoint) -> _Endpoint:
        """Add a route. A function that is not `async` runs in the threads of writers if its method may change
        something."""
        plan = Plan(endpoint, path, self._before, writes=method != "GET")
        self._add(Route(path, frozenset({method}), endpoint, plan))
        return endpoint

    def mount(self, path: str, app: ASGIApp) -> None:
        """Add an application that answers GET for all paths below this one."""
        self._add(Route(path, frozenset({"GET"}), None, None, app))

    def include(self, router: Router, prefix: str = "") -> None:
        """Add the routes of another router, below a path."""
        for route in router.routes:
            self._add(replace(route, path=prefix + route.path))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if root := scope.get("root_path"):
            path = path.removeprefix(root)
        route, parts = self._find(scope["method"], path, scope)
        scope["route"] = route
        if route.app is not None:
            below = {**scope, "root_path": scope.get("root_path", "") + route.path}
            await route.app(below, receive, send)
        elif route.plan is not None:
            scope["endpoint"] = route.endpoint
            scope["path_params"] = dict(zip(route.plan.names, parts, strict=True))
            request = Request(scope, receive, send)
            if self._first is not None:
                self._first(request)
            response = await route.plan.answer(request, parts)
            await response(scope, receive, send)

    def _add(self, route: Route) -> None:
        self.routes.append(route)
        self._tables.clear()

    def _find(self, method: str, path: str, scope: Scope) -> tuple[Route, Sequence[str]]:
        if found := self._table(method).find(path):
            return found
        if other := self._table(None).find(path):
            scope["route"] = other[0]
            allowed = [each for each in _METHODS if self._table(each).find(path)]
            if "GET" in allowed:
                allowed.insert(1, "HEAD")
            raise HTTPException(405, headers={"Allow": ", ".join(allowed)})
        raise HTTPException(404)

    def _table(self, method: str | None) -> _Table:
        if method not in self._tables:
            # Methods come from callers, so only those that routes have are remembered.
            routes = [route for route in self.routes if method is None or method in route.methods]
            if not routes:
                return _NOTHING
            self._tables[method] = _Table(routes)
        return self._tables[method]


_NOTHING = _Table([])
