"""Logs of a process: JSON lines for machines, or lines for people on a terminal.

Everything that is logged through the standard library, by us, uvicorn or Celery, has the same form. It carries the
context that is bound at the time: the request, the ticket, the attempt, the worker. Helper threads must be given that
context (`with_context`).
"""

from __future__ import annotations

import contextvars
import logging
import re
import sys
import uuid
from collections.abc import Callable
from typing import TextIO

import structlog
from structlog.contextvars import bound_contextvars
from structlog.typing import Processor

from publisher.core.errors import ConfigurationError
from publisher.core.settings import Settings

bound = bound_contextvars
"""A context manager: log messages inside carry these names and values."""

_FORMATS = ("json", "console")
_OURS = ("publisher", "workers", "uvicorn", "celery")
_QUIET = ("alembic", "apscheduler")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def configure(settings: Settings, *, level: int | None = None, stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream` (by default standard error) in one form. Can be repeated.

    Raises `ConfigurationError`.
    """
    level = level_of(settings) if level is None else level
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(settings, colours=stream.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # DEBUG messages of other libraries may show the data that they send.
    root.setLevel(max(level, logging.INFO))
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    _take_over_uvicorn()
    logging.captureWarnings(True)


def formatter(settings: Settings | None = None, *, colours: bool = False) -> logging.Formatter:
    """Return the formatter. `logging.config` calls this without arguments. Raises `ConfigurationError`."""
    settings = settings or Settings.from_environment()
    as_json = _format(settings) == "json"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _no_colour_message,
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%Y-%m-%d %H:%M:%S", utc=as_json, key="timestamp"),
    ]
    # No traceback shows local variables: they may contain passwords.
    rendered: list[Processor] = (
        [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
        if as_json
        else [
            structlog.dev.ConsoleRenderer(
                colors=colours, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered]
    )


def level_of(settings: Settings) -> int:
    """Return the log level. Raises `ConfigurationError`."""
    level = logging.getLevelNamesMapping().get(settings.log_level.upper())
    if level is None:
        raise ConfigurationError(f"PUBLISHER_LOG_LEVEL: '{settings.log_level}' is not a log level")
    return level


def with_context(work: Callable[[], None]) -> Callable[[], None]:
    """Wrap the target of a thread, so that its logs carry the context that is bound now."""
    context = contextvars.copy_context()
    return lambda: context.run(work)


def request_id(given: str | None = None) -> str:
    """Return the id of a request: the caller's own if it is `given` and fit for a log, otherwise a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _format(settings: Settings) -> str:
    wanted = settings.log_format.lower() or ("json" if settings.production else "console")
    if wanted not in _FORMATS:
        raise ConfigurationError(f"PUBLISHER_LOG_FORMAT: '{settings.log_format}' is not one of {', '.join(_FORMATS)}")
    return wanted


def _take_over_uvicorn() -> None:
    """Remove uvicorn's own handlers, which it sets up before it loads the app. Without an access log, that has none."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        if logger.handlers:
            logger.handlers.clear()
            logger.propagate = True


def _no_colour_message(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Drop the coloured copy that uvicorn adds to each message."""
    event.pop("color_message", None)
    return event
