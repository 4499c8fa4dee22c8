"""A client that knows only the API's XML Schema: its classes are generated from it and refuse anything else.

It also refuses what is known to break existing clients but no schema can express: names outside the API's own
enumerations, and objects without an element that these clients use.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from lxml import etree
from xsdata.formats.dataclass.models.generics import DerivedElement
from xsdata.formats.dataclass.parsers import XmlParser
from xsdata.formats.dataclass.parsers.config import ParserConfig
from xsdata.formats.dataclass.serializers import XmlSerializer

from tests.patience import PATIENCE
from tests.stack import Stack

XML = "application/xml"
UFORGE = "http://www.usharesoft.com/uforge"
SECRET = "what-no-answer-shows"

PLATFORMS = {
    "openstack", "susecloud", "cloudwatt", "k5", "aws", "outscale", "azure", "google", "docker", "openshift", "vsphere",
    "vclouddirector", "cloudstack", "oracle",
}  # fmt: skip
FORMATS = {
    "aws", "azure", "cloudstackova", "cloudstackqcow2", "cloudstackvhd", "docker", "esx", "google", "hyper-v", "ISO",
    "kvm", "k5vmdk", "lxc", "openshift", "openstackqcow2", "openstackvdi", "openstackvhd", "openstackvmdk", "outscale",
    "oracleraw", "ovf", "PXE", "qcow2", "raw",
}  # fmt: skip
TARGET_TYPES = {"cloud", "virtual", "physical", "container"}
BUILDERS = {
    "openstack": {"openstackqcow2", "openstackvdi", "openstackvhd", "openstackvmdk"},
    "azure": {"azure"},
    "cloudstack": {"cloudstackova", "cloudstackqcow2", "cloudstackvhd"},
    "google": {"google"},
    "k5": {"k5vmdk"},
    "oracle": {"oracleraw"},
    "vsphere": {"esx"},
}
"""The formats that the client can build for each cloud. Any other is an "unknown builder type"."""

_OBJECT = ["created", "dbId", "digest", "lastModified"]
NEEDED: dict[str, list[str]] = {
    "targetPlatform": ["dbId", "name", "type"],
    "targetFormat": ["dbId", "name", "format/dbId", "format/name", "type"],
    "credAccount": ["targetPlatform"],
    "image": [*_OBJECT, "name", "fileSize", "size", "status/message", "uri", "parentUri", "format", "targetFormat"],
    "publishImage": [*_OBJECT, "name", "status/message", "imageUri", "credAccount", "uri", "statusUri"],
    "appliance": [*_OBJECT, "distributionName", "archName", "name", "version", "uri"],
    "status": ["message", "percentage", "complete", "error", "cancelled"],
    "role": [*_OBJECT, "name", "entitlements"],
    "apiKeyPair": [*_OBJECT, "name", "publicKey", "uri"],
    "user": ["created", "dbId", "digest", "loginName", "uri"],
}
"""Elements that the client uses without checking that they exist."""
LISTED = {
    "targetPlatform": [*_OBJECT, "access", "uri"],
    "targetFormat": [*_OBJECT, "access", "uri"],
    "credAccount": [*_OBJECT, "name", "uri"],
}
"""Further elements that the client needs in objects of a list."""


@contextmanager
def bound_classes(schema: bytes, directory: Path) -> Iterator[ModuleType]:
    """Generate classes from the schema and yield their module."""
    (directory / "uforge.xsd").write_bytes(schema)
    tools = Path(sys.executable).parent  # the generator calls ruff for the layout
    made = subprocess.run(
        [tools / "xsdata", "generate", "uforge.xsd", "--package", "uforge_bound", "--structure-style",
         "single-package"],
        cwd=directory,
        env=os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"},
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(directory)
        yield importlib.import_module("uforge_bound")
        sys.modules.pop("uforge_bound", None)


class Refused(AssertionError):
    """An answer that the client cannot use."""


@dataclass
class StrictClient:
    """A client of the service that sends and receives objects of the bound classes."""

    stack: Stack
    bound: ModuleType

    def __post_init__(self) -> None:
        strict = ParserConfig(
            fail_on_unknown_properties=True, fail_on_unknown_attributes=True, fail_on_converter_warnings=True
        )
        self._parser = XmlParser(config=strict)
        served = self.stack.call("GET", "schema/uforge.xsd", login=None, accept=XML)
        self._schema = etree.XMLSchema(etree.fromstring(served.body))

    def parse(self, body: bytes, kind: str) -> Any:
        """Check validity (the classes ignore order and empty dateTimes) and completeness, then bind the document."""
        root = etree.fromstring(body)
        self._schema.assertValid(root)
        check_usable(root)
        return self.bind(body, kind)

    def bind(self, body: bytes, kind: str) -> Any:
        made = self._parser.from_bytes(body, getattr(self.bound, kind))
        # An object of a concrete type under the abstract type's name comes wrapped.
        return made.value if isinstance(made, DerivedElement) else made

    def get(self, path: str, kind: str, status: int = 200, **options: Any) -> Any:
        answer = self.stack.call("GET", path, accept=XML, **options)
        assert answer.status == status, (path, answer.body)
        assert answer.headers["Content-Type"] == XML
        return self.parse(answer.body, kind)

    def delete(self, path: str) -> None:
        answer = self.stack.call("DELETE", path, accept=XML)
        assert (answer.status, answer.body) == (204, b"")

    def refused(self, method: str, path: str, status: int, body: bytes | None = None, **options: Any) -> Any:
        answer = self.stack.call(method, path, body, **({"accept": XML} | options))
        assert answer.status == status, answer.body
        error = self.parse(answer.body, "UforgeError")
        assert (error.status_code, error.request_method) == (status, method)
        assert error.localized_error_msg.message
        assert error.request_uri
        assert error.timestamp
        return error

    def post(self, path: str, body: bytes, kind: str) -> Any:
        answer = self.stack.call("POST", path, body, accept=XML)
        assert answer.status == 201, answer.body
        made = self.parse(answer.body, kind)
        assert answer.headers["Location"].endswith(f"/api/{made.uri}")
        return made

    def render(self, document: Any, root: str) -> bytes:
        """Render as the client library does: with the abstract type's name and `xsi:type`."""
        named = DerivedElement(f"{{{UFORGE}}}{root}", document, f"{{{UFORGE}}}{type(document).__name__}")
        return XmlSerializer().render(named).encode()

    def builder(self, image: Any) -> str:
        """Return the format name by which the client selects how to publish an image."""
        name = str(image.target_format.format.name)
        assert name in BUILDERS["openstack"], f"unknown builder type: {name}"
        return name

    def wait(self, ticket: Any, seconds: float = 60 * PATIENCE) -> Any:
        """Poll until the ticket has ended, like a caller; `complete` is checked first."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = self.get(ticket.status_uri, "Status")
            assert status.message
            assert 0 <= status.percentage <= 100
            if status.complete or status.error or status.cancelled:
                return status
            time.sleep(0.05)
        raise AssertionError(f"ticket {ticket.db_id} has not ended within {seconds} s")


def check_usable(root: etree._Element) -> None:
    """Raise `Refused` for a name that the API does not have, or an object without an element that the client uses."""
    if etree.QName(root).localname.endswith("s") and root.find("total") is not None:
        (wrapper,) = (each for each in root if each.tag != "total")
        for item in wrapper:
            _check_there(item, LISTED.get(str(item.tag), []))
    for element in root.iter():
        name = etree.QName(element).localname
        _check_there(element, NEEDED.get(name, []) if len(element) else [])
        if name == "targetPlatform":
            _check_name(element, "name", PLATFORMS)
            _check_name(element, "type", PLATFORMS)
        if name == "targetFormat":
            _check_name(element, "type", TARGET_TYPES)
            target = element.findtext("name") or ""
            _check_name(element, "format/name", BUILDERS.get(target, FORMATS))
            if target not in BUILDERS and element.findtext("type") == "cloud":
                _check_name(element, "name", PLATFORMS)
        if name == "format":
            _check_name(element, "name", FORMATS)
        if name == "status" and element.findtext("error") == "true":
            _check_there(element, ["errorMessage"])


def _check_there(element: etree._Element, paths: list[str]) -> None:
    missing = [path for path in paths if element.find(path) is None]
    if missing:
        raise Refused(f"{element.tag} lacks {', '.join(missing)}: {etree.tostring(element).decode()}")


def _check_name(element: etree._Element, path: str, known: set[str]) -> None:
    found = element.findtext(path)
    if found not in known:
        raise Refused(f"{element.tag}/{path}: {found!r} is none of {', '.join(sorted(known))}")
