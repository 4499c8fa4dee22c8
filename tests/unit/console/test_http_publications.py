"""The list of tickets: owners, filters, order, and live updates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

import pytest
from starlette.responses import Response
from starlette.types import Message

from publisher.console.live_updates import Streams
from publisher.console.rendering import PageParts
from publisher.console.routes.publications import Rows
from publisher.core.errors import NotFound, TooMany
from publisher.core.ticket import Phase
from tests.service import Service, xml_body
from tests.unit.console.conftest import Browser, Page

Browsers = Callable[..., Browser]


def publish(service: Service, *names: str, login: str = "alice", image: int = 21) -> list[int]:
    return [
        service.publish(xml_body(image=None, displayName=escape(name).encode()), login=login, image=image).id
        for name in names
    ]


def numbers(page: Page) -> list[int]:
    return [int(id.removeprefix("ticket-")) for id in page.root.xpath("//tbody[@id='publications']/tr/@id")]


def test_an_empty_installation_shows_the_first_steps(fresh: Service, browser: Browsers) -> None:
    page = browser("alice").get("/publications")
    steps = page.root.xpath("//ol[@class='steps']//h3/text()[1]")
    assert [each.strip() for each in steps] == [
        "Cloud account", "Image", "Publishing",
    ]  # fmt: skip
    done = page.root.xpath("//ol[@class='steps']/li[contains(@class, 'done')]//h3")
    assert [each.text.strip() for each in done] == ["Image"]
    publish(fresh, "one")
    assert "steps" not in browser("alice").get("/publications").text


def test_users_see_their_own_tickets_and_administrators_all(fresh: Service, browser: Browsers) -> None:
    mine = publish(fresh, "one", "two")
    theirs = publish(fresh, "three", login="bob", image=31)
    alice, root = browser("alice"), browser("root")
    assert numbers(alice.get("/publications")) == mine[::-1]
    assert numbers(alice.get("/publications?owner=bob")) == mine[::-1], "that is not for her to choose"
    assert numbers(root.get("/publications")) == theirs + mine[::-1]
    assert numbers(root.get("/publications?owner=bob")) == theirs
    assert "bob" not in alice.get("/publications").words
    refused = browser("carol").get("/publications")
    assert refused.status == 403
    assert "'image_generate' is needed" in refused.words


def test_a_row_shows_the_state_of_its_ticket(fresh: Service, browser: Browsers) -> None:
    ticket = fresh.publish(login="alice")
    claim = fresh.claim(ticket)
    fresh.store.leases.phase(claim, Phase.UPLOADING, "Uploading")
    fresh.store.leases.renew(claim, 60, sent=ticket.progress.total // 2)
    row = browser("alice").get("/publications").root.xpath("//tbody/tr")[0]
    words = " ".join(row.text_content().split())
    whose = ("A machine image", f"#{ticket.id}", "OpenStack", "worker", "Attempt 1")
    for part in (*whose, "publishing", "Uploading", "50 %", "1.0 GiB of 2.0 GiB", "/s", " left"):
        assert part in words
    (bar,) = row.xpath(".//progress")
    assert (bar.get("value"), bar.get("max")) == (str(1 << 30), str(2 << 30))


def test_names_are_escaped(fresh: Service, browser: Browsers) -> None:
    publish(fresh, "<script>alert(1)</script>")
    page = browser("alice").get("/publications")
    assert page.root.xpath("//tbody//a/text()") == ["<script>alert(1)</script>"]
    assert "<script>alert" not in page.text


@pytest.mark.long
def test_the_list_can_be_filtered(fresh: Service, browser: Browsers) -> None:
    web, data, last = publish(fresh, "web server", "100%_data", "Web proxy")
    fresh.store.tickets.request_cancel(data)
    alice = browser("alice")

    def found(query: str) -> list[int]:
        page = alice.get(f"/publications?{query}")
        assert page.status == 200
        return numbers(page)

    assert found("state=cancelled") == [data]
    assert found("state=queued") == [last, web]
    assert found("state=nothing") == [last, data, web], "what an address has that means nothing is not minded"
    assert found("q=WEB") == [last, web]
    assert found("q=%25_") == [data], "what is searched for is no pattern"
    assert found(f"q={data}") == found(f"q=%23{data}") == [data]
    assert found("q=none") == found("platform=none") == found("q=%00zz") == []
    assert found("platform=openstack&state=queued&q=proxy") == [last]
    assert found("before=999999999999999999999") == [last, data, web]
    page = alice.get("/publications?state=cancelled&q=data")
    assert page.root.xpath("string(//input[@id='q']/@value)") == "data"
    assert page.links("Queued") == ["/console/publications?state=queued&q=data"]
    assert "No tickets match these filters" in alice.get("/publications?q=none").words


@pytest.mark.long
def test_pages_have_no_gaps(fresh: Service, browser: Browsers) -> None:
    ids = publish(fresh, *(f"image {each}" for each in range(120)))[::-1]
    alice = browser("alice")
    first = alice.get("/publications?q=image")
    assert numbers(first) == ids[:50]
    assert first.links("Newer") == []
    second = alice.get(first.links("Older")[0].removeprefix("/console"))
    assert numbers(second) == ids[50:100]
    third = alice.get(second.links("Older")[0].removeprefix("/console"))
    assert numbers(third) == ids[100:]
    assert third.links("Older") == []
    assert numbers(alice.get(third.links("Newer")[0].removeprefix("/console"))) == ids[50:100]
    assert numbers(alice.get(second.links("Newer")[0].removeprefix("/console"))) == ids[:50]
    assert third.links("Newest") == ["/console/publications?q=image"]


def test_own_publications_are_counted_by_state(fresh: Service, browser: Browsers) -> None:
    publish(fresh, "one", "two")
    publish(fresh, "three", login="bob", image=31)
    chips = {
        a.text: a.xpath("string(span)")
        for a in browser("alice").get("/publications").root.xpath("//ul[@id='counts']//a")
    }
    assert chips == {"All": "", "Queued": "2", "Publishing": "0", "Published": "0", "Failed": "0"}


# Live updates -----------------------------------------------------------------------------------------------------


def rows(browser: Browser, query: str = "") -> Rows:
    """Return the live updates of that browser's page."""
    made: list[Rows] = []
    with pytest.MonkeyPatch.context() as patch:

        def response(_: Streams, look: Rows, allowed: Callable[[], bool], _login: str) -> Any:
            assert allowed()
            made.append(look)
            raise TooMany

        patch.setattr(Streams, "response", response)
        assert browser.get(f"/publications/events{query}").status == 429
    return made[0]


