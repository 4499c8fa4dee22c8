"""Answers, checked as strictly as existing clients read them. The contract's order of elements is repeated here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from lxml import etree

from publisher.core.ticket import Phase, Ticket
from publisher.store import Store
from tests.records import remove_image
from tests.service import (
    IMAGE_SIZE,
    JSON,
    PASSWORDS,
    SECRET,
    UFORGE,
    XML,
    XSI_TYPE,
    Answer,
    Service,
    json_body,
    ticket_path,
    xml_body,
)
from tests.unit.intake.wire.tree import JSON_ONLY

FLAT = "users/alice/appliances/14/pimages"
NESTED = "users/alice/appliances/14/images/21/pimages"

_OBJECT = "created dbId digest lastModified"
_UPLOAD = f"{_OBJECT} md5sum mimeType sha256sum size status uploaded uploadedTime"
_IMAGE = (
    f"{_UPLOAD} parentUri basePublishImagesUri completeInstalledSize completeSize compress credAccount"
    " distributionName downloadKey downloadUri ebs ebsVolumeSize fileExtension fileName fileSize format targetFormat"
    " fullName imageCreated installProfile name orgUri pkgsUri publicAccess registeredCredAccount revision simulated"
    " statusUri tag updateTools uri version vmDiskSize vmMemorySize forceCheckingDeps entrypoint registeringName"
)
_PUBLISH = f"{_IMAGE} cloudId imageUri instances instancesUri publishLocation"
_ACCOUNT = f"{_OBJECT} name parentUri uri targetPlatform secretsMissing"

ORDER = {
    "status": f"{_OBJECT} bytesLoaded bytesTotal cancelled complete detailedError detailedErrorMsg error errorMessage"
    " eta message parentUri percentage published totalTime uri",
    "PublishImageOpenStack": f"{_PUBLISH} keystoneDomain keystoneProject displayName publicImage tenantName",
    "PublishImageCloudwatt": f"{_PUBLISH} displayName keystoneDomain keystoneProject publicImage tenantName",
    "PublishImageMemory": f"{_PUBLISH} displayName",
    "CredAccountOpenStack": f"{_ACCOUNT} glanceUrl keystoneUrl login keystoneVersion",
    "CredAccountMemory": f"{_ACCOUNT} login",
    "targetPlatform": f"{_OBJECT} name type access active uri",
    "format": f"{_OBJECT} name",
    "targetFormat": f"{_OBJECT} name format type credAccountType access active uri",
    "serviceStatus": f"{_OBJECT} alive version serviceLoad",
    "publishImages": "total publishImages",
    "statuses": "total statuses",
    "uforgeError": "localizedErrorMsg requestMethod requestUri statusCode timestamp",
    "localizedErrorMsg": "message messageId parameters",
}
"""The allowed elements of each type, in order. None of them is a secret."""

BOOLEANS = {
    "cancelled",
    "complete",
    "detailedError",
    "error",
    "published",
    "uploaded",
    "secretsMissing",
    "publicImage",
    "alive",
}
NUMBERS = {"dbId", "bytesLoaded", "bytesTotal", "percentage", "size", "fileSize", "total", "statusCode", "serviceLoad"}
DATE_TIMES = {"created", "lastModified", "uploadedTime", "eta", "timestamp"}
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def check_xml(answer: Answer, root_name: str) -> None:
    """Check every rule of the contract's section "Answers are parsed strictly"."""
    root = answer.xml
    assert root.tag == f"{{{UFORGE}}}{root_name}"
    assert None not in root.nsmap
    assert b"<!DOCTYPE" not in answer.body
    _check_element(root, root_name)


def _check_element(element: etree._Element, name: str) -> None:
    declared = element.get(XSI_TYPE)
    if name in ("publishImage", "credAccount"):
        assert declared is not None
        prefix, _, name = declared.partition(":")
        assert element.nsmap[prefix] == UFORGE
    assert list(element.attrib) == ([XSI_TYPE] if declared else [])
    found = [str(child.tag) for child in element]
    assert len(found) == len(set(found)), f"{name} has an element twice"
    order = ORDER[name].split()
    assert found == [each for each in order if each in found], f"{name}: {found}"
    for child in element:
        _check_child(child)


def _check_child(child: etree._Element) -> None:
    name = str(child.tag)
    if name in ("publishImages", "statuses"):
        for item in child:
            assert item.tag == {"publishImages": "publishImage", "statuses": "status"}[name]
            _check_element(item, str(item.tag))
        return
    if name in ORDER or name == "credAccount":
        _check_element(child, name)
        return
    text = child.text
    assert text, f"{name} is empty"
    assert not child.attrib
    assert not len(child)
    if name in BOOLEANS:
        assert text in ("true", "false")
    if name in NUMBERS:
        assert re.fullmatch(r"-?\d+", text)
    if name in DATE_TIMES:
        assert DATE_TIME.fullmatch(text)
    if name == "percentage":
        assert 0 <= int(text) <= 100


