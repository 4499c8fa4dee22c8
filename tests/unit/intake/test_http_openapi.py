"""The OpenAPI document, its examples, and the page that shows it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import jsonschema_rs
import pytest
from lxml import etree

from publisher.intake import openapi_examples
from publisher.intake.openapi import document, resources
from publisher.intake.wire.formats import Format
from publisher.intake.wire.reading import read_document
from publisher.intake.wire.writing import write_document
from publisher.web.request import API
from publisher.web.routing import Router
from tests.patience import PATIENCE
from tests.servers import missing
from tests.service import JSON, SECRET, XML, Service, real_server


@pytest.fixture(scope="module")
def served(service: Service) -> dict[str, Any]:
    answer = service.get("openapi.json", login=None)
    assert (answer.status, answer.headers["content-type"]) == (200, JSON)
    made: dict[str, Any] = answer.json
    return made


# The routes -------------------------------------------------------------------------------------------------------


def test_every_route_of_the_api_is_in_the_document(service: Service, served: dict[str, Any]) -> None:
    routes = [
        f"{method} {re.sub(r'{[^}]*}', '{}', route.path)}"
        for route in service.app.routes
        if route.path.startswith(f"{API}/")
        for method in route.methods
    ]
    paths = served["paths"].items()
    shown = {f"{method.upper()} {API}{re.sub(r'{[^}]*}', '{}', path)}" for path, methods in paths for method in methods}
    assert len(routes) == len(set(routes)), "a path has one route for each method"
    assert set(routes) == shown


def test_a_route_without_a_declaration_is_refused() -> None:
    router = Router()

    @router.get("/users")
    async def undeclared() -> None: ...

    declared, undescribed = Router(), Router()
    declared.include(router, API)
    undescribed.include(router)
    with pytest.raises(LookupError, match="undeclared"):
        document(declared.routes)
    assert document(undescribed.routes)["paths"] == {}, "only the API's routes are declared"


# The document -----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_document_is_valid(served: dict[str, Any]) -> None:
    import schemathesis  # here, because it is slow and every process collects this file

    schemathesis.openapi.from_dict(served).validate()
    operations = [operation for methods in served["paths"].values() for operation in methods.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    for reference in re.findall(r'"\$ref": ?"#/([^"]+)"', json.dumps(served)):
        found: Any = served
        for part in reference.split("/"):
            found = found[part]


def contents(node: Any) -> list[tuple[dict[str, Any], str]]:
    """Return the media types of each document, with "Request" for a request and "" for an answer."""
    found = []
    for methods in node["paths"].values():
        for operation in methods.values():
            if "requestBody" in operation:
                found.append((operation["requestBody"]["content"], "Request"))
            found += [(each["content"], "") for each in operation["responses"].values() if "content" in each]
    found += [(each["content"], "") for each in node["components"]["responses"].values()]
    return [(content, kind) for content, kind in found if {XML, JSON} <= set(content)]


@pytest.mark.long
def test_examples_are_valid(served: dict[str, Any], answers_schema: etree.XMLSchema) -> None:
    seen = set()
    for content, kind in contents(served):
        for media_type in (XML, JSON):
            assert content[media_type]["schema"]["$ref"] == content[JSON]["schema"]["$ref"]
        root = content[JSON]["schema"]["$ref"].rpartition("/")[2]
        assert root.endswith("Request") == bool(kind)
        xml = etree.fromstring(content[XML]["example"].encode())
        answers_schema.assertValid(xml)
        assert etree.QName(xml).localname == content[XML]["schema"]["xml"]["name"] == root.removesuffix("Request")
        validator(served, root).validate(content[JSON]["example"])
        if kind:
            for form, text in (
                (Format.XML, content[XML]["example"]),
                (Format.JSON, json.dumps(content[JSON]["example"])),
            ):
                name = root.removesuffix("Request")
                assert read_document(text.encode(), form, name) == openapi_examples.REQUESTS[name]
        seen.add(root)
    roots = set(openapi_examples.ANSWERS) | {f"{root}Request" for root in openapi_examples.REQUESTS} | {"uforgeError"}
    assert seen == roots


def validator(document: dict[str, Any], name: str) -> Any:
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": document["components"]}, validate_formats=True
    )


def test_schemas_reject_invalid_documents(served: dict[str, Any]) -> None:
    answer = json.loads(write_document(Format.JSON, "publishImage", openapi_examples.ANSWERS["publishImage"]))
    wrong: list[dict[str, Any]] = [
        {"@type": "PublishImageAws"},
        {"@type": None},
        {"unknown": 1},
        {"size": "1"},
        {"created": "yesterday"},
        {"credAccount": answer["credAccount"] | {"password": SECRET}},
        {"credAccount": answer["credAccount"] | {"@type": "CredAccountAws"}},
        {"status": answer["status"] | {"percentage": 101}},
        {"applianceUri": "users/root/appliances/4"},
    ]
    assert validator(served, "publishImage").is_valid(answer)
    for change in wrong:
        assert not validator(served, "publishImage").is_valid(answer | change), change
    request = json.loads(
        write_document(Format.JSON, "publishImage", openapi_examples.REQUESTS["publishImage"], request=True)
    )
    assert validator(served, "publishImageRequest").is_valid(request | {"unknown": 1})
    for change in ({"credAccount": {"dbId": "x"}}, {"publicImage": "true"}, {"displayName": "x" * 4097}):
        assert not validator(served, "publishImageRequest").is_valid(request | change), change


def test_secrets_are_only_in_request_schemas(served: dict[str, Any]) -> None:
    schemas = served["components"]["schemas"]
    for name in ("password", "secretAccessKeyId", "applicationKey", "secretApiKey", "token", "content"):
        having = {key: each["properties"][name] for key, each in schemas.items() if name in each.get("properties", {})}
        assert having
        for key, each in having.items():
            assert key.endswith("Request")
            assert each["writeOnly"] is True


def test_document_and_page_are_public_and_cached(service: Service) -> None:
    for path in ("openapi.json", "/docs", "/docs/swagger-ui.css"):
        answer = service.get(path, login=None, accept="image/png")
        assert answer.status == 200
        assert service.get(path, login=None, headers={"If-None-Match": answer.headers["etag"]}).status == 304
        assert "last-modified" in answer.headers


# The page ---------------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline = ""
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href") and value]
        self._in_script = tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        self.inline += data.strip() if self._in_script else ""

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False


def test_page_loads_only_our_own_files(service: Service) -> None:
    page = service.get("/docs", login=None)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    links = Links()
    links.feed(page.body.decode())
    assert len(links.found) == 4
    assert links.inline == "", "the policy lets no script run that stands in the page"
    for link in links.found:
        path = urljoin("http://here/docs", link)
        assert urlsplit(path).netloc == "here"
        asset = service.get(urlsplit(path).path, login=None)
        assert asset.status == 200
        kind = {"js": "text/javascript", "css": "text/css", "png": "image/png"}[path.rpartition(".")[2]]
        assert asset.headers["content-type"].partition(";")[0] == kind
        assert asset.headers["x-content-type-options"] == "nosniff"
    start = service.get("/docs/start.js", login=None).body.decode()
    (url,) = re.findall(r'url: "([^"]+)"', start)
    assert urljoin("http://here/docs", url) == "http://here/api/openapi.json"
    style = service.get("/docs/swagger-ui.css", login=None).body.decode()
    assert not re.findall(r"@import|url\((?![\"']?(?:data:|#))", style)


@pytest.mark.parametrize("name", ["nothing", "__init__.py", "..%2fmain.py", "%2e%2e/main.py", "swagger-ui.css/x", ""])
def test_other_files_are_not_served(service: Service, name: str) -> None:
    assert service.get(f"/docs/{name}", login=None).status == 404


@pytest.mark.real
def test_browser_shows_all_operations(service: Service, filled_template: Path, tmp_path: Path) -> None:
    """The browser can resolve no other host, and it requests nothing from one."""
    chromium = shutil.which("chromium") or missing("Chromium")
    shutil.copyfile(filled_template, tmp_path / "publisher.db")
    with real_server(tmp_path) as process:
        dom, asked = browse(chromium, f"http://127.0.0.1:{process.port}", tmp_path)
    text = re.sub("<[^>]+>|\u200b", "", dom)
    assert "/users/{uid}/appliances/{aid}/pimages" in text
    assert "Failed to load" not in text
    operations = set(re.findall(r'id="(operations-(?!tag-)[^"]+)"', dom))
    assert len(operations) == len(resources(service.app.routes))
    assert {"/api/openapi.json", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"} <= {each.path for each in asked}
    assert {each.hostname for each in asked} == {"127.0.0.1"}


def browse(chromium: str, base: str, directory: Path) -> tuple[str, list[SplitResult]]:
    """Return the page's DOM in Chromium, and every URL that the page requested."""
    log = directory / "net.json"
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
        *("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", f"--user-data-dir={directory / 'profile'}"),
        *(f"--log-net-log={log}", "--virtual-time-budget=20000", "--dump-dom", f"{base}/docs"),
    ]
    shown = subprocess.run(command, capture_output=True, timeout=120 * PATIENCE, check=True)
    parameters = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    asked = [urlsplit(each["url"]) for each in parameters if each.get("initiator") == base]
    return shown.stdout.decode(), asked
