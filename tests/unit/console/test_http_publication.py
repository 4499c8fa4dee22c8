"""The page of one ticket, and the actions on a ticket."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import insert

from publisher.console.page_request import Visit
from publisher.console.routes.publications import Parts
from publisher.console.throughput_chart import plot
from publisher.core.errors import NotFound, Reason
from publisher.core.ticket import Phase, Sample, State, Ticket, ticket_uri
from publisher.store.database import db_now, notifications, samples, writing
from tests.service import SECRET, Service, xml_body
from tests.unit.console.conftest import Browser, Page

Browsers = Callable[..., Browser]
MIB = 1 << 20


def page_of(browser: Browser, ticket: Ticket, below: str = "") -> Page:
    return browser.get(f"/publications/{ticket.id}{below}")


def published(service: Service) -> Ticket:
    ticket = service.publish(login="alice")
    claim = service.claim(ticket)
    for phase in (Phase.AUTHENTICATING, Phase.UPLOADING, Phase.VERIFYING, Phase.FINISHING):
        service.store.leases.phase(claim, phase, phase.capitalize())
    service.store.leases.plan(claim, "cloud-7")
    service.store.leases.mark(claim, "cloud-7", "present")
    service.store.leases.published(claim, cloud_id="cloud-7", location="http://glance/v2/images/cloud-7")
    return service.ticket(ticket.id)


def test_pages_show_the_clouds_own_id(fresh: Service, browser: Browsers) -> None:
    ticket = fresh.publish(login="alice")
    claim = fresh.claim(ticket)
    fresh.store.leases.published(claim, cloud_id="a-handle", location=None, shown_id="ami-7")
    for below in ("", "/delete"):
        page = page_of(browser("alice"), ticket, below)
        assert "ami-7" in page.words
        assert "a-handle" not in page.words


def failed(service: Service) -> Ticket:
    ticket = service.publish(login="alice")
    service.store.leases.failed(service.claim(ticket), error="the cloud said no", detail="403 Forbidden")
    return service.ticket(ticket.id)


def test_the_page_shows_the_whole_ticket(fresh: Service, browser: Browsers) -> None:
    ticket = published(fresh)
    page = page_of(browser("alice"), ticket)
    assert page.status == 200
    assert page.heading == "A machine image"
    for part in ("published", "100 %", "cloud-7", "http://glance/v2/images/cloud-7", "Keystone URL", "http://127.0.0.1:5000",
                 "5" * 32, "2" * 64, "f" * 128, "image 21", "worker", "Keystone project"):  # fmt: skip
        assert part in page.words, part
    assert page.links("status") == [f"/api/{ticket_uri('alice', 14, 21, ticket.id)}/status"]
    steps = page.root.xpath("//ol[@class='timeline']/li")
    assert [(each.get("class"), each.findtext("p")) for each in steps] == [
        ("queued", "Accepted"),
        ("claimed", "Claimed by worker"),
        ("phase", "Authenticating"),
        ("phase", "Uploading"),
        ("phase", "Verifying"),
        ("phase", "Finishing"),
        ("published", "Published"),
    ]
    assert SECRET not in page.text


def test_failures_and_retries_are_shown_with_their_reasons(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    page = page_of(alice, failed(fresh))
    assert "the cloud said no" in page.words
    assert "403 Forbidden" in page.words
    assert page.root.xpath("//ol[@class='timeline']/li[@class='failed']")

    again = fresh.publish(login="alice")
    fresh.store.leases.retry(fresh.claim(again), delay_seconds=60, error="connection lost")
    page = page_of(alice, again)
    assert "waiting to retry" in page.words
    (step,) = page.root.xpath("//ol[@class='timeline']/li[@class='retrying']/p[1]/text()")
    assert step == "Will be tried again in 60 s: connection lost"


@pytest.mark.long
def test_tickets_of_others_do_not_exist(fresh: Service, browser: Browsers) -> None:
    ticket = published(fresh)
    bob = browser("bob")
    for below in ("", "/events", "/cancel", "/retry", "/delete"):
        page = page_of(bob, ticket, below)
        assert (page.status, "There is no ticket" in page.words) == (404, True)
    assert bob.post(f"/publications/{ticket.id}/delete").status == 404
    assert bob.get("/publications/9999").status == bob.get("/publications/99999999999999999999").status == 404
    assert page_of(browser("root"), ticket).status == 200


def test_cancellation_needs_the_entitlement(fresh: Service, browser: Browsers) -> None:
    ticket = fresh.publish(login="alice")
    fresh.store.users.add("dora", "x", entitlements=frozenset({"image_generate"}))
    with writing(fresh.store.engine) as connection:
        connection.exec_driver_sql("UPDATE tickets SET owner = 'dora'")
    dora = browser()
    assert dora.sign_in("dora", "x").status == 303
    page = page_of(dora, ticket)
    assert page.status == 200
    assert page.links("Cancel") == []
    assert page_of(dora, ticket, "/cancel").status == dora.post(f"/publications/{ticket.id}/cancel").status == 403
    assert fresh.ticket(ticket.id).state is State.QUEUED


def test_cancelling_explains_its_effects_first(fresh: Service, browser: Browsers) -> None:
    alice, ticket = browser("alice"), fresh.publish(login="alice")
    assert page_of(alice, ticket).links("Cancel") == [f"/console/publications/{ticket.id}/cancel"]
    assert "nothing is in the cloud" in page_of(alice, ticket, "/cancel").words
    claim = fresh.claim(ticket)
    fresh.store.leases.plan(claim, "cloud-1")
    confirm = page_of(alice, ticket, "/cancel")
    assert "what was uploaded is deleted from the cloud" in confirm.words
    assert fresh.ticket(ticket.id).state is State.PUBLISHING, "asking changes nothing"

    fresh.waker.ids.clear()
    assert alice.post(f"/publications/{ticket.id}/cancel", csrf="wrong").status == 403
    answer = alice.post(f"/publications/{ticket.id}/cancel")
    assert (answer.status, answer.location) == (303, f"/console/publications/{ticket.id}")
    assert fresh.ticket(ticket.id).state is State.CANCELLING
    assert fresh.waker.ids == [ticket.id], "one has to come and clean up"
    page = page_of(alice, ticket)
    assert "The upload is being stopped" in page.words
    assert page.links("Cancel") == []
    assert audited(fresh) == ("alice", "ticket.cancel")


def test_a_retry_uses_the_stored_account_as_it_is_now(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    sealer = fresh.app.state.services.sealer
    fields = {"keystoneUrl": "http://127.0.0.1:5000", "login": "joe"}
    account = fresh.store.accounts.add(
        owner="alice", name="lab", platform="openstack", fields=fields, sealed_secrets=sealer.seal({"password": "x"})
    )
    named = {"targetPlatform": {"name": "openstack"}, "name": "lab"}
    ticket = fresh.publish(xml_body(image=None, credAccount=named))
    fresh.store.leases.failed(fresh.claim(ticket), error="the cloud said no")
    fresh.store.accounts.update("alice", account.id, sealed_secrets=sealer.seal({"password": "corrected"}))
    assert "with the stored account as it is now" in page_of(alice, ticket, "/retry").words
    assert alice.post(f"/publications/{ticket.id}/retry").status == 303
    sealed = fresh.ticket(ticket.id).sealed_secrets
    assert sealed
    assert sealer.open(sealed) == {"password": "corrected"}
    assert "with the account 'lab' as it is now" in page_of(alice, ticket).words


def test_a_failed_ticket_can_be_retried(fresh: Service, browser: Browsers) -> None:
    alice, ticket = browser("alice"), failed(fresh)
    fresh.waker.ids.clear()
    confirm = page_of(alice, ticket, "/retry")
    assert "The last attempt failed: the cloud said no" in confirm.words
    assert "with the account as it was when the ticket was accepted" in confirm.words
    assert alice.post(f"/publications/{ticket.id}/retry").status == 303
    assert fresh.ticket(ticket.id).state is State.QUEUED
    assert fresh.waker.ids == [ticket.id]
    assert audited(fresh) == ("alice", "ticket.retry")
    for page in (page_of(alice, ticket, "/retry"), alice.post(f"/publications/{ticket.id}/retry")):
        assert (page.status, page.heading) == (409, "Not possible now")


def test_a_published_image_is_withdrawn_after_a_confirmation(fresh: Service, browser: Browsers) -> None:
    alice = browser("alice")
    fields = {"login": "demo", "keystoneUrl": "http://127.0.0.1:5000", "glanceUrl": "http://127.0.0.1:9292"}
    stored = fresh.store.accounts.add(
        owner="alice", name="lab", platform="openstack", fields=fields, sealed_secrets=b"sealed"
    )
    ticket = fresh.publish(xml_body(image=None, credAccount={"dbId": stored.id}), login="alice")
    fresh.store.leases.published(fresh.claim(ticket), cloud_id="cloud-7", location=None)
    assert page_of(alice, ticket).links("Withdraw…") == [f"/console/publications/{ticket.id}/withdraw"]
    fresh.waker.ids.clear()
    words = page_of(alice, ticket, "/withdraw").words
    assert "The image cloud-7 is deleted from the cloud" in words
    assert "with the stored account as it is now" in words
    assert alice.post(f"/publications/{ticket.id}/withdraw").status == 303
    assert fresh.ticket(ticket.id).state is State.WITHDRAWING
    assert fresh.waker.ids == [ticket.id]
    assert audited(fresh) == ("alice", "ticket.withdraw")
    page = page_of(alice, ticket)
    assert "Withdrawing: removing the image from the cloud" in page.words
    assert not any(page.links(each) for each in ("Cancel…", "Withdraw…", "Delete…"))
    fresh.store.leases.not_withdrawn(
        fresh.claim(ticket), error="not withdrawn: it is in use", detail="nothing was deleted", reason=Reason.REFUSED
    )
    assert "not withdrawn: it is in use" in page_of(alice, ticket).words
    alice.post(f"/publications/{ticket.id}/withdraw")
    fresh.store.leases.withdrawn(fresh.claim(ticket), words="Withdrawn: nothing is left in the cloud")
    page = page_of(alice, ticket)
    assert "Withdrawn: nothing is left in the cloud" in page.words
    assert page.links("Delete…")
    assert not page.links("Retry…")
    assert page_of(alice, ticket, "/withdraw").status == 409
    assert str(ticket.id) in alice.get("/publications?state=withdrawn").words


def test_a_withdrawal_without_an_account_says_what_is_missing(fresh: Service, browser: Browsers) -> None:
    alice, ticket = browser("alice"), published(fresh)
    assert "The ticket used no stored account" in page_of(alice, ticket, "/withdraw").words
    page = alice.post(f"/publications/{ticket.id}/withdraw")
    assert page.status == 400
    assert f"is needed to withdraw ticket {ticket.id}" in page.words
    assert fresh.ticket(ticket.id) == ticket


def test_deleting_a_ticket_keeps_the_published_image(fresh: Service, browser: Browsers) -> None:
    root, ticket = browser("root"), published(fresh)
    words = page_of(root, ticket, "/delete").words
    assert "The ticket and its history are deleted" in words
    assert "The image stays in the cloud, as cloud-7" in words
    assert root.post(f"/publications/{ticket.id}/delete").location == "/console/publications"
    assert f"Ticket {ticket.id} (A machine image) deleted" in root.get("/publications").words
    assert fresh.store.tickets.get(ticket.id) is None
    assert audited(fresh) == ("root", "ticket.delete")

    going_on = fresh.publish(login="alice")
    assert page_of(root, going_on, "/delete").status == 409
    assert root.post(f"/publications/{going_on.id}/delete").status == 409


def test_notifications_are_shown_without_secrets(fresh: Service, browser: Browsers) -> None:
    ticket = published(fresh)
    url = "https://me:pass@hook.example/a-secret?k=v"
    row = {
        "uid": "u", "ticket_id": ticket.id, "owner": "alice", "url": url, "body": "{}",
        "event": "ticket.published", "state": "failed", "attempt": 3, "next_at": 0.0, "created": db_now(),
        "error": "410 Gone",
    }  # fmt: skip
    assert "Notifications" not in page_of(browser("alice"), ticket).words
    with writing(fresh.store.engine) as connection:
        connection.execute(insert(notifications).values(row))
    page = page_of(browser("alice"), ticket)
    words = page.words
    assert not any(part in page.text for part in ("a-secret", "k=v", "me:pass"))
    for part in ("Notifications", "ticket.published", "to https://hook.example", "attempt 3", "410 Gone"):
        assert part in words


def test_the_page_is_updated(fresh: Service, browser: Browsers, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, ticket = browser("alice"), fresh.publish(login="alice")
    looks: list[Parts] = []

    def live(visit: Visit, look: Parts) -> Page:
        looks.append(look)
        raise NotFound

    monkeypatch.setattr(Visit, "live", live)
    page_of(alice, ticket, "/events")
    (look,) = looks
    before = look()
    assert set(before.parts) == {"summary", "actions", "throughput", "timeline", "cloud"}
    assert look() is before, "nothing is read again that has not changed"
    claim = fresh.claim(ticket)
    fresh.store.leases.phase(claim, Phase.UPLOADING, "Uploading")
    fresh.store.leases.renew(claim, 60, sent=MIB)
    after = look()
    assert "Uploading 1 of 2048 MiB" in after.parts["summary"]
    assert "Claimed by worker" in after.parts["timeline"]
    page = page_of(alice, ticket)
    for id in after.parts:
        assert len(page.root.xpath(f"//*[@id='{id}']")) == 1, "each part is in the page, once"
    fresh.store.tickets.request_cancel(ticket.id)
    fresh.store.leases.cancelled(claim)
    fresh.store.tickets.remove(ticket.id)
    with pytest.raises(NotFound):
        look()


def audited(service: Service) -> tuple[str, str]:
    entry = service.store.audit.latest(1)[0]
    assert entry.actor.door == "console"
    assert entry.object.startswith("users/alice/appliances/14/images/21/pimages/")
    return entry.actor.login, entry.action


# The plot ---------------------------------------------------------------------------------------------------------


def test_throughput_is_plotted_with_its_mean_and_maximum(fresh: Service, browser: Browsers) -> None:
    ticket = published(fresh)
    rows = [{"ticket_id": ticket.id, "attempt": 1, "at": 1000.0 + each, "sent": each * 8 * MIB} for each in range(10)]
    assert "Throughput over time" not in page_of(browser("alice"), ticket).text
    with writing(fresh.store.engine) as connection:
        connection.execute(insert(samples), rows)
    page = page_of(browser("alice"), ticket)
    assert "Attempt 1: 8.0 MiB/s on average, 8.0 MiB/s at most, in 9.0 s" in page.words
    assert page.root.xpath("//dt[. = 'Rate']/following-sibling::dd/text()") == ["8.0 MiB/s"], "the same as in the list"
    assert browser("alice").get("/publications").root.xpath("//td[contains(@class, 'rate')]/text()") == ["8.0 MiB/s"]


def test_the_average_is_weighted_by_time() -> None:
    """The average is computed as in `publisher logs`: from the first and the last sample."""
    slow = [Sample(1, 100.0, 0), Sample(1, 101.0, 50 * MIB), Sample(1, 111.0, 55 * MIB)]
    made = plot(slow)
    assert made
    assert "5.0 MiB/s on average, 50.0 MiB/s at most, in 11 s" in made.words
    many = plot([Sample(1, each * (1.0 if each < 500 else 2.0), each * MIB) for each in range(1001)])
    assert many
    assert "512 KiB/s on average" in many.words


def test_a_pause_at_the_end_is_not_plotted() -> None:
    made = plot([Sample(1, 0.0, 0), Sample(1, 1.0, 4 * MIB), Sample(1, 2.0, 8 * MIB), Sample(1, 2.5, 8 * MIB)])
    assert made
    assert "180.0" not in made.lines[0].path, "the floor"
    assert "3.2 MiB/s on average" in made.words


def test_each_attempt_has_its_own_line() -> None:
    made = plot(
        [
            Sample(1, 10.0, 0),
            Sample(1, 12.0, 4 * MIB),
            Sample(2, 20.0, 0),
            Sample(2, 21.0, MIB),
            Sample(2, 22.0, 4 * MIB),
        ]
    )
    assert made
    assert [line.attempt for line in made.lines] == [1, 2]
    assert [tick.words for tick in made.rates] == ["0", "1.0 MiB/s", "2.0 MiB/s", "3.0 MiB/s", "4.0 MiB/s"]
    assert [tick.words for tick in made.times] == ["0 s", "5.0 s", "10 s"]
    assert made.lines[0].path.startswith("M0.0 ")
    assert made.words.startswith("Attempt 1: 2.0 MiB/s on average")


def test_an_upload_that_started_again_has_two_lines() -> None:
    made = plot([Sample(1, 1.0, 0), Sample(1, 2.0, 9), Sample(1, 3.0, 0), Sample(1, 4.0, 9)])
    assert made
    assert len(made.lines) == 2


@pytest.mark.parametrize("samples", [[], [Sample(1, 1.0, 0)], [Sample(1, 1.0, 0), Sample(1, 1.0, 9)]])
def test_samples_without_a_rate_give_no_plot(samples: list[Sample]) -> None:
    assert plot(samples) is None


def test_plot_of_a_long_upload_has_a_limited_number_of_points() -> None:
    made = plot([Sample(1, float(each), each * MIB) for each in range(5000)])
    assert made
    assert made.lines[0].path.count("L") < 250


def test_a_stalled_upload_is_plotted_at_zero() -> None:
    made = plot([Sample(1, 1.0, 5), Sample(1, 9.0, 5)])
    assert made
    assert made.lines[0].path == "M0.0 180.0L1000.0 180.0"
