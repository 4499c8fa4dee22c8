"""Flower's configuration file, a program that Flower runs at its start (`--conf`).

It sets how Flower shows our tasks, adds a link back to the console, and makes every page ask for the login. Flower's
environment sets everything else.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

from flower.urls import settings as application_settings
from flower.views.monitor import Healthcheck, Metrics
from tornado.web import TemplateModule, authenticated

from publisher.core.settings import Settings
from publisher.services.wakeups import CHECK_TASK, PUBLISH_TASK, REGISTER_TASK

CONSOLE = f"{Settings.from_environment().intake}/console"
NOUNS = {PUBLISH_TASK: "ticket", REGISTER_TASK: "image", CHECK_TASK: "check"}


def format_task(task: Any) -> Any:
    """Format a copy of a task for Flower: its name is `ticket 17`, and one column shows how it went."""
    noun, number = NOUNS.get(task.name), re.fullmatch(r"\((\d+),\)", task.args or "")
    if noun and number:
        task.args = f"{noun} {number[1]}"
    task.result = (task.result or task.exception or "").strip("'")
    return task


class WithLink(TemplateModule):
    """Tornado's module for a page's parts, which adds a link to the end of each page."""

    def html_body(self) -> str:
        link = f'<a href="{escape(CONSOLE)}">Image publisher: the console</a>'
        return f'{super().html_body()}<footer class="text-center small py-2">{link}</footer>'


application_settings["ui_modules"] = {"Template": WithLink}

# Flower asks for its login everywhere but in these handlers.
for handler in (Metrics, Healthcheck):
    handler.get = authenticated(handler.get)