def check_json(answer: Answer, mirrored: Answer) -> None:
    """Check that JSON has the same content as XML, in the same order, with JSON numbers and booleans.

    Only our own elements, which no XML answer has, are left out.
    """
    assert _mirror(answer.json) == _plain(mirrored.xml)


def _plain(element: etree._Element) -> object:
    if not len(element) and str(element.tag) not in ("publishImages", "statuses"):
        return element.text
    typed = [("@type", str(element.get(XSI_TYPE)).partition(":")[2])] if element.get(XSI_TYPE) else []
    return typed + [(str(child.tag), _plain(child)) for child in element]


def _mirror(value: Any, name: str = "") -> object:
    if isinstance(value, dict):
        pairs: list[tuple[str, object]] = []
        for key, each in value.items():
            if key in JSON_ONLY:
                continue
            pairs += [(key, _mirror(item)) for item in each] if isinstance(each, list) else [(key, _mirror(each, key))]
        return pairs
    if name in BOOLEANS:
        assert isinstance(value, bool)
        return str(value).lower()
    if name in NUMBERS:
        assert isinstance(value, int)
        assert not isinstance(value, bool)
        return str(value)
    assert isinstance(value, str)
    return value


def check(service: Service, path: str, root: str, login: str | None = "alice") -> Answer:
    answer = service.get(path, login=login)
    assert answer.status == 200
    check_xml(answer, root)
    mirrored = service.get(path, login=login, accept=JSON)
    if b"<eta>" not in answer.body:
        check_json(mirrored, answer)
    return answer


