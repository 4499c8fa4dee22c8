"""Form fields of any platform, made from the tables by which documents are read."""

from __future__ import annotations

from itertools import chain

import pytest
from starlette.datastructures import ImmutableMultiDict

from publisher.console.rendering import account_elements, filled_in, installed_platforms, target_elements
from publisher.platforms.platform import Kind, Platform, find_platform, installed, known_platforms


@pytest.mark.parametrize("platform", known_platforms(), ids=lambda platform: platform.name)
def test_form_has_every_field_of_its_platform(platform: Platform) -> None:
    elements = [*account_elements(platform), *target_elements(platform)]
    fields = {each.name: each for each in chain(platform.account_fields, platform.target_fields)}
    names = [each.name for each in elements]
    assert set(names) == {name for name, field in fields.items() if field.kind is not Kind.LIST}
    for element in elements:
        assert element.label[:1].isupper()
        assert (element.kind == "password") == fields[element.name].secret
        assert element.required == (element.name in platform.required)
    assert len({each.label for each in elements}) == len(elements)


@pytest.mark.parametrize("platform", known_platforms(), ids=lambda platform: platform.name)
def test_a_form_is_read_like_a_document(platform: Platform) -> None:
    fields = [each for each in platform.account_fields if each.kind is not Kind.LIST]
    form = {f"x.{each.name}": "7" if each.kind is Kind.INTEGER else f" {each.name} " for each in fields}
    document, errors = filled_in(platform.account_fields, form, "x.")
    assert errors == {}
    for field in fields:
        value = document[field.name]
        if field.secret:
            assert value == f" {field.name} ", "a password may begin with a blank"
        else:
            assert value == (7 if field.kind is Kind.INTEGER else field.name)
    document, errors = filled_in(platform.account_fields, dict.fromkeys(form, ""), "x.")
    assert (document, errors) == ({}, {})


def test_an_invalid_number_is_an_error_of_its_field() -> None:
    vsphere = find_platform("vsphere")
    assert vsphere
    document, errors = filled_in(vsphere.account_fields, {"port": "99999", "proxyPort": "x", "hostname": "h"})
    assert document == {"hostname": "h"}
    assert errors == {
        "port": "Port: '99999' is not a number from 1 to 65535.",
        "proxyPort": "Proxy port: 'x' is not an integer.",
    }


def test_a_ticked_box_is_true_and_any_other_false() -> None:
    openstack = find_platform("openstack")
    assert openstack
    for form, value in ((ImmutableMultiDict([("publicImage", "true")]), True), (ImmutableMultiDict([]), False)):
        assert filled_in(openstack.target_fields, form)[0] == {"publicImage": value}


def test_a_stored_secret_is_not_required_again() -> None:
    openstack = find_platform("openstack")
    assert openstack
    kept = [each for each in account_elements(openstack, secrets_kept=True) if each.kind == "password"]
    assert {each.name for each in kept} == openstack.secret_names
    for each in kept:
        assert not each.required
        assert "keep" in each.hint


def test_platforms_with_a_plugin_are_offered() -> None:
    assert {each.name for each in installed_platforms()} == {name for name in installed() if find_platform(name)}
    assert installed_platforms()[0].name == "openstack"
