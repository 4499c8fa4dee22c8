"""Images and appliances, on each kind of database: created on first use, deleted only if nothing needs them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import update

from publisher.core.errors import Conflict, InvalidRequest, NotFound
from publisher.core.fiql import parse
from publisher.core.image import Digests, Image, ImageState
from publisher.core.listing import Listing
from publisher.core.ticket import FINAL, State, Ticket
from publisher.store import Store
from publisher.store.database import images, tickets, writing
from publisher.store.new_tickets import NewTicket
from tests.records import APPLIANCE, OWNER, add_image_row, add_owner, add_ticket, create_ticket

pytestmark = pytest.mark.long

DIGESTS = Digests(1000, "5" * 32, "2" * 64, "f" * 128)


@pytest.fixture(autouse=True)
def _filled(store: Store) -> None:
    add_owner(store)


def add(store: Store, appliance_id: int = APPLIANCE, location: str = "disk.raw", **values: Any) -> Image:
    return add_image_row(store, DIGESTS, location, appliance_id=appliance_id, **values)


def add_ticket_of(store: Store, image: Image) -> Ticket:
    return create_ticket(store, NewTicket(
        owner=OWNER, appliance_id=APPLIANCE, image_id=image.id, image_size=1, platform="memory", account={},
        sealed_secrets=b"x", target={}, name="x",
    ))  # fmt: skip


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls at the same moment, and return their results or exceptions."""
    barrier = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def run(number: int, call: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            results[number] = call()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_new_image_numbers_never_repeat_earlier_ones(store: Store) -> None:
    first, *_, last = [add(store) for _ in range(3)]
    for each in (first, last):
        store.images.delete(OWNER, APPLIANCE, each.id)
    assert add(store, id=first.id).id == first.id
    following = add(store)
    assert following.id == last.id + 1
    add(store, id=following.id + 10)
    assert add(store).id == following.id + 11


# Appliances -------------------------------------------------------------------------------------------------------


def test_image_creates_its_appliance(store: Store) -> None:
    add(store, 4)
    made = store.appliances.get(OWNER, 4)
    assert (made.name, made.version, made.distribution, made.architecture, made.description) == (
        "appliance-4", "1", "unknown", "x86_64", "",
    )  # fmt: skip
    add(store, 4)
    assert store.appliances.list() == [made]


def test_image_does_not_change_an_existing_appliance(store: Store) -> None:
    made = store.appliances.add(OWNER, id=4, name="web", version="2.1", distribution="Debian 12", architecture="arm64")
    add(store, 4)
    assert store.appliances.get(OWNER, 4) == made


def test_refused_image_creates_no_appliance(store: Store) -> None:
    with pytest.raises(Conflict, match="there is no user 'nobody'"):
        add(store, 4, owner="nobody")
    add(store, 4, id=7)
    with pytest.raises(Conflict, match="an image 7 already"):
        add(store, 5, id=7)
    assert [each.id for each in store.appliances.list()] == [4]


def test_simultaneous_images_create_one_appliance(store: Store) -> None:
    made = together(*[partial(add, store, 9)] * 8)
    assert len({image.id for image in made}) == 8
    assert [each.id for each in store.appliances.list(OWNER)] == [9]


def test_appliances_are_numbered_for_each_user(store: Store) -> None:
    store.users.add("anna", "x")
    assert [store.appliances.add(OWNER).id for _ in range(2)] == [1, 2]
    assert store.appliances.add(OWNER, id=40).name == "appliance-40"
    assert store.appliances.add(OWNER).id == 41
    assert store.appliances.add("anna").id == 1
    with pytest.raises(Conflict, match="root has an appliance 40 already"):
        store.appliances.add(OWNER, id=40)
    with pytest.raises(Conflict, match="there is no user 'nobody'"):
        store.appliances.add("nobody")
    assert [each.id for each in store.appliances.list("anna")] == [1]
    with pytest.raises(NotFound, match="anna has no appliance 2"):
        store.appliances.get("anna", 2)
    store.users.remove("anna")
    assert {each.owner for each in store.appliances.list()} == {OWNER}


@pytest.mark.parametrize("field", ["name", "version", "distribution", "architecture"])
@pytest.mark.parametrize("text", ["", " ", "x" * 256, "a\nb", " a"])
def test_invalid_texts_of_an_appliance_are_refused(store: Store, field: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}: "):
        store.appliances.add(OWNER, **{field: text})  # type: ignore[arg-type]


@pytest.mark.long
def test_contents_of_an_appliance_are_counted(store: Store) -> None:
    first, second = add(store, 4), add(store, 4)
    ticket = add_ticket(store, image_id=first.id)
    store.appliances.add(OWNER, id=5)
    for _ in range(101):
        add(store, 6)
    contents = store.appliances.contents(OWNER)
    assert set(contents) == {4, 6}
    assert (contents[4].size, contents[4].images) == (2000, [first.id, second.id])
    assert contents[4].tickets == [(first.id, ticket.id)]
    assert (contents[6].size, contents[6].images, contents[6].tickets) == (101_000, None, ())
    assert store.appliances.contents(OWNER, 4) == {4: contents[4]}
    assert store.appliances.contents("nobody") == {}


def test_appliance_in_use_cannot_be_removed(store: Store) -> None:
    image = add(store, 4)
    with pytest.raises(Conflict, match="still has images"):
        store.appliances.remove(OWNER, 4)
    ticket = add_ticket(store, image_id=image.id)
    store.tickets.request_cancel(ticket.id)
    store.images.delete(OWNER, 4)
    with pytest.raises(Conflict, match="still has published images"):
        store.appliances.remove(OWNER, 4)
    store.tickets.remove(ticket.id)
    store.appliances.remove(OWNER, 4)
    with pytest.raises(NotFound):
        store.appliances.remove(OWNER, 4)


def test_no_image_is_left_without_its_appliance(store: Store) -> None:
    for number in range(1, 16):
        store.appliances.add(OWNER, id=number)
        image, _ = together(partial(add, store, number), partial(store.appliances.remove, OWNER, number))
        assert isinstance(image, Image), image
        assert store.appliances.find(OWNER, number)


# Deleting images --------------------------------------------------------------------------------------------------


def test_delete_returns_the_images_whose_files_are_unused(store: Store) -> None:
    first, second, third = (add(store, 4, location) for location in ("a", "b", "b"))
    other = add(store, 5, "a")
    assert store.images.delete(OWNER, 4, second.id) == []
    assert store.images.delete(OWNER, 4) == [third]
    assert store.images.list() == [other]
    assert store.images.delete(OWNER, 4) == []
    for id in (first.id, other.id):
        with pytest.raises(NotFound):
            store.images.delete(OWNER, 4, id)
    with pytest.raises(NotFound):
        store.images.delete("nobody", 5, other.id)


def two_images_and_a_ticket(store: Store, state: State) -> tuple[Image, Image, Ticket]:
    image, other = add(store, 4), add(store, 4)
    ticket = add_ticket(store, image_id=image.id)
    with writing(store.engine) as connection:
        connection.execute(update(tickets).values(state=state))
    return image, other, ticket


@pytest.mark.parametrize("state", [State.QUEUED, State.PUBLISHING])
def test_image_that_a_ticket_needs_cannot_be_deleted(store: Store, state: State) -> None:
    image, other, ticket = two_images_and_a_ticket(store, state)
    with pytest.raises(Conflict, match=rf"image {image.id} is needed by ticket {ticket.id}.*None was deleted"):
        store.images.delete(OWNER, 4)
    assert store.images.list() == [image, other]


@pytest.mark.parametrize("state", [state for state in State if state in FINAL])
def test_an_image_whose_ticket_has_ended_is_deleted(store: Store, state: State) -> None:
    image, other, _ = two_images_and_a_ticket(store, state)
    assert store.images.delete(OWNER, 4) == [image, other]
    assert store.images.list() == []


def image_in(store: Store, state: ImageState) -> Image:
    image = add(store, 4)
    with writing(store.engine) as connection:
        connection.execute(update(images).values(state=state))
    return image


REGISTERING = [ImageState.QUEUED, ImageState.FETCHING]


@pytest.mark.parametrize("state", REGISTERING)
def test_image_that_is_being_registered_cannot_be_deleted(store: Store, state: ImageState) -> None:
    image = image_in(store, state)
    with pytest.raises(Conflict, match="cancel that first"):
        store.images.delete(OWNER, 4, image.id)


@pytest.mark.parametrize("state", [state for state in ImageState if state not in REGISTERING])
def test_an_image_whose_registration_has_ended_is_deleted(store: Store, state: ImageState) -> None:
    image = image_in(store, state)
    store.images.delete(OWNER, 4, image.id)
    assert store.images.list() == []


def test_a_ticket_needs_an_image_that_is_ready(store: Store) -> None:
    image = add(store, 4)
    ticket = add_ticket(store, image_id=image.id)
    store.tickets.request_cancel(ticket.id)
    with writing(store.engine) as connection:
        connection.execute(update(images).values(state=ImageState.QUEUED))
    for call in (partial(add_ticket_of, store, image), partial(store.tickets.retry, ticket.id)):
        with pytest.raises(Conflict, match="is not ready any more"):
            call()


def test_image_is_either_deleted_or_published(store: Store, stores: Callable[[], Store]) -> None:
    """Either both the ticket and its image exist, or neither does."""
    other = stores()
    for _ in range(20):
        image = add(store, 4)
        made, gone = together(
            partial(add_ticket_of, store, image),
            partial(other.images.delete, OWNER, 4, image.id),
        )
        if isinstance(made, Conflict):
            assert isinstance(gone, list)
            assert store.images.get(image.id) is None
        else:
            assert isinstance(gone, Conflict), gone
            assert store.images.get(image.id) == image
    assert {each.image_id for each in store.tickets.list()} == {each.id for each in store.images.list()}


# Download keys ----------------------------------------------------------------------------------------------------


def test_download_key_is_used_only_once(store: Store, stores: Callable[[], Store]) -> None:
    image = add(store, 4)
    other = stores()
    calls = [partial(each.images.use_key, image) for each in (store, other) * 4]
    assert sorted(together(*calls)) == [False] * 7 + [True]
    found = store.images.get(image.id)
    assert found is not None
    assert found.downloads == 1
    assert store.images.use_key(found)


# Filters, orders and pages ----------------------------------------------------------------------------------------


@pytest.fixture
def several(store: Store) -> None:
    """A qcow2 and a raw image, one for Azure, an unfinished one for Oracle, and one of another appliance."""
    for id, name, format in ((1, "nginx 1", "qcow2"), (2, "apache", "raw"), (3, "nginx 3", "azure")):
        add(store, id=id)
        change(store, id, name=name, format=format, size=id * 10)
    add(store, id=4)
    change(store, 4, name="next", format="", wanted_format="oracleraw", state=ImageState.QUEUED, size=0)
    add(store, APPLIANCE + 1, id=5)


def change(store: Store, id: int, **values: Any) -> None:
    with writing(store.engine) as connection:
        connection.execute(update(images).where(images.c.id == id).values(values))


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("targetFormat.name=='openstack'", [1]),
        ("targetFormat.name=='raw'", [2]),
        ("targetFormat.name==OpenStack;name=='nginx*'", [1]),
        ("targetFormat.format.name=='openstackqcow2',format.name==AZURE", [1, 3]),
        ("format.name==qcow2,targetFormat.format.name=='qcow2'", []),
        ("targetFormat.name==oracle", [4]),
        ("format.name!='azure'", [1, 2, 4]),
        ("status.complete==true", [1, 2, 3]),
        ("size=gt=10;fileSize=lt=30", [2]),
        ("dbId=ge=3", [3, 4]),
        ("created=gt=2100-01-01T00:00:00Z", []),
    ],
)
def test_images_are_filtered_by_a_query(store: Store, query: str, found: list[int]) -> None:
    page = store.images.page(OWNER, APPLIANCE, Listing(parse(query), None, False, None, 0))
    assert (page.total, [each.id for each in page.items]) == (len(found), found)


