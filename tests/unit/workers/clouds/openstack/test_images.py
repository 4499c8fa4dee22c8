"""Calls to Glance: what they send, how often, and which answers they accept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from keystoneauth1.token_endpoint import Token

from publisher.core.errors import CloudError, InvalidRequest, PermanentCloudError, Reason
from publisher.outbound.policy import EVERYWHERE
from tests.servers.answering import serving
from workers.clouds.base import Timeouts
from workers.clouds.openstack.images import GlanceImages
from workers.clouds.openstack.session import Reach
from workers.http_clients import trust

REACH = Reach(Timeouts(5.0, 20.0, 20.0), EVERYWHERE, trust())
RECORD = {"id": "an-image", "status": "queued"}


@dataclass
class Requests:
    """A server that answers every request with `told`, and keeps the requests."""

    told: Any = None
    status: int = 200
    sent: list[tuple[str, Any]] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.sent.append((f"{handler.command} {handler.path}", json.loads(body) if body else None))
        self.headers.append(handler.headers)
        told = self.told if isinstance(self.told, bytes) else json.dumps(self.told).encode()
        handler.send_response(self.status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("X-OpenStack-Request-Id", "req-of-the-server")
        handler.send_header("Content-Length", str(len(told)))
        handler.end_headers()
        handler.wfile.write(told)


@contextmanager
def glance(requests: Requests) -> Iterator[GlanceImages]:
    with serving(requests.answer) as url:
        session = REACH.session(Token(url, "a token"))
        yield GlanceImages(session, url)
        session.session.close()


def test_record_is_created_in_one_request_whatever_the_names_of_its_properties() -> None:
    names = ("args", "kwargs", "wrapped", "instance", "patch", "schema", "changes", "a b/c~d", "ünï", "")
    record = {"id": "an-image", "min_disk": 3, "tags": ["a", "b"], **dict.fromkeys(names, "x")}
    requests = Requests(RECORD, 201)
    with glance(requests) as images:
        assert images.create(record) == 201
    assert requests.sent == [("POST /v2/images", record)]


@pytest.mark.parametrize("name", ["self", "backend"])
def test_property_that_would_not_be_sent_is_refused(name: str) -> None:
    requests = Requests(RECORD, 201)
    with glance(requests) as images, pytest.raises(InvalidRequest, match=f"'{name}'"):
        images.create({"id": "an-image", name: "x"})
    assert requests.sent == []


def test_refusal_of_a_creation_is_returned_if_it_is_expected() -> None:
    requests = Requests({"message": "no"}, 403)
    with glance(requests) as images:
        assert images.create(RECORD, may_be=(403,)) == 403
        with pytest.raises(PermanentCloudError, match="answered 403: no"):
            images.create(RECORD, may_be=(409,))


def test_record_is_read_in_one_request() -> None:
    requests = Requests({**RECORD, "self": "/v2/images/an-image", "args": "x"})
    with glance(requests) as images:
        assert images.get("an-image") == {**RECORD, "args": "x"}
    assert requests.sent == [("GET /v2/images/an-image", None)]


def test_answers_of_any_depth_are_no_image() -> None:
    deep = b'{"id": "an-image", "status": "queued", "x": ' + b"[" * 600 + b"]" * 600 + b"}"
    with glance(Requests(deep)) as images, pytest.raises(PermanentCloudError, match="nested too deeply"):
        images.get("an-image")


def test_page_sends_back_nothing_of_the_answer_before() -> None:
    requests = Requests({"images": [RECORD], "next": "/v2/images?marker=an-image"})
    with glance(requests) as images, pytest.raises(CloudError, match="a list without end"):
        images.list({"owner": "me"})
    assert len(requests.headers) == 2
    assert not any("x-openstack-request-id" in each for each in requests.headers)


def test_update_is_one_request() -> None:
    requests = Requests(RECORD)
    with glance(requests) as images:
        images.update("an-image", {"os_hidden": True, "a/b~c": "x"}, remove=["old"])
    assert requests.sent == [
        (
            "PATCH /v2/images/an-image",
            [
                {"op": "add", "path": "/os_hidden", "value": True},
                {"op": "add", "path": "/a~1b~0c", "value": "x"},
                {"op": "remove", "path": "/old"},
            ],
        )
    ]
    assert requests.headers[0]["Content-Type"] == "application/openstack-images-v2.1-json-patch"


def test_tags_are_part_of_the_path() -> None:
    requests = Requests()
    with glance(requests) as images:
        images.add_tags("an-image", ["release", "a/b ?"])
    assert [path for path, _ in requests.sent] == [
        "PUT /v2/images/an-image/tags/release",
        "PUT /v2/images/an-image/tags/a%2Fb%20%3F",
    ]


def test_image_that_is_shared_already_is_no_error() -> None:
    requests = Requests({"message": "already"}, 409)
    with glance(requests) as images:
        images.share("an-image", "a-project")
    assert requests.sent == [("POST /v2/images/an-image/members", {"member": "a-project"})]


def test_image_that_cannot_be_shared_is_a_permanent_error() -> None:
    with glance(Requests({"message": "not shared"}, 403)) as images, pytest.raises(PermanentCloudError, match="403"):
        images.share("an-image", "a-project")


def test_members_are_named_with_their_answer() -> None:
    told = {"members": [{"member_id": "a", "status": "accepted", "schema": "/v2/schemas/member"}]}
    requests = Requests(told)
    with glance(requests) as images:
        assert images.members("an-image") == {"a": "accepted"}
    assert [path for path, _ in requests.sent] == ["GET /v2/images/an-image/members"]


def test_stores_are_those_that_can_be_written_to() -> None:
    told = {"stores": [{"id": "fast", "default": "true"}, {"id": "web", "read-only": "true"}]}
    with glance(Requests(told)) as images:
        assert images.stores() == ["fast"]


@pytest.mark.parametrize("call", [GlanceImages.stores, GlanceImages.import_methods])
def test_cloud_without_stores_or_imports_offers_none(call: Callable[[GlanceImages], Any]) -> None:
    with glance(Requests({}, 404)) as images:
        assert list(call(images)) == []


def test_import_methods_are_read() -> None:
    told = {"import-methods": {"description": "x", "type": "array", "value": ["glance-direct"]}}
    with glance(Requests(told)) as images:
        assert images.import_methods() == ["glance-direct"]


@pytest.mark.parametrize(
    "told", [{}, [], {"members": 7, "stores": 7, "import-methods": 7}, {"members": [7], "stores": [7]}], ids=str
)
@pytest.mark.parametrize(
    "call", [lambda images: images.members("an-image"), GlanceImages.stores, GlanceImages.import_methods]
)
def test_answer_of_another_shape_is_no_image_service(told: Any, call: Callable[[GlanceImages], Any]) -> None:
    with glance(Requests(told)) as images, pytest.raises(PermanentCloudError, match="is not an image service"):
        call(images)


def test_import_names_its_method_and_must_reach_the_store() -> None:
    requests = Requests(status=202)
    with glance(requests) as images:
        images.start_import("an-image", "glance-direct")
        images.start_import("an-image", "web-download", uri="https://example.com/x", store="fast")
    assert requests.sent == [
        ("POST /v2/images/an-image/import", {"method": {"name": "glance-direct"}}),
        (
            "POST /v2/images/an-image/import",
            {"method": {"name": "web-download", "uri": "https://example.com/x"}, "stores": ["fast"]},
        ),
    ]


@dataclass
class Refusing(Requests):
    """A server that shows an image, and refuses to delete it."""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.status = 403 if handler.command == "DELETE" else 200
        super().answer(handler)


@pytest.mark.parametrize(
    ("protected", "words"),
    [
        (
            True,
            r"image an-image is protected; lift the protection first \(openstack image set --unprotected an-image\)",
        ),
        (False, "answered 403.*the account has no role"),
    ],
)
def test_refusal_to_delete_says_whether_the_image_is_protected(protected: bool, words: str) -> None:
    requests = Refusing(RECORD | {"status": "active", "protected": protected})
    with glance(requests) as images, pytest.raises(PermanentCloudError, match=words) as refused:
        images.delete("an-image")
    assert refused.value.reason is Reason.FORBIDDEN
    assert [asked for asked, _ in requests.sent] == ["DELETE /v2/images/an-image", "GET /v2/images/an-image"]
