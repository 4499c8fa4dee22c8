"""The alert rules and the dashboard: they load, they fire, and what they ask for is served."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import publisher.intake.request_metrics as observing  # what the intake counts is declared by now
import workers.metrics as worker_metrics  # and what a worker does
from publisher.store import Store
from publisher.telemetry.metrics import exposition
from publisher.telemetry.store_metrics import store_registry
from tests.patience import PATIENCE
from tests.servers import missing
from tests.unit.deploy.files import REPOSITORY

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "dashboard.json"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
DECLARED = (observing, worker_metrics)


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool") or missing("promtool")
    done = subprocess.run([program, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", "alerts.yml")


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", "alerts_test.yml")


def test_each_alert_has_a_test_of_either_kind() -> None:
    fires: dict[str, set[bool]] = {rule["alert"]: set() for rule in RULES}
    for each in yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]:
        for one in each["alert_rule_test"]:
            fires[one["alertname"]].add(bool(one.get("exp_alerts")))
    assert {name: kinds for name, kinds in fires.items() if kinds != {True, False}} == {}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_each_alert_leads_to_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    file, anchor = rule["annotations"]["runbook"].split("#")
    headings = re.findall(r"^#+ (.+)$", (REPOSITORY / file).read_text(), re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}


def served(store: Store) -> Iterator[tuple[str, str]]:
    """Name and help of each series that can be: of those with labels, before any is there, as well."""
    text = exposition(store_registry(store, 20.0)).decode()
    for family in text_string_to_metric_families(text):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        for suffix in suffixes:
            yield family.name + suffix, family.documentation


def asked_for() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [rule["expr"] for rule in RULES] + [target["expr"] for panel in panels for target in panel["targets"]]


def test_what_they_ask_for_is_served(sqlite_store: Store) -> None:
    found = dict(served(sqlite_store))
    assert all(found.values()), "each has a help text"
    names = {name for expression in asked_for() for name in re.findall(r"\b(?:publisher|process)_\w+", expression)}
    assert len(names) > 20
    assert names - set(found) == set()


def test_labels_that_they_ask_for_have_the_values_that_are_served() -> None:
    from publisher.core.errors import Reason
    from publisher.core.ticket import State
    from publisher.store.fleet import WorkerState

    known = {
        "reason": set(Reason),
        "state": {*State, *WorkerState, "waiting", "failed"},
        "window": {"1h", "24h"},
        "seen_by": {"holder", "successor"},
    }
    for expression in asked_for():
        for label, values in re.findall(r'(\w+)=~?"([^"]+)"', expression):
            if label in known:
                assert set(values.split("|")) <= {str(each) for each in known[label]}, expression


def test_the_dashboard_is_one_that_grafana_loads() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert {"title", "uid", "panels", "schemaVersion", "templating"} <= set(dashboard)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        place = panel["gridPos"]
        assert 0 <= place["x"] <= 24 - place["w"]
