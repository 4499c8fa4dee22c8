"""Each request has an id, which the answer, the logs and the ticket show."""

from __future__ import annotations

import logging
import uuid

import pytest
from structlog.contextvars import get_contextvars

from publisher.services import wakeups
from publisher.store.users import Users
from tests.service import JSON, Service, image_uri, json_body


def test_every_answer_has_a_request_id(service: Service) -> None:
    answers = [
        service.get("status", login=None),
        service.get("nothing", login=None),
        service.get("users/root/appliances", login=None),
        service.call("PATCH", "status"),
        service.get("/docs"),
    ]
    ids = [each.headers["x-request-id"] for each in answers]
    assert [each.status for each in answers] == [200, 404, 401, 405, 200]
    assert len({uuid.UUID(each) for each in ids}) == len(ids)


def test_answer_to_an_internal_error_has_the_request_id(fresh: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(Users, "callers", fail)
    answer = fresh.get(f"{image_uri(7)}/pimages/1", headers={"X-Request-Id": "mine-1"})
    assert (answer.status, answer.headers["x-request-id"]) == (500, "mine-1")


@pytest.mark.parametrize(("given", "taken"), [("mine-1", True), ("not fit", False), ("x" * 65, False)])
def test_valid_request_id_of_the_caller_is_used(service: Service, given: str, taken: bool) -> None:
    answer = service.get("status", login=None, headers={"X-Request-Id": given})
    assert (answer.headers["x-request-id"] == given) is taken


def test_request_id_is_on_the_ticket_and_in_the_logs(
    fresh: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bound: list[object] = []
    warn = wakeups.logger.warning

    def warned(*arguments: object) -> None:
        bound.append(get_contextvars().get("request_id"))
        warn(*arguments)

    monkeypatch.setattr(wakeups.logger, "warning", warned)
    fresh.waker.break_down()
    with caplog.at_level(logging.WARNING):
        answer = fresh.post(
            "users/root/appliances/4/pimages",
            json_body(),
            content_type=JSON,
            accept=JSON,
            headers={"X-Request-Id": "r-1"},
        )
    assert answer.status == 201
    assert fresh.ticket(answer.json["dbId"]).request_id == "r-1"
    assert bound == ["r-1"], "after the answer has gone out, too"
    assert get_contextvars() == {}
