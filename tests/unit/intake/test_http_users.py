"""A user and the user's roles."""

from __future__ import annotations

from tests.service import JSON, PASSWORDS, Service

BASES = {
    "baseApiKeysUri": "users/alice/apikeys",
    "baseAppliancesUri": "users/alice/appliances",
    "baseCredAccountsUri": "users/alice/accounts",
    "baseTargetPlatformsUri": "users/alice/targetplatforms",
    "baseTargetFormatsUri": "users/alice/targetformats",
    "baseImagesUri": "users/alice/images",
    "basePublishImagesUri": "users/alice/pimages",
    "baseRolesUri": "users/alice/roles",
}


def give_role(service: Service, login: str, *entitlements: str) -> None:
    service.store.roles.add("operators", entitlements=frozenset(entitlements), description="Those who operate")
    service.store.users.change_roles(login, add=frozenset({"operators"}))


def test_user_document_has_the_expected_values(fresh: Service) -> None:
    give_role(fresh, "alice", "image_publish")
    user = fresh.get("users/alice", login="alice", accept=JSON).json
    (role,) = user.pop("roles")["role"]
    assert (role["name"], role["description"]) == ("operators", "Those who operate")
    assert [each["name"] for each in role["entitlements"]["entitlement"]] == ["image_publish"]
    assert user.pop("created")
    assert user.pop("digest")
    assert user.pop("dbId") == number_of(fresh, "alice")
    assert (role["dbId"], role["name"]) == (1, "operators")
    assert user == {
        "loginName": "alice", "active": True, "admin": False, **BASES, "name": "alice", "uri": "users/alice",
    }  # fmt: skip
    assert fresh.get("users/root", accept=JSON).json["admin"] is True


def number_of(service: Service, login: str) -> int:
    user = service.store.users.get(login)
    assert user is not None
    assert 1 <= user.id <= len(PASSWORDS)
    return user.id


def test_user_document_has_its_elements_in_order(fresh: Service) -> None:
    root = fresh.get("users/alice", login="alice").xml
    assert [child.tag for child in root] == [
        "created", "dbId", "digest", "loginName", "active", "admin", *BASES, "name", "roles", "uri",
    ]  # fmt: skip


def test_list_has_the_roles_of_the_user(fresh: Service) -> None:
    none = fresh.get("users/alice/roles", login="alice", accept=JSON)
    assert none.json == {"total": 0, "roles": {"role": []}}
    give_role(fresh, "alice", "image_publish", "image_generate")
    listed = fresh.get("users/alice/roles", login="alice", headers={"If-None-Match": none.headers["etag"]})
    assert (listed.status, listed.text("total")) == (200, "1")
    assert [each.text for each in listed.xml.findall("roles/role/entitlements/entitlement/name")] == [
        "image_generate", "image_publish",
    ]  # fmt: skip
    again = fresh.get("users/alice/roles", login="alice", headers={"If-None-Match": listed.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


def test_last_modified_hides_no_change(fresh: Service) -> None:
    date = fresh.get("users/alice/roles", login="alice").headers["last-modified"]
    give_role(fresh, "alice", "image_publish")
    assert fresh.get("users/alice/roles", login="alice", headers={"If-Modified-Since": date}).status == 200


def test_role_change_takes_effect_at_once(fresh: Service) -> None:
    path = "users/carol/appliances"
    assert fresh.get(path, login="carol").status == 403
    give_role(fresh, "carol", "appliance_create")
    assert fresh.get(path, login="carol").status == 200
    assert fresh.get("users/carol/pimages", login="carol").status == 403, "what the role does not give"
    fresh.store.users.change_roles("carol", remove=frozenset({"operators"}))
    assert fresh.get(path, login="carol").status == 403
