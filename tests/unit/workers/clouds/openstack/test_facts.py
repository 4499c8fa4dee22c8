"""What is checked before the first byte, against a Glance that answers as a test wants it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from publisher.core.cloud_check import Place
from publisher.core.errors import InvalidRequest, PermanentCloudError, Reason, TransientCloudError
from publisher.core.image import Image
from publisher.core.ticket import Account, Target
from publisher.outbound.policy import EVERYWHERE
from tests.keystone_v2 import KeystoneV2Stub
from tests.servers.answering import serving
from workers.clouds.base import KeptSignIns, Tags, Timeouts
from workers.clouds.openstack import facts, publisher
from workers.clouds.openstack.publisher import OpenStackPublisher

pytestmark = pytest.mark.long

PASSWORD = "hunter2-of-the-cloud"
MIB = 1 << 20
IMAGE = Image(
    *(7, "root", 4, "disk", "raw", "raw", 10 * MIB - 1, 10 * MIB - 1, "5" * 32, "2" * 64, "f" * 128, "disk.raw", 0.0)
)
USAGE, SCHEMA, IMAGES = "/v2/info/usage", "/v2/schemas/image", "/v2/images"


def usage(**quotas: tuple[int, int]) -> Any:
    return {"usage": {name: {"usage": used, "limit": limit} for name, (used, limit) in quotas.items()}}


@dataclass
class StubGlance:
    """Answers with `told` by path; 404 to other paths. It refuses each creation with `refuses`."""

    told: dict[str, Any] = field(default_factory=dict)
    refuses: int = 409
    asked: list[str] = field(default_factory=list)
    created: list[dict[str, Any]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = urlsplit(handler.path).path
        self.asked.append(f"{handler.command} {handler.path}")
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        status, told = (200, self.told[path]) if path in self.told else (404, {})
        if handler.command == "POST":
            self.created.append(json.loads(body))
            status, told = self.refuses, {}
        elif handler.command == "DELETE":
            self.deleted.append(path.rpartition("/")[2])
            status, told = 204, b""
        elif path == IMAGES and self.refuses == 201 and "publisher_preflight" in handler.path:
            told = {"images": [{**each, "id": "surprise", "status": "queued"} for each in self.created]}
        raw = told if isinstance(told, bytes) else json.dumps(told).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)


@contextmanager
def cloud_of(glance: StubGlance, **target: Any) -> Iterator[OpenStackPublisher]:
    with (
        serving(glance.answer) as url,
        KeystoneV2Stub(url, users={"joe": PASSWORD}, tenants={"t"}) as keystone,
    ):
        fields = {"keystoneUrl": keystone.url, "login": "joe", "keystoneVersion": "v2.0", "glanceUrl": url}
        account = Account("openstack", fields, {"password": PASSWORD})
        cloud = OpenStackPublisher.connect(
            account,
            Target("openstack", {"tenantName": "t", "displayName": "x"} | target),
            Timeouts(5, 20, 20),
            EVERYWHERE,
        )
        yield cloud
        cloud.close()


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "_WITHOUT_USAGE", KeptSignIns[bool]())


# Space --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quota", [(0, 10), (90, 100), (5000, -1)])
def test_an_image_that_fits_is_accepted(quota: tuple[int, int]) -> None:
    with cloud_of(StubGlance({USAGE: usage(image_size_total=quota)})) as cloud:
        cloud.check(IMAGE)


@pytest.mark.parametrize(("quota", "left"), [((0, 9), "9 of 9"), ((91, 100), "9 of 100"), ((120, 100), "0 of 100")])
def test_an_image_that_exceeds_the_quota_is_refused(quota: tuple[int, int], left: str) -> None:
    glance = StubGlance({USAGE: usage(image_size_total=quota, image_count_total=(5, 5))})
    with cloud_of(glance) as cloud, pytest.raises(PermanentCloudError, match=f"10 MiB.*leaves {left} MiB") as refused:
        cloud.check(IMAGE)
    assert refused.value.reason is Reason.QUOTA
    assert glance.created == []


def test_a_cloud_without_quotas_is_asked_once_for_a_kept_sign_in() -> None:
    glance = StubGlance()
    with cloud_of(glance) as cloud:
        cloud.check(IMAGE)
        cloud.check(IMAGE)
    assert glance.asked == [f"GET {USAGE}"]


def test_a_cloud_with_quotas_gets_one_request() -> None:
    glance = StubGlance({USAGE: usage(image_size_total=(0, 10))})
    with cloud_of(glance) as cloud:
        cloud.check(IMAGE)
    assert glance.asked == [f"GET {USAGE}"]


HOSTILE: list[Any] = [
    *([], b"no json", b"[" * 100_000, {}, {"usage": []}, {"usage": {"image_size_total": 7}}),
    {"usage": {"image_size_total": {"usage": "1", "limit": True}}},
    {"usage": {"image_size_total": {"usage": None, "limit": 0}}},
]


@pytest.mark.parametrize("told", HOSTILE, ids=lambda told: str(told)[:40])
def test_usage_of_another_shape_is_left_out(told: Any) -> None:
    with cloud_of(StubGlance({USAGE: told})) as cloud:
        cloud.check(IMAGE)


# The name -----------------------------------------------------------------------------------------------------------


def named(*names: str) -> Any:
    return {"images": [{"id": f"id-{at}", "status": "active", "name": name} for at, name in enumerate(names)]}


def test_a_taken_name_is_refused_if_the_request_says_so() -> None:
    glance = StubGlance({IMAGES: named("x")})
    with (
        cloud_of(glance, ifNameTaken="refuse") as cloud,
        pytest.raises(InvalidRequest, match=r"id-0.*another name") as no,
    ):
        cloud.check(IMAGE)
    assert no.value.field == "displayName"
    query = parse_qs(urlsplit(glance.asked[0]).query)
    assert query["name"] == ["x"]
    assert query["owner"]


@pytest.mark.parametrize("choice", [None, "allow"])
def test_a_taken_name_is_allowed_otherwise_and_not_asked_for(choice: str | None) -> None:
    glance = StubGlance({IMAGES: named("x")})
    with cloud_of(glance, ifNameTaken=choice) as cloud:
        cloud.check(IMAGE)
    assert not [each for each in glance.asked if IMAGES in each]


def test_a_name_with_a_colon_is_no_operator() -> None:
    glance = StubGlance({IMAGES: named("in:a")})
    with cloud_of(glance, ifNameTaken="refuse", displayName="in:a") as cloud, pytest.raises(InvalidRequest):
        cloud.check(IMAGE)
    assert parse_qs(urlsplit(glance.asked[0]).query)["name"] == ["eq:in:a"]


def test_other_names_and_deleted_images_do_not_count() -> None:
    listed = named("X", "y")
    listed["images"].append({"id": "gone", "status": "deleted", "name": "x"})
    with cloud_of(StubGlance({IMAGES: listed}), ifNameTaken="refuse") as cloud:
        cloud.check(IMAGE)


# What only a creation would show ------------------------------------------------------------------------------------


def schema(*formats: object) -> Any:
    return {"properties": {"disk_format": {"enum": list(formats)}}}


def test_a_creation_is_asked_for_with_an_id_that_is_in_use() -> None:
    glance = StubGlance({IMAGES: named("another"), SCHEMA: schema("raw", None)})
    with cloud_of(glance) as cloud:
        cloud.check_creation(IMAGE)
    (asked,) = glance.created
    assert (asked["id"], asked["disk_format"], asked["visibility"]) == ("id-0", "raw", "private")
    assert glance.deleted == []


def test_without_any_image_in_sight_no_creation_is_asked_for() -> None:
    glance = StubGlance({IMAGES: {"images": []}})
    with cloud_of(glance) as cloud:
        cloud.check_creation(IMAGE)
    assert glance.created == []


def test_a_missing_right_is_reported() -> None:
    with (
        cloud_of(StubGlance({IMAGES: named("another")}, refuses=403)) as cloud,
        pytest.raises(PermanentCloudError, match="no role that allows this") as refused,
    ):
        cloud.check_creation(IMAGE)
    assert refused.value.reason is Reason.FORBIDDEN


def test_a_missing_right_to_make_it_public_names_the_element() -> None:
    with (
        cloud_of(StubGlance({IMAGES: named("another")}, refuses=403), publicImage=True) as cloud,
        pytest.raises(PermanentCloudError, match=r"^publicImage: "),
    ):
        cloud.check_creation(IMAGE)


def test_a_full_quota_of_images_is_reported() -> None:
    glance = StubGlance({USAGE: usage(image_count_total=(5, 5)), IMAGES: named("another")})
    with cloud_of(glance) as cloud, pytest.raises(PermanentCloudError, match="image_count_total: 5"):
        cloud.check_creation(IMAGE)
    assert glance.created == []


def test_a_format_that_the_cloud_does_not_accept_is_refused() -> None:
    glance = StubGlance({SCHEMA: schema("qcow2", "iso", None)})
    with cloud_of(glance) as cloud, pytest.raises(InvalidRequest, match="no 'raw' image, only: iso, qcow2"):
        cloud.check_creation(IMAGE)


@pytest.mark.parametrize(
    "told",
    [
        *(
            [],
            b"no json",
            {"properties": 7},
            {"properties": {"disk_format": {"enum": "raw"}}},
            schema(),
            schema(7, None),
        ),
        schema("x" * 65, "a\nb"),
    ],
    ids=lambda told: str(told)[:40],
)
def test_a_schema_of_another_shape_is_left_out(told: Any) -> None:
    with cloud_of(StubGlance({SCHEMA: told, IMAGES: {"images": []}})) as cloud:
        cloud.check_creation(IMAGE)


@pytest.mark.parametrize("told", [[], {"images": {}}, {"images": [7]}, {"images": [{"id": "../x"}]}], ids=str)
def test_what_lists_no_images_is_no_image_service(told: Any) -> None:
    glance = StubGlance({IMAGES: told})
    with cloud_of(glance) as cloud, pytest.raises(PermanentCloudError, match=r"not an image service.*check glanceUrl"):
        cloud.check_creation(IMAGE)
    assert glance.created == []


def test_a_glance_that_refuses_to_list_images_is_reported() -> None:
    with cloud_of(StubGlance()) as cloud, pytest.raises(PermanentCloudError, match="answered 404"):
        cloud.check_creation(IMAGE)


def test_nothing_is_left_in_a_cloud_that_creates_it_nevertheless() -> None:
    glance = StubGlance({IMAGES: named("another")}, refuses=201)
    with cloud_of(glance) as cloud:
        cloud.check_creation(IMAGE)
    assert glance.deleted == ["surprise"]


# Exploring ----------------------------------------------------------------------------------------------------------


def test_an_account_of_keystone_v2_lists_its_projects() -> None:
    with KeystoneV2Stub("http://127.0.0.2:9", users={"joe": PASSWORD}, tenants={"t", "lab"}) as keystone:
        fields = {"keystoneUrl": keystone.url, "login": "joe", "keystoneVersion": "v2.0"}
        account = Account("openstack", fields, {"password": PASSWORD})
        found = OpenStackPublisher.explore(account, Target("openstack"), Timeouts(5, 20, 20), EVERYWHERE)
    assert [each.name for each in found.projects] == ["lab", "t"]
    assert all(isinstance(each, Place) for each in found.regions)


def test_a_keystone_that_does_not_answer_is_reported() -> None:
    account = Account("openstack", {"keystoneUrl": "http://127.0.0.1:9", "login": "joe"}, {"password": PASSWORD})
    with pytest.raises(TransientCloudError, match="refused"):
        OpenStackPublisher.explore(account, Target("openstack"), Timeouts(5, 20, 20), EVERYWHERE)


# Older images of a lineage ------------------------------------------------------------------------------------------

OLDER = f"{IMAGES}/older"
RECORD = {"id": "older", "status": "active", "name": "x", "publisher_ticket": "uid"}


@pytest.fixture
def nova(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the catalog say that Glance's address is Nova's, too."""
    monkeypatch.setattr(facts, "_endpoints", lambda session, who, service_type: {"": who.glance_url})


