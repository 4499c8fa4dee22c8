"""Cancel, retry, withdraw and delete publications, and list all publications of a user."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from publisher.core.ticket import State, Ticket
from publisher.store import AccountGiven, Store
from tests.service import ACCOUNT, JSON, XML, Answer, Service, ticket_path, xml_body

ALICE = "users/alice/appliances/14"


@pytest.fixture
def fresh(start: Callable[..., Service]) -> Service:
    return start()


def publishing(service: Service) -> Ticket:
    ticket = service.publish()
    service.claim(ticket)
    return service.ticket(ticket.id)


def touched(service: Service) -> Ticket:
    """Return a ticket that is queued between two attempts and has something in the cloud."""
    ticket = service.publish()
    claim = service.claim(ticket)
    service.store.leases.plan(claim, "a-cloud-id")
    service.store.leases.retry(claim, delay_seconds=60, error="the cloud was away")
    return service.ticket(ticket.id)


def ended(service: Service, state: State) -> Ticket:
    ticket = service.publish()
    claim = service.claim(ticket)
    leases = service.store.leases
    match state:
        case State.PUBLISHED:
            leases.published(claim, cloud_id="a-cloud-id", location=None)
        case State.WITHDRAWN:
            leases.published(claim, cloud_id="a-cloud-id", location=None)
            service.store.tickets.request_withdrawal(ticket.id, AccountGiven(ticket.account, b"sealed"))
            leases.withdrawn(service.claim(ticket), words="Withdrawn")
        case State.FAILED:
            leases.failed(claim, error="no such project")
        case _:
            service.store.tickets.request_cancel(ticket.id)
            leases.cancelled(claim)
    assert service.ticket(ticket.id).state is state
    return service.ticket(ticket.id)


FINAL = [State.PUBLISHED, State.FAILED, State.CANCELLED, State.WITHDRAWN]


class TestCancel:
    def test_untouched_ticket_is_cancelled_at_once(self, fresh: Service) -> None:
        ticket = fresh.publish()
        woken = list(fresh.waker.ids)
        answer = fresh.call("DELETE", f"{ticket_path(ticket)}/cancel", login="alice")
        assert (answer.status, answer.body) == (204, b"")
        status = fresh.get(f"{ticket_path(ticket)}/status", login="alice", accept=JSON).json
        assert (status["cancelled"], status["complete"], status["error"]) == (True, False, False)
        assert fresh.waker.ids == woken, "there is nothing to clean up"

    @pytest.mark.parametrize("under_way", [publishing, touched])
    def test_ticket_with_possible_leftovers_is_cleaned_up_first(
        self, fresh: Service, under_way: Callable[[Service], Ticket]
    ) -> None:
        ticket = under_way(fresh)
        assert fresh.call("DELETE", f"{ticket_path(ticket)}/cancel", login="alice").status == 204
        assert fresh.ticket(ticket.id).state is State.CANCELLING
        status = fresh.get(f"{ticket_path(ticket)}/status", login="alice", accept=JSON).json
        assert (status["cancelled"], status["message"]) == (False, "Cancelling: removing what was uploaded")
        assert fresh.waker.ids[-1] == ticket.id
        assert fresh.call("DELETE", f"{ticket_path(ticket)}/cancel", login="alice").status == 204, "repeatable"

    @pytest.mark.parametrize("state", sorted(FINAL))
    def test_cancel_of_an_ended_ticket_gets_409(self, fresh: Service, state: State) -> None:
        answer = fresh.call("DELETE", f"{ticket_path(ended(fresh, state))}/cancel", login="alice")
        assert answer.status == 409
        assert f"has ended already: {state}" in answer.problem()


class TestRetry:
    @pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED])
    def test_retried_ticket_is_queued_like_a_new_one(self, fresh: Service, state: State) -> None:
        ticket = ended(fresh, state)
        answer = fresh.post(f"{ticket_path(ticket)}/retry", "", content_type=None, login="alice", accept=JSON)
        assert answer.status == 201
        assert answer.headers["location"].endswith(f"/api/{ticket_path(ticket)}")
        assert (answer.json["dbId"], answer.json["status"]["message"]) == (ticket.id, "Queued")
        assert not answer.json["status"]["error"]
        now = fresh.ticket(ticket.id)
        assert (now.state, now.attempt, now.error, now.finished) == (State.QUEUED, 0, None, None)
        assert now.sealed_secrets is not None, "it can still sign in"
        assert fresh.waker.ids[-1] == ticket.id
        assert fresh.claim(now).token == ticket.lease_token + 1, "what held it before can write nothing"

    @pytest.mark.parametrize(
        "other",
        [
            Service.publish,
            publishing,
            lambda service: ended(service, State.PUBLISHED),
            lambda service: ended(service, State.WITHDRAWN),
        ],
    )
    def test_retry_in_any_other_state_gets_409(self, fresh: Service, other: Callable[[Service], Ticket]) -> None:
        ticket = other(fresh)
        answer = fresh.post(f"{ticket_path(ticket)}/retry", "", content_type=None, login="alice")
        assert answer.status == 409
        assert "only a failed or cancelled one" in answer.problem()
        assert fresh.ticket(ticket.id).state is ticket.state


def account_body(**changes: object) -> str:
    return json.dumps({name: value for name, value in (ACCOUNT | changes).items() if value is not None})


class TestWithdraw:
    def withdraw(self, service: Service, ticket: Ticket, body: str = "", **options: Any) -> Answer:
        plain = {"content_type": JSON if body else None, "login": "alice", "accept": JSON}
        return service.post(f"{ticket_path(ticket)}/withdraw", body, **(plain | options))

    def test_published_image_is_withdrawn_with_the_account_of_the_request(self, fresh: Service) -> None:
        ticket = ended(fresh, State.PUBLISHED)
        answer = self.withdraw(fresh, ticket, account_body())
        assert answer.status == 200
        status = answer.json
        flags = ("complete", "published", "cancelled", "error")
        assert [status[each] for each in flags] == [False, False, False, False]
        assert status["message"] == "Withdrawing: removing the image from the cloud"
        assert fresh.waker.ids[-1] == ticket.id
        woken = list(fresh.waker.ids)
        assert self.withdraw(fresh, ticket).json == status, "repeatable, without the account"
        assert set(fresh.waker.ids[len(woken) :]) <= {ticket.id}
        fresh.store.leases.withdrawn(fresh.claim(ticket), words="Withdrawn")
        ended_status = fresh.get(f"{ticket_path(ticket)}/status", login="alice", accept=JSON).json
        assert [ended_status[each] for each in flags] == [True, False, False, False]
        assert ended_status["message"] == "Withdrawn: the image is no longer in the cloud"
        assert self.withdraw(fresh, ticket).json == ended_status
        document = fresh.get(ticket_path(ticket), login="alice", accept=JSON).json
        assert (document["uploaded"], "cloudId" in document, "uploadedTime" in document) == (False, False, False)

    def test_the_answer_in_xml_is_a_status_of_the_apis_schema(self, fresh: Service) -> None:
        answer = self.withdraw(fresh, ended(fresh, State.PUBLISHED), account_body(), accept=XML)
        assert answer.status == 200
        assert (answer.text("complete"), answer.text("published")) == ("false", "false")

    def test_published_image_is_withdrawn_with_the_stored_account(self, fresh: Service) -> None:
        stored = fresh.post("users/alice/accounts", account_body(), content_type=JSON, login="alice", accept=JSON).json
        reference: dict[str, Any] = {"credAccount": {"dbId": stored["dbId"], "targetPlatform": {"name": "openstack"}}}
        ticket = fresh.publish(xml_body(image=None, **reference))
        fresh.store.leases.published(fresh.claim(ticket), cloud_id="a-cloud-id", location=None)
        assert self.withdraw(fresh, ticket).status == 200
        assert fresh.ticket(ticket.id).state is State.WITHDRAWING
        assert fresh.ticket(ticket.id).sealed_secrets is not None

    def test_a_stored_account_can_be_named(self, fresh: Service) -> None:
        ticket = ended(fresh, State.PUBLISHED)
        stored = fresh.post("users/alice/accounts", account_body(), content_type=JSON, login="alice", accept=JSON).json
        assert self.withdraw(fresh, ticket, json.dumps({"dbId": stored["dbId"]})).status == 200

    def test_without_an_account_the_answer_says_what_to_give(self, fresh: Service) -> None:
        ticket = ended(fresh, State.PUBLISHED)
        answer = self.withdraw(fresh, ticket)
        assert answer.status == 400
        assert answer.problem().startswith(f"credAccount: is needed to withdraw ticket {ticket.id}")
        assert fresh.ticket(ticket.id) == ticket

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"login": "somebody else"}, "credAccount: leads to another cloud"),
            ({"keystoneUrl": "http://127.0.0.2:5000"}, "credAccount: leads to another cloud"),
            ({"keystoneUrl": "gopher://x"}, "credAccount.keystoneUrl: must be an address"),
            ({"password": None}, "credAccount.password: is needed"),
            ({"targetPlatform": {"name": "memory"}}, "credAccount: must be an account of openstack"),
            ({"dbId": 999}, "credAccount: refers to a stored account that does not exist"),
        ],
    )
    def test_an_account_that_cannot_be_used_is_refused(
        self, fresh: Service, changes: dict[str, object], problem: str
    ) -> None:
        ticket = ended(fresh, State.PUBLISHED)
        answer = self.withdraw(fresh, ticket, account_body(**changes))
        assert answer.status == 400
        assert answer.problem().startswith(problem)
        assert fresh.ticket(ticket.id) == ticket

    def test_withdrawal_of_an_active_ticket_cancels_it(self, fresh: Service) -> None:
        queued, going_on = fresh.publish(), publishing(fresh)
        assert self.withdraw(fresh, queued).json["cancelled"]
        assert self.withdraw(fresh, queued).json["cancelled"], "repeatable"
        assert self.withdraw(fresh, going_on).json["message"] == "Cancelling: removing what was uploaded"

    def test_withdrawal_of_a_failed_ticket_gets_409(self, fresh: Service) -> None:
        answer = self.withdraw(fresh, ended(fresh, State.FAILED))
        assert answer.status == 409
        assert "has published nothing that can be withdrawn" in answer.problem()

    def test_a_withdrawing_ticket_can_neither_be_cancelled_nor_deleted(self, fresh: Service) -> None:
        ticket = ended(fresh, State.PUBLISHED)
        self.withdraw(fresh, ticket, account_body())
        for path in (f"{ticket_path(ticket)}/cancel", ticket_path(ticket)):
            assert fresh.call("DELETE", path, login="alice").status == 409
        assert fresh.ticket(ticket.id).state is State.WITHDRAWING


class TestDelete:
    @pytest.mark.parametrize("state", sorted(FINAL))
    def test_ended_ticket_is_deleted_with_its_records(self, fresh: Service, state: State) -> None:
        ticket = ended(fresh, state)
        answer = fresh.call("DELETE", ticket_path(ticket), login="alice")
        assert (answer.status, answer.body) == (204, b"")
        assert fresh.get(ticket_path(ticket), login="alice").status == 404
        assert fresh.call("DELETE", ticket_path(ticket), login="alice").status == 404
        assert (fresh.store.tickets.history(ticket.id), fresh.store.tickets.journal(ticket.id)) == ([], [])

    @pytest.mark.parametrize("going_on", [Service.publish, publishing])
    def test_delete_of_an_active_ticket_gets_409(self, fresh: Service, going_on: Callable[[Service], Ticket]) -> None:
        ticket = going_on(fresh)
        answer = fresh.call("DELETE", ticket_path(ticket), login="alice")
        assert answer.status == 409
        assert "cancel it first" in answer.problem()
        assert fresh.ticket(ticket.id).state is ticket.state

    def test_delete_all_removes_only_the_tickets_of_the_appliance(self, fresh: Service) -> None:
        kept = fresh.publish(image=22)
        gone = [ended(fresh, state) for state in FINAL]
        assert fresh.call("DELETE", f"{ALICE}/pimages", login="alice").status == 204
        assert [each.id for each in fresh.store.tickets.list()] == [kept.id]
        assert all(fresh.store.tickets.get(each.id) is None for each in gone)

    def test_delete_all_removes_nothing_if_one_ticket_is_active(self, fresh: Service) -> None:
        ended(fresh, State.PUBLISHED)
        going_on = publishing(fresh)
        answer = fresh.call("DELETE", f"{ALICE}/pimages", login="alice")
        assert answer.status == 409
        assert f"ticket {going_on.id} has not ended" in answer.problem()
        assert len(fresh.store.tickets.list()) == 2


class TestOfUser:
    def test_list_has_all_appliances_of_this_user_only(self, fresh: Service) -> None:
        mine = [fresh.publish(image=image).id for image in (21, 22, 23)]
        fresh.publish(login="bob", image=31)
        listed = fresh.get("users/alice/pimages", login="alice", accept=JSON).json
        assert (listed["total"], [each["dbId"] for each in listed["publishImages"]["publishImage"]]) == (3, mine)
        statuses = fresh.get("users/alice/pimages/status", login="alice", accept=JSON).json
        assert (statuses["total"], [each["dbId"] for each in statuses["statuses"]["status"]]) == (3, mine)

    @pytest.mark.parametrize("img", ["22", "users/alice/appliances/15/images/22"])
    def test_img_parameter_selects_one_image(self, fresh: Service, img: str) -> None:
        fresh.publish(image=21)
        wanted = fresh.publish(image=22).id
        for path, plural, singular in (
            ("pimages", "publishImages", "publishImage"),
            ("pimages/status", "statuses", "status"),
        ):
            listed = fresh.get(f"users/alice/{path}?img={img}", login="alice", accept=JSON).json
            assert [each["dbId"] for each in listed[plural][singular]] == [wanted]

    @pytest.mark.parametrize("img", ["users/bob/appliances/24/images/31", "999", "users/alice/appliances/14/images/22"])
    def test_image_that_the_user_does_not_have_gives_an_empty_list(self, fresh: Service, img: str) -> None:
        fresh.publish(image=22)
        fresh.publish(login="bob", image=31)
        assert fresh.get(f"users/alice/pimages?img={img}", login="alice", accept=JSON).json["total"] == 0

    def test_invalid_img_parameter_is_refused(self, fresh: Service) -> None:
        answer = fresh.get("users/alice/pimages?img=x", login="alice")
        assert answer.status == 400
        assert answer.problem().startswith("img: ")


ROUTES = [
    ("DELETE", "{ticket}/cancel", "image_publish"),
    ("DELETE", "{ticket}", "image_publish"),
    ("POST", "{ticket}/retry", "image_publish"),
    ("POST", "{ticket}/withdraw", "image_publish"),
    ("DELETE", "users/{uid}/appliances/{aid}/pimages", "appliance_create"),
    ("GET", "users/{uid}/pimages", "image_generate"),
    ("GET", "users/{uid}/pimages/status", "image_generate"),
]


@pytest.mark.parametrize(("method", "path", "entitlement"), ROUTES)
def test_routes_require_ownership_and_entitlement(fresh: Service, method: str, path: str, entitlement: str) -> None:
    ticket = fresh.publish(login="bob", image=31)
    concrete = path.format(ticket=ticket_path(ticket), uid="bob", aid=24)
    unknown = concrete.replace("users/bob", "users/nobody")
    assert fresh.call(method, concrete, login=None).status == 401
    assert fresh.call(method, concrete, login="bob", password="wrong").status == 401
    others, nobodys = (fresh.call(method, each, login="alice") for each in (concrete, unknown))
    assert (others.status, nobodys.status) == (404, 404)
    assert others.problem().replace("bob", "nobody") == nobodys.problem()
    own = concrete.replace("users/bob", "users/carol")
    refused = fresh.call(method, own, login="carol")
    assert refused.status == 403
    assert entitlement in refused.problem()
    assert fresh.call(method, unknown, login="root").status == 404
    assert fresh.call(method, concrete, login="root").status in (200, 204, 409), "an administrator may"
    store: Store = fresh.store
    assert store.tickets.list(owner="alice") == []
