"""Celery's monitors read how the work for a message ended."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery.worker.request import Request

from publisher.core.image import ImageState
from publisher.core.ticket import State
from publisher.store import Store
from tests.records import add_ticket, current
from workers.celery_events import Ended, Message, image_result, ticket_result


def test_monitors_read_the_outcome_of_a_ticket(sqlite_store: Store) -> None:
    ticket = add_ticket(sqlite_store)
    claim = sqlite_store.leases.claim(ticket.id, "worker", 60)
    assert claim
    sqlite_store.leases.retry(claim, delay_seconds=60, error="the cloud was away")
    waiting = current(sqlite_store, ticket)
    failed = dataclasses.replace(waiting, state=State.FAILED, error="no\nsuch\tlogin")
    published = dataclasses.replace(waiting, state=State.PUBLISHED)

    assert ticket_result(State.PUBLISHED, published) == "published"
    for state, found, told, words in (
        (State.FAILED, failed, "failed", "no such login"),
        (State.FAILED, None, "failed", "the ticket failed"),
        (State.QUEUED, waiting, "retried", "Waiting to try again (attempt 2): the cloud was away"),
        (State.CANCELLING, waiting, "retried", "Waiting to try again (attempt 2): the cloud was away"),
        (State.CANCELLED, None, "cancelled", "cancelled; nothing is left in the cloud"),
        (None, published, "ignored", "nothing to do: the ticket is published"),
        (None, failed, "ignored", "nothing to do: the ticket is failed"),
        (None, None, "ignored", "nothing to do: the ticket is gone"),
    ):
        with pytest.raises(Ended) as ended:
            ticket_result(state, found)
        assert (ended.value.state, ended.value.words) == (told, words)


def test_only_a_ticket_cancelled_before_start_is_reported_as_cancelled(sqlite_store: Store) -> None:
    """If the ticket has started, an earlier message has told its outcome."""
    ticket = add_ticket(sqlite_store)
    sqlite_store.tickets.request_cancel(ticket.id)
    before = current(sqlite_store, ticket)
    for found, told in ((before, "cancelled"), (dataclasses.replace(before, started=1.0), "ignored")):
        with pytest.raises(Ended) as ended:
            ticket_result(None, found)
        assert ended.value.state == told


def test_monitors_read_the_outcome_of_a_registration(sqlite_store: Store) -> None:
    add_ticket(sqlite_store)
    image = sqlite_store.images.get(1)
    assert image
    assert image_result(ImageState.READY, image) == "registered"
    for state, found, told, words in (
        (ImageState.FAILED, dataclasses.replace(image, error="the file is empty"), "failed", "the file is empty"),
        (ImageState.QUEUED, None, "retried", "will be retried"),
        (None, dataclasses.replace(image, state=ImageState.CANCELLED), "cancelled", "cancelled"),
        (None, image, "ignored", "nothing to do: the image is ready"),
        (None, None, "ignored", "nothing to do: the image is gone"),
    ):
        with pytest.raises(Ended) as ended:
            image_result(state, found)
        assert (ended.value.state, ended.value.words) == (told, words)


def test_outcome_text_is_cut_to_500_characters() -> None:
    assert len(Ended("failed", "x" * 10_000).words) == 500


def test_message_is_acknowledged_even_if_its_event_cannot_be_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    order: list[str] = []

    def acknowledge(*_: Any) -> str:
        order.append("acknowledged")
        return "done"

    def send_event(_: Message, event: str, **__: Any) -> None:
        order.append(event)
        raise OSError("the broker is away")

    monkeypatch.setattr(Message, "_unheard", False)
    monkeypatch.setattr(Request, "on_failure", acknowledge)
    monkeypatch.setattr(Message, "send_event", send_event)
    message = Message.__new__(Message)
    message.time_start = None
    try:
        raise Ended("failed", "no such login")
    except Ended:
        ended = ExceptionInfo()
    with caplog.at_level(logging.WARNING):
        assert [message.on_failure(ended), message.on_failure(ended)] == ["done", "done"]
    assert order == ["acknowledged", "task-failed"] * 2
    assert caplog.text.count("cannot report to monitors") == 1
