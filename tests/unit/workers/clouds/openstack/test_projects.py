"""The projects that an image is shared with: by id, by name, and as far as the login may look up others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from keystoneauth1.identity import v2, v3
from keystoneauth1.token_endpoint import Token

from publisher.core.errors import PermanentCloudError, Reason, Stopped, TransientCloudError
from publisher.outbound.policy import EVERYWHERE
from tests.servers.answering import serving
from workers.clouds.base import Timeouts
from workers.clouds.openstack import projects
from workers.clouds.openstack.images import GlanceImages
from workers.clouds.openstack.projects import project_ids, until_accepted
from workers.clouds.openstack.session import Reach
from workers.http_clients import trust

REACH = Reach(Timeouts(5.0, 20.0, 20.0), EVERYWHERE, trust())
OWN, OTHER, NOBODYS = "1" * 32, "2" * 32, "3" * 32


@dataclass
class KeystoneWithProjects:
    """A Keystone whose login has a role in some of the projects, and may look up the others or not."""

    own: dict[str, str] = field(default_factory=lambda: {OWN: "mine"})
    others: dict[str, str] = field(default_factory=lambda: {OTHER: "theirs"})
    sees_others: bool = False
    requests: list[str] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        asked = urlsplit(handler.path)
        self.requests.append(f"{handler.command} {handler.path}")
        status, told = self._told(asked.path, parse_qs(asked.query))
        body = json.dumps(told).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("X-Subject-Token", "a token")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _told(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        if path == "/v3/auth/tokens":
            user = {"id": "joe", "name": "joe", "domain": {"id": "default", "name": "Default"}}
            return 201, {"token": {"methods": ["password"], "expires_at": "2999-01-01T00:00:00.000000Z", "user": user}}
        if path == "/v3/auth/projects":
            return 200, _listed(self.own)
        everything = self.own | self.others
        if not self.sees_others:
            return 403, {"error": {"message": "You are not authorized"}}
        if path == "/v3/projects":
            return 200, _listed({key: name for key, name in everything.items() if [name] == query.get("name")})
        found = path.rpartition("/")[2]
        if found not in everything:
            return 404, {"error": {"message": f"Could not find project: {found}"}}
        return 200, {"project": {"id": found, "name": everything[found]}}


def _listed(projects: dict[str, str]) -> dict[str, Any]:
    return {"projects": [{"id": key, "name": name} for key, name in projects.items()], "links": {}}


@contextmanager
def keystone(stub: KeystoneWithProjects) -> Iterator[Any]:
    with serving(stub.answer) as url:
        session = REACH.session(v3.Password(f"{url}/v3", username="joe", password="x", user_domain_id="default"))
        yield session
        session.session.close()


def ids(stub: KeystoneWithProjects, wanted: Sequence[str]) -> list[str]:
    with keystone(stub) as session:
        return project_ids(session, wanted)


def refusal(stub: KeystoneWithProjects, wanted: str) -> str:
    with keystone(stub) as session, pytest.raises(PermanentCloudError) as caught:
        project_ids(session, [wanted])
    assert caught.value.reason is Reason.REQUEST
    assert str(caught.value).startswith("sharedWith: ")
    return str(caught.value)


def test_projects_of_the_login_are_found_by_id_and_name_in_one_request() -> None:
    stub = KeystoneWithProjects()
    assert ids(stub, [OWN, "mine"]) == [OWN]
    assert stub.requests[1:] == ["GET /v3/auth/projects"]


@pytest.mark.parametrize("wanted", [OTHER, "theirs"])
def test_other_projects_are_found_if_the_login_may_see_them(wanted: str) -> None:
    assert ids(KeystoneWithProjects(sees_others=True), ["mine", wanted]) == [OWN, OTHER]


def test_id_of_a_project_that_the_login_may_not_see_is_used_as_it_is() -> None:
    assert ids(KeystoneWithProjects(), [OTHER]) == [OTHER]


def test_name_of_a_project_that_the_login_may_not_see_is_refused() -> None:
    assert "give the id instead" in refusal(KeystoneWithProjects(), "theirs")


@pytest.mark.parametrize("wanted", [NOBODYS, "nobody's"])
def test_project_that_does_not_exist_is_refused(wanted: str) -> None:
    words = refusal(KeystoneWithProjects(sees_others=True), wanted)
    assert words.startswith("sharedWith: there is no project ")
    assert wanted in words


def test_name_of_several_projects_is_refused() -> None:
    stub = KeystoneWithProjects(own={OWN: "twice", OTHER: "twice"})
    assert "give the id of one" in refusal(stub, "twice")


def test_keystone_v2_is_refused() -> None:
    session = REACH.session(v2.Password("http://127.0.0.2:9/v2.0", username="joe", password="x"))
    with pytest.raises(PermanentCloudError, match=r"sharedWith: .* use v3"):
        project_ids(session, [OWN])


# Acceptance -----------------------------------------------------------------------------------------------------------


@dataclass
class GlanceWithMembers:
    """A Glance that lists the members of an image: each time the next of these states; the last one stays."""

    states: list[dict[str, str]]
    asked: int = 0

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        state = self.states[min(self.asked, len(self.states) - 1)]
        self.asked += 1
        members = [{"member_id": key, "status": status, "image_id": "an-image"} for key, status in state.items()]
        body = json.dumps({"members": members}).encode()
        handler.send_response(200 if handler.path == "/v2/images/an-image/members" else 404)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


def wait_for(glance: GlanceWithMembers, *wanted: str, seconds: float = 60.0, stopped: bool = False) -> None:
    def check() -> None:
        if stopped and glance.asked:
            raise Stopped

    with serving(glance.answer) as url:
        session = REACH.session(Token(url, "a token"))
        try:
            until_accepted(GlanceImages(session, url), "an-image", wanted, seconds=seconds, check=check)
        finally:
            session.session.close()


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projects, "_PAUSE_SECONDS", 0.0)


@pytest.mark.usefixtures("_at_once")
def test_all_projects_must_have_accepted() -> None:
    pending, one = {OWN: "pending", OTHER: "pending"}, {OWN: "accepted", OTHER: "pending"}
    both = {OWN: "accepted", OTHER: "accepted", NOBODYS: "rejected"}
    glance = GlanceWithMembers([{}, pending, one, both])
    wait_for(glance, OWN, OTHER)
    assert glance.asked == 4, "what other members say is of no matter"


@pytest.mark.usefixtures("_at_once")
def test_rejection_ends_the_wait() -> None:
    glance = GlanceWithMembers([{OWN: "pending", OTHER: "pending"}, {OWN: "pending", OTHER: "rejected"}])
    with pytest.raises(PermanentCloudError, match=f"sharedWith: the project {OTHER} has rejected the image"):
        wait_for(glance, OWN, OTHER)


def test_projects_that_do_not_accept_in_time_are_named() -> None:
    glance = GlanceWithMembers([{OWN: "accepted", OTHER: "pending"}])
    with pytest.raises(TransientCloudError, match=f"{OTHER} did not accept the image .*openstack image set --accept"):
        wait_for(glance, OWN, OTHER, seconds=-1.0)


def test_wait_for_acceptance_can_be_stopped() -> None:
    with pytest.raises(Stopped):
        wait_for(GlanceWithMembers([{OWN: "pending"}]), OWN, stopped=True)