@pytest.mark.usefixtures("several")
def test_images_are_sorted_and_paged(store: Store) -> None:
    page = store.images.page(OWNER, APPLIANCE, Listing(None, "name", True, 2, 1))
    assert (page.total, [each.name for each in page.items]) == (4, ["nginx 1", "next"])


def test_appliances_are_filtered_sorted_and_paged(store: Store) -> None:
    for id, distribution in ((1, "Debian"), (2, "CentOS"), (3, "Debian")):
        store.appliances.add(OWNER, id=id, distribution=distribution)
    debian = parse("distributionName==Debian;archName=='x86*';name!='appliance-3'")
    page = store.appliances.page(OWNER, Listing(debian, None, False, None, 0))
    assert (page.total, [each.id for each in page.items]) == (1, [1])
    page = store.appliances.page(OWNER, Listing(None, "distributionName", True, 2, 0))
    assert (page.total, [each.id for each in page.items]) == (3, [3, 1])


def test_latest_images_come_first_and_are_filtered(store: Store) -> None:
    store.users.add("other", "x")

    def named(name: str, owner: str = OWNER) -> int:
        more: dict[str, Any] = {
            "format": "raw",
            "disk_format": "raw",
            "virtual_size": 1,
            "digests": DIGESTS,
            "location": "disk.raw",
        }
        return store.images.add(owner=owner, appliance_id=APPLIANCE, name=name, **more).id

    ids = [named(name) for name in ("Web-Front", "half%_done", "web-back")]
    theirs = named("web", "other")
    queued = store.registrations.begin(
        owner=OWNER, appliance_id=APPLIANCE, name="waiting", wanted_format=None, source="a"
    ).id

    def found(**wanted: Any) -> list[int]:
        return [image.id for image in store.images.latest(wanted.pop("count", 10), **wanted)]

    assert found() == [queued, theirs, *reversed(ids)]
    assert found(owner=OWNER, count=2) == [queued, ids[2]]
    assert found(owner=OWNER, before=ids[2]) == [ids[1], ids[0]]
    assert found(owner=OWNER, text="WEB") == [ids[2], ids[0]]
    assert found(text="%_") == [ids[1]], "no pattern"
    assert found(text=str(ids[0])) == [ids[0]]
    assert found(text="9" * 18) == found(text="9" * 30) == []
    assert found(state=ImageState.QUEUED) == [queued]
