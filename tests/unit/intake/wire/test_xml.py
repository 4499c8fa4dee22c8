"""XML: values that are read, values that are refused and their messages, and documents that are written."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from lxml import etree

from publisher.core.errors import BodyTooLarge, InvalidRequest
from publisher.intake.wire.formats import Format
from publisher.intake.wire.reading import parse_xml
from publisher.intake.wire.schema import NAMESPACE, TYPES
from publisher.intake.wire.schema import XSI as XSI_NAMESPACE
from publisher.intake.wire.writing import write_document
from publisher.platforms.platform import Document, known_platforms

DATA = Path(__file__).parents[3] / "data"
XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'


def image(inner: str = "", *, attributes: str = "", prolog: str = "") -> bytes:
    """Return a `publishImage` document that declares only its own namespace."""
    return f'{prolog}<n:publishImage xmlns:n="{NAMESPACE}" {attributes}>{inner}</n:publishImage>'.encode()


def openstack(inner: str = "") -> bytes:
    return image(inner, attributes=f'{XSI} xsi:type="n:PublishImageOpenStack"')


def account(inner: str) -> bytes:
    typed = f'{XSI} xsi:type="n:CredAccountVSphere"'
    return image(f"<credAccount {typed}>{inner}</credAccount>")


def refused(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_xml(body)
    return caught.value


# The manual's examples ----------------------------------------------------------------------------------------------


def test_manuals_malformed_example_is_read() -> None:
    root, document = parse_xml((DATA / "publish-openstack-v2.xml").read_bytes())
    assert root == "publishImage"
    assert document == {
        "@type": "PublishImageOpenStack",
        "applianceUri": "users/root/appliances/4",
        "credAccount": {
            "@type": "CredAccountOpenStack",
            "targetPlatform": {"name": "openstack"},
            "glanceUrl": "http://ip:9292",
            "keystoneUrl": "http://ip:5000",
            "login": "username",
            "password": "password",
            "keystoneVersion": "v2.0",
        },
        "imageUri": "users/root/appliances/4/images/7",
        "instances": [],
        "displayName": "Machine Image Name Example",
        "publicImage": False,
        "tenantName": "mytenantname",
    }


def test_keystone_v3_example_is_read() -> None:
    root, document = parse_xml((DATA / "publish-openstack-v3.xml").read_bytes())
    assert root == "publishImage"
    assert document["@type"] == "PublishImageOpenStack"
    assert document["keystoneDomain"] == "Default"
    assert document["keystoneProject"] == "demo"


# The undeclared xsi prefix ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "display_name"),
    [
        pytest.param(image("<xsi:type></xsi:type><name>a</name>"), "a", id="element"),
        pytest.param(image("<xsi:type/><xsi:type/><name>a</name>"), "a", id="element, twice"),
        pytest.param(image("<xsi:type>n:PublishImageAws</xsi:type><name>a</name>"), "a", id="with text"),
        pytest.param(image("<name>a</name>", attributes='xsi:type=""'), "a", id="attribute"),
        pytest.param(image('<name xsi:type="ns1:string">a</name>'), "a", id="attribute of a leaf"),
        pytest.param(image("<name>a</name>" + "<xsi:a/>" * 150), "a", id="more than a parser reports"),
        pytest.param(image("<xsi:type/><name>a&lt;xsi:b/></name>"), "a<xsi:b/>", id="escaped text"),
        pytest.param(image("<xsi:type/><name><![CDATA[<xsi:b/>]]></name>"), "<xsi:b/>", id="CDATA"),
        pytest.param(image("<name><![CDATA[<xsi:b/>]]></name>"), "<xsi:b/>", id="CDATA only"),
        pytest.param(image("<name>a<!-- <xsi:b> --></name>"), "a", id="comment only"),
        pytest.param(
            image("<xsi:type/><name>é</name>", prolog="<!-- <n:publishImage --><?a <b ?>\n"), "é", id="prolog"
        ),
        pytest.param(image("<xsi:type/><name>é</name>").decode().encode("utf-16"), "é", id="UTF-16"),
        pytest.param(
            image("<xsi:type/><name>é</name>", prolog='<?xml version="1.0" encoding="ISO-8859-1"?>')
            .decode()
            .encode("iso-8859-1"),
            "é",
            id="ISO-8859-1",
        ),
        pytest.param(b"\xef\xbb\xbf" + image("<xsi:type/><name>a</name>"), "a", id="byte order mark"),
        pytest.param(
            b"\xef\xbb\xbf" + image("<xsi:type/><name>a</name>", prolog='<?xml version="1.0"?>\n<!-- <xsi:a> -->\n'),
            "a",
            id="byte order mark and declaration",
        ),
        pytest.param(image("<xsi:type/><name>a</name>") + b"\n<!-- c --><?p?>\n", "a", id="epilogue"),
        pytest.param(image(f"<xsi:type/><name {XSI}>a</name>"), "a", id="declared elsewhere"),
    ],
)
def test_undeclared_xsi_prefix_is_accepted(body: bytes, display_name: str) -> None:
    assert parse_xml(body)[1]["name"] == display_name


def test_type_with_an_undeclared_prefix_is_used() -> None:
    _, document = parse_xml(image("<region>eu</region>", attributes='xsi:type="n:PublishImageAws"'))
    assert document == {"@type": "PublishImageAws", "region": "eu"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(image("<foo:a/>"), "Namespace prefix foo", id="another prefix"),
        pytest.param(image('<name foo:a=""/>'), "Namespace prefix foo", id="another prefix, attribute"),
        pytest.param(image("<xsi:a/><foo:a/>"), "Namespace prefix foo", id="beside it"),
        pytest.param(image("<xsi:a/>" * 150 + "<foo:a/>"), "Namespace prefix foo", id="after what is reported"),
        pytest.param(image("<xsi2:a/>"), "Namespace prefix xsi2", id="a longer prefix"),
        pytest.param(image("<XSI:a/>"), "Namespace prefix XSI", id="in upper case"),
        pytest.param(image('<xsi:a xsi:b="" xsi:b=""/>'), "redefined", id="an attribute twice"),
        pytest.param(image("<xsi:a>"), "mismatch", id="not closed"),
        pytest.param(image("<xsi:a/>") + b"<b/>", "Extra content", id="two roots"),
        pytest.param(image("<xsi:a/>") + b"b", "Extra content", id="text after the root"),
        pytest.param(image("<xsi:a/>") + b"<!DOCTYPE a>", "Extra content", id="DOCTYPE after the root"),
        pytest.param(image("<xsi:a/>") + b"\xff", "encoding", id="bytes after the root"),
        pytest.param(image("<xsi:a/>&nope;"), "Entity 'nope' not defined", id="unknown entity"),
        pytest.param(image("<xsi:a/>" * 150 + "&nope;"), "Entity 'nope' not defined", id="unknown, late"),
    ],
)
def test_other_malformed_xml_is_refused(body: bytes, reason: str) -> None:
    error = refused(body)
    assert error.field is None
    assert str(error).startswith("the request body is not well-formed XML: ")
    assert reason in str(error)


def test_error_in_one_document_does_not_affect_the_next() -> None:
    refused(image("<foo:a/>"))
    assert parse_xml(image("<xsi:type/>")) == ("publishImage", {})


# Hostile and malformed bodies ---------------------------------------------------------------------------------------

_LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b"", "empty", id="nothing"),
        pytest.param(b" \n", "empty|not found", id="white space"),
        pytest.param(b"\x00\x01", "not well-formed", id="bytes"),
        pytest.param(b'{"a": 1}', "not well-formed", id="JSON"),
        pytest.param(image("<name>\x01</name>"), "invalid Char", id="control character"),
        pytest.param(image("<name>&#1;</name>"), "invalid xmlChar", id="escaped control character"),
        pytest.param(image("<name>\xff</name>").decode().encode("latin-1"), "not well-formed", id="not UTF-8"),
        pytest.param(image(prolog='<?xml version="1.0" encoding="nope"?>'), "encoding", id="encoding"),
        pytest.param(image(prolog="<!DOCTYPE a>"), "DOCTYPE", id="DOCTYPE"),
        pytest.param(image("<xsi:a/>", prolog="<!DOCTYPE a>"), "DOCTYPE", id="DOCTYPE and the flaw"),
        pytest.param(image(prolog='<!DOCTYPE a SYSTEM "http://127.0.0.1:1/x">'), "DOCTYPE", id="external DTD"),
        pytest.param(
            image("<name>&l9;</name>", prolog=f'<!DOCTYPE a [<!ENTITY l0 "lol">{_LAUGHS}]>'),
            "DOCTYPE|amplification",
            id="billion laughs",
        ),
        pytest.param(
            image(attributes='a="&l9;"', prolog=f'<!DOCTYPE a [<!ENTITY l0 "lol">{_LAUGHS}]>'),
            "amplification",
            id="billion laughs in an attribute",
        ),
        pytest.param(
            image("<name>&x;</name>", prolog='<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
            "DOCTYPE",
            id="external entity",
        ),
        pytest.param(
            image(prolog='<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1:1/x"> %x;]>'),
            "DOCTYPE",
            id="external parameter entity",
        ),
        pytest.param(image("<a>" * 32 + "</a>" * 32), "deeper than 32", id="deep"),
        pytest.param(image("<a>" * 3000 + "</a>" * 3000), "Excessive depth", id="very deep"),
        pytest.param(image("<a/>" * 10_000), "more than 10000 elements", id="many"),
    ],
)
def test_hostile_bodies_are_refused(body: bytes, says: str) -> None:
    error = refused(body)
    assert re.search(says, str(error)), str(error)
    assert "root:" not in str(error)


def test_document_at_the_limits_is_accepted() -> None:
    assert parse_xml(image("<a>" * 31 + "</a>" * 31)) == ("publishImage", {})
    assert parse_xml(image("<a/>" * 9_999)) == ("publishImage", {})


def test_body_may_be_as_large_as_the_limit_but_no_larger() -> None:
    body = image()
    assert parse_xml(body, limit=len(body)) == ("publishImage", {})
    with pytest.raises(BodyTooLarge, match=f"{len(body)} bytes; at most {len(body) - 1}"):
        parse_xml(body, limit=len(body) - 1)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param(b"<publishImage/>", "publishImage", id="unqualified root"),
        pytest.param(b'<publishImage xmlns="urn:other"/>', "publishImage", id="another namespace"),
        pytest.param(f'<nope xmlns="{NAMESPACE}"/>'.encode(), "nope", id="another root"),
        pytest.param(f'<certificate xmlns="{NAMESPACE}"/>'.encode(), "certificate", id="no root"),
    ],
)
def test_the_root_must_be_one_of_the_api(body: bytes, field: str) -> None:
    assert refused(body).field == field


# Values -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "field", "says"),
    [
        ("<credAccount><dbId>x</dbId></credAccount>", "credAccount.dbId", "'x' is not an integer"),
        ("<dbId>9223372036854775808</dbId>", "dbId", "not a number from -9223372036854775808"),
        (f"<dbId>{'9' * 5000}</dbId>", "dbId", "is not an integer"),
        ("<dbId>٣</dbId>", "dbId", "is not an integer"),
        ("<dbId>1.0</dbId>", "dbId", "is not an integer"),
        ("<revision>2147483648</revision>", "revision", "to 2147483647"),
        ("<status><percentage>101</percentage></status>", "status.percentage", "from 0 to 100"),
        ("<publicImage>yes</publicImage>", "publicImage", "'yes' is not true or false"),
        ("<publicImage>TRUE</publicImage>", "publicImage", "is not true or false"),
        ("<created>yesterday</created>", "created", "'yesterday' is not a dateTime"),
        ("<created>2026-01-02</created>", "created", "is not a dateTime"),
        ("<created>2026-01-02T03:04:05</created>", "created", "with an offset"),
        ("<created>2026-02-30T03:04:05Z</created>", "created", "is not a dateTime"),
        ("<name>a</name><name>b</name>", "name", "more than once"),
        ("<name/><name>b</name>", "name", "more than once"),
        ("<name>a</name><n:name>b</n:name>", "name", "more than once"),
        ("<instances/><instances/>", "instances", "more than once"),
        ("<credAccount/><credAccount/>", "credAccount", "more than once"),
        ("<name>a<b/></name>", "name", "text is expected"),
        ("<credAccount>a</credAccount>", "credAccount", "elements are expected"),
        ("<credAccount><name>a</name>b</credAccount>", "credAccount", "elements are expected"),
        (f"<name>{'a' * 4097}</name>", "name", "4097 characters are too many; at most 4096"),
        ("<name>a\x7f</name>", "name", "U+007F at position 1"),
        ("<name>\x9b</name>", "name", "U+009B"),
        (
            "<instances><instance/><instance><dbId>x</dbId></instance></instances>",
            "instances[1].dbId",
            "is not an integer",
        ),
    ],
)
def test_invalid_value_is_named_in_the_error(inner: str, field: str, says: str) -> None:
    error = refused(openstack(inner))
    assert error.field == field
    assert str(error).startswith(f"{field}: ")
    assert says in str(error)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "abc"])
def test_invalid_port_is_refused(port: str) -> None:
    assert refused(account(f"<port>{port}</port>")).field == "credAccount.port"


def test_a_secret_is_not_shown_in_the_error_about_it() -> None:
    error = refused(account("<password>hunter2\x7f</password>"))
    assert error.field == "credAccount.password"
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("<name> a </name>", {"name": " a "}),
        ("<name>a<!-- b -->c</name>", {"name": "ac"}),
        ("<name><![CDATA[<b>]]>c</name>", {"name": "<b>c"}),
        ("<name>a\tb\r\nc&#13;</name>", {"name": "a\tb\nc\r"}),
        ("<uri> users/root </uri>", {"uri": "users/root"}),
        ("<publicImage> 1 </publicImage>", {"publicImage": True}),
        ("<publicImage>0</publicImage>", {"publicImage": False}),
        ("<dbId>\n -7 </dbId>", {"dbId": -7}),
        ("<dbId>+007</dbId>", {"dbId": 7}),
        ('<dbId xsi:type="n:nope">7</dbId>', {"dbId": 7}),
        ('<eta xsi:nil="true"/><created/><dbId/><publicImage/><name/><uri/>', {}),
        ("<name> \n </name>", {}),
        ("<unknown><name>a</name></unknown><unknown/>", {}),
        ('<name xmlns="urn:other">a</name>', {}),
        ("<n:name>a</n:name>", {"name": "a"}),
        ("<instances/>", {"instances": []}),
        ("<instances>\n<instance/><other/></instances>", {"instances": [{}]}),
        ("<status><complete>true</complete></status>", {"status": {"complete": True}}),
        ("<created>2026-01-02T03:04:05Z</created>", {"created": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}),
        (
            "<created>2026-01-02T03:04:05.678901234+0130</created>",
            {"created": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(minutes=90)))},
        ),
    ],
)
def test_valid_values_are_read(inner: str, expected: Document) -> None:
    assert parse_xml(openstack(inner)) == ("publishImage", {"@type": "PublishImageOpenStack", **expected})


def test_the_order_of_elements_does_not_matter() -> None:
    first = openstack("<name>a</name><dbId>1</dbId><displayName>b</displayName>")
    second = openstack("<displayName>b</displayName><dbId>1</dbId><name>a</name>")
    assert parse_xml(first) == parse_xml(second)


def test_content_of_a_certificate_may_have_65536_characters() -> None:
    typed = f'<credAccount {XSI} xsi:type="n:CredAccountGoogle"><certificates><certificate><content>'
    body = image(f"{typed}{'A' * 65536}</content></certificate></certificates></credAccount>")
    read = parse_xml(body)[1]["credAccount"]
    assert isinstance(read, dict)
    assert read["certificates"] == [{"content": "A" * 65536}]
    longer = body.replace(b"AA", b"AAA", 1)
    assert refused(longer).field == "credAccount.certificates[0].content"


# Answers ------------------------------------------------------------------------------------------------------------


def test_list_of_publications_is_written_exactly() -> None:
    document: Document = {
        "total": 1,
        "publishImages": [
            {
                "tenantName": "t",
                "publicImage": False,
                "dbId": 7,
                "created": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
                "lastModified": None,
                "@type": "PublishImageOpenStack",
                "credAccount": {"@type": "CredAccountOpenStack", "password": "hunter2", "login": "l"},
                "applianceUri": "users/root/appliances/4",
                "parentUri": "users/root/appliances/4",
            }
        ],
    }
    assert write_document(Format.XML, "publishImages", document).decode().splitlines()[1] == (
        '<ns0:publishImages xmlns:ns0="http://www.usharesoft.com/uforge" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><total>1</total><publishImages>'
        '<publishImage xsi:type="ns0:PublishImageOpenStack"><created>2026-01-02T03:04:05.678Z</created>'
        "<dbId>7</dbId><parentUri>users/root/appliances/4</parentUri>"
        '<credAccount xsi:type="ns0:CredAccountOpenStack"><login>l</login></credAccount>'
        "<publicImage>false</publicImage><tenantName>t</tenantName></publishImage></publishImages>"
        "</ns0:publishImages>"
    )


@pytest.mark.parametrize(
    ("root", "document", "written"),
    [
        ("statuses", {"total": 0}, "<total>0</total><statuses/>"),
        ("statuses", {"total": 9, "statuses": []}, "<total>9</total><statuses/>"),
        ("role", {"name": "a"}, "<name>a</name><entitlements/>"),
        (
            "uforgeError",
            {
                "statusCode": 400,
                "localizedErrorMsg": {"parameters": ["a", "b"], "message": "m"},
            },
            "<localizedErrorMsg><message>m</message><parameters><parameter>a</parameter><parameter>b</parameter>"
            "</parameters></localizedErrorMsg><statusCode>400</statusCode>",
        ),
        ("status", {"message": "a\x00b\ud800 <é>"}, "<message>a\ufffdb\ufffd &lt;é&gt;</message>"),
        (
            "status",
            {"eta": datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2)))},
            "<eta>2026-01-02T00:00:00.000+02:00</eta>",
        ),
        (
            "status",
            {"eta": datetime(2026, 1, 2, tzinfo=timezone(timedelta(seconds=1)))},
            "<eta>2026-01-01T23:59:59.000Z</eta>",
        ),
    ],
)
def test_answers_are_written_exactly(root: str, document: Document, written: str) -> None:
    declaration = f'<ns0:{root} xmlns:ns0="{NAMESPACE}">'
    assert write_document(Format.XML, root, document).decode().splitlines()[1] == f"{declaration}{written}</ns0:{root}>"


@pytest.mark.parametrize(
    ("root", "document", "says"),
    [
        ("nope", {}, "no root"),
        ("status", {"nope": 1}, "status has no element nope"),
        ("status", {"@type": "OpStatus", "parentURI": "a"}, "parentURI"),
        ("statuses", {"statuses": []}, "needs total"),
        ("statuses", {"total": 1, "statuses": {}}, "holds a list"),
        ("image", {"status": "done"}, "holds an object"),
        ("status", {"percentage": 101}, "percentage"),
        ("status", {"percentage": 1.5}, "percentage"),
        ("status", {"percentage": True}, "percentage"),
        ("status", {"complete": 1}, "complete"),
        ("status", {"complete": "true"}, "complete"),
        ("status", {"message": 1}, "message"),
        ("status", {"eta": datetime(2026, 1, 2)}, "eta"),  # noqa: DTZ001
        ("publishImage", {}, "not a concrete type"),
        ("publishImage", {"@type": "publishImage"}, "not a concrete type"),
        ("publishImage", {"@type": "CredAccountAws"}, "not a concrete type"),
        ("image", {"credAccount": {"name": "a"}}, "not a concrete type"),
        ("publishImage", {"@type": "PublishImageAws", "tenantName": "t"}, "has no element tenantName"),
    ],
)
def test_answer_that_violates_the_schema_raises_value_error(root: str, document: Document, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        write_document(Format.XML, root, document)


def test_secrets_are_written_only_in_requests() -> None:
    for platform in known_platforms():
        secret = [each.name for each in TYPES[platform.cred_account_type].fields if each.secret]
        value: Document = {name: [{"content": "hunter2"}] if name == "certificates" else "hunter2" for name in secret}
        document = {"@type": platform.cred_account_type, **value}
        assert secret
        assert write_document(Format.XML, "credAccount", document, request=True).count(b"hunter2") == len(secret)
        assert b"hunter2" not in write_document(Format.XML, "credAccount", document)


def test_children_are_unqualified_and_have_no_attribute_but_the_type() -> None:
    _, document = parse_xml((DATA / "publish-openstack-v2.xml").read_bytes())
    root = etree.fromstring(write_document(Format.XML, "publishImage", document))
    assert root.nsmap == {"ns0": NAMESPACE, "xsi": XSI_NAMESPACE}
    assert root.tag == f"{{{NAMESPACE}}}publishImage"
    for element in root.iterdescendants():
        assert etree.QName(element).namespace is None
        assert set(element.attrib) <= {f"{{{XSI_NAMESPACE}}}type"}
