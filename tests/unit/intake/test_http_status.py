"""The status of a ticket in each state, and conditional GETs, which must never hide a change."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import formatdate, parsedate_to_datetime
from typing import Any

import pytest
from sqlalchemy import update

from publisher.core.errors import Reason
from publisher.core.ticket import Phase, State, Ticket
from publisher.intake.long_poll import TicketStatus
from publisher.store import database
from publisher.store.database import writing
from publisher.store.leases import Claim
from tests.records import statements
from tests.service import IMAGE_SIZE, JSON, XML, Answer, Service, ticket_path
from tests.unit.intake.wire.tree import JSON_ONLY

FLAT = "users/alice/appliances/14/pimages"


def status(service: Service, ticket: Ticket) -> dict[str, Any]:
    """Return the ticket's status. Check that all documents show the same one."""
    path = ticket_path(ticket)
    told: dict[str, Any] = service.get(f"{path}/status", login="alice", accept=JSON).json
    in_ticket = service.get(path, login="alice", accept=JSON).json["status"]
    (in_list,) = [
        each
        for each in service.get(f"{FLAT}/statuses", login="alice", accept=JSON).json["statuses"]["status"]
        if each["dbId"] == ticket.id
    ]
    for other in (in_ticket, in_list):
        assert {**other, "eta": None} == {**told, "eta": None} or "eta" in told
    assert told["message"]
    assert 0 <= told["percentage"] <= 100
    assert [told["complete"], told["error"], told["cancelled"]].count(True) <= 1
    assert told["published"] == told["complete"]
    return told


# States -----------------------------------------------------------------------------------------------------------


def _queued(service: Service, claim: Claim) -> None:
    service.store.leases.release(claim, "stopping")


def _retried(service: Service, claim: Claim) -> None:
    service.store.leases.renew(claim, 60.0, sent=99)
    service.store.leases.retry(claim, delay_seconds=60.0, error="Glance was away")


def _phase(phase: Phase, sent: int = 0) -> Callable[[Service, Claim], None]:
    def enter(service: Service, claim: Claim) -> None:
        service.store.leases.phase(claim, phase, "on it")
        service.store.leases.renew(claim, 60.0, sent=sent)

    return enter


def _to_region(service: Service, claim: Claim) -> None:
    service.store.leases.region(claim, "RegionOne")
    _phase(Phase.UPLOADING, 312 << 20)(service, claim)


