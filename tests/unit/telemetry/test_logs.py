"""The form of log lines, and the context that they carry."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import publisher.intake
from publisher.core.errors import ConfigurationError
from publisher.core.settings import Settings
from publisher.telemetry import logs

SECRET = "hunter2"
LOGGERS = ("", "publisher", "workers", "celery", "uvicorn", "uvicorn.error", "uvicorn.access", "alembic", "apscheduler")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    found = [logging.getLogger(name) for name in LOGGERS]
    before = [(each, each.level, each.handlers[:], each.propagate) for each in found]
    yield
    logging.captureWarnings(False)
    for each, level, handlers, propagate in before:
        each.setLevel(level)
        each.handlers[:] = handlers
        each.propagate = propagate


def configured(**settings: Any) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(Settings(**settings), stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail() -> None:
    password = SECRET
    raise RuntimeError(f"a password of {len(password)} characters")


def test_json_lines_carry_the_bound_context() -> None:
    stream = configured(production=True)
    with logs.bound(ticket=7, request_id="r-1"), logs.bound(attempt=2):
        logging.getLogger("workers.runner").info("ticket %d: claimed", 7)
    logging.getLogger("celery.worker").warning("after it: ü")
    one, other = lines(stream)
    assert one | {"timestamp": ""} == {
        "message": "ticket 7: claimed",
        "level": "info",
        "logger": "workers.runner",
        "timestamp": "",
        "ticket": 7,
        "attempt": 2,
        "request_id": "r-1",
    }
    assert one["timestamp"].endswith("Z")
    assert "ticket" not in other
    assert "ü" in stream.getvalue()


def test_helper_threads_carry_the_context() -> None:
    stream = configured(log_format="json")

    def say() -> None:
        logging.getLogger("publisher").info("aside")

    with logs.bound(ticket=7):
        for target in (logs.with_context(say), say):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert [each.get("ticket") for each in lines(stream)] == [7, None]


@pytest.mark.parametrize("form", ["json", "console"])
def test_traceback_contains_no_local_variables(form: str) -> None:
    stream = configured(log_format=form)
    try:
        fail()
    except RuntimeError:
        logging.getLogger("publisher").exception("unexpected")
    text = stream.getvalue()
    assert "a password of 7 characters" in text
    assert "in fail" in text
    assert SECRET not in text
    assert form == "console" or len(text.splitlines()) == 1


def test_warnings_are_logged() -> None:
    stream = configured(log_format="json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # pytest replaces this function, which would keep warnings out of the log.
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    (line,) = lines(stream)
    assert "DeprecationWarning: old" in line["message"]


def test_console_line_has_the_context_and_no_colours() -> None:
    stream = configured()
    with logs.bound(ticket=7):
        logging.getLogger("celery").info("worker0@here ready.")
    (line,) = stream.getvalue().splitlines()
    assert " worker0@here ready. " in line
    assert "ticket=7" in line
    assert "\x1b" not in line, "colours are for terminals"


def test_terminal_output_is_coloured() -> None:
    record = logging.LogRecord("publisher", logging.INFO, "", 0, "said", None, None)
    assert "\x1b[" in logs.formatter(Settings(), colours=True).format(record)


@pytest.mark.parametrize(
    ("wanted", "production", "shown"),
    [("", False, False), ("", True, True), ("JSON", False, True), ("console", True, False)],
)
def test_the_form_follows_the_setting_or_production_mode(wanted: str, production: bool, shown: bool) -> None:
    stream = configured(log_format=wanted, production=production)
    logging.getLogger("publisher").info("said")
    assert stream.getvalue().startswith("{") is shown


def test_unknown_levels_and_forms_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="PUBLISHER_LOG_FORMAT: 'xml' is not one of json, console"):
        logs.formatter(Settings(log_format="xml"))
    with pytest.raises(ConfigurationError, match="PUBLISHER_LOG_LEVEL: 'loud'"):
        logs.configure(Settings(log_level="loud"))


def test_debug_shows_our_messages_but_not_those_of_libraries() -> None:
    stream = configured(log_level="DEBUG", log_format="json")
    logging.getLogger("publisher.x").debug("ours")
    logging.getLogger("keystoneauth.session").debug("theirs")
    assert [each["message"] for each in lines(stream)] == ["ours"]


def test_handlers_of_uvicorn_are_replaced() -> None:
    access = logging.getLogger("uvicorn.access")
    access.addHandler(logging.StreamHandler(io.StringIO()))
    access.propagate = False
    stream = configured(log_format="json")
    access.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", "/", "1.1", 200)
    assert [each["message"] for each in lines(stream)] == ['127.0.0.1:1 - "GET / HTTP/1.1" 200']
    access.handlers, access.propagate = [], False  # as with --no-access-log
    logs.configure(Settings(log_format="json"), stream=stream)
    access.info("another")
    assert len(lines(stream)) == 1


def test_processes_of_uvicorn_use_the_same_form(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBLISHER_LOG_FORMAT", "json")
    file = Path(publisher.intake.__file__).parent / "logging.json"
    logging.config.dictConfig(json.loads(file.read_text()))
    logging.getLogger("uvicorn.error").info("Uvicorn running on %s", "here", extra={"color_message": "coloured"})
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert said["message"] == "Uvicorn running on here"
    assert "color_message" not in said


@pytest.mark.parametrize("given", ["a", "0af7651916cd43dd8448eb211c80319c", "a.b_c-d", "x" * 64])
def test_a_request_id_of_the_caller_is_kept(given: str) -> None:
    assert logs.request_id(given) == given


@pytest.mark.parametrize("given", [None, "", "x" * 65, "two words", "line\nbreak", '"', "ü", "a;b"])
def test_an_unfit_request_id_is_replaced(given: str | None) -> None:
    made = logs.request_id(given)
    assert made != given
    assert made != logs.request_id(given)
    assert logs.request_id(made) == made
