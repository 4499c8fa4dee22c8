"""Ids, and the URIs that contain them."""

from __future__ import annotations

from uuid import RFC_4122, UUID

import pytest

from publisher.core.errors import InvalidRequest
from publisher.core.image import parse_image_uri
from publisher.core.uris import ID_MAX, parse_id, unique_ids


@pytest.mark.parametrize(("text", "id"), [("1", 1), ("21", 21), (str(ID_MAX), ID_MAX)])
def test_an_id_is_read(text: str, id: int) -> None:
    assert parse_id(text) == id
    assert parse_image_uri(f"users/alice/appliances/4/images/{text}", "img") == ("alice", 4, id)


@pytest.mark.parametrize(
    "text", ["", "0", "007", "-1", "+1", " 1", "1\n", "1.0", "x", "\u0661", str(ID_MAX + 1), "9" * 5000]
)
def test_no_object_has_such_an_id(text: str) -> None:
    assert parse_id(text) is None
    with pytest.raises(InvalidRequest, match="is not of the form users/USER/appliances/4/images/7"):
        parse_image_uri(f"users/alice/appliances/4/images/{text}", "img")


def test_ids_are_random_uuids() -> None:
    ids = unique_ids(50)
    assert len(set(ids) | set(unique_ids(50))) == 100
    assert {(UUID(each).version, UUID(each).variant) for each in ids} == {(4, RFC_4122)}
    assert [str(UUID(each)) for each in ids] == ids


def test_no_ids_need_no_randomness() -> None:
    assert unique_ids(0) == []