@pytest.mark.parametrize(
    ("record", "servers", "why"),
    [
        (RECORD, {"servers": []}, None),
        (RECORD, {"servers": [{"id": "a"}]}, "servers boot from it"),
        (RECORD | {"protected": True}, {"servers": []}, "it is protected"),
        (RECORD, [], None),
        (RECORD, b"no json", None),
    ],
)
@pytest.mark.usefixtures("nova")
def test_an_image_is_in_use_if_servers_boot_from_it_or_it_is_protected(
    record: dict[str, Any], servers: Any, why: str | None
) -> None:
    glance = StubGlance({OLDER: record, "/servers": servers})
    with cloud_of(glance) as cloud:
        assert cloud.in_use("older") == why
    assert (glance.asked[1:] == ["GET /servers?image=older&limit=1"]) == ("protected" not in record)


@pytest.mark.usefixtures("nova")
def test_an_image_that_does_not_exist_is_not_in_use() -> None:
    with cloud_of(StubGlance()) as cloud:
        assert cloud.in_use("older") is None


def test_a_cloud_without_nova_does_not_say_what_boots_from_an_image() -> None:
    with cloud_of(StubGlance({OLDER: RECORD})) as cloud:
        assert cloud.in_use("older") is None


def test_an_image_of_somebody_else_is_not_changed() -> None:
    glance = StubGlance({OLDER: RECORD})
    tags = Tags("another", "deployment")
    with cloud_of(glance) as cloud:
        with pytest.raises(PermanentCloudError, match="does not carry the tags of the ticket"):
            cloud.hide("older", tags)
        with pytest.raises(PermanentCloudError, match="does not carry the tags of the ticket"):
            cloud.rename("older", tags, "y")
    assert glance.asked == [f"GET {OLDER}"] * 2


def test_an_image_that_is_changed_already_or_gone_needs_no_change() -> None:
    glance = StubGlance({OLDER: RECORD | {"os_hidden": True}})
    with cloud_of(glance) as cloud:
        cloud.hide("older", Tags("uid", "deployment"))
        cloud.rename("older", Tags("uid", "deployment"), "x")
        cloud.hide("gone", Tags("uid", "deployment"))
    assert glance.asked == [f"GET {OLDER}"] * 2 + [f"GET {IMAGES}/gone"]
