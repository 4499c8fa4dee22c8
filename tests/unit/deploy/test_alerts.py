"""The alert rules and the dashboard: they load, the alerts fire, and every metric they query is served."""

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

import publisher.intake.middleware as observing  # declares the metrics of the intake
import workers.metrics as worker_metrics  # declares the metrics of a worker
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


@pytest.mark.long
def test_alerts_pass_their_promtool_tests() -> None:
    promtool("test", "rules", "alerts_test.yml")


def test_each_alert_has_a_test_that_fires_and_one_that_does_not() -> None:
    fires: dict[str, set[bool]] = {rule["alert"]: set() for rule in RULES}
    for each in yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]:
        for one in each["alert_rule_test"]:
            fires[one["alertname"]].add(bool(one.get("exp_alerts")))
    assert {name: kinds for name, kinds in fires.items() if kinds != {True, False}} == {}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_each_alert_links_to_an_existing_runbook(rule: dict[str, Any]) -> None:
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    file, anchor = rule["annotations"]["runbook"].split("#")
    headings = re.findall(r"^#+ (.+)$", (REPOSITORY / file).read_text(), re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}


def served(store: Store) -> Iterator[tuple[str, str]]:
    """Yield name and help of every possible series, even of labelled ones that have no value yet."""
    text = exposition(store_registry(store, 20.0)).decode()
    for family in text_string_to_metric_families(text):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        for suffix in suffixes:
            yield family.name + suffix, family.documentation


def asked_for() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [rule["expr"] for rule in RULES] + [target["expr"] for panel in panels for target in panel["targets"]]


def test_every_queried_metric_is_served(sqlite_store: Store) -> None:
    found = dict(served(sqlite_store))
    assert all(found.values()), "each has a help text"
    names = {name for expression in asked_for() for name in re.findall(r"\b(?:publisher|process)_\w+", expression)}
    assert len(names) > 20
    assert names - set(found) == set()


def test_every_queried_label_value_exists() -> None:
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


def test_dashboard_has_the_structure_that_grafana_needs() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert {"title", "uid", "panels", "schemaVersion", "templating"} <= set(dashboard)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        place = panel["gridPos"]
        assert 0 <= place["x"] <= 24 - place["w"]
