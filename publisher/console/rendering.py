"""Render templates to HTML. All values are escaped."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from publisher.console import BASE, new_password, template_filters
from publisher.console.form_fields import platform_label
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
        size=template_filters.size,
        rate=template_filters.rate,
        duration=template_filters.duration,
        moment=template_filters.moment,
        plural=template_filters.plural,
        spelled=template_filters.spelled,
        site=template_filters.site,
        segments=template_filters.segments,
        platform=platform_label,
    )
    made.globals.update(base=BASE, static=static, version=__version__, password_min=new_password.MIN)
    return made


def render(template: str, /, **context: object) -> str:
    return environment().get_template(template).render(context)


@cache
def static(name: str) -> str:
    """Return the path of a style sheet or script, which changes with its content."""
    digest = hashlib.sha256(files("publisher.console").joinpath("static", name).read_bytes()).hexdigest()
    return f"{BASE}/static/{name}?v={digest[:12]}"
