"""Templates to HTML. Whatever they are given is escaped."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from publisher.console import BASE, formats, passwords
from publisher.console.elements import platform_label
from publisher.version import __version__


@cache
def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("publisher.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        size=formats.size,
        rate=formats.rate,
        duration=formats.duration,
        moment=formats.moment,
        plural=formats.plural,
        spelled=formats.spelled,
        site=formats.site,
        segments=formats.segments,
        platform=platform_label,
    )
    made.globals.update(base=BASE, static=static, version=__version__, password_min=passwords.MIN)
    return made


def render(template: str, /, **context: object) -> str:
    return environment().get_template(template).render(context)


@cache
def static(name: str) -> str:
    """The path of a style sheet or script, which changes with its content."""
    digest = hashlib.sha256(files("publisher.console").joinpath("static", name).read_bytes()).hexdigest()
    return f"{BASE}/static/{name}?v={digest[:12]}"
