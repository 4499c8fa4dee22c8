"""Ids for several objects at a time."""

from uuid import UUID

from publisher.core.unique_ids import unique_ids


def test_ids_are_random_uuids() -> None:
    ids = unique_ids(50)
    assert len(set(ids) | set(unique_ids(50))) == 100
    assert {UUID(each).version for each in ids} == {4}
    assert [str(UUID(each)) for each in ids] == ids


def test_no_ids_need_no_randomness() -> None:
    assert unique_ids(0) == []
