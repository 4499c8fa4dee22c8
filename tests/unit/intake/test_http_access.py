"""Who may do what: every route, against every kind of caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from publisher.core.store import users
from publisher.intake import auth
from tests.unit.intake.conftest import IMAGES, PASSWORDS, Answer, Service, basic, xml_body

NOBODY = "nobody"


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    entitlement: str | None


_APPLIANCE = "users/{uid}/appliances/{aid}"
_IMAGE = _APPLIANCE + "/images/{itid}"

ROUTES = {
    "publish": Route("POST", _APPLIANCE + "/pimages", "image_publish"),
    "publish an image": Route("POST", _IMAGE + "/pimages", "image_publish"),
    "list": Route("GET", _APPLIANCE + "/pimages", "appliance_create"),
    "statuses": Route("GET", _APPLIANCE + "/pimages/statuses", "appliance_create"),
    "get": Route("GET", _IMAGE + "/pimages/{pitid}", None),
    "status": Route("GET", _IMAGE + "/pimages/{pitid}/status", "image_publish"),
}
every_route = pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)


@pytest.fixture(scope="module")
def tickets(service: Service) -> dict[str, int]:
    """A ticket of everyone who has an image."""
    return {
        owner: service.publish(login=owner, image=image).id
        for image, (owner, _) in IMAGES.items()
        if image not in (22, 23)
    }


@pytest.fixture
def ask(service: Service, tickets: dict[str, int]) -> Callable[..., Answer]:
    """Ask a route for what belongs to `owner`, under `uid`, which is the owner's unless told."""

    def ask_route(route: Route, owner: str, *, uid: str | None = None, **options: str | None) -> Answer:
        image, appliance = next((id, appliance) for id, (name, appliance) in IMAGES.items() if name == owner)
        path = route.path.format(uid=uid or owner, aid=appliance, itid=image, pitid=tickets[owner])
        # The nested route takes the image from its path, the flat one needs the URI of what its path names.
        uri = f"users/{uid or owner}/appliances/{appliance}/images/{image}"
        body = xml_body(image=None, imageUri=uri) if route.method == "POST" else ""
        return service.call(
            route.method,
            path,
            body=body.encode(),
            content_type="application/xml" if body else None,
            headers=None,
            login=options.get("login", owner),
            password=options.get("password"),
        )

    return ask_route


@every_route
class TestCallers:
    def test_the_owner(self, route: Route, ask: Callable[..., Answer]) -> None:
        assert ask(route, "alice").status == (201 if route.method == "POST" else 200)

    def test_an_owner_beyond_ascii(self, route: Route, ask: Callable[..., Answer]) -> None:
        answer = ask(route, "åsa")
        assert answer.status == (201 if route.method == "POST" else 200)
        assert b"users/%C3%A5sa/appliances/34" in answer.body

    def test_an_administrator_on_anothers(self, route: Route, ask: Callable[..., Answer]) -> None:
        answer = ask(route, "alice", login="root")
        assert answer.status == (201 if route.method == "POST" else 200)
        assert b"users/alice/appliances/14" in answer.body
        assert b"users/root" not in answer.body

    @pytest.mark.parametrize(
        ("login", "password"),
        [
            (None, None),
            ("alice", "wrong"),
            ("alice", ""),
            ("alice", PASSWORDS["alice"] + "\0"),
            ("alice", PASSWORDS["alice"].upper()),
            (NOBODY, "wrong"),
            (NOBODY, PASSWORDS["alice"]),
            ("", ""),
            ("ali\0ce", "wrong"),
            ("alice ", PASSWORDS["alice"]),
            ("ALICE", PASSWORDS["alice"]),
        ],
    )
    def test_no_valid_login(
        self, route: Route, ask: Callable[..., Answer], login: str | None, password: str | None
    ) -> None:
        answer = ask(route, "alice", login=login, password=password)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith('Basic realm="')
        assert answer.problem()

    def test_without_the_entitlement(self, route: Route, service: Service, tickets: dict[str, int]) -> None:
        path = route.path.format(uid="carol", aid=14, itid=21, pitid=tickets["alice"])
        answer = service.call(route.method, path, login="carol")
        if route.entitlement:
            assert answer.status == 403
            assert route.entitlement in answer.problem()
        else:
            assert answer.status == 404

    def test_what_is_anothers_is_as_good_as_nothing(self, route: Route, ask: Callable[..., Answer]) -> None:
        """Not even a caller that has no entitlement can tell another user from none."""
        for login in ("bob", "carol"):
            anothers = ask(route, "alice", login=login)
            nobodys = ask(route, "alice", uid=NOBODY, login=login)
            assert anothers.status == nobodys.status == 404
            assert _told(anothers, "alice") == _told(nobodys, NOBODY)

    def test_an_unknown_user_is_not_found_by_an_administrator_either(
        self, route: Route, ask: Callable[..., Answer]
    ) -> None:
        assert ask(route, "alice", uid=NOBODY, login="root").status == 404

    def test_anothers_ids_under_ones_own_name(self, route: Route, service: Service, tickets: dict[str, int]) -> None:
        """Bob's ids and ids that nobody has are answered alike, whichever part of the path they stand in."""

        def told(aid: int, itid: int, pitid: int) -> tuple[object, ...]:
            path = route.path.format(uid="alice", aid=aid, itid=itid, pitid=pitid)
            body = xml_body(image=None, imageUri=f"users/alice/appliances/{aid}/images/{itid}").encode()
            answer = service.call(route.method, path, login="alice", content_type="application/xml", body=body)
            text = answer.body.decode()
            for number in (aid, itid, pitid):
                text = text.replace(str(number), "N")
            return answer.status, _untimed(text), sorted(set(answer.headers) - {"content-length"})

        own = {"aid": 14, "itid": 21, "pitid": tickets["alice"]}
        bobs = {"aid": 24, "itid": 31, "pitid": tickets["bob"]}
        for where in (name for name in own if f"{{{name}}}" in route.path):
            anothers, nobodys = told(**own | {where: bobs[where]}), told(**own | {where: 987654})
            assert anothers == nobodys
            # An appliance without images is one without published images.
            flat_list = route.method == "GET" and "itid" not in route.path
            assert anothers[0] == (200 if flat_list else 404 if "itid" in route.path else 400)