def test_a_page_gets_changes(fresh: Service, browser: Browsers) -> None:
    one, two = publish(fresh, "one", "two")
    look = rows(browser("alice"))
    before = look()
    assert before.lists == {"publications": (f"ticket-{two}", f"ticket-{one}")}
    assert look().parts == before.parts

    fresh.claim(fresh.ticket(one))
    (three,) = publish(fresh, "three")
    after = look()
    assert after.lists["publications"][0] == f"ticket-{three}"
    assert "publishing" in after.parts[f"ticket-{one}"]
    assert after.parts[f"ticket-{two}"] == before.parts[f"ticket-{two}"]
    publish(fresh, "four", login="bob", image=31)
    assert look().lists == after.lists, "nobody sees what is not theirs"


def test_a_search_runs_once_and_its_results_are_updated(fresh: Service, browser: Browsers) -> None:
    one, _ = publish(fresh, "one", "two")
    look = rows(browser("alice"), "?q=one")
    publish(fresh, "one")
    assert look().lists == {"publications": (f"ticket-{one}",)}
    fresh.store.tickets.request_cancel(one)
    assert "cancelled" in look().parts[f"ticket-{one}"]


def events(
    streams: Streams, look: Callable[[], PageParts], allowed: Callable[[], bool], until: Callable[[str], bool]
) -> list[str]:
    """Collect what is sent until it is as expected."""

    async def read() -> list[str]:
        sent: list[str] = []
        async for chunk in streams.response(look, allowed, "alice").body_iterator:
            sent.append(str(chunk))
            if until(str(chunk)):
                streams.close()
        return sent

    return asyncio.run(asyncio.wait_for(read(), 20))


