"""Appliances: labels that group images and publications."""

from __future__ import annotations

import pytest

from tests.service import IMAGE_SIZE, JSON, Service, add_image, ticket_path

ALICE = "users/alice/appliances"


def test_undescribed_appliance_has_default_values(fresh: Service) -> None:
    ticket = fresh.publish(login="alice", image=21)
    answer = fresh.get(f"{ALICE}/14", login="alice", accept=JSON)
    found = answer.json
    assert found.pop("created") <= found.pop("lastModified"), "the database may read its clock twice"
    assert found.pop("digest")
    assert found == {
        "dbId": 14,
        "archName": "x86_64",
        "baseImagesStatusUri": f"{ALICE}/14/images/statuses",
        "baseImagesUri": f"{ALICE}/14/images",
        "basePublishImagesStatusUri": f"{ALICE}/14/pimages/statuses",
        "basePublishImagesUri": f"{ALICE}/14/pimages",
        "distributionName": "unknown",
        "imageUris": {"uri": [f"{ALICE}/14/images/21", f"{ALICE}/14/images/23"]},
        "name": "appliance-14",
        "publishImageUris": {"uri": [ticket_path(ticket)]},
        "revision": 1,
        "size": 2 * IMAGE_SIZE,
        "uri": f"{ALICE}/14",
        "version": "1",
    }
    in_xml = fresh.get(f"{ALICE}/14", login="alice").xml
    assert [each.text for each in in_xml.iterfind("imageUris/uri")] == found["imageUris"]["uri"]
    again = fresh.get(f"{ALICE}/14", login="alice", accept=JSON, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


def test_described_appliance_has_the_given_values(fresh: Service) -> None:
    fresh.store.appliances.add(
        "alice", id=3, name="web", version="2.1", description="Årgång", distribution="Debian 12", architecture="arm64"
    )
    found = fresh.get(f"{ALICE}/3", login="alice").xml
    texts = {name: found.findtext(name) for name in ("dbId", "name", "version", "description", "archName", "size")}
    assert texts == {
        "dbId": "3", "name": "web", "version": "2.1", "description": "Årgång", "archName": "arm64", "size": "0",
    }  # fmt: skip
    assert [child.tag for child in found.iterfind("imageUris")] == ["imageUris"]
    assert fresh.get(f"{ALICE}/3/images", login="alice").text("total") == "0"
    image = add_image(fresh.store, 50, "alice", 3)
    assert fresh.get(f"{ALICE}/3/images/{image.id}", login="alice").text("distributionName") == "Debian 12"
    assert fresh.get(f"{ALICE}/3/images", login="alice").text("images/image/distributionName") == "Debian 12"


def test_list_has_all_appliances_of_the_user(fresh: Service) -> None:
    listed = fresh.get(ALICE, login="alice", accept=JSON).json
    assert (listed["total"], [each["dbId"] for each in listed["appliances"]["appliance"]]) == (2, [14, 15])
    for each in listed["appliances"]["appliance"]:
        assert each == fresh.get(each["uri"], login="alice", accept=JSON).json
    assert fresh.get(ALICE, login="root").status == 200
    assert fresh.get("users/carol/appliances", login="root").text("total") == "0"


@pytest.mark.long
def test_appliance_with_many_images_omits_their_uris(fresh: Service) -> None:
    for id in range(100, 200):
        add_image(fresh.store, id, "alice", 15)
    found = fresh.get(f"{ALICE}/15", login="alice", accept=JSON).json
    assert "imageUris" not in found
    assert found["publishImageUris"] == {"uri": []}
    assert found["size"] == 101 * IMAGE_SIZE


@pytest.mark.parametrize("path", ["99", "24", "0", "x"])
def test_unknown_appliance_is_not_found(fresh: Service, path: str) -> None:
    assert fresh.get(f"{ALICE}/{path}", login="alice").status == 404


def test_appliances_require_ownership_and_entitlement(fresh: Service) -> None:
    for path in ("", "/24"):
        assert fresh.get(f"users/bob/appliances{path}", login="alice").status == 404
        assert fresh.get(f"users/bob/appliances{path}", login=None).status == 401
        refused = fresh.get(f"users/carol/appliances{path}", login="carol")
        assert refused.status == 403
        assert "appliance_create" in refused.problem()