def _published(service: Service, claim: Claim) -> None:
    _phase(Phase.UPLOADING, IMAGE_SIZE // 2)(service, claim)
    service.store.leases.published(claim, cloud_id="c1", location="RegionOne")


def _failed(service: Service, claim: Claim) -> None:
    _phase(Phase.UPLOADING, IMAGE_SIZE // 2)(service, claim)
    service.store.leases.failed(claim, error="the quota is used up", detail="HTTP 413")


def _verified_badly(service: Service, claim: Claim) -> None:
    _phase(Phase.VERIFYING, IMAGE_SIZE)(service, claim)
    service.store.leases.failed(claim, error="the checksum differs", reason=Reason.INTEGRITY)


def _failed_before(service: Service, claim: Claim) -> None:
    service.store.leases.failed(claim, error="wrong password")


def _cancelling(service: Service, claim: Claim) -> None:
    _phase(Phase.UPLOADING, IMAGE_SIZE // 2)(service, claim)
    service.store.tickets.request_cancel(claim.ticket.id)


def _cancelled(service: Service, claim: Claim) -> None:
    _cancelling(service, claim)
    service.store.leases.cancelled(claim)


def _cancelled_waiting(service: Service, claim: Claim) -> None:
    service.store.leases.release(claim, "stopping")
    service.store.tickets.request_cancel(claim.ticket.id)


def _not_cleaned(service: Service, claim: Claim) -> None:
    _cancelling(service, claim)
    service.store.leases.not_cleaned(claim, error="an image is left in the cloud", detail="HTTP 403")


ENDS = {"complete", "error", "cancelled"}
STATES: dict[str, tuple[Callable[[Service, Claim], None], set[str], str, int]] = {
    "queued": (_queued, set(), "Queued", 0),
    "to be tried again": (_retried, set(), "Waiting to try again (attempt 2): Glance was away", 0),
    "preparing": (_phase(Phase.PREPARING), set(), "Preparing", 0),
    "authenticating": (_phase(Phase.AUTHENTICATING), set(), "Signing in to the cloud", 0),
    "converting": (_phase(Phase.CONVERTING), set(), "Converting the image for the cloud", 0),
    "nothing sent yet": (_phase(Phase.UPLOADING), set(), "Uploading 0 of 2048 MiB", 0),
    "uploading": (_phase(Phase.UPLOADING, 312 << 20), set(), "Uploading 312 of 2048 MiB", 15),
    "all but a byte": (_phase(Phase.UPLOADING, IMAGE_SIZE - 1), set(), "Uploading 2047 of 2048 MiB", 99),
    "verifying": (_phase(Phase.VERIFYING, IMAGE_SIZE), set(), "Verifying checksum", 99),
    "finishing": (_phase(Phase.FINISHING, IMAGE_SIZE), set(), "Finishing: visibility and properties", 99),
    "uploading to a region": (_to_region, set(), "Uploading 312 of 2048 MiB to RegionOne", 15),
    "everything sent": (_phase(Phase.UPLOADING, IMAGE_SIZE), set(), "Uploading 2048 of 2048 MiB", 99),
    "verified badly": (_verified_badly, {"error"}, "Failed", 99),
    "published": (_published, {"complete"}, "Published in RegionOne", 100),
    "failed": (_failed, {"error"}, "Failed", 50),
    "failed before the upload": (_failed_before, {"error"}, "Failed", 0),
    "cancelling": (_cancelling, set(), "Cancelling: removing what was uploaded", 50),
    "cancelled": (_cancelled, {"cancelled"}, "Cancelled", 50),
    "cancelled, but not cleaned up": (_not_cleaned, {"error"}, "Failed", 50),
    "cancelled while it waited": (_cancelled_waiting, {"cancelled"}, "Cancelled", 0),
}


@pytest.mark.parametrize("name", STATES)
def test_status_matches_the_state_of_the_ticket(service: Service, name: str) -> None:
    enter, ended, message, percentage = STATES[name]
    ticket = service.publish()
    enter(service, service.claim(ticket))
    told = status(service, ticket)
    assert {end for end in ENDS if told[end]} == ended
    assert told["message"] == message
    assert told["percentage"] == percentage
    assert told["bytesTotal"] == IMAGE_SIZE
    assert ("errorMessage" in told) == (ended == {"error"})
    # There is an ETA only while bytes are being sent.
    assert ("eta" in told) == (name in ("uploading", "uploading to a region", "all but a byte", "everything sent"))
    if ended == {"complete"}:
        assert told["bytesLoaded"] == told["bytesTotal"]
    one = service.get(ticket_path(ticket), login="alice", accept=JSON).json
    assert one["uploaded"] == (ended == {"complete"})
    assert ("uploadedTime" in one) == (ended == {"complete"})
    assert one.get("cloudId") == ("c1" if ended == {"complete"} else None)
    known = name in ("uploading to a region", "published")
    assert one.get("publishLocation") == ("RegionOne" if known else None)


def test_failure_has_a_message_and_details(service: Service) -> None:
    ticket = service.publish()
    _failed(service, service.claim(ticket))
    told = status(service, ticket)
    assert told["errorMessage"] == "the quota is used up"
    assert (told["detailedError"], told["detailedErrorMsg"]) == (True, "HTTP 413")


def test_failure_may_have_no_details(service: Service) -> None:
    ticket = service.publish()
    _failed_before(service, service.claim(ticket))
    told = status(service, ticket)
    assert told["detailedError"] is False
    assert "detailedErrorMsg" not in told


def test_json_reports_what_the_worker_does(service: Service) -> None:
    ticket = service.publish()
    told = status(service, ticket)
    assert (told["phase"], told["attempt"]) == ("waiting", 0)
    assert not {"reasonCode", "rate", "worker"} & set(told)

    service.store.leases.retry(service.claim(ticket), delay_seconds=0, error="it is away", reason=Reason.CONNECTION)
    told = status(service, ticket)
    assert (told["phase"], told["attempt"], told["reasonCode"]) == ("waiting", 1, "connection")
    assert "worker" not in told

    claim = service.claim(ticket)
    _phase(Phase.UPLOADING, 312 << 20)(service, claim)
    told = status(service, ticket)
    assert (told["phase"], told["attempt"], told["worker"]) == ("uploading", 2, service.ticket(ticket.id).worker)
    assert isinstance(told["rate"], int)
    assert told["rate"] > 0
    assert "reasonCode" not in told, "it was the reason of the first attempt"

    _phase(Phase.VERIFYING, IMAGE_SIZE)(service, claim)
    told = status(service, ticket)
    assert told["phase"] == "verifying"
    assert not {"rate", "eta"} & set(told)

    service.store.leases.failed(claim, error="the checksum differs", reason=Reason.INTEGRITY)
    told = status(service, ticket)
    assert (told["phase"], told["reasonCode"]) == ("verifying", "integrity")


@pytest.mark.parametrize("ended", [_published, _cancelled])
def test_outcome_that_is_no_failure_has_no_reason(service: Service, ended: Callable[[Service, Claim], None]) -> None:
    ticket = service.publish()
    service.store.leases.retry(service.claim(ticket), delay_seconds=0, error="it is away", reason=Reason.CONNECTION)
    ended(service, service.claim(ticket))
    assert "reasonCode" not in status(service, ticket)


def test_xml_status_has_only_the_elements_of_the_api(service: Service) -> None:
    ticket = service.publish()
    _failed(service, service.claim(ticket))
    path = ticket_path(ticket)
    for each in (f"{path}/status", path, f"{FLAT}/statuses"):
        body = service.get(each, login="alice", accept=XML).body
        assert not [name for name in JSON_ONLY if f"<{name}>".encode() in body]


@pytest.mark.long
def test_percentage_never_decreases(service: Service) -> None:
    ticket = service.publish()
    claim = service.claim(ticket)
    service.store.leases.phase(claim, Phase.UPLOADING, "on it")
    seen = []
    for sent in range(0, IMAGE_SIZE + 1, IMAGE_SIZE // 16):
        service.store.leases.renew(claim, 60.0, sent=sent)
        told = status(service, ticket)
        assert told["bytesLoaded"] == sent
        seen.append(told["percentage"])
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 99)
    service.store.leases.published(claim, cloud_id="c1", location="RegionOne")
    assert status(service, ticket)["percentage"] == 100


def _set(service: Service, ticket: Ticket, **values: Any) -> None:
    with writing(service.store.engine) as connection:
        connection.execute(update(database.tickets).where(database.tickets.c.id == ticket.id).values(values))


@pytest.mark.parametrize("elapsed", [-3600.0, 0.0, 1.0, 3600.0, 1e9])
@pytest.mark.parametrize("sent", [1, 1 << 20, IMAGE_SIZE])
@pytest.mark.parametrize("total", [IMAGE_SIZE, 1 << 62])
def test_eta_is_a_valid_date_or_absent(service: Service, elapsed: float, sent: int, total: int) -> None:
    """This holds for any upload rate and any difference of clocks."""
    ticket = service.publish()
    claim = service.claim(ticket)
    service.store.leases.phase(claim, Phase.UPLOADING, "on it")
    _set(service, ticket, sent=sent, total=total, started=time.time() - elapsed, progressed=time.time())
    answer = service.get(f"{ticket_path(ticket)}/status", login="alice", accept=JSON)
    assert answer.status == 200
    if "eta" in answer.json:
        assert datetime.fromisoformat(answer.json["eta"]) > datetime.now(UTC) - timedelta(minutes=1)


def test_eta_follows_the_upload_rate(service: Service) -> None:
    ticket = service.publish()
    claim = service.claim(ticket)
    service.store.leases.phase(claim, Phase.UPLOADING, "on it")
    _set(service, ticket, sent=IMAGE_SIZE // 4, started=START - 100, progressed=START)
    assert datetime.fromisoformat(status(service, ticket)["eta"]) == datetime.fromtimestamp(START + 300, UTC)


# Conditional GETs -------------------------------------------------------------------------------------------------


def paths(ticket: Ticket) -> list[str]:
    return [ticket_path(ticket), f"{ticket_path(ticket)}/status", FLAT, f"{FLAT}/statuses"]


def changes(service: Service, ticket: Ticket) -> list[Callable[[], object]]:
    """Return successive changes of a ticket, from its claim to its publication."""
    leases = service.store.leases
    held: list[Claim] = []
    return [
        lambda: held.append(service.claim(ticket)),
        lambda: leases.phase(held[0], Phase.UPLOADING, "on it"),
        lambda: leases.renew(held[0], 60.0, sent=1),
        lambda: leases.renew(held[0], 60.0, sent=IMAGE_SIZE // 2),
        lambda: leases.retry(held[0], delay_seconds=0.0, error="Glance was away"),
        lambda: held.append(service.claim(ticket)),
        lambda: leases.phase(held[1], Phase.VERIFYING, "on it"),
        lambda: leases.published(held[1], cloud_id="c1", location=None),
    ]


def unmodified(answer: Answer) -> bool:
    if answer.status == 304:
        assert answer.body == b""
        assert "content-type" not in answer.headers
        assert answer.headers["etag"]
        assert answer.headers["last-modified"]
        return True
    assert answer.status == 200
    assert answer.body
    return False


@pytest.mark.long
@pytest.mark.parametrize("accept", [XML, JSON])
def test_etag_changes_with_every_change(fresh: Service, accept: str) -> None:
    ticket = fresh.publish()
    options: dict[str, Any] = {"login": "alice", "accept": accept}
    seen: dict[str, set[str]] = {path: set() for path in paths(ticket)}
    for change in [lambda: None, *changes(fresh, ticket)]:
        change()
        for path in paths(ticket):
            answer = fresh.get(path, **options)
            etag = answer.headers["etag"]
            assert etag not in seen[path]
            for known in seen[path]:
                assert not unmodified(fresh.get(path, headers={"If-None-Match": known}, **options))
            seen[path].add(etag)
            assert unmodified(fresh.get(path, headers={"If-None-Match": etag}, **options))


@pytest.mark.parametrize("accept", [XML, JSON])
def test_reading_and_passing_time_change_no_answer(fresh: Service, clock: Clock, accept: str) -> None:
    """A renewed lease does not change an answer either. The ETA depends only on the ticket's row."""
    ticket = fresh.publish()
    claim = fresh.claim(ticket)
    fresh.store.leases.phase(claim, Phase.UPLOADING, "on it")
    fresh.store.leases.renew(claim, 60.0, sent=1000)
    first = {path: fresh.get(path, login="alice", accept=accept) for path in paths(ticket)}
    assert b"eta" in first[paths(ticket)[1]].body
    clock.now += 100
    fresh.store.leases.renew(claim, 60.0, sent=1000)
    for path, answer in first.items():
        assert fresh.get(path, login="alice", accept=accept).body == answer.body
        for name, value in (("If-None-Match", "etag"), ("If-Modified-Since", "last-modified")):
            headers = {name: answer.headers[value]}
            assert unmodified(fresh.get(path, login="alice", accept=accept, headers=headers))


def test_a_poll_takes_one_statement_and_a_304_writes_no_document(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = service.publish()
    path = f"{ticket_path(ticket)}/status"
    for each in (path, ticket_path(ticket)):
        service.get(each, login="alice")
        with statements(service.store.engine) as executed:
            assert service.get(each, login="alice").status == 200
        assert len(executed) == 1
    etag = service.get(path, login="alice").headers["etag"]
    monkeypatch.delattr(TicketStatus, "_write")
    with statements(service.store.engine) as executed:
        assert unmodified(service.get(path, login="alice", headers={"If-None-Match": etag}))
    assert len(executed) == 1


def test_if_none_match_is_understood_in_all_forms(service: Service) -> None:
    ticket = service.publish()
    path = ticket_path(ticket)
    etag = service.get(path, login="alice").headers["etag"]
    assert etag.startswith('"')

    def asked(value: str, **options: Any) -> bool:
        return unmodified(service.get(path, login="alice", headers={"If-None-Match": value}, **options))

    for value in (etag, f"W/{etag}", f'"x", {etag}', f"{etag},W/{etag}", "*", f' {etag} , "y"'):
        assert asked(value)
    for value in ("", '"x"', etag.strip('"'), f'"{etag}"', ","):
        assert not asked(value)
    # The other format is another representation.
    assert not asked(etag, accept=JSON)
    # If-Modified-Since is ignored if there is an If-None-Match.
    late = formatdate(time.time() + 3600, usegmt=True)
    headers = {"If-None-Match": '"x"', "If-Modified-Since": late}
    assert not unmodified(service.get(path, login="alice", headers=headers))


def test_service_status_supports_conditional_get(service: Service) -> None:
    etag = service.get("status").headers["etag"]
    assert unmodified(service.get("status", headers={"If-None-Match": etag}))


START = 1_800_000_000


class Clock:
    """One clock for both the intake and the store."""

    def __init__(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_800_000_000.0
        self._service = service
        monkeypatch.setattr(time, "time", lambda: self.now)

    def change(self, ticket: Ticket, at: float, **values: Any) -> None:
        self.now = at
        _set(self._service, ticket, modified=at, **values)


@pytest.fixture
def clock(fresh: Service, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(fresh, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("first", [0.0, 0.1, 0.999])
def test_later_change_is_never_missed(fresh: Service, clock: Clock, first: float) -> None:
    """A ticket is changed, read and changed again, at various fractions of a second. The caller sends back
    Last-Modified or the time of its request."""
    ticket = fresh.publish()
    path = f"{ticket_path(ticket)}/status"
    for asked in (0.0, 0.2, 0.9999, 1.0, 7.3):
        for second in (0.3, 0.99999, 1.0, 60.0):
            clock.change(ticket, START + first)
            clock.now = START + first + asked
            given = fresh.get(path, login="alice").headers["last-modified"]
            assert parsedate_to_datetime(given).timestamp() <= clock.now
            clock.change(ticket, START + first + asked + second)
            clock.now += 30
            for since in (given, formatdate(int(START + first + asked), usegmt=True)):
                assert not unmodified(fresh.get(path, login="alice", headers={"If-Modified-Since": since}))


def test_unchanged_ticket_gets_304_for_if_modified_since(fresh: Service, clock: Clock) -> None:
    ticket = fresh.publish()
    clock.change(ticket, START + 0.5)
    clock.now = START + 5
    for path in paths(ticket):
        given = fresh.get(path, login="alice").headers["last-modified"]
        assert given == formatdate(START + 1, usegmt=True)
        for since in (given, formatdate(START + 2, usegmt=True)):
            assert unmodified(fresh.get(path, login="alice", headers={"If-Modified-Since": since}))
        # The same moment in the obsolete forms of RFC 9110, 5.6.7.
        moment = datetime.fromtimestamp(START + 1, UTC)
        for form in ("%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"):
            assert unmodified(fresh.get(path, login="alice", headers={"If-Modified-Since": moment.strftime(form)}))
            before = (moment - timedelta(seconds=1)).strftime(form)
            assert not unmodified(fresh.get(path, login="alice", headers={"If-Modified-Since": before}))


@pytest.mark.long
def test_progress_is_never_missed(fresh: Service, clock: Clock) -> None:
    """Progress is written without changing the ticket's modification time."""
    ticket = fresh.publish()
    fresh.claim(ticket)
    clock.change(ticket, START + 0.5)
    for sent in (1, 1000, IMAGE_SIZE):
        for path in paths(ticket):
            clock.now += 3
            given = fresh.get(path, login="alice").headers["last-modified"]
            _set(fresh, ticket, sent=sent, progressed=clock.now)
            for wait in (0.0, 0.7, 5.0):
                clock.now += wait
                headers = {"If-Modified-Since": given}
                assert not unmodified(fresh.get(path, login="alice", headers=headers))


@pytest.mark.parametrize(
    "since",
    [
        "", "yesterday", "0", "-1", "1800000000", "Mon, 99 Jan 2026 00:00:00 GMT", "Mon, 01 Jan 99999 00:00:00 GMT",
        "Mon, 01 Jan 0001 00:00:00 +2359", "Mon, 01 Jan 0000 00:00:00 GMT", "Fri, 01 Jan 2027 25:00:00 GMT", ",",
        "Mon,",
        "Mon, 01 Jan 1970 00:00:00 +99999999999999999999", "å" * 9, "Mon, 01 Foo 2026 00:00:00 GMT", ":" * 99,
        "1 1 1 1 1 1",
    ],
)  # fmt: skip
def test_invalid_date_is_ignored(service: Service, since: str) -> None:
    path = ticket_path(service.publish())
    assert not unmodified(service.get(path, login="alice", headers={"If-Modified-Since": since}))


def test_new_ticket_changes_the_empty_list(fresh: Service) -> None:
    for path in (FLAT, f"{FLAT}/statuses"):
        answer = fresh.get(path, login="alice")
        for name, value in (("If-None-Match", "etag"), ("If-Modified-Since", "last-modified")):
            assert unmodified(fresh.get(path, login="alice", headers={name: answer.headers[value]}))
    empty = {path: fresh.get(path, login="alice") for path in (FLAT, f"{FLAT}/statuses")}
    assert fresh.publish().state is State.QUEUED
    for path, answer in empty.items():
        for name, value in (("If-None-Match", "etag"), ("If-Modified-Since", "last-modified")):
            assert not unmodified(fresh.get(path, login="alice", headers={name: answer.headers[value]}))


def test_unauthorized_caller_gets_no_304(service: Service) -> None:
    ticket = service.publish()
    for headers in ({"If-None-Match": "*"}, {"If-Modified-Since": formatdate(time.time() + 60, usegmt=True)}):
        for path in paths(ticket):
            assert service.get(path, login="bob", headers=headers).status == 404
            assert service.get(path, login=None, headers=headers).status == 401


def test_answer_may_be_cached_only_for_its_caller(service: Service) -> None:
    answer = service.get(FLAT, login="alice")
    assert answer.headers["cache-control"] == "private, no-cache"
    assert {"Accept", "Authorization"} <= set(answer.headers["vary"].split(", "))
