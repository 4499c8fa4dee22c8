"""Names that are made from a template."""

import pytest

from publisher.core.errors import InvalidRequest
from publisher.core.name_template import PLACEHOLDERS, expand, placeholders


def test_each_placeholder_becomes_its_value() -> None:
    template = "-".join(f"{{{name}}}" for name in PLACEHOLDERS)
    assert placeholders(template, "nameTemplate") == set(PLACEHOLDERS)
    assert expand(template, {name: name.upper() for name in PLACEHOLDERS}) == "-".join(PLACEHOLDERS).upper()


def test_a_template_without_placeholders_is_the_name() -> None:
    assert placeholders("web", "nameTemplate") == frozenset()
    assert expand("web", {}) == "web"


def test_braces_in_a_value_are_no_placeholders() -> None:
    assert expand("{name}", {"name": "{id} {"}) == "{id} {"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{nmae}", r"nameTemplate: '\{nmae\}' is unknown; use \{name\}, \{id\}"),
        ("{}", r"nameTemplate: '\{\}' is unknown"),
        ("{name.__class__}", "is unknown"),
        ("{name!r}", "is unknown"),
        ("{name", "nameTemplate: has a brace that belongs to no placeholder"),
        ("name}", "has a brace"),
        ("{{name}}", "has a brace"),
    ],
)
def test_what_is_no_placeholder_is_refused(template: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        placeholders(template, "nameTemplate")
