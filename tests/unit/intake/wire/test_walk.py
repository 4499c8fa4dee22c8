"""The ways in which a request declares its concrete type, in both formats."""

from __future__ import annotations

import json as stdlib_json
from collections.abc import Callable

import pytest

from publisher.core.errors import InvalidRequest
from publisher.intake.wire.reading import AccountResolver, parse_json, parse_xml
from publisher.intake.wire.schema import NAMESPACE, TYPES, XSI
from publisher.platforms.platform import Document, Platform, find_platform, known_platforms

Parse = Callable[..., Document]


def from_xml(
    image_type: str | None, account: dict[str, object] | None, *, resolve: AccountResolver | None = None
) -> Document:
    def typed(name: object) -> str:
        return "" if name is None else f' xsi:type="{f"n:{name}" if name else ""}"'

    inner = ""
    if account is not None:
        leaves = "".join(
            f"<{name}>{value}</{name}>" for name, value in account.items() if name not in ("@type", "platform")
        )
        target = account.get("platform")
        if isinstance(target, dict):
            leaves += f"<targetPlatform>{''.join(f'<{k}>{v}</{k}>' for k, v in target.items())}</targetPlatform>"
        inner = f"<credAccount{typed(account.get('@type'))}>{leaves}</credAccount>"
    body = f'<n:publishImage xmlns:n="{NAMESPACE}"{typed(image_type)}>{inner}</n:publishImage>'
    return parse_xml(body.encode(), resolve=resolve)[1]


def from_json(
    image_type: str | None, account: dict[str, object] | None, *, resolve: AccountResolver | None = None
) -> Document:
    body: dict[str, object] = {} if image_type is None else {"@type": image_type}
    if account is not None:
        body["credAccount"] = {{"platform": "targetPlatform"}.get(name, name): each for name, each in account.items()}
    return parse_json("publishImage", stdlib_json.dumps(body).encode(), resolve=resolve)


both = pytest.mark.parametrize("parse", [from_xml, from_json])


def types_of(document: Document) -> tuple[object, object]:
    account = document.get("credAccount")
    return document.get("@type"), account.get("@type") if isinstance(account, dict) else None


OPENSTACK = ("PublishImageOpenStack", "CredAccountOpenStack")


@both
@pytest.mark.parametrize(
    ("image_type", "account", "expected"),
    [
        ("PublishImageOpenStack", {"@type": "CredAccountOpenStack"}, OPENSTACK),
        ("PublishImageOpenStack", {}, OPENSTACK),
        ("PublishImageOpenStack", None, ("PublishImageOpenStack", None)),
        (None, {"@type": "CredAccountOpenStack"}, OPENSTACK),
        ("", {"@type": "", "platform": {"name": "openstack"}}, OPENSTACK),
        (None, {"platform": {"name": "openstack"}}, OPENSTACK),
        (None, {"platform": {"name": "OpenStack"}}, OPENSTACK),
        (None, {"platform": {"type": "OPENSTACK"}}, OPENSTACK),
        (None, {"platform": {"name": "Our cloud", "type": "openstack"}}, OPENSTACK),
        (None, {"platform": {"name": "susecloud", "type": "openstack"}}, OPENSTACK),
        (None, {"@type": "CredAccountOpenStack", "platform": {"name": "aws"}}, OPENSTACK),
        ("publishImage", {"@type": "credAccount", "platform": {"name": "openstack"}}, OPENSTACK),
        ("PublishImage", {"@type": "CredAccount", "platform": {"name": "openstack"}}, OPENSTACK),
        ("PublishImageOpenStack", {"dbId": 7, "platform": {"name": "Our cloud"}}, OPENSTACK),
        (None, {"platform": {"name": "vCenter"}}, ("PublishImageVSphere", "CredAccountVSphere")),
        (None, {"platform": {"name": "vcd"}}, ("PublishImageVCloudDirector", "CredAccountVCloudDirector")),
        (None, {"platform": {"type": "memory"}}, ("PublishImageMemory", "CredAccountMemory")),
        (None, {"dbId": 7}, (None, None)),
        (None, {"uri": "users/root/accounts/7"}, (None, None)),
        (None, {"name": "mine"}, (None, None)),
        (None, {"name": "mine", "platform": {"name": "Our cloud"}}, (None, None)),
        (None, {"dbId": 7, "platform": {"name": "openstack"}}, OPENSTACK),
        (None, {}, (None, None)),
        (None, None, (None, None)),
    ],
)
def test_concrete_type_is_found(
    parse: Parse, image_type: str | None, account: dict[str, object] | None, expected: tuple[object, object]
) -> None:
    assert types_of(parse(image_type, account)) == expected