def progressed(service: Service) -> Iterator[Ticket]:
    """Yield one ticket after each step, then other tickets that end in different ways."""
    store: Store = service.store
    ticket = service.publish()
    yield ticket
    claim = service.claim(ticket)
    yield service.ticket(ticket.id)
    for phase in (Phase.AUTHENTICATING, Phase.UPLOADING):
        store.leases.phase(claim, phase, "on it")
        yield service.ticket(ticket.id)
    for sent in (1, IMAGE_SIZE // 3, IMAGE_SIZE):
        store.leases.renew(claim, 60.0, sent=sent)
        yield service.ticket(ticket.id)
    store.leases.published(claim, cloud_id="c1", location="http://cloud/v2/images/c1")
    yield service.ticket(ticket.id)
    failing = service.claim(service.publish())
    store.leases.retry(failing, delay_seconds=0.0, error="Glance was away")
    yield service.ticket(failing.ticket.id)
    failing = service.claim(failing.ticket)
    store.leases.failed(failing, error="No project \x00 <nowhere> & \U0001f600", detail="HTTP 404\n\x1b[31m")
    yield service.ticket(failing.ticket.id)
    silent = service.claim(service.publish())
    store.leases.failed(silent, error="")
    yield service.ticket(silent.ticket.id)
    yield store.tickets.request_cancel(service.publish().id)
    cancelling = service.claim(service.publish())
    yield store.tickets.request_cancel(cancelling.ticket.id)
    store.leases.cancelled(cancelling)
    yield service.ticket(cancelling.ticket.id)
    remove_image(store, 21)
    yield service.ticket(ticket.id)


@pytest.mark.long
def test_answers_follow_the_contract_in_every_ticket_state(fresh: Service) -> None:
    for ticket in progressed(fresh):
        path = ticket_path(ticket)
        check(fresh, path, "publishImage")
        check(fresh, f"{path}/status", "status")
        check(fresh, FLAT, "publishImages")
        check(fresh, f"{FLAT}/statuses", "statuses")


def test_service_status_shows_version_and_load(service: Service) -> None:
    answer = check(service, "status", "serviceStatus", login=None)
    assert [(child.tag, child.text) for child in answer.xml] == [
        ("alive", "true"),
        ("version", "3.8.13"),
        ("serviceLoad", "0"),
    ]


def test_empty_list_has_zero_total_and_an_empty_wrapper(fresh: Service) -> None:
    for path, wrapper in ((FLAT, "publishImages"), (f"{FLAT}/statuses", "statuses")):
        answer = check(fresh, path, wrapper)
        assert [child.tag for child in answer.xml] == ["total", wrapper]
        assert answer.text("total") == "0"
        assert fresh.get(path, login="alice", accept=JSON).json["total"] == 0


def test_list_has_the_tickets_of_its_appliance_in_order(fresh: Service) -> None:
    made = [fresh.publish().id for _ in range(3)]
    fresh.publish(image=22)
    for path, items in ((FLAT, "publishImages/publishImage"), (f"{FLAT}/statuses", "statuses/status")):
        answer = fresh.get(path, login="alice")
        assert answer.text("total") == "3"
        assert [int(str(item.findtext("dbId"))) for item in answer.xml.iterfind(items)] == made
        wrapper, item = items.split("/")
        assert [each["dbId"] for each in fresh.get(path, login="alice", accept=JSON).json[wrapper][item]] == made


@pytest.mark.parametrize("accept", [XML, JSON])
def test_post_answers_with_the_document_at_its_location(service: Service, accept: str) -> None:
    answer = service.post(NESTED, xml_body(image=None), login="alice", accept=accept)
    assert answer.status == 201
    if accept == XML:
        check_xml(answer, "publishImage")
    location = answer.headers["location"]
    assert re.fullmatch(rf"http://testserver/api/{NESTED}/\d+", location)
    again = service.get(location.removeprefix("http://testserver"), login="alice", accept=accept)
    assert (again.status, again.body) == (200, answer.body)


def test_ticket_document_has_the_expected_values(service: Service) -> None:
    ticket = service.publish(xml_body(image=None, parentUri="users/alice/appliances/14"))
    told = service.get(ticket_path(ticket), login="alice", accept=JSON).json
    path = ticket_path(ticket)
    assert told["dbId"] == ticket.id
    assert told["uri"] == path
    assert told["statusUri"] == told["status"]["uri"] == f"{path}/status"
    assert told["status"]["parentUri"] == path
    assert told["parentUri"] == "users/alice/appliances/14"
    assert told["imageUri"] == "users/alice/appliances/14/images/21"
    assert "applianceUri" not in told
    assert told["name"] == told["displayName"] == "A machine image"
    assert (told["size"], told["fileSize"]) == (IMAGE_SIZE, IMAGE_SIZE)
    assert (told["md5sum"], told["sha256sum"]) == ("5" * 32, "2" * 64)
    assert told["status"]["message"] == "Queued"
    account = told["credAccount"]
    assert account["secretsMissing"] is True
    assert account["targetPlatform"] == {"dbId": 101, "name": "openstack", "type": "openstack"}
    assert told["targetFormat"] == {
        "dbId": 101315,
        "name": "openstack",
        "format": {"dbId": 315, "name": "openstackqcow2"},
        "type": "cloud",
    }
    assert told["format"] == told["targetFormat"]["format"]
    assert (account["login"], account["keystoneVersion"]) == ("demo", "v3")


def test_a_ticket_is_readable_after_its_image_was_deleted(fresh: Service) -> None:
    ticket = fresh.publish()
    remove_image(fresh.store, 21)
    told = check(fresh, ticket_path(ticket), "publishImage")
    assert told.text("imageUri") == "users/alice/appliances/14/images/21"
    assert told.text("fileSize") is None
    assert told.text("targetFormat/name") is None


@pytest.mark.long
def test_no_answer_shows_a_secret(fresh: Service) -> None:
    """No answer shows the password, plain or sealed, whatever format the request had."""
    answers = [
        fresh.post(NESTED, body, login="alice", content_type=kind, accept=accept)
        for body, kind in ((xml_body(image=None), XML), (json_body(image=None), JSON))
        for accept in (XML, JSON)
    ]
    assert [answer.status for answer in answers] == [201] * 4
    assert all(b"secretsMissing" in answer.body for answer in answers)
    for ticket in fresh.store.tickets.list():
        assert ticket.sealed_secrets
        for path in (ticket_path(ticket), f"{ticket_path(ticket)}/status", FLAT, f"{FLAT}/statuses"):
            answers += [fresh.get(path, login="alice", accept=accept) for accept in (XML, JSON)]
        hidden = [SECRET.encode(), ticket.sealed_secrets, b"<password", b'"password"', PASSWORDS["alice"].encode()]
        for answer in answers:
            assert answer.status in (200, 201)
            assert not any(secret in answer.body for secret in hidden)
            assert not any(secret.decode() in str(answer.headers) for secret in hidden)


def test_database_holds_only_the_sealed_secret(fresh: Service) -> None:
    fresh.publish()
    for file in fresh.settings.data_dir.iterdir():
        assert SECRET.encode() not in file.read_bytes()


def test_error_document_is_complete_in_both_formats(service: Service) -> None:
    answer = service.post(f"{NESTED}?signature=abc", "<", login="alice")
    check_xml(answer, "uforgeError")
    assert answer.text("requestMethod") == "POST"
    # Without the query string, because it may contain a signature.
    assert answer.text("requestUri") == f"/api/{NESTED}"
    assert answer.text("statusCode") == "400"
    assert answer.text("localizedErrorMsg/messageId") == "InvalidRequest"
    check_json(
        Answer(400, {}, re.sub(rb'"timestamp":"[^"]*"', b'"timestamp":"T"', answer_json(service).body)),
        Answer(400, {}, re.sub(rb"<timestamp>.*</timestamp>", b"<timestamp>T</timestamp>", answer.body)),
    )


def answer_json(service: Service) -> Answer:
    return service.post(NESTED, "<", login="alice", accept=JSON)
