"""Preflights and tests of accounts over HTTP. A function stands for the worker, which has tests of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import select

from publisher.core.cloud_check import CheckKind, CheckResult, Explored, Place
from publisher.core.errors import Reason
from publisher.store import NewCheck, StoredAccount, account_uri
from publisher.store.database import checks, reading
from publisher.web import CheckResults
from tests.service import JSON, SECRET, XML, Answer, Service, image_uri, json_body, xml_body

pytestmark = pytest.mark.long

PIMAGES = f"{image_uri(21)}/pimages"
PASSES = CheckResult(True, "the cloud would accept the image")
TAKEN = CheckResult(False, "displayName: the project has an image of this name", "displayName", Reason.REQUEST)
AWAY = CheckResult(False, "Keystone does not answer: timed out", reason=Reason.CONNECTION, transient=True)
SEEN = Explored.of(projects=[Place("8ac0", "demo")], regions=[Place("RegionOne", "RegionOne")])


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for half a minute in vain."""
    monkeypatch.setattr(CheckResults, "seconds", 20.0)


class Worker:
    """Answers each check with a result, and notes what was to be checked."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.result = PASSES
        self.asked: list[NewCheck] = []

    def answer(self, check_id: int) -> None:
        claimed = self.service.store.checks.claim(check_id)
        assert claimed is not None
        self.asked.append(claimed.check)
        self.service.store.checks.finish(claimed, self.result)


@pytest.fixture
def worker(fresh: Service) -> Worker:
    worker = Worker(fresh)
    fresh.waker.on_check = worker.answer
    return worker


@pytest.fixture
def account(fresh: Service) -> StoredAccount:
    sealed = fresh.app.state.services.sealer.seal({"password": SECRET})
    fields = {"keystoneUrl": "https://cloud.example.com:5000", "login": "demo"}
    return fresh.store.accounts.add(
        owner="alice", name="lab", platform="openstack", fields=fields, sealed_secrets=sealed
    )


def preflight(service: Service, body: str | None = None, *, query: str = "preflight=true", **options: str) -> Answer:
    headers = {"Idempotency-Key": options["key"]} if "key" in options else {}
    return service.post(
        f"{PIMAGES}?{query}",
        json_body(21) if body is None else body,
        login="alice",
        content_type=JSON,
        accept=JSON,
        headers=headers,
    )


def tickets(service: Service) -> list[int]:
    return sorted(service.store.tickets.several(range(1, 20)))


def kept(service: Service) -> list[str]:
    """Return the states of the checks that are in the store. None may hold a secret."""
    with reading(service.store.engine) as connection:
        rows = list(connection.execute(select(checks.c.state, checks.c.sealed_secrets)))
    assert [row.sealed_secrets for row in rows] == [None] * len(rows)
    return [row.state for row in rows]


def test_a_preflight_that_passes_creates_the_ticket(fresh: Service, worker: Worker) -> None:
    answer = preflight(fresh)
    assert answer.status == 201
    assert answer.headers["location"].endswith(answer.json["uri"])
    assert fresh.waker.ids == [answer.json["dbId"]]
    (asked,) = worker.asked
    assert (asked.kind, asked.owner, asked.platform, asked.image_id) == (CheckKind.PREFLIGHT, "alice", "openstack", 21)
    assert asked.target["keystoneProject"] == "demo"
    assert fresh.app.state.services.sealer.open(asked.sealed_secrets) == {"password": SECRET}
    assert kept(fresh) == ["done"]


def test_a_preflight_that_fails_creates_no_ticket_and_names_the_element(fresh: Service, worker: Worker) -> None:
    worker.result = TAKEN
    answer = preflight(fresh)
    assert answer.status == 400
    assert answer.problem() == f"{TAKEN.words}; no ticket was created"
    assert answer.json["localizedErrorMsg"]["messageId"] == "PreflightFailed"
    assert (tickets(fresh), fresh.waker.ids) == ([], [])


def test_an_xml_request_gets_an_xml_answer(fresh: Service, worker: Worker) -> None:
    answer = fresh.post(f"{PIMAGES}?preflight=true", xml_body(21), login="alice")
    assert (answer.status, answer.headers["content-type"]) == (201, XML)


def test_a_cloud_that_does_not_answer_is_a_503(fresh: Service, worker: Worker) -> None:
    worker.result = AWAY
    answer = preflight(fresh)
    assert answer.status == 503
    assert answer.headers["retry-after"]
    assert answer.problem() == f"{AWAY.words}; no ticket was created, try again later"
    assert tickets(fresh) == []


def test_without_a_worker_the_answer_is_a_503_and_nothing_is_left(
    fresh: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CheckResults, "seconds", 0.3)
    fresh.waker.on_check = lambda _: None
    answer = preflight(fresh)
    assert answer.status == 503
    assert "no worker has answered" in answer.problem()
    assert (tickets(fresh), kept(fresh)) == ([], [])


def test_a_worker_that_is_killed_in_the_middle_leaves_nothing(fresh: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckResults, "seconds", 0.3)
    fresh.waker.on_check = fresh.store.checks.claim
    answer = preflight(fresh)
    assert answer.status == 503
    assert "was stopped" in answer.problem()
    assert (tickets(fresh), kept(fresh)) == ([], [])


def test_without_a_broker_the_answer_is_a_503_at_once(fresh: Service) -> None:
    fresh.waker.break_down()
    answer = preflight(fresh)
    assert answer.status == 503
    assert "the message broker cannot be reached" in answer.problem()
    assert (tickets(fresh), kept(fresh)) == ([], [])


@pytest.mark.parametrize("query", ["", "preflight=false", "preflight="])
def test_nothing_is_checked_unless_it_is_asked_for(fresh: Service, worker: Worker, query: str) -> None:
    assert preflight(fresh, query=query).status == 201
    assert worker.asked == []


def test_a_value_that_is_no_boolean_is_refused(fresh: Service, worker: Worker) -> None:
    answer = preflight(fresh, query="preflight=perhaps")
    assert (answer.status, answer.problem()) == (400, "preflight: is not true or false")
    assert (worker.asked, tickets(fresh)) == ([], [])


def test_a_bad_request_is_refused_without_a_worker(fresh: Service, worker: Worker) -> None:
    answer = preflight(fresh, json_body(21, account__login=None))
    assert (answer.status, "credAccount.login" in answer.problem()) == (400, True)
    answer = preflight(fresh, json_body(21, ifNameTaken="perhaps"))
    assert (answer.status, answer.problem()) == (400, "ifNameTaken: 'perhaps' is unknown; use allow or refuse")
    assert worker.asked == []


def test_a_repeated_request_gets_its_ticket_without_a_preflight(fresh: Service, worker: Worker) -> None:
    first = preflight(fresh, key="again")
    again = preflight(fresh, key="again")
    assert (first.status, again.status) == (201, 201)
    assert first.json["dbId"] == again.json["dbId"]
    assert len(worker.asked) == 1
    assert preflight(fresh, json_body(21, displayName="another"), key="again").status == 409


def test_if_name_taken_is_kept_and_shown_in_json_only(fresh: Service) -> None:
    ticket = fresh.publish(xml_body(21, ifNameTaken="refuse"))
    assert ticket.target["ifNameTaken"] == "refuse"
    shown = fresh.get(f"{PIMAGES}/{ticket.id}", login="alice", accept=JSON)
    assert shown.json["ifNameTaken"] == "refuse"
    assert b"ifNameTaken" not in fresh.get(f"{PIMAGES}/{ticket.id}", login="alice", accept=XML).body


def test_too_many_checks_at_a_time_are_refused(fresh: Service, worker: Worker) -> None:
    for _ in range(4):
        fresh.store.checks.add(NewCheck(CheckKind.PREFLIGHT, "alice", "openstack", {}, b"", {}))
    answer = preflight(fresh)
    assert answer.status == 429
    assert answer.headers["retry-after"]
    assert tickets(fresh) == []


# Accounts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def test_of(fresh: Service, account: StoredAccount) -> Callable[..., Answer]:
    """Return a function that tests the account."""

    def test(login: str = "alice", accept: str = JSON) -> Answer:
        uri = f"{account_uri('alice', account.id)}/test"
        return fresh.post(uri, b"", login=login, accept=accept, content_type=None)

    return test


def test_an_account_is_tested(
    fresh: Service, worker: Worker, account: StoredAccount, test_of: Callable[..., Answer]
) -> None:
    worker.result = CheckResult(True, "signed in", explored=SEEN)
    answer = test_of()
    assert answer.status == 200
    assert answer.json == {
        "ok": True,
        "message": "signed in",
        "projects": {"project": [{"id": "8ac0", "name": "demo"}]},
        "regions": {"region": [{"id": "RegionOne", "name": "RegionOne"}]},
        "networks": {"network": []},
        "parentUri": account_uri("alice", account.id),
    }
    (asked,) = worker.asked
    assert (asked.kind, asked.account, asked.target) == (CheckKind.ACCOUNT, account.fields, {})
    in_xml = test_of(accept=XML)
    assert in_xml.text("projects/project/name") == "demo"
    assert in_xml.text("regions/region/id") == "RegionOne", "the document is our own: it has all in XML, too"
    assert kept(fresh) == ["done", "done"]


def test_a_failed_test_is_an_answer(worker: Worker, test_of: Callable[..., Answer]) -> None:
    worker.result = CheckResult(False, "Keystone rejected the login", reason=Reason.CREDENTIALS)
    answer = test_of()
    assert answer.status == 200
    assert (answer.json["ok"], answer.json["message"]) == (False, "Keystone rejected the login")
    assert answer.json["reasonCode"] == "credentials"
    assert test_of(accept=XML).text("reasonCode") == "credentials"


def test_what_the_account_does_not_say_is_taken_from_its_last_ticket(
    fresh: Service, worker: Worker, account: StoredAccount, test_of: Callable[..., Answer]
) -> None:
    fresh.publish(json_as_xml(account))
    assert test_of().status == 200
    (asked,) = worker.asked
    assert asked.target["keystoneDomain"] == "lab"
    assert "keystoneProject" not in asked.target, "the test lists the projects"


def json_as_xml(account: StoredAccount) -> str:
    uri = f"<uri>{account_uri('alice', account.id)}</uri>".encode()
    return xml_body(21, keystoneDomain="lab", credAccount=uri)


@pytest.mark.parametrize(("login", "status"), [("bob", 404), ("carol", 404), ("root", 200)])
def test_only_the_owner_and_administrators_test_an_account(
    worker: Worker, test_of: Callable[..., Answer], login: str, status: int
) -> None:
    assert test_of(login).status == status
    assert len(worker.asked) == (status == 200)


def test_the_entitlement_to_store_accounts_is_needed(fresh: Service, worker: Worker) -> None:
    answer = fresh.post("users/carol/accounts/1/test", b"", login="carol", content_type=None)
    assert answer.status == 403


def test_an_account_that_is_missing_is_not_found(fresh: Service, worker: Worker) -> None:
    answer = fresh.post("users/alice/accounts/77/test", b"", login="alice", content_type=None)
    assert answer.status == 404
