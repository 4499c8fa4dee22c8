"""The forms of a publish request, and the formats of requests and answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.service import (
    ACCOUNT,
    DATA,
    JSON,
    SECRET,
    TARGET,
    UFORGE,
    XML,
    XSI,
    XSI_TYPE,
    Answer,
    Service,
    document,
    image_uri,
    json_body,
    xml_body,
)

FLAT = "users/root/appliances/4/pimages"
NESTED = "users/root/appliances/4/images/7/pimages"
MANUAL = (DATA / "publish-openstack-v2.xml").read_text()
V3 = (DATA / "publish-openstack-v3.xml").read_text()
DECLARED = f' xmlns:xsi="{XSI}"'


def published(service: Service, answer: Answer) -> Any:
    """Check that the answer is a 201, and return the publication from its Location."""
    assert answer.status == 201, answer.body
    location = answer.headers["location"]
    assert location.startswith("http://testserver/api/users/root/appliances/4/images/7/pimages/")
    back = service.get(location.removeprefix("http://testserver"), accept=JSON)
    assert back.status == 200
    return back.json


# The three forms of a request -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [FLAT, NESTED])
class TestForms:
    @pytest.mark.parametrize("prefix", ["ns0", "ns1", "u", "x-y.z", "é"])
    def test_type_may_have_any_namespace_prefix(self, service: Service, path: str, prefix: str) -> None:
        body = V3.replace("ns0", prefix)
        ticket = published(service, service.post(path, body))
        assert ticket["@type"] == "PublishImageOpenStack"
        assert ticket["credAccount"]["@type"] == "CredAccountOpenStack"

    def test_xsi_namespace_may_have_any_prefix(self, service: Service, path: str) -> None:
        published(service, service.post(path, V3.replace("xsi", "i")))

    @pytest.mark.parametrize("element", ["name", "type"])
    @pytest.mark.parametrize("platform", ["openstack", "OpenStack", "OPENSTACK", " openstack\n"])
    def test_target_platform_replaces_the_type(self, service: Service, path: str, element: str, platform: str) -> None:
        changes: dict[str, Any] = {"account__targetPlatform": {element: platform}}
        for body, kind in ((xml_body(**changes), XML), (json_body(**changes), JSON)):
            ticket = published(service, service.post(path, body, content_type=kind))
            assert ticket["@type"] == "PublishImageOpenStack"
            assert ticket["keystoneProject"] == "demo"
            assert ticket["credAccount"]["keystoneUrl"] == ACCOUNT["keystoneUrl"]

    def test_manuals_example_is_accepted(self, service: Service, path: str) -> None:
        ticket = published(service, service.post(path, MANUAL))
        assert ticket["displayName"] == ticket["name"] == "Machine Image Name Example"
        assert ticket["tenantName"] == "mytenantname"
        assert ticket["publicImage"] is False
        assert ticket["credAccount"]["keystoneVersion"] == "v2.0"

    def test_type_in_json_replaces_the_target_platform(self, service: Service, path: str) -> None:
        request = document() | {"@type": "PublishImageOpenStack"}
        request["credAccount"] = {name: value for name, value in ACCOUNT.items() if name != "targetPlatform"}
        ticket = published(service, service.post(path, json.dumps(request), content_type=JSON))
        assert ticket["credAccount"]["targetPlatform"] == {"dbId": 101, "name": "openstack", "type": "openstack"}

    def test_type_of_the_account_alone_is_enough(self, service: Service, path: str) -> None:
        body = xml_body(attributes=DECLARED).replace("<credAccount>", '<credAccount xsi:type="n:CredAccountOpenStack">')
        published(
            service, service.post(path, body.replace("<targetPlatform><name>openstack</name></targetPlatform>", ""))
        )

    def test_types_on_simple_elements_are_ignored(self, service: Service, path: str) -> None:
        """The client library sends such types. One of them does not exist."""
        body = xml_body(attributes=DECLARED + ' xmlns:ns2="http://www.w3.org/2001/XMLSchema" xmlns:ns1="urn:x"')
        for name, kind in (("login", "ns2:string"), ("displayName", "ns1:string"), ("publicImage", "ns2:boolean")):
            body = body.replace(f"<{name}>", f'<{name} xsi:type="{kind}">')
        published(service, service.post(path, body))

    def test_order_is_free_and_unknown_elements_are_ignored(self, service: Service, path: str) -> None:
        made = dict(reversed(document().items())) | {"neverHeardOf": {"at": "all"}}
        ticket = published(service, service.post(path, json.dumps(made), content_type=JSON))
        assert ticket["displayName"] == TARGET["displayName"]

    def test_echoed_answer_is_accepted_as_a_request(self, service: Service, path: str) -> None:
        """A client may send an answer back with the secret added."""
        echoed = published(service, service.post(path, json_body(), content_type=JSON))
        echoed["credAccount"]["password"] = SECRET
        echoed.pop("parentUri")
        again = published(service, service.post(path, json.dumps(echoed), content_type=JSON))
        assert again["dbId"] != echoed["dbId"]
        assert again["status"]["message"] == "Queued"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (V3.replace('xsi:type="ns0:PublishImageOpenStack"', 'xsi:type="PublishImageOpenStack"'), "xsi:type"),
        (V3.replace('"ns0:PublishImageOpenStack"', '"ns9:PublishImageOpenStack"'), "xsi:type"),
        (V3.replace("PublishImageOpenStack", "PublishImageNimbus"), "xsi:type"),
        (V3.replace("PublishImageOpenStack", "CredAccountOpenStack"), "xsi:type"),
        (V3.replace("CredAccountOpenStack", "CredAccountAws"), "credAccount"),
        (V3.replace("<name>openstack</name>", "<type>aws</type>"), "credAccount.targetPlatform.type"),
        (V3.replace(UFORGE, "urn:other"), "publishImage"),
        (V3.replace("ns0:publishImage", "ns0:status"), "status"),
        (MANUAL.replace("<displayName>", "<abc:displayName>").replace("</displayName>", "</abc:displayName>"), "abc"),
        (MANUAL.replace("</ns0:publishImage>", ""), "well-formed"),
        (MANUAL + "<more/>", "well-formed"),
        ("", "well-formed"),
        ("{}", "well-formed"),
    ],
)
def test_document_in_no_known_form_is_refused(service: Service, body: str, named: str) -> None:
    before = service.store.publications.counts()
    for path in (FLAT, NESTED):
        answer = service.post(path, body)
        assert answer.status == 400
        assert named in answer.problem()
    assert service.store.publications.counts() == before


# Formats ----------------------------------------------------------------------------------------------------------

ACCEPTED = [
    (None, XML),
    ("", XML),
    ("*/*", XML),
    ("application/*", XML),
    ("text/*", XML),
    ("application/xml", XML),
    ("Application/XML", XML),
    ("text/xml", XML),
    ("application/xml;q=0.1", XML),
    ("application/json", JSON),
    ("application/json; charset=utf-8", JSON),
    ("text/html, application/json;q=0.9, */*;q=0.1", JSON),
    ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", XML),
    ("application/json;q=0, */*", XML),
]
REFUSED = [
    "text/html",
    "image/png",
    "application/json;q=0",
    "application/xhtml+xml",
    "json",
    ";",
    "*/*;q=0",
    "text/plain",
]


@pytest.mark.parametrize(("accept", "answered"), ACCEPTED)
def test_answer_has_the_accepted_format(service: Service, accept: str | None, answered: str) -> None:
    ticket = published(service, service.post(FLAT, V3))
    for answer in (
        service.post(FLAT, V3, accept=accept),
        service.get(FLAT, accept=accept),
        service.get(f"{FLAT}/statuses", accept=accept),
        service.get(ticket["uri"], accept=accept),
        service.get(ticket["statusUri"], accept=accept),
        service.get("status", accept=accept),
        service.get("nowhere", accept=accept),
        service.get(FLAT, login=None, accept=accept),
        service.post(FLAT, "<", accept=accept),
        service.call("PATCH", FLAT, accept=accept),
    ):
        # Compared exactly, because no charset may follow.
        assert answer.headers["content-type"] == answered
        assert answer.body.lstrip().startswith(b"<" if answered == XML else b"{")


@pytest.mark.parametrize("accept", REFUSED)
def test_unacceptable_format_gets_406(service: Service, accept: str) -> None:
    ticket = published(service, service.post(FLAT, V3))
    before = service.store.publications.counts()
    paths = [FLAT, f"{FLAT}/statuses", ticket["uri"], ticket["statusUri"]]
    for path in paths if accept == "text/plain" else [*paths, "status"]:
        answer = service.get(path, accept=accept)
        assert answer.status == 406
        assert answer.headers["content-type"] == XML
        assert "application/json" in answer.problem()
    assert service.post(FLAT, V3, accept=accept).status == 406
    assert service.store.publications.counts() == before


@pytest.mark.parametrize("accept", ["text/plain", "text/plain; charset=utf-8", "text/plain, */*;q=0.5"])
def test_status_is_available_in_plain_text(service: Service, accept: str) -> None:
    answer = service.get("status", accept=accept, login=None)
    assert (answer.status, answer.body) == (200, b"alive\n")
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("application/xml", XML),
        ("Application/XML", XML),
        ("application/xml; charset=utf-8", XML),
        ("application/xml;charset=UTF-8", XML),
        ("text/xml", XML),
        ("text/xml; charset=us-ascii", XML),
        ("application/json", JSON),
        ("application/json; charset=utf-8", JSON),
        (" application/json ", JSON),
    ],
)
def test_supported_content_type_is_accepted(service: Service, content_type: str, kind: str) -> None:
    body = xml_body() if kind == XML else json_body()
    # The answer's format does not depend on the request's.
    answer = service.post(FLAT, body, content_type=content_type)
    assert answer.status == 201
    assert answer.headers["content-type"] == XML


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "application/xhtml+xml",
        "application/json+xml",
        "xml",
        "*/*",
        "application/xml, application/json",
    ],
)
def test_unsupported_content_type_gets_415(service: Service, content_type: str | None) -> None:
    for path in (FLAT, NESTED):
        answer = service.post(path, xml_body(), content_type=content_type)
        assert answer.status == 415
        assert "application/xml" in answer.problem()


def test_body_must_match_its_content_type(service: Service) -> None:
    assert service.post(FLAT, json_body(), content_type=XML).status == 400
    assert service.post(FLAT, xml_body(), content_type=JSON).status == 400


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
def test_xml_is_read_in_its_declared_encoding(service: Service, encoding: str) -> None:
    declared = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>'
    body = declared + xml_body(displayName="Årgång — no".replace("—", "-"))
    ticket = published(service, service.post(FLAT, body.encode(encoding)))
    assert ticket["displayName"] == "Årgång - no"


# Answers of the router --------------------------------------------------------------------------------------------

TICKET = "users/root/appliances/4/images/7/pimages/1"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("status", {"GET"}),
        (FLAT, {"GET", "POST", "DELETE"}),
        (f"{FLAT}/statuses", {"GET"}),
        (NESTED, {"GET", "POST"}),
        (TICKET, {"GET", "DELETE"}),
        (f"{TICKET}/status", {"GET"}),
    ],
)
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "PATCH", "POST", "GET", "TRACE", "BREW"])
def test_disallowed_method_gets_405_with_the_allowed_ones(
    service: Service, method: str, path: str, allowed: set[str]
) -> None:
    allowed = allowed | {"HEAD"} if "GET" in allowed else allowed
    if method in allowed:
        assert service.call(method, path).status != 405
        return
    for accept in (XML, JSON):
        answer = service.call(method, path, accept=accept)
        assert answer.status == 405
        # All methods of this path, whichever route the framework finds first.
        assert set(answer.headers["allow"].split(", ")) == allowed
        assert answer.headers["content-type"] == accept
        if method != "HEAD":
            assert method in answer.problem()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/",
        "/nowhere",
        "/API/status",
        "/api/status/",
        "/api/nowhere",
        "/api/users",
        "/api/users/root/appliances/4/pimages/",
        "/api/users/root/appliances/4/pimages/statuses/",
        "/api/users/root/appliances//pimages",
        "/api/users//appliances/4/pimages",
        "/api/users/root/appliances/4/images/7/pimages/1/status/2",
        "/api/users/ro%2Fot/appliances/4/pimages",
        "/api/../api/nowhere",
        "/api/%00",
        "/api/å",
        "/redoc",
        "/openapi.json",
        "/api///status",
    ],
)
def test_unknown_path_gets_404(service: Service, path: str) -> None:
    for accept in (XML, JSON):
        answer = service.get(path, accept=accept, login=None)
        assert answer.status == 404
        assert answer.headers["content-type"] == accept
        assert answer.problem() == "there is no such resource"


def test_base_url_may_end_with_a_slash(service: Service) -> None:
    assert service.get("/api//status").status == 200
    assert service.get(f"/api//{FLAT}").status == 200
    assert service.post(f"/api//{FLAT}", V3).status == 201
    problem = service.get("/api//nowhere")
    assert problem.status == 404
    assert problem.text("requestUri") == "/api//nowhere"


def test_location_begins_with_the_public_url(service: Service, start: Any) -> None:
    for public in ("https://images.example.com/factory", "https://images.example.com/factory/"):
        answer = start(public_url=public).post(FLAT, V3)
        assert answer.headers["location"].startswith(f"https://images.example.com/factory/api/{image_uri(7)}/pimages/")


def test_type_in_an_answer_has_a_bound_prefix(service: Service) -> None:
    root = service.post(FLAT, V3).xml
    account = root.find("credAccount")
    assert account is not None
    for element in (root, account):
        prefix, _, name = str(element.get(XSI_TYPE)).partition(":")
        assert element.nsmap[prefix] == UFORGE
        assert name in ("PublishImageOpenStack", "CredAccountOpenStack")