def test_only_changes_are_sent() -> None:
    sights = [
        PageParts({"a": "1", "b": "1"}),
        PageParts({"a": "1", "b": "1"}),
        PageParts({"a": "2", "b": "1"}, {"c": ("a", "b")}),
    ]
    left = iter(sights)
    sent = events(Streams(1, 0.001), lambda: next(left), lambda: True, lambda chunk: "2" in chunk)
    changes = [json.loads(each.split("data: ")[1]) for each in sent]
    assert changes == [
        {"parts": {"a": "1", "b": "1"}, "lists": {}},
        {"parts": {"a": "2"}, "lists": {"c": ["a", "b"]}},
    ]


def test_the_page_of_a_deleted_ticket_reloads() -> None:
    def gone() -> PageParts:
        raise NotFound

    streams = Streams(1, 0.001)
    assert events(streams, gone, lambda: True, lambda _: False) == ["event: reload\ndata:\n\n"]
    assert len(streams) == 0


def test_updates_end_after_signing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("publisher.console.live_updates._ASSURE_SECONDS", 0.0)
    sent = events(Streams(1, 0.001), lambda: PageParts({"a": "secret"}), lambda: False, lambda _: False)
    assert sent == [": \n\n", "event: reload\ndata:\n\n"]


def test_the_number_of_live_pages_is_limited() -> None:
    async def open_two() -> None:
        streams = Streams(1, 0.001)
        one = streams.response(lambda: PageParts({"a": "1"}), lambda: True, "alice").body_iterator
        await anext(aiter(one))
        assert len(streams) == 1
        with pytest.raises(TooMany):
            streams.response(lambda: PageParts({}), lambda: True, "bob")
        streams.close()
        assert [each async for each in one] == []
        assert len(streams) == 0

    asyncio.run(open_two())


def test_the_number_of_live_pages_of_a_user_is_limited() -> None:
    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def taken(_: Message) -> None:
        return

    async def open_many() -> None:
        streams = Streams(100, 0.001)
        opened = [streams.response(lambda: PageParts({}), lambda: True, "alice") for _ in range(20)]
        with pytest.raises(TooMany, match="you have too many pages open"):
            streams.response(lambda: PageParts({}), lambda: True, "alice")
        streams.response(lambda: PageParts({}), lambda: True, "bob")
        await opened[0]({"type": "http", "asgi": {"spec_version": "2.3"}}, gone, taken)
        streams.response(lambda: PageParts({}), lambda: True, "alice")

    asyncio.run(open_many())


@pytest.mark.parametrize("change", ["entitlements", "roles", "administrator", "nothing"])
def test_updates_end_if_the_user_s_entitlements_change(
    fresh: Service, browser: Browsers, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    asked: list[Callable[[], bool]] = []

    def noted(self: Streams, look: Callable[[], PageParts], allowed: Callable[[], bool], login: str) -> Response:
        assert login == "alice"
        asked.append(allowed)
        return Response()

    monkeypatch.setattr(Streams, "response", noted)
    fresh.store.roles.add("extra", entitlements=frozenset({"image_publish"}))
    assert browser("alice").get("/publications/events").status == 200
    (allowed,) = asked
    assert allowed()
    rights = fresh.store.users.get("alice")
    assert rights
    if change == "roles":
        fresh.store.users.change_roles("alice", add=frozenset({"extra"}))
    elif change == "entitlements":
        fresh.store.users.change_rights("alice", administrator=False, entitlements=frozenset({"image_publish"}))
    elif change == "administrator":
        fresh.store.users.change_rights("alice", administrator=True, entitlements=rights.entitlements)
    assert allowed() is (change == "nothing")
