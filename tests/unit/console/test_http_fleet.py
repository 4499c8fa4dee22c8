"""The fleet and the audit log, for administrators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import update

from publisher.console.routes.audit import page_of
from publisher.console.routes.fleet import FleetReader
from publisher.core.errors import Reason
from publisher.core.ticket import Phase
from publisher.store.database import Actor, db_now, workers, writing
from publisher.store.fleet import Member
from tests.service import Service, xml_body
from tests.unit.console.conftest import Browser

Browsers = Callable[..., Browser]


def join(service: Service, name: str) -> None:
    service.store.fleet.join(Member(name, "host", 4711, f"celery@{name}", "0.1.0", 4))


def silence(service: Service, name: str, seconds: float) -> None:
    with writing(service.store.engine) as connection:
        connection.execute(update(workers).where(workers.c.name == name).values(seen=db_now() - seconds))


def test_an_empty_fleet_says_how_to_start_a_worker(browser: Browsers) -> None:
    page = browser("root").get("/fleet")
    assert "No workers are running" in page.words
    assert "No failures in the last day" in page.words


def test_each_worker_s_activity_is_shown(fresh: Service, browser: Browsers) -> None:
    for name in ("worker", "dead", "ended", "leaving"):
        join(fresh, name)
    silence(fresh, "dead", 100)
    fresh.store.fleet.stopped("ended")
    fresh.store.fleet.ask_to_drain("leaving")
    claim = fresh.claim(fresh.publish(xml_body(image=None, displayName="Under way")))
    fresh.store.leases.phase(claim, Phase.UPLOADING, "Uploading")
    fresh.store.leases.renew(claim, 60, sent=claim.ticket.progress.total // 4)
    fresh.publish()
    page = browser("root").get("/fleet")
    numbers = [dd.text_content().strip() for dd in page.root.xpath("//dl[@id='fleet-numbers']//dd")][:3]
    assert numbers == ["2", "1 of 4", "1"]
    rows = {row.xpath("string(td[1]/text()[1])").strip(): row for row in page.root.xpath("//tbody/tr[td[6]]")}
    states = {name: row.xpath("string(.//span[contains(@class, 'state')])") for name, row in rows.items()}
    assert states == {"worker": "alive", "dead": "silent", "leaving": "draining"}
    assert rows["worker"].xpath(".//progress/@value") == ["25"]
    assert "Under way" in rows["worker"].text_content()
    assert rows["dead"].xpath(".//a") == rows["leaving"].xpath(".//a") == []
    assert "Stopped in the last day: ended" in page.words


def test_the_numbers_match_the_store(fresh: Service, browser: Browsers) -> None:
    done = fresh.claim(fresh.publish())
    fresh.store.leases.published(done, cloud_id="c", location="l")
    for reason in (Reason.QUOTA, Reason.QUOTA, Reason.CONNECTION):
        fresh.store.leases.failed(fresh.claim(fresh.publish()), error="no", reason=reason)
    seen = FleetReader(fresh.store, fresh.settings.silent_seconds)()
    assert (
        dict(seen.failures)
        == {"quota": (2, 2), "connection": (1, 1)}
        == {reason: (count, count) for reason, count in fresh.store.statistics.failures(3600).items()}
    )
    page = browser("root").get("/fleet")
    assert page.root.xpath("//section[@id='fleet-failures']//th[@scope='row']/text()") == ["Quota", "Connection"]
    assert "2.0 GiB" in page.root.xpath("string(//section[@id='fleet-throughput'])")


def test_draining_explains_its_effects_first(fresh: Service, browser: Browsers) -> None:
    name = "host:1/a b"
    join(fresh, name)
    root = browser("root")
    (path,) = root.get("/fleet").links("Drain")
    page = root.get(path.removeprefix("/console"))
    assert "It takes no new tickets and exits" in page.words
    assert root.post("/fleet/drain", {"worker": name}, csrf="wrong").status == 403
    assert root.post("/fleet/drain", {"worker": name}).location == "/console/fleet"
    (worker,) = fresh.store.fleet.workers()
    assert worker.drain
    assert fresh.store.audit.latest(1)[0].action == "worker.drain"
    assert "It is already draining" in root.get(path.removeprefix("/console")).words
    assert root.post("/fleet/drain", {"worker": "none"}).status == 404


def test_only_administrators_see_the_fleet_and_drain_workers(fresh: Service, browser: Browsers) -> None:
    join(fresh, "worker")
    alice = browser("alice")
    assert alice.get("/fleet/events").status == 403
    assert alice.get("/fleet/drain?worker=worker").status == 403
    assert alice.post("/fleet/drain", {"worker": "worker"}).status == 403
    assert not fresh.store.fleet.workers()[0].drain


def test_the_audit_log_is_filtered_and_newest_first(fresh: Service, browser: Browsers) -> None:
    for number in range(130):
        fresh.store.audit.add(
            Actor("alice" if number % 2 else "bob", "api", "192.0.2.1"), "x.do", f"users/bob/{number}"
        )
    root = browser("root")
    page = root.get("/audit")
    assert "session.begin" in page.root.xpath("string(//tbody/tr[1])")
    assert len(page.root.xpath("//tbody/tr")) == 100
    (older,) = page.links("Older")
    second = root.get(older.removeprefix("/console"))
    assert len(second.root.xpath("//tbody/tr")) == 31
    assert second.links("Newest") == ["/console/audit"]
    page = root.get("/audit?user=alice")
    assert len(page.root.xpath("//tbody/tr")) == 65
    assert "192.0.2.1" in page.words
    page = root.get("/audit?object=users/bob/7")
    assert len(page.root.xpath("//tbody/tr")) == 1
    assert "No entries match these filters" in root.get("/audit?user=nob%00ody").words


def test_audit_entries_are_escaped(fresh: Service, browser: Browsers) -> None:
    fresh.store.audit.add(Actor("<script>", "api"), "x", "<img src=x>", "<b>bold</b>")
    page = browser("root").get("/audit?user=%3Cscript%3E")
    assert "<img src=x>" in page.words
    assert page.root.xpath("//tbody//b | //tbody//img | //tbody//script") == []


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("users/alice/appliances/4/images/7/pimages/1", "/publications/1"),
        ("users/alice/appliances/4/images/7", "/images/7"),
        ("users/alice/accounts/3", "/accounts/3"),
        ("users/%C3%A5sa", "/users/%C3%A5sa"),
        ("users/alice/apikeys/3", None),
        ("workers/a%3A1", None),
        ("", None),
    ],
)
def test_objects_link_to_their_pages(uri: str, path: str | None) -> None:
    assert page_of(uri) == path