@both
@pytest.mark.parametrize(
    ("image_type", "account", "field", "says"),
    [
        ("PublishImageNope", None, "<type>", "'PublishImageNope' is not a type of publishImage"),
        ("publishimageopenstack", None, "<type>", "is not a type of publishImage"),
        ("CredAccountAws", None, "<type>", "is not a type of publishImage"),
        ("image", None, "<type>", "is not a type of publishImage"),
        (None, {"@type": "CredAccountNope"}, "credAccount.<type>", "is not a type of credAccount"),
        (None, {"@type": "PublishImageAws"}, "credAccount.<type>", "is not a type of credAccount"),
        (None, {"platform": {"name": "nope"}}, "credAccount.targetPlatform.name", "'nope' is not a platform"),
        (None, {"platform": {"type": "nope"}}, "credAccount.targetPlatform.type", "use one of: openstack, "),
        (None, {"dbId": 7, "platform": {"type": "nope"}}, "credAccount.targetPlatform.type", "not a platform"),
        (
            "PublishImageAws",
            {"@type": "CredAccountOpenStack"},
            "credAccount",
            "an account of openstack cannot be used with PublishImageAws",
        ),
        ("PublishImageAws", {"platform": {"name": "openstack"}}, "credAccount", "cannot be used"),
        (
            None,
            {"@type": "CredAccountAws", "platform": {"type": "openstack"}},
            "credAccount.targetPlatform.type",
            "'openstack' contradicts the account's type, CredAccountAws",
        ),
    ],
)
def test_unknown_or_contradictory_type_is_refused(
    parse: Parse, image_type: str | None, account: dict[str, object] | None, field: str, says: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(image_type, account)
    type_key = "xsi:type" if parse is from_xml else "@type"
    assert caught.value.field == field.replace("<type>", type_key)
    assert says in str(caught.value)


@both
def test_the_resolver_decides_if_the_document_declares_no_platform(parse: Parse) -> None:
    asked: list[Document] = []

    def resolve(account: Document) -> Platform | None:
        asked.append(account)
        return find_platform("openstack")

    account: dict[str, object] = {"dbId": 7, "name": "mine", "keystoneUrl": "https://cloud.example.com"}
    document = parse(None, account, resolve=resolve)
    assert types_of(document) == OPENSTACK
    assert document["credAccount"] == {"@type": "CredAccountOpenStack", **account}
    assert asked == [{"dbId": 7, "name": "mine"}], "it is asked once, with what all accounts share"


@both
def test_the_resolver_is_not_asked_if_the_document_declares_a_platform(parse: Parse) -> None:
    def resolve(_: Document) -> Platform | None:
        raise AssertionError

    aws = ("PublishImageAws", "CredAccountAws")
    assert types_of(parse("PublishImageAws", {"dbId": 7}, resolve=resolve)) == aws
    assert types_of(parse(None, {"dbId": 7, "@type": "CredAccountAws"}, resolve=resolve)) == aws
    assert types_of(parse(None, {"dbId": 7, "platform": {"type": "aws"}}, resolve=resolve)) == aws
    assert parse(None, None, resolve=resolve) == {}, "there is no account to ask for"


@both
def test_a_document_of_no_platform_has_the_shared_elements(parse: Parse) -> None:
    document = parse(None, {"dbId": 7, "keystoneUrl": "https://cloud.example.com"}, resolve=lambda _: None)
    assert document == {"credAccount": {"dbId": 7}}


@both
@pytest.mark.parametrize("platform", known_platforms(), ids=lambda platform: platform.name)
def test_every_platform_has_its_types(parse: Parse, platform: Platform) -> None:
    expected = (platform.publish_image_type, platform.cred_account_type)
    assert types_of(parse(None, {"platform": {"type": platform.name}})) == expected
    assert set(expected) <= set(TYPES)


@pytest.mark.parametrize(
    "declaration",
    [
        f'xmlns="{NAMESPACE}" xsi:type="PublishImageAws"',
        f'xmlns="{NAMESPACE}" xmlns:other="{NAMESPACE}" xsi:type=" other:PublishImageAws "',
    ],
)
def test_any_prefix_bound_to_the_namespace_is_accepted(declaration: str) -> None:
    body = f'<publishImage xmlns:xsi="{XSI}" {declaration}><region>eu</region></publishImage>'
    assert parse_xml(body.encode())[1] == {"@type": "PublishImageAws", "region": "eu"}


@pytest.mark.parametrize("declared", ["PublishImageAws", "other:PublishImageAws", "nope:PublishImageAws"])
def test_a_type_of_another_namespace_is_refused(declared: str) -> None:
    namespaces = f'xmlns:n="{NAMESPACE}" xmlns:other="urn:other" xmlns:xsi="{XSI}"'
    with pytest.raises(InvalidRequest, match="is not bound to the namespace") as caught:
        parse_xml(f'<n:publishImage {namespaces} xsi:type="{declared}"/>'.encode())
    assert caught.value.field == "xsi:type"


def test_account_document_gets_its_type_from_the_platform() -> None:
    body = b'{"targetPlatform": {"type": "openstack"}, "login": "l", "keystoneVersion": "v3"}'
    document = parse_json("credAccount", body)
    assert document["@type"] == "CredAccountOpenStack"
    assert document["keystoneVersion"] == "v3"


def test_element_of_another_platform_is_ignored() -> None:
    body = b'{"@type": "PublishImageAws", "region": "eu", "tenantName": 7}'
    assert parse_json("publishImage", body) == {"@type": "PublishImageAws", "region": "eu"}


def test_secret_fields_are_the_expected_ones() -> None:
    assert sorted({name for platform in known_platforms() for name in platform.secret_names}) == [
        "applicationCredentialSecret",
        "applicationKey",
        "certificates",
        "password",
        "proxyPassword",
        "secretAccessKeyId",
        "secretApiKey",
        "token",
    ]
