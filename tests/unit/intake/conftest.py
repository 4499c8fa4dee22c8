"""An intake that the tests of a module share, and a check of each of its answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from publisher.intake.wire import xsd
from tests.service import SCHEMA_TAG, Answer, Service, serving


@pytest.fixture(scope="module")
def service(filled_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An intake that the tests of a module share. Each test must expect tickets of other tests."""
    directory = tmp_path_factory.mktemp("intake")
    shutil.copyfile(filled_template, directory / "publisher.db")
    with serving(directory) as made:
        yield made


@pytest.fixture(scope="session")
def answers_schema() -> etree.XMLSchema:
    """The XML schema that the service serves."""
    return etree.XMLSchema(etree.fromstring(xsd.document()))


@pytest.fixture(autouse=True, scope="session")
def answers_are_valid(answers_schema: etree.XMLSchema) -> Iterator[None]:
    """Check that a client bound to the API's schema can read every XML answer.

    Answers with extensions are checked against the extended schema. So are answers to POST, because they may be about a
    platform that the API does not know.
    """
    call = Service.call
    extended_schema = etree.XMLSchema(etree.fromstring(xsd.document(extended=True)))

    @wraps(call)
    def validated_call(*arguments: Any, **options: Any) -> Answer:
        answer = call(*arguments, **options)
        body_wanted = answer.status in (200, 201) or 400 <= answer.status < 500
        if body_wanted and answer.body and "xml" in answer.headers.get("content-type", ""):
            root = etree.fromstring(answer.body)
            if root.tag != SCHEMA_TAG:
                _, method, path = arguments
                extended = method == "POST" or "extensions=true" in path
                (extended_schema if extended else answers_schema).assertValid(root)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Service, "call", validated_call)
        yield