def _told(answer: Answer, uid: str) -> tuple[str, list[tuple[str, str]]]:
    headers = sorted((name, value) for name, value in answer.headers.items() if name != "content-length")
    return _untimed(answer.body.decode().replace(uid, "UID")), headers


def _untimed(body: str) -> str:
    before, _, after = body.partition("<timestamp>")
    return before + after.partition("</timestamp>")[2]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic åäö",
        "Basic YWxpY2U=",  # no colon
        "Basic /////w==",  # not UTF-8
        "Basic " + "A" * 100_000,
        "Bearer " + basic("alice", PASSWORDS["alice"]).split()[1],
        basic("alice", PASSWORDS["alice"]).split()[1],
        "Digest username=alice",
    ],
)
def test_an_authorization_that_cannot_be_read(service: Service, header: str) -> None:
    answer = service.get("users/alice/appliances/14/pimages", login=None, headers={"Authorization": header})
    assert answer.status == 401
    assert "www-authenticate" in answer.headers
    assert answer.problem()


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC", "Basic   "])
def test_the_scheme_in_any_case(service: Service, scheme: str) -> None:
    credentials = basic("alice", PASSWORDS["alice"]).split()[1]
    headers = {"Authorization": f"{scheme} {credentials}"}
    assert service.get("users/alice/appliances/14/pimages", login=None, headers=headers).status == 200


def test_a_password_with_colons_and_beyond_ascii(fresh: Service) -> None:
    fresh.store.users.set_password("alice", "å:b::𝄞")
    assert fresh.get("users/alice/appliances/14/pimages", login="alice", password="å:b::𝄞").status == 200


def test_a_failed_login_comes_before_everything_else_that_is_wrong(service: Service) -> None:
    answer = service.post(
        "users/alice/appliances/nine/pimages", "<", login=None, accept="image/png", content_type="x/y"
    )
    assert answer.status == 401


def test_status_needs_no_login(service: Service) -> None:
    for options in ({"login": None}, {"login": "alice", "password": "wrong"}):
        assert service.get("status", **options).status == 200


# The cache of verified passwords ----------------------------------------------------------------------------------


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passwords that were hashed to be compared, in order."""
    seen: list[str] = []

    def count(stored_hash: str | None, password: str) -> bool:
        seen.append(password)
        return users.verify_password(stored_hash, password)

    monkeypatch.setattr(auth, "verify_password", count)
    return seen


class TestPasswordCache:
    path = "users/alice/appliances/14/pimages"

    def test_a_password_is_hashed_once(self, fresh: Service, verified: list[str]) -> None:
        for _ in range(3):
            assert fresh.get(self.path, login="alice").status == 200
        assert verified == [PASSWORDS["alice"]]

    def test_a_wrong_password_is_hashed_each_time(self, fresh: Service, verified: list[str]) -> None:
        for _ in range(2):
            assert fresh.get(self.path, login="alice", password="wrong").status == 401
        assert verified == ["wrong", "wrong"]

    def test_an_unknown_login_costs_as_much_as_a_wrong_password(self, fresh: Service, verified: list[str]) -> None:
        for _ in range(2):
            assert fresh.get(self.path, login=NOBODY, password="wrong").status == 401
        assert verified == ["wrong", "wrong"]

    def test_a_changed_password_holds_at_once(self, fresh: Service, verified: list[str]) -> None:
        old = PASSWORDS["alice"]
        assert fresh.get(self.path, login="alice", password=old).status == 200
        fresh.store.users.set_password("alice", "new")
        assert fresh.get(self.path, login="alice", password=old).status == 401
        assert fresh.get(self.path, login="alice", password="new").status == 200
        fresh.store.users.set_password("alice", old)
        assert fresh.get(self.path, login="alice", password="new").status == 401
        assert fresh.get(self.path, login="alice", password=old).status == 200

    def test_one_users_password_is_no_other_users(self, fresh: Service) -> None:
        assert fresh.get(self.path, login="alice").status == 200
        assert fresh.get(self.path, login="bob", password=PASSWORDS["alice"]).status == 401

    def test_a_removed_user_is_gone_at_once(self, fresh: Service) -> None:
        path = "users/carol/appliances/14/images/21/pimages/1"
        assert fresh.get(path, login="carol").status == 404
        fresh.store.users.remove("carol")
        assert fresh.get(path, login="carol").status == 401

    def test_the_cache_ends(self, start: Callable[..., Service], verified: list[str]) -> None:
        service = start(credential_cache_seconds=0.0)
        for _ in range(2):
            assert service.get(self.path, login="alice").status == 200
        assert len(verified) == 2
