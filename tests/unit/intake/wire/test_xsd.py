"""The XML Schema: it accepts all possible answers and nothing else. Also its route."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from publisher.intake.wire import xsd
from publisher.intake.wire.formats import Format
from publisher.intake.wire.schema import JSON_ONLY_TYPES, REQUEST_ONLY, ROOTS, TYPES, root_field
from publisher.intake.wire.writing import write_document
from publisher.platforms.platform import TYPE_KEY, Document, Field, known_platforms
from tests.service import JSON, UFORGE, XML, XSI, XSI_TYPE, Service
from tests.unit.intake.wire.test_round_trip import documents

XS = "{http://www.w3.org/2001/XMLSchema}"


@pytest.fixture(scope="module")
def schema() -> etree.XMLSchema:
    """The schema with the platforms of additional packages."""
    return etree.XMLSchema(etree.fromstring(xsd.document(extended=True)))


@pytest.mark.long
@pytest.mark.parametrize("root", sorted(ROOTS))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_rendered_documents_are_valid(schema: etree.XMLSchema, root: str, data: st.DataObject) -> None:
    document = data.draw(documents(root_field(root), data.draw(st.sampled_from(known_platforms()))))
    schema.assertValid(etree.fromstring(write_document(Format.XML, root, document)))
    # A request also has secrets. The schema lacks only the elements that no XML answer has.
    described = _described(root_field(root), document)
    schema.assertValid(etree.fromstring(write_document(Format.XML, root, described, request=True)))


def _described(field: Field, document: Document) -> Document:
    """Return a document without the elements that the schema lacks."""
    fields = TYPES[str(document.get(TYPE_KEY) or field.type)].by_name
    shown = {name: value for name, value in document.items() if name == TYPE_KEY or not _is_hidden(fields[name])}
    return {name: _inner(fields.get(name), value) for name, value in shown.items()}


def _inner(field: Field | None, value: object) -> object:
    if field and isinstance(value, list):
        return [_inner(field.item, each) for each in value]
    return _described(field, value) if field and isinstance(value, dict) else value


def _is_hidden(field: Field) -> bool:
    return field.name in REQUEST_ONLY or field.json_only


def test_schema_has_every_type_with_its_elements_in_order() -> None:
    document = etree.fromstring(xsd.document(extended=True))
    types = {each.get("name"): each for each in document.iterfind(f"{XS}complexType")}
    described = {name: each for name, each in TYPES.items() if name not in JSON_ONLY_TYPES}
    assert set(types) == set(described)
    for name, object_type in described.items():
        sequence = types[name].find(f".//{XS}sequence")
        assert sequence is not None
        inherited = TYPES[object_type.abstract].fields if object_type.platform else ()
        own = [each.name for each in object_type.fields if each not in inherited and not _is_hidden(each)]
        assert [each.get("name") for each in sequence] == own
        extension = types[name].find(f"{XS}complexContent/{XS}extension")
        assert (extension is not None) == bool(object_type.platform)
        assert types[name].get("abstract") == ("true" if name in ("publishImage", "credAccount") else None)
        if extension is not None:
            assert extension.get("base") == f"tns:{object_type.abstract}"


def test_schema_is_built_once() -> None:
    assert xsd.document() is xsd.document()


def test_plain_schema_omits_platforms_unknown_to_the_api(service: Service) -> None:
    served = service.get("schema/uforge.xsd", login=None)
    assert served.body == xsd.document()
    assert b"emory" not in served.body.replace(b"vmMemorySize", b"")
    extended = service.get("schema/uforge.xsd?extensions=true", login=None)
    assert extended.body == xsd.document(extended=True)
    assert b'"CredAccountMemory"' in extended.body
    assert b'<xs:enumeration value="memory"/>' in extended.body


# Valid and invalid documents --------------------------------------------------------------------------------------

ROOT = f'xmlns:n="{UFORGE}" xmlns:xsi="{XSI}"'
STATUS = f"<n:status {ROOT}><created>2026-01-02T03:04:05Z</created><dbId>7</dbId><complete>true</complete></n:status>"
IMAGES = f"<n:publishImages {ROOT}><total>0</total><publishImages/></n:publishImages>"
TICKET = f"""<n:publishImage {ROOT} xsi:type="n:PublishImageOpenStack"><dbId>7</dbId>
  <credAccount xsi:type="n:CredAccountOpenStack"><targetPlatform><name>OpenStack</name><type>openstack</type>
  </targetPlatform><keystoneUrl>k</keystoneUrl></credAccount><imageUri>i</imageUri>
  <displayName>d</displayName></n:publishImage>"""
STATUS_OF = f"<n:status {ROOT}>{{}}</n:status>"


@pytest.mark.parametrize("right", [STATUS, IMAGES, TICKET])
def test_valid_document_is_accepted(schema: etree.XMLSchema, right: str) -> None:
    schema.assertValid(etree.fromstring(right))


def _without(document: str, pattern: str, instead: str = "") -> str:
    changed = re.sub(pattern, instead, document, count=1)
    assert changed != document
    return changed


WRONG = {
    "another order": STATUS_OF.format("<dbId>7</dbId><created>2026-01-02T03:04:05Z</created>"),
    "an unknown element": STATUS_OF.format("<dbId>7</dbId><colour>red</colour>"),
    "an element twice": STATUS_OF.format("<dbId>7</dbId><dbId>7</dbId>"),
    "an attribute": STATUS_OF.format('<dbId id="x">7</dbId>'),
    "an empty dateTime": STATUS_OF.format("<created/>"),
    "a dateTime without T": STATUS_OF.format("<created>2026-01-02 03:04:05Z</created>"),
    "an empty number": STATUS_OF.format("<dbId/>"),
    "a percentage too great": STATUS_OF.format("<percentage>101</percentage>"),
    "a Python boolean": STATUS_OF.format("<complete>True</complete>"),
    "a default namespace": f'<status xmlns="{UFORGE}"><dbId>7</dbId></status>',
    "no namespace": "<status><dbId>7</dbId></status>",
    "a qualified child": STATUS_OF.format("<n:dbId>7</n:dbId>"),
    "an unknown root": f"<n:certificate {ROOT}/>",
    "no total": _without(IMAGES, "<total>0</total>"),
    "total last": _without(IMAGES, "(<total>0</total>)(<publishImages/>)", r"\2\1"),
    "no inner wrapper": _without(IMAGES, "<publishImages/>"),
    "a negative total": _without(IMAGES, ">0<", ">-1<"),
    "an item without a type": _without(IMAGES, "<publishImages/>", "<publishImages><publishImage/></publishImages>"),
    "a root without a type": _without(TICKET, ' xsi:type="n:PublishImageOpenStack"'),
    "an account without a type": _without(TICKET, ' xsi:type="n:CredAccountOpenStack"'),
    "the abstract type": _without(TICKET, "n:CredAccountOpenStack", "n:credAccount"),
    "a type of something else": _without(TICKET, "n:CredAccountOpenStack", "n:PublishImageOpenStack"),
    "an unbound type": _without(TICKET, "n:CredAccountOpenStack", "CredAccountOpenStack"),
    "another platform's element": _without(TICKET, "<displayName>d</displayName>", "<region>r</region>"),
    "own elements before the base's": _without(TICKET, "(<imageUri>.*</imageUri>)", r"<displayName>d</displayName>\1"),
    "a platform in capitals": _without(TICKET, "<type>openstack</type>", "<type>OpenStack</type>"),
    "what only requests have": _without(
        TICKET, "</displayName>", "</displayName><applianceUri>users/root/appliances/4</applianceUri>"
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_invalid_document_is_refused(schema: etree.XMLSchema, wrong: str) -> None:
    assert not schema.validate(etree.fromstring(wrong))


def test_types_of_every_platform_are_valid(schema: etree.XMLSchema) -> None:
    for platform in known_platforms():
        account: Document = {"@type": platform.cred_account_type, "targetPlatform": {"type": platform.name}}
        rendered = etree.fromstring(
            write_document(Format.XML, "publishImage", {"@type": platform.publish_image_type, "credAccount": account})
        )
        assert rendered.get(XSI_TYPE) == f"ns0:{platform.publish_image_type}"
        schema.assertValid(rendered)


# Route ------------------------------------------------------------------------------------------------------------

PATH = "schema/uforge.xsd"


class TestServed:
    @pytest.mark.parametrize("accept", [None, XML, "*/*", JSON, "text/html"])
    def test_schema_is_public_and_always_xml(self, service: Service, accept: str | None) -> None:
        answer = service.get(PATH, login=None, accept=accept)
        assert (answer.status, answer.headers["content-type"]) == (200, XML)
        assert answer.body == xsd.document()

    def test_known_schema_gets_304(self, service: Service) -> None:
        first = service.get(PATH, login=None)
        for condition in (
            {"If-None-Match": first.headers["etag"]},
            {"If-None-Match": f'"other", W/{first.headers["etag"]}'},
            {"If-Modified-Since": "Fri, 31 Dec 9999 23:59:59 GMT"},
        ):
            again = service.get(PATH, login=None, headers=condition)
            assert (again.status, again.body) == (304, b"")
            assert again.headers["etag"] == first.headers["etag"]
        changed = service.get(PATH, login=None, headers={"If-None-Match": '"other"'})
        assert (changed.status, changed.body) == (200, first.body)

    def test_no_other_schema_is_served(self, service: Service) -> None:
        assert service.get("schema/other.xsd", login=None).status == 404
        assert service.get("schema", login=None).status == 404
        assert service.post(PATH, "", login=None).status == 405
